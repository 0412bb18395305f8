"""Records that are known by their labels, as a folder and through the pipeline."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.data.reading import pipeline
from deeplab_tf.data.reading.policies import Crop
from deeplab_tf.data.reading.selection import Selection
from deeplab_tf.data.records.tfrecord import encode_example, shard_name

NUM_RECORDS = 23
SIZES = ((12, 20), (16, 16), (20, 12))
CROP = (8, 10)


def example(index, image_bytes=None):
    """Record `index`: its label is filled with its index, its image is noise."""
    height, width = SIZES[index % 3]
    label = np.full((height, width), index, np.uint8)
    if image_bytes is None:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG")
        image_bytes = buffer.getvalue()
    return encode_example(image_bytes, label, f"name{index}", "png", height, width)


def write(folder, records, split="train", num_shards=3):
    for shard in range(num_shards):
        path = folder / shard_name(split, shard, num_shards)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records[shard::num_shards]:
                writer.write(record)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """23 records in 3 shards, record k with a label full of k; no info.json."""
    folder = tmp_path_factory.mktemp("records")
    write(folder, [example(index) for index in range(NUM_RECORDS)])
    return folder


# What `train` gives to the pipeline itself; the rest says how it crops.
OF_PIPELINE = ("start_step", "share", "shuffle_buffer")


def select(data_dir, split="train", **options):
    """The records of a folder that has no info.json."""
    return Selection(data_dir, split, NUM_RECORDS, **options)


def train(data_dir, seed=0, batch_size=3, crop_size=CROP, **options):
    """Batches of a folder, or of a selection of its records."""
    given = {name: options.pop(name) for name in OF_PIPELINE if name in options}
    if not isinstance(data_dir, Selection):
        data_dir = select(data_dir)
    return pipeline.make_train_dataset(
        data_dir,
        Crop(crop_size, **options),
        batch_size=batch_size,
        seed=seed,
        **given,
    )


def batches(dataset, count):
    return [(image.numpy(), label.numpy()) for image, label in dataset.take(count)]


def record_ids(dataset, count):
    """The records of the first `count` batches, by their labels."""
    labels = np.concatenate([label for _, label in batches(dataset, count)])
    return np.where(labels == 255, 0, labels).max(axis=(1, 2))


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for one, two in zip(first, second):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
