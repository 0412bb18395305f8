"""Losses by name; each knows the ignore label, and that replicas share a batch.

A new loss is a class or function here and a row in `LOSSES`, at the end of this file.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.class_weights import median_frequency_weights
from deeplab_tf.command_names import did_you_mean
from deeplab_tf.config import TrainConfig
from deeplab_tf.evaluation.metrics import class_ids
from deeplab_tf.networks.layers import several_replicas

# --- Cross-entropy -------------------------------------------------------------------


@keras.utils.register_keras_serializable("deeplab_tf")
class SegmentationLoss(keras.losses.Loss):
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
        step=None,
        name: str = "segmentation_loss",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if not 0 < hard_pixel_fraction <= 1:
            raise ValueError(
                f"hard_pixel_fraction must be in (0, 1]. Received: "
                f"{hard_pixel_fraction}"
            )
        if label_stride < 1:
            raise ValueError(f"label_stride must be >= 1. Received: {label_stride}")
        self.ignore_label = ignore_label
        self.class_weights = _weight_list(class_weights)
        self.label_stride = label_stride
        self.hard_pixel_fraction = hard_pixel_fraction
        self.hard_mining_steps = hard_mining_steps
        self._step = step

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The loss, a scalar.

        Args:
          y_true, y_pred: see `call`.
          sample_weight: None; one value an image [B], by which Keras multiplies what it
            adds; or one a pixel [B, height, width], which counts as a class' weight
            does: the loss is the weighted mean over the valid pixels.

        Raises:
          ValueError: shapes that do not fit, see also `metrics.class_ids`.
        """
        rank = None
        if sample_weight is not None:
            rank = tf.convert_to_tensor(sample_weight).shape.rank
        if rank is not None and rank > 1:
            # Keras would average over pixels first; `call` takes weights beside labels.
            return super().__call__((y_true, sample_weight), y_pred)
        return super().__call__(y_true, y_pred, sample_weight)

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
        class_of, logits, valid = _compared(
            y_true, y_pred, self.ignore_label, self.label_stride
        )
        self._check_weights(logits)
        dtype = logits.dtype
        pixel_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=class_of, logits=logits
        )
        weight = tf.cast(valid, dtype)
        if self.class_weights is not None:
            weight *= tf.gather(tf.constant(self.class_weights, dtype), class_of)
        if pixel_weight is not None:
            weight *= self._of_pixels(pixel_weight, weight)
        pixel_losses = tf.where(valid, pixel_losses, 0.0) * weight
        if self.hard_pixel_fraction < 1:
            weight *= self._hard_pixels(pixel_losses, valid)
            pixel_losses = tf.where(weight > 0, pixel_losses, 0.0)
        total_weight = _mean_over_replicas(tf.reduce_sum(weight))
        # Keras averages over this replica's images and then over replicas.
        images = tf.cast(tf.shape(class_of)[0], dtype)
        return tf.math.divide_no_nan(
            tf.reduce_sum(pixel_losses, axis=[1, 2]) * images, total_weight
        )

    def _check_weights(self, logits):
        classes = logits.shape[-1]
        if self.class_weights and classes not in (None, len(self.class_weights)):
            raise ValueError(
                f"class_weights needs one value for each of the {classes} classes of "
                f"the logits. Received: {len(self.class_weights)}"
            )

    def _of_pixels(self, pixel_weight, like):
        """Weights of pixels in the dtype and at the pixels of `like` [B, h, w]."""
        weight = tf.cast(pixel_weight, like.dtype)
        if weight.shape.rank == like.shape.rank + 1 and weight.shape[-1] == 1:
            weight = tf.squeeze(weight, -1)
        weight = weight[:, :: self.label_stride, :: self.label_stride]
        if not weight.shape.is_compatible_with(like.shape):
            raise ValueError(
                "sample_weight must have one value an image, [batch], or one a pixel, "
                f"[batch, height, width]. Received: {pixel_weight.shape}"
            )
        return weight

    def _hard_pixels(self, pixel_losses, valid):
        """1.0 where a pixel's loss is among the largest of the batch, 0.0 elsewhere."""
        # -1 is below every loss: pixels to ignore are never among the largest.
        ranked = tf.stop_gradient(tf.where(valid, pixel_losses, -1.0))
        everywhere = _concat_over_replicas(tf.reshape(ranked, [-1]))
        num_valid = tf.reduce_sum(tf.cast(everywhere >= 0, tf.float32))
        k = tf.maximum(tf.cast(tf.round(self._fraction() * num_valid), tf.int64), 1)
        return tf.cast(ranked >= _kth_largest(everywhere, k), ranked.dtype)

    def _fraction(self):
        if self._step is None or not self.hard_mining_steps:
            return self.hard_pixel_fraction
        step = tf.cast(tf.convert_to_tensor(self._step), tf.float32)
        done = tf.minimum(step / self.hard_mining_steps, 1.0)
        return 1.0 - done * (1.0 - self.hard_pixel_fraction)

    def get_config(self):
        return {
            **super().get_config(),
            "ignore_label": self.ignore_label,
            "class_weights": self.class_weights,
            "label_stride": self.label_stride,
            "hard_pixel_fraction": self.hard_pixel_fraction,
            "hard_mining_steps": self.hard_mining_steps,
        }


def _weight_list(class_weights) -> list[float] | None:
    """Weights in the order of the classes.

    Raises:
      ValueError: a negative one, or a mapping that leaves a class out.
    """
    if class_weights is None:
        return None
    if isinstance(class_weights, Mapping):
        ids = sorted(class_weights)
        if ids != list(range(len(ids))):
            raise ValueError(
                "class_weights must have a weight for each class id from 0 on. "
                f"Received: those of {ids}"
            )
        class_weights = [class_weights[id] for id in ids]
    if min(class_weights) < 0:
        raise ValueError(f"class_weights must be >= 0. Received: {class_weights}")
    return list(class_weights)


# --- What losses share ---------------------------------------------------------------


def _compared(y_true, y_pred, ignore_label: int, label_stride: int = 1):
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


def _kth_largest(values, k):
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
    return tf.where(kth < np.finfo(values.dtype.as_numpy_dtype).tiny, 0.0, kth)


def _mean_over_replicas(value):
    replica = several_replicas()
    if replica is None:
        return value
    return replica.all_reduce(tf.distribute.ReduceOp.MEAN, value)


def _concat_over_replicas(values):
    replica = several_replicas()
    return values if replica is None else replica.all_gather(values, axis=0)


# --- The table, and what a run takes from it -----------------------------------------

# Name -> what makes the loss: a class or a function, whose result `compile` takes. Its
# arguments are fields of TrainConfig, which it is given: `ignore_label`, and those of
# `class_weights`, `label_stride` and so on that it can heed. As `step` it is given the
# variable that holds the step.
LOSSES = {
    "cross_entropy": SegmentationLoss,
}


def make_loss(config: TrainConfig, step=None):
    """Makes the loss of a configuration.

    Args:
      config: of the run.
      step: integer variable that holds the step, see `SegmentationLoss`.

    Raises:
      ValueError: see `check_loss`, or an option outside its range.
    """
    check_loss(config)
    given = {**vars(config), "step": step}
    make = LOSSES[config.loss]
    return make(**{name: given[name] for name in _arguments(make) if name in given})


def check_loss(config: TrainConfig) -> None:
    """Returns where `make_loss` can make the loss with the options that were chosen.

    Raises:
      ValueError: no such loss, or an option that another loss has.
    """
    if config.loss not in LOSSES:
        raise ValueError(
            f"loss must be one of {sorted(LOSSES)}. Received: {config.loss!r}."
            f"{did_you_mean(config.loss, LOSSES)}"
        )
    options = set().union(*map(_arguments, LOSSES.values()))
    lacking = options - _arguments(LOSSES[config.loss]).keys()
    for field in dataclasses.fields(TrainConfig):
        value = getattr(config, field.name)
        if field.name in lacking and value != field.default:
            raise ValueError(
                f"loss {config.loss!r} has no {field.name}: leave it at "
                f"{field.default!r}. Received: {value!r}"
            )


def _arguments(make):
    return inspect.signature(make).parameters


# --- Weights of classes --------------------------------------------------------------


def balanced_class_weights(pixel_counts: Sequence[int]) -> list[float]:
    """Returns `median_frequency_weights` of a training split, for `SegmentationLoss`.

    Args:
      pixel_counts: pixels of each class in the training split, integers >= 0.

    Raises:
      ValueError: a negative count, or no pixel of any class.
    """
    counts = np.asarray(pixel_counts, np.float64)
    if counts.min(initial=0) < 0 or not counts.any():
        raise ValueError(
            "pixel_counts must be >= 0 and not all 0: count the pixels of the training "
            f"split. Received: {list(pixel_counts)}"
        )
    return median_frequency_weights(counts).tolist()
