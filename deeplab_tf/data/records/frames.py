"""How records lie in a shard, and how a damaged one is read around.

A shard is a row of frames: the length of a record (uint64, little endian), a masked
CRC-32C of it, the record, a masked CRC-32C of that (TensorFlow's record_writer.h).
TensorFlow's own reader ends at the first frame that is damaged, and takes memory for
whatever a length says, even if that ends the process: `check_lengths` goes before it.
"""

# TensorFlow is imported by the functions that need it, as in `tfrecord`.
from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

HEADER_BYTES, FOOTER_BYTES = 12, 4
CRC_MASK_DELTA = 0xA282EAD8

# Path of a damaged shard, as `tfrecord.shard_paths` gives it -> int64 [records, 3]: the
# bytes before, of and after each record that is to be read.
GoodFrames = Mapping[str, np.ndarray]

# --- Checksums -----------------------------------------------------------------------


def _crc_table() -> np.ndarray:
    """The CRC-32C (Castagnoli, reflected) of each byte, uint32 [256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


_TABLE = _crc_table()


# Bytes that take the remainder from 0 to 0xFFFFFFFF, where a CRC-32C starts.
_START = bytes.fromhex("54641f64")


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C of some bytes.

    They are cut into as many chunks as a chunk has bytes, whose remainders numpy
    computes side by side. A remainder is linear over bits: it moves past another chunk
    as the sum of its bits' own moves, for which the last 32 rows are there.
    """
    data = np.frombuffer(_START + data, np.uint8)
    size = int(np.ceil(np.sqrt(len(data))))
    chunks = np.zeros([-(-len(data) // size) + 32, size], np.uint8)
    chunks[:-32].reshape(-1)[-len(data) :] = data  # zeros in front change nothing
    state = np.zeros(len(chunks), np.uint32)
    bits = np.arange(32, dtype=np.uint32)
    state[-32:] = np.uint32(1) << bits
    for column in np.ascontiguousarray(chunks.T):
        state = _TABLE[(state ^ column) & 0xFF] ^ (state >> 8)
    total, moved_bits = np.uint32(0), state[-32:]
    for remainder in state[:-32]:
        moved = moved_bits[(total >> bits) & 1 == 1]
        total = np.bitwise_xor.reduce(moved, initial=remainder, dtype=np.uint32)
    return int(total) ^ 0xFFFFFFFF


def checksum_holds(data: bytes, stored: bytes) -> bool:
    """Says whether `stored`, 4 bytes of a frame, is the checksum of `data`."""
    crc = crc32c(data)
    masked = ((crc >> 15 | crc << 17) + CRC_MASK_DELTA) & 0xFFFFFFFF
    return masked == int.from_bytes(stored, "little")


# --- The frames of one shard ---------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Frame:
    """A record in its shard.

    Attributes:
      index: its place among the records, from 0.
      start: byte of the shard at which it begins.
      size: its bytes.
      problem: what is wrong with its framing; empty where that is whole.
    """

    index: int
    start: int
    size: int
    problem: str = ""


def _parse_header(index: int, start: int, header: bytes, file_size: int) -> Frame:
    """Makes the frame of a record that starts after `header`, at `start`."""
    start = min(start, file_size)  # of a header that is cut
    rest = file_size - start
    size = int.from_bytes(header[:8], "little")
    whole = len(header) == HEADER_BYTES
    if whole and not checksum_holds(header[:8], header[8:]):
        problem = f"its length is damaged; it and all after it, {rest} bytes, are lost"
    elif not whole or size + FOOTER_BYTES > rest:
        problem = f"the shard is cut short here, after {file_size} bytes"
    else:
        return Frame(index, start, size)
    return Frame(index, start, rest, problem)


def read_frames(path: str, file_size: int) -> list[Frame]:
    """Follows the lengths through a shard, as far as they can be trusted.

    Args:
      path: of the shard; anything that tf.io.gfile can open.
      file_size: its bytes.

    Returns:
      One for each record; after a damaged length, one for all that is left.
    """
    import tensorflow as tf

    frames, position = [], 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while position < file_size:
            file.seek(position)
            header = file.read(HEADER_BYTES)
            frame = _parse_header(
                len(frames), position + HEADER_BYTES, header, file_size
            )
            frames.append(frame)
            if frame.problem:
                break
            position = frame.start + frame.size + FOOTER_BYTES
    return frames


@functools.lru_cache(maxsize=100_000)
def _longer_than_file(path: str, size: int, modified: int) -> str:
    """Says which record of a local file claims more bytes than follow; "" for none."""
    with open(path, "rb", buffering=0) as file:
        place = index = 0
        while place + HEADER_BYTES <= size:
            header = file.read(HEADER_BYTES)
            claimed = int.from_bytes(header[:8], "little")
            # TensorFlow refuses a damaged length itself, before it takes memory.
            if claimed > size - place and checksum_holds(header[:8], header[8:]):
                return f"record {index} of {path} claims {claimed} bytes of {size}"
            place += HEADER_BYTES + claimed + FOOTER_BYTES
            if place < size:
                file.seek(place)
            index += 1
    return ""


def check_lengths(path: str) -> None:
    """Refuses a shard with a record that is longer than its file.

    Reads the lengths alone, some microseconds each, and a shard that did not change
    once. Files that TensorFlow reads from elsewhere (gs://) pass: each length would
    be a request.

    Raises:
      tf.errors.DataLossError: names the record.
    """
    import tensorflow as tf

    if "://" in path:
        return
    with contextlib.suppress(OSError):  # TensorFlow says what cannot be read.
        status = os.stat(path)
        problem = _longer_than_file(path, status.st_size, status.st_mtime_ns)
        if problem:
            raise tf.errors.DataLossError(None, None, problem)


# --- Reading shards ------------------------------------------------------------------


def _read_whole(path: tf.Tensor) -> tf.data.Dataset:
    """Returns the serialized records of a shard, or of none; paths string [] or [n]."""
    import tensorflow as tf

    def check(paths):
        try:
            for path in np.atleast_1d(paths):
                check_lengths(os.fsdecode(path))
        except tf.errors.DataLossError as error:
            raise ValueError(error.message) from error  # what graphs pass on
        return paths

    # When a shard is opened, not when a run starts: only then its pages are wanted.
    checked = tf.numpy_function(check, [path], tf.string)
    checked.set_shape(path.shape)
    return tf.data.TFRecordDataset(checked)


def shard_reader(
    good_frames: GoodFrames | None = None,
) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Returns a function from a shard's path to its serialized records.

    TensorFlow's own reader loses what lies after a damaged record. Such a shard is
    read by the places of its good records; the others as ever.

    Args:
      good_frames: the damaged shards and their good records, as
        `data.reading.bad_records.scan_split` finds them; None where no shard is
        damaged.

    Returns:
      A function of a path, string [], for `Dataset.interleave` and `flat_map`.
    """
    import tensorflow as tf

    if not good_frames:
        return _read_whole
    damaged = tf.constant(list(good_frames))
    ends = np.cumsum([len(frames) for frames in good_frames.values()], dtype=np.int64)
    bounds = tf.constant(np.insert(ends, 0, 0))
    all_frames = tf.constant(np.concatenate(list(good_frames.values())), tf.int64)

    def read(path):
        matches = tf.equal(damaged, path)
        whole = tf.boolean_mask([path], [~tf.reduce_any(matches)])
        shard = tf.squeeze(tf.where(matches), axis=1)  # no or one index
        first = tf.reduce_sum(tf.gather(bounds, shard))
        last = tf.reduce_sum(tf.gather(bounds, shard + 1))
        frames = tf.data.Dataset.from_tensor_slices(all_frames[first:last])
        by_place = frames.flat_map(
            lambda frame: tf.data.FixedLengthRecordDataset(
                path, frame[1], header_bytes=frame[0], footer_bytes=frame[2]
            )
        )
        return _read_whole(whole).concatenate(by_place)

    return read


def read_shards(
    paths: list[str], good_frames: GoodFrames | None = None
) -> tf.data.Dataset:
    """Returns the serialized records of shards, one shard after the other.

    Args:
      paths: of the shards.
      good_frames: see `shard_reader`.
    """
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(paths).flat_map(shard_reader(good_frames))


def count_records(paths: list[str], good_frames: GoodFrames | None = None) -> int:
    """Counts the records of TFRecord files by reading them, without decoding.

    Those of damaged shards, see `shard_reader`, are counted already.

    Raises:
      tf.errors.DataLossError: a frame is damaged, or see `check_lengths`.
    """
    import tensorflow as tf

    damaged = good_frames or {}
    counted = sum(len(damaged[path]) for path in paths if path in damaged)
    whole = [path for path in paths if path not in damaged]
    for path in whole:
        check_lengths(path)
    whole = tf.constant(whole, tf.string)
    records = tf.data.TFRecordDataset(whole, num_parallel_reads=tf.data.AUTOTUNE)
    zero = tf.constant(0, tf.int64)
    return counted + int(records.reduce(zero, lambda count, _: count + 1))
