"""One pair of image and label: reading its files and checking that they fit.

Used by the builders and, in worker processes, by `building.dataset`: without
TensorFlow.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from deeplab_tf.data.building.errors import DatasetError
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


# --- Reading files -------------------------------------------------------------------


def read_list(path: str | Path) -> list[str]:
    """Returns the non-empty lines of a text file, stripped.

    Raises:
      DatasetError: the file is absent, has no such line, or is not text in UTF-8.
    """
    if not Path(path).is_file():
        raise DatasetError(f"Expected a list of names. There is no file {path}.")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"Expected text in UTF-8 in {path}. Received: another encoding ({error}). "
            "Save it as UTF-8."
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DatasetError(f"Expected at least one name in {path}. Received: none")
    return lines


def find_file(folder: str | Path, stem: str, suffixes: Sequence[str]) -> str:
    """Returns the path of `stem` with the first of `suffixes` that exists.

    Where none exists, returns the path with all suffixes in braces: reading it fails
    with a sentence that says where the file was looked for.
    """
    paths = [os.path.join(folder, stem + suffix) for suffix in suffixes]
    missing = os.path.join(folder, f"{stem}{{{','.join(suffixes)}}}")
    return next(filter(os.path.isfile, paths), paths[0] if len(paths) == 1 else missing)


def read_file(path: str) -> bytes:
    """Returns the bytes of a file.

    Raises:
      ValueError: the file cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror})") from error


def open_image(data: bytes, path: str) -> Image.Image:
    """Decodes the bytes of an image file; `path` is for the error only.

    Raises:
      ValueError: Pillow cannot decode all of it.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image file") from error
    # Damaged files make Pillow raise OSError, SyntaxError, struct.error and others.
    except Exception as error:
        raise ValueError(f"{path} cannot be decoded ({error})") from error
    return image


def read_label(path: str) -> np.ndarray:
    """Reads a mask file as the ids that it stores.

    A palette PNG gives its indices, not its colours. Grey PNGs of 1, 2 or 4 bits give
    their stored values, which Pillow scales to 0..255.

    Returns:
      uint8 [height, width].

    Raises:
      ValueError: the file cannot be read, or is not one channel of at most 8 bits.
    """
    data = read_file(path)
    image = open_image(data, path)
    if image.format == "JPEG":
        raise ValueError(f"{path} is a JPEG, which alters ids; expected a PNG mask")
    if image.mode not in ("1", "L", "P"):
        raise ValueError(
            f"{path} has colours or more than 8 bits (Pillow mode {image.mode}); "
            "expected one channel of class ids: a palette or 8-bit grey PNG"
        )
    label = np.asarray(image, dtype=np.uint8)
    bit_depth = data[24] if image.format == "PNG" and image.mode == "L" else 8
    return label // (255 // (2**bit_depth - 1))


# --- Checking one pair, in a worker process ------------------------------------------


class Pair(NamedTuple):
    """A pair that passed the checks, ready to be written."""

    image_bytes: bytes
    label_png: bytes
    image_format: str
    height: int
    width: int
    pixel_counts: np.ndarray  # int64 [num_classes]


def check_image(image_bytes: bytes, path: str) -> tuple[str, int, int]:
    """Checks that TensorFlow will show the image as every viewer does.

    Returns:
      ("jpeg" or "png", height, width).

    Raises:
      ValueError: no whole JPEG or PNG, not RGB, or to be turned by an EXIF tag.
    """
    image = open_image(image_bytes, path)
    # MPO is a JPEG with more pictures after the first, as telephones write it.
    formats = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}
    if image.format not in formats:
        raise ValueError(f"{path} is a {image.format} file; expected JPEG or PNG")
    if image.mode != "RGB":
        raise ValueError(f"{path} has Pillow mode {image.mode}; expected RGB")
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
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
