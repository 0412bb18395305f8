r"""Writes PASCAL-Context with 59 classes and background as TFRecords.

    python -m datasets.build_pascal_context --input_dir=pascal-context \
        --devkit_dir=VOCdevkit/VOC2010 --output_dir=data/pascal_context

Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in
the Wild, CVPR 2014. Annotations: trainval.tar.gz (31 MB), labels.txt, or
59_context_labels.tar.gz and 59_labels.txt, at cs.stanford.edu/~roozbeh/pascal-context;
images: VOCtrainval_03-May-2010.tar at host.robots.ox.ac.uk/pascal/VOC/voc2010. None
needs a login. --input_dir is one of these folders, or holds one of them; the first that
is there is taken:

- `trainval/NAME.mat`: a LabelMap of ids 1 to 459, which labels.txt names;
- `SegmentationClassContext/NAME.png`, as MMSegmentation makes them: ids are those of
  the classes here, in the alphabetical order of the names;
- `59_context_labels/NAME.png`: ids 1 to 59 in the order of 59_labels.txt, which is
  another one: VOC's 20 classes come first.

The file of names may stand in --input_dir, in the folder of labels or beside it.
Without it the ids are the published ones. What is in none of the 59 classes is
background, class 0; with --ignore_background it becomes 255 and classes are numbered
0 to 58, for results on 59 classes. 255 stays 255.

Lists are train.txt and val.txt in --input_dir, in the devkit's
ImageSets/SegmentationContext (MMSegmentation) or, as the split is VOC 2010's own, in
its ImageSets/Main: 4,998 and 5,105 images. --devkit_dir may be left out where
--input_dir is the devkit or holds it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from deeplab_tf.data.building import dataset, files, pairs
from deeplab_tf.data.building.command_line import run_builder
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.downloads import command_line
from deeplab_tf.data.records.info import IGNORE_LABEL, DatasetInfo

from .sources import matlab, voc_devkit
from .sources.catalog import DATASETS

CONTEXT_NAMES = DATASETS["pascal_context"].class_names
LIST_FILES = {"train": ("train.txt",), "val": ("val.txt",)}
NO_CLASS = -1  # In a table of classes: an id that a label must not have.
NUM_ORIGINAL_IDS = 459

# 59_labels.txt spells three names otherwise than labels.txt.
ALIASES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}

# The id of each class in the original .mat files (labels.txt), in the order of the
# names. The same numbers are in MMSegmentation's and the Detail API's converters.
ORIGINAL_IDS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98),
    *(104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260),
    *(284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416),
    *(420, 424, 427, 440, 445, 454, 458),
)
# The order of 59_labels.txt; its ids start with 1.
ORDER_OF_59_LABELS = """
    aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike
    person pottedplant sheep sofa train tvmonitor bag bed bench book building cabinet
    ceiling cloth computer cup door fence floor flower food grass ground keyboard light
    mountain mouse curtain platform sign plate road rock shelves sidewalk sky snow
    bedclothes track tree truck wall water window wood
    """.split()


# --- From stored ids to classes ------------------------------------------------------


def read_label_names(path: str | Path) -> dict[int, str]:
    """Reads labels.txt or 59_labels.txt: one "id: name" a line.

    Returns:
      id -> name, spelt as in `CONTEXT_NAMES` where it is one of those.

    Raises:
      DatasetError: a line is otherwise, or an id comes twice.
    """
    names = {}
    for line in files.read_list(path):
        number, _, name = line.partition(":")
        name = "".join(name.split()).lower()
        if not number.strip().isdigit() or not name or int(number) in names:
            raise DatasetError(
                f'Expected lines "id: name" in {path}, each id once. Received: {line!r}'
            )
        names[int(number)] = ALIASES.get(name, name)
    return names


def class_table(names: Mapping[int, str], size: int) -> np.ndarray:
    """Returns the class of each stored id.

    Args:
      names: stored id -> name; ids with other names are background, as is id 0.
      size: number of ids that labels may have; larger ids in `names` extend it.

    Returns:
      int16 [size]: 0 to 59.

    Raises:
      DatasetError: one of the 59 classes has no id, or several.
    """
    listed = [name for name in names.values() if name in CONTEXT_NAMES[1:]]
    wrong = sorted(n for n in CONTEXT_NAMES[1:] if listed.count(n) != 1)
    if wrong:
        raise DatasetError(
            "Expected one id for each of the 59 classes in the file of names. Received "
            f"none or several for: {', '.join(wrong)}. Take the published file, or "
            "remove it: the published ids are known."
        )
    table = np.zeros(max(size, *(i + 1 for i in names)), np.int16)
    for stored_id, name in names.items():
        if name in CONTEXT_NAMES:
            table[stored_id] = CONTEXT_NAMES.index(name)
    return table


def png_table(table: np.ndarray) -> np.ndarray:
    """Returns the table for PNG labels, whose 255 is ignored: int16 [256]."""
    padding = np.full(256 - len(table), NO_CLASS, np.int16)
    padding[-1] = IGNORE_LABEL
    return np.concatenate([table, padding])


def without_background(table: np.ndarray) -> np.ndarray:
    """Returns a table of classes 0 to 58, with background as 255."""
    shifted = np.where(table == 0, IGNORE_LABEL, table - 1)
    return np.where((table == NO_CLASS) | (table == IGNORE_LABEL), table, shifted)


def convert_label(label: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Maps stored ids to classes.

    Args:
      label: integers [height, width].
      table: the class of each id, or `NO_CLASS`.

    Returns:
      uint8 [height, width], class ids or 255.

    Raises:
      ValueError: an id has no entry in the table, or `NO_CLASS`.
    """
    ids = np.unique(label)
    wrong = [i for i in ids.tolist() if i >= len(table) or table[i] == NO_CLASS]
    if wrong:
        raise ValueError(
            f"label has the stored ids {', '.join(map(str, wrong))}; expected 0 to "
            f"{np.flatnonzero((table != NO_CLASS) & (table != IGNORE_LABEL)).max()}"
        )
    return table.astype(np.uint8)[label]


# --- Folders -------------------------------------------------------------------------


class Source(NamedTuple):
    """A way to distribute the labels.

    Attributes:
      folder: name of the folder of labels.
      suffix: of the files in it.
      names_file: name of the file that names the stored ids, or None where they are
        the classes of this project.
      names: stored id -> name, without such a file.
    """

    folder: str
    suffix: str
    names_file: str | None
    names: Mapping[int, str]


SOURCES = (
    Source(
        "trainval",
        ".mat",
        "labels.txt",
        dict(zip(ORIGINAL_IDS, CONTEXT_NAMES[1:])),
    ),
    Source(
        "SegmentationClassContext",
        ".png",
        None,
        dict(enumerate(CONTEXT_NAMES)),
    ),
    Source(
        "59_context_labels",
        ".png",
        "59_labels.txt",
        dict(enumerate(ORDER_OF_59_LABELS, start=1)),
    ),
)


def find_labels(input_dir: str | Path) -> tuple[Path, Source]:
    """Returns the folder of labels and how it is to be read.

    Raises:
      DatasetError: there is none.
    """
    input_dir = Path(input_dir).expanduser()
    for source in SOURCES:
        for folder in (input_dir / source.folder, input_dir):
            named = folder.absolute().name == source.folder or source.suffix == ".mat"
            if named and next(folder.glob(f"*{source.suffix}"), None):
                return folder, source
    expected = " or ".join(f"{s.folder}/*{s.suffix}" for s in SOURCES)
    raise DatasetError(
        f"Expected labels of PASCAL-Context: {expected}. Received: {input_dir}, which "
        "has none of them"
    )


def find_table(input_dir: str | Path) -> np.ndarray:
    """Returns the class of each id that the labels may have.

    Raises:
      DatasetError: there are no labels, or their file of names is of another set.
    """
    folder, source = find_labels(input_dir)
    names = source.names
    if source.names_file:
        places = (Path(input_dir).expanduser(), folder, folder.parent)
        paths = [place / source.names_file for place in places]
        found = [path for path in paths if path.is_file()]
        names = read_label_names(found[0]) if found else names
    if source.suffix == ".mat":
        return class_table(names, NUM_ORIGINAL_IDS + 1)
    return png_table(class_table(names, len(CONTEXT_NAMES)))


def find_lists(
    input_dir: str | Path, devkit_dir: str | Path | None = None
) -> dict[str, Path]:
    """Returns split -> path of its list.

    Raises:
      DatasetError: there is none.
    """
    devkit = voc_devkit.find_2010(input_dir, devkit_dir)
    folders = (
        Path(input_dir).expanduser(),
        devkit / "ImageSets" / "SegmentationContext",
        devkit / "ImageSets" / "Main",
    )
    lists = voc_devkit.find_lists(folders, LIST_FILES)
    if not lists:
        raise DatasetError(
            "Expected train.txt or val.txt in one of: "
            f"{', '.join(map(str, folders))}. Received: none"
        )
    return lists


def list_splits(
    input_dir: str | Path, devkit_dir: str | Path | None = None
) -> list[str]:
    """Returns those of train and val that have a list.

    Raises:
      DatasetError: none has.
    """
    return list(find_lists(input_dir, devkit_dir))


def list_samples(
    input_dir: str | Path, split: str, devkit_dir: str | Path | None = None
) -> list[pairs.Sample]:
    """Returns the samples of train or val, in the order of its list.

    Raises:
      DatasetError: labels, images or the list are absent.
    """
    folder, source = find_labels(input_dir)
    devkit = voc_devkit.find_2010(input_dir, devkit_dir)
    lists = find_lists(input_dir, devkit_dir)
    return voc_devkit.list_samples(lists, split, folder, source.suffix, devkit)


# --- The data set --------------------------------------------------------------------


def read_stored_label(path: str) -> np.ndarray:
    """Returns the stored ids of a .mat or PNG label: integers [height, width].

    Raises:
      ValueError: it cannot be read.
    """
    if not path.endswith(".mat"):
        return files.read_label(path)
    value = matlab.read_variable(path, "LabelMap")
    with matlab.errors_about(path):
        return matlab.label_map(value)


def read_sample(sample: pairs.Sample, table: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and its label; see `convert_label`."""
    label = convert_label(read_stored_label(sample.label), table)
    return files.read_file(sample.image), label


def build_pascal_context(
    input_dir: str | Path,
    output_dir: str | Path,
    splits: Sequence[str] = (),
    *,
    devkit_dir: str | Path | None = None,
    ignore_background: bool = False,
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
      input_dir: folder of labels, or one that holds it.
      output_dir: folder to make.
      splits: of train and val; default: those that have a list.
      devkit_dir: folder VOCdevkit/VOC2010; default: `input_dir` or a folder in it.
      ignore_background: 59 classes, with background as 255.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: see `find_table`, `list_samples` and `dataset.build_dataset`.
    """
    info, table = DATASETS["pascal_context"], find_table(input_dir)
    if ignore_background:
        table = without_background(table)
        info = dataclasses.replace(
            info,
            name=f"{info.name}_59",
            class_names=info.class_names[1:],
            colormap=info.colormap[1:],
        )
    return dataset.build_listed(
        input_dir,
        output_dir,
        splits,
        info=info,
        list_splits=functools.partial(list_splits, devkit_dir=devkit_dir),
        list_samples=functools.partial(list_samples, devkit_dir=devkit_dir),
        read_sample=functools.partial(read_sample, table=table),
        **options,
    )


def define_flags() -> None:
    command_line.define_flags(
        "Folder of PASCAL-Context's labels, or one that holds it."
    )
    flags.DEFINE_string(
        "devkit_dir", None, "Folder VOCdevkit/VOC2010; default: in input_dir."
    )
    flags.DEFINE_bool(
        "ignore_background",
        False,
        "Write 59 classes, numbered from 0, and background as 255.",
    )


def main() -> None:
    args = flags.FLAGS
    build_pascal_context(
        ignore_background=args.ignore_background,
        **command_line.flag_options("pascal_context", "input_dir", "devkit_dir"),
    )


def run() -> None:
    run_builder(define_flags, main)


if __name__ == "__main__":
    run()
