"""COCO's panoptic segments: a JSON file names the class of each, a PNG shows them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from deeplab_tf.data.annotations import coco
from deeplab_tf.data.building import files, image_files, pairs
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.records.info import IGNORE_LABEL

from . import coco_layout
from .catalog import DATASETS

ANNOTATION_KEYS = {"image_id": (int, str), "file_name": str, "segments_info": list}


def class_ids_of(categories: Mapping[int, Mapping], path: Path) -> dict[int, int]:
    """Returns category id -> class id, in the order of category ids.

    Raises:
      DatasetError: the names are not those of `DATASETS["coco_panoptic"]`.
    """
    expected = DATASETS["coco_panoptic"].class_names
    names = [category["name"] for category in categories.values()]
    if len(names) != len(expected):
        raise DatasetError(
            f"Expected the {len(expected)} panoptic categories in {path}. "
            f"Received: {len(names)}"
        )
    for name, wanted in zip(names, expected):
        if name != wanted:
            raise DatasetError(
                f"Expected COCO's panoptic categories in {path}, in the order of their "
                f"ids. Received: {name} instead of {wanted}"
            )
    return {category_id: i for i, category_id in enumerate(categories)}


def list_samples(input_dir: Path, path: Path) -> list[pairs.Sample]:
    """Returns the samples of a panoptic JSON file, in its order, for `read_sample`.

    Args:
      input_dir: folder in COCO's layout.
      path: of the file.

    Raises:
      DatasetError: the file is not COCO's, or its folder of PNGs is absent.
    """
    document = coco.read_json(path)
    class_ids = class_ids_of(coco.read_categories(document, path), path)
    images = coco.read_images(document, path)
    annotations = coco.read_items(document, "annotations", ANNOTATION_KEYS, path)
    release = path.stem.replace("panoptic_", "")
    images_folder = coco_layout.images_folder(input_dir, release)
    masks_folder = coco_layout.find_folder(
        [
            # The archive within the archive, unzipped to a folder of its own name.
            path.parent / path.stem / path.stem,
            path.parent / path.stem,
            input_dir / path.stem,
        ],
        "the PNG files of panoptic segments",
    )
    samples = []
    for annotation in annotations:
        image = images.get(annotation["image_id"])
        if image is None:
            raise DatasetError(
                f"Expected annotations of the images in {path}. Received: "
                f"{annotation['file_name']} with image_id {annotation['image_id']!r}"
            )
        text = segments_text(
            masks_folder
            / coco.name_inside(masks_folder, annotation["file_name"], path),
            annotation["segments_info"],
            class_ids,
        )
        image_name = coco.name_inside(images_folder, image["file_name"], path)
        image_path = str(images_folder / image_name)
        samples.append(pairs.Sample(coco.sample_name(image_name), image_path, text))
    return samples


def segments_text(
    png: Path, segments_info: Iterable[Mapping], class_ids: Mapping[int, int]
) -> str:
    """Returns what `read_sample` needs of one image as JSON text.

    Raises:
      DatasetError: a segment lacks its id, or is of a category that is not there.
    """
    segments = {}
    for segment in segments_info:
        try:
            segments[segment["id"]] = class_ids[segment["category_id"]]
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"Expected segments with 'id' and a known 'category_id' for {png}. "
                f"Received: {json.dumps(segment):.150}"
            ) from error
    return json.dumps({"png": str(png), "segments": segments}, separators=(",", ":"))


def convert_label(colors: np.ndarray, segments: Mapping[int, int]) -> np.ndarray:
    """Maps segments to classes.

    Args:
      colors: uint8 [height, width, 3]; red + 256 green + 65536 blue is a segment's
        id, 0 is none.
      segments: id of a segment -> class id.

    Returns:
      uint8 [height, width], class ids, or 255 where no segment is.

    Raises:
      ValueError: the image holds a segment that is not in `segments`.
    """
    ids = colors.astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)
    found, inverse = np.unique(ids, return_inverse=True)
    table = {0: IGNORE_LABEL, **segments}
    unknown = [str(i) for i in found.tolist() if i not in table]
    if unknown:
        raise ValueError(
            "the PNG holds segments that the JSON does not name: "
            f"{', '.join(unknown[:5])}; expected files of the same release"
        )
    classes = np.array([table[i] for i in found.tolist()], np.uint8)
    return classes[inverse].reshape(ids.shape)


def read_sample(sample: pairs.Sample) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and the classes of its segments."""
    label = json.loads(sample.label)
    image = files.open_image(files.read_file(label["png"]), label["png"])
    if image.mode != "RGB":
        raise ValueError(
            f"{label['png']} has Pillow mode {image.mode}; expected RGB, whose three "
            "channels together are the id of a segment"
        )
    segments = {int(i): class_id for i, class_id in label["segments"].items()}
    image_bytes = image_files.read_image(sample.image, "ignore")
    return image_bytes, convert_label(np.asarray(image), segments)
