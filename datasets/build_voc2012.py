r"""Writes the PASCAL VOC 2012 segmentation set as TFRecords.

    python -m datasets.build_voc2012 \
        --devkit_dir=VOCdevkit/VOC2012 --output_dir=data/voc2012

Expects the layout of the devkit: `JPEGImages/NAME.jpg`, `SegmentationClass/NAME.png`
and lists of names `ImageSets/Segmentation/SPLIT.txt`. Masks are palette PNGs; their
indices are the ids, 255 is void. For `trainaug` (10,582 names, with the masks of SBD)
add a `trainaug.txt` and put SBD's masks, converted to PNG, in `SegmentationClass` or in
a folder `SegmentationClassAug` beside it, which serves for names that the first lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from datasets import build, pairs
from datasets.catalog import DATASETS
from datasets.info import DatasetInfo

LABEL_FOLDERS = ("SegmentationClass", "SegmentationClassAug")


def find_devkit(devkit_dir: str | Path) -> Path:
    """Returns the folder VOC2012, given it or its parent VOCdevkit.

    Raises:
        DatasetError: neither holds ImageSets/Segmentation.
    """
    devkit_dir = Path(devkit_dir).expanduser()
    for folder in (devkit_dir, devkit_dir / "VOC2012"):
        if (folder / "ImageSets" / "Segmentation").is_dir():
            return folder
    raise pairs.DatasetError(
        "Expected the folder VOCdevkit/VOC2012 with ImageSets/Segmentation in it. "
        f"Received: {devkit_dir}"
    )


def list_splits(devkit_dir: str | Path) -> list[str]:
    """Returns the splits that have a list, but for test, whose masks are not public."""
    lists = (find_devkit(devkit_dir) / "ImageSets" / "Segmentation").glob("*.txt")
    return sorted(path.stem for path in lists if path.stem != "test")


def list_samples(devkit_dir: str | Path, split: str) -> list[pairs.Sample]:
    """Returns the samples that `ImageSets/Segmentation/<split>.txt` names, in order.

    A line is a name, or as in the lists of other DeepLab projects the paths of an image
    and its mask.

    Raises:
        DatasetError: the list is absent or empty.
    """
    devkit = find_devkit(devkit_dir)
    lines = pairs.read_list(devkit / "ImageSets" / "Segmentation" / f"{split}.txt")
    return [_sample(devkit, Path(line.split()[0]).stem) for line in lines]


def _sample(devkit: Path, name: str) -> pairs.Sample:
    labels = [str(devkit / folder / f"{name}.png") for folder in LABEL_FOLDERS]
    existing = [label for label in labels if Path(label).is_file()]
    image = str(devkit / "JPEGImages" / f"{name}.jpg")
    return pairs.Sample(name, image, (existing or labels)[0])


def read_sample(sample: pairs.Sample) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and its label, whose stored ids are the class ids."""
    return pairs.read_file(sample.image), pairs.read_label(sample.label)


def build_voc2012(
    devkit_dir: str | Path,
    output_dir: str | Path,
    splits: Sequence[str] = (),
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
        devkit_dir: folder VOCdevkit/VOC2012, or VOCdevkit.
        output_dir: folder to make.
        splits: names of lists; default: all that exist, but for test.
        **options: as for `build.build_dataset`.

    Raises:
        DatasetError: see `build.build_dataset`.
    """
    names = splits or list_splits(devkit_dir)
    samples = {split: list_samples(devkit_dir, split) for split in names}
    return build.build_dataset(
        output_dir, DATASETS["voc2012"], samples, read_sample, **options
    )


def define_flags() -> None:
    build.define_flags()
    flags.adopt_module_key_flags(build)
    flags.DEFINE_string(
        "devkit_dir", None, "Folder VOCdevkit/VOC2012, or VOCdevkit.", required=True
    )
    flags.DEFINE_list(
        "splits", [], "Lists of ImageSets/Segmentation; default: all but test."
    )


def main() -> None:
    args = flags.FLAGS
    build_voc2012(args.devkit_dir, args.output_dir, args.splits, **build.flag_options())


if __name__ == "__main__":
    build.run(define_flags, main)
