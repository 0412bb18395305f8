"""From what masks store to class ids: the tables of `datasets.build_folder`.

A class map is a text file that merges and drops classes, two columns without a header:

    car, vehicle         a stored id, or a class name, and the name of the new class
    truck, vehicle
    7, road
    sky, ignore          pixels without a class
    *, background        all that is not listed; without this line it is refused

New classes get ids in the order in which they first come. Pixels that had no class
before, 255 or colours named void, stay without; only a line for 255 changes that.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deeplab_tf.data.building import files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders.color_tables import IGNORED_NAMES, ColorTable
from deeplab_tf.data.folders.pair_lists import delimiter_of
from deeplab_tf.data.records.info import IGNORE_LABEL, MAX_CLASSES

UNKNOWN = -1
THE_REST = "*"


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a data set, and which of them a stored id is.

    Attributes:
      names: of the classes; empty where they are not known yet.
      class_ids: 256 entries: the class id of stored id 0, of 1 and so on, 255 for
        pixels without a class, or UNKNOWN for ids that a mask must not have.
      colors: red, green and blue of each class; empty where none are given.
    """

    names: tuple[str, ...]
    class_ids: tuple[int, ...]
    colors: tuple[tuple[int, int, int], ...] = ()


def convert_label(label: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
    """Maps the ids of a mask file to class ids.

    Args:
      label: uint8 [height, width], ids as stored.
      class_ids: see `Classes`.

    Returns:
      uint8 [height, width], class ids or 255.

    Raises:
      ValueError: the label has an id that is UNKNOWN.
    """
    table = np.array(class_ids)
    stored = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    unknown = stored[table[stored] == UNKNOWN]
    if unknown.size:
        raise ValueError(
            f"label has the stored ids {', '.join(map(str, unknown))}; expected those "
            "that --label_ids, --ignore_label or --class_map names"
        )
    return table.astype(np.uint8)[label]


def classes_of_ids(
    names: Sequence[str], label_ids: Sequence[int], ignore_ids: Sequence[int]
) -> Classes:
    """Returns the classes of masks that store ids.

    Args:
      names: of the classes.
      label_ids: the stored id of class 0, of class 1 and so on; empty where stored
        ids are class ids.
      ignore_ids: stored ids of pixels without a class.
    """
    table = np.full(256, UNKNOWN) if label_ids else np.arange(256)
    table[list(label_ids)] = np.arange(len(label_ids))
    table[list(ignore_ids)] = IGNORE_LABEL
    return Classes(tuple(names), tuple(table.tolist()))


def classes_of_colors(table: ColorTable) -> Classes:
    """Returns the classes of masks whose stored ids are places in a table of colours.

    Raises:
      DatasetError: the table has no class, but only names that mean "ignored".
    """
    classes = [entry for entry in table if not entry.ignored]
    if not classes:
        raise DatasetError(
            "Expected colours of classes. Received: only "
            f"{', '.join(sorted({entry.name for entry in table}))}"
        )
    ids = {entry: class_id for class_id, entry in enumerate(classes)}
    class_ids = [ids.get(entry, IGNORE_LABEL) for entry in table]
    # Place 255 stands for other colours, where these are to be ignored.
    class_ids += [UNKNOWN] * (255 - len(class_ids)) + [IGNORE_LABEL]
    return Classes(
        tuple(entry.name for entry in classes),
        tuple(class_ids),
        tuple(entry.color for entry in classes),
    )


# --- Merging and dropping classes ----------------------------------------------------


def read_class_map(path: str | Path) -> list[tuple[str, str]]:
    """Returns the pairs of (stored id or name, new name) of a class map.

    Raises:
      DatasetError: the file is absent or empty, or a line has not two columns.
    """
    path = Path(path).expanduser()
    lines = []
    for line in files.read_list(path):
        if line.startswith("#"):
            continue
        cells = next(csv.reader([line], delimiter=delimiter_of(line)))
        cells = [cell.strip() for cell in cells]
        if len(cells) != 2 or not all(cells):
            raise DatasetError(
                "Expected lines of a stored id or class name, a comma, and the name of "
                f"the new class or ignore, in {path}. Received: {line}"
            )
        lines.append((cells[0], cells[1]))
    return lines


def _number_new_classes(lines: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Returns new name -> class id, or 255 for names that mean "ignored"."""
    new_ids, count = {}, 0
    for _, name in lines:
        if name.lower() in IGNORED_NAMES:
            new_ids[name] = IGNORE_LABEL
        elif name not in new_ids:
            new_ids[name] = count
            count += 1
    if not 1 <= count <= MAX_CLASSES:
        raise DatasetError(
            f"Expected 1 to {MAX_CLASSES} new classes in the class map. "
            f"Received: {count}"
        )
    return new_ids


def _old_ids(source: Classes, ids_count_as_names: bool) -> dict[str, int]:
    stored = enumerate(source.class_ids) if ids_count_as_names else ()
    numbers = {str(number): i for number, i in stored if i != UNKNOWN}
    return {**numbers, **{name: i for i, name in enumerate(source.names)}}


def _targets(
    lines: Sequence[tuple[str, str]],
    old_ids: Mapping[str, int],
    new_ids: Mapping[str, int],
    names: Sequence[str],
) -> dict[int, int]:
    """Returns old class id -> new class id or 255."""
    targets = {}
    for old, new in lines:
        if old == THE_REST:
            continue
        if old not in old_ids:
            known = f"one of {', '.join(names)}" if names else "an id of 0 to 255"
            raise DatasetError(f"Expected {known} in the class map. Received: {old}")
        if old_ids[old] in targets:
            raise DatasetError(
                f"Expected each class once in the class map. Received twice: {old}"
            )
        targets[old_ids[old]] = new_ids[new]
    targets.setdefault(IGNORE_LABEL, IGNORE_LABEL)
    rest = [new for old, new in lines if old == THE_REST]
    if len(rest) > 1:
        raise DatasetError(
            f"Expected one line for {THE_REST} in the class map. Received: {len(rest)}"
        )
    if rest:
        return {**dict.fromkeys(old_ids.values(), new_ids[rest[0]]), **targets}
    missing = [name for i, name in enumerate(names) if i not in targets]
    if missing:
        raise DatasetError(
            "Expected each class in the class map, or a line '*, ignore'. Missing: "
            f"{', '.join(missing)}"
        )
    return targets


def merge(
    source: Classes, lines: Sequence[tuple[str, str]], ids_count_as_names: bool
) -> Classes:
    """Merges and drops classes.

    Args:
      source: the classes as masks have them.
      lines: of `read_class_map`.
      ids_count_as_names: a line may name a class by its stored id.

    Returns:
      The new classes; each has the colour of its first old class.

    Raises:
      DatasetError: a line names no class or one that has a line already, a class has
        no line, or there are no new classes.
    """
    new_ids = _number_new_classes(lines)
    old_ids = _old_ids(source, ids_count_as_names)
    targets = _targets(lines, old_ids, new_ids, source.names)
    kept = {name: i for name, i in new_ids.items() if i != IGNORE_LABEL}
    first = {new: old for old, new in sorted(targets.items(), reverse=True)}
    # A name that only a line for the rest has may have no class left.
    if source.colors and not first.keys() >= set(kept.values()):
        empty = [name for name, i in kept.items() if i not in first]
        raise DatasetError(
            "Expected an old class for each new one in the class map. Received: none "
            f"for {', '.join(empty)}"
        )
    return Classes(
        tuple(kept),
        tuple(targets.get(old, UNKNOWN) for old in source.class_ids),
        tuple(source.colors[first[i]] for i in kept.values()) if source.colors else (),
    )
