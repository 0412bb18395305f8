"""What of train.py to try on a split: class weights, and images to repeat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deeplab_tf.data.records.info import DatasetInfo

if TYPE_CHECKING:
    from deeplab_tf.data.inspection.facts import SplitFacts

# A class that more images than this share show cannot be repeated by its presence.
MAX_REPEATED_SHARE = 0.5
# Larger class weights let a handful of pixels rule the loss.
MAX_WEIGHT = 20
# What data.reading.bootstrap multiplies the records of a rare class by.
REPEATS = 2


def _images_with(facts: SplitFacts, class_id: int, power: int) -> int:
    """Counts the images in which a class has 2**power pixels or more."""
    return int(facts.size_counts[class_id, power:].sum())


def suggest_repeats(
    facts: SplitFacts, rare: Sequence[int]
) -> tuple[dict[int, int], int]:
    """Says which rare classes can be repeated by `reading.bootstrap`, and from where.

    A class that nearly all images show somewhere would repeat nearly all of them. So an
    image counts as showing a class from so many pixels on, a power of two, that at most
    `MAX_REPEATED_SHARE` of the images show the rarest; and of the other rare classes
    those are repeated of which that holds too.

    Args:
      facts: of the split.
      rare: ids of the rare classes, each of which occurs.

    Returns:
      (class id -> images that show it with so many pixels, that number of pixels).
    """
    if not rare:
        return {}, 1
    limit = MAX_REPEATED_SHARE * len(facts.images)
    rarest = min(rare, key=lambda class_id: facts.pixel_counts[class_id])
    power = 0
    while _images_with(facts, rarest, power) > limit:
        power += 1
    shown = {class_id: _images_with(facts, class_id, power) for class_id in rare}
    return {c: count for c, count in shown.items() if 0 < count <= limit}, 2**power


def _class_weights_setting(weights: Sequence[float]) -> str:
    """Names the weights by the rule that train.py knows, or lists them where cut."""
    if max(weights) <= MAX_WEIGHT:
        return "class_weights=balanced"
    return f"class_weights={_compact([round(min(w, MAX_WEIGHT), 3) for w in weights])}"


def _compact(value) -> str:
    return json.dumps(value, separators=(",", ":"))


def suggest(facts: SplitFacts, info: DatasetInfo, classes: Sequence[dict]) -> dict:
    """Says what of train.py to try on a split.

    Args:
      facts: of the split.
      info: of the data set.
      classes: one row for each class, as in `summary.summarize`.
    """
    weights = [row["balanced_weight"] for row in classes]
    rare = [row["id"] for row in classes if row["few_pixels"] or row["few_images"]]
    repeated, min_pixels = suggest_repeats(facts, rare)
    settings = [_class_weights_setting(weights)]
    if repeated:
        factors = [[info.class_names[class_id], REPEATS] for class_id in repeated]
        settings.append(f"duplicate={_compact(factors)}")
        settings += [f"min_class_pixels={min_pixels}"] * (min_pixels > 1)
    return {
        "class_weights": weights,
        "hard_classes": [info.class_names[class_id] for class_id in rare],
        "repeated_images": {info.class_names[c]: n for c, n in repeated.items()},
        "min_class_pixels": min_pixels,
        "settings": settings,
    }
