r"""Writes ADE20K with the 150 classes of SceneParse150 as TFRecords.

    python -m datasets.build_ade20k \
        --input_dir=ADEChallengeData2016 --output_dir=data/ade20k

Expects the folder that ADEChallengeData2016.zip unpacks to, or its parent: images
`images/{training,validation}/NAME.jpg` and masks `annotations/{training,validation}/
NAME.png`; 20,210 and 2,000 pairs, written as the splits train and val. The archive is
on the page of the MIT Scene Parsing Benchmark and needs no login. (The full ADE20K,
with more than 3,000 classes coded as colours, is another archive.)

Masks hold 1 to 150 for the classes and 0 for everything else: k becomes k - 1, and 0
becomes 255, as in the benchmark, which does not count those pixels. An id over 150 is
refused. Some images are grey JPEGs; they are stored as RGB PNGs of the same pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from deeplab_tf.data.building import dataset, files, image_files, pairs
from deeplab_tf.data.building.command_line import run_builder
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.downloads import command_line
from deeplab_tf.data.folders.folder_splits import list_samples as list_folder
from deeplab_tf.data.records.info import IGNORE_LABEL, DatasetInfo

from .sources.catalog import DATASETS

FOLDER = "ADEChallengeData2016"
SPLIT_FOLDERS = {"train": "training", "val": "validation"}
OTHER = 0
NUM_CLASSES = DATASETS["ade20k"].num_classes


def _find_folder(input_dir: str | Path) -> Path:
    """Returns the folder that holds images and annotations, given it or its parent."""
    folder = Path(input_dir).expanduser()
    return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def list_splits(input_dir: str | Path) -> list[str]:
    """Returns those of train and val that have a folder of masks.

    Raises:
      DatasetError: neither has.
    """
    annotations = _find_folder(input_dir) / "annotations"
    splits = [s for s, name in SPLIT_FOLDERS.items() if (annotations / name).is_dir()]
    if not splits:
        raise DatasetError(
            f"Expected {FOLDER} with the folders annotations/training or "
            f"annotations/validation. Received: {input_dir}"
        )
    return splits


def list_samples(input_dir: str | Path, split: str) -> list[pairs.Sample]:
    """Returns a split's samples by name.

    Raises:
      DatasetError: another split than train and val, or an absent or empty folder.
    """
    if split not in SPLIT_FOLDERS:
        raise DatasetError(f"Expected the split train or val. Received: {split}")
    folder, name = _find_folder(input_dir), SPLIT_FOLDERS[split]
    return list_folder(folder / "images" / name, folder / "annotations" / name)


def convert_label(label: np.ndarray) -> np.ndarray:
    """Maps ids 1..150 to 0..149, and 0 to the ignore label; uint8 in, uint8 out.

    Raises:
      ValueError: an id is over 150.
    """
    highest = label.max(initial=OTHER)
    if highest > NUM_CLASSES:
        raise ValueError(
            f"label has the id {highest}; expected 0 to {NUM_CLASSES} of SceneParse150"
        )
    return np.where(label == OTHER, IGNORE_LABEL, label.astype(int) - 1).astype("u1")


def read_sample(
    sample: pairs.Sample, exif_orientation: str = "refuse"
) -> tuple[bytes, np.ndarray]:
    """Returns the image as RGB JPEG or PNG bytes, and its label."""
    label = convert_label(files.read_label(sample.label))
    return image_files.read_image(sample.image, exif_orientation), label


def build_ade20k(
    input_dir: str | Path,
    output_dir: str | Path,
    splits: Sequence[str] = (),
    *,
    exif_orientation: str = "refuse",
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
      input_dir: folder ADEChallengeData2016, or its parent.
      output_dir: folder to make.
      splits: of train and val; default: those that are there.
      exif_orientation: see `image_files.read_image`.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: see `dataset.build_dataset`.
    """
    return dataset.build_listed(
        input_dir,
        output_dir,
        splits,
        info=DATASETS["ade20k"],
        list_splits=list_splits,
        list_samples=list_samples,
        read_sample=functools.partial(read_sample, exif_orientation=exif_orientation),
        **options,
    )


def define_flags() -> None:
    command_line.define_flags("Folder ADEChallengeData2016, or its parent.")
    image_files.define_exif_flag()


def main() -> None:
    args = flags.FLAGS
    build_ade20k(
        exif_orientation=args.exif_orientation,
        **command_line.flag_options("ade20k", "input_dir"),
    )


def run() -> None:
    run_builder(define_flags, main)


if __name__ == "__main__":
    run()
