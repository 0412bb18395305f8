"""Pairs by CSV lists: for `datasets.build_folder`.

A list has a header, the columns image and label, and if wished a column split:

    image,label,split
    photos/a.jpg,masks/a.png,train
    photos/b.jpg,masks/b.png,val

Columns may be separated by commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deeplab_tf.data.building import files, pairs
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders.folder_splits import Splits, split_by_fraction
from deeplab_tf.strangers_words import first_ten, name_below

COLUMNS = ("image", "label", "split")
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class _Row(NamedTuple):
    """One pair of a list."""

    image: str
    label: str
    split: str  # "" where there is no such column
    place: str  # "FILE, pair 3", for errors


def delimiter_of(header: str) -> str:
    """Returns the one of comma, semicolon and tab that a line has most of."""
    return max(",;\t", key=header.count)


def _read_rows(list_path: Path) -> list[_Row]:
    """Returns the rows of one list, with paths as they stand there.

    Raises:
      DatasetError: no such file, no row, other columns, or a row with empty cells.
    """
    lines = files.read_list(list_path)
    reader = csv.reader(lines, delimiter=delimiter_of(lines[0]), skipinitialspace=True)
    header = [cell.strip().lower() for cell in next(reader)]
    if sorted(header) not in (sorted(COLUMNS), sorted(COLUMNS[:2])):
        raise DatasetError(
            f"Expected the columns image,label or image,label,split in {list_path}. "
            f"Received: {','.join(header)}"
        )
    rows = []
    for cells in reader:
        place = f"{list_path}, pair {len(rows) + 1}"
        cells = [cell.strip() for cell in cells]
        if len(cells) != len(header) or not all(cells):
            raise DatasetError(
                f"Expected a value for each of {','.join(header)}. Received: "
                f"{','.join(cells)} ({place})"
            )
        row = dict(zip(header, cells))
        rows.append(_Row(row["image"], row["label"], row.get("split", ""), place))
    if not rows:
        raise DatasetError(f"Expected pairs in {list_path}. Received: a header alone")
    return rows


def _check_rows(rows: Sequence[_Row]) -> None:
    """Raises DatasetError for an image that comes twice or a split's unusable name."""
    places = {}
    for row in rows:
        image = os.path.normpath(row.image)
        if image in places:
            raise DatasetError(
                f"Expected each image once, in one split. Received: {row.image} in "
                f"{places[image]} and in {row.place}"
            )
        places[image] = row.place
        if row.split and not SPLIT_NAME.fullmatch(row.split):
            raise DatasetError(
                "Expected splits named by letters, digits, '_', '.' and '-'. "
                f"Received: {row.split} ({row.place})"
            )


def _names(rows: Sequence[_Row]) -> list[str]:
    """Returns names of the pairs: the images' stems, or where two are the same, paths.

    Raises:
      DatasetError: images that differ in their suffix alone.
    """
    stems = [os.path.splitext(row.image)[0] for row in rows]
    names = [os.path.basename(stem) for stem in stems]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([os.path.dirname(stem) for stem in stems])
    names = [Path(os.path.relpath(stem, common)).as_posix() for stem in stems]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DatasetError(
            "Expected images that differ in more than their suffix. Received twice: "
            f"{', '.join(first_ten(repeated))}"
        )
    return names


def _path_in(folder: Path, name: str, place: str) -> str:
    """Returns the path of a file that a list names.

    Raises:
      DatasetError: it is not in the folder: a list of others may name any file.
    """
    try:
        return str(folder / name_below(folder, name))
    except ValueError as error:
        raise DatasetError(
            f"{error} ({place}). Where that is meant, say which folder holds all of "
            f"them and is where paths start: --input_dir={folder.absolute().anchor}"
        ) from error


def read_lists(
    list_paths: Sequence[str | Path],
    root: str | Path | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Returns split -> samples, as CSV files list them, in their order.

    Without a column split, several files are a split each, named by their stems; the
    pairs of one file are split by a seeded fraction.

    Args:
      list_paths: CSV files.
      root: folder that paths in the lists start from; default: each list's own.
      val_fraction: see `folder_splits.split_by_fraction`.
      seed: likewise.

    Raises:
      DatasetError: a list is absent, empty or has other columns, cells are missing,
        a path leads out of `root`, or an image comes twice.
    """
    rows = []
    for path in (Path(path).expanduser() for path in list_paths):
        folder = path.parent if root is None else Path(root).expanduser()
        for row in _read_rows(path):
            split = row.split or (path.stem if len(list_paths) > 1 else "")
            image, label = (
                _path_in(folder, name, row.place) for name in (row.image, row.label)
            )
            rows.append(_Row(image, label, split, row.place))
    _check_rows(rows)
    samples = [
        pairs.Sample(name, row.image, row.label)
        for name, row in zip(_names(rows), rows)
    ]
    if not any(row.split for row in rows):
        return split_by_fraction(samples, val_fraction, seed)
    splits: Splits = {}
    for row, sample in zip(rows, samples):
        splits.setdefault(row.split, []).append(sample)
    return splits
