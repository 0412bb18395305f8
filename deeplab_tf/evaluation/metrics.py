"""Confusion matrix and what is read off it, on arrays and as a metric of Keras.

`counts` are int64 [..., 3, num_classes]: for each class the pixels that label and
prediction share, those of the label and those of the prediction. An image's counts are
all that its part in a mean IoU needs.
"""

from __future__ import annotations

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


@keras.utils.register_keras_serializable("deeplab_tf")
class MeanIoU(keras.metrics.Metric):
    """Mean IoU of logits against labels, with an ignore label, for `model.fit`.

    One confusion matrix over everything seen since the last reset, and the mean over
    the classes that occur, as `mean_iou`.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_label: int = IGNORE_LABEL,
        name: str = "mean_iou",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
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
        """Adds labels [B, height, width] and logits [B, height, width, num_classes]."""
        del sample_weight  # pixels count alike, as in every benchmark
        label = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        classes = tf.reshape(tf.argmax(y_pred, -1, output_type=tf.int32), [-1])
        valid = tf.not_equal(label, self.ignore_label)
        # Ignored pixels fall into a last bin, which is cut off: no dynamic shapes.
        pairs = tf.where(valid, label * self.num_classes + classes, self.num_classes**2)
        # The operation itself: `tf.math.bincount` asks for the largest value first, and
        # XLA must know the number of bins when it compiles.
        # A GPU's kernel raises where determinism is asked for.
        with tf.device("CPU" if is_op_determinism_enabled() else None):
            counts = tf.raw_ops.DenseBincount(
                input=pairs,
                size=self.num_classes**2 + 1,
                weights=tf.zeros([0], tf.int32),
                binary_output=False,
            )[:-1]
        counts = tf.reshape(counts, [self.num_classes, self.num_classes])
        self.confusion.assign_add(tf.cast(counts, tf.float64))

    def result(self):
        confusion = tf.convert_to_tensor(self.confusion)
        intersection = tf.linalg.diag_part(confusion)
        union = tf.reduce_sum(confusion, 0) + tf.reduce_sum(confusion, 1) - intersection
        iou = tf.math.divide_no_nan(intersection, union)
        present = tf.cast(union > 0, iou.dtype)
        mean = tf.math.divide_no_nan(tf.reduce_sum(iou), tf.reduce_sum(present))
        return tf.cast(mean, tf.float32)

    def reset_state(self):
        self.confusion.assign(tf.zeros_like(self.confusion))

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignore_label": self.ignore_label,
        }
