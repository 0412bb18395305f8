"""What was erased looks like a pad, is void, and has the paper's size."""

import pytest
import tensorflow as tf

from deeplab_tf.data.reading import erasing

MEAN = (10.0, 20.0, 30.0)


@pytest.mark.parametrize(
    "draws, offset, sides",
    [
        # 2 per cent of 100 x 200 are 400 pixels, as 0.3 : 1 about 11 x 37.
        ((0.0, 0.0, 0.0, 0.0), [0, 0], [11, 37]),
        # 21 per cent, 4,200 pixels, as a square: 65 x 65, in the middle.
        ((0.5, 0.5, 0.5, 0.5), [18, 68], [65, 65]),
        # 40 per cent, 8,000 pixels, would be 163 x 49: cut at the crop's height.
        ((0.999999, 0.999999, 0.999999, 0.999999), [0, 151], [100, 49]),
    ],
)
def test_rectangle_by_hand(draws, offset, sides):
    got = erasing.find_rectangle((100, 200), tf.constant(draws))
    assert [part.numpy().tolist() for part in got] == [offset, sides]


def erased(seed, probability):
    image = tf.fill([40, 56, 3], 200.0)
    label = tf.fill([40, 56, 1], tf.constant(7, tf.uint8))
    return erasing.erase(
        image,
        label,
        seed,
        probability=probability,
        mean_color=MEAN,
        ignore_label=254,
    )


def test_a_share_of_the_crops_loses_one_rectangle_of_image_and_label():
    run = tf.function(lambda seed: erased(seed, 0.3))
    count = 0
    for seed in range(100):
        image, label = (part.numpy() for part in run(tf.constant([seed, 1])))
        gone = label[..., 0] == 254
        assert (image[gone] == MEAN).all() and (image[~gone] == 200.0).all()
        assert (label[~gone] == 7).all()
        assert gone.sum() == gone.any(axis=0).sum() * gone.any(axis=1).sum()
        assert not gone.any() or 0.015 < gone.mean() <= 0.42
        count += gone.any()
    assert 14 <= count <= 46  # 30 +- 4.6


@pytest.mark.parametrize("probability, gone", [(0.0, False), (1.0, True)])
def test_none_or_all(probability, gone):
    for seed in range(5):
        _, label = erased(tf.constant([seed, 1]), probability)
        assert (label.numpy() == 254).any() == gone
