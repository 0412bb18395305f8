"""Which records of a split are read, and how often; found once, then handed on."""

from __future__ import annotations

import dataclasses
import os

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
    """What of a split is read; `select_records` makes one.

    Attributes:
      data_dir: folder of the records.
      split: name of the split, such as "train".
      num_examples: examples of one pass, repeats included.
      num_skipped: bad records that are left out.
      good_frames: leaves out the bad records of damaged shards; from
        `bad_records.scan_split`, None where nothing is left out.
      repeats: int64 [records], how often each record comes in a pass of training, 0 or
        more; from `bootstrap.record_repeats`, None where each comes once. Serialized
        records are repeated, before they are shuffled; each copy gets an augmentation
        of its own.
      report: what a user should know of how the records were chosen; "" where all of
        them are read.
    """

    data_dir: str | os.PathLike
    split: str
    num_examples: int
    num_skipped: int = 0
    good_frames: GoodFrames | None = None
    repeats: np.ndarray | None = None
    report: str = ""


def select_records(
    data_dir: str | os.PathLike,
    split: str,
    *,
    skip_bad_records: bool = False,
    duplicate: tuple[tuple[str, int], ...] = (),
    min_class_pixels: int = 1,
    min_labelled_pixels: int = 0,
) -> Selection:
    """Selects all records of a split, or those that its options ask for.

    With `skip_bad_records` every record is read, with `duplicate` or
    `min_labelled_pixels` every label.

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
    selection = Selection(data_dir, split, info.splits.get(split, 0))
    if skip_bad_records:
        selection = _leave_out_bad_records(selection)
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
    return dataclasses.replace(
        selection,
        num_examples=int(repeats.sum()),
        repeats=repeats,
        report="\n".join(filter(None, [selection.report, describe_repeats(repeats)])),
    )


def _leave_out_bad_records(selection: Selection) -> Selection:
    """Reads every record of a split and selects the good ones.

    Raises:
      ValueError: there is none.
    """
    scan = scan_split(selection.data_dir, selection.split)
    if not scan.num_good:
        raise ValueError(f"{scan}\nNo good record is left. Build the data set again.")
    return dataclasses.replace(
        selection,
        num_examples=scan.num_good,
        num_skipped=len(scan.bad),
        good_frames=scan.good_frames,
        report=str(scan) if scan.is_whole else f"Skipping what is bad: {scan}",
    )
