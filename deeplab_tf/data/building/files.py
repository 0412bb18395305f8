"""Reading the files of a data set: lists, images, labels as the ids that they store.

Errors of one pair's files are ValueErrors, with a sentence: a builder goes on with the
other pairs. Used in worker processes: without TensorFlow.
"""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.image_kinds import missing_package, pillow_formats
from deeplab_tf.image_work import check_work


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
    paths = [as_stored(os.path.join(folder, stem + suffix)) for suffix in suffixes]
    missing = os.path.join(folder, f"{stem}{{{','.join(suffixes)}}}")
    return next(filter(os.path.isfile, paths), paths[0] if len(paths) == 1 else missing)


def as_stored(path: str) -> str:
    """Returns a path in the form of Unicode in which its file is there, if in any.

    macOS takes names apart (NFD), others and lists put them together (NFC).
    """
    forms = (path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD")))
    return next(filter(os.path.lexists, forms), path)


def read_file(path: str) -> bytes:
    """Returns the bytes of a file.

    Raises:
      ValueError: the file cannot be read.
    """
    try:
        return Path(as_stored(path)).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror})") from error


def open_head(data: bytes, path: str) -> Image.Image:
    """Opens the bytes of an image file without decoding its pixels.

    Raises:
      ValueError: Pillow cannot read its head, or needs a package for it; or see
        `image_work.check_work`. `path` is for the sentence only.
    """
    missing = missing_package(data[:12])
    if missing:
        raise ValueError(f"{path} is {missing}")
    try:
        check_work(data)
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from error
    try:
        return Image.open(io.BytesIO(data), formats=pillow_formats())
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image file") from error
    # Damaged files make Pillow raise OSError, SyntaxError, struct.error and others.
    except Exception as error:
        raise ValueError(f"{path} cannot be decoded ({error})") from error


def open_image(data: bytes, path: str) -> Image.Image:
    """Decodes the bytes of an image file; `path` is for the error only.

    Raises:
      ValueError: see `open_head`; or not all of it can be decoded, or it holds several
        pictures.
    """
    image = open_head(data, path)
    try:
        # Of the pictures in a telephone's MPO the first is the photo.
        several = image.format != "MPO" and getattr(image, "is_animated", False)
        image.load()
    except Exception as error:
        raise ValueError(f"{path} cannot be decoded ({error})") from error
    if several:
        raise ValueError(
            f"{path} holds several pictures or pages; expected one. Save the one that "
            "counts as a file"
        )
    return image


# --- Masks that store ids ------------------------------------------------------------

_MASK_FORMATS = ("BMP", "GIF", "PNG", "TIFF")
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WHITE_IS_ZERO = 0


def read_label(path: str, max_bits: int = 8) -> np.ndarray:
    """Reads a mask file as the ids that it stores.

    A palette gives its indices, not its colours; its transparency and that of greys
    says nothing of ids. Grey PNGs and TIFFs of 2 or 4 bits
    give their stored values, which Pillow scales to 0..255.

    Args:
      path: of the mask.
      max_bits: 16 also takes files of 16 bits (or more) whose values are below 256.

    Returns:
      uint8 [height, width].

    Raises:
      ValueError: the file cannot be read, is of a lossy kind, or is not one channel
        of at most 8 bits.
    """
    data = read_file(path)
    image = open_image(data, path)
    if image.format not in _MASK_FORMATS:
        raise ValueError(
            f"{path} is a {image.format}, which alters ids; expected a PNG mask"
        )
    if image.mode in _WIDE_MODES:
        return _narrow(np.asarray(image), image.mode, path, max_bits)
    if image.mode == "LA":
        return np.asarray(image.getchannel("L"))
    if image.mode not in ("1", "L", "P"):
        raise ValueError(
            f"{path} has colours or more than 8 bits (Pillow mode {image.mode}); "
            "expected one channel of class ids: a palette or 8-bit grey PNG"
        )
    label = np.asarray(image, dtype=np.uint8)
    bit_depth = _stored_bits(data, image, path) if image.mode == "L" else 8
    return label // (255 // (2**bit_depth - 1))


def _stored_bits(data: bytes, image: Image.Image, path: str) -> int:
    """Returns the bits of a grey pixel as they are in the file.

    Raises:
      ValueError: Pillow shows such pixels otherwise than by a plain scale.
    """
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        if image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            raise ValueError(
                f"{path} is a TIFF that stores white as 0, so that its ids are shown "
                "inverted; expected black as 0: save it as PNG"
            )
        return image.tag_v2.get(_BITS_PER_SAMPLE, (8,))[0]
    if image.format == "BMP" and int.from_bytes(data[28:30], "little") < 8:
        raise ValueError(
            f"{path} is a grey BMP of fewer than 8 bits, which Pillow reads wrongly; "
            "expected a PNG mask"
        )
    return 8


def _narrow(label: np.ndarray, mode: str, path: str, max_bits: int) -> np.ndarray:
    """Returns ids of 16 bits or more as uint8, where that is asked for and possible."""
    lowest, highest = int(label.min()), int(label.max())
    fits = 0 <= lowest and highest <= 255
    if fits and max_bits > 8:
        return label.astype(np.uint8)
    way = (
        f"its values, {lowest} to {highest}, fit into 8 bits: save it with 8"
        if fits
        else f"its values are {lowest} to {highest}, and ids end at 255"
    )
    raise ValueError(
        f"{path} has colours or more than 8 bits (Pillow mode {mode}); expected one "
        f"channel of class ids: a palette or 8-bit grey PNG. Here {way}"
    )
