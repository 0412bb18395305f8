"""README and the pages of docs/ as text: their links, anchors and blocks of code.

    python -m tests.support.docs_pages

lists the addresses elsewhere that the pages name, with the pages; nothing is fetched.
"""

from __future__ import annotations

import collections
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
_LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.M)
_ADDRESS = re.compile(r"https?://[^\s)\"'`>|<}]+")
_FENCE = re.compile(
    r"(?:^<!-- not run: (.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.M | re.S
)
_NOT_RUN = re.compile(r"<!-- not run\b")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
      language: "bash", "python", ...
      text: what it holds.
      not_run: why no test runs it, or "".
    """

    language: str
    text: str
    not_run: str


def links(path: Path) -> list[str]:
    """Returns the targets of a page's links and pictures."""
    text = re.sub(r"`[^`\n]*`", "code", path.read_text(encoding="utf-8"))
    return [inline or defined for inline, defined in _LINK.findall(text)]


def anchor(heading: str) -> str:
    """Returns the anchor of a heading, on GitHub and on the pages of `make docs`."""
    plain = re.sub(r"[^\w\s-]", "", heading.strip().lower())
    return plain.replace(" ", "-")


def anchors(path: Path) -> set[str]:
    """Returns the anchors of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)}


def blocks(path: Path) -> list[Block]:
    """Returns the fenced blocks of a page, in order.

    Raises:
      ValueError: a mark "not run" that stands before no block.
    """
    text = path.read_text(encoding="utf-8")
    found = [Block(kind, code, why) for why, kind, code in _FENCE.findall(text)]
    if len(_NOT_RUN.findall(text)) != sum(bool(block.not_run) for block in found):
        raise ValueError(f"{path} has a mark 'not run' that stands before no block.")
    return found


def addresses() -> dict[str, list[str]]:
    """Returns addresses elsewhere -> pages that name them."""
    found = collections.defaultdict(list)
    for path in PAGES:
        for address in sorted(set(_ADDRESS.findall(path.read_text(encoding="utf-8")))):
            found[address.rstrip(".,;:")].append(str(path.relative_to(ROOT)))
    return dict(sorted(found.items()))


if __name__ == "__main__":
    for address, pages in addresses().items():
        print(address, *pages)
