"""What cross-entropy and its kin share: a weighted mean over the valid pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from deeplab_tf.training.losses.class_weights import weight_list
from deeplab_tf.training.losses.comparison import LossOfPixels
from deeplab_tf.training.losses.replicas import mean_over_replicas


class PixelMean(LossOfPixels):
    """The mean of a loss of pixels over the valid pixels of the global batch.

    Under a strategy the valid pixels of all replicas are counted, so that any number of
    replicas gives the loss and the gradient of one device. A batch without a valid
    pixel has loss 0. A subclass has `pixel_losses`, and `chosen` where not every pixel
    counts alike.

    Args:
      ignore_label, label_stride: see `LossOfPixels`.
      class_weights: one float >= 0 per class, also as {class id: weight} of all, or
        None. The loss is then the weighted mean, sum(weight * loss) / sum(weight) over
        the valid pixels.

    Raises:
      ValueError: an argument outside its range.
    """

    has_weights_of_images = True

    def __init__(
        self,
        ignore_label: int,
        class_weights: Sequence[float] | Mapping[int, float] | None,
        label_stride: int,
        name: str,
        **kwargs,
    ):
        super().__init__(ignore_label, label_stride, name, **kwargs)
        self.class_weights = weight_list(class_weights)

    def of_images(self, class_of, logits, valid, pixel_weight):
        self._check_weights(logits)
        dtype = logits.dtype
        losses = self.pixel_losses(class_of, logits)
        weight = tf.cast(valid, dtype)
        if self.class_weights is not None:
            weight *= tf.gather(tf.constant(self.class_weights, dtype), class_of)
        if pixel_weight is not None:
            weight *= pixel_weight
        chosen = self.chosen(class_of, losses, weight, valid)
        if chosen is not None:
            weight *= chosen
        weighted = tf.where(tf.not_equal(weight, 0.0), losses, 0.0) * weight
        total_weight = mean_over_replicas(tf.reduce_sum(weight))
        # Keras averages over this replica's images and then over replicas.
        images = tf.cast(tf.shape(class_of)[0], dtype)
        return tf.math.divide_no_nan(
            tf.reduce_sum(weighted, axis=[1, 2]) * images, total_weight
        )

    def pixel_losses(self, class_of, logits):
        """Returns the loss of each pixel, [B, h, w] of the logits' dtype.

        Args:
          class_of, logits: see `comparison.compared`.
        """
        raise NotImplementedError

    def chosen(self, class_of, losses, weight, valid):
        """Returns by what a pixel's weight is multiplied, [B, h, w], or None.

        Args:
          class_of, valid: see `comparison.compared`.
          losses: of `pixel_losses`.
          weight: of each pixel so far, 0 where it is ignored, [B, h, w].
        """
        return None

    def _check_weights(self, logits):
        classes = logits.shape[-1]
        if self.class_weights and classes not in (None, len(self.class_weights)):
            raise ValueError(
                f"class_weights needs one value for each of the {classes} classes of "
                f"the logits. Received: {len(self.class_weights)}"
            )

    def get_config(self):
        return {**super().get_config(), "class_weights": self.class_weights}


def cross_entropies(class_of, logits):
    """Returns the cross-entropy of each pixel, [B, h, w] of the logits' dtype.

    Args:
      class_of, logits: see `comparison.compared`.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=class_of, logits=logits
    )
