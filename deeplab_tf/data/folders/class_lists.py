"""Lists of class names: a name a line, or a table of names and stored ids.

    road                Pixel Value, Class          0: background
    building            0, background               255: object
                        1, road

The table of the middle is Roboflow's `_classes.csv`. A line that names columns is no
class: what it heads is read by it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deeplab_tf.data.building import files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders.pair_lists import delimiter_of

_NAME_WORDS = {"class", "classes", "class name", "name", "names", "label", "category"}
_ID_WORDS = {"pixel value", "pixel", "value", "id", "ids", "class id", "label id"}
_ID_WORDS |= {"index", "train id", "trainid", "number"}
_NUMBERED = re.compile(r"(\d+)\s*[,;:\t=\s]\s*(\S.*)")


class ClassList(NamedTuple):
    """Names of classes, and the stored id of each; none where the file has none."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


def read_class_list(path: str | Path) -> ClassList:
    """Reads a list in one of the forms of the module.

    Ids that are 0, 1, 2 and so on, in that order, are class ids and not returned.

    Raises:
      DatasetError: no such file, a line that does not fit the others, or a name or an
        id that comes twice.
    """
    path = Path(path).expanduser()
    lines = files.read_list(path)
    columns = _columns(lines[0])
    if columns:
        print(
            f"The first line of {path} heads its columns, and is no class: {lines[0]}"
        )
        lines = lines[1:]
    if columns and len(columns) > 1:
        rows = [_split(line, lines[0]) for line in lines]
        rows = [_pick(row, columns, line, path) for row, line in zip(rows, lines)]
    elif all(map(_NUMBERED.fullmatch, lines)):
        rows = [_NUMBERED.fullmatch(line).groups() for line in lines]
        print(f"The lines of {path} begin with the stored ids of their classes.")
    else:
        rows = [("", line) for line in lines]
    return _class_list(rows, path)


def _columns(line: str) -> list[str]:
    """Returns "id", "name" or "" for each column that a header names; else nothing."""
    words = [re.sub("[_ -]+", " ", cell).lower() for cell in _split(line, line)]
    kinds = ["name" if w in _NAME_WORDS else "id" * (w in _ID_WORDS) for w in words]
    is_header = kinds.count("name") == 1 and kinds.count("id") <= 1
    # A single column is headed by words that no class is called by.
    return kinds if is_header and (len(kinds) > 1 or words[0] != "label") else []


def _split(line: str, first: str) -> list[str]:
    cells = next(csv.reader([line], delimiter=delimiter_of(first)))
    return [cell.strip() for cell in cells]


def _pick(row: Sequence[str], columns: Sequence[str], line: str, path: Path):
    """Returns (id or "", name) of a row of a table."""
    if len(row) != len(columns):
        raise DatasetError(
            f"Expected {len(columns)} columns in each line of {path}, as its first "
            f"line has. Received: {line}"
        )
    number = row[columns.index("id")] if "id" in columns else ""
    if "id" in columns and not number.isdecimal():
        raise DatasetError(
            f"Expected a stored id in each line of {path}. Received: {line}"
        )
    return number, row[columns.index("name")]


def _class_list(rows: Sequence[tuple[str, str]], path: Path) -> ClassList:
    names = tuple(name for _, name in rows)
    ids = tuple(int(number) for number, _ in rows if number)
    for what, values in (("name", names), ("id", ids)):
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        if repeated:
            raise DatasetError(
                f"Expected each class {what} once in {path}. Received more than once: "
                f"{', '.join(repeated[:10])}"
            )
    return ClassList(names, () if ids == tuple(range(len(ids))) else ids)
