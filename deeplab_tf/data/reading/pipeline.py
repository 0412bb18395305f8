"""TFRecords -> `tf.data.Dataset` of (image, label), for training and for evaluation.

Training is one infinite stream whose batch k depends on the seed and on k alone: not
on the number of processors, on TensorFlow's global seed, or on where the stream was
entered. A run that was interrupted after k batches goes on with `start_step=k`.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.data.reading.class_uniform import ClassDraws, drawn_records
from deeplab_tf.data.reading.policies import Crop, Policy, make_augmenter
from deeplab_tf.data.reading.selection import Selection
from deeplab_tf.data.records.frames import (
    GoodFrames,
    count_records,
    read_shards,
    shard_reader,
)
from deeplab_tf.data.records.tfrecord import parse_example, shard_paths

# Added to the seed of a run for the stream of images whose pixels are pasted.
PASTE_SEED = 2**32

# Shards that are read side by side. Fixed: as many as there are processors would make
# the order of the records depend on the machine.
CYCLE_LENGTH = 8


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of every batch a process reads, of several that train together.

    Attributes:
      num_replicas: devices of all workers together that share a batch; each takes
        `batch_size / num_replicas` examples of it, in their order.
      num_workers: processes that share the replicas equally. Each reads all of the
        records and decodes its own alone.
      worker_index: which of them this is; it gets one replica's share after another.
    """

    num_replicas: int = 1
    num_workers: int = 1
    worker_index: int = 0

    def batch_size(self, global_batch_size: int) -> int:
        """Returns the examples of one replica.

        Raises:
          ValueError: the batch or the replicas cannot be shared equally.
        """
        if (
            global_batch_size % self.num_replicas
            or self.num_replicas % self.num_workers
        ):
            raise ValueError(
                "Expected a batch_size divisible by num_replicas, and that by "
                f"num_workers. Received: batch_size={global_batch_size}, "
                f"num_replicas={self.num_replicas}, num_workers={self.num_workers}"
            )
        return global_batch_size // self.num_replicas


# Of a process that reads everything.
ALONE = Share()


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # Several workers each take their part of every batch. Dealing out files instead
    # would change what a batch holds with the number of workers.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return options


def count_examples(selection: Selection) -> int:
    """Counts the examples of an epoch: the records in the shards, or their repeats."""
    if selection.repeats is not None:
        return int(np.sum(selection.repeats))
    paths = shard_paths(selection.data_dir, selection.split)
    return count_records(paths, selection.good_frames)


def _read_repeated(
    records: tf.data.Dataset, first: tf.Tensor, repeats: tf.Tensor
) -> tf.data.Dataset:
    """Returns the serialized records of a shard, record i of all repeats[i] times.

    Args:
      records: string [], those of the shard.
      first: int64 [], index of the shard's first record among those of the split.
      repeats: int64 [records], 0 or more, of the split.
    """
    return records.enumerate(first).flat_map(
        lambda index, record: tf.data.Dataset.from_tensors(record).repeat(
            repeats[index]
        )
    )


def _shard_reader(
    paths: list[str], repeats: np.ndarray | None, good_frames: GoodFrames | None
):
    """Returns a function from a shard's path (string []) to its serialized records."""
    read_once = shard_reader(good_frames)
    if repeats is None:
        return read_once
    counts = [count_records([path], good_frames) for path in paths]
    if sum(counts) != len(repeats):
        raise ValueError(
            f"Expected repeats of the {sum(counts)} records in {len(paths)} shards "
            f"from {paths[0]} on. Received: {len(repeats)}. Count the labels of this "
            "split: data.reading.bootstrap.count_pixels"
        )
    firsts = tf.constant(np.cumsum([0, *counts[:-1]]), tf.int64)
    names, repeats = tf.constant(paths), tf.constant(repeats, tf.int64)

    def read(path):
        first = firsts[tf.argmax(names == path)]
        return _read_repeated(read_once(path), first, repeats)

    return read


def _epoch_records(
    paths: list[str], read, seed: int, epoch: tf.Tensor, shuffle_buffer: int
) -> tf.data.Dataset:
    """Returns the serialized records of one epoch, in the order of (seed, epoch)."""
    # The global seed would take part in `shuffle`. This function is traced into a graph
    # of its own, and here only that graph's seed is set.
    tf.random.set_seed(1)
    shuffle_seed = tf.random.stateless_uniform(
        [], [seed, epoch], maxval=tf.int64.max, dtype=tf.int64
    )
    shuffled_paths = tf.random.experimental.stateless_shuffle(paths, [seed, epoch])
    records = tf.data.Dataset.from_tensor_slices(shuffled_paths).interleave(
        read,
        cycle_length=CYCLE_LENGTH,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return records.shuffle(shuffle_buffer, seed=shuffle_seed)


def _record_stream(
    selection: Selection,
    draws: ClassDraws | None,
    seed: int,
    shuffle_buffer: int,
    start: int,
) -> tf.data.Dataset:
    """Returns (index, serialized record) without end, from index `start` on.

    In passes over the selection, or as the draws say.
    """
    paths = shard_paths(selection.data_dir, selection.split)
    if draws is not None:
        return drawn_records(paths, selection.good_frames, draws, seed, start)
    # A fresh start need not know how many records there are.
    first_epoch, done = divmod(start, count_examples(selection)) if start else (0, 0)
    epochs = tf.data.Dataset.counter(first_epoch)
    read = _shard_reader(paths, selection.repeats, selection.good_frames)
    records = epochs.flat_map(
        lambda epoch: _epoch_records(paths, read, seed, epoch, shuffle_buffer)
    )
    return records.skip(done).enumerate(start)


def make_train_dataset(
    selection: Selection,
    crop: Crop,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    share: Share = ALONE,
    shuffle_buffer: int = 512,
) -> tf.data.Dataset:
    """Makes the infinite stream of augmented batches.

    Every epoch holds each record once (or as its repeats say), in an order of its own.
    Epochs follow one another without a break, so that a batch may hold the end of one
    and the start of the next. A selection with draws has no epochs, see
    `class_uniform.record_at`. What a policy pastes comes from a stream of its own, of
    the same or of other records in another order, which is entered at the same index.

    Args:
      selection: the records that are read; from `selection.select_records`.
      crop: how an example is cropped and changed.
      batch_size: images in a batch: the global batch under a strategy.
      seed: 0 or more; decides order and augmentation.
      start_step: batches to leave out at the start. Their records are not decoded,
        and whole epochs are not even read.
      share: the part of each batch that this process reads.
      shuffle_buffer: serialized records to choose from; a buffer of all of them
        shuffles perfectly. Shards are shuffled too.

    Returns:
      (image float32 [n, height, width, 3], RGB in 0..255; label int32 [n, height,
      width], class ids or ignore_label), static shapes, n = batch_size /
      num_replicas.

    Raises:
      FileNotFoundError: there are no records of this split.
      ImportError: the policy needs keras-cv, which is not installed.
      ValueError: a number is out of its range or cannot be shared, there is no such
        policy, the repeats belong to other records, or the records were not selected
        as the policy says.
    """
    if min(batch_size, shuffle_buffer) < 1 or min(start_step, seed) < 0:
        raise ValueError(
            "Expected batch_size and shuffle_buffer of 1 or more, start_step and seed "
            f"of 0 or more. Received: batch_size={batch_size}, "
            f"shuffle_buffer={shuffle_buffer}, start_step={start_step}, seed={seed}"
        )
    _check_repeats(selection.repeats)
    policy = crop.row
    _check_choice(selection, policy)
    replica_batch_size = share.batch_size(batch_size)
    augment = make_augmenter(crop, selection.paste.class_ids if selection.paste else ())

    def decode(serialized):
        example = parse_example(serialized)
        return example["image"], example["label"]

    def decode_and_augment(index, serialized, *other):
        example_seed = tf.stack([tf.constant(seed, tf.int64), index])
        read_others = [functools.partial(decode, record) for record in other]
        image, label = augment(*decode(serialized), example_seed, *read_others)
        return image, tf.cast(tf.squeeze(label, axis=2), tf.int32)

    place = (shuffle_buffer, start_step * batch_size)
    records = _record_stream(selection, selection.draws, seed, *place)
    if policy.copy_paste:
        others = _record_stream(selection, selection.paste, seed + PASTE_SEED, *place)
        records = tf.data.Dataset.zip((records, others)).map(
            lambda mine, other: (*mine, other[1])
        )
    records = _take_share(records, batch_size, share)
    examples = records.map(decode_and_augment, num_parallel_calls=tf.data.AUTOTUNE)
    batches = examples.batch(replica_batch_size, drop_remainder=True)
    options = _options()
    # Each thread writes its example into the batch: one copy less, and no step that
    # all threads wait for.
    options.experimental_optimization.map_and_batch_fusion = True
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _check_repeats(repeats: np.ndarray | None) -> None:
    if repeats is not None and (np.min(repeats) < 0 or np.sum(repeats) < 1):
        raise ValueError(
            "Expected repeats of 0 or more, and a record that comes at least once. "
            f"Received: {np.min(repeats)} to {np.max(repeats)}"
        )


def _check_choice(selection: Selection, policy: Policy) -> None:
    """Refuses records that were not chosen as the policy says."""
    lacking = {
        "class_uniform=True": policy.class_uniform and selection.draws is None,
        f"paste_classes={policy.paste_classes!r}": policy.copy_paste > 0
        and policy.paste_classes
        and selection.paste is None,
    }
    lacking = [option for option, lacks in lacking.items() if lacks]
    if lacking:
        raise ValueError(
            "Expected records that were selected as the policy says. Received others. "
            f"Select them by select_records(data_dir, split, {', '.join(lacking)})"
        )


def _take_share(records: tf.data.Dataset, period: int, share: Share) -> tf.data.Dataset:
    """Keeps a worker's share of (index, ...): one run of every `period` indices.

    By position, and not by file: so a batch holds the same examples, in the same order,
    for any number of workers.
    """
    if share.num_workers == 1:
        return records
    size = period // share.num_workers
    return records.filter(
        lambda index, *_: index % period // size == share.worker_index
    )


def fill_batch(
    image: tf.Tensor, label: tf.Tensor, *, batch_size: int, ignore_label: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Fills a batch up with repeated images whose labels are void: no score changes.

    Under a strategy every replica must get an image: convolutions of empty batches fail
    on CPUs.
    """
    missing = batch_size - tf.shape(image)[0]
    images = tf.concat([image, tf.repeat(image[:1], missing, axis=0)], axis=0)
    void = tf.fill([missing, tf.shape(label)[1], tf.shape(label)[2]], ignore_label)
    labels = tf.concat([label, tf.cast(void, label.dtype)], axis=0)
    return (
        tf.ensure_shape(images, [batch_size, None, None, 3]),
        tf.ensure_shape(labels, [batch_size, None, None]),
    )


def _read_once(selection: Selection) -> tf.data.Dataset:
    """Returns the serialized records in their order, each once."""
    paths = shard_paths(selection.data_dir, selection.split)
    return read_shards(paths, selection.good_frames)


def _whole_example(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(image uint8 [h, w, 3]; label int32 [h, w]; filename string [])."""
    example = parse_example(serialized)
    label = tf.cast(tf.squeeze(example["label"], axis=2), tf.int32)
    return example["image"], label, example["filename"]


def batch_by_size(examples: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Batches examples whose images are of equal size, so that nothing is padded.

    Args:
      examples: (image [h, w, 3], ...).
      batch_size: largest batch; with 1 the examples stay in their order.
    """
    if batch_size == 1:
        return examples.batch(1)

    def size_of(image, *_):
        shape = tf.shape(image, tf.int64)
        return shape[0] * 2**32 + shape[1]

    return examples.group_by_window(
        size_of, lambda _, same_size: same_size.batch(batch_size), batch_size
    )


def make_eval_dataset(
    selection: Selection, *, batch_size: int = 1, with_filename: bool = False
) -> tf.data.Dataset:
    """Makes one pass over a split: each example once, whole and at its own size.

    Args:
      selection: the records that are read, each once: repeats are of training.
      batch_size: largest batch. A batch holds images of equal size, so that nothing
        is padded; with 1 the examples come in the order of the records.
      with_filename: whether the third element, string [B], is there.

    Returns:
      (image uint8 [B, h, w, 3], RGB; label int32 [B, h, w], class ids or the ignore
      label; and the filename where asked for).

    Raises:
      FileNotFoundError: there are no records of this split.
      ValueError: batch_size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"Expected a batch_size of 1 or more. Received: {batch_size}")

    def decode(serialized):
        example = _whole_example(serialized)
        return example if with_filename else example[:2]

    examples = _read_once(selection).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batch_by_size(examples, batch_size)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(_options())


def make_eval_share(
    selection: Selection, share: Share, *, ignore_label: int = IGNORE_LABEL
) -> tf.data.Dataset:
    """Makes a worker's part of one pass over a split: its images whole, one by one.

    Each example goes to one replica of one worker. All get equally many: those without
    an example in the last round get the first image, its labels void (see
    `fill_batch`). So the workers take the same number of steps, as they must.

    Args:
      selection: the records that are read, each once.
      share: which of the workers this is.
      ignore_label: of the void labels.

    Returns:
      (image uint8 [1, h, w, 3], RGB; label int32 [1, h, w]), for one replica of the
      worker after another.

    Raises:
      FileNotFoundError: there are no records of this split.
    """
    records, num_examples = _read_once(selection), selection.num_examples
    missing = -num_examples % share.num_replicas
    filled = records.concatenate(records.take(1).repeat(missing))
    mine = _take_share(filled.enumerate(), share.num_replicas, share)

    def decode(index, serialized):
        image, label, _ = _whole_example(serialized)
        void = tf.fill(tf.shape(label), tf.cast(ignore_label, label.dtype))
        return image, tf.where(index < num_examples, label, void)

    examples = mine.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return examples.batch(1).prefetch(tf.data.AUTOTUNE).with_options(_options())
