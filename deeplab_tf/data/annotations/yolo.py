"""YOLO's polygons: images/, labels/ with a .txt an image, and data.yaml.

    0 0.681 0.485 0.670 0.487 0.676 0.487      class, then x and y from 0 to 1

Classes of data.yaml follow background, class 0, which all pixels without a polygon are;
an image without a .txt file is background everywhere, as YOLO takes it. Where polygons
overlap, the smaller is in front.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np

from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.found import (
    Drawn,
    Found,
    Options,
    check_once,
    classes_of,
    expect,
    join_splits,
    split_folders,
    sub_folders,
)
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.folders.class_lists import read_class_list
from deeplab_tf.image_kinds import IMAGE_SUFFIXES

IMAGES, LABELS, CLASSES = "images", "labels", "classes.txt"
# Text files among the labels that are none.
_NO_LABELS = ("classes", "labels", "notes")


def _has_text(folder: Path) -> bool:
    return any(path.stem not in _NO_LABELS for path in folder.glob("*.txt"))


def _places(folder: Path) -> list[tuple[str, Path, Path]]:
    """Returns (split, images, labels) of the folders that YOLO pairs."""
    images, labels = folder / IMAGES, folder / LABELS
    if _has_text(labels) and images.is_dir():
        return [("", images, labels)]
    names = [p.name for p in sub_folders(labels) if (images / p.name).is_dir()]
    names = [n for n in names if _has_text(labels / n)]
    if names:
        return [(n, images / n, labels / n) for n in names]
    parts = [(p.name, p / IMAGES, p / LABELS) for p in split_folders(folder)]
    return [part for part in parts if part[1].is_dir() and _has_text(part[2])]


def _classes_file(folder: Path) -> Path | None:
    """Returns data.yaml, another YAML file with names, or classes.txt."""
    paths = [*folder.glob("*.yaml"), *folder.glob("*.yml")]
    paths = [p for p in sorted(paths) if "names:" in p.read_text("utf-8", "replace")]
    lists = (folder / CLASSES, folder / LABELS / CLASSES)
    paths += [p for p in lists if p.is_file()]
    paths.sort(key=lambda p: p.stem != "data")
    return paths[0] if paths else None


def has_labels(folder: Path) -> bool:
    """Whether there are .txt files of labels, named after images."""
    return bool(_places(folder))


def detect(folder: Path) -> bool:
    """Whether there are .txt files of labels, and a file of their classes."""
    return has_labels(folder) and _classes_file(folder) is not None


# --- Labels --------------------------------------------------------------------------


def _polygons(path: str, width: int, height: int, class_ids: Mapping[int, int]):
    """Yields (class id, points in pixels) of a .txt file.

    Raises:
      ValueError: a line is no polygon.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path} ({error})") from error
    for number, line in enumerate(filter(str.strip, lines), 1):
        place = f"line {number} of {path}"
        try:
            index, *values = (float(word) for word in line.split())
        except ValueError as error:
            raise ValueError(f"{place} has something else than numbers") from error
        if len(values) == 4:
            raise ValueError(
                f"{place} is a box and no polygon; export for segmentation"
            )
        if index not in class_ids or len(values) < 6 or len(values) % 2:
            raise ValueError(
                f"{place} has class {index:g} and {len(values)} numbers; expected a "
                f"class of 0 to {len(class_ids) - 1} and x, y of 3 points or more"
            )
        points = [[x * width, y * height] for x, y in zip(values[::2], values[1::2])]
        try:
            points = shapes.points_of(points, width, height)
        except ValueError as error:
            raise ValueError(
                f"{place} has {error}; x and y are from 0 to 1 there"
            ) from error
        # Whole pixels, as Ultralytics draws them.
        yield class_ids[int(index)], [(int(x), int(y)) for x, y in points]


def draw(text: str, class_ids: Mapping[int, int]) -> np.ndarray:
    """Draws the polygons of a .txt file.

    Args:
      text: [path of the .txt file, path of the image] as JSON.
      class_ids: index in data.yaml -> class id, or 255.

    Returns:
      uint8 [height, width]; 0 where no polygon is.

    Raises:
      ValueError: the image cannot be read, or a line is no polygon.
    """
    path, image = json.loads(text)[:2]
    size = shapes.upright_size(image)
    canvas = shapes.Canvas(*size)
    polygons = list(_polygons(path, *size, class_ids))
    for class_id, points in sorted(polygons, key=lambda p: -_area(p[1])):
        canvas.polygon(points, class_id)
    return canvas.ids()


def _area(points: Sequence[tuple[int, int]]) -> float:
    """Returns the area of a polygon, square pixels."""
    x, y = np.array(points, float).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


# --- The folder ----------------------------------------------------------------------


def _samples(images: Path, labels: Path) -> list[Sample]:
    texts = {normalize("NFC", p.stem): p for p in labels.glob("*.txt")}
    samples = []
    for path in sorted(images.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        name = normalize("NFC", path.stem)
        text = texts.pop(name, labels / f"{name}.txt")
        state = os.stat(text).st_mtime_ns if text.is_file() else 0
        label = json.dumps([str(text), str(path), state])
        samples.append(Sample(name, str(path), label))
    # A file without an image names what is missing when it is read.
    for name, text in sorted(texts.items()):
        if name not in _NO_LABELS:
            missing = str(images / f"{name}{{{','.join(IMAGE_SUFFIXES)}}}")
            samples.append(Sample(name, missing, json.dumps([str(text), missing])))
    return samples


def read(folder: Path, options: Options) -> Found:
    """Reads YOLO's polygons.

    Raises:
      DatasetError: there are no classes, or two that differ in case alone.
    """
    places = _places(folder)
    expect(places, "images/ and labels/ with .txt files", folder)
    path = options.class_names or _classes_file(folder)
    expect(path, "data.yaml, classes.txt or --class_names", folder)
    listed = read_class_list(path)
    check_once(listed.names, path)
    classes, ids = classes_of(listed.names, place=path)
    indices: Sequence[int] = listed.ids or range(len(listed.names))
    class_ids = {index: ids[name] for index, name in zip(indices, listed.names)}
    parts = [(name, _samples(images, labels)) for name, images, labels in places]
    if not any(samples for _, samples in parts):
        raise DatasetError(f"Expected images in {places[0][1]}. Received: none")
    empty = sum(
        not os.path.isfile(json.loads(s.label)[0]) for _, part in parts for s in part
    )
    note = f"{empty} images without a .txt file are background everywhere."
    return Found(
        join_splits(parts),
        "the names of folders" if parts[0][0] else "",
        Path(path).name,
        drawn=Drawn(classes, functools.partial(draw, class_ids=class_ids)),
        notes=(note,) if empty else (),
    )
