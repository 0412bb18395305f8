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

from deeplab_tf.data.building import files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.output_folder import full_path, is_remote
from deeplab_tf.data.folders import (
    class_lists,
    class_map,
    color_masks,
    color_tables,
    found_ids,
    mask_palettes,
)
from deeplab_tf.data.records.info import IGNORE_LABEL, MAX_CLASSES

INFER = "infer"


class LabelRules(NamedTuple):
    """How masks are to be understood; paths of files as they were given.

    Attributes:
      class_names: list of the classes, see `class_lists`.
      num_classes: default: the number of `class_names`, or of `label_ids`, or the
        highest id in the labels plus 1, where no id below is missing.
      label_ids: see `class_map.classes_of_ids`; default: those of `class_names`.
      ignore_label: stored ids that become 255. So does 255, unless it is one of
        `label_ids`.
      label_colors: table of colours, see `color_tables`, or "infer".
      other_colors: see `color_masks.read_rows`.
      class_map: file that merges and drops classes, see `class_map`.
      label_bits: see `files.read_label`.
      void_colors: of "infer", colours such as "#000000" of pixels without a class; None
        where that was not said, and is asked for where black is a colour.
    """

    class_names: str | None = None
    num_classes: int | None = None
    label_ids: Sequence[int] = ()
    ignore_label: Sequence[int] = ()
    label_colors: str | None = None
    other_colors: str = "refuse"
    class_map: str | None = None
    label_bits: int = 8
    void_colors: Sequence[str] | None = None


def _check_rules(rules: LabelRules) -> None:
    """Raises DatasetError for rules that contradict each other."""
    excluded = {
        # Names and colours of classes, and which are ignored, stand in the table.
        "label_colors": ("class_names", "num_classes", "label_ids", "ignore_label"),
        "class_map": ("num_classes",),
    }
    if not rules.class_names:  # Else these say which stored id has which name.
        excluded["class_map"] += ("label_ids", "ignore_label")
    for name, others in excluded.items():
        given = [f"--{other}" for other in others if getattr(rules, other)]
        if getattr(rules, name) and given:
            raise DatasetError(
                f"Expected --{name} without {', '.join(given)}: its file says that too."
            )
    if rules.label_bits not in (8, 16):
        raise DatasetError(
            f"Expected --label_bits=8 or 16. Received: {rules.label_bits}"
        )
    if rules.other_colors != "refuse" and not rules.label_colors:
        raise DatasetError(
            "Expected --other_colors only together with --label_colors, for masks of "
            "colours."
        )
    if rules.void_colors is not None and rules.label_colors != INFER:
        raise DatasetError(
            "Expected --void_colors only together with --label_colors=infer. In a file "
            "of colours, those of pixels without a class are called void."
        )


# --- Classes of masks that store ids -------------------------------------------------


def read_stored_ids(path: str, label_bits: int = 8) -> np.ndarray:
    """Reads a mask of ids; says what to do where it has colours or 16 bits instead.

    A mask in RGB whose three channels are the same everywhere stores ids too, as some
    programs save them.

    Args:
      path: of the mask.
      label_bits: see `files.read_label`.

    Returns:
      uint8 [height, width].

    Raises:
      ValueError: see `files.read_label`.
    """
    try:
        return files.read_label(path, label_bits)
    except ValueError as error:
        if "fit into 8 bits" in str(error):
            raise ValueError(f"{error}, or take it as it is: --label_bits=16") from None
        if not color_masks.is_colored(path):
            raise
        greys = color_masks.read_greys(path)
        if greys is not None:
            return greys
        raise ValueError(
            f"{error}. Where each colour is a class: --label_colors=infer, or "
            "--label_colors=FILE that says which"
        ) from error


def _class_names(rules: LabelRules, names: Sequence[str], num_classes: int):
    """Returns the names of a file, or without one class_0, class_1 and so on.

    Raises:
      DatasetError: the file has another number of names, or that number is no number
        of classes.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise DatasetError(
            f"Expected 1 to {MAX_CLASSES} classes; {IGNORE_LABEL} is ignored. "
            f"Received: {num_classes}"
        )
    if rules.class_names is None:
        return [f"class_{i}" for i in range(num_classes)]
    if len(names) != num_classes:
        raise DatasetError(
            f"Expected {num_classes} class names in {rules.class_names}. "
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
    listed = class_lists.ClassList((), ())
    if rules.class_names:
        listed = class_lists.read_class_list(rules.class_names)
    label_ids = _agreed_ids(rules, listed.ids)
    ignore_ids = _ignore_ids(label_ids, rules.ignore_label)
    if rules.class_map and not rules.class_names:
        # The map names all classes.
        return class_map.classes_of_ids((), (), ignore_ids)
    num_classes = rules.num_classes
    if num_classes is None:
        num_classes = len(label_ids) or len(listed.names) or None
    void_is_said = IGNORE_LABEL in rules.ignore_label or bool(rules.class_map)
    read_ids = functools.partial(read_stored_ids, label_bits=rules.label_bits)
    if num_classes is None:
        found = found_ids.count_ids(label_paths, read_ids, num_processes)
        found_ids.check_ids(found, ignore_ids, void_is_said)
        num_classes = 1 + max(i for i in found.ids if i not in ignore_ids)
    elif not label_ids and not void_is_said:
        found = found_ids.count_ids(label_paths, read_ids, num_processes)
        found_ids.check_void(found, ignore_ids)
    names = _class_names(rules, listed.names, num_classes)
    classes = class_map.classes_of_ids(names, label_ids, ignore_ids)
    return dataclasses.replace(classes, colors=listed.colors)


def _agreed_ids(rules: LabelRules, listed: Sequence[int]) -> Sequence[int]:
    """Returns --label_ids, or the ids that the list of names has beside them.

    Raises:
      DatasetError: they differ.
    """
    if rules.label_ids and listed and tuple(rules.label_ids) != tuple(listed):
        raise DatasetError(
            f"Expected the ids of {rules.class_names} in --label_ids, or none there. "
            f"Received: {found_ids.as_ranges(listed)} in the file, "
            f"{found_ids.as_ranges(rules.label_ids)} in the flag"
        )
    return rules.label_ids or listed


# --- Classes of masks that store colours ---------------------------------------------


def _infer_colors(
    label_paths: Sequence[str],
    output_dir: str | Path,
    num_processes: int | None,
    void_colors: Sequence[str] | None,
) -> color_tables.ColorTable:
    """Returns a table of all colours; prints it and writes it beside `output_dir`.

    Beside a remote folder nobody could edit it: then to the working directory.

    Raises:
      DatasetError: nobody said whether black is a class; see `color_masks.name_void`.
    """
    table, listing = color_masks.infer_table(label_paths, num_processes)
    table = color_masks.name_void(table, listing, void_colors)
    path = Path(f"{full_path(output_dir)}.label_colors.csv")
    path = Path(path.name) if is_remote(output_dir) else path
    print(f"Colours of the masks, each taken for a class:\n{listing}")
    color_tables.write_table(table, path)
    print(
        f"Wrote {path}: name the classes there, then build again with "
        f"--label_colors={path} --overwrite"
    )
    return table


def merged_classes(
    classes: class_map.Classes, rules: LabelRules, ids_count_as_names: bool = False
) -> class_map.Classes:
    """Merges and drops classes by the class map of the rules, where it has one.

    Raises:
      DatasetError: see `class_map.read_class_map`, `class_map.merge`.
    """
    if not rules.class_map:
        return classes
    changes = class_map.read_class_map(rules.class_map)
    classes = class_map.merge(classes, changes, ids_count_as_names)
    listing = ", ".join(f"{i} {name}" for i, name in enumerate(classes.names))
    print(f"Classes by {rules.class_map}: {listing}")
    return classes


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
        `color_masks.infer_table`, `class_map.merge`, `class_lists.read_class_list`,
        `found_ids.check_ids`.
    """
    _check_rules(rules)
    if rules.label_colors:
        if rules.label_colors == INFER:
            table = _infer_colors(
                label_paths, output_dir, num_processes, rules.void_colors
            )
        else:
            table = color_tables.read_table(rules.label_colors)
        classes = class_map.classes_of_colors(table)
        read_ids = color_masks.row_reader(table, rules.other_colors)
    else:
        classes = _classes_of_ids(rules, label_paths, num_processes)
        read_ids = functools.partial(read_stored_ids, label_bits=rules.label_bits)
    classes = merged_classes(classes, rules, not rules.label_colors)
    if not classes.colors:
        colors = mask_palettes.class_colors(classes, label_paths)
        classes = dataclasses.replace(classes, colors=colors)
    return classes, read_ids
