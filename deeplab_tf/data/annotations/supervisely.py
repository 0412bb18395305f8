"""Supervisely's projects: meta.json, and img/ and ann/ in the folder of each dataset.

    meta.json  ds1/img/a.jpg  ds1/ann/a.jpg.json

Objects are drawn in the order of the file: bitmaps, polygons with holes, rectangles and
lines. Pixels without an object are background, class 0; those of a class called void
are 255. Datasets called train and val are splits.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.found import (
    SPLIT_WORDS,
    Drawn,
    Found,
    Options,
    classes_of,
    expect,
    join_splits,
    json_files,
    read_document,
    read_json,
    refuse_class_names,
)
from deeplab_tf.data.building import files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.folders.color_tables import parse_color
from deeplab_tf.image_kinds import IMAGE_SUFFIXES

META = "meta.json"


def _datasets(folder: Path) -> list[Path]:
    """Returns the folders that hold ann/; data sets may lie in others (datasets/)."""
    return sorted(path.parent for path in folder.rglob("ann") if path.is_dir())


def detect(folder: Path) -> bool:
    """Whether this is a project of Supervisely."""
    return (folder / META).is_file() and bool(_datasets(folder))


# --- One image -----------------------------------------------------------------------


def _points(region: Mapping[str, Any], key: str, canvas: shapes.Canvas) -> list:
    points = region.get("points")
    value = points.get(key, []) if isinstance(points, dict) else None
    if key == "exterior":
        return shapes.points_of(value, canvas.width, canvas.height)
    holes = value if isinstance(value, list) else []
    return [shapes.points_of(hole, canvas.width, canvas.height) for hole in holes]


def _draw_object(canvas: shapes.Canvas, region: Mapping, class_id: int) -> None:
    kind = region.get("geometryType")
    if kind == "bitmap":
        bitmap = region.get("bitmap")
        origin = bitmap.get("origin") if isinstance(bitmap, dict) else None
        [(left, top)] = shapes.points_of([origin], canvas.width, canvas.height)
        mask = shapes.decode_mask(bitmap.get("data"), canvas.width, canvas.height)
        canvas.mask(mask, int(left), int(top), class_id)
    elif kind == "polygon":
        holes = _points(region, "interior", canvas)
        canvas.polygon_with_holes(_points(region, "exterior", canvas), holes, class_id)
    elif kind == "rectangle":
        canvas.rectangle(_points(region, "exterior", canvas), class_id)
    elif kind == "line":
        canvas.line(_points(region, "exterior", canvas), 1, class_id)
    else:
        raise ValueError(
            f"the geometry {kind!r}; expected bitmap, polygon, rectangle or line"
        )


def draw(path: str, class_ids: Mapping[str, int]) -> np.ndarray:
    """Draws the objects of an annotation file.

    Args:
      path: of the JSON file.
      class_ids: title -> class id, or 255.

    Returns:
      uint8 [height, width]; 0 where no object is.

    Raises:
      ValueError: the file cannot be read, or an object cannot be drawn.
    """
    document = read_json(path)
    document = document if isinstance(document, dict) else {}
    size, objects = document.get("size"), document.get("objects")
    size = size if isinstance(size, dict) else {}
    size = shapes.check_size(size.get("width"), size.get("height"), path)
    if not isinstance(objects, list):
        raise ValueError(f"{path} has no list of objects; export it again")
    canvas = shapes.Canvas(*size)
    for number, region in enumerate(objects):
        title = region.get("classTitle") if isinstance(region, dict) else None
        with shapes.named(f"object {number} of {path}"):
            if not isinstance(title, str) or title not in class_ids:
                raise ValueError(f"the class {title!r}, which {META} does not have")
            _draw_object(canvas, region, class_ids[title])
    return canvas.ids()


# --- The project ---------------------------------------------------------------------


def _image_of(path: Path, dataset: Path) -> tuple[str, str]:
    """Returns (name, path) of the image of an annotation a.jpg.json, or a.json."""
    name = path.name[: -len(".json")]
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in IMAGE_SUFFIXES:
        return stem, files.as_stored(str(dataset / "img" / name))
    return name, files.find_file(dataset / "img", name, IMAGE_SUFFIXES)


def _read_meta(path: Path):
    """Returns the titles and colours of meta.json.

    Raises:
      DatasetError: it has no classes.
    """
    classes = read_document(path).get("classes")
    try:
        titles = [row["title"] for row in classes]
        colors = [parse_color(row["color"]) for row in classes]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"Expected classes with title and color in {path}. Received: "
            f"{classes!r:.80} ({error})"
        ) from error
    if not all(isinstance(title, str) for title in titles):
        raise DatasetError(f"Expected titles of classes in {path}. Received: {titles}")
    return titles, colors


def read(folder: Path, options: Options) -> Found:
    """Reads a project of Supervisely.

    Raises:
      DatasetError: meta.json has no classes, or there are no annotations.
    """
    refuse_class_names(options, META)
    titles, colors = _read_meta(folder / META)
    classes, ids = classes_of(titles, colors, folder / META)
    datasets = _datasets(folder)
    expect(datasets, "img/ and ann/ of a data set", folder)
    are_splits = all(p.name.lower() in SPLIT_WORDS and p != folder for p in datasets)
    parts: dict[str, list[Sample]] = {}
    for dataset in datasets:
        for path in json_files(dataset / "ann"):
            name, image = _image_of(path, dataset)
            if not are_splits and len(datasets) > 1:
                name = f"{dataset.relative_to(folder).as_posix()}/{name}"
            part = dataset.name if are_splits else ""
            parts.setdefault(part, []).append(Sample(name, image, str(path)))
    if not parts:
        raise DatasetError(f"Expected JSON files in {datasets[0] / 'ann'}: none there")
    return Found(
        join_splits(parts.items()),
        "the names of datasets" if are_splits else "",
        META,
        drawn=Drawn(classes, functools.partial(draw, class_ids=ids)),
    )
