"""Sliding windows: any probabilities, piece by piece, over an image of any size.

Windows of one size cover the image and overlap. Where they do, their results are
averaged with weights that pass from one window to the next without a seam. What is
finished is handed on at once, so that memory is taken for a row of overlaps, not for
the image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np


def check_window(window: int, overlap: int) -> None:
    """Refuses windows that cannot cover an image.

    Raises:
      ValueError: the overlap is negative, or over half of the window.
    """
    if not 0 <= 2 * overlap <= window:
        raise ValueError(
            "Expected an overlap from 0 to half of the window, in pixels. "
            f"Received: window={window}, overlap={overlap}"
        )


def window_starts(length: int, window: int, overlap: int) -> list[int]:
    """Places windows evenly along an axis, the first and the last at its ends.

    Args:
      length: pixels of the axis.
      window: pixels of a window; one that is longer than the axis is cut to it.
      overlap: pixels that neighbours share at least.

    Returns:
      First pixel of each window, as few windows as will do.
    """
    if length <= window:
        return [0]
    count = -(-(length - overlap) // (window - overlap))
    return np.linspace(0, length - window, count).round().astype(int).tolist()


def window_weights(length: int, window: int, overlap: int) -> np.ndarray:
    """Weights of `window_starts`' windows; at each pixel of the axis they sum to one.

    They rise linearly over the middle half of the overlap. In its outer quarter, where
    a network sees the border of the window instead of what lies behind, they are zero;
    at the ends of the axis they are one.

    Returns:
      float32 [number of windows, min(window, length)], in [0, 1].
    """
    starts, size = window_starts(length, window, overlap), min(window, length)
    # Distance of a pixel's middle from the side of the window it comes in by.
    distance = np.arange(size) + 0.5
    rise = np.ones(size)
    if overlap:
        rise = np.clip((distance - overlap / 4) / (overlap / 2), 0, 1)
    weights = np.ones([len(starts), size])
    weights[1:] *= rise
    weights[:-1] *= rise[::-1]
    total = np.zeros(length)
    for start, weight in zip(starts, weights):
        total[start : start + size] += weight
    for start, weight in zip(starts, weights):
        weight /= total[start : start + size]
    return weights.astype(np.float32)


def blend_windows(
    predict: Callable[[np.ndarray], np.ndarray],
    image,
    window: int,
    overlap: int,
    batch_size: int = 1,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Runs windows over an image, and yields what is finished, row by row.

    Args:
      predict: images [B, h, w, channels] -> float32 [B, h, w, classes]; its answer may
        be written to.
      image: [height, width, channels]; anything that can be sliced: an array, one in a
        file (`numpy.memmap`), or a data set of h5py or zarr.
      window: pixels a side.
      overlap: pixels that neighbours share at least; see `window_weights`.
      batch_size: windows that `predict` gets at once.

    Yields:
      (top, left, block float32 [rows, columns, classes]); the blocks cover the image,
      each pixel once.
    """
    height, width = image.shape[:2]
    tops = window_starts(height, window, overlap)
    row_weights = window_weights(height, window, overlap)
    # What the row above leaves to this one, for each column of blocks.
    unfinished = [None] * len(window_starts(width, window, overlap))
    for top, bottom, weights in zip(tops, [*tops[1:], height], row_weights):
        rows = image[top : top + len(weights)]
        band = _blend_row(predict, rows, window, overlap, batch_size)
        for column, (left, block) in enumerate(band):
            block *= weights[:, None, None]
            above = unfinished[column]
            if above is not None:
                block[: len(above)] += above
            yield top, left, block[: bottom - top]
            unfinished[column] = block[bottom - top :].copy()


def _blend_row(
    predict, rows, window: int, overlap: int, batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """As `blend_windows`, for one row of windows: yields (left, block)."""
    width = rows.shape[1]
    lefts = window_starts(width, window, overlap)
    weights = window_weights(width, window, overlap)
    size = weights.shape[1]
    tiles = (np.asarray(rows[:, left : left + size]) for left in lefts)
    unfinished = None
    for left, right, weight, block in zip(
        lefts, [*lefts[1:], width], weights, _in_batches(predict, tiles, batch_size)
    ):
        block *= weight[None, :, None]
        if unfinished is not None:
            block[:, : unfinished.shape[1]] += unfinished
        yield left, block[:, : right - left]
        unfinished = block[:, right - left :].copy()


def _in_batches(predict, tiles, batch_size: int) -> Iterator[np.ndarray]:
    while batch := list(itertools.islice(tiles, batch_size)):
        yield from predict(np.stack(batch))
