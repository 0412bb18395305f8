"""What of labels and logits is compared, and with what weight."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.evaluation.metrics import check_ignore_label, class_ids
from deeplab_tf.training.losses.options import check_options


def compared(y_true, y_pred, ignore_label: int, label_stride: int = 1):
    """What of labels and logits a loss compares.

    Args:
      y_true: integer labels [B, height, width] in [0, num_classes) or ignore_label.
      y_pred: logits [B, height, width, num_classes].
      ignore_label: see `SegmentationLoss`.
      label_stride: see there.

    Returns:
      (class of each pixel, int64 [B, h, w], 0 where it is ignored; logits, float64
      where they were that, else float32 [B, h, w, num_classes]; whether each pixel
      counts, bool [B, h, w]).

    Raises:
      ValueError: see `metrics.class_ids`.
    """
    label, y_pred = class_ids(y_true, y_pred), tf.convert_to_tensor(y_pred)
    logits = tf.cast(y_pred, tf.float64 if y_pred.dtype == tf.float64 else tf.float32)
    if label_stride > 1:
        label = label[:, ::label_stride, ::label_stride]
        logits = logits[:, ::label_stride, ::label_stride]
    valid = tf.not_equal(label, ignore_label)
    return tf.where(valid, label, 0), logits, valid


def membership(class_of, valid, like):
    """Which class each pixel is of, as numbers.

    Args:
      class_of, valid: see `compared`.
      like: floats [B, h, w, num_classes].

    Returns:
      [B, h, w, num_classes] of like's dtype: 1 at the pixel's class, 0 elsewhere and
      where it is ignored. NaN at a pixel whose label is no class, where the device
      cannot raise for it: such a loss shall not look like a good one.

    Raises:
      tf.errors.InvalidArgumentError: on a CPU, a label that is no class.
    """
    classes = tf.range(tf.shape(like, tf.int64)[-1])
    # A CPU raises for an index out of range; GPUs and XLA take another one silently.
    known = tf.equal(tf.gather(classes, class_of), class_of)
    one = tf.where(known, tf.cast(valid, like.dtype), float("nan"))
    return tf.where(
        classes == class_of[..., None], one[..., None], 0.0 * one[..., None]
    )


class LossOfLabels(keras.losses.Loss):
    """A Keras loss whose `call` takes labels, or labels beside weights of pixels."""

    # Whether the loss is a sum over images, of which one may count more than another.
    has_weights_of_images = False

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The loss, a scalar.

        Args:
          y_true, y_pred: see `call`.
          sample_weight: None; one value a pixel [B, height, width], which says how
            often the pixel counts; or, where the loss is a sum over images, one value
            an image [B], by which Keras multiplies what it adds.

        Raises:
          ValueError: shapes that do not fit, see also `metrics.class_ids`; weights that
            the loss has no use for.
        """
        if sample_weight is None:
            return super().__call__(y_true, y_pred)
        shape = tf.convert_to_tensor(sample_weight).shape
        pixels = tf.convert_to_tensor(y_pred).shape[:-1]
        taken = (pixels[:1], pixels, pixels + [1])
        if not any(map(shape.is_compatible_with, taken)):
            raise ValueError(
                "sample_weight must have one value an image, [batch], or one a pixel, "
                f"[batch, height, width]: here {pixels[:1]} or {pixels}. "
                f"Received: {shape}"
            )
        if shape.rank is not None and shape.rank > 1:
            # Keras would average over pixels first; `call` takes weights beside labels.
            return super().__call__((y_true, sample_weight), y_pred)
        if shape.rank == 1 and not self.has_weights_of_images:
            raise ValueError(
                f"{self.name} is of the batch as a whole and has no part that is one "
                "image's: give sample_weight one value a pixel, [batch, height, width]."
                f" Received: {shape}"
            )
        return super().__call__(y_true, y_pred, sample_weight)


class LossOfPixels(LossOfLabels):
    """What the losses here have in common: labels to ignore, strides, weights.

    A subclass has `of_images`.

    Args:
      ignore_label: label value that is not counted, outside [0, num_classes).
      label_stride: compares labels and logits at every `label_stride`-th pixel only.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(self, ignore_label: int, label_stride: int, name: str, **kwargs):
        super().__init__(name=name, **kwargs)
        check_ignore_label(ignore_label)
        check_options(label_stride=label_stride)
        self.ignore_label = ignore_label
        self.label_stride = label_stride

    def call(self, y_true, y_pred):
        """Returns [B], whose mean over the batch is the loss; float64 of such logits.

        Args:
          y_true: integer labels [B, height, width] or [B, height, width, 1], in
            [0, num_classes) or ignore_label; or such labels and weights of pixels.
          y_pred: logits [B, height, width, num_classes].
        """
        pixel_weight = None
        if isinstance(y_true, tuple):
            y_true, pixel_weight = y_true
        class_of, logits, valid = compared(
            y_true, y_pred, self.ignore_label, self.label_stride
        )
        if pixel_weight is not None:
            pixel_weight = self._strided(pixel_weight, class_of, logits.dtype)
        return self.of_images(class_of, logits, valid, pixel_weight)

    def of_images(self, class_of, logits, valid, pixel_weight):
        """Returns what `call` does.

        Args:
          class_of, logits, valid: see `compared`.
          pixel_weight: None, or floats of the logits' dtype [B, h, w].
        """
        raise NotImplementedError

    def _strided(self, pixel_weight, class_of, dtype):
        """Weights of pixels at the pixels that are compared."""
        weight = tf.cast(pixel_weight, dtype)
        if weight.shape.rank == class_of.shape.rank + 1 and weight.shape[-1] == 1:
            weight = tf.squeeze(weight, -1)
        return weight[:, :: self.label_stride, :: self.label_stride]

    def get_config(self):
        return {
            **super().get_config(),
            "ignore_label": self.ignore_label,
            "label_stride": self.label_stride,
        }
