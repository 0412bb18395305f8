"""Confusion matrix and what is read off it, on arrays and as a metric of Keras.

`counts` are int64 [..., 3, num_classes]: for each class the pixels that label and
prediction share, those of the label and those of the prediction. An image's counts are
all that its part in a mean IoU needs.
"""

from __future__ import annotations

import operator

import numpy as np
import tensorflow as tf
from tensorflow import keras
from tensorflow.python.framework.config import is_op_determinism_enabled

from deeplab_tf.class_tables import IGNORE_LABEL


def confusion_matrix(
    label: np.ndarray,
    classes: np.ndarray,
    num_classes: int,
    ignore_label: int = IGNORE_LABEL,
) -> np.ndarray:
    """Counts pixels by (label, predicted class).

    Args:
      label: integers of any shape, in [0, num_classes) or ignore_label.
      classes: integers of the same shape, in [0, num_classes).
      num_classes: rows and columns of the result.
      ignore_label: label value that is not counted.

    Returns:
      int64 [num_classes, num_classes]; rows are labels.

    Raises:
      ValueError: shapes differ, or an id is out of range.
    """
    _, pairs = valid_pairs(label, classes, num_classes, ignore_label)
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def valid_pairs(label, classes, num_classes, ignore_label):
    """Checks a label and a prediction, and numbers the pairs of their classes.

    Args:
      label, classes, num_classes, ignore_label: as of `confusion_matrix`.

    Returns:
      valid: bool of the label's shape, False where the label is ignored.
      pairs: int64 [valid pixels], label * num_classes + class.

    Raises:
      ValueError: shapes differ, or an id is out of range.
    """
    label, classes = np.asarray(label), np.asarray(classes)
    if label.shape != classes.shape:
        raise ValueError(
            "label and classes must have the same shape. "
            f"Received: {label.shape} and {classes.shape}"
        )
    valid = label != ignore_label
    label = label[valid].astype(np.int64)
    classes = classes[valid].astype(np.int64)
    for name, ids in (("label", label), ("classes", classes)):
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            raise ValueError(
                f"{name} must hold ids in [0, {num_classes}) or the ignore label "
                f"{ignore_label}. Received: {ids.min()}..{ids.max()}"
            )
    return valid, label * num_classes + classes


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """Returns the counts of a confusion matrix, int64 [..., 3, num_classes].

    Args:
      confusion: int64 [..., num_classes, num_classes]; rows are labels.
    """
    shared = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([shared, confusion.sum(-1), confusion.sum(-2)], -2)


def iou_of_counts(counts: np.ndarray) -> np.ndarray:
    """IoU of each class, float64 [..., num_classes]; NaN for one that never occurs."""
    shared, label, prediction = np.moveaxis(np.asarray(counts), -2, 0)
    with np.errstate(invalid="ignore"):
        return shared / (label + prediction - shared).astype(np.float64)


def mean_iou_of_counts(counts: np.ndarray) -> np.ndarray:
    """Mean of `iou_of_counts` over the classes that occur, float64 [...], or NaN."""
    return mean_of_defined(iou_of_counts(counts))


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN, float64; NaN where nothing is."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(-1) / defined.sum(-1)


def per_class_iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 [num_classes].

    NaN for a class that occurs neither in the labels nor in the predictions.
    """
    return iou_of_counts(class_counts(confusion))


def per_class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of each class' pixels that were found, float64 [num_classes].

    NaN for a class that does not occur in the labels.
    """
    with np.errstate(invalid="ignore"):
        return np.diagonal(confusion) / confusion.sum(1).astype(np.float64)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean of `per_class_iou` over the classes that occur; NaN for an empty matrix."""
    return float(mean_iou_of_counts(class_counts(confusion)))


def mean_accuracy(confusion: np.ndarray) -> float:
    """Mean of `per_class_accuracy` over the classes of the labels, or NaN."""
    return float(mean_of_defined(per_class_accuracy(confusion)))


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of valid pixels predicted right; NaN for an empty matrix."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


def frequency_weighted_iou(confusion: np.ndarray) -> float:
    """Mean of `per_class_iou`, each by its share of the labels' pixels, or NaN.

    Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
    Segmentation" (2015), section 5.
    """
    pixels = confusion.sum(1)
    if not pixels.sum():
        return float("nan")
    in_labels = pixels > 0
    weighted = pixels[in_labels] * per_class_iou(confusion)[in_labels]
    return float(weighted.sum() / pixels.sum())


def class_ids(y_true, y_pred):
    """Checks labels against logits, for losses and metrics of Keras.

    Args:
      y_true: labels [B, height, width] or [B, height, width, 1], whole numbers.
      y_pred: logits [B, height, width, num_classes].

    Returns:
      int64 [B, height, width]: what GPUs compute in int32 TensorFlow computes on the
      CPU, as sizes mostly are what is of that type. A label that is no whole number is
      the lowest of them, which is no class.

    Raises:
      ValueError: labels of another rank or size, or one value a class.
    """
    label, y_pred = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
    rank, expected = label.shape.rank, y_pred.shape.rank - 1
    if rank == expected + 1 and label.shape[-1] == 1:
        label = tf.squeeze(label, -1)
    elif rank is not None and rank != expected:
        way_out = ""
        if rank == expected + 1 and label.shape[-1] == y_pred.shape[-1]:
            way_out = " One-hot labels become ids by tf.argmax(label, axis=-1)."
        raise ValueError(
            "Labels must hold one class id a pixel: [batch, height, width], or with a "
            f"last axis of 1.{way_out} Received: {label.shape} for logits "
            f"{y_pred.shape}"
        )
    if not label.shape.is_compatible_with(y_pred.shape[:-1]):
        raise ValueError(
            "Labels must have the logits' batch, height and width. Received: "
            f"{label.shape} for logits {y_pred.shape}"
        )
    ids = tf.cast(label, tf.int64)
    if label.dtype.is_floating:
        ids = tf.where(tf.equal(label, tf.floor(label)), ids, tf.int64.min)
    return ids


def check_ignore_label(ignore_label: int) -> None:
    """Refuses an ignore label that is no whole number; in Python it may be any such.

    Raises:
      ValueError: as above.
    """
    try:
        operator.index(ignore_label)
    except TypeError:
        raise ValueError(
            "ignore_label must be a whole number that is no class id, such as 255. "
            f"Received: {ignore_label!r}"
        ) from None


@keras.utils.register_keras_serializable("deeplab_tf")
class MeanIoU(keras.metrics.Metric):
    """Mean IoU of logits against labels, with an ignore label, for `model.fit`.

    One confusion matrix over everything seen since the last reset, and the mean over
    the classes that occur, as `mean_iou`; NaN where nothing was counted. NaN as well
    where a label was neither a class nor the ignore label: what it was meant to be
    nobody knows.

    Args:
      num_classes: of the logits.
      ignore_label: label value that is not counted.

    Raises:
      ValueError: an ignore label that is no whole number.
    """

    # For `EarlyStopping(mode="auto")` and its like. Keras 2 goes by the ending of the
    # name, and needs mode="max".
    _direction = "up"

    def __init__(
        self,
        num_classes: int,
        ignore_label: int = IGNORE_LABEL,
        name: str = "mean_iou",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        check_ignore_label(ignore_label)
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        # float64 counts exactly up to 2^53 pixels; float32 would stop at 2^24.
        self.confusion = self.add_weight(
            name="confusion",
            shape=(num_classes, num_classes),
            initializer="zeros",
            dtype="float64",
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds labels [B, height, width] and logits [B, height, width, num_classes].

        Raises:
          ValueError: logits of another number of classes, or see `class_ids`.
        """
        del sample_weight  # pixels count alike, as in every benchmark
        y_pred = tf.convert_to_tensor(y_pred)
        if y_pred.shape[-1] not in (None, self.num_classes):
            raise ValueError(
                f"MeanIoU was made for {self.num_classes} classes. Received: logits "
                f"of {y_pred.shape[-1]}"
            )
        label = tf.reshape(class_ids(y_true, y_pred), [-1])
        classes = tf.reshape(tf.argmax(y_pred, -1, output_type=tf.int64), [-1])
        is_class = (label >= 0) & (label < self.num_classes)
        is_meant = tf.not_equal(label, self.ignore_label)
        is_unknown, is_counted = is_meant & ~is_class, is_meant & is_class
        # What is ignored falls into a last bin, which is cut off: no dynamic shapes.
        bins = self.num_classes**2
        pairs = tf.where(is_counted, label * self.num_classes + classes, bins)
        # The operation itself: `tf.math.bincount` asks for the largest value first, and
        # XLA must know the number of bins when it compiles.
        # A GPU's kernel raises where determinism is asked for.
        with tf.device("CPU" if is_op_determinism_enabled() else None):
            counts = tf.raw_ops.DenseBincount(
                input=pairs,
                size=tf.constant(bins + 1, tf.int64),
                weights=tf.zeros([0], tf.int32),
                binary_output=False,
            )[:-1]
        counts = tf.cast(counts, tf.float64)
        counts = tf.where(
            tf.reduce_any(is_unknown), tf.constant(np.nan, tf.float64), counts
        )
        shape = [self.num_classes, self.num_classes]
        self.confusion.assign_add(tf.reshape(counts, shape))

    def result(self):
        confusion = tf.convert_to_tensor(self.confusion)
        intersection = tf.linalg.diag_part(confusion)
        union = tf.reduce_sum(confusion, 0) + tf.reduce_sum(confusion, 1) - intersection
        iou = tf.math.divide_no_nan(intersection, union)
        present = tf.cast(union > 0, iou.dtype)
        mean = tf.reduce_sum(iou) / tf.reduce_sum(present)
        is_unknown = tf.reduce_any(tf.math.is_nan(confusion))
        mean = tf.where(is_unknown, tf.constant(np.nan, tf.float64), mean)
        return tf.cast(mean, tf.float32)

    def reset_state(self):
        self.confusion.assign(tf.zeros_like(self.confusion))

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignore_label": self.ignore_label,
        }
