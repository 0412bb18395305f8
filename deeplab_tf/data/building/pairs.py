"""One pair of image and label: checks that image and label fit.

Used in worker processes: without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab_tf.data.building import files
from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.data.records.tfrecord import encode_label

# EXIF tag that says how a viewer must turn the stored pixels; 1 is upright.
EXIF_ORIENTATION = 274


class Sample(NamedTuple):
    """One pair to read.

    Attributes:
      name: name of the example, unique in its split.
      image: path of the image, or whatever the builder's `read_sample` needs.
      label: path of the label, likewise.
    """

    name: str
    image: str
    label: str


ReadSample = Callable[[Sample], tuple[bytes, np.ndarray]]


class Pair(NamedTuple):
    """A pair that passed the checks, ready to be written."""

    image_bytes: bytes
    label_png: bytes
    image_format: str
    height: int
    width: int
    pixel_counts: np.ndarray  # int64 [num_classes]


def orientation_of(image: Image.Image) -> int:
    """Returns EXIF's orientation, 1 to 8; 1, upright, where there is none that counts.

    Some programs write 0, which viewers show upright.
    """
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # EXIF that cannot be read says nothing about the pixels.
        return 1
    return orientation if orientation in range(1, 9) else 1


def check_image(image_bytes: bytes, path: str) -> tuple[str, int, int]:
    """Checks that TensorFlow will show the image as every viewer does.

    Returns:
      ("jpeg" or "png", height, width).

    Raises:
      ValueError: no whole JPEG or PNG, not RGB, or to be turned by an EXIF tag.
    """
    image = files.open_image(image_bytes, path)
    # MPO is a JPEG with more pictures after the first, as telephones write it.
    formats = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}
    if image.format not in formats:
        raise ValueError(f"{path} is a {image.format} file; expected JPEG or PNG")
    if image.mode != "RGB":
        raise ValueError(f"{path} has Pillow mode {image.mode}; expected RGB")
    orientation = orientation_of(image)
    if orientation != 1:
        raise ValueError(
            f"{path} is stored turned (EXIF orientation {orientation}) and its label "
            "may not be; expected upright pixels without this tag"
        )
    return formats[image.format], image.height, image.width


def check_label(label: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Counts the pixels of each class.

    Args:
      label: uint8 [height, width].
      info: says which ids are allowed.

    Returns:
      int64 [num_classes].

    Raises:
      ValueError: an id is neither a class nor the ignore label.
    """
    counts = np.bincount(label.ravel(), minlength=256)
    ids = np.flatnonzero(counts)
    wrong = ids[(ids >= info.num_classes) & (ids != info.ignore_label)]
    if wrong.size:
        raise ValueError(
            f"label has the ids {', '.join(map(str, wrong))}; expected 0 to "
            f"{info.num_classes - 1} or {info.ignore_label} (ignored)"
        )
    return counts[: info.num_classes]


def check_pair(sample: Sample, read_sample: ReadSample, info: DatasetInfo):
    """Reads and checks one pair.

    Returns:
      A `Pair`, or the sentence that says what is wrong with it.
    """
    try:
        image_bytes, label = read_sample(sample)
        image_format, height, width = check_image(image_bytes, sample.image)
        if label.shape != (height, width):
            raise ValueError(
                f"image is {width}x{height} (width x height), label is "
                f"{label.shape[1]}x{label.shape[0]}; expected the same size"
            )
        pixel_counts = check_label(label, info)
        label_png = encode_label(label)
    except ValueError as error:
        return str(error)
    return Pair(image_bytes, label_png, image_format, height, width, pixel_counts)
