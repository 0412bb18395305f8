"""Names and sentences of files and servers -> what a terminal, a table or a disk takes.

Records, archives, lists and servers hold names that others chose. Such a name may carry
escape sequences that rewrite what a terminal shows, begin like a formula, or lead out
of the folder that it is to be in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePosixPath, PureWindowsPath

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str) -> str:
    """Returns text in characters that only show: others become escapes such as \\x1b.

    Lines stay lines.
    """
    try:
        # Names of files that are not UTF-8 hold halves of characters.
        text = os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # JSON may hold any half.
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def first_ten(sentences: Sequence[str]) -> list[str]:
    """Returns no more than ten of a list of failures, and how many more there are."""
    more = len(sentences) - 10
    return [*sentences[:10], *([f"and {more} more"] if more > 0 else [])]


def table_cell(text: str) -> str:
    """Returns text that programs for tables do not take for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def leads_out(name: str) -> bool:
    """Whether a relative name, put below a folder, may lead out of it.

    Here or on Windows: names that begin at a root or a drive, and those with "..".
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return bool(
        not name
        or "\0" in name
        or posix.root
        or windows.root
        or windows.drive
        or ".." in windows.parts
    )


def name_below(folder: str | os.PathLike, name: str) -> str:
    """Returns the name of a file relative to a folder, with forward slashes.

    Args:
      folder: that the file must be in.
      name: relative to it, or absolute; separators of any system.

    Raises:
      ValueError: the file is elsewhere. Links are not followed.
    """
    folder = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(folder, name.replace("\\", "/")))
    relative = os.path.relpath(path, folder).replace(os.sep, "/")
    if relative == "." or "\0" in name or leads_out(relative):
        raise ValueError(
            f"expected a file in {folder}, but its name leads out of it: {name}"
        )
    return relative
