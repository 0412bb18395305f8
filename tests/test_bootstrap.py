"""Records of hard classes come more often, others less, and epochs stay exact."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.reading import bootstrap, pipeline
from deeplab_tf.data.records.tfrecord import encode_example, shard_name
from tests.support.numbered_records import (
    assert_equal,
    batches,
    data_dir,
    record_ids,
    select,
    train,
)

pytestmark = pytest.mark.two_lanes

__all__ = ["data_dir"]

NAMES = ("background", "cat", "sofa", "chair")
# Records by label value: the first holds 6 background pixels and 2 of a cat.
COUNTS = np.zeros((5, 256), np.int64)
COUNTS[:, 0] = (6, 0, 8, 5, 0)
COUNTS[:, 1] = (2, 8, 0, 0, 0)
COUNTS[:, 2] = (0, 0, 0, 1, 0)
COUNTS[:, 3] = (0, 1, 0, 1, 0)
COUNTS[:, 255] = (0, 0, 0, 1, 9)


def repeats_of(**options):
    return bootstrap.record_repeats(COUNTS, NAMES, **options).tolist()


def test_repeats_by_hand():
    assert repeats_of() == [1, 1, 1, 1, 1]
    assert repeats_of(duplicate={"chair": 3}) == [1, 3, 1, 3, 1]
    # Record 3 holds both: the largest factor, whatever their order.
    assert repeats_of(duplicate={"chair": 3, "sofa": 2}) == [1, 3, 1, 3, 1]
    assert repeats_of(duplicate={"chair": 2, "sofa": 4}) == [1, 2, 1, 4, 1]
    # Two pixels make a class: record 3 has only one of each.
    two = dict(min_class_pixels=2)
    assert repeats_of(duplicate={"cat": 2}, **two) == [2, 2, 1, 1, 1]
    # Background and pixels to ignore are not labelled: 2, 9, 0, 2, 0 are.
    assert repeats_of(min_labelled_pixels=2) == [1, 1, 0, 1, 0]
    assert repeats_of(min_labelled_pixels=3, duplicate={"cat": 2}) == [0, 2, 0, 0, 0]


def test_without_a_background_every_class_is_labelled():
    names = ("sky", *NAMES[1:])
    repeats = bootstrap.record_repeats(COUNTS, names, min_labelled_pixels=1)
    assert repeats.tolist() == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(duplicate={"dog": 2}), "background, cat, sofa, chair. Received: dog"),
        (dict(duplicate={"cat": 0}), "1 or more. Received: {'cat': 0}"),
        (dict(duplicate={"cat": 1.5}), "whole factors"),
        (dict(min_labelled_pixels=10), "min_labelled_pixels=10. Received: 5 records"),
    ],
)
def test_wrong_wishes_are_named(options, words):
    with pytest.raises(ValueError) as error:
        repeats_of(**options)
    assert words in str(error.value)


@pytest.mark.parametrize("name, pixels", [("dog", 1), ("sofa", 2)])
def test_a_class_in_no_record_is_named(name, pixels):
    """No record holds a dog, none two pixels of a sofa."""
    with pytest.raises(ValueError, match=f"{pixels} pixels or more.*Received: {name}"):
        bootstrap.record_repeats(
            COUNTS, (*NAMES, "dog"), duplicate={name: 2}, min_class_pixels=pixels
        )


def test_describe_repeats_by_hand():
    assert bootstrap.describe_repeats(np.array([0, 1, 3, 2])) == (
        "4 records, 2 of them repeated and 1 left out: 6 examples an epoch."
    )


def test_count_pixels_by_hand(tmp_path):
    """Counts come in the order of the shards; the image is not even decoded."""
    labels = [np.full((2, 3), index, np.uint8) for index in range(3)]
    labels[2][0] = 255
    for shard, members in enumerate(([0, 2], [1])):
        path = tmp_path / shard_name("train", shard, 2)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for index in members:
                record = encode_example(b"no image", labels[index], "", "png", 2, 3)
                writer.write(record)
    counts = bootstrap.count_pixels(tmp_path, "train")
    assert counts.shape == (3, 256) and counts.sum() == 18
    assert counts[0, 0] == 6 and counts[2, 1] == 6
    assert counts[1, 2] == 3 and counts[1, 255] == 3


@pytest.fixture(scope="module")
def repeats(data_dir):
    """Records by their ids: 4 and 5 three times, 7 twice, 0 (background) not at all."""
    names = ["background", *map(str, range(1, 23))]
    return bootstrap.record_repeats(
        bootstrap.count_pixels(data_dir, "train"),
        names,
        duplicate={"4": 3, "5": 3, "7": 2},
        min_labelled_pixels=1,
    )


EXPECTED = sorted([*range(1, 23), 4, 4, 5, 5, 7])  # 27 examples an epoch


@pytest.mark.parametrize("shuffle_buffer", [1, 100])
def test_every_epoch_holds_each_record_as_often_as_asked(
    data_dir, repeats, shuffle_buffer
):
    assert repeats.sum() == len(EXPECTED) == 27
    dataset = train(select(data_dir, repeats=repeats), shuffle_buffer=shuffle_buffer)
    epochs = record_ids(dataset, 18).reshape(2, 27)
    for epoch in epochs:
        assert sorted(epoch) == EXPECTED
    assert list(epochs[0]) != list(epochs[1])


@pytest.mark.parametrize("start_step", [1, 9, 13])
def test_start_step_enters_the_same_stream(data_dir, repeats, start_step):
    """In an epoch (1), at its end (9), and in the next one (13)."""
    whole = batches(train(select(data_dir, repeats=repeats)), start_step + 3)
    entered = batches(
        train(select(data_dir, repeats=repeats), start_step=start_step), 3
    )
    assert_equal(entered, whole[start_step:])


def test_repeats_of_one_change_nothing(data_dir):
    ones = np.ones(23, np.int64)
    assert_equal(
        batches(train(select(data_dir, repeats=ones)), 9), batches(train(data_dir), 9)
    )


def test_copies_are_augmented_each_in_its_own_way(data_dir, repeats):
    dataset = train(select(data_dir, repeats=repeats))
    images = np.concatenate([image for image, _ in batches(dataset, 9)])
    copies = images[record_ids(dataset, 9) == 4]
    assert len(copies) == 3
    assert len({copy.tobytes() for copy in copies}) == 3


@pytest.mark.parametrize(
    "wrong, words",
    [
        (np.ones(22, np.int64), "repeats of the 23 records in 3 shards"),
        (np.zeros(23, np.int64), "a record that comes at least once"),
        (np.full(23, -1), "Received: -1 to -1"),
    ],
)
def test_repeats_of_other_records_are_refused(data_dir, wrong, words):
    with pytest.raises(ValueError, match=words):
        train(select(data_dir, repeats=wrong))


def test_count_examples(data_dir, repeats):
    assert pipeline.count_examples(select(data_dir)) == 23
    assert pipeline.count_examples(select(data_dir, repeats=repeats)) == 27
