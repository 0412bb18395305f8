"""Which classes a folder's masks have, and how masks are read as ids of them.

For `datasets.build_folder`: masks store ids, or colours that are classes, and a class
map may merge and drop classes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab_tf.data.building import files, worker_pool
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.output_folder import full_path, is_remote
from deeplab_tf.data.folders import (
    class_map,
    color_masks,
    color_tables,
    mask_palettes,
)
from deeplab_tf.data.records.info import IGNORE_LABEL, MAX_CLASSES

INFER = "infer"


class LabelRules(NamedTuple):
    """How masks are to be understood; paths of files as they were given.

    Attributes:
      class_names: text file with one class a line.
      num_classes: default: the number of `class_names`, or of `label_ids`, or the
        highest id in the labels plus 1.
      label_ids: see `class_map.classes_of_ids`.
      ignore_label: stored ids that become 255. So does 255, unless it is one of
        `label_ids`.
      label_colors: table of colours, see `color_tables`, or "infer".
      other_colors: see `color_masks.read_rows`.
      class_map: file that merges and drops classes, see `class_map`.
    """

    class_names: str | None = None
    num_classes: int | None = None
    label_ids: Sequence[int] = ()
    ignore_label: Sequence[int] = ()
    label_colors: str | None = None
    other_colors: str = "refuse"
    class_map: str | None = None


def _check_rules(rules: LabelRules) -> None:
    """Raises DatasetError for rules that contradict each other."""
    excluded = {
        # Names and colours of classes, and which are ignored, stand in the table.
        "label_colors": ("class_names", "num_classes", "label_ids", "ignore_label"),
        "class_map": ("num_classes", "label_ids", "ignore_label"),
    }
    for name, others in excluded.items():
        given = [f"--{other}" for other in others if getattr(rules, other)]
        if getattr(rules, name) and given:
            raise DatasetError(
                f"Expected --{name} without {', '.join(given)}: its file says that too."
            )
    if rules.other_colors != "refuse" and not rules.label_colors:
        raise DatasetError(
            "Expected --other_colors only together with --label_colors, for masks of "
            "colours."
        )


# --- Classes of masks that store ids -------------------------------------------------


def read_stored_ids(path: str) -> np.ndarray:
    """Reads a mask of ids; says what to do where it has colours instead.

    Returns:
      uint8 [height, width].

    Raises:
      ValueError: see `files.read_label`.
    """
    try:
        return files.read_label(path)
    except ValueError as error:
        if not color_masks.is_colored(path):
            raise
        raise ValueError(
            f"{error}. Where each colour is a class: --label_colors=infer, or "
            "--label_colors=FILE that says which"
        ) from error


class _HighestId(NamedTuple):
    """A label's highest class id (0 where it has none); or why it is unreadable."""

    value: int
    error: str = ""


def _highest_id(path: str, ignore_ids: Sequence[int]) -> _HighestId:
    try:
        label = read_stored_ids(path)
    except ValueError as error:
        return _HighestId(0, str(error))
    return _HighestId(int(label.max(initial=0, where=~np.isin(label, ignore_ids))))


def count_classes(
    label_paths: Sequence[str],
    ignore_ids: Sequence[int],
    num_processes: int | None = None,
) -> int:
    """Returns the highest class id of all labels plus 1.

    Labels that cannot be read do not count: `build_dataset` names them all.

    Raises:
      DatasetError: no label can be read, or there is no class but 0.
    """
    find = functools.partial(_highest_id, ignore_ids=ignore_ids)
    num_processes = num_processes or worker_pool.available_cpus()
    found = list(worker_pool.map_in_order(find, label_paths, num_processes))
    errors = [highest.error for highest in found if highest.error]
    if len(errors) == len(found):
        raise DatasetError(
            f"Expected labels that can be read. Received: none among {len(found)}. "
            f"The first: {errors[0]}"
        )
    num_classes = 1 + max(highest.value for highest in found)
    if num_classes < 2:
        raise DatasetError(
            "Expected labels with two classes or more. Received: no readable label "
            f"with an id but 0 and ignored ones ({', '.join(map(str, ignore_ids))}). "
            "Where 255 is a class, say so: --label_ids=0,255. Or give --num_classes."
        )
    return num_classes


def _class_names(names_file: str | None, num_classes: int) -> list[str]:
    """Returns the lines of a file, or without one class_0, class_1 and so on.

    Raises:
      DatasetError: the file has another number of names, or that number is no number
        of classes.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise DatasetError(
            f"Expected 1 to {MAX_CLASSES} classes; {IGNORE_LABEL} is ignored. "
            f"Received: {num_classes}"
        )
    if names_file is None:
        return [f"class_{i}" for i in range(num_classes)]
    names = files.read_list(Path(names_file).expanduser())
    if len(names) != num_classes:
        raise DatasetError(
            f"Expected {num_classes} class names in {names_file}. "
            f"Received: {len(names)}"
        )
    return names


def _ignore_ids(label_ids: Sequence[int], ignore_label: Sequence[int]) -> list[int]:
    """Returns the stored ids to ignore: those given, and 255 unless it is a class."""
    ids = [*label_ids, *ignore_label]
    if len(set(ids)) < len(ids) or not all(0 <= i <= 255 for i in ids):
        raise DatasetError(
            "Expected ids in 0..255 in label_ids and ignore_label, each once. "
            f"Received: {list(label_ids)} and {list(ignore_label)}"
        )
    return sorted({*ignore_label, IGNORE_LABEL} - set(label_ids))


def _classes_of_ids(
    rules: LabelRules, label_paths: Sequence[str], num_processes: int | None
) -> class_map.Classes:
    ignore_ids = _ignore_ids(rules.label_ids, rules.ignore_label)
    num_classes = rules.num_classes
    if num_classes is None and rules.label_ids:
        num_classes = len(rules.label_ids)
    elif num_classes is None and rules.class_names:
        num_classes = len(files.read_list(Path(rules.class_names).expanduser()))
    elif num_classes is None and rules.class_map:
        # The map names all classes.
        return class_map.classes_of_ids((), (), ignore_ids)
    elif num_classes is None:
        num_classes = count_classes(label_paths, ignore_ids, num_processes)
    names = _class_names(rules.class_names, num_classes)
    return class_map.classes_of_ids(names, rules.label_ids, ignore_ids)


# --- Classes of masks that store colours ---------------------------------------------


def _infer_colors(
    label_paths: Sequence[str], output_dir: str | Path, num_processes: int | None
) -> color_tables.ColorTable:
    """Returns a table of all colours; prints it and writes it beside `output_dir`.

    Beside a remote folder nobody could edit it: then to the working directory.
    """
    table, listing = color_masks.infer_table(label_paths, num_processes)
    path = Path(f"{full_path(output_dir)}.label_colors.csv")
    path = Path(path.name) if is_remote(output_dir) else path
    print(f"Colours of the masks, each taken for a class:\n{listing}")
    color_tables.write_table(table, path)
    print(
        f"Wrote {path}: name the classes there, then build again with "
        f"--label_colors={path} --overwrite"
    )
    return table


def choose_classes(
    rules: LabelRules,
    label_paths: Sequence[str],
    output_dir: str | Path,
    num_processes: int | None = None,
) -> tuple[class_map.Classes, Callable[[str], np.ndarray]]:
    """Returns the classes, and the function that reads a mask's stored ids.

    Args:
      rules: what is said about masks.
      label_paths: the masks, for what is not said.
      output_dir: colours that are inferred are written beside it.
      num_processes: worker processes; default: as many as there are CPUs.

    Raises:
      DatasetError: rules contradict each other, or see `color_tables.read_table`,
        `color_masks.infer_table`, `class_map.merge`, `count_classes`.
    """
    _check_rules(rules)
    if rules.label_colors:
        if rules.label_colors == INFER:
            table = _infer_colors(label_paths, output_dir, num_processes)
        else:
            table = color_tables.read_table(rules.label_colors)
        classes = class_map.classes_of_colors(table)
        read_ids = color_masks.row_reader(table, rules.other_colors)
    else:
        classes = _classes_of_ids(rules, label_paths, num_processes)
        read_ids = read_stored_ids
    if rules.class_map:
        changes = class_map.read_class_map(rules.class_map)
        classes = class_map.merge(classes, changes, not rules.label_colors)
        listing = ", ".join(f"{i} {name}" for i, name in enumerate(classes.names))
        print(f"Classes by {rules.class_map}: {listing}")
    if not rules.label_colors:
        colors = mask_palettes.class_colors(classes, label_paths)
        classes = dataclasses.replace(classes, colors=colors)
    return classes, read_ids
