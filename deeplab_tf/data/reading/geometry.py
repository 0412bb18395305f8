"""Mirrors and turns a whole image with its label, before it is cropped.

Whole pixels change places, but for `rotate`, which takes the label's nearest pixel and
fills what it uncovers like a pad. Randomness is an argument, as in `augment`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

Pair = tuple[tf.Tensor, tf.Tensor]


def upside_down(image: tf.Tensor, label: tf.Tensor, turned: tf.Tensor | bool) -> Pair:
    """Mirrors both top to bottom where `turned` (bool scalar) is true."""
    return tf.cond(
        tf.convert_to_tensor(turned),
        lambda: (tf.reverse(image, [0]), tf.reverse(label, [0])),
        lambda: (image, label),
    )


def turn_quarters(image: tf.Tensor, label: tf.Tensor, turns: tf.Tensor) -> Pair:
    """Turns both `turns` (int32 scalar, 0 to 3) times by 90 degrees, to the left."""
    return tf.image.rot90(image, turns), tf.image.rot90(label, turns)


def rotate(
    image: tf.Tensor,
    label: tf.Tensor,
    degrees: tf.Tensor,
    mean_color: tuple[float, float, float],
    ignore_label: int,
) -> Pair:
    """Turns both around their middle; they keep their size, and lose their corners.

    Args:
      image: uint8 or float32 [h, w, 3], 0..255.
      label: uint8 [h, w, 1].
      degrees: float32 scalar, above 0 to the left.
      mean_color: RGB that fills the image where the turn uncovers it.
      ignore_label: fills the label there.

    Returns:
      image: float32 [h, w, 3], bilinear; label: uint8 [h, w, 1], the nearest pixel.
    """
    angle = degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    size = tf.shape(image)[:2]
    y, x = tf.unstack(tf.cast(size - 1, tf.float32) / 2)
    shift_x, shift_y = x - cos * x + sin * y, y - sin * x - cos * y
    transform = tf.stack([cos, -sin, shift_x, sin, cos, shift_y, 0.0, 0.0])

    def turned(pixels, interpolation, fill):
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=pixels[tf.newaxis],
            transforms=transform[tf.newaxis],
            output_shape=size,
            fill_value=fill,
            interpolation=interpolation,
            fill_mode="CONSTANT",
        )[0]

    # Around the mean colour, for the fill is one value for all channels.
    image = turned(tf.cast(image, tf.float32) - mean_color, "BILINEAR", 0.0)
    return image + mean_color, turned(label, "NEAREST", float(ignore_label))


def make_move(
    *,
    vertical_flip: bool,
    quarter_turns: bool,
    rotation_degrees: float,
    mean_color: tuple[float, float, float],
    ignore_label: int,
) -> Callable:
    """Makes the mirrors and turns of a policy, see its fields.

    Returns:
      A function (image, label, seed int64 [2]) -> (image, label); without any of them
      both are what they were.
    """

    def move(image, label, seed):
        draws = tf.random.stateless_uniform([3], seed)
        if vertical_flip:
            image, label = upside_down(image, label, draws[0] < 0.5)
        if quarter_turns:
            image, label = turn_quarters(image, label, tf.cast(4 * draws[1], tf.int32))
        if rotation_degrees:
            degrees = rotation_degrees * (2 * draws[2] - 1)
            image, label = rotate(image, label, degrees, mean_color, ignore_label)
        return image, label

    return move
