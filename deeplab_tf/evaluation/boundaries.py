"""Measures of how well a prediction follows the label's boundaries, image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.evaluation.metrics import valid_pairs

# Pixels around the boundaries of the label; figure 5 of DeepLabV3+ goes to 40.
TRIMAP_WIDTHS = (1, 2, 3, 5, 8, 10, 15, 20, 30, 40)
# Share of the image's diagonal, as Csurka et al. (2013) have it; `boundary_f_scores`.
BOUNDARY_TOLERANCE = 0.0075


def boundary_pixels(label: np.ndarray) -> np.ndarray:
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
      label: integers [height, width]; see `boundary_pixels`.

    Returns:
      float64 [height, width]: Euclidean distance in pixels to the nearest pixel of
      `boundary_pixels`, 0 on it, infinity where there is none.
    """
    from scipy import ndimage  # here, so that `import deeplab_tf` stays quick

    edges = boundary_pixels(label)
    if not edges.any():
        return np.full(edges.shape, np.inf)
    return ndimage.distance_transform_edt(~edges)


def trimap_confusion(
    label: np.ndarray,
    classes: np.ndarray,
    num_classes: int,
    ignore_label: int = IGNORE_LABEL,
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
    valid, pairs = valid_pairs(label, classes, num_classes, ignore_label)
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
    ignore_label: int = IGNORE_LABEL,
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
    valid, pairs = valid_pairs(label, classes, num_classes, ignore_label)
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
    """Returns (row and column [n, 2], class [n]) of the pixels of `boundary_pixels`."""
    edges = boundary_pixels(classes)
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
