"""What is kept of each record that was read: sizes, hashes, pixels of each class.

`read_split` decodes a split once and keeps of each image its name, size and hashes, so
that memory hardly grows with the images. `summary.summarize` sums them up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf.data.reading.bad_records import DATA_ERRORS, bad_records_named
from deeplab_tf.data.records.frames import read_shards
from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.data.records.tfrecord import IMAGE, parse_example, shard_paths

FORMATS = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp"}


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
