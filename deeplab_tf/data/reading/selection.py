"""Which records of a split are read, and how often; found once, then handed on."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from deeplab_tf.data.reading.bad_records import bad_records_named, scan_split
from deeplab_tf.data.reading.bootstrap import (
    check_class_names,
    count_pixels,
    describe_repeats,
    record_repeats,
)
from deeplab_tf.data.reading.class_uniform import (
    ClassDraws,
    find_class_draws,
    rare_classes,
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
      draws: which records training draws, class by class; None reads all in passes.
      paste: of which records the pixels of which classes are pasted on others, where
        the policy says so; None pastes half of the classes of any record.
      report: what a user should know of how the records were chosen; "" where all of
        them are read.
    """

    data_dir: str | os.PathLike
    split: str
    num_examples: int
    num_skipped: int = 0
    good_frames: GoodFrames | None = None
    repeats: np.ndarray | None = None
    draws: ClassDraws | None = None
    paste: ClassDraws | None = None
    report: str = ""


def select_records(
    data_dir: str | os.PathLike,
    split: str,
    *,
    skip_bad_records: bool = False,
    duplicate: tuple[tuple[str, int], ...] = (),
    min_class_pixels: int = 1,
    min_labelled_pixels: int = 0,
    class_uniform: bool = False,
    paste_classes: tuple[str, ...] | str = (),
) -> Selection:
    """Selects all records of a split, or those that its options ask for.

    With `skip_bad_records` every record is read, with `duplicate`,
    `min_labelled_pixels`, `class_uniform` or `paste_classes` every label.

    Args:
      data_dir: folder of the records.
      split: name of the split, such as "train".
      skip_bad_records: whether to search for bad records and to leave them out.
      duplicate: (class name, factor) pairs; with the next two see
        `bootstrap.record_repeats`.
      min_class_pixels: see there.
      min_labelled_pixels: see there.
      class_uniform: whether training draws the records by their classes, see
        `class_uniform.record_at`; an epoch has as many examples as there are records.
      paste_classes: names of the classes whose pixels are pasted on other images, or
        "rare", see `class_uniform.rare_classes`.

    Raises:
      FileNotFoundError: there are no records of this split.
      ValueError: no record is good, or an option does not fit the records.
    """
    if class_uniform and duplicate:
        raise ValueError(
            "class_uniform draws each class equally often by itself. Received: "
            f"duplicate={duplicate}, too. Leave one of the two out."
        )
    info = read_info(data_dir)
    selection = Selection(data_dir, split, info.splits.get(split, 0))
    if skip_bad_records:
        selection = _leave_out_bad_records(selection)
    if not (duplicate or min_labelled_pixels or class_uniform or paste_classes):
        return selection
    with bad_records_named(data_dir, [split], advice=SKIP_ADVICE):
        counts = count_pixels(data_dir, split, selection.good_frames)
    if duplicate or min_labelled_pixels:
        repeats = record_repeats(
            counts,
            info.class_names,
            duplicate=dict(duplicate),
            min_class_pixels=min_class_pixels,
            min_labelled_pixels=min_labelled_pixels,
        )
        selection = _with_repeats(selection, repeats)
        counts = counts * (repeats > 0)[:, np.newaxis]
    if class_uniform:
        ids = range(info.num_classes)
        draws = find_class_draws(counts, ids, min_class_pixels)
        selection = _with_draws(selection, draws, info.class_names)
    if paste_classes:
        ids = _paste_ids(counts, info.class_names, paste_classes)
        draws = find_class_draws(counts, ids, min_class_pixels)
        selection = _with_paste(selection, draws, info.class_names)
    return selection


def _with_report(selection: Selection, line: str, **values) -> Selection:
    report = "\n".join(filter(None, [selection.report, line]))
    return dataclasses.replace(selection, report=report, **values)


def _with_repeats(selection: Selection, repeats: np.ndarray) -> Selection:
    return _with_report(
        selection,
        describe_repeats(repeats),
        num_examples=int(repeats.sum()),
        repeats=repeats,
    )


def _with_draws(
    selection: Selection, draws: ClassDraws, class_names: tuple[str, ...]
) -> Selection:
    held = ", ".join(
        f"{class_names[class_id]} {len(holders)}"
        for class_id, holders in zip(draws.class_ids, draws.holders)
    )
    line = f"Each class in turn, of the records that hold it: {held}."
    return _with_report(selection, line, draws=draws)


def _with_paste(
    selection: Selection, draws: ClassDraws, class_names: tuple[str, ...]
) -> Selection:
    names = ", ".join(class_names[class_id] for class_id in draws.class_ids)
    records = len(np.unique(np.concatenate(draws.holders)))
    line = f"Pixels of {names} are pasted, out of {records} records."
    return _with_report(selection, line, paste=draws)


def _paste_ids(
    counts: np.ndarray, class_names: tuple[str, ...], wanted: tuple[str, ...] | str
) -> list[int]:
    """Returns the ids of the classes whose pixels are pasted.

    Raises:
      ValueError: no such class, or none is rare.
    """
    if wanted != "rare":
        check_class_names(class_names, wanted, "paste")
        return [class_names.index(name) for name in wanted]
    found = rare_classes(counts, len(class_names))
    if not found:
        raise ValueError(
            "paste_classes=rare pastes classes with less than half of an equal share "
            "of the pixels. Received: records of which no class is so rare. Name the "
            f'classes: paste_classes=["{class_names[-1]}"], or [] for half of those '
            "of each image."
        )
    return found


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
