"""What was read of a data set, summed up: all of `inspection.json`."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from deeplab_tf.class_weights import median_frequency_weights
from deeplab_tf.data.inspection.duplicates import find_duplicates, shared, within_split
from deeplab_tf.data.inspection.suggestions import suggest
from deeplab_tf.data.records.info import DatasetInfo

if TYPE_CHECKING:
    from deeplab_tf.data.inspection.facts import ImageFacts, SplitFacts

# A class is rare where the median class has more than so many times its pixels, or
# more than so many times its images.
RARE_RATIO = 3
NUM_WORST = 5
NUM_SIZES = 5

# --- One split -----------------------------------------------------------------------


def _summarize_sizes(images: Sequence[ImageFacts]) -> dict:
    widths = np.array([image.width for image in images])
    heights = np.array([image.height for image in images])
    sizes = collections.Counter(zip(widths.tolist(), heights.tolist()))

    def extent(values):
        return {
            "min": int(values.min()),
            "median": float(np.median(values)),
            "max": int(values.max()),
        }

    return {
        "width": extent(widths),
        "height": extent(heights),
        "num_sizes": len(sizes),
        "frequent_sizes": [
            {"width": width, "height": height, "images": count}
            for (width, height), count in sizes.most_common(NUM_SIZES)
        ],
        "landscape": float((widths > heights).mean()),
        "portrait": float((widths < heights).mean()),
        "square": float((widths == heights).mean()),
        "formats": dict(collections.Counter(image.format for image in images)),
    }


def _summarize_labels(images: Sequence[ImageFacts], names: Sequence[str]) -> dict:
    single = collections.defaultdict(list)
    for image in images:
        if image.only_class is not None:
            single[names[image.only_class]].append(image.name)

    def share(image):
        return image.ignored / (image.height * image.width)

    worst = sorted(images, key=share, reverse=True)[:NUM_WORST]
    ignored = sum(image.ignored for image in images)
    pixels = sum(image.height * image.width for image in images)
    return {
        "pixels": pixels,
        "ignored_share": ignored / pixels,
        "most_ignored": [
            {"name": image.name, "share": share(image)}
            for image in worst
            if image.ignored
        ],
        "wholly_ignored": [image.name for image in images if image.is_blank],
        "single_class": dict(single),
    }


def _summarize_classes(facts: SplitFacts, info: DatasetInfo) -> list[dict]:
    """One row for each class, in the order of their ids."""
    pixels, images = facts.pixel_counts, facts.image_counts
    total = max(int(pixels.sum()), 1)
    by_pixels, by_images = map(median_frequency_weights, (pixels, images))
    return [
        {
            "id": index,
            "name": name,
            "pixels": int(pixels[index]),
            "share": float(pixels[index] / total),
            "images": int(images[index]),
            "image_share": float(images[index] / len(facts.images)),
            "balanced_weight": float(by_pixels[index]),
            "few_pixels": bool(by_pixels[index] > RARE_RATIO),
            "few_images": bool(by_images[index] > RARE_RATIO),
        }
        for index, name in enumerate(info.class_names)
    ]


def _repeated(values: Iterable[str]) -> list[str]:
    counts = collections.Counter(values)
    return [value for value, count in counts.items() if count > 1]


def _disagreements(facts: SplitFacts, split: str, info: DatasetInfo) -> list[str]:
    """Says where info.json tells of another split than this."""
    sentences = []
    expected, found = info.splits.get(split), len(facts.images)
    if expected != found:
        told = "does not name it" if expected is None else f"says {expected}"
        sentences.append(
            f"Split {split} has {found} examples; info.json {told}. Records were lost, "
            "added or exchanged: build the data set again."
        )
    counts = info.pixel_counts.get(split)
    if counts is not None and counts != facts.pixel_counts.tolist():
        told = (list(counts) + [0] * info.num_classes)[: info.num_classes]
        wrong = np.flatnonzero(np.not_equal(told, facts.pixel_counts))
        rows = [
            f"{info.class_names[i]} {facts.pixel_counts[i]:,} instead of {told[i]:,}"
            for i in wrong[:NUM_WORST]
        ]
        rows += [f"and {len(wrong) - NUM_WORST} more"] * (len(wrong) > NUM_WORST)
        sentences.append(
            f"Pixels of {len(wrong)} classes of split {split} differ from info.json, "
            f"from which class_weights=balanced is made: {', '.join(rows)}. Build the "
            "data set again."
        )
    return sentences


def summarize_split(facts: SplitFacts, split: str, info: DatasetInfo) -> dict:
    """Returns what `inspection.json` says of a split."""
    classes = _summarize_classes(facts, info)
    return {
        "examples": len(facts.images),
        "shards": facts.num_shards,
        "bytes": facts.num_bytes,
        **_summarize_sizes(facts.images),
        **_summarize_labels(facts.images, info.class_names),
        "classes": classes,
        "absent_classes": [row["name"] for row in classes if not row["pixels"]],
        "repeated_names": _repeated(image.name for image in facts.images),
        "suggestions": suggest(facts, info, classes),
    }


# --- The whole data set --------------------------------------------------------------


def summarize(
    data_dir: str, info: DatasetInfo, splits: Mapping[str, SplitFacts]
) -> dict:
    """Returns all of `inspection.json`, made of numbers, texts, lists and dictionaries.

    Args:
      data_dir: folder of the records.
      info: what its `info.json` says.
      splits: split name -> what `read_split` returned.
    """
    images = [image for facts in splits.values() for image in facts.images]
    duplicates = find_duplicates(images)
    names = {
        split: {image.name for image in facts.images} for split, facts in splits.items()
    }
    return {
        "data_dir": data_dir,
        "name": info.name,
        "num_classes": info.num_classes,
        "splits": {
            split: {
                **summarize_split(facts, split, info),
                "duplicates": within_split(duplicates, split),
            }
            for split, facts in splits.items()
        },
        "shared": [
            shared(duplicates, names, *pair) for pair in combinations(splits, 2)
        ],
        "disagreements": [
            sentence
            for split, facts in splits.items()
            for sentence in _disagreements(facts, split, info)
        ],
    }
