"""How much more the pixels of a rare class count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def median_frequency_weights(counts: Sequence[int]) -> np.ndarray:
    """Median-frequency balancing: weight = median frequency / frequency of the class.

    Eigen & Fergus (ICCV 2015, section 6.3.2) divide a class's pixels by those of the
    images that show it; here by those of all images, so that the counts suffice.

    Args:
      counts: int [classes] of 0 or more: pixels of each class, or images.

    Returns:
      float64 [classes]. The class of median frequency has 1; one that never occurs has
      1 as well and does not move the median.
    """
    counts = np.asarray(counts, np.float64)
    weights = np.ones_like(counts)
    occurs = counts > 0
    if occurs.any():
        weights[occurs] = np.median(counts[occurs]) / counts[occurs]
    return weights
