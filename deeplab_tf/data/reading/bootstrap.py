"""How often a record comes in an epoch: duplicates of hard classes, and a filter.

DeepLabV3 (section 4.1) duplicates the training images that hold hard classes, and its
COCO pretraining keeps only images with more than 1,000 annotated pixels. Both are one
number for each record, counted from the labels and carried by a selection:

    selection = select_records(data_dir, "train", duplicate=(("sofa", 2),))
    make_train_dataset(selection, ...)

The labels are decoded once, when a run starts, and nothing is kept on disk: a cache
could outlive the records that it was made from. Progress is printed for large splits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.command_names import did_you_mean
from deeplab_tf.data.records.frames import GoodFrames, read_shards
from deeplab_tf.data.records.tfrecord import parse_label, shard_paths

# A class that no pixel of interest has; labelled pixels are those of the others.
BACKGROUND = "background"
REPORT_EVERY = 5000


def count_pixels(
    data_dir: str,
    split: str,
    good_frames: GoodFrames | None = None,
) -> np.ndarray:
    """Counts the pixels of each label value in each record, in one pass.

    Args:
      data_dir: folder of the records.
      split: name of the split, such as "train".
      good_frames: leaves out the bad records of damaged shards; from
        `data.reading.bad_records.scan_split`.

    Returns:
      int64 [records, 256]: pixels by record and label value. Records are in the order
      of the shards' names and of their places in the shards.

    Raises:
      FileNotFoundError: there are no records of this split.
      tf.errors.InvalidArgumentError: a label cannot be decoded.
    """

    def count(serialized):
        values = tf.cast(tf.reshape(parse_label(serialized), [-1]), tf.int32)
        return tf.math.bincount(values, minlength=256, dtype=tf.int64)

    records = read_shards(shard_paths(data_dir, split), good_frames)
    counts = []
    for row in records.map(count, num_parallel_calls=tf.data.AUTOTUNE):
        counts.append(row.numpy())
        if len(counts) % REPORT_EVERY == 0:
            print(f"Counted the labels of {len(counts):,} records of {split}.")
    return np.reshape(np.array(counts, np.int64), [-1, 256])


def check_class_names(
    class_names: Sequence[str], wanted: Iterable[str], option: str
) -> None:
    """Refuses names that no class has.

    Args:
      class_names: of the data set.
      wanted: the names that an option was given.
      option: its name.

    Raises:
      ValueError: some are no classes.
    """
    unknown = [name for name in wanted if name not in class_names]
    if unknown:
        raise ValueError(
            f"Expected names of classes to {option} of {', '.join(class_names)}. "
            f"Received: {', '.join(map(str, unknown))}"
            f"{did_you_mean(str(unknown[0]), class_names)}"
        )


def _check_duplicate(class_names: list[str], duplicate: dict[str, int]) -> None:
    check_class_names(class_names, duplicate, "duplicate")
    wrong = {
        name: factor
        for name, factor in duplicate.items()
        if int(factor) != factor or factor < 1
    }
    if wrong:
        raise ValueError(f"Expected whole factors of 1 or more. Received: {wrong}")


def record_repeats(
    counts: np.ndarray,
    class_names: Sequence[str],
    *,
    duplicate: Mapping[str, int] | None = None,
    min_class_pixels: int = 1,
    min_labelled_pixels: int = 0,
) -> np.ndarray:
    """Says how often each record is to come in an epoch.

    Args:
      counts: int64 [records, 256], from `count_pixels`.
      class_names: names of the classes in the order of their ids.
      duplicate: class name -> factor, 1 or more. A record that holds the class comes
        that many times; of several such classes the largest factor holds.
      min_class_pixels: a record with fewer pixels of a class does not hold it. Where
        nearly all images show a class somewhere, 1 would repeat nearly all.
      min_labelled_pixels: records with fewer pixels of classes other than
        "background" are left out. Pixels to ignore do not count.

    Returns:
      int64 [records], 0 or more. Their sum is the number of examples in an epoch.

    Raises:
      ValueError: a class is unknown or held by no record, a factor is below 1, or no
        record has enough labelled pixels.
    """
    class_names, duplicate = list(class_names), dict(duplicate or {})
    _check_duplicate(class_names, duplicate)
    repeats = np.ones(len(counts), np.int64)
    for name, factor in duplicate.items():
        holds = counts[:, class_names.index(name)] >= max(min_class_pixels, 1)
        if not holds.any():
            raise ValueError(
                f"Expected classes with {min_class_pixels} pixels or more in one of "
                f"{len(counts)} records. Received: {name}. Leave it out of duplicate, "
                "or choose another split."
            )
        repeats = np.where(holds, np.maximum(repeats, int(factor)), repeats)
    labelled = [i for i, name in enumerate(class_names) if name != BACKGROUND]
    enough = counts[:, labelled].sum(axis=1) >= min_labelled_pixels
    if not enough.any():
        raise ValueError(
            "Expected records with labelled pixels, at least min_labelled_pixels="
            f"{min_labelled_pixels}. Received: {len(counts)} records with fewer. "
            "Choose a smaller number."
        )
    return np.where(enough, repeats, 0)


def describe_repeats(repeats: np.ndarray) -> str:
    """Returns one line on what `repeats` does to an epoch."""
    return (
        f"{len(repeats)} records, {int((repeats > 1).sum())} of them repeated and "
        f"{int((repeats == 0).sum())} left out: {int(repeats.sum())} examples an epoch."
    )
