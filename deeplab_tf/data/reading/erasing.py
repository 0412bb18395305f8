"""Random erasing: a rectangle of a finished crop becomes what a pad is.

Zhong et al. 2017 (1708.04896), whose numbers these are, erase for classification, where
the label stays. Here what was erased cannot be seen, so its label is void and nothing
is taught of it (mmsegmentation's RandomCutOut has it as `seg_fill_in`, off unless
asked for).
"""

from __future__ import annotations

import math

import tensorflow as tf

from deeplab_tf.data.reading.augment import fold_in

AREA = (0.02, 0.4)  # of the crop's
ASPECT = (0.3, 1 / 0.3)  # height over width
# Folded into an example's seed.
ERASE_SALT = 32


def find_rectangle(
    size: tuple[int, int], draws: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the top left pixel and the size of a rectangle, both int32 [2].

    Args:
      size: (height, width) of the crop; a rectangle that would be longer is cut.
      draws: float32 [4] in [0, 1): area, aspect, and where it lies from top and left.
    """
    area = (AREA[0] + (AREA[1] - AREA[0]) * draws[0]) * size[0] * size[1]
    low, high = map(math.log, ASPECT)
    aspect = tf.exp(low + (high - low) * draws[1])
    sides = tf.sqrt(tf.stack([area * aspect, area / aspect]))
    sides = tf.clip_by_value(tf.cast(tf.round(sides), tf.int32), 1, size)
    free = tf.cast(size - sides + 1, tf.float32)
    return tf.minimum(tf.cast(draws[2:] * free, tf.int32), size - sides), sides


def erase(
    image: tf.Tensor,
    label: tf.Tensor,
    seed: tf.Tensor,
    *,
    probability: float,
    mean_color: tuple[float, float, float],
    ignore_label: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Erases a rectangle of some crops.

    Args:
      image: float32 [h, w, 3]; its size is static.
      label: uint8 [h, w, 1], static as well.
      seed: int64 [2], of the example.
      probability: share of the crops that lose one, 0 to 1.
      mean_color: RGB that fills the image.
      ignore_label: fills the label.
    """
    draws = tf.random.stateless_uniform([5], fold_in(seed, ERASE_SALT))
    offset, sides = find_rectangle(tuple(image.shape[:2]), draws[:4])

    def filled(pixels, color):
        """As matrices of one shape: TensorFlow selects several times as quickly."""
        height, width, channels = pixels.shape
        rows, columns = (
            (tf.range(size) >= offset[axis]) & (tf.range(size) < (offset + sides)[axis])
            for axis, size in enumerate((height, width))
        )
        erased = rows[:, tf.newaxis] & tf.repeat(columns, channels)
        matrix = [height, width * channels]
        fill = tf.broadcast_to(tf.constant(color * width, pixels.dtype), matrix)
        kept = tf.where(erased, fill, tf.reshape(pixels, matrix))
        return tf.reshape(kept, pixels.shape)

    return tf.cond(
        draws[4] < probability,
        lambda: (filled(image, tuple(mean_color)), filled(label, (ignore_label,))),
        lambda: (image, label),
    )
