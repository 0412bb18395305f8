"""Tables that say which colour of a mask is which class.

A table is a text file with a colour and a name in each line, in either order:

    128 64 128   road          as in CamVid's label_colors.txt
    road,128,64,128            also with a header such as name,r,g,b (class_dict.csv)
    road:128,64,128::          CVAT's labelmap.txt
    #804080 road

or JSON: a list of {"name": ..., "color": [r, g, b] or "#rrggbb"}, or a dictionary from
name to color. Classes get ids in the order of the table. Names of `IGNORED_NAMES` mean
pixels without a class.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from deeplab_tf.data.building import files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders.pair_lists import delimiter_of
from deeplab_tf.files import atomic_write

IGNORED_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
# The ids of a uint8 mask but for 255.
MAX_COLORS = 255

_NUMBERS = r"\d+[\s,;]+\d+[\s,;]+\d+"
_COLOR = rf"(?P<color>#[0-9a-fA-F]{{6}}|{_NUMBERS})"
_LINE = (
    re.compile(rf"{_COLOR}[\s,;:]+(?P<name>.*\S)"),
    re.compile(rf"(?P<name>\S.*?)[\s,;:]+{_COLOR}"),
)
# CVAT's labelmap.txt: names with numbers, parts and actions after the colour.
_CVAT_LINE = re.compile(rf"(?P<name>[^:]+):(?P<color>{_NUMBERS}):[^:]*:[^:]*")
_ANOTHER_NUMBER = re.compile(r"(?:^|[\s,;:])\d+(?:$|[\s,;:])")
_COMMENT = re.compile(r"#(?![0-9a-fA-F]{6}\b)")
_HEADER_WORDS = {
    "r": "red",
    "g": "green",
    "b": "blue",
    "label": "name",
    "class": "name",
    "class_name": "name",
}


class NamedColor(NamedTuple):
    """One line of a table."""

    name: str
    color: tuple[int, int, int]  # red, green, blue in 0..255

    @property
    def ignored(self) -> bool:
        return self.name.lower() in IGNORED_NAMES


ColorTable = tuple[NamedColor, ...]


def parse_color(value: object) -> tuple[int, int, int]:
    """Reads "#rrggbb", three numbers in a string, or a list of three ints.

    Raises:
      ValueError: anything else.
    """
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch("#[0-9a-fA-F]{6}", text):
            return tuple(bytes.fromhex(text[1:]))
        value = [int(n) for n in re.split(r"[\s,;]+", text) if n.isdecimal()]
    good = (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(type(n) is int and 0 <= n <= 255 for n in value)
    )
    if not good:
        raise ValueError("expected red, green and blue in 0..255, or #rrggbb")
    return tuple(value)


# --- Reading -------------------------------------------------------------------------


def _parse_line(line: str) -> NamedColor:
    cvat = _CVAT_LINE.fullmatch(line)
    if cvat:
        return NamedColor(cvat["name"].strip(), parse_color(cvat["color"]))
    text = line.strip(" \t,;:")
    for pattern in _LINE:
        match = pattern.fullmatch(text)
        if not match:
            continue
        # Which three of four numbers are the colour, nobody can tell.
        if match["color"][0] != "#" and _ANOTHER_NUMBER.search(match["name"]):
            raise ValueError(
                "expected three numbers and a name; where there are more columns, a "
                "header such as id,name,r,g,b"
            )
        return NamedColor(match["name"].strip(' \t"'), parse_color(match["color"]))
    raise ValueError("expected a colour and a name, such as 128 64 128 road")


def _read_header(line: str) -> list[str] | None:
    """Returns the columns that a header names, or None where a line is no header."""
    words = [w.strip(' "').lower() for w in line.split(delimiter_of(line))]
    words = [_HEADER_WORDS.get(word, word) for word in words]
    return words if {"red", "green", "blue", "name"} <= set(words) else None


def _parse_text(lines: list[str]) -> Iterable[NamedColor]:
    header = _read_header(lines[0])
    delimiter = delimiter_of(lines[0])
    for number, line in enumerate(lines):
        if (header and not number) or _COMMENT.match(line):
            continue
        try:
            cells = next(csv.reader([line], delimiter=delimiter)) if header else []
            # Some files have a header of CSV above lines of another form.
            if header and len(cells) == len(header):
                row = dict(zip(header, cells))
                color = " ".join(row[c].strip() for c in ("red", "green", "blue"))
                yield NamedColor(row["name"].strip(), parse_color(color))
            else:
                yield _parse_line(line)
        except ValueError as error:
            raise ValueError(f"{line!r} ({error})") from error


def _parse_json(document: object) -> Iterable[NamedColor]:
    if isinstance(document, dict) and isinstance(document.get("labels"), list):
        document = document["labels"]  # Mapillary's config.json
    if isinstance(document, dict):
        document = [{"name": name, "color": c} for name, c in document.items()]
    if not isinstance(document, list):
        raise ValueError("neither a list nor a dictionary")
    for item in document:
        try:
            yield NamedColor(str(item["name"]).strip(), parse_color(item["color"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{item!r} (expected a name, and a color as [r, g, b] or #rrggbb)"
            ) from error


def read_table(path: str | Path) -> ColorTable:
    """Reads a table; see the module's docstring for its forms.

    Raises:
      DatasetError: no such file, a line that is not understood, a colour or a name
        that comes twice, or too many colours.
    """
    path = Path(path).expanduser()
    lines = files.read_list(path)
    try:
        if lines[0][0] in "[{":
            table = tuple(_parse_json(json.loads("\n".join(lines))))
        else:
            table = tuple(_parse_text(lines))
    except ValueError as error:
        raise DatasetError(
            f"Expected colours and names of classes in {path}. Received: {error}"
        ) from error
    _check_table(table, path)
    return table


def _check_table(table: ColorTable, path: Path) -> None:
    if not 1 <= len(table) <= MAX_COLORS:
        raise DatasetError(
            f"Expected 1 to {MAX_COLORS} colours in {path}. Received: {len(table)}"
        )
    seen = {}
    for entry in table:
        if not entry.name:
            raise DatasetError(
                f"Expected a name for each colour in {path}. Received: none for "
                f"{format_color(entry.color)}. For pixels without a class: void"
            )
        # Several colours may be void.
        keys = [entry.color] if entry.ignored else [entry.color, entry.name]
        for key in keys:
            if key in seen:
                raise DatasetError(
                    f"Expected each colour and each name once in {path}. Received: "
                    f"{_describe(seen[key])} and {_describe(entry)}. To make one class "
                    "of several colours, give them names of their own and merge these "
                    "by --class_map."
                )
            seen[key] = entry


def _describe(entry: NamedColor) -> str:
    return f"{format_color(entry.color)} {entry.name}"


# --- Writing -------------------------------------------------------------------------


def format_color(color: Iterable[int]) -> str:
    """Returns "#rrggbb"."""
    return f"#{bytes(color).hex()}"


def write_table(table: ColorTable, path: str | Path) -> None:
    """Writes a table that `read_table` reads.

    Raises:
      DatasetError: the file exists with other contents, perhaps edited by hand.
    """
    path = Path(path)
    rows = [f"{','.join(map(str, entry.color))},{entry.name}\n" for entry in table]
    text = "".join(["r,g,b,name\n", *rows])
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return
        raise DatasetError(
            f"{path} exists already, with other colours or names. Use it by "
            f"--label_colors={path}, or remove it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text)
