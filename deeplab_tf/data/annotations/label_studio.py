"""Label Studio's "Brush labels to PNG", beside its JSON export and the images.

    task-3-annotation-8-by-1-tag-road-0.png

Such a name says no image: the JSON export ("JSON" or "JSON-MIN" of the same project)
has the task's. Pixels of no PNG are background, class 0; those of a class called void
are 255. Where classes overlap, the smaller region is in front. A task without PNGs is
not labelled, and left out. Of several annotations of a task the last one counts.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from deeplab_tf.data.annotations.found import (
    Drawn,
    Found,
    Options,
    classes_of,
    expect,
    file_name_of,
    head_of,
    json_files,
    names_in_order,
    read_document,
    sub_folders,
)
from deeplab_tf.data.building import files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.image_kinds import IMAGE_SUFFIXES
from deeplab_tf.strangers_words import first_ten

_NAME = re.compile(r"task-(\d+)-annotation-(\d+)-by-([^-]*)-(.+)-(\d+)\.png", re.I)
# An upload's name begins with eight random digits.
_UPLOAD = re.compile(r"[0-9a-f]{8}-")


class Brush(NamedTuple):
    """One PNG: a region of a class."""

    path: str
    task: int
    annotation: int
    tag_and_class: str  # "tag-road"


def _folders(folder: Path) -> list[Path]:
    return [folder, *sub_folders(folder)]


def _brushes(folder: Path) -> list[Brush]:
    found = []
    for place in _folders(folder):
        for path in sorted(place.iterdir()):
            match = _NAME.fullmatch(path.name)
            if match:
                numbers = int(match[1]), int(match[2])
                found.append(Brush(str(path), *numbers, match[4]))
    return found


def detect(folder: Path) -> bool:
    """Whether there are PNGs of brush labels."""
    return bool(_brushes(folder))


# --- The JSON export -----------------------------------------------------------------


def _tasks(folder: Path) -> dict[int, dict]:
    """Returns id -> task of the JSON exports.

    Raises:
      DatasetError: there are none.
    """
    paths = [p for place in _folders(folder) for p in json_files(place)]
    tasks = {}
    for path in paths:
        if head_of(path)[:1] != "[":
            continue
        for task in read_document(path, list):
            if isinstance(task, dict) and type(task.get("id")) is int:
                tasks[task["id"]] = task
    if not tasks:
        raise DatasetError(
            f"Expected Label Studio's JSON export in {folder}: PNGs of brush labels do "
            "not say which image they are of. Export the project as JSON too, and put "
            "the file and a folder of the images beside the PNGs."
        )
    return tasks


def _image_names(task: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names that a task's image may have, those that are likely first."""
    data = task.get("data")
    fields = [data if isinstance(data, dict) else {}, task]
    for values in fields:
        for text in values.values():
            if not isinstance(text, str):
                continue
            # Files of a local storage: /data/local-files/?d=photos/a.jpg
            name = unquote(file_name_of(text.rpartition("?d=")[2]))
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield name
                if _UPLOAD.match(name):
                    yield name[9:]


def _find_image(task: Mapping[str, Any], folder: Path, options: Options) -> str:
    places = [Path(options.images_dir).expanduser()] if options.images_dir else []
    places += _folders(folder)
    names = list(_image_names(task))
    paths = [files.as_stored(str(place / name)) for name in names for place in places]
    expected = str(places[0] if options.images_dir else folder / "images")
    missing = os.path.join(expected, names[0] if names else f"(task {task['id']})")
    return next(filter(os.path.isfile, paths), missing)


def _tags(task: Mapping[str, Any]) -> set[str]:
    """Returns the names of the controls (from_name) that a task's regions are of."""
    annotations = task.get("annotations")
    results = [
        result
        for annotation in (annotations if isinstance(annotations, list) else [])
        if isinstance(annotation, dict)
        if isinstance(annotation.get("result"), list)
        for result in annotation["result"]
    ]
    names = [r.get("from_name") for r in results if isinstance(r, dict)]
    return {name for name in names if isinstance(name, str)}


def _class_of(brush: Brush, tags: set[str]) -> str:
    """Returns the class of a PNG: what follows the name of its control."""
    known = [t for t in tags if brush.tag_and_class.startswith(f"{t}-")]
    tag = max(known, key=len, default=brush.tag_and_class.partition("-")[0])
    return brush.tag_and_class[len(tag) + 1 :] or brush.tag_and_class


# --- Labels --------------------------------------------------------------------------


def _label_text(brushes: Sequence[tuple[str, str]]) -> str:
    """Returns [[class, path, size, time of change], ...] as JSON text."""
    rows = []
    for name, path in brushes:
        status = os.stat(path)
        rows.append([name, path, status.st_size, status.st_mtime_ns])
    return json.dumps(rows)


def draw(text: str, class_ids: Mapping[str, int]) -> np.ndarray:
    """Puts the PNGs of a task together.

    Args:
      text: from `_label_text`.
      class_ids: class -> id, or 255.

    Returns:
      uint8 [height, width]; 0 where no region is.

    Raises:
      ValueError: a PNG cannot be read, or they differ in size.
    """
    regions = []
    for name, path, *_ in json.loads(text):
        image = files.open_image(files.read_file(path), path)
        # The brush's transparency: what is not clear is painted.
        region = np.asarray(image.convert("L")) > 0
        if regions and region.shape != regions[0][1].shape:
            raise ValueError(f"{path} has another size than other regions of its task")
        regions.append((class_ids[name], region))
    label = np.zeros(regions[0][1].shape, np.uint8)
    for class_id, region in sorted(regions, key=lambda r: -int(r[1].sum())):
        label[region] = class_id
    return label


def read(folder: Path, options: Options) -> Found:
    """Reads PNGs of brush labels by the JSON export of their project.

    Raises:
      DatasetError: there is no JSON export, a task is not in it, or two tasks have the
        same image.
    """
    tasks, latest = _tasks(folder), {}
    brushes = _brushes(folder)
    for brush in brushes:
        latest[brush.task] = max(brush.annotation, latest.get(brush.task, 0))
    missing = [str(task) for task in sorted(latest) if task not in tasks]
    if missing:
        raise DatasetError(
            f"Expected the tasks of all PNGs in the JSON export in {folder}. Received "
            f"no task {', '.join(first_ten(missing))}. Export the project again."
        )
    regions: dict[int, list[tuple[str, str]]] = {}
    for brush in brushes:
        if brush.annotation == latest[brush.task]:
            name = _class_of(brush, _tags(tasks[brush.task]))
            regions.setdefault(brush.task, []).append((name, brush.path))
    expect(brushes, "PNGs of brush labels", folder)
    names = {name for rows in regions.values() for name, _ in rows}
    names = names_in_order(names, options.class_names, "the PNGs' names")
    classes, ids = classes_of(names, place=f"the names of PNGs in {folder}")
    return Found(
        {"": _samples(regions, tasks, folder, options)},
        classes_from="the names of the PNGs",
        drawn=Drawn(classes, functools.partial(draw, class_ids=ids)),
        notes=_left_out(tasks, brushes, latest),
    )


def _samples(regions, tasks, folder: Path, options: Options) -> list[Sample]:
    samples = []
    for task, rows in sorted(regions.items()):
        image = _find_image(tasks[task], folder, options)
        name = os.path.splitext(os.path.basename(image))[0]
        samples.append(Sample(name, image, _label_text(rows)))
    return samples


def _left_out(tasks, brushes: Sequence[Brush], latest: Mapping[int, int]):
    notes = []
    unlabelled = len(tasks.keys() - latest.keys())
    if unlabelled:
        notes.append(f"{unlabelled} tasks without PNGs are left out.")
    earlier = sum(b.annotation != latest[b.task] for b in brushes)
    if earlier:
        notes.append(f"{earlier} PNGs of earlier annotations of a task are left out.")
    return tuple(notes)
