"""What callers take for images in, arrays that a network takes out, or a sentence."""

from __future__ import annotations

import os
import warnings

import numpy as np
from PIL import Image

from deeplab_tf.networks.models import MIN_IMAGE_SIZE
from deeplab_tf.networks.pixel_range import (
    pixel_range,
    why_impossible,
    why_unlikely,
)
from deeplab_tf.pictures.images import MODES, pillow_pixels, read_image


def checked_image(image):
    """Returns one image, RGB in 0..255 [height, width, 3]; see `Segmenter.predict`.

    Args:
      image: a path, a PIL image, an array, a tensor, or what NumPy makes an array of.
        What has a shape and can be sliced, such as a `numpy.memmap`, stays as it is.

    Raises:
      OSError: there is no such file, or it cannot be read.
      ValueError: it is none, or its values cannot be those of an image of 8 bits.
    """
    if isinstance(image, (str, os.PathLike)):
        image = _read(image)
    elif isinstance(image, Image.Image) and image.mode in MODES:
        image = pillow_pixels(image)
    image = _as_array(image)
    shape = tuple(image.shape)
    if len(shape) != 3 or shape[-1] != 3:
        raise ValueError(
            "Expected RGB images: predict takes one, [height, width, 3]. Received: "
            f"shape {shape}{_likely(shape, batched=False)}"
        )
    _check_size(shape)
    _check_values(image)
    return image


def checked_images(images):
    """Returns images of one size, RGB in 0..255 [B, height, width, 3]; B may be 0.

    Args:
      images: as of `checked_image`.

    Raises:
      ValueError: as of `checked_image`.
    """
    images = _as_array(images)
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(
            "Expected RGB images [B, height, width, 3], B of 1 where it is one. "
            f"Received: shape {shape}{_likely(shape, batched=True)}"
        )
    _check_size(shape[1:])
    for image in images:
        _check_values(image)
    return images


def _read(path: str | os.PathLike) -> np.ndarray:
    try:
        return read_image(path, MIN_IMAGE_SIZE)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def _as_array(images):
    if isinstance(images, (str, bytes, os.PathLike)):
        raise ValueError(
            "Expected RGB images as an array, not a file. Received: "
            f"{str(images)[:80]!r}. Give its path to Segmenter.predict, or read it: "
            "image = deeplab_tf.pictures.images.read_image(path)"
        )
    if all(hasattr(images, name) for name in ("shape", "dtype", "__getitem__")):
        return images
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise ValueError(
            f"Expected RGB images of one size as one array. Received: {error}. Give "
            "images of several sizes to predict, one by one."
        ) from error
    if array.dtype == object:
        raise ValueError(
            "Expected RGB images as an array, uint8 [height, width, 3]. Received: "
            f"{type(images).__name__}"
        )
    return array


def _likely(shape: tuple[int, ...], batched: bool) -> str:
    """What an array of such a shape likely is, and what to do."""
    first = int(batched)
    if len(shape) == 3 + first and shape[first] == 3:
        return f". Channels come last: np.moveaxis(image, {first}, -1)"
    if len(shape) == 4 and shape[-1] == 3:
        return ", a batch. Give image[0], or the batch to predict_batch"
    if batched and len(shape) == 3 and shape[-1] == 3:
        return ", one image. Give image[None], or the image to predict"
    if len(shape) == 3 + first and shape[-1] == 4:
        return ", RGB and transparency. Give image[..., :3]"
    if len(shape) == 3 + first and shape[-1] == 1:
        return ", of one channel. Give np.repeat(image, 3, -1)"
    if len(shape) == 2 + first:
        return ", without channels. A grey image is np.stack([image] * 3, -1)"
    return ""


def _check_size(shape: tuple[int, ...]) -> None:
    if min(shape[:2]) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"Images must be at least {MIN_IMAGE_SIZE} pixels a side. "
            f"Received: {shape[0]}x{shape[1]} (height x width)"
        )


def _check_values(image) -> None:
    """Refuses values that no image of 8 bits has, and warns of what is likely none.

    Raises:
      ValueError: as above.
    """
    dtype = np.dtype(getattr(image.dtype, "as_numpy_dtype", image.dtype))
    is_number = dtype.kind in "uif" and dtype.itemsize <= 8  # which TensorFlow takes
    if not is_number and dtype.name != "bfloat16":
        raise ValueError(
            f"Expected RGB in 0..255, uint8 or float. Received: {dtype.name}"
        )
    pixels = pixel_range(image)
    if sentence := why_impossible(pixels):
        raise ValueError(sentence)
    if sentence := why_unlikely(pixels):
        warnings.warn(sentence, stacklevel=4)
