"""Confusion matrix, what is read off it, measures of boundaries, and intervals.

`counts` are int64 [..., 3, num_classes]: for each class the pixels that label and
prediction share, those of the label and those of the prediction. An image's counts are
all that its part in a mean IoU needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

# Pixels around the boundaries of the label; figure 5 of DeepLabV3+ goes to 40.
TRIMAP_WIDTHS = (1, 2, 3, 5, 8, 10, 15, 20, 30, 40)
# Share of the image's diagonal, as Csurka et al. (2013) have it; `boundary_f_scores`.
BOUNDARY_TOLERANCE = 0.0075


def confusion_matrix(
    label: np.ndarray, classes: np.ndarray, num_classes: int, ignore_label: int = 255
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
    _, pairs = _valid_pairs(label, classes, num_classes, ignore_label)
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def _valid_pairs(label, classes, num_classes, ignore_label):
    """Returns (valid, bool of the label's shape; label * num_classes + class of it)."""
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
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(-1) / defined.sum(-1)


def per_class_iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 [num_classes].

    NaN for a class that occurs neither in the labels nor in the predictions.
    """
    return iou_of_counts(class_counts(confusion))


def per_class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of each class' pixels that were found; NaN where there are none."""
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


def boundaries(label: np.ndarray) -> np.ndarray:
    """Finds the pixels that have one of their four neighbours in another class.

    Args:
      label: integers [height, width]. Void is an id like the others, so that it has
        boundaries too; the frame of the image is none.

    Returns:
      bool [height, width].
    """
    label = np.asarray(label)
    edges = np.zeros(label.shape, bool)
    below = label[1:] != label[:-1]
    edges[1:] |= below
    edges[:-1] |= below
    beside = label[:, 1:] != label[:, :-1]
    edges[:, 1:] |= beside
    edges[:, :-1] |= beside
    return edges


def boundary_distance(label: np.ndarray) -> np.ndarray:
    """Measures how far each pixel is from a boundary.

    Args:
      label: integers [height, width]; see `boundaries`.

    Returns:
      float64 [height, width]: Euclidean distance in pixels to the nearest pixel of
      `boundaries`, 0 on it, infinity where there is none.
    """
    from scipy import ndimage  # here, so that `import deeplab_tf` stays quick

    edges = boundaries(label)
    if not edges.any():
        return np.full(edges.shape, np.inf)
    return ndimage.distance_transform_edt(~edges)


def trimap_confusion(
    label: np.ndarray,
    classes: np.ndarray,
    num_classes: int,
    ignore_label: int = 255,
    widths: Sequence[int] = TRIMAP_WIDTHS,
) -> np.ndarray:
    """Counts pixels in bands around the label's boundaries by (label, class).

    DeepLabV3+ (section 4.4, figure 5) dilates the void pixels, which lie along the
    objects of VOC, by a number of pixels, and takes the mean IoU of what they cover.
    Here a pixel is in the band of a width where `boundary_distance` is below it. Void
    has boundaries, so on VOC that is the paper's band: it holds each pixel within the
    width of void, and none as far as the width + 1. Where two classes touch without
    void between them there is a band too, so that data without void gets one.

    Args:
      label: integers [height, width], in [0, num_classes) or ignore_label.
      classes: integers of the same shape, in [0, num_classes).
      num_classes: rows and columns of each matrix.
      ignore_label: label value that is not counted.
      widths: of the bands in pixels, positive and increasing.

    Returns:
      int64 [len(widths), num_classes, num_classes]; rows are labels.

    Raises:
      ValueError: shapes differ, an id is out of range, or widths do not increase.
    """
    widths = np.asarray(widths)
    if widths.ndim != 1 or not (np.diff(widths, prepend=0) > 0).all():
        raise ValueError(
            f"widths must be positive and increasing. Received: {widths.tolist()}"
        )
    valid, pairs = _valid_pairs(label, classes, num_classes, ignore_label)
    # Each pixel goes to the narrowest band that holds it; wider ones add those inside.
    band = np.searchsorted(widths, boundary_distance(label)[valid], side="right")
    counts = np.bincount(
        band * num_classes**2 + pairs, minlength=(len(widths) + 1) * num_classes**2
    )
    bands = counts.reshape(-1, num_classes, num_classes)[:-1]
    return bands.cumsum(0)


def boundary_f_scores(
    label: np.ndarray,
    classes: np.ndarray,
    num_classes: int,
    ignore_label: int = 255,
    tolerance: float = BOUNDARY_TOLERANCE,
) -> np.ndarray:
    """Boundary F-score of each class in one image.

    Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic
    segmentation?" (2013): precision is the share of the predicted boundary's pixels
    nearer to the label's boundary than the tolerance, recall the reverse, and the score
    is their harmonic mean. A class' boundary are its pixels next to another class.

    Void pixels of the label take the predicted class first. So void makes no boundary
    of its own, such as around a hole in one class, and a boundary predicted inside
    void, where VOC hides the true ones, is right.

    Args:
      label: integers [height, width], in [0, num_classes) or ignore_label.
      classes: integers of the same shape, in [0, num_classes).
      num_classes: of the result.
      ignore_label: label value that is not judged.
      tolerance: share of the image's diagonal, positive.

    Returns:
      float64 [num_classes] in 0..1. Outside void, NaN for a class that occurs neither
      in label nor prediction, and 0 for one that occurs in one of them only. Of the
      others, NaN for one without a boundary in both, and 0 for one with a boundary in
      one of them only.

    Raises:
      ValueError: shapes differ, an id is out of range, or tolerance is not positive.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive. Received: {tolerance}")
    valid, pairs = _valid_pairs(label, classes, num_classes, ignore_label)
    classes = np.asarray(classes)
    completed = np.where(valid, label, classes)
    found, found_classes = _boundary_points(classes)
    wanted, wanted_classes = _boundary_points(completed)
    radius = tolerance * np.hypot(*classes.shape)
    scores = np.full(num_classes, np.nan)
    in_label = np.unique(pairs // num_classes)
    in_classes = np.unique(pairs % num_classes)
    # What void hides of a class must not speak for one that is wrong wherever it shows.
    scores[np.setxor1d(in_label, in_classes)] = 0
    for index in np.intersect1d(in_label, in_classes):
        scores[index] = _f_score(
            found[found_classes == index], wanted[wanted_classes == index], radius
        )
    return scores


def _boundary_points(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (row and column [n, 2], class [n]) of the pixels of `boundaries`."""
    edges = boundaries(classes)
    return np.argwhere(edges), classes[edges]


def _f_score(found: np.ndarray, wanted: np.ndarray, radius: float) -> float:
    """F-score of points [n, 2] against others, or NaN where there are none at all."""
    from scipy.spatial import KDTree  # here, so that `import deeplab_tf` stays quick

    if not len(found) or not len(wanted):
        return 0.0 if len(found) or len(wanted) else np.nan

    def share_near(points, others):
        distances, _ = KDTree(others).query(points, distance_upper_bound=radius)
        return np.isfinite(distances).mean()

    precision, recall = share_near(found, wanted), share_near(wanted, found)
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def bootstrap_mean_iou(
    counts: np.ndarray, draws: int = 1000, seed: int = 0
) -> np.ndarray:
    """Mean IoU of images drawn with replacement, as many as there are.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993). The same seed draws
    the same images: the difference of two results on the same images is the paired
    bootstrap of the difference.

    Args:
      counts: int64 [images, 3, num_classes] of one or more images; see the module.
      draws: how often all images are drawn.
      seed: of the draws.

    Returns:
      float64 [draws]; classes that a draw does not hold are left out of its mean.

    Raises:
      ValueError: no images.
    """
    images = len(counts)
    if not images:
        raise ValueError("Expected the counts of one or more images. Received: none")
    counts = np.asarray(counts, np.float64)  # exact up to 2^53 pixels
    generator = np.random.default_rng(seed)
    scores = np.empty(draws)
    for draw in range(draws):
        times = np.bincount(generator.integers(images, size=images), minlength=images)
        scores[draw] = mean_iou_of_counts(np.tensordot(times, counts, 1))
    return scores


def percentile_interval(scores: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Returns the ends of the middle `level` of bootstrapped scores, without NaN.

    Two NaN where no score is defined.
    """
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return float("nan"), float("nan")
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@keras.utils.register_keras_serializable("deeplab_tf")
class MeanIoU(keras.metrics.Metric):
    """Mean IoU of logits against labels, with an ignore label, for `model.fit`.

    One confusion matrix over everything seen since the last reset, and the mean over
    the classes that occur, as `mean_iou`.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_label: int = 255,
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
        counts = tf.math.bincount(
            pairs, minlength=self.num_classes**2 + 1, maxlength=self.num_classes**2 + 1
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
