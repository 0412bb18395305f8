"""Sliding windows: they cover the image once, without seams, in little memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.ndimage

from deeplab_tf.inference.windows import (
    blend_windows,
    check_window,
    window_starts,
    window_weights,
)

AXES = list(
    itertools.product((1, 31, 32, 33, 64, 100, 257), (32, 33, 64), (0, 7, 8, 16))
)


@pytest.mark.parametrize("length, window, overlap", AXES)
def test_windows_cover_an_axis_evenly(length, window, overlap):
    starts = window_starts(length, window, overlap)
    size = min(window, length)
    assert starts[0] == 0 and starts[-1] == length - size
    steps = np.diff(starts)
    assert (steps <= window - overlap).all(), "neighbours share the overlap"
    assert np.ptp(steps) <= 1 if len(steps) else True
    # One window fewer would not reach.
    assert len(starts) == 1 or (len(starts) - 1) * (window - overlap) + overlap < length


@pytest.mark.parametrize("length, window, overlap", AXES)
def test_weights_sum_to_one_and_leave_out_what_sees_the_border(length, window, overlap):
    starts = window_starts(length, window, overlap)
    weights = window_weights(length, window, overlap)
    total = np.zeros(length)
    for start, weight in zip(starts, weights):
        total[start : start + len(weight)] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    quarter = overlap // 4
    assert not weights[1:, :quarter].any()
    assert not weights[:-1, weights.shape[1] - quarter :].any()


def test_weights_by_hand():
    # Two windows of 8 share 4: 0, then 1/4 and 3/4 in the middle half, then 1.
    first, second = window_weights(12, 8, 4)
    np.testing.assert_allclose(first, [1, 1, 1, 1, 1, 0.75, 0.25, 0])
    np.testing.assert_allclose(second, first[::-1])


def neighbourhood(tiles):
    """A network of two classes that sees 3 pixels each way, zeros beyond the tile."""
    kernel = np.arange(49).reshape(1, 7, 7, 1) / 49
    filtered = scipy.ndimage.correlate(tiles.astype(float), kernel, mode="constant")
    return filtered[..., :2].astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_windows_equal_the_whole_image_where_the_network_reaches_no_border(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 90, 2)
    overlap = int(rng.integers(12, 17))  # its outer quarter: the 3 pixels, or more
    window = int(rng.integers(2 * overlap, 48))
    image = rng.uniform(0, 255, [height, width, 3])
    whole = neighbourhood(image[None])[0]
    result = np.full_like(whole, np.nan)
    blocks = blend_windows(
        neighbourhood, image, window, overlap, batch_size=int(rng.integers(1, 4))
    )
    for top, left, block in blocks:
        part = result[top : top + block.shape[0], left : left + block.shape[1]]
        assert np.isnan(part).all(), "each pixel comes once"
        part[...] = block
    np.testing.assert_allclose(result, whole, rtol=1e-5, atol=1e-3)


def test_a_smaller_overlap_than_the_network_reaches_shows():
    image = np.random.default_rng(0).uniform(0, 255, [60, 60, 3])
    whole = neighbourhood(image[None])[0]
    blocks = blend_windows(neighbourhood, image, 24, 8)
    difference = [
        np.abs(
            block - whole[top : top + len(block), left : left + block.shape[1]]
        ).max()
        for top, left, block in blocks
    ]
    assert max(difference) > 1


@pytest.mark.parametrize("window, overlap", [(32, 17), (32, -1)])
def test_impossible_windows_are_refused(window, overlap):
    with pytest.raises(ValueError, match=f"half of the window.*overlap={overlap}"):
        check_window(window, overlap)
