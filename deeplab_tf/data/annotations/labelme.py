"""LabelMe's JSON files: one an image, with polygons and other shapes.

Shapes are drawn in the order of the file, the later over the earlier, as LabelMe's own
exporter does. Pixels without a shape are background; a shape called background is that
too, and one called __ignore__ or void is 255. An image without a JSON file is left out,
and one whose file has no shapes is background everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.found import (
    SPLIT_WORDS,
    Drawn,
    Found,
    Options,
    check_once,
    classes_of,
    expect,
    head_of,
    join_splits,
    names_in_order,
    read_document,
    read_json,
)
from deeplab_tf.data.building import files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.image_kinds import IMAGE_SUFFIXES
from deeplab_tf.strangers_words import name_below

LABELS = "labels.txt"
# What LabelMe's exporter makes of shapes without an area, pixels.
_LINE_WIDTH, _POINT_RADIUS = 10, 5


def _files(folder: Path) -> list[Path]:
    """Returns the JSON files with shapes, of a folder and all folders in it."""
    paths = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() == ".json")
    shown = [p for p in paths if not _is_hidden(p.relative_to(folder))]
    return [p for p in shown if _is_labelme(head_of(p))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_labelme(head: str) -> bool:
    # Some programs write the image, which is long, before the shapes.
    keys = ('"shapes"', '"imageData"')
    return head.startswith("{") and any(key in head for key in keys)


def detect(folder: Path) -> bool:
    """Whether there are JSON files of LabelMe."""
    return bool(_files(folder))


# --- One file ------------------------------------------------------------------------


def _shapes_of(document: Mapping[str, Any], path: str | Path) -> list[dict]:
    """Returns the shapes of a file.

    Raises:
      ValueError: there is no list of them, or one has no label.
    """
    found = document.get("shapes")
    if not isinstance(found, list):
        raise ValueError(f"{path} has no list of shapes; save it in LabelMe again")
    for shape in found:
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise ValueError(f"{path} has a shape without a label: {shape!r:.80}")
    return found


def draw(path: str, class_ids: Mapping[str, int]) -> np.ndarray:
    """Draws the shapes of a JSON file.

    Args:
      path: of the file.
      class_ids: label -> class id, or 255.

    Returns:
      uint8 [height, width]; 0 where no shape is.

    Raises:
      ValueError: the file cannot be read, or a shape cannot be drawn.
    """
    document = read_json(path)
    size = (document.get("imageWidth"), document.get("imageHeight"))
    canvas = shapes.Canvas(*shapes.check_size(*size, path))
    for number, shape in enumerate(_shapes_of(document, path)):
        with shapes.named(f"shape {number} ({shape['label']}) of {path}"):
            _draw_shape(canvas, shape, class_ids[shape["label"].strip()])
    return canvas.ids()


def _draw_shape(canvas: shapes.Canvas, shape: Mapping[str, Any], class_id: int) -> None:
    kind = shape.get("shape_type") or "polygon"
    points = shapes.points_of(shape.get("points"), canvas.width, canvas.height)
    if kind in ("polygon", "oriented_rectangle", "rotation"):
        canvas.polygon(points, class_id)
    elif kind == "rectangle":
        # AnyLabeling writes all four corners.
        draw = canvas.polygon if len(points) == 4 else canvas.rectangle
        draw(points, class_id)
    elif kind == "circle":
        canvas.circle(points, class_id)
    elif kind in ("line", "linestrip"):
        canvas.line(points, _LINE_WIDTH, class_id)
    elif kind == "point":
        edge = [(x + _POINT_RADIUS, y) for x, y in points]
        canvas.circle([*points, *edge], class_id)
    elif kind == "mask" and points:
        size = (canvas.width, canvas.height)
        left, top = (int(number) for number in points[0])
        canvas.mask(shapes.decode_mask(shape.get("mask"), *size), left, top, class_id)
    else:
        raise ValueError(f"the type {kind!r}; expected polygon, rectangle or circle")


# --- All files -----------------------------------------------------------------------


def _image_of(path: Path, document: Mapping, root: Path, options: Options) -> str:
    """Returns the image that a JSON file is of.

    `imagePath` counts where it leads to a file in the folder that is built; else an
    image of that name, or of the JSON file's own, beside it or in the folder of images.

    Raises:
      DatasetError: there is none, and `imagePath` leads out of the folder, or the JSON
        file holds the image itself.
    """
    named = str(document.get("imagePath") or "").replace("\\", "/")
    beside = [path.parent, root / "images", root / "JPEGImages"]
    beside += [path.parent.parent / "images"] if path.parent != root else []
    beside += [Path(options.images_dir).expanduser()] if options.images_dir else []
    candidates = [str(f / Path(named).name) for f in beside if named]
    candidates += [files.find_file(f, path.stem, IMAGE_SUFFIXES) for f in beside]
    problem = ""
    try:
        if named:
            candidates.insert(0, str(root / name_below(root, str(path.parent / named))))
    except ValueError as error:
        problem = str(error)
    if document.get("imageData"):
        problem = problem or "the image is there as text alone (imageData)"
    found = next(filter(_is_file, map(files.as_stored, candidates)), None)
    if problem and not found:
        raise DatasetError(
            f"{path}: {problem}. Put the image beside the JSON file, or say where "
            "images are: --images_dir=FOLDER"
        )
    return found or candidates[0]


def _is_file(path: str) -> bool:
    return Path(path).is_file()


def _class_names(found: set[str], folder: Path, options: Options):
    """Returns the labels in their order, and what says it.

    Raises:
      DatasetError: a label is not in the list that is given.
    """
    given = options.class_names
    if not given and (folder / LABELS).is_file():
        given = str(folder / LABELS)
    place = Path(given).name if given else "the labels of all files, by the alphabet"
    return names_in_order(found, given, "LabelMe's files"), place


def read(folder: Path, options: Options) -> Found:
    """Reads LabelMe's JSON files, in the folder or in the folders in it.

    Raises:
      DatasetError: a file is no JSON of LabelMe's, an image leads out of the folder, or
        labels differ in case alone.
    """
    parts: dict[str, list[Sample]] = {}
    labels: set[str] = set()
    paths = _files(folder)
    expect(paths, "JSON files of LabelMe", folder)
    # The folder of the first level that a file lies in; its own name where in none.
    tops = {p: p.relative_to(folder).parts[0] for p in paths}
    has_splits = {name.lower() for name in tops.values()} <= set(SPLIT_WORDS)
    for path in paths:
        document = read_document(path)
        try:
            labels |= {s["label"].strip() for s in _shapes_of(document, path)}
        except ValueError as error:
            raise DatasetError(f"Expected a file of LabelMe's: {error}") from error
        image = _image_of(path, document, folder, options)
        part = tops[path] if has_splits else ""
        name = path.relative_to(folder / part).with_suffix("").as_posix()
        parts.setdefault(part, []).append(Sample(name, image, str(path)))
    check_once(sorted(labels), folder)
    names, classes_from = _class_names(labels, folder, options)
    classes, ids = classes_of(names, place=folder)
    return Found(
        join_splits(parts.items()),
        "the names of folders" if has_splits else "",
        classes_from,
        drawn=Drawn(classes, functools.partial(draw, class_ids=ids)),
        notes=_left_out(folder, parts.values()),
    )


def _left_out(folder: Path, parts: Sequence[Sequence[Sample]]) -> tuple[str, ...]:
    """Says how many images have no JSON file."""
    folders = {Path(sample.image).parent for part in parts for sample in part}
    used = {sample.image for part in parts for sample in part}
    there = [
        p
        for f in folders
        if f.is_dir()
        for p in f.iterdir()
        if p.suffix.lower() in IMAGE_SUFFIXES and str(p) not in used
    ]
    if not there:
        return ()
    return (f"{len(there)} images without a JSON file are left out.",)
