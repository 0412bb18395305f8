"""Image and label move together, nothing is invented, and a seed says it all."""

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.reading import augment

CROP = (40, 56)


def blocks(height, width, seed=0, block=8):
    """A label of ids 0..4 in blocks, and an image that is its label times 50."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, (-(-height // block), -(-width // block)))
    label = np.kron(coarse, np.ones((block, block), np.int64))[:height, :width]
    label = label.astype(np.uint8)[..., None]
    return np.repeat(label * 50, 3, axis=2), label


@tf.function
def run(image, label, seed):
    return augment.augment(
        image, label, seed, crop_size=CROP, mean_color=(10.0, 20.0, 30.0)
    )


def test_window_by_hand():
    # 100 x 200 at scale 2, crop 40 x 56: the window is 20 x 28 of the image, and the
    # middle of the free 81 x 173 places is (40, 86).
    offset, window, scaled = augment.crop_window(
        tf.constant([100, 200]), CROP, tf.constant(2.0), tf.constant([0.5, 0.5])
    )
    assert offset.numpy().tolist() == [40, 86]
    assert window.numpy().tolist() == [20, 28]
    assert scaled.numpy().tolist() == [40, 56]


def test_window_smaller_than_the_crop_by_hand():
    # 50 x 60 at scale 0.5 becomes 25 x 30, less than the crop: all of it is taken.
    offset, window, scaled = augment.crop_window(
        tf.constant([50, 60]), CROP, tf.constant(0.5), tf.constant([0.99, 0.99])
    )
    assert offset.numpy().tolist() == [0, 0]
    assert window.numpy().tolist() == [50, 60]
    assert scaled.numpy().tolist() == [25, 30]


@pytest.mark.parametrize("height, width", [(7, 300), (40, 56), (41, 57), (300, 31)])
def test_window_lies_in_the_image_and_reaches_every_edge(height, width):
    size = tf.constant([height, width])
    for scale in np.linspace(0.5, 2.0, 16, dtype=np.float32):
        for position in (0.0, 0.37, 0.9999999):
            offset, window, scaled = (
                part.numpy()
                for part in augment.crop_window(
                    size, CROP, tf.constant(scale), tf.constant([position] * 2)
                )
            )
            assert (offset >= 0).all() and (window >= 1).all()
            assert (offset + window <= (height, width)).all()
            assert (1 <= scaled).all() and (scaled <= CROP).all()
            if position > 0.9:
                assert (offset + window == (height, width)).all()


@pytest.mark.parametrize(
    "low, high, step, scales",
    [
        (0.5, 2.0, 0.25, [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]),
        (0.5, 1.1, 0.1, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]),
        (0.5, 1.5, 0.4, [0.5, 1.0, 1.5]),  # the authors' linspace
        (0.75, 0.75, 0.25, [0.75]),
    ],
)
def test_scales_in_steps_by_hand(low, high, step, scales):
    """Each step has the same share of the draws, both ends included."""
    draws = (np.arange(10 * len(scales)) + 0.5) / (10 * len(scales))
    got = [float(augment.find_scale(d, low, high, step)) for d in np.float32(draws)]
    np.testing.assert_allclose(got, np.repeat(scales, 10), rtol=1e-6)
    assert float(augment.find_scale(tf.constant(0.5), 0.5, 2.0)) == 1.25


def painted(*ids):
    return tf.constant(np.array(ids, np.uint8)[:, None, None])


@pytest.mark.parametrize(
    "ids, accepted",
    [
        ((1, 1, 1, 2), False),  # three of four are not below 0.75
        ((1, 1, 3, 2), True),
        ((1, 1, 1, 2, 255, 255), False),  # void is not among all
        ((1, 1, 2, 255, 255, 255), True),  # nor the most frequent class
        ((255, 255), False),
        ((4,), False),
    ],
)
def test_the_share_of_the_most_frequent_class_by_hand(ids, accepted):
    assert bool(augment.largest_share_below(0.75, 255)(painted(*ids))) == accepted


def test_a_crop_that_holds_a_class_by_hand():
    holds = augment.holds_any((3, 9))
    assert bool(holds(painted(1, 9))) and not bool(holds(painted(1, 2, 255)))


@functools.partial(tf.function, reduce_retracing=True)
def crop_of(label, seed, accept=None):
    return augment.augment(
        tf.repeat(label, 3, axis=2),
        label,
        [seed, 5],
        crop_size=(20, 20),
        min_scale=1.0,
        max_scale=1.0,
        accept_crop=accept,
    )


def test_a_crop_is_drawn_again_until_it_is_accepted_and_ten_times_at_most():
    """One pixel column of another class in a wide image: one crop in ten shows it."""
    label = np.zeros((20, 219, 1), np.uint8)
    label[:, 100] = 1
    accept = augment.holds_any((1,))
    once = shown = 0
    for seed in tf.range(50):
        first, _ = crop_of(label, seed)
        once += (first.numpy() == 1).any()
        image, ids = crop_of(label, seed, accept)
        np.testing.assert_array_equal(image, np.repeat(ids, 3, axis=2))
        shown += (ids.numpy() == 1).any()
        # One that is accepted at once is the crop that it was without the question.
        if (first.numpy() == 1).any():
            np.testing.assert_array_equal(image, first)
    assert once <= 12  # 5 +- 2
    assert 23 <= shown <= 42  # 1 - 0.9 ** 10 is 65 in 100: 33 +- 3.4


def test_a_crop_equals_the_same_part_of_the_scaled_image():
    """Crop-then-resize against DeepLab's resize-then-crop, away from the edge."""
    image = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    label = image[..., :1]
    offset, window = tf.constant([11, 13]), tf.constant([20, 28])
    part = augment.resize(*augment.crop(image, label, offset, window), CROP)
    whole = augment.resize(image, label, (120, 140))
    for mine, theirs in zip(part, whole):
        theirs = theirs[22 : 22 + 40, 26 : 26 + 56]
        np.testing.assert_allclose(mine[1:-1, 1:-1], theirs[1:-1, 1:-1], atol=1e-3)


def test_resize_samples_half_pixel_centres_by_hand():
    # Two columns to four: centres at -0.25, 0.25, 0.75 and 1.25 of the old pixels.
    image = np.array([[[0] * 3, [100] * 3]], np.uint8)
    label = np.array([[[3], [7]]], np.uint8)
    image, label = augment.resize(image, label, (1, 4))
    np.testing.assert_allclose(image[0, :, 0], [0.0, 25.0, 75.0, 100.0])
    assert label[0, :, 0].numpy().tolist() == [3, 3, 7, 7]


@pytest.mark.parametrize("old, new", [(1, 7), (375, 513), (513, 375), (9, 3), (5, 5)])
def test_nearest_pixels_against_fractions(old, new):
    """floor((x + 1/2) old / new), in exact arithmetic."""
    exact = [math.floor(Fraction(2 * x + 1, 2) * old / new) for x in range(new)]
    assert augment.nearest_pixels(old, new).numpy().tolist() == exact


@pytest.mark.parametrize("axis", [0, 1])
def test_edges_of_image_and_label_meet_without_bias(axis):
    """Over many scales, the image crosses its middle value where the label steps."""
    label = np.zeros((50, 50, 1), np.uint8)
    np.moveaxis(label, axis, 0)[30:] = 1
    image = np.repeat(label * 200, 3, axis=2)
    for size in range(20, 120, 7):
        scaled, ids = augment.resize(image, label, (size, size))
        bright = scaled.numpy()[..., 0] > 100.0
        unequal = bright != (ids.numpy()[..., 0] == 1)
        # An exact tie (a sample right between two pixels) may round either way.
        unequal &= np.abs(scaled.numpy()[..., 0] - 100.0) > 0.01
        assert not unequal.any()


@pytest.mark.parametrize("color", [(10.0, 20.0, 30.0), (127.5, 127.5, 127.5)])
def test_padding_is_mean_colour_and_void(color):
    image = np.full((10, 12, 3), 200, np.uint8)
    label = np.full((10, 12, 1), 4, np.uint8)
    padded, ids = augment.augment(
        image,
        label,
        [0, 0],
        crop_size=CROP,
        min_scale=1.0,
        max_scale=1.0,
        flip_probability=0.0,
        mean_color=color,
        ignore_label=254,
    )
    inside = np.zeros(CROP, bool)
    inside[:10, :12] = True
    assert (padded.numpy()[inside] == 200.0).all()
    assert (padded.numpy()[~inside] == color).all()
    assert (ids.numpy()[inside] == 4).all() and (ids.numpy()[~inside] == 254).all()


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_flip_is_exact(probability):
    image, label = blocks(*CROP)
    same_size = dict(crop_size=CROP, min_scale=1.0, max_scale=1.0)
    got, ids = augment.augment(
        image, label, [3, 4], flip_probability=probability, **same_size
    )
    step = -1 if probability else 1
    np.testing.assert_array_equal(got, image[:, ::step])
    np.testing.assert_array_equal(ids, label[:, ::step])


def test_half_of_the_crops_are_flipped():
    image = np.zeros((*CROP, 3), np.uint8)
    label = np.zeros((*CROP, 1), np.uint8)
    label[:, :28] = 1
    draw = tf.function(
        lambda seed: augment.augment(
            image, label, seed, crop_size=CROP, min_scale=1.0, max_scale=1.0
        )[1][0, 0, 0]
    )
    kept = sum(int(draw(tf.constant([7, index]))) for index in range(200))
    assert 70 <= kept <= 130  # 200 fair coins fall outside once in 40,000 runs.


def test_a_seed_gives_one_result_and_two_seeds_two():
    image, label = blocks(90, 120)
    first, again, other = (run(image, label, [seed, 5]) for seed in (1, 1, 2))
    for one, two in zip(first, again):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], other[0])


def test_float_image_gives_the_crop_of_the_uint8_image():
    image, label = blocks(90, 120)
    np.testing.assert_array_equal(
        run(image, label, [5, 6])[0], run(image.astype(np.float32), label, [5, 6])[0]
    )


def test_static_shapes():
    image, label = (tf.TensorSpec([None, None, n], tf.uint8) for n in (3, 1))
    seed = tf.TensorSpec([2], tf.int64)
    image, label = run.get_concrete_function(image, label, seed).outputs
    assert image.shape == (*CROP, 3) and image.dtype == tf.float32
    assert label.shape == (*CROP, 1) and label.dtype == tf.uint8
