"""Images in, the same with a colour below and to the right of them out.

The papers evaluate every image at one size, that of the crops of training: what is
smaller is padded with the network's mean colour, and the scores are cut back
(tensorflow/models, research/deeplab/input_preprocess.py). For image-level pooling,
which sees the pad, that is another input.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Sequence

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.networks.layers import ImageNormalization, mean_color
from deeplab_tf.networks.models import MIN_IMAGE_SIZE

MEAN_COLOR = "mean_color"  # key of the labels of an export
MOST_PIXELS = 8192  # a side, four times Cityscapes' images


def checked_padding(pad_to: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Returns (height, width) of what may also be the side of a square, or None.

    Raises:
      ValueError: it is no size, or a side that no network takes.
    """
    if pad_to is None:
        return None
    sides = (pad_to, pad_to) if isinstance(pad_to, numbers.Real) else tuple(pad_to)
    fits = [
        isinstance(side, numbers.Real)
        and MIN_IMAGE_SIZE <= side <= MOST_PIXELS
        and side == int(side)
        for side in sides
    ]
    if len(sides) != 2 or not all(fits):
        raise ValueError(
            f"pad_to must be a size or (height, width) of {MIN_IMAGE_SIZE} to "
            f"{MOST_PIXELS} pixels a side, such as 513. Received: {pad_to}"
        )
    return int(sides[0]), int(sides[1])


def outgrows(size: Sequence[int], pad_to: tuple[int, int] | None) -> bool:
    """Says whether an image of (height, width) is longer on a side, which so stays."""
    return pad_to is not None and any(s > padded for s, padded in zip(size, pad_to))


def describe_outgrown(count: int, pad_to: tuple[int, int]) -> str:
    """Says how many images were longer on a side."""
    size = "x".join(map(str, pad_to))
    are = "image is" if count == 1 else "images are"
    return (
        f"{count} {are} larger than --pad_to={size} (height x width) and not cut: the "
        "longer side is run as it is, which the papers never do; their size holds "
        "every image."
    )


def pad_images(
    images: tf.Tensor, pad_to: tuple[int, int] | None, color: Sequence[float] | None
) -> tf.Tensor:
    """Pads images that are smaller than a size; a side that is longer stays.

    Args:
      images: float32 [B, h, w, 3], RGB in 0..255.
      pad_to: (height, width); None pads nothing.
      color: RGB in 0..255.

    Returns:
      float32 [B, max(h, height), max(w, width), 3].
    """
    if pad_to is None:
        return images
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    below = tf.maximum(pad_to[0] - height, 0)
    right = tf.maximum(pad_to[1] - width, 0)
    color = tf.constant(color, images.dtype)
    column = tf.broadcast_to(color, [batch, height, right, 3])
    images = tf.concat([images, column], 2)
    row = tf.broadcast_to(color, [batch, below, width + right, 3])
    return tf.concat([images, row], 1)


def cut_back(scores, images: tf.Tensor, pad_to: tuple[int, int] | None):
    """Cuts what padded images gave, [B, H, W, ...], to the images [B, h, w, 3]."""
    if pad_to is None:
        return scores
    height, width = tf.unstack(tf.shape(images)[1:3])
    return scores[:, :height, :width]


def pad_colors(
    own: Sequence[tuple[float, ...] | None],
    pad_to: tuple[int, int] | None,
    color: Sequence[float] | None,
) -> list[tuple[float, ...] | None]:
    """Chooses what each network's images are padded with.

    Args:
      own: each network's mean colour, as far as it tells it.
      pad_to: None pads nothing.
      color: RGB in 0..255 for all; None is each network's own.

    Raises:
      ValueError: it is no colour, or a network does not tell its own.
    """
    color = None if color is None else _checked_color(color)
    colors = [color or each for each in own]
    if pad_to is not None and None in colors:
        raise ValueError(
            "Padding takes the colour that a network's normalization makes zero, and "
            "this one does not tell it. If it is an export of an older version, export "
            "it again, or give the run's folder. In Python give pad_color too: "
            "(127.5, 127.5, 127.5) where pixels are prepared as x / 127.5 - 1."
        )
    return colors


def _checked_color(color: Sequence[float]) -> tuple[float, float, float]:
    color = tuple(map(float, color))
    if len(color) != 3 or not all(0 <= value <= 255 for value in color):
        raise ValueError(f"Expected pad_color as RGB in 0..255. Received: {color}")
    return color


def mean_color_of(model: keras.Model) -> tuple[float, float, float] | None:
    """Returns the RGB that a model's normalization makes zero; None where it has none.

    Args:
      model: of this package, or one that holds such a model.
    """
    for layer in model.layers:
        if isinstance(layer, ImageNormalization):
            return mean_color(layer.mode)
        if isinstance(layer, keras.Model) and (color := mean_color_of(layer)):
            return color
    return None


def mean_color_in(labels: str) -> tuple[float, float, float] | None:
    """Returns the mean colour that the labels of an export tell.

    Args:
      labels: JSON.

    Returns:
      RGB in 0..255; None of exports of before it was told, and of what is no colour.
    """
    color = json.loads(labels).get(MEAN_COLOR)
    try:
        return _checked_color(color)
    except (TypeError, ValueError):
        return None
