"""What a reader understands of a folder, and the words that all readers share."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab_tf.colors import Color
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.folders.class_lists import read_class_list
from deeplab_tf.data.folders.class_map import Classes
from deeplab_tf.data.folders.color_tables import IGNORED_NAMES
from deeplab_tf.data.folders.folder_splits import Splits
from deeplab_tf.data.folders.label_rules import LabelRules
from deeplab_tf.data.records.info import IGNORE_LABEL, MAX_CLASSES
from deeplab_tf.image_kinds import IMAGE_SUFFIXES
from deeplab_tf.strangers_words import first_ten

# What tools call pixels without an object; LabelMe has underscores.
BACKGROUND_NAMES = ("background", "_background_")
VOID_NAMES = (*IGNORED_NAMES, "__ignore__")
# What tools call our train, val and test.
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLIT_WORDS = (*_SPLIT_NAMES, "trainval", "trainaug")
_HEAD_BYTES = 4096


class Options(NamedTuple):
    """What the person who builds said of a folder; "" where nothing.

    Attributes:
      images_dir: folder of the images, where they are not in the export.
      image_ending: what images' stems have after the name.
      label_ending: likewise for masks.
      class_names: list of the classes, for tools whose files have none.
    """

    images_dir: str = ""
    image_ending: str = ""
    label_ending: str = ""
    class_names: str = ""


class Drawn(NamedTuple):
    """Classes of regions that are drawn; masks have `LabelRules` instead.

    Attributes:
      classes: names and colours; stored ids are class ids.
      read_ids: picklable; a sample's label -> uint8 [height, width], ids or 255.
    """

    classes: Classes
    read_ids: Callable[[str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a reader found in a folder.

    Attributes:
      splits: split -> samples; {"": samples} where nothing names splits.
      splits_from: what names the splits, such as "ImageSets"; "" where nothing.
      classes_from: what says the classes, such as "labelmap.txt"; "" where nothing.
      rules: what the folder says of its masks.
      drawn: the classes of regions; None where samples have masks.
      notes: sentences on what was left out.
    """

    splits: Splits
    splits_from: str = ""
    classes_from: str = ""
    rules: LabelRules = LabelRules()
    drawn: Drawn | None = None
    notes: tuple[str, ...] = ()

    def with_splits(self, splits: Splits) -> Found:
        """Returns the same with other splits."""
        return dataclasses.replace(self, splits=splits)

    def with_rules(self, said: LabelRules) -> Found:
        """Returns the same, with what a person said of its classes before its own.

        Raises:
          DatasetError: it is said of masks, and there are none.
        """
        if self.drawn is None:
            return dataclasses.replace(self, rules=_first(said, self.rules))
        # Readers have taken the names.
        kept = LabelRules(class_names=said.class_names, class_map=said.class_map)
        if said != kept:
            raise DatasetError(
                "Expected nothing that is for masks: the classes are those of "
                f"{self.classes_from}. Merge, rename and drop them by --class_map=FILE"
            )
        return dataclasses.replace(self, rules=LabelRules(class_map=said.class_map))

    @property
    def num_pairs(self) -> int:
        return sum(map(len, self.splits.values()))


def _first(said: LabelRules, own: LabelRules) -> LabelRules:
    """Returns the rules of a folder, but for what a person said."""
    default = LabelRules()
    changes = {k: v for k, v in said._asdict().items() if v != getattr(default, k)}
    if said.label_colors:  # Its file says all that the folder's would.
        return said
    # A class map says what 255 is; stored ids that are no class ids, as ADE20K's, stay.
    if said.label_ids or (said.class_map and not own.label_ids):
        own = own._replace(label_ids=(), ignore_label=())
    if said.label_ids or said.class_names:
        own = own._replace(label_colors=None)
    if said.num_classes or said.label_ids:
        own = own._replace(class_names=None)
    return own._replace(**changes)


def expect(there: object, what: str, folder: Path) -> None:
    """Refuses a folder in which the reader that --format names finds nothing.

    Raises:
      DatasetError: `there` is empty.
    """
    if not there:
        raise DatasetError(
            f"Expected {what} in {folder}. Received: none. Without --format it is "
            "looked for what is there."
        )


# --- Splits --------------------------------------------------------------------------


def split_of(folder_name: str) -> str:
    """Returns our name of a split: val for valid and validation."""
    return _SPLIT_NAMES.get(folder_name.lower(), folder_name)


def sub_folders(folder: Path) -> list[Path]:
    """Returns the folders in a folder, sorted; hidden ones do not count."""
    if not folder.is_dir():
        return []
    paths = sorted(folder.iterdir())
    return [p for p in paths if p.is_dir() and p.name[0] not in "._"]


def split_folders(folder: Path) -> list[Path]:
    """Returns the sub-folders that are called as splits are."""
    return [p for p in sub_folders(folder) if p.name.lower() in SPLIT_WORDS]


def join_splits(parts: Iterable[tuple[str, Sequence[Sample]]]) -> Splits:
    """Returns split -> samples, of parts named as tools name them.

    Raises:
      DatasetError: two parts are the same split.
    """
    splits: Splits = {}
    for name, samples in parts:
        split = split_of(name)
        if split in splits:
            raise DatasetError(
                f"Expected one part for each split. Received two for {split}, the "
                f"second is called {name}. Rename or remove one."
            )
        splits[split] = list(samples)
    return splits


def join_odd_parts(found: Found) -> Found:
    """Joins parts of which none is called as a split is: jobs, or cameras."""
    if any(not name or name.lower() in SPLIT_WORDS for name in found.splits):
        return found
    several = len(found.splits) > 1  # Then these may use the same names.
    samples = [
        sample._replace(name=f"{part}/{sample.name}" if several else sample.name)
        for part, samples in found.splits.items()
        for sample in samples
    ]
    return dataclasses.replace(found, splits={"": samples}, splits_from="")


def unused_parts(folder: Path, found: Found) -> tuple[str, ...]:
    """Says which folders of images no sample is of, such as a test/ without labels."""
    samples = list(itertools.chain.from_iterable(found.splits.values()))
    files = [s.image for s in samples]
    files += [s.label for s in samples if found.drawn is None]
    used = {os.path.relpath(file, folder).split(os.sep)[0] for file in files}
    lonely = [
        p.name
        for p in sub_folders(folder)
        if p.name.lower().startswith(SPLIT_WORDS) and p.name not in used
        if any(file.suffix.lower() in IMAGE_SUFFIXES for file in p.rglob("*"))
    ]
    return (f"Without labels: {', '.join(lonely)}; left out.",) if lonely else ()


# --- Classes -------------------------------------------------------------------------


def classes_of(
    names: Sequence[str], colors: Sequence[Color] = (), place: str | Path = ""
) -> tuple[Classes, dict[str, int]]:
    """Numbers the classes of a tool: background first, names that mean void are 255.

    Args:
      names: in the tool's order, each once. A class called background becomes class 0,
        and where none is, pixels without a region are class 0, background.
      colors: one a name; or none.
      place: the file that has them, for the sentence.

    Returns:
      The classes, and name -> class id or 255.

    Raises:
      DatasetError: there is none, or too many, or one twice.
    """
    check_once(names, place)
    ids = dict.fromkeys(names, IGNORE_LABEL)
    kept, shown = ["background"], [(0, 0, 0)]
    for name, color in zip(names, colors or [(0, 0, 0)] * len(names)):
        if name.lower() in BACKGROUND_NAMES:
            ids[name], shown[0] = 0, color
        elif name.lower() not in VOID_NAMES:
            ids[name] = len(kept)
            kept.append(name)
            shown.append(color)
    if not 2 <= len(kept) <= MAX_CLASSES:
        raise DatasetError(
            f"Expected 1 to {MAX_CLASSES - 1} classes beside background in {place}. "
            f"Received: {len(kept) - 1}"
        )
    distinct = bool(colors) and len(set(shown)) == len(shown)
    return Classes(tuple(kept), tuple(range(256)), tuple(shown) * distinct), ids


def check_once(names: Sequence[str], place: str | Path) -> None:
    """Refuses classes without a name, and names that are the same but for case.

    Raises:
      DatasetError: there are such.
    """
    if not all(name.strip() for name in names):
        raise DatasetError(f"Expected a name for each class in {place}. Received: ''")
    counts = Counter(name.strip().lower() for name in names)
    same = [name for name in names if counts[name.strip().lower()] > 1]
    if same:
        raise DatasetError(
            f"Expected classes that differ in more than case in {place}. Received: "
            f"{', '.join(same[:10])}. Rename one in the tool and export again."
        )


def names_in_order(found: set[str], given: str, files: str) -> list[str]:
    """Returns the names of a tool's files in the order of a list, if one is given.

    Args:
      found: in the files.
      given: see `class_lists.read_class_list`; "" for the alphabet.
      files: that have the names, for the sentence.

    Raises:
      DatasetError: a name is not in the list.
    """
    if not given:
        return sorted(found)
    listed = read_class_list(given).names
    missing = sorted(found - set(listed))
    if missing:
        raise DatasetError(
            f"Expected the labels of {files} in {given}. Received also: "
            f"{', '.join(first_ten(missing))}"
        )
    return list(listed)


def refuse_class_names(options: Options, place: str) -> None:
    """Refuses names of classes, where the tool's files have them in their order.

    Raises:
      DatasetError: there are such.
    """
    if options.class_names:
        raise DatasetError(
            f"Expected no --class_names: {place} names the classes. Rename and merge "
            "them by --class_map=FILE with lines OLD,NEW"
        )


# --- JSON of strangers ---------------------------------------------------------------


def head_of(path: Path) -> str:
    """Returns the first 4,096 bytes of a file as text, "" where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD_BYTES).decode("utf-8", "ignore").lstrip("\ufeff \n")
    except OSError:
        return ""


def json_files(folder: Path) -> list[Path]:
    """Returns the JSON files of a folder, sorted; hidden ones do not count."""
    if not folder.is_dir():
        return []
    paths = sorted(folder.iterdir())
    return [p for p in paths if p.suffix.lower() == ".json" and p.name[0] != "."]


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
      ValueError: it is absent, or no JSON.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no JSON ({type(error).__name__}: {error}); export it again"
        ) from error


def read_document(path: str | Path, kind: type = dict) -> Any:
    """Reads a JSON file that holds an object, or a list.

    Raises:
      DatasetError: it cannot be read, or holds something else.
    """
    try:
        document = read_json(path)
    except ValueError as error:
        raise DatasetError(f"Expected a JSON file that can be read: {error}") from error
    if not isinstance(document, kind):
        raise DatasetError(
            f"Expected a JSON {'object' if kind is dict else 'list'} in {path}. "
            f"Received: a {type(document).__name__}"
        )
    return document


def file_name_of(text: str) -> str:
    """Returns the last part of a path or address, whatever system wrote it."""
    return os.path.basename(text.replace("\\", "/").split("?")[0])
