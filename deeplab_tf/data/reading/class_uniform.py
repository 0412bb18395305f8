"""Records by their classes: each class in turn, of the records that hold it any one.

Class-uniform sampling as for Cityscapes in Rota Bulo et al. 2018 (1712.02616) and Zhu
et al. 2019 (1812.01593), without their windows around a class. Which record comes at
index i depends on the seed and on i alone: nothing before it has to be read or drawn.
Here, other than in a pass over the shards, records are read from anywhere in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.data.reading.augment import fold_in
from deeplab_tf.data.records.frames import GoodFrames, read_frames

# Folded into the seed of a run: once for the order of the classes, and from the next
# on for each class's records.
CLASS_ORDER_SALT, RECORD_ORDER_SALT = 1, 2
# A class is rare below this part of what it would have if all had equally many pixels.
RARE_SHARE = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class ClassDraws:
    """Of which records each class is drawn.

    Attributes:
      class_ids: of the classes, which are drawn in turn.
      holders: for each of them the records that hold it, int64 [1 or more], as indices
        into the split.
      num_records: of the split.
    """

    class_ids: tuple[int, ...]
    holders: tuple[np.ndarray, ...]
    num_records: int


def find_class_draws(
    counts: np.ndarray, class_ids: Sequence[int], min_class_pixels: int = 1
) -> ClassDraws:
    """Finds the records that hold each of some classes; leaves out classes of none.

    Args:
      counts: int64 [records, 256], from `bootstrap.count_pixels`; rows of records that
        are not to be drawn are zeros.
      class_ids: of the classes.
      min_class_pixels: a record with fewer pixels of a class does not hold it.

    Raises:
      ValueError: no record holds one of them.
    """
    holders = {
        class_id: np.flatnonzero(counts[:, class_id] >= max(min_class_pixels, 1))
        for class_id in class_ids
    }
    holders = {class_id: found for class_id, found in holders.items() if len(found)}
    if not holders:
        raise ValueError(
            f"Expected records with {max(min_class_pixels, 1)} pixels or more of a "
            f"class. Received: {len(counts)} records without. Choose a smaller "
            "min_class_pixels, or another split."
        )
    return ClassDraws(tuple(holders), tuple(holders.values()), len(counts))


def rare_classes(counts: np.ndarray, num_classes: int) -> list[int]:
    """Returns the ids of classes with less than half of an equal share of the pixels.

    Args:
      counts: int64 [records, 256], from `bootstrap.count_pixels`.
      num_classes: pixels of other ids do not count; classes without any are not rare.
    """
    pixels = counts[:, :num_classes].sum(axis=0)
    limit = RARE_SHARE * pixels.sum() / max(1, np.count_nonzero(pixels))
    return np.flatnonzero((pixels > 0) & (pixels < limit)).tolist()


def record_at(draws: ClassDraws, seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from an index in the stream to the index of its record.

    Of each run of as many indices as there are classes, one is for each class, in an
    order of their own. A class takes each of its records once before it takes one
    again. Both take and give an int64 scalar.
    """
    seed = tf.constant([seed, 0], tf.int64)
    sizes = np.array([len(holders) for holders in draws.holders], np.int64)
    firsts = tf.constant(np.cumsum([0, *sizes[:-1]]), tf.int64)
    records = tf.constant(np.concatenate(draws.holders), tf.int64)
    num_classes, sizes = len(sizes), tf.constant(sizes)

    def permuted(index, size, salt, lap):
        """The place of `index` in the permutation that (seed, salt, lap) gives."""
        order = fold_in(fold_in(seed, salt), lap)
        return tf.random.experimental.index_shuffle(index, order, size - 1)

    def at(index):
        turn, place = index // num_classes, index % num_classes
        drawn = permuted(
            place, tf.constant(num_classes, tf.int64), CLASS_ORDER_SALT, turn
        )
        size = sizes[drawn]
        holder = permuted(turn % size, size, RECORD_ORDER_SALT + drawn, turn // size)
        return records[firsts[drawn] + holder]

    return at


def record_frames(paths: list[str], good_frames: GoodFrames | None) -> np.ndarray:
    """Finds where each record of a split lies.

    Args:
      paths: of the shards.
      good_frames: leaves out the bad records of damaged shards.

    Returns:
      int64 [records, 4]: the index of the shard, and the bytes before, of and after the
      record.
    """
    found = []
    for shard, path in enumerate(paths):
        if good_frames and path in good_frames:
            frames = good_frames[path]
        else:
            size = tf.io.gfile.stat(path).length
            frames = [
                (frame.start, frame.size, size - frame.start - frame.size)
                for frame in read_frames(path, size)
            ]
        found += [(shard, *frame) for frame in frames]
    return np.reshape(np.array(found, np.int64), [-1, 4])


def drawn_records(
    paths: list[str],
    good_frames: GoodFrames | None,
    draws: ClassDraws,
    seed: int,
    start: int,
) -> tf.data.Dataset:
    """Returns (index, serialized record) without end, from index `start` on.

    Raises:
      ValueError: the draws are of other records.
    """
    frames = record_frames(paths, good_frames)
    if len(frames) != draws.num_records:
        raise ValueError(
            f"Expected draws of the {len(frames)} records in {len(paths)} shards from "
            f"{paths[0]} on. Received: draws of {draws.num_records}. Select the "
            "records again: data.reading.selection.select_records"
        )
    frames, paths, at = tf.constant(frames), tf.constant(paths), record_at(draws, seed)

    def read(index):
        frame = frames[at(index)]
        record = tf.data.FixedLengthRecordDataset(
            paths[frame[0]], frame[2], header_bytes=frame[1], footer_bytes=frame[3]
        )
        return index, record.get_single_element()

    indices = tf.data.Dataset.counter(start)
    return indices.map(read, num_parallel_calls=tf.data.AUTOTUNE)
