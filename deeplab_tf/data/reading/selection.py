"""Which records of a split a run reads, and how often; counted once a run."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from deeplab_tf.data.reading.bad_records import bad_records_named, scan_split
from deeplab_tf.data.reading.bootstrap import (
    count_pixels,
    describe_repeats,
    record_repeats,
)
from deeplab_tf.data.records.frames import GoodFrames
from deeplab_tf.data.records.info import read_info

SKIP_ADVICE = "Or leave these out: --skip_bad_records, with another --workdir."


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """What of a split is read.

    Attributes:
      num_examples: examples of one pass, repeats included.
      num_skipped: bad records that are left out.
      good_frames: for `data.reading.pipeline`; None unless bad records are skipped.
      repeats: for `make_train_dataset`; None where each record comes once.
    """

    num_examples: int
    num_skipped: int = 0
    good_frames: GoodFrames | None = None
    repeats: np.ndarray | None = None


@functools.lru_cache(maxsize=8)
def select_records(
    data_dir: str,
    split: str,
    *,
    skip_bad_records: bool = False,
    duplicate: tuple[tuple[str, int], ...] = (),
    min_class_pixels: int = 1,
    min_labelled_pixels: int = 0,
) -> Selection:
    """Reads the labels, or every record, of a split where its options ask for it.

    Args:
      data_dir: folder of the records.
      split: name of the split, such as "train".
      skip_bad_records: whether to search for bad records and to leave them out.
      duplicate: (class name, factor) pairs; with the next two see
        `bootstrap.record_repeats`.
      min_class_pixels: see there.
      min_labelled_pixels: see there.

    Raises:
      FileNotFoundError: there are no records of this split.
      ValueError: no record is good, or an option does not fit the records.
    """
    info = read_info(data_dir)
    selection = Selection(info.splits.get(split, 0))
    if skip_bad_records:
        scan = scan_split(data_dir, split)
        if not scan.num_good:
            raise ValueError(f"{scan}\nNone is left. Build the data set again.")
        print(scan if scan.is_whole else f"Skipping what is bad: {scan}")
        selection = Selection(scan.num_good, len(scan.bad), scan.good_frames)
    if not duplicate and not min_labelled_pixels:
        return selection
    with bad_records_named(data_dir, [split], advice=SKIP_ADVICE):
        counts = count_pixels(data_dir, split, selection.good_frames)
    repeats = record_repeats(
        counts,
        info.class_names,
        duplicate=dict(duplicate),
        min_class_pixels=min_class_pixels,
        min_labelled_pixels=min_labelled_pixels,
    )
    print(describe_repeats(repeats))
    return dataclasses.replace(
        selection, num_examples=int(repeats.sum()), repeats=repeats
    )
