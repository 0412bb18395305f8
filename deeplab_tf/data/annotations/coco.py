"""Reads COCO's JSON files: images, categories and the regions of each image.

`read_instances` checks a whole file once, in the parent process. A worker process gets
no file: instances_train2017.json has 450 MB, and every worker would need gigabytes for
it. Each sample's `label` is instead the JSON text of its own regions (`label_text`),
some kilobytes, and `coco_regions` draws them. Nothing is lost on the way: JSON gives
back the same numbers, and the same samples give the same records in any process.

The format: https://cocodataset.org/#format-data. Files of other tools (CVAT, Label
Studio, Roboflow, LabelMe converters) use the same keys.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deeplab_tf.data.building import pairs
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.records.info import IGNORE_LABEL
from deeplab_tf.image_kinds import IMAGE_SUFFIXES
from deeplab_tf.strangers_words import name_below

# Keys that every item of the three lists must have, and their types.
IMAGE_KEYS = {"id": (int, str), "file_name": str, "height": int, "width": int}
ANNOTATION_KEYS = {"image_id": (int, str), "category_id": int}
CATEGORY_KEYS = {"id": int, "name": str}


class Instances(NamedTuple):
    """A COCO JSON file of instances that passed the checks.

    Attributes:
      path: the file.
      categories: id -> category, in the order of ids.
      images: id -> image, in the order of the file.
      annotations: id of an image that has some -> its annotations, in the order of
        the file. Their "segmentation" is JSON text.
    """

    path: Path
    categories: dict[int, dict]
    images: dict[Hashable, dict]
    annotations: dict[Hashable, list[dict]]


# --- The file ------------------------------------------------------------------------


def read_json(path: str | Path) -> dict:
    """Reads a COCO JSON file, with every "segmentation" as JSON text.

    The coordinates are nearly all of a file of instances. As text they take a tenth of
    the memory of Python's lists of floats, and only one annotation at a time is held
    as such lists.

    Raises:
      DatasetError: the file is absent, or is no JSON object.
    """

    def pack(item: dict) -> dict:
        if "segmentation" in item:
            text = json.dumps(item["segmentation"], separators=(",", ":"))
            item["segmentation"] = text
        return item

    try:
        with open(path, encoding="utf-8-sig") as file:
            document = json.load(file, object_hook=pack)
    except OSError as error:
        raise DatasetError(
            f"Expected a COCO JSON file. Received: {path} ({error.strerror})"
        ) from error
    except (ValueError, RecursionError) as error:  # ValueError: JSON and UTF-8 errors.
        raise DatasetError(
            f"Expected {path} to be JSON. Received: {error}. Download or export the "
            "file again."
        ) from error
    if not isinstance(document, dict):
        raise DatasetError(
            f"Expected a JSON object with images and annotations in {path}. "
            f"Received: a {type(document).__name__}"
        )
    return document


def read_items(
    document: Mapping[str, Any], key: str, required: Mapping[str, Any], path: Path
) -> list[dict]:
    """Returns `document[key]`, a list of objects that have the required keys.

    Args:
      document: what `read_json` returned.
      key: "images", "annotations" or "categories".
      required: key of each object -> type or types of its value.
      path: for the errors only.

    Raises:
      DatasetError: the list is absent, or an object lacks a key or has another type.
    """
    items = document.get(key)
    if not isinstance(items, list):
        raise DatasetError(
            f"Expected a list of {key} in {path}. Received: the keys "
            f"{', '.join(sorted(document)) or '(none)'}"
        )
    for item in items:
        for name, types in required.items():
            value = item.get(name) if isinstance(item, dict) else None
            if not isinstance(value, types):
                raise DatasetError(
                    f"Expected '{name}' in every object of {key} in {path}, as "
                    f"{_type_names(types)}. Received: {json.dumps(item):.150}"
                )
    return items


def _type_names(types: type | tuple[type, ...]) -> str:
    names = {int: "a whole number", str: "text", list: "a list"}
    types = types if isinstance(types, tuple) else (types,)
    return " or ".join(names[t] for t in types)


def by_id(items: Iterable[dict], key: str, path: Path) -> dict[Any, dict]:
    """Returns id -> item.

    Raises:
      DatasetError: an id comes twice.
    """
    items = list(items)
    _check_once([item["id"] for item in items], f"each id of {key}", path)
    return {item["id"]: item for item in items}


def _check_once(values: Iterable[Hashable], what: str, path: Path) -> None:
    repeated = [str(value) for value, n in Counter(values).items() if n > 1]
    if repeated:
        more = f" and {len(repeated) - 5} others" if len(repeated) > 5 else ""
        raise DatasetError(
            f"Expected {what} once in {path}. Received more than once: "
            f"{', '.join(repeated[:5])}{more}"
        )


def read_images(document: Mapping[str, Any], path: Path) -> dict[Any, dict]:
    """Returns id -> image, in the order of the file.

    Raises:
      DatasetError: an image lacks a key, or an id or a name comes twice.
    """
    images = by_id(read_items(document, "images", IMAGE_KEYS, path), "images", path)
    if not images:
        raise DatasetError(f"Expected images in {path}. Received: none")
    for image in images.values():
        if image["height"] < 1 or image["width"] < 1:
            raise DatasetError(
                f"Expected images of 1x1 pixel or more in {path}. "
                f"Received: {json.dumps(image):.150}"
            )
    names = [sample_name(image["file_name"]) for image in images.values()]
    _check_once(names, "each image", path)
    return images


def name_inside(folder: Path, file_name: str, path: Path) -> str:
    """Returns a `file_name` of a JSON file relative to the folder it is looked up in.

    Args:
      folder: of the images, or of other files.
      file_name: as it stands in the file, absolute paths into `folder` too.
      path: of the JSON file.

    Raises:
      DatasetError: it leads out of the folder.
    """
    try:
        return name_below(folder, file_name)
    except ValueError as error:
        raise DatasetError(
            f"{path}: {error}. Where such images are meant, give a folder that holds "
            "all of them."
        ) from error


def read_categories(document: Mapping[str, Any], path: Path) -> dict[int, dict]:
    """Returns id -> category, in the order of ids.

    Raises:
      DatasetError: a category lacks a key, or an id or a name comes twice.
    """
    items = read_items(document, "categories", CATEGORY_KEYS, path)
    if not items:
        raise DatasetError(f"Expected categories in {path}. Received: none")
    categories = by_id(sorted(items, key=lambda c: c["id"]), "categories", path)
    _check_once([item["name"] for item in items], "each category", path)
    return categories


def read_instances(path: str | Path) -> Instances:
    """Reads and checks a COCO JSON file of instances.

    Raises:
      DatasetError: the file cannot be read, lacks a key, has an id or a name twice,
        an annotation of an unknown image or category, or boxes only.
    """
    path = Path(path)
    document = read_json(path)
    images = read_images(document, path)
    categories = read_categories(document, path)
    annotations = read_items(document, "annotations", ANNOTATION_KEYS, path)
    if annotations and all(_is_box(annotation) for annotation in annotations):
        raise DatasetError(
            f"Expected masks of objects in {path}. Received: boxes only "
            "('segmentation' is empty). Export it for instance segmentation."
        )
    return Instances(
        path, categories, images, group(annotations, images, categories, path)
    )


def group(
    annotations: Iterable[dict],
    images: Mapping[Hashable, dict],
    categories: Mapping[int, dict],
    path: Path,
) -> dict[Hashable, list[dict]]:
    """Returns image id -> its annotations, in the order of the file.

    Raises:
      DatasetError: an annotation names an image or a category that is not there.
    """
    grouped: dict[Hashable, list[dict]] = {}
    for annotation in annotations:
        for key, known in (("image_id", images), ("category_id", categories)):
            if annotation[key] not in known:
                raise DatasetError(
                    f"Expected annotations of the images and categories in {path}. "
                    f"Received: annotation {annotation.get('id')} with {key} "
                    f"{annotation[key]!r}, which is not among them"
                )
        grouped.setdefault(annotation["image_id"], []).append(annotation)
    return grouped


def _is_box(annotation: Mapping[str, Any]) -> bool:
    return annotation.get("segmentation", "[]") in ("[]", "null", "{}")


# --- Samples -------------------------------------------------------------------------


def sample_name(file_name: str) -> str:
    """Returns an image's path without its suffix; sub-folders stay part of a name."""
    stem, suffix = os.path.splitext(image_path(file_name))
    return stem if suffix.lower() in IMAGE_SUFFIXES else stem + suffix


def image_path(file_name: str) -> str:
    """Returns `file_name` with forward slashes, whatever system wrote it."""
    return file_name.replace("\\", "/")


def label_text(
    image: Mapping[str, Any],
    annotations: Iterable[Mapping[str, Any]],
    class_ids: Mapping[int, int],
    ignore_crowd: bool,
) -> str:
    """Returns what `coco_regions.rasterize` needs of one image as JSON text.

    Args:
      image: with "height" and "width".
      annotations: those of this image, "segmentation" as JSON text.
      class_ids: category id -> class id. Other categories are left out.
      ignore_crowd: give the ignore label to regions with "iscrowd".
    """
    regions = []
    for annotation in annotations:
        class_id = class_ids.get(annotation["category_id"])
        if class_id is None:
            continue
        if ignore_crowd and annotation.get("iscrowd"):
            class_id = IGNORE_LABEL
        number = json.dumps(annotation.get("id"))
        segmentation = annotation.get("segmentation", "[]")
        regions.append(f"[{class_id},{number},{segmentation}]")
    return (
        f'{{"height":{image["height"]},"width":{image["width"]},'
        f'"regions":[{",".join(regions)}]}}'
    )


def list_samples(
    instances: Instances,
    images_dir: str | Path,
    class_ids: Mapping[int, int],
    *,
    ignore_crowd: bool,
    skip_empty: bool = False,
) -> list[pairs.Sample]:
    """Returns the samples of one JSON file, in its order, for
    `coco_regions.read_sample`.

    Args:
      instances: the file.
      images_dir: folder of the images.
      class_ids: see `label_text`.
      ignore_crowd: likewise.
      skip_empty: leave out images without annotations, rather than take them for
        background everywhere.
    """
    folder = Path(images_dir).expanduser()
    samples = []
    for image_id, image in instances.images.items():
        name = name_inside(folder, image["file_name"], instances.path)
        annotations = instances.annotations.get(image_id, ())
        if skip_empty and not annotations:
            continue
        samples.append(
            pairs.Sample(
                sample_name(name),
                str(folder / name),
                label_text(image, annotations, class_ids, ignore_crowd),
            )
        )
    return samples
