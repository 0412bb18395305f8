"""Weights of classes: checked, and made of a training split's pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deeplab_tf.class_weights import median_frequency_weights


def weight_list(
    class_weights: Sequence[float] | Mapping[int, float] | None,
) -> list[float] | None:
    """Weights in the order of the classes.

    Raises:
      ValueError: a negative one, no number, all of them 0, or a mapping that leaves a
        class out.
    """
    if class_weights is None:
        return None
    if isinstance(class_weights, str):
        raise ValueError(
            "A loss takes numbers as class_weights, which train.py makes of a text: "
            "give balanced_class_weights(pixel_counts). "
            f"Received: {class_weights!r}"
        )
    if isinstance(class_weights, Mapping):
        ids = range(len(class_weights))
        if set(class_weights) != set(ids):
            raise ValueError(
                "class_weights must have a weight for each class id from 0 on. "
                f"Received: those of {list(class_weights)}"
            )
        class_weights = [class_weights[id] for id in ids]
    weights = np.asarray(class_weights)
    if weights.ndim != 1 or not weights.size or weights.dtype.kind not in "fiu":
        raise ValueError(
            "class_weights must be one number for each class. "
            f"Received: {class_weights}"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(
            "class_weights must be finite, >= 0 and not all 0. "
            f"Received: {class_weights}"
        )
    return weights.tolist()


# Text of `class_weights` -> the power of the balanced weights.
BALANCES = {"balanced": 1.0, "balanced_sqrt": 0.5}


def balanced_class_weights(
    pixel_counts: Sequence[int], power: float = 1.0
) -> list[float]:
    """Returns `median_frequency_weights` of a training split, for `SegmentationLoss`.

    All of them find rare classes at the price of false pixels; square roots, between
    them and equal weights, were better than both on CamVid (docs/training.md).

    Args:
      pixel_counts: pixels of each class in the training split, integers >= 0.
      power: of the weights: 1 as they are, 0.5 their square roots.

    Raises:
      ValueError: a negative count, or no pixel of any class.
    """
    counts = np.asarray(pixel_counts, np.float64)
    if counts.min(initial=0) < 0 or not counts.any():
        raise ValueError(
            "pixel_counts must be >= 0 and not all 0: count the pixels of the training "
            f"split. Received: {list(pixel_counts)}"
        )
    return (median_frequency_weights(counts) ** power).tolist()
