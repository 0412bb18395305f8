"""What records hold: sizes, classes, images that occur twice, and what is suspicious.

`read_split` decodes a split once and keeps of each image its name, size and hashes, so
that memory hardly grows with the images. `summarize` turns what was read into one
dictionary, which `datasets.inspect_records` prints and writes as JSON.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf.data.reading.bad_records import DATA_ERRORS, bad_records_named
from deeplab_tf.data.records.frames import read_shards
from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.data.records.tfrecord import IMAGE, parse_example, shard_paths

FORMATS = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp"}

# A class is rare where the median class has more than so many times its pixels, or
# more than so many times its images.
RARE_RATIO = 3
# A class that more images than this share show cannot be repeated by its presence.
MAX_REPEATED_SHARE = 0.5
# Larger class weights let a handful of pixels rule the loss.
MAX_WEIGHT = 20
# What data.reading.bootstrap multiplies the records of a rare class by.
REPEATS = 2
NUM_WORST = 5
NUM_SIZES = 5


# --- Reading -------------------------------------------------------------------------


class ImageFacts(NamedTuple):
    """What is kept of one image and its label."""

    split: str
    name: str
    format: str
    height: int
    width: int
    file_hash: int
    pixel_hash: int
    label_hash: int
    ignored: int  # pixels
    only_class: int | None  # where all labelled pixels have one
    is_blank: bool  # no pixel has a class


@dataclasses.dataclass
class SplitFacts:
    """What a split holds.

    Attributes:
      images: one for each record, in order.
      pixel_counts: pixels of each class, int64 [num_classes].
      image_counts: images that show each class, int64 [num_classes].
      size_counts: int64 [num_classes, 64]; at [c, k] the images in which class c has
        2**k pixels or more, but fewer than 2**(k + 1).
      num_shards, num_bytes: of the files.
      samples: serialized records, evenly spread, for a contact sheet.
    """

    images: list[ImageFacts]
    pixel_counts: np.ndarray
    image_counts: np.ndarray
    size_counts: np.ndarray
    num_shards: int
    num_bytes: int
    samples: list[bytes]


def _hash(text: tf.Tensor) -> tf.Tensor:
    return tf.fingerprint(tf.reshape(text, [1]))[0]


def _hash_pixels(pixels: tf.Tensor) -> tf.Tensor:
    """Hashes uint8 [height, width, channels] with its shape; uint8 [8]."""
    shape = tf.bitcast(tf.shape(pixels), tf.uint8)
    data = tf.concat([tf.reshape(shape, [-1]), tf.reshape(pixels, [-1])], 0)
    return tf.fingerprint(data[tf.newaxis])[0]


def _examine(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Takes from a record what `ImageFacts` needs; graph code."""
    example = parse_example(serialized)
    feature = {IMAGE: tf.io.FixedLenFeature([], tf.string)}
    encoded = tf.io.parse_single_example(serialized, feature)[IMAGE]
    label = tf.cast(tf.reshape(example["label"], [-1]), tf.int32)
    hashes = [_hash(encoded), *map(_hash_pixels, (example["image"], example["label"]))]
    return {
        "name": example["filename"],
        "magic": tf.strings.substr(encoded, 0, 2),
        "size": tf.shape(example["label"])[:2],
        "hashes": tf.bitcast(tf.stack(hashes), tf.uint64),
        "counts": tf.math.bincount(label, minlength=256, dtype=tf.int64),
    }


def _image_facts(row: dict, split: str, index: int, info: DatasetInfo) -> ImageFacts:
    """Raises ValueError where the label has an id that is no class."""
    counts = row["counts"][: info.num_classes]
    ignored = int(row["counts"][info.ignore_label])
    if counts.sum() + ignored != row["counts"].sum():
        raise ValueError(f"record {index} of {split} has an id that is no class")
    present = np.flatnonzero(counts)
    return ImageFacts(
        split,
        row["name"].decode("utf-8", "replace") or f"record {index}",
        FORMATS.get(row["magic"], "another"),
        *map(int, row["size"]),
        *map(int, row["hashes"]),
        ignored,
        int(present[0]) if len(present) == 1 else None,
        not len(present),
    )


def spread_indices(count: int, wanted: int) -> frozenset[int]:
    """Returns `wanted` of the indices below `count`, evenly spread, or all of them."""
    wanted = min(wanted, count)
    return frozenset((2 * i + 1) * count // (2 * wanted) for i in range(wanted))


def read_split(
    data_dir: str,
    split: str,
    info: DatasetInfo,
    num_samples: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> SplitFacts:
    """Decodes every record of a split once.

    Args:
      data_dir: folder of the records.
      split: name of the split, such as "train".
      info: of the data set.
      num_samples: records to keep for a contact sheet.
      progress: wraps the iterator over records, such as `tqdm`.

    Raises:
      FileNotFoundError: there are no records of this split, or shards are missing.
      BadRecords: (a ValueError) names the records that cannot be used.
      ValueError: the split holds no record.
    """
    paths = shard_paths(data_dir, split)
    classes = info.num_classes
    facts = SplitFacts(
        images=[],
        pixel_counts=np.zeros(classes, np.int64),
        image_counts=np.zeros(classes, np.int64),
        size_counts=np.zeros([classes, 64], np.int64),
        num_shards=len(paths),
        num_bytes=sum(tf.io.gfile.stat(path).length for path in paths),
        samples=[],
    )
    chosen = spread_indices(info.splits.get(split, 0), num_samples)
    is_chosen = tf.constant(sorted(chosen), tf.int64)

    def examine(index, serialized):
        keep = tf.reduce_any(tf.equal(is_chosen, index))
        return _examine(serialized), tf.where(keep, serialized, "")

    records = read_shards(paths).enumerate()
    rows = records.map(examine, num_parallel_calls=tf.data.AUTOTUNE)
    with bad_records_named(data_dir, [split], errors=(*DATA_ERRORS, ValueError)):
        rows = rows.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
        for index, (row, sample) in enumerate(progress(rows)):
            facts.images.append(_image_facts(row, split, index, info))
            counts = row["counts"][:classes]
            present = np.flatnonzero(counts)
            # frexp is exact where log2 is not: 2**k <= count < 2**(k + 1).
            powers = np.frexp(counts[present].astype(np.float64))[1] - 1
            facts.pixel_counts += counts
            facts.image_counts[present] += 1
            facts.size_counts[present, powers] += 1
            if sample:
                facts.samples.append(sample)
    if not facts.images:
        raise ValueError(
            f"Expected examples in split {split} of {data_dir}. Received: none in its "
            f"{len(paths)} shards. Build the data set again."
        )
    return facts


# --- One split -----------------------------------------------------------------------


def balanced_weights(counts: Sequence[int]) -> np.ndarray:
    """Median frequency over each class's own, over all pixels of a split.

    train.py's class_weights=balanced takes the same: the frequencies of Eigen & Fergus
    (ICCV 2015, section 6.3.2), but over all images, not only those that show the class.

    Args:
      counts: int [classes]: pixels, or images.

    Returns:
      float64 [classes]; 1 for a class that never occurs.
    """
    counts = np.asarray(counts, np.float64)
    weights = np.ones_like(counts)
    occurs = counts > 0
    if occurs.any():
        weights[occurs] = np.median(counts[occurs]) / counts[occurs]
    return weights


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
    by_pixels, by_images = balanced_weights(pixels), balanced_weights(images)
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


def _suggest(facts: SplitFacts, info: DatasetInfo, classes: Sequence[dict]) -> dict:
    """Says what of train.py to try on this split."""
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
        "suggestions": _suggest(facts, info, classes),
    }


# --- Images that occur more than once ------------------------------------------------


def _repeated(values: Iterable[str]) -> list[str]:
    counts = collections.Counter(values)
    return [value for value, count in counts.items() if count > 1]


def find_duplicates(images: Iterable[ImageFacts]) -> list[dict]:
    """Groups images of equal pixels, within a split and across splits.

    Args:
      images: of all splits.

    Returns:
      One dictionary for each group: "images" in it as [split, name] each, whether
      also their files are the same ("same_file"; otherwise one was encoded anew), and
      whether their labels are ("same_label").
    """
    groups = collections.defaultdict(list)
    for image in images:
        groups[image.pixel_hash].append(image)
    return [
        {
            "images": [[image.split, image.name] for image in group],
            "same_file": len({image.file_hash for image in group}) == 1,
            "same_label": len({image.label_hash for image in group}) == 1,
        }
        for group in groups.values()
        if len(group) > 1
    ]


def within_split(duplicates: Sequence[dict], split: str) -> list[dict]:
    """Returns the groups with two images or more of one split."""
    return [
        group
        for group in duplicates
        if sum(split == other for other, _ in group["images"]) > 1
    ]


def _name_once(first: list[str], second: list[str]) -> str:
    """Returns the names of an image in two splits; one where they agree."""
    return " = ".join(dict.fromkeys([*first, *second]))


def _shared(
    duplicates: Sequence[dict], names: Mapping[str, set[str]], first: str, second: str
) -> dict:
    """What two splits have in common."""
    both = [
        group
        for group in duplicates
        if {first, second} <= {split for split, _ in group["images"]}
    ]
    return {
        "splits": [first, second],
        "images": len(both),
        "same_images": [
            _name_once(
                [name for split, name in group["images"] if split == first],
                [name for split, name in group["images"] if split == second],
            )
            for group in both
        ],
        "encoded_anew": sum(not group["same_file"] for group in both),
        "other_label": sum(not group["same_label"] for group in both),
        "names": sorted(names[first] & names[second]),
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
            _shared(duplicates, names, *pair) for pair in combinations(splits, 2)
        ],
        "disagreements": [
            sentence
            for split, facts in splits.items()
            for sentence in _disagreements(facts, split, info)
        ],
    }
