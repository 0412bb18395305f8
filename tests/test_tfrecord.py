"""Records: ids survive exactly, the keys are TF-Models', errors say what is wrong."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.data.records import tfrecord
from deeplab_tf.data.records.info import DatasetInfo, read_info


def png(array, mode=None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    if mode:
        image = image.convert(mode)
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)


@pytest.fixture
def label():
    return np.arange(35, dtype=np.uint8).reshape(7, 5) * 7 + 17  # 17 ... 255


def foreign_example(image_bytes: bytes, label_bytes: bytes) -> bytes:
    """A record with the two keys that matter, typed out as TF-Models writes them."""

    def feature(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        "image/encoded": feature(image_bytes),
        "image/segmentation/class/encoded": feature(label_bytes),
    }
    return tf.train.Example(
        features=tf.train.Features(feature=features)
    ).SerializeToString()


def test_every_id_and_pixel_comes_back_through_a_file(tmp_path, image, label):
    assert label.max() == 255
    record = tfrecord.encode_example(png(image), label, "one", "png", 7, 5)
    path = str(tmp_path / "one.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(record)
    dataset = tf.data.TFRecordDataset(path).map(tfrecord.parse_example)
    assert dataset.element_spec["image"].shape.as_list() == [None, None, 3]
    assert dataset.element_spec["label"].shape.as_list() == [None, None, 1]
    (example,) = dataset.as_numpy_iterator()
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label"][..., 0], label)
    assert example["label"].dtype == np.uint8
    assert example["filename"] == b"one"


def test_keys_are_those_of_tf_models(image, label):
    image_bytes = png(image)
    record = tfrecord.encode_example(image_bytes, label, "one", "png", 7, 5)
    feature = tf.train.Example.FromString(record).features.feature
    assert set(feature) == {
        "image/encoded",
        "image/filename",
        "image/format",
        "image/height",
        "image/width",
        "image/channels",
        "image/segmentation/class/encoded",
        "image/segmentation/class/format",
    }
    assert feature["image/encoded"].bytes_list.value[0] == image_bytes
    assert feature["image/height"].int64_list.value[0] == 7
    assert feature["image/width"].int64_list.value[0] == 5
    assert feature["image/channels"].int64_list.value[0] == 3
    stored = feature["image/segmentation/class/encoded"].bytes_list.value[0]
    stored = Image.open(io.BytesIO(stored))
    assert stored.mode == "L"
    np.testing.assert_array_equal(np.asarray(stored), label)


def test_reads_a_record_of_tf_models(image, label):
    example = tfrecord.parse_example(foreign_example(png(image), png(label)))
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label"][..., 0], label)
    assert example["filename"] == b""


@pytest.mark.parametrize("mode", ["P", "RGB", "1"])
@pytest.mark.parametrize("graph", [False, True])
def test_a_label_that_would_lose_its_ids_is_refused(image, label, mode, graph):
    record = foreign_example(png(image), png(label, mode))
    parse = tf.function(tfrecord.parse_example) if graph else tfrecord.parse_example
    with pytest.raises(tf.errors.InvalidArgumentError, match="single-channel 8-bit"):
        parse(tf.constant(record))


def test_encode_example_checks_the_label(image, label):
    with pytest.raises(ValueError, match=r"shape \[5, 7\]. Received: \[7, 5\]"):
        tfrecord.encode_example(png(image), label, "one", "png", 5, 7)
    with pytest.raises(ValueError, match="Received: int32"):
        tfrecord.encode_example(png(image), label.astype("int32"), "one", "png", 7, 5)


def test_shard_paths_are_sorted_and_of_one_split(tmp_path):
    folder = tmp_path / "set [1]"
    folder.mkdir()
    names = [tfrecord.shard_name("train", i, 12) for i in range(12)]
    for name in [*names, tfrecord.shard_name("trainval", 0, 1), "info.json"]:
        (folder / name).touch()
    assert names[3] == "train-00003-of-00012.tfrecord"
    assert tfrecord.shard_paths(folder, "train") == [str(folder / n) for n in names]

    with pytest.raises(FileNotFoundError, match="Run: python -m datasets.build") as e:
        tfrecord.shard_paths(str(folder), "val")
    assert f"No TFRecords match {folder}/val-*" in str(e.value)
    assert "train, trainval" in str(e.value)

    (folder / names[5]).unlink()
    with pytest.raises(FileNotFoundError, match="Expected 12 shards of split train"):
        tfrecord.shard_paths(folder, "train")


def test_shard_paths_of_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="No TFRecords match"):
        tfrecord.shard_paths(tmp_path / "absent", "train")


def test_info_survives_its_file(tmp_path):
    info = DatasetInfo(
        "two", ("a", "b"), splits={"train": 3}, pixel_counts={"train": [5, 2**40]}
    )
    (tmp_path / "info.json").write_text(info.to_json())
    assert read_info(tmp_path) == info
    with pytest.raises(FileNotFoundError, match="Run: python -m datasets.build"):
        read_info(tmp_path / "absent")
    (tmp_path / "info.json").write_text('{"classes": 2}')
    with pytest.raises(ValueError, match="fields of DatasetInfo"):
        read_info(tmp_path)


@pytest.mark.parametrize("count", [0, 256])
def test_info_refuses_impossible_class_counts(count):
    with pytest.raises(ValueError, match=f"Received: {count}"):
        DatasetInfo("x", ("class",) * count)
