r"""Writes the PASCAL VOC 2012 segmentation set, with SBD's masks, as TFRecords.

    python -m datasets.build_voc2012 --devkit_dir=VOCdevkit/VOC2012 \
        --sbd_dir=benchmark_RELEASE --output_dir=data/voc2012

Expects the layout of the devkit (VOCtrainval_11-May-2012.tar, no login, at
host.robots.ox.ac.uk/pascal/VOC/voc2012): `JPEGImages/NAME.jpg`,
`SegmentationClass/NAME.png` and lists of names `ImageSets/Segmentation/SPLIT.txt`.
Masks are palette PNGs; their indices are the ids, 255 is void.

The split `trainaug`, on which the papers train, is VOC's train (1,464 images) and
those of SBD (`sources.sbd` says where it is) that are not in VOC's val: 10,582 images.
It is written when one of these says what it holds, in this order:

1. a list `ImageSets/Segmentation/trainaug.txt`; it must hold no name of val;
2. --sbd_dir: SBD's train and val, VOC's train, less VOC's val;
3. a folder `SegmentationClassAug` beside `SegmentationClass`, as other projects share
   it, with PNG masks: its names, VOC's train, less VOC's val.

In 2 and 3 the names are sorted. Each mask comes from the first of SegmentationClass,
SegmentationClassAug and SBD that has it: the images of VOC's train keep VOC's masks
with their void border, and SBD's masks have no void. Images come from JPEGImages, else
from SBD. With VOC's own train.txt (1,464 names) any other size of trainaug than 10,582
is an error; --expect_trainaug gives the size for a subset.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from deeplab_tf.data.building import dataset, files, pairs
from deeplab_tf.data.building.command_line import run_builder
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.downloads import command_line
from deeplab_tf.data.records.info import DatasetInfo

from .sources import sbd, voc_devkit
from .sources.catalog import DATASETS

LISTS = "ImageSets/Segmentation"
LABEL_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
TRAINAUG = "trainaug"


def find_devkit(devkit_dir: str | Path) -> Path:
    """Returns the folder VOC2012, given it or a folder above it.

    Raises:
      DatasetError: none of them holds ImageSets/Segmentation.
    """
    return voc_devkit.find_folder(devkit_dir, (2012,), LISTS)


def list_splits(devkit_dir: str | Path, sbd_dir: str | Path | None = None) -> list[str]:
    """Returns the splits that have a list, but for test, whose masks are not public.

    With `sbd_dir`, or with a folder SegmentationClassAug and the lists train and val,
    trainaug is one of them too.
    """
    devkit = find_devkit(devkit_dir)
    splits = {path.stem for path in (devkit / LISTS).glob("*.txt")} - {"test"}
    ready = (devkit / LABEL_FOLDERS[1]).is_dir() and splits >= {"train", "val"}
    if sbd_dir or ready:
        splits.add(TRAINAUG)
    return sorted(splits)


def list_samples(
    devkit_dir: str | Path,
    split: str,
    sbd_dir: str | Path | None = None,
    expect_trainaug: int | None = None,
) -> list[pairs.Sample]:
    """Returns the samples of a split, in the order of its list.

    A line is a name, or as in the lists of other DeepLab projects the paths of an image
    and its mask.

    Args:
      devkit_dir: folder VOCdevkit/VOC2012, or VOCdevkit.
      split: name of a list, or trainaug.
      sbd_dir: folder benchmark_RELEASE of SBD.
      expect_trainaug: size of trainaug; default: see the top of this file.

    Raises:
      DatasetError: the list is absent or empty; or trainaug is of the wrong size,
        shares names with val, or has masks nowhere.
    """
    devkit = find_devkit(devkit_dir)
    sbd_folder = sbd.find_folder(sbd_dir) if sbd_dir else None
    if split != TRAINAUG:
        names = voc_devkit.read_names(devkit / LISTS / f"{split}.txt")
        return [_sample(devkit, name, None) for name in names]
    names = _trainaug_names(devkit, sbd_folder)
    _check_size(devkit, names, expect_trainaug)
    samples = [_sample(devkit, name, sbd_folder) for name in names]
    _check_masks(devkit, samples, sbd_folder)
    return samples


def _sample(devkit: Path, name: str, sbd_folder: Path | None) -> pairs.Sample:
    """Returns the sample of the first mask and the first image that exist.

    Where none exists the path is that of the last place, or of the devkit's image.
    """
    folders = [f for f in LABEL_FOLDERS if (devkit / f).is_dir()] or LABEL_FOLDERS[:1]
    labels = [str(devkit / folder / f"{name}.png") for folder in folders]
    images = [voc_devkit.image_path(devkit, name)]
    if sbd_folder:
        labels.append(sbd.label_path(sbd_folder, name))
        images.append(sbd.image_path(sbd_folder, name))
    label = next((path for path in labels if Path(path).is_file()), labels[-1])
    image = next((path for path in images if Path(path).is_file()), images[0])
    return pairs.Sample(name, image, label)


# --- trainaug ------------------------------------------------------------------------


def _trainaug_names(devkit: Path, sbd_folder: Path | None) -> list[str]:
    """Returns the names of trainaug: see the top of this file."""
    lists = devkit / LISTS
    if (lists / "trainaug.txt").is_file():
        names = voc_devkit.read_names(lists / "trainaug.txt")
        if (lists / "val.txt").is_file():
            _check_overlap(names, lists)
        return names
    if sbd_folder:
        augmented = sbd.list_names(sbd_folder)
    elif (devkit / LABEL_FOLDERS[1]).is_dir():
        augmented = set(voc_devkit.file_names(devkit / LABEL_FOLDERS[1], ".png"))
    else:
        raise DatasetError(
            "Expected a source of trainaug: --sbd_dir (benchmark_RELEASE of SBD), "
            f"{devkit / LABEL_FOLDERS[1]} or {lists / 'trainaug.txt'}. Received: none"
        )
    train = voc_devkit.read_names(lists / "train.txt")
    # An error without val.txt: nothing else keeps images of val out.
    val = voc_devkit.read_names(lists / "val.txt")
    return sorted(augmented.union(train).difference(val))


def _check_overlap(names: Sequence[str], lists: Path) -> None:
    shared = sorted(set(names).intersection(voc_devkit.read_names(lists / "val.txt")))
    if shared:
        raise DatasetError(
            f"Expected no name of val in trainaug. Received {len(shared)} in "
            f"{lists / 'trainaug.txt'}: {_some(shared)}. Remove them, or remove the "
            "list and give --sbd_dir."
        )


def _check_size(devkit: Path, names: Sequence[str], expected: int | None) -> None:
    """Raises DatasetError where trainaug has another size than it should."""
    train_list = devkit / LISTS / "train.txt"
    train = set(voc_devkit.read_names(train_list)) if train_list.is_file() else set()
    published = DATASETS["voc2012"].splits
    if expected is None and len(train) == published["train"]:
        expected = published[TRAINAUG]
    if expected in (None, len(names)):
        return
    difference = expected - len(names)
    raise DatasetError(
        f"Expected {expected} names in trainaug. Received: {len(names)}, "
        f"{len(train.intersection(names))} of them in train.txt and "
        f"{len(set(names) - train)} more: {abs(difference)} "
        f"{'missing' if difference > 0 else 'too many'}. Get the published lists "
        "(SBD's train.txt has 8498 names, its val.txt 2857, VOC's val.txt 1449), or "
        f"for a subset say its size: --expect_trainaug={len(names)}"
    )


def _check_masks(
    devkit: Path, samples: Sequence[pairs.Sample], sbd_folder: Path | None
) -> None:
    """Raises DatasetError where the source of trainaug's other masks was not given."""
    missing = [s.name for s in samples if not Path(s.label).is_file()]
    if missing and not sbd_folder and not (devkit / LABEL_FOLDERS[1]).is_dir():
        raise DatasetError(
            f"Expected a mask for each of the {len(samples)} names in trainaug. "
            f"{devkit / LABEL_FOLDERS[0]} lacks {len(missing)}: {_some(missing)}. "
            "Give --sbd_dir (benchmark_RELEASE of SBD), or put the folder "
            f"{LABEL_FOLDERS[1]} beside it."
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


# --- The data set --------------------------------------------------------------------


def read_sample(sample: pairs.Sample) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and its label, whose stored ids are the class ids."""
    read = sbd.read_label if sample.label.endswith(".mat") else files.read_label
    return files.read_file(sample.image), read(sample.label)


def build_voc2012(
    devkit_dir: str | Path,
    output_dir: str | Path,
    splits: Sequence[str] = (),
    *,
    sbd_dir: str | Path | None = None,
    expect_trainaug: int | None = None,
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
      devkit_dir: folder VOCdevkit/VOC2012, or VOCdevkit.
      output_dir: folder to make.
      splits: default: see `list_splits`.
      sbd_dir: folder benchmark_RELEASE of SBD, for trainaug.
      expect_trainaug: size of trainaug; default: see the top of this file.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: see `list_samples` and `dataset.build_dataset`.
    """
    return dataset.build_listed(
        devkit_dir,
        output_dir,
        splits,
        info=DATASETS["voc2012"],
        list_splits=functools.partial(list_splits, sbd_dir=sbd_dir),
        list_samples=functools.partial(
            list_samples, sbd_dir=sbd_dir, expect_trainaug=expect_trainaug
        ),
        read_sample=read_sample,
        **options,
    )


def define_flags() -> None:
    command_line.define_flags(
        "Folder VOCdevkit/VOC2012, or VOCdevkit.",
        "devkit_dir",
        "Lists of ImageSets/Segmentation, or trainaug; default: all but test.",
    )
    flags.DEFINE_string("sbd_dir", None, "Folder benchmark_RELEASE, for trainaug.")
    flags.DEFINE_integer(
        "expect_trainaug",
        None,
        "Size that trainaug must have; default: 10582 where train.txt is VOC's.",
    )


def main() -> None:
    args = flags.FLAGS
    build_voc2012(
        expect_trainaug=args.expect_trainaug,
        **command_line.flag_options("voc2012", "devkit_dir", "sbd_dir"),
    )


def run() -> None:
    run_builder(define_flags, main)


if __name__ == "__main__":
    run()
