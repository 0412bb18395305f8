r"""Writes PASCAL Person-Part (six parts of a person and background) as TFRecords.

    python -m datasets.build_person_part --input_dir=pascal_person_part \
        --devkit_dir=VOCdevkit/VOC2010 --output_dir=data/person_part

Annotations: Chen et al., Detect What You Can, CVPR 2014, merged to six parts by Chen et
al., Attention to Scale, CVPR 2016. Images: VOCtrainval_03-May-2010.tar at
host.robots.ox.ac.uk/pascal/VOC/voc2010. None needs a login. --input_dir is one of these
folders, or holds one of them; the first that is there is taken:

- `pascal_person_part_gt/NAME.png` (or `SegmentationPart`): the merged masks, ids 0 to
  6, of pascal_person_part.zip at liangchiehchen.com/projects/DeepLab.html. Published
  results are measured on these;
- `Annotations_Part/NAME.mat` of trainval.tar.gz at roozbehm.info/pascal-parts. Parts
  are merged here: everything of the head; torso and neck; upper arms; lower arms and
  hands; upper legs; lower legs and feet. (Other projects merge the same way, but for
  the neck, which some add to the head.) Objects are painted in the order of the file,
  in which later ones are in front: an object hides what is behind it, then its parts
  are painted, a later part over an earlier one. Only persons leave parts. Everything
  else is background.

Lists are train_id.txt or train.txt, and val_id.txt or val.txt, in --input_dir or in
`pascal_person_part_trainval_list` there (pascal_person_part.zip has them): 1,716 and
1,817 images. Without them the images are those of the devkit's ImageSets/Main that show
a part of a person, or have a PNG; their number is printed. --devkit_dir may be left out
where --input_dir is the devkit or holds it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from deeplab_tf.data.building import dataset, files, pairs
from deeplab_tf.data.building.command_line import run_builder
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.worker_pool import available_cpus, map_in_order
from deeplab_tf.data.downloads import command_line
from deeplab_tf.data.records.info import DatasetInfo

from .sources import matlab, voc_devkit
from .sources.catalog import DATASETS

# In order of preference: the merged masks are what others measure on.
LABEL_FOLDERS = (
    ("pascal_person_part_gt", ".png"),
    ("SegmentationPart", ".png"),
    ("Annotations_Part", ".mat"),
)
LIST_FOLDER = "pascal_person_part_trainval_list"
LIST_FILES = {
    "train": ("train_id.txt", "train.txt"),
    "val": ("val_id.txt", "val.txt"),
}
# PASCAL-Parts' names of the parts of a person; l and r are left and right.
PARTS = {
    "head": "head hair nose mouth leye reye lear rear lebrow rebrow",
    "torso": "torso neck",
    "upper arms": "luarm ruarm",
    "lower arms": "llarm rlarm lhand rhand",
    "upper legs": "luleg ruleg",
    "lower legs": "llleg rlleg lfoot rfoot",
}
CLASS_OF_PART = {
    part: DATASETS["person_part"].class_names.index(name)
    for name, parts in PARTS.items()
    for part in parts.split()
}


# --- PASCAL-Parts --------------------------------------------------------------------


class AnnotatedObject(NamedTuple):
    """An object of PASCAL-Parts.

    Attributes:
      class_name: one of VOC's, such as "person".
      mask: integers [height, width] of the whole image, not 0 in the object.
      parts: (name, mask likewise) of each part.
    """

    class_name: str
    mask: np.ndarray
    parts: list[tuple[str, np.ndarray]]


def read_objects(path: str) -> list[AnnotatedObject]:
    """Returns the objects of a file of Annotations_Part, in order.

    Raises:
      ValueError: the file is absent, damaged or of another kind.
    """
    value = matlab.read_variable(path, "anno")
    with matlab.errors_about(path):
        return [
            _to_object(item)
            for annotation in matlab.structs(value)
            for item in matlab.structs(matlab.field(annotation, "objects"))
        ]


def _to_object(item: np.void) -> AnnotatedObject:
    parts = [
        (
            matlab.text(matlab.field(part, "part_name")),
            matlab.label_map(matlab.field(part, "mask")),
        )
        for part in matlab.structs(matlab.field(item, "parts"))
    ]
    return AnnotatedObject(
        matlab.text(matlab.field(item, "class")),
        matlab.label_map(matlab.field(item, "mask")),
        parts,
    )


def merge_parts(objects: Sequence[AnnotatedObject]) -> np.ndarray:
    """Paints the six parts of all persons; see the top of this file for the order.

    Returns:
      uint8 [height, width], ids 0 to 6.

    Raises:
      ValueError: there is no object, masks differ in size, or a part of a person has
        an unknown name.
    """
    if not objects:
        raise ValueError("annotation has no object; expected a person")
    label = np.zeros(objects[0].mask.shape, np.uint8)
    for item in objects:
        _paint(label, item.mask, 0)
        for name, mask in item.parts if item.class_name == "person" else ():
            if name not in CLASS_OF_PART:
                raise ValueError(
                    f"annotation has a person's part {name!r}; expected one of "
                    f"{', '.join(CLASS_OF_PART)}"
                )
            _paint(label, mask, CLASS_OF_PART[name])
    return label


def _paint(label: np.ndarray, mask: np.ndarray, class_id: int) -> None:
    if mask.shape != label.shape:
        raise ValueError(
            f"annotation has masks of sizes {label.shape} and {mask.shape}; expected "
            "one size (height, width)"
        )
    label[mask != 0] = class_id


def shows_person_part(path: str) -> bool:
    """Returns whether an annotation has a person with a part.

    One that cannot be read counts as if it had: `dataset.build_dataset` reads it again,
    and says what is wrong.
    """
    try:
        objects = read_objects(path)
    except ValueError:
        return True
    return any(item.class_name == "person" and item.parts for item in objects)


# --- Folders -------------------------------------------------------------------------


def find_labels(input_dir: str | Path) -> tuple[Path, str]:
    """Returns the folder of labels and the suffix of the files in it.

    Raises:
      DatasetError: there is none.
    """
    input_dir = Path(input_dir).expanduser()
    parents = (input_dir, input_dir / "pascal_person_part", input_dir / "trainval")
    for name, suffix in LABEL_FOLDERS:
        itself = (input_dir,) if input_dir.absolute().name == name else ()
        for folder in (*itself, *(parent / name for parent in parents)):
            if next(folder.glob(f"*{suffix}"), None):
                return folder, suffix
    expected = " or ".join(f"{name}/*{suffix}" for name, suffix in LABEL_FOLDERS)
    raise DatasetError(
        f"Expected labels of Person-Part: {expected}. Received: {input_dir}, which has "
        "none of them"
    )


def find_lists(
    input_dir: str | Path, devkit_dir: str | Path | None = None
) -> tuple[dict[str, Path], bool]:
    """Returns split -> path of its list, and whether these are lists of persons.

    Raises:
      DatasetError: there is none.
    """
    input_dir = Path(input_dir).expanduser()
    folder, _ = find_labels(input_dir)
    folders = [
        place / name
        for place in dict.fromkeys((input_dir, folder.parent))
        for name in (".", LIST_FOLDER)
    ]
    lists = voc_devkit.find_lists(folders, LIST_FILES)
    if lists:
        return lists, True
    main = voc_devkit.find_2010(input_dir, devkit_dir) / "ImageSets" / "Main"
    lists = voc_devkit.find_lists([main], LIST_FILES)
    if lists:
        return lists, False
    raise DatasetError(
        "Expected lists such as train_id.txt or train.txt in one of: "
        f"{', '.join(map(str, [*folders, main]))}. Received: none"
    )


def list_splits(
    input_dir: str | Path, devkit_dir: str | Path | None = None
) -> list[str]:
    """Returns those of train and val that have a list.

    Raises:
      DatasetError: none has.
    """
    return list(find_lists(input_dir, devkit_dir)[0])


def list_samples(
    input_dir: str | Path,
    split: str,
    devkit_dir: str | Path | None = None,
    num_processes: int | None = None,
) -> list[pairs.Sample]:
    """Returns the samples of train or val, in the order of its list.

    Args:
      input_dir: folder of labels, or one that holds it.
      split: train or val.
      devkit_dir: folder VOCdevkit/VOC2010; default: `input_dir` or a folder in it.
      num_processes: for reading all annotations where no list says which show
        persons; default: as many as there are CPUs.

    Raises:
      DatasetError: labels, images or the list are absent.
    """
    folder, suffix = find_labels(input_dir)
    devkit = voc_devkit.find_2010(input_dir, devkit_dir)
    lists, of_persons = find_lists(input_dir, devkit_dir)
    samples = voc_devkit.list_samples(lists, split, folder, suffix, devkit)
    return samples if of_persons else _with_persons(samples, split, num_processes)


def _with_persons(
    samples: Sequence[pairs.Sample], split: str, num_processes: int | None
) -> list[pairs.Sample]:
    """Returns the samples that show a part of a person, and prints their number."""
    if samples[0].label.endswith(".png"):
        chosen = [sample for sample in samples if Path(sample.label).is_file()]
    else:
        labels = [sample.label for sample in samples]
        num_processes = num_processes or available_cpus()
        shown = map_in_order(shows_person_part, labels, num_processes)
        chosen = list(itertools.compress(samples, shown))
    print(
        f"Found no list of Person-Part: {split} has the {len(chosen)} of "
        f"{len(samples)} images with a part of a person; published: "
        f"{DATASETS['person_part'].splits.get(split)}"
    )
    return chosen


# --- The data set --------------------------------------------------------------------


def read_sample(sample: pairs.Sample) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and its label: uint8 [height, width], ids 0 to 6.

    Raises:
      ValueError: a file cannot be read; see `merge_parts`.
    """
    if not sample.label.endswith(".mat"):
        return files.read_file(sample.image), files.read_label(sample.label)
    objects = read_objects(sample.label)
    with matlab.errors_about(sample.label):
        label = merge_parts(objects)
    return files.read_file(sample.image), label


def build_person_part(
    input_dir: str | Path,
    output_dir: str | Path,
    splits: Sequence[str] = (),
    *,
    devkit_dir: str | Path | None = None,
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
      input_dir: folder of labels, or one that holds it.
      output_dir: folder to make.
      splits: of train and val; default: those that have a list.
      devkit_dir: folder VOCdevkit/VOC2010; default: `input_dir` or a folder in it.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: see `list_samples` and `dataset.build_dataset`.
    """
    return dataset.build_listed(
        input_dir,
        output_dir,
        splits,
        info=DATASETS["person_part"],
        list_splits=functools.partial(list_splits, devkit_dir=devkit_dir),
        list_samples=functools.partial(
            list_samples,
            devkit_dir=devkit_dir,
            num_processes=options.get("num_processes"),
        ),
        read_sample=read_sample,
        **options,
    )


def define_flags() -> None:
    command_line.define_flags("Folder of Person-Part's labels, or one that holds it.")
    flags.DEFINE_string(
        "devkit_dir", None, "Folder VOCdevkit/VOC2010; default: in input_dir."
    )


def main() -> None:
    build_person_part(
        **command_line.flag_options("person_part", "input_dir", "devkit_dir"),
    )


def run() -> None:
    run_builder(define_flags, main)


if __name__ == "__main__":
    run()
