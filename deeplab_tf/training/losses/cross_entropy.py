"""Cross-entropy, of all pixels or of the hardest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.training.losses.options import check_options
from deeplab_tf.training.losses.pixel_mean import PixelMean, cross_entropies
from deeplab_tf.training.losses.replicas import concat_over_replicas


@keras.utils.register_keras_serializable("deeplab_tf")
class SegmentationLoss(PixelMean):
    """Softmax cross-entropy, mean over the valid pixels of the global batch.

    Under a strategy the valid pixels of all replicas are counted, so that any number of
    replicas gives the loss and the gradient of one device. A batch without a valid
    pixel has loss 0.

    Hard pixels: the authors' code (top_k_percent_pixels, hard_example_mining_step)
    keeps the pixels of largest weighted loss, k of all pixels on each GPU. Here k is
    the fraction of the valid pixels of the global batch, for the sake of the contract
    above; pixels that tie with the k-th are kept too.

    Args:
      ignore_label: label value that is not counted, outside [0, num_classes).
      class_weights: one float >= 0 per class, also as {class id: weight} of all, or
        None. The loss is then the weighted mean, sum(weight * loss) / sum(weight) over
        the valid pixels.
      label_stride: compares labels and logits at every `label_stride`-th pixel only.
        At 8 that is the loss of DeepLabV1 and V2 (V2, section 4.1: ground truth
        subsampled by 8), as the models' up-sampling puts feature i at pixel 8i.
      hard_pixel_fraction: the fraction, in (0, 1], of the valid pixels that counts,
        those of largest loss.
      hard_mining_steps: the fraction falls linearly from 1 to `hard_pixel_fraction`
        over this many steps; 0 starts there.
      label_smoothing: in [0, 1): the part of the target that all classes share alike,
        the pixel's own among them (Szegedy et al., 1512.00567, section 7). A pixel's
        class weight stays that of its label.
      step: integer variable that holds the step, `optimizer.iterations` in training: it
        is checkpointed with the optimizer, so a resumed run goes on where it was. Not
        in the config: a loss without it has ended its descent.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        ignore_label: int = IGNORE_LABEL,
        class_weights: Sequence[float] | Mapping[int, float] | None = None,
        label_stride: int = 1,
        hard_pixel_fraction: float = 1.0,
        hard_mining_steps: int = 0,
        label_smoothing: float = 0.0,
        step=None,
        name: str = "segmentation_loss",
        **kwargs,
    ):
        super().__init__(ignore_label, class_weights, label_stride, name, **kwargs)
        check_options(
            hard_pixel_fraction=hard_pixel_fraction,
            hard_mining_steps=hard_mining_steps,
            label_smoothing=label_smoothing,
        )
        self.hard_pixel_fraction = hard_pixel_fraction
        self.hard_mining_steps = hard_mining_steps
        self.label_smoothing = label_smoothing
        self._step = step

    def pixel_losses(self, class_of, logits):
        losses = cross_entropies(class_of, logits)
        if not self.label_smoothing:
            return losses
        of_all = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
        return losses + self.label_smoothing * (of_all - losses)

    def chosen(self, class_of, losses, weight, valid):
        if self.hard_pixel_fraction == 1:
            return None
        return self._hard_pixels(tf.where(valid, losses, 0.0) * weight, valid)

    def _hard_pixels(self, pixel_losses, valid):
        """1.0 where a pixel's loss is among the largest of the batch, 0.0 elsewhere."""
        # -1 is below every loss: pixels to ignore are never among the largest.
        ranked = tf.stop_gradient(tf.where(valid, pixel_losses, -1.0))
        everywhere = concat_over_replicas(tf.reshape(ranked, [-1]))
        num_valid = tf.reduce_sum(tf.cast(everywhere >= 0, tf.float32))
        k = tf.maximum(tf.cast(tf.round(self._fraction() * num_valid), tf.int64), 1)
        # Not `>=`, which would leave NaN out of the loss.
        easy = ranked < kth_largest(everywhere, k)
        return tf.cast(~easy, ranked.dtype)

    def _fraction(self):
        if self._step is None or not self.hard_mining_steps:
            return self.hard_pixel_fraction
        step = tf.cast(tf.convert_to_tensor(self._step), tf.float32)
        done = tf.minimum(step / self.hard_mining_steps, 1.0)
        return 1.0 - done * (1.0 - self.hard_pixel_fraction)

    def get_config(self):
        return {
            **super().get_config(),
            "hard_pixel_fraction": self.hard_pixel_fraction,
            "hard_mining_steps": self.hard_mining_steps,
            "label_smoothing": self.label_smoothing,
        }


def kth_largest(values, k):
    """The k-th largest of values, where at least k are >= 0; else 0.0.

    Found bit by bit from the highest: floats >= 0 are ordered as their bits are. It
    needs no sorting, and no size that depends on k, which XLA would have to know.

    Args:
      values: float32 or float64 [n].
      k: int64 scalar, at least 1.
    """
    bits = values.dtype.size * 8 - 1  # the first is the sign
    integer = tf.int64 if bits > 32 else tf.int32

    def try_bit(index, found):
        candidate = found + tf.bitwise.left_shift(tf.ones([], integer), index)
        count = tf.math.count_nonzero(values >= tf.bitcast(candidate, values.dtype))
        return index - 1, tf.where(count >= k, candidate, found)

    _, found = tf.while_loop(
        lambda index, found: index >= 0,
        try_bit,
        (tf.constant(bits - 1, integer), tf.zeros([], integer)),
    )
    kth = tf.bitcast(found, values.dtype)
    # Some devices take denormal numbers for 0.
    smallest = np.finfo(values.dtype.as_numpy_dtype).tiny
    return tf.where(kth < smallest, tf.zeros_like(kth), kth)
