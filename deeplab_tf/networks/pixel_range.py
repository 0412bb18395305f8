"""The values of an image in, a sentence out where they are not RGB in 0..255.

Networks normalize what they are given; an image that was normalized before looks to
them like a black one, and is answered without a word.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# A bicubic resize goes beyond 0..255 by as much at sharp edges; what goes further has
# lost the mean colour of a data set, or never was an image of 8 bits.
_OVERSHOOT = 64
_DARK = 160  # an image that goes below 0 by overshoot has light edges as well
_NORMALIZED = 16  # largest value of images divided by 255, 127.5 or a deviation
_BLOCK_ROWS = 256


class PixelRange(NamedTuple):
    """What is known of the values of an image.

    Attributes:
      low, high: smallest and largest value, NaN where there is one.
      is_whole: whether all values are whole numbers; exact up to `high` 1.
      dtype: theirs.
    """

    low: float
    high: float
    is_whole: bool
    dtype: np.dtype


def pixel_range(image) -> PixelRange:
    """Looks at an image, a block of rows at a time.

    Of uint8 only the first block that is not all 0 and 1 is looked at.

    Args:
      image: numbers [height, width, channels]; what has a shape, a dtype and can be
        sliced.
    """
    dtype = np.dtype(getattr(image.dtype, "as_numpy_dtype", image.dtype))
    low, high, is_whole = np.inf, -np.inf, True
    for top in range(0, image.shape[0], _BLOCK_ROWS):
        block = np.asarray(image[top : top + _BLOCK_ROWS])
        # Not Python's min, which would lose a NaN.
        low = np.minimum(low, block.min())
        high = np.maximum(high, block.max())
        if dtype == np.uint8 and high > 1:
            break
        if dtype.kind not in "ui" and is_whole and high <= 1:
            is_whole = bool((block == np.rint(block)).all())
    return PixelRange(float(low), float(high), is_whole, dtype)


def why_impossible(pixels: PixelRange) -> str:
    """Says why no image of 8 bits has such values; "" where one has."""
    low, high, is_whole, dtype = pixels
    received = f"Received: {low:g} to {high:g}, {dtype.name}"
    if not (np.isfinite(low) and np.isfinite(high)):
        return (
            "Expected RGB in 0..255. Received: NaN or infinite values. Where do they "
            "come from?"
        )
    if dtype.kind in "ui" and (low < 0 or high > 255):
        return (
            f"Expected RGB in 0..255. {received}. Give the upper 8 of 16 bits: "
            "(image >> 8).astype('uint8')"
        )
    normalized = high <= 1 and not is_whole or low < 0 and high <= _NORMALIZED
    if normalized or low < -_OVERSHOOT or high > 255 + _OVERSHOOT:
        return (
            f"Expected RGB in 0..255, as it is read: the network normalizes it. "
            f"{received}. Give the image without a normalization of your own, or "
            "255 * image where it is in 0..1."
        )
    return ""


def why_unlikely(pixels: PixelRange) -> str:
    """Says why such values are hardly those of an image of 8 bits; "" elsewhere."""
    low, high, _, dtype = pixels
    if 0 < high <= 1 or (low < -0.5 and high <= _DARK):
        return (
            "RGB in 0..255 is expected, and this may be something else. "
            f"Received: {low:g} to {high:g}, {dtype.name}"
        )
    return ""
