"""Masks of ids -> how often they store each, and what makes these ids doubtful.

For `datasets.build_folder`. Nothing is assumed of masks that look like something else
than class ids 0, 1, 2 and so on: a sentence says what was found, and what to write.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from deeplab_tf.data.building import worker_pool
from deeplab_tf.data.building.errors import DatasetError

# Two ids that are so far apart and have so many of the pixels are black and white.
_APART, _SHARE = 100, 0.8


@dataclasses.dataclass
class FoundIds:
    """What a number of masks stores.

    Attributes:
      pixels: of each id, int64 [256].
      masks: that have each id, int64 [256].
      num_read: masks that could be read.
      errors: why others could not; `build_dataset` names them all.
      only_1, only_255: masks that have of ids 1 to 255 that one alone.
    """

    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, int))
    masks: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, int))
    num_read: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)
    only_1: int = 0
    only_255: int = 0

    @property
    def ids(self) -> list[int]:
        return np.flatnonzero(self.masks).tolist()

    def add(self, counts: np.ndarray) -> None:
        """Adds the pixels of each id, [256], of one mask."""
        self.num_read += 1
        self.pixels += counts
        self.masks += counts > 0
        present = np.flatnonzero(counts[1:]) + 1
        self.only_1 += present.tolist() == [1]
        self.only_255 += present.tolist() == [255]


class _Counts:
    """Counts the ids of one mask; picklable, for worker processes."""

    def __init__(self, read_ids: Callable[[str], np.ndarray]):
        self._read_ids = read_ids

    def __call__(self, path: str) -> np.ndarray | str:
        try:
            return np.bincount(self._read_ids(path).ravel(), minlength=256)
        except ValueError as error:
            return str(error)


def count_ids(
    paths: Sequence[str],
    read_ids: Callable[[str], np.ndarray],
    num_processes: int | None = None,
) -> FoundIds:
    """Counts the ids of all masks.

    Args:
      paths: of the masks.
      read_ids: picklable; path -> uint8 [height, width].
      num_processes: worker processes; default: as many as there are CPUs.
    """
    found = FoundIds()
    num_processes = num_processes or worker_pool.available_cpus()
    results = worker_pool.map_in_order(_Counts(read_ids), paths, num_processes)
    with contextlib.closing(results):
        for result in results:
            if isinstance(result, str):
                found.errors.append(result)
            else:
                found.add(result)
    return found


def as_ranges(ids: Sequence[int]) -> str:
    """Writes sorted ids as a flag takes them: 0,3-7,255."""
    runs: list[list[int]] = []
    for i in ids:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ",".join(
        str(first) if first == last else f"{first}-{last}" for first, last in runs
    )


def check_ids(
    found: FoundIds, ignore_ids: Sequence[int], void_is_said: bool = False
) -> None:
    """Refuses ids that are hardly those of classes 0, 1, 2 and so on.

    Args:
      found: in the masks.
      ignore_ids: stored ids of pixels without a class.
      void_is_said: 255 is one of them by a flag, and not doubted.

    Raises:
      DatasetError: no mask can be read; or says what was found, and the flags for
        what it may mean.
    """
    if not found.num_read:
        raise DatasetError(
            "Expected labels that can be read. Received: none among "
            f"{len(found.errors)}. The first: {found.errors[0]}"
        )
    _check_black_and_white(found)
    if not void_is_said:
        check_void(found, ignore_ids)
    ids = [i for i in found.ids if i not in ignore_ids]
    if not ids or ids == [0]:
        raise DatasetError(
            "Expected labels with two classes or more. Received: no readable label "
            f"with an id but 0 and ignored ones ({', '.join(map(str, ignore_ids))}). "
            "Where 255 is a class, say so: --label_ids=0,255. Or give --num_classes."
        )
    missing = sorted(set(range(ids[-1])) - set(ids) - set(ignore_ids))
    if missing:
        raise DatasetError(
            f"Expected the class ids 0 to {ids[-1]} in the masks. Received: "
            f"{as_ranges(ids)}; no mask has {as_ranges(missing)}. Where each stored id "
            f"is a class: --label_ids={as_ranges(ids)}. Where stored ids are class "
            f"ids, and the others only do not occur: --num_classes={ids[-1] + 1}"
        )


def check_void(found: FoundIds, ignore_ids: Sequence[int]) -> None:
    """Refuses masks in which 255 seems to be a class, though it counts as void.

    Raises:
      DatasetError: as `check_ids`.
    """
    if 255 not in ignore_ids or not found.masks[255]:
        return
    void = "Where 255 marks pixels without a class: --ignore_label=255"
    if found.only_1 and found.only_255 and found.ids == [0, 1, 255]:
        raise DatasetError(
            f"Expected one way to store the object. Received: {found.only_1} masks "
            f"that have it as 1, {found.only_255} as 255. Where both are the object: "
            "--class_map=FILE with the lines 0,background and 1,object and 255,object. "
            f"{void}"
        )
    if found.ids == [0, 255]:
        raise DatasetError(
            "Expected labels with two classes or more. Received: 0 and 255 alone, of "
            "which 255 means pixels without a class unless it is said to be one: "
            f"--label_ids=0,255. {void}"
        )


def black_and_white(pixels: np.ndarray) -> tuple[int, int, float] | None:
    """Says whether masks are black and white with greys between them.

    Edges have greys of both halves. Ids 0 to 6 and a 255 without a class are no edges,
    however much of the pixels background and 255 have.

    Args:
      pixels: of each grey, [256].

    Returns:
      (the darker one, the brighter one, their share of the pixels), None if not.
    """
    low, high = sorted(np.argsort(-pixels, kind="stable")[:2].tolist())
    share = pixels[[low, high]].sum() / max(pixels.sum(), 1)
    middle = (low + high + 1) // 2
    is_edged = pixels[low + 1 : middle].any() and pixels[middle:high].any()
    if high - low < _APART or share < _SHARE or not is_edged:
        return None
    return low, high, float(share)


def _check_black_and_white(found: FoundIds) -> None:
    """Refuses masks of black and white with greys between them."""
    two = black_and_white(found.pixels)
    if two is None:
        return
    low, high, share = two
    others = [i for i in found.ids if i not in (low, high)]
    raise DatasetError(
        f"Expected class ids in the masks. Received: black and white, it seems: {low} "
        f"and {high} have {share:.1%} of the pixels, {len(others)} other ids "
        f"({as_ranges(others[:10])}{' ...' if len(others) > 10 else ''}) the rest, as "
        "smoothed edges have. Two classes, edges without one: "
        f"--label_ids={low},{high} --ignore_label={_rest(low, high)}. Where each id is "
        f"a class: --num_classes={min(found.ids[-1], 254) + 1}"
    )


def _rest(low: int, high: int) -> str:
    return as_ranges([i for i in range(256) if i not in (low, high)])
