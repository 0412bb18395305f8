"""Cross-entropy in which the pixels at the classes' boundaries count more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.training.losses.options import check_options
from deeplab_tf.training.losses.pixel_mean import PixelMean, cross_entropies


@keras.utils.register_keras_serializable("deeplab_tf")
class BoundaryLoss(PixelMean):
    """Cross-entropy, a weighted mean in which pixels near another class count more.

    A pixel is near one where the square of `boundary_width` pixels to each side holds a
    pixel of another class. Void is no class, and has no boundary. U-Net (1505.04597,
    equation 2) weights the gaps between cells so; its map fades with the distance,
    this one has an edge. As `PixelMean` on replicas, void pixels and weights.

    Args:
      ignore_label, class_weights, label_stride: see `SegmentationLoss`. Boundaries are
        those of the pixels that are compared, and widths theirs.
      boundary_width: pixels, 1 or more.
      boundary_weight: 0 or more, how often such a pixel counts next to the others; 1 is
        cross-entropy.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        ignore_label: int = IGNORE_LABEL,
        class_weights: Sequence[float] | Mapping[int, float] | None = None,
        label_stride: int = 1,
        boundary_width: int = 3,
        boundary_weight: float = 5.0,
        name: str = "boundary_loss",
        **kwargs,
    ):
        super().__init__(ignore_label, class_weights, label_stride, name, **kwargs)
        check_options(boundary_width=boundary_width, boundary_weight=boundary_weight)
        self.boundary_width = boundary_width
        self.boundary_weight = boundary_weight

    def pixel_losses(self, class_of, logits):
        return cross_entropies(class_of, logits)

    def chosen(self, class_of, losses, weight, valid):
        near = near_another_class(class_of, valid, self.boundary_width)
        return tf.where(near, tf.cast(self.boundary_weight, losses.dtype), 1.0)

    def get_config(self):
        return {
            **super().get_config(),
            "boundary_width": self.boundary_width,
            "boundary_weight": self.boundary_weight,
        }


def near_another_class(class_of, valid, width: int):
    """Says where a pixel's neighbourhood holds a class that is not its own.

    Args:
      class_of, valid: see `comparison.compared`.
      width: pixels of the neighbourhood to each side; it is a square.

    Returns:
      bool [B, h, w]; not to be asked at pixels to ignore.
    """
    classes = tf.cast(class_of, tf.float32)
    # The frame counts as void does: SAME fills it with what is never the largest.
    largest = _largest_around(tf.where(valid, classes, -1e6), width)
    smallest = -_largest_around(tf.where(valid, -classes, -1e6), width)
    return largest > smallest


def _largest_around(values, width: int):
    """Row by row, then column by column: a square of one pooling costs its area."""
    values, size = values[..., None], 2 * width + 1
    for window in ([size, 1], [1, size]):
        values = tf.nn.max_pool2d(values, window, strides=1, padding="SAME")
    return values[..., 0]
