"""Mirrors and turns take whole pixels where they can, and the label with the image."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.reading import geometry

MEAN = (10.0, 20.0, 30.0)


def example(height=5, width=7, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.integers(0, 200, (height, width, 1), dtype=np.uint8)


def mover(**options):
    off = dict(vertical_flip=False, quarter_turns=False, rotation_degrees=0.0)
    move = geometry.make_move(**{**off, **options}, mean_color=MEAN, ignore_label=255)
    return tf.function(move, reduce_retracing=True)


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_a_rotation_by_quarters_is_numpys(quarters):
    """Square, so that nothing is uncovered; positive is to the left."""
    image, label = example(6, 6)
    got, ids = geometry.rotate(image, label, 90.0 * quarters, MEAN, 255)
    np.testing.assert_allclose(got, np.rot90(image, quarters), atol=1e-2)
    np.testing.assert_array_equal(ids, np.rot90(label, quarters))


def test_a_rotation_by_none_changes_nothing():
    image, label = example()
    got, ids = geometry.rotate(image, label, 0.0, MEAN, 255)
    np.testing.assert_allclose(got, image, atol=1e-4)
    np.testing.assert_array_equal(ids, label)


def test_a_rotation_by_45_degrees_uncovers_the_corners():
    """By trigonometry: of a square the octagon around its middle stays, 83 per cent."""
    label = np.full((101, 101, 1), 7, np.uint8)
    image = np.full((101, 101, 3), 200, np.uint8)
    got, ids = geometry.rotate(image, label, 45.0, MEAN, 255)
    assert set(np.unique(ids)) == {7, 255}
    y, x = np.abs(np.mgrid[-50:51, -50:51])
    inside, outside = x + y < 70, x + y > 72  # the edge is at 50 * sqrt(2) = 70.7
    assert (ids.numpy()[inside] == 7).all() and (ids.numpy()[outside] == 255).all()
    np.testing.assert_allclose(got.numpy()[inside], 200.0, rtol=1e-5)
    np.testing.assert_allclose(got.numpy()[outside], [MEAN] * outside.sum(), rtol=1e-5)
    assert abs((ids.numpy() == 7).mean() - 0.828) < 0.01


def test_quarter_turns_and_mirrors_come_equally_often():
    image, label = example(3, 5)
    move = mover(vertical_flip=True, quarter_turns=True)
    ways = {
        np.rot90(flipped, turns).tobytes(): 0
        for flipped in (label, label[::-1])
        for turns in range(4)
    }
    for seed in range(160):
        moved, ids = move(image, label, tf.constant([seed, 1], tf.int64))
        ways[ids.numpy().tobytes()] += 1
        turned = moved.numpy()[ids.numpy()[..., 0] == label[1, 2, 0]]
        assert image[1, 2].tolist() in turned.tolist()
    assert len(ways) == 8 and min(ways.values()) >= 8  # 20 +- 4.2


def test_rotations_reach_from_one_end_to_the_other():
    """The angle of a spot 40 pixels above the middle, in 100 draws of up to 10."""
    label = np.zeros((101, 101, 1), np.uint8)
    label[8:13, 48:53] = 1
    image = np.repeat(label, 3, axis=2)
    move = mover(rotation_degrees=10.0)
    angles = []
    for seed in range(100):
        _, ids = move(image, label, tf.constant([seed, 1], tf.int64))
        y, x = np.argwhere(ids.numpy()[..., 0] == 1).mean(axis=0) - 50
        angles.append(np.degrees(np.arctan2(-x, -y)))
    assert -10.5 < min(angles) < -8 and 8 < max(angles) < 10.5
    assert abs(np.mean(angles)) < 2.5  # 0 +- 0.6


def test_without_any_of_them_nothing_moves():
    image, label = example()
    moved, ids = mover()(image, label, tf.constant([1, 2], tf.int64))
    np.testing.assert_array_equal(moved, image)
    np.testing.assert_array_equal(ids, label)
