"""What is pasted brings its label, comes from one other image, and a seed says it."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.reading import mixing, pipeline
from deeplab_tf.data.reading.bootstrap import count_pixels
from deeplab_tf.data.reading.class_uniform import find_class_draws
from tests.support.numbered_records import (
    assert_equal,
    batches,
    data_dir,
    record_ids,
    select,
    train,
)

__all__ = ["data_dir"]


def test_paste_by_hand():
    image = tf.zeros([2, 2, 3])
    label = tf.constant([[[1], [1]], [[1], [255]]], tf.uint8)
    other = tf.fill([2, 2, 3], 9.0)
    ids = tf.constant([[[4], [1]], [[255], [4]]], tf.uint8)
    chosen = tf.constant(np.arange(256) == 4)
    got, mixed = mixing.paste(image, label, other, ids, chosen)
    assert mixed[..., 0].numpy().tolist() == [[4, 1], [1, 4]]
    assert got[..., 0].numpy().tolist() == [[9.0, 0.0], [0.0, 9.0]]


@pytest.mark.parametrize("ids, wanted", [([3], 1), ([3, 5], 1), ([3, 5, 9, 255], 2)])
def test_half_of_the_classes_the_odd_one_too_and_never_void(ids, wanted):
    """ClassMix's own count, (n + n % 2) / 2; over seeds each class has its turn."""
    label = tf.constant(np.resize(ids, [6, 6, 1]), tf.uint8)
    choose = tf.function(lambda seed: mixing.half_of_classes(label, seed, 255))
    chosen = np.array([choose(tf.constant([seed, 1])) for seed in range(32)])
    classes = [class_id for class_id in ids if class_id != 255]
    assert (chosen.sum(axis=1) == wanted).all()
    assert np.flatnonzero(chosen.any(axis=0)).tolist() == classes
    times = chosen.sum(axis=0)[classes]
    assert times.max() - times.min() <= 20  # of 32 turns, 16 each on average


def paster(cut, class_ids, probability=1.0):
    return mixing.make_paster(cut, probability, class_ids, ignore_label=255)


def example(class_id):
    label = np.zeros([4, 4, 1], np.uint8)
    label[2:] = class_id
    return tf.constant(np.repeat(label, 3, axis=2), tf.float32), tf.constant(label)


def test_named_classes_are_asked_of_the_crop_and_pasted_wherever_they_are():
    seen = []

    def cut(image, label, seed, accept_crop=None):
        seen.append((np.array(seed).tolist(), bool(accept_crop(label))))
        return image, label

    seed = tf.constant([3, 4], tf.int64)
    for other, accepted in ((7, True), (6, False)):
        read_other = functools.partial(example, other)
        image, label = paster(cut, (7, 8))(*example(2), seed, read_other)
        expected = 7 if accepted else 2
        np.testing.assert_array_equal(label[2:], np.full([2, 4, 1], expected))
        np.testing.assert_array_equal(image[..., :1], tf.cast(label, tf.float32))
        (other_seed, said), *_ = seen[::-1]
        assert said == accepted and other_seed != [3, 4]


def test_a_share_of_the_images_gets_pixels_and_the_others_read_none():
    read = []

    def read_other():
        tf.py_function(lambda: read.append(1), [], [])
        return example(7)

    def cut(image, label, seed, accept_crop=None):
        return image, label

    mix = tf.function(
        lambda seed: paster(cut, (7,), 0.3)(*example(2), seed, read_other)[1]
    )
    mixed = [mix(tf.constant([seed, 0])).numpy().max() == 7 for seed in range(100)]
    assert 14 <= sum(mixed) <= 46  # 30 +- 3.5 standard deviations
    assert len(read) == sum(mixed)


@pytest.fixture(scope="module")
def selection(data_dir):
    """All records; the pixels of 4, 5 and 6, which hold one class each, are pasted."""
    counts = count_pixels(data_dir, "train")
    return select(data_dir, paste=find_class_draws(counts, (4, 5, 6)))


def ids_of(stream, count):
    labels = np.concatenate([label for _, label in batches(stream, count)])
    return [set(np.unique(label)) - {255} for label in labels]


def test_every_image_stays_in_its_place_and_some_have_the_pasted_classes(selection):
    plain = record_ids(train(selection), 23)
    found = ids_of(train(selection, policy="copy_paste"), 23)
    pasted = 0
    for own, ids in zip(plain, found):
        assert ids <= {own, 4, 5, 6} and ids
        pasted += bool(ids & {4, 5, 6})
    assert 25 <= pasted <= 50  # of 69, half, and three in 23 of the images themselves


def test_classmix_takes_any_record(selection):
    """One class to a record, so that the half of it is all of it: it covers."""
    options = dict(policy="classmix", min_scale=4.0, max_scale=4.0)
    found = ids_of(train(select(selection.data_dir), **options), 23)
    own = record_ids(train(select(selection.data_dir)), 23)
    others = [min(ids) for ids, mine in zip(found, own) if ids != {mine}]
    assert all(len(ids) == 1 for ids in found)
    assert 20 <= len(others) <= 48 and len(set(others)) > 12


@pytest.mark.parametrize("policy", ["copy_paste", "classmix"])
def test_pasted_streams_are_functions_of_seed_and_step(selection, policy):
    if policy == "classmix":
        selection = select(selection.data_dir)
    options = dict(policy=policy, batch_size=4)
    whole = batches(train(selection, **options), 9)
    assert_equal(batches(train(selection, start_step=7, **options), 2), whole[7:])


def test_workers_paste_the_same_as_one(selection):
    options = dict(policy="rare_classes", batch_size=4)
    selection = dataclasses.replace(selection, draws=selection.paste)
    whole = batches(train(selection, **options), 3)
    tf.random.set_seed(5)
    shares = [
        batches(train(selection, share=pipeline.Share(2, 2, i), **options), 3)
        for i in range(2)
    ]
    together = [tuple(map(np.concatenate, zip(*parts))) for parts in zip(*shares)]
    assert_equal(together, whole)
