"""Lists of class names: a file in any usual form, names between commas, or a data set.

    road                Pixel Value, Class          0: background
    building            0, background               255: object
                        1, road

The table of the middle is Roboflow's `_classes.csv`. A line that names columns is no
class: what it heads is read by it. Tables of colours (`color_tables`), JSON and the
names of YOLO's data.yaml are read too, and where no such file is there,

    road,car,sky        names between commas
    cityscapes          the classes of a published data set, `class_tables`
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deeplab_tf.class_tables import CLASS_TABLES
from deeplab_tf.colors import Color
from deeplab_tf.data.building import files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders import color_tables
from deeplab_tf.data.folders.pair_lists import delimiter_of

_NAME_WORDS = {"class", "classes", "class name", "name", "names", "label", "category"}
_ID_WORDS = {"pixel value", "pixel", "value", "id", "ids", "class id", "label id"}
_ID_WORDS |= {"index", "train id", "trainid", "number"}
_NUMBERED = re.compile(r"(\d+)\s*[,;:\t=\s]\s*(\S.*)")
_YAML_PAIR = re.compile(r"""\s*["']?(\d+)["']?\s*:\s*(\S.*)""")
# Keys of JSON and YAML under which others keep their classes.
_KEYS = ("class_names", "names", "classes", "labels", "categories")
_NAME_KEYS = ("name", "label", "title", "class", "class_name", "readable")
_ID_KEYS = ("id", "index", "value", "train_id", "png_index")

Row = tuple[str, str]  # stored id or "", name


class ClassList(NamedTuple):
    """Names of classes, and what else a list says of them.

    Attributes:
      names: of the classes, in order.
      ids: the stored id of each; none where the list has none.
      colors: the colour of each; none where the list has none.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    colors: tuple[Color, ...] = ()


def read_class_list(given: str | Path) -> ClassList:
    """Reads a list in one of the forms of the module.

    Ids that are 0, 1, 2 and so on, in that order, are class ids and not returned.

    Args:
      given: path of a file; else names between commas, or a row of `CLASS_TABLES`.

    Raises:
      DatasetError: no such file, a line that does not fit the others, or a name or an
        id that comes twice.
    """
    path, text = Path(given).expanduser(), str(given)
    if not path.is_file() and text in CLASS_TABLES:
        return ClassList(CLASS_TABLES[text].names, ())
    if not path.is_file() and "," in text:
        names = [("", name.strip()) for name in text.split(",") if name.strip()]
        return _class_list(names, text)
    if not path.is_file():
        raise DatasetError(
            f"Expected a list of names. There is no file {path}. Names can also stand "
            "between commas, as road,car, or be those of "
            f"{', '.join(CLASS_TABLES)}."
        )
    lines = files.read_list(path)
    if lines[0][0] in "[{":
        return _read_json(path)
    if any(line.startswith("names:") for line in lines):
        return _class_list(_yaml_rows(path), path)
    table = _color_table(path)
    return table or _read_lines(lines, path)


def _color_table(path: Path) -> ClassList | None:
    """Returns the classes of a table of colours; None where the file is none."""
    try:
        table = color_tables.read_table(path)
    except DatasetError:
        return None
    kept = [(i, entry) for i, entry in enumerate(table) if not entry.ignored]
    ids = tuple(i for i, _ in kept)
    return ClassList(
        tuple(entry.name for _, entry in kept),
        () if ids == tuple(range(len(ids))) else ids,
        tuple(entry.color for _, entry in kept),
    )


# --- Lines ---------------------------------------------------------------------------


def _read_lines(lines: Sequence[str], path: Path) -> ClassList:
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
    elif all(line.startswith("- ") for line in lines):
        rows = [("", _unquoted(line[2:])) for line in lines]
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


def _pick(row: Sequence[str], columns: Sequence[str], line: str, path: Path) -> Row:
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


# --- YAML and JSON -------------------------------------------------------------------


def _unquoted(text: str) -> str:
    text = re.sub(r"\s+#.*$", "", text.strip())
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text


def _yaml_rows(path: Path) -> list[Row]:
    """Reads `names:` of a YAML file: a list or ids and names, in brackets or below.

    Raises:
      DatasetError: it is written otherwise.
    """
    text = path.read_text("utf-8-sig")
    block = re.split(r"(?m)^\s*names:", text, maxsplit=1)[1]
    inside = re.match(r"\s*(?:\[(.*?)\]|\{(.*?)\})", block, re.S)
    if inside:
        line = (inside[1] or inside[2] or "").replace("\n", " ")
        cells = next(csv.reader([line], quotechar="'", skipinitialspace=True), [])
        rows = [_YAML_PAIR.fullmatch(cell) if inside[2] else None for cell in cells]
        rows = [(r[1], r[2]) if r else ("", cell) for r, cell in zip(rows, cells)]
        return [(number, _unquoted(name)) for number, name in rows if name.strip()]
    rows = []
    for line in block.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pair, item = _YAML_PAIR.fullmatch(line), re.fullmatch(r"\s*-\s+(\S.*)", line)
        if not item and not (pair and line[0].isspace()):
            break
        rows.append(("", item[1]) if item else (pair[1], pair[2]))
    if not rows:
        raise DatasetError(
            f"Expected names below 'names:' in {path}, as [a, b] or with one a line. "
            f"Received: {block.strip()[:60]!r}"
        )
    return [(number, _unquoted(name)) for number, name in rows]


def _read_json(path: Path) -> ClassList:
    """Reads names of JSON: a list, a dictionary, or one of the keys of `_KEYS` in it.

    Raises:
      DatasetError: neither.
    """
    try:
        document = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"Expected JSON in {path}. Received: {error}") from error
    colors = ()
    if isinstance(document, dict):
        colors = document.get("colormap") or ()
        inner = [
            document[k] for k in _KEYS if isinstance(document.get(k), (list, dict))
        ]
        document = inner[0] if inner else document
    try:
        listed = _class_list(_json_rows(document), path)
        colors = colors or _json_colors(document)
        colors = tuple(color_tables.parse_color(color) for color in colors)
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"Expected names of classes in {path}: a list of names, or of objects with "
            f"name and id, or a dictionary from id to name. Received: {document!r:.80}"
        ) from error
    return listed._replace(colors=colors if len(colors) == len(listed.names) else ())


def _json_rows(document: object) -> list[Row]:
    if isinstance(document, Mapping):
        if all(str(key).isdecimal() for key in document):
            return [(str(key), _text(name)) for key, name in document.items()]
        ids = [value for value in document.values() if type(value) is int]
        numbers = map(str, ids) if len(ids) == len(document) else [""] * len(document)
        return list(zip(numbers, document))
    if not isinstance(document, list):
        raise TypeError(document)
    return [_json_row(item) for item in document]


def _json_row(item: object) -> Row:
    if not isinstance(item, Mapping):
        return "", _text(item)
    names = [item[key] for key in _NAME_KEYS if key in item]
    number = next((item[k] for k in _ID_KEYS if type(item.get(k)) is int), "")
    return str(number), _text(names[0])


def _json_colors(document: object) -> list:
    """Returns the colours of a list of objects, or of a dictionary from name to it."""
    items = document if isinstance(document, list) else []
    colors = [
        item["color"] for item in items if isinstance(item, dict) and "color" in item
    ]
    if isinstance(document, dict) and not any(
        isinstance(v, int) for v in document.values()
    ):
        colors = [v for k, v in document.items() if not k.isdecimal()]
    return colors


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value.strip()


def _class_list(rows: Sequence[Row], place: str | Path) -> ClassList:
    names = tuple(name for _, name in rows)
    ids = tuple(int(number) for number, _ in rows if number)
    if not names or not all(names):
        raise DatasetError(
            f"Expected a name for each class in {place}. Received: {names}"
        )
    for what, values in (("name", names), ("id", ids)):
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        if repeated:
            raise DatasetError(
                f"Expected each class {what} once in {place}. Received more than once: "
                f"{', '.join(repeated[:10])}"
            )
    return ClassList(names, () if ids == tuple(range(len(ids))) else ids)
