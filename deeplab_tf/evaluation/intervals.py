"""How far a mean IoU would move with other images of the same kind: the bootstrap."""

from __future__ import annotations

import numpy as np

from deeplab_tf.evaluation.metrics import mean_iou_of_counts


def bootstrap_mean_iou(
    counts: np.ndarray, draws: int = 1000, seed: int = 0
) -> np.ndarray:
    """Mean IoU of images drawn with replacement, as many as there are.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993). The same seed draws
    the same images: the difference of two results on the same images is the paired
    bootstrap of the difference.

    Args:
      counts: int64 [images, 3, num_classes] of one or more images; see `metrics`.
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
