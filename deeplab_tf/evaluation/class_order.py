"""The class names of a model and of a data set in, which id is which out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

_UNNAMED = re.compile(r"class[ _]?\d+")
_MOST_NAMED = 10


def same_ids(
    model_names: Sequence[str], data_names: Sequence[str], by_id: bool = False
) -> np.ndarray:
    """Finds the model's id of each class of a data set, by its name.

    Names are the same without regard to case, spaces, hyphens and underscores. Where
    either side has no names but class_0, class_1, ..., ids mean the same on both.

    Args:
      model_names: in the order of the model's ids.
      data_names: in the order of the data set's ids.
      by_id: whether ids mean the same whatever the names.

    Returns:
      int64 [classes]: at the data set's id the model's.

    Raises:
      ValueError: they have another number of classes, or other ones, which it names.
    """
    if len(model_names) != len(data_names):
        raise ValueError(
            f"The model knows {len(model_names)} classes, the data have "
            f"{len(data_names)}. Give the --data_dir it was trained for."
        )
    ids = ids_by_name(model_names, model_names if by_id else data_names)
    if ids is None:
        raise ValueError(
            "The model's classes are not those of the data. Only the model has "
            f"{missing_names(model_names, data_names)}; only the data have "
            f"{missing_names(data_names, model_names)}. Give the data that it was "
            "trained for, or --by_id if each id means the same under another name."
        )
    return ids


def ids_by_name(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray | None:
    """Finds classes by their names, or ids where either side has no names.

    Args:
      names: in the order of their ids.
      wanted: the same classes in another order.

    Returns:
      int64 [classes]: the id in `names` of each that is wanted; None where they are
      other classes.
    """
    if len(names) != len(wanted):
        return None
    ids = np.arange(len(names))
    if tuple(names) == tuple(wanted):
        return ids
    for spelling in (str, _plain):
        ours, theirs = list(map(spelling, names)), list(map(spelling, wanted))
        if len(set(ours)) == len(ours) and sorted(ours) == sorted(theirs):
            return np.array([ours.index(name) for name in theirs])
    return ids if _are_unnamed(names) or _are_unnamed(wanted) else None


def label_table(
    ids: np.ndarray, ignore_label: int, model_ignore_label: int
) -> np.ndarray:
    """Returns the table from a data set's labels to the model's, uint8 [256].

    Labels that are no class stay as they are, so that they are still found to be out
    of range.

    Args:
      ids: of `same_ids`.
      ignore_label: of the data set.
      model_ignore_label: of the model.
    """
    table = np.arange(256, dtype=np.uint8)
    table[: len(ids)] = ids
    table[ignore_label] = model_ignore_label
    return table


def describe_order(ids: np.ndarray, data_names: Sequence[str]) -> str:
    """Says which ids differ, "" where none do."""
    moved = [
        f"{name} ({index} in the data, {ours} in the model)"
        for index, (name, ours) in enumerate(zip(data_names, ids))
        if index != ours
    ]
    if not moved:
        return ""
    return (
        "The data have the model's classes in another order; they are taken by their "
        f"names: {_listed(moved)}"
    )


def _are_unnamed(names: Sequence[str]) -> bool:
    return all(map(_UNNAMED.fullmatch, names))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFC", name).casefold())


def missing_names(names: Sequence[str], others: Sequence[str]) -> str:
    """Lists the names that others lack, "none" where there is none."""
    known = set(map(_plain, others))
    return _listed([name for name in names if _plain(name) not in known]) or "none"


def _listed(words: Sequence[str]) -> str:
    more = len(words) - _MOST_NAMED
    return ", ".join(words[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
