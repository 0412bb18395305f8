"""Which records of a split cannot be used, and why.

Training does not look for them: a bad record ends it with an error of TensorFlow, which
names no record, and only then the split is searched. `train.py --skip_bad_records`
searches first and leaves out what it finds:

    selection = select_records(data_dir, "train", skip_bad_records=True)
    make_train_dataset(selection, ...)
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from deeplab_tf.data.records.frames import (
    FOOTER_BYTES,
    GoodFrames,
    checksum_holds,
    count_records,
    read_frames,
)
from deeplab_tf.data.records.info import read_info
from deeplab_tf.data.records.tfrecord import (
    FILENAME,
    IMAGE,
    LABEL,
    parse_example,
    parse_label,
    shard_paths,
)
from deeplab_tf.image_work import MAX_SCANS, has_few_scans
from deeplab_tf.strangers_words import first_ten, printable

NUM_NAMED = 10

# What TensorFlow raises where a record cannot be decoded. Its message quotes a record
# that is no Example, and fails to become text.
DECODE_ERRORS = (tf.errors.InvalidArgumentError, UnicodeDecodeError)
# What tf.data raises where a record or a shard is bad.
DATA_ERRORS = (
    *DECODE_ERRORS,
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
)


@dataclasses.dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used.

    Attributes:
      path: of its shard.
      index: its place in the shard, from 0.
      filename: the name of its image; empty where it cannot be read.
      problem: what is wrong, such as "its image cannot be decoded".
    """

    path: str
    index: int
    filename: str
    problem: str

    def __str__(self):
        # On one line, whatever the record holds.
        name = printable(self.filename).replace("\n", " ")
        name = f" ({name})" if name else ""
        shard = os.path.basename(self.path)
        return f"{shard} record {self.index}{name}: {self.problem}"


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a search of a split found.

    Attributes:
      data_dir, split: what was searched.
      num_good: records that can be used.
      bad: the others, in the order of the shards; all that lies behind a damaged
        length counts as one.
      num_expected: records of the split that info.json tells of.
      good_frames: for `reading.pipeline` and `reading.bootstrap`, which read around the
        bad ones; empty where there are none.
    """

    data_dir: str
    split: str
    num_good: int
    bad: tuple[BadRecord, ...]
    num_expected: int
    good_frames: GoodFrames

    @property
    def is_whole(self) -> bool:
        return not self.bad and self.num_good >= self.num_expected

    def __str__(self):
        total = len(self.bad) + self.num_good
        where = f"split {self.split} of {self.data_dir}"
        if self.is_whole:
            return f"All {total} records in {where} are good."
        lines = first_ten([*map(str, self.bad)])
        if total < self.num_expected:
            lines.append(
                f"there should be {self.num_expected} records, by info.json: shards "
                "were cut short or exchanged"
            )
        listing = "".join(f"\n  {line}" for line in lines)
        return f"{len(self.bad)} of {total} records in {where} are bad:{listing}"


def _reads_to_its_end(path: str) -> bool:
    """Whether TensorFlow finds every checksum right, which it does much quicker."""
    try:
        count_records([path])
    except tf.errors.DataLossError:
        return False
    return True


def _filename(serialized: bytes) -> str | None:
    """Returns the name of a record, "" without one, None where it is no Example."""
    features = {FILENAME: tf.io.FixedLenFeature([], tf.string, default_value="")}
    try:
        example = tf.io.parse_single_example(serialized, features)
    except DECODE_ERRORS:
        return None
    return example[FILENAME].numpy().decode(errors="replace")


def _why_not_parsed(serialized: bytes) -> str:
    """Says why `parse_example` refused a record."""
    if _filename(serialized) is None:
        return "it is no tf.train.Example"
    for key, name in ((IMAGE, "image"), (LABEL, "label")):
        feature = {key: tf.io.FixedLenFeature([], tf.string)}
        try:
            tf.io.parse_single_example(serialized, feature)
        except DECODE_ERRORS:
            return f"it has no {name}, key {key}"
    try:
        label = parse_label(serialized)
    except DECODE_ERRORS:
        return "its label is no single-channel 8-bit PNG that can be decoded"
    feature = {IMAGE: tf.io.FixedLenFeature([], tf.string)}
    encoded = tf.io.parse_single_example(serialized, feature)[IMAGE]
    if not has_few_scans(encoded):
        return f"its image has more than {MAX_SCANS} scans: save it anew"
    try:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    except DECODE_ERRORS:
        return "its image cannot be decoded"
    return (
        f"its image is {image.shape[0]} x {image.shape[1]} pixels (height x width), "
        f"its label {label.shape[0]} x {label.shape[1]}"
    )


def find_problem(serialized: bytes, num_classes: int, ignore_label: int) -> str:
    """Says what is wrong with a record, "" where it can be used.

    Args:
      serialized: what `data.records.tfrecord.encode_example` wrote.
      num_classes: ids of its label are below it, or
      ignore_label: that.
    """
    with tf.device("CPU"):
        try:
            label = parse_example(serialized)["label"].numpy()
        except DECODE_ERRORS:
            return _why_not_parsed(serialized)
    ids = np.flatnonzero(np.bincount(label.reshape(-1), minlength=256))
    wrong = [str(i) for i in ids if i >= num_classes and i != ignore_label]
    if not wrong:
        return ""
    return (
        f"its label holds {', '.join(wrong[:NUM_NAMED])}"
        f"{' ...' if len(wrong) > NUM_NAMED else ''}, which is neither a class in "
        f"[0, {num_classes}) nor the ignore label {ignore_label}"
    )


def _scan_shard(
    path: str, num_classes: int, ignore_label: int
) -> tuple[list[BadRecord], np.ndarray]:
    """Returns the bad records of a shard and the frames, int64 [n, 3], of the good."""
    file_size = tf.io.gfile.stat(path).length
    checksums_hold = _reads_to_its_end(path)

    def check(frame):
        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(frame.start)
            record = file.read(frame.size)
            checksum = file.read(FOOTER_BYTES)
        problem = frame.problem
        if not problem and not checksums_hold and not checksum_holds(record, checksum):
            problem = "its checksum is wrong: its bytes have changed"
        problem = problem or find_problem(record, num_classes, ignore_label)
        name = _filename(record) if problem else None
        return problem and BadRecord(path, frame.index, name or "", problem)

    frames = read_frames(path, file_size)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(check, frames))
    good = [
        (frame.start, frame.size, file_size - frame.start - frame.size)
        for frame, bad in zip(frames, found)
        if not bad
    ]
    return [bad for bad in found if bad], np.reshape(np.array(good, np.int64), [-1, 3])


def scan_split(data_dir: str, split: str) -> Scan:
    """Reads and decodes every record of a split.

    Args:
      data_dir: folder that a builder wrote.
      split: name of the split, such as "train".

    Raises:
      FileNotFoundError: there are no records of this split, or shards are missing.
      ValueError: info.json is damaged.
    """
    info = read_info(data_dir)
    all_bad, frames, num_good = [], {}, 0
    for path in shard_paths(data_dir, split):
        bad, good = _scan_shard(path, info.num_classes, info.ignore_label)
        num_good += len(good)
        all_bad += bad
        if bad:
            frames[path] = good
    expected = info.splits.get(split, 0)
    return Scan(data_dir, split, num_good, tuple(all_bad), expected, frames)


class BadRecords(ValueError):
    """Records that cannot be used made training or evaluation fail."""


@contextlib.contextmanager
def bad_records_named(
    data_dir: str,
    splits: Sequence[str],
    *,
    advice: str = "",
    kept: str = "",
    errors: tuple[type[Exception], ...] = DATA_ERRORS,
) -> Iterator[None]:
    """Says of an error inside the block which records or shards caused it.

    Args:
      data_dir: folder of the records.
      splits: that the block reads; they are searched after an error.
      advice: what to do about bad records beside building the data set again.
      kept: ends every message: what is kept.
      errors: that bad records may cause; others pass, and so do these where every
        record is good.

    Raises:
      BadRecords: with the bad records' names, from the error of the block.
      FileNotFoundError: with the names of missing shards.
    """
    try:
        yield
    except errors as error:
        print(f"Searching {data_dir} for bad records ...")
        try:
            scans = [scan_split(data_dir, split) for split in dict.fromkeys(splits)]
        except FileNotFoundError as missing:
            raise FileNotFoundError(f"{missing} {kept}".strip()) from error
        found = [str(scan) for scan in scans if not scan.is_whole]
        if not found:
            raise
        found.append(f"Build the data set again. {advice} {kept}".strip())
        raise BadRecords("\n".join(found)) from error
