"""Bad records are found, named and read around."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.reading import bootstrap, pipeline
from deeplab_tf.data.reading.bad_records import (
    BadRecords,
    bad_records_named,
    scan_split,
)
from deeplab_tf.data.records.frames import checksum_holds, count_records, crc32c
from deeplab_tf.data.records.tfrecord import (
    IMAGE,
    LABEL,
    shard_paths,
)
from tests.support.numbered_records import assert_equal, batches, select, train
from tests.support.spoilt_records import (
    CONTENT_FAULTS,
    flip,
    flip_data,
    frames_of,
    remove,
    shard_of_train,
    write_data,
)

pytestmark = pytest.mark.two_lanes


@pytest.mark.parametrize("fault", CONTENT_FAULTS)
def test_a_record_of_bad_content_is_named(tmp_path, fault):
    change, problem = CONTENT_FAULTS[fault]
    folder = write_data(tmp_path, {4: change})
    scan = scan_split(folder, "train")
    assert [str(bad) for bad in scan.bad] == [
        f"train-00001-of-00003.tfrecord record 1 (image4): {problem}"
    ]
    assert (scan.num_good, scan.is_whole) == (11, False)


def test_a_label_of_another_size_does_not_pass_the_pipeline(tmp_path):
    """A crop of both would train on wrong labels, and no step would fail."""
    folder = write_data(tmp_path, {4: CONTENT_FAULTS["other size"][0]})
    dataset = train(folder, batch_size=12, crop_size=(33, 33))
    with pytest.raises(tf.errors.InvalidArgumentError, match="of one size.*image4"):
        batches(dataset, 1)
    scan = scan_split(folder, "train")
    assert len(batches(train(select(folder, good_frames=scan.good_frames)), 4)) == 4


def test_damaged_frames_are_named(tmp_path):
    """A byte of the data, one of a length, and a shard that is cut short."""
    folder = write_data(tmp_path)
    first, second, third = (shard_of_train(tmp_path, shard) for shard in range(3))
    flip_data(tmp_path, 3)
    start, _ = frames_of(second)[2]
    flip(second, start - 12)
    start, size = frames_of(third)[3]
    third.write_bytes(third.read_bytes()[: start + size // 2])
    lost = second.stat().st_size - frames_of_start(second, 2)
    scan = scan_split(folder, "train")
    assert str(scan).splitlines() == [
        f"3 of 11 records in split train of {folder} are bad:",
        "  train-00000-of-00003.tfrecord record 1 (image3): its checksum is wrong: its "
        "bytes have changed",
        "  train-00001-of-00003.tfrecord record 2: its length is damaged; it and all "
        f"after it, {lost} bytes, are lost",
        "  train-00002-of-00003.tfrecord record 3: the shard is cut short here, after "
        f"{third.stat().st_size} bytes",
        "  there should be 12 records, by info.json: shards were cut short or "
        "exchanged",
    ]


def header(size: int) -> bytes:
    """A frame's length with its right checksum."""
    length = struct.pack("<Q", size)
    crc = crc32c(length)
    return length + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


@pytest.mark.parametrize("size", [2**33, 2**40, 2**63, 2**64 - 1])
def test_a_length_beyond_the_file_is_named_and_ends_no_process(tmp_path, size):
    """TensorFlow would take memory for it, and end by SIGSEGV."""
    folder = write_data(tmp_path)
    path = shard_of_train(tmp_path, 1)
    start, _ = frames_of(path)[2]
    content = path.read_bytes()
    path.write_bytes(content[: start - 12] + header(size) + content[start:])
    for read in (lambda: batches(train(folder), 4), lambda: count_records([str(path)])):
        with pytest.raises(BadRecords, match="00001-of-00003.* record 2: .* cut short"):
            with bad_records_named(folder, ["train"]):
                read()
    selection = select(folder, good_frames=scan_split(folder, "train").good_frames)
    assert len(batches(train(selection), 4)) == 4


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 11, 12, 15])
def test_a_shard_cut_in_a_header_is_named(tmp_path, kept):
    folder = write_data(tmp_path)
    path = shard_of_train(tmp_path, 1)
    start, _ = frames_of(path)[2]
    path.write_bytes(path.read_bytes()[: start - 12 + kept])
    bad = [str(bad) for bad in scan_split(folder, "train").bad]
    sentence = "record 2: the shard is cut short here, after "
    assert len(bad) == (kept > 0) and all(sentence in each for each in bad)


def frames_of_start(path, index: int) -> int:
    """Where record `index` of a shard starts, of records of whole frames before it."""
    content, position = path.read_bytes(), 0
    for _ in range(index):
        position += 16 + struct.unpack_from("<Q", content, position)[0]
    return position + 12


@pytest.mark.parametrize("record", [b"", b"\xba\xff" * 50, b"no example"])
def test_a_record_that_is_no_example_is_named(tmp_path, record):
    folder = write_data(tmp_path, {4: record})
    with pytest.raises(BadRecords) as error:
        with bad_records_named(folder, ["train"]):
            list(pipeline.make_eval_dataset(select(folder)))
    problem = "it is no tf.train.Example" if record else f"it has no image, key {IMAGE}"
    assert f"train-00001-of-00003.tfrecord record 1: {problem}\n" in str(error.value)


def test_a_shard_cut_between_two_records_is_noticed(tmp_path):
    folder = write_data(tmp_path)
    path = shard_of_train(tmp_path, 1)
    start, size = frames_of(path)[1]
    path.write_bytes(path.read_bytes()[: start + size + 4])
    scan = scan_split(folder, "train")
    assert not scan.bad and not scan.is_whole
    assert "0 of 10 records" in str(scan) and "should be 12 records" in str(scan)


def test_a_whole_split_is_whole(tmp_path):
    scan = scan_split(write_data(tmp_path), "train")
    assert scan.is_whole and scan.num_good == 12 and not scan.good_frames
    assert str(scan) == f"All 12 records in split train of {tmp_path} are good."


def test_many_bad_records_are_counted_and_ten_named(tmp_path):
    folder = write_data(tmp_path, {index: remove(LABEL) for index in range(12)})
    lines = str(scan_split(folder, "train")).splitlines()
    assert len(lines) == 12 and lines[-1] == "  and 2 more"


@pytest.mark.parametrize("size", [0, 1, 3, 5, 8, 255, 256, 100_001])
def test_checksums_are_those_of_tensorflow(tmp_path, size):
    record = np.random.default_rng(size).bytes(size)
    path = tmp_path / "one.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record)
    stored = path.read_bytes()[-4:]
    assert checksum_holds(record, stored)
    assert not checksum_holds(record + b"\0", stored)


def test_crc32c_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of every catalogue
    assert crc32c(b"") == 0


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A split that lacks records 2, 4, 7, of damaged shards 1 and 2."""
    folder = tmp_path_factory.mktemp("damaged")
    write_data(folder, {2: CONTENT_FAULTS["other size"][0]})
    flip_data(folder, 4)
    flip_data(folder, 7)
    return str(folder), scan_split(str(folder), "train").good_frames


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The split whose shards never held them."""
    return write_data(tmp_path_factory.mktemp("clean"), left_out=(2, 4, 7))


@pytest.mark.parametrize("start_step, repeated", [(0, False), (2, True), (4, True)])
def test_the_stream_around_bad_records_is_that_of_shards_without_them(
    damaged, clean, start_step, repeated
):
    """In order, augmentation, repeats, and where it is entered: 9 records an epoch."""
    folder, frames = damaged
    options = dict(crop_size=(33, 33), start_step=start_step, shuffle_buffer=4)
    repeats = {"repeats": np.array([1, 2, 0, 1, 3, 1, 1, 1, 1])} if repeated else {}
    around = train(select(folder, good_frames=frames, **repeats), **options)
    expected = train(select(clean, **repeats), **options)
    assert_equal(batches(around, 5), batches(expected, 5))


def test_what_counts_agrees_with_what_is_read(damaged, clean):
    folder, frames = damaged
    paths = shard_paths(folder, "train")
    assert set(frames) == set(paths[1:]), "shard 0 is whole and read as ever"
    assert pipeline.count_examples(select(folder, good_frames=frames)) == 9
    np.testing.assert_array_equal(
        bootstrap.count_pixels(folder, "train", frames),
        bootstrap.count_pixels(clean, "train"),
    )
    around = pipeline.make_eval_dataset(select(folder, good_frames=frames))
    assert_equal(list(around), list(pipeline.make_eval_dataset(select(clean))))


def test_a_shard_without_any_good_record_is_empty(tmp_path):
    folder = write_data(tmp_path, {index: remove(IMAGE) for index in (1, 4, 7, 10)})
    frames = scan_split(folder, "train").good_frames
    good = select(folder, good_frames=frames)
    around = train(good, batch_size=8, crop_size=(33, 33))
    assert len(batches(around, 3)) == 3
    assert pipeline.count_records(shard_paths(folder, "train"), frames) == 8


def test_an_error_without_a_bad_record_passes(tmp_path):
    folder = write_data(tmp_path)
    error = tf.errors.InvalidArgumentError(None, None, "of another cause")
    with pytest.raises(tf.errors.InvalidArgumentError, match="of another cause"):
        with bad_records_named(folder, ["train"]):
            raise error
    with pytest.raises(ValueError, match="not of the data"):
        with bad_records_named(folder, ["no split"]):
            raise ValueError("not of the data")
