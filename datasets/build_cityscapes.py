r"""Writes Cityscapes with its 19 classes as TFRecords.

    python -m datasets.build_cityscapes \
        --input_dir=cityscapes --output_dir=data/cityscapes

Expects what leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip unpack to:

    leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png     (or .jpg)
    gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_labelIds.png

for the splits train and val. The labels of test are not public. Polygons and instance
ids are not needed. The archives are on cityscapes-dataset.com and need a login.

--coarse writes train_extra from leftImg8bit_trainextra.zip and gtCoarse.zip
(`gtCoarse/SPLIT/CITY/NAME_gtCoarse_labelIds.png`); with --splits=train,val also those
splits, from their coarse labels. The image troisdorf_000000_000073 of train_extra came
broken in the first archive; --skip_bad goes on without it.

The ids of labelIds files become the 19 train ids of cityscapesScripts, all other ids
255: so does id -1, license plate, which is 255 in 8 bits. Where there is no labelIds
file, NAME_gtFine_labelTrainIds.png is read as it is. Copies with smaller images than
labels need --resize_labels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from deeplab_tf.class_tables import CITYSCAPES_TRAIN_IDS
from deeplab_tf.data.building import dataset, files, pairs
from deeplab_tf.data.building.command_line import run_builder
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.downloads import command_line
from deeplab_tf.data.records.info import IGNORE_LABEL, DatasetInfo

from .sources.catalog import DATASETS

FINE_SPLITS = ("train", "val")
COARSE_SPLITS = ("train_extra", "train", "val")
IMAGE_ENDINGS = ("_leftImg8bit.png", "_leftImg8bit.jpg")
LABEL_IDS = "labelIds.png"
TRAIN_IDS = "labelTrainIds.png"


def _labels_folder(folder: Path, split: str, coarse: bool) -> Path:
    # train_extra has no other labels.
    name = "gtCoarse" if coarse or split == "train_extra" else "gtFine"
    return folder / name / split


def list_splits(input_dir: str | Path, coarse: bool = False) -> list[str]:
    """Returns train and val, or with `coarse` train_extra, where they have labels.

    Raises:
      DatasetError: there are none.
    """
    folder = Path(input_dir).expanduser()
    candidates = ("train_extra",) if coarse else FINE_SPLITS
    splits = [s for s in candidates if _labels_folder(folder, s, coarse).is_dir()]
    if not splits:
        expected = " or ".join(
            f"{_labels_folder(Path(), split, coarse)}" for split in candidates
        )
        raise DatasetError(
            f"Expected a Cityscapes folder with leftImg8bit and {expected} in it. "
            f"Received: {input_dir}"
        )
    return splits


def _find_keys(folder: Path, endings: Sequence[str]) -> set[str]:
    """Returns CITY/NAME of the files in a folder; a folder that is absent has none."""
    return {
        str(path.relative_to(folder))[: -len(ending)]
        for ending in endings
        for path in folder.glob(f"*/*{ending}")
        if not path.name.startswith(".")
    }


def list_samples(
    input_dir: str | Path, split: str, coarse: bool = False
) -> list[pairs.Sample]:
    """Returns a split's samples by name.

    An image without a label and a label without an image are samples too: reading them
    says what is missing.

    Args:
      input_dir: folder with leftImg8bit and gtFine or gtCoarse.
      split: train, val or train_extra.
      coarse: read coarse labels for train and val too.

    Raises:
      DatasetError: another split, or the split has neither images nor labels.
    """
    if split not in COARSE_SPLITS:
        raise DatasetError(
            f"Expected a split of {', '.join(COARSE_SPLITS)}; the labels of test are "
            f"not public. Received: {split}"
        )
    folder = Path(input_dir).expanduser()
    images_dir = folder / "leftImg8bit" / split
    labels_dir = _labels_folder(folder, split, coarse)
    kind = labels_dir.parent.name
    label_endings = (f"_{kind}_{LABEL_IDS}", f"_{kind}_{TRAIN_IDS}")
    keys = _find_keys(images_dir, IMAGE_ENDINGS) | _find_keys(labels_dir, label_endings)
    if not keys:
        raise DatasetError(
            f"Expected images CITY/NAME{IMAGE_ENDINGS[0]} in {images_dir} and labels "
            f"CITY/NAME_{kind}_{LABEL_IDS} in {labels_dir}. Received: none"
        )
    return [
        pairs.Sample(
            Path(key).name,
            files.find_file(images_dir, key, IMAGE_ENDINGS),
            files.find_file(labels_dir, f"{key}_{kind}_", (LABEL_IDS, TRAIN_IDS)),
        )
        for key in sorted(keys)
    ]


def convert_label(label: np.ndarray) -> np.ndarray:
    """Maps the ids of a labelIds file to train ids 0..18 or 255; uint8 in, uint8 out.

    Raises:
      ValueError: the label has an id that Cityscapes does not define.
    """
    stored = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    unknown = np.setdiff1d(stored, list(CITYSCAPES_TRAIN_IDS))
    if unknown.size:
        raise ValueError(
            f"label has the ids {', '.join(map(str, unknown))}; expected those of "
            "Cityscapes, 0 to 33 or 255 (license plate)"
        )
    table = np.full(256, IGNORE_LABEL, np.uint8)
    table[list(CITYSCAPES_TRAIN_IDS)] = list(CITYSCAPES_TRAIN_IDS.values())
    return table[label]


def fit_label(label: np.ndarray, width: int, height: int) -> np.ndarray:
    """Makes a label smaller by nearest neighbour.

    Args:
      label: uint8 [height, width], of another size.
      width: of the result, at most that of the label.
      height: likewise.

    Returns:
      uint8 [height, width], with ids of `label` alone.

    Raises:
      ValueError: the label would have to grow.
    """
    if width > label.shape[1] or height > label.shape[0]:
        raise ValueError(
            f"image is {width}x{height} (width x height), label is "
            f"{label.shape[1]}x{label.shape[0]}; --resize_labels makes labels smaller, "
            "not larger"
        )
    resized = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized)


def _image_size(image_bytes: bytes) -> tuple[int, int] | None:
    """Returns width and height by the file's header, or None where it has none."""
    try:
        with files.open_head(image_bytes, "") as image:
            return image.size
    except ValueError:
        return None  # build_dataset says that the image is broken.


def read_sample(
    sample: pairs.Sample, resize_labels: bool = False
) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and its label in train ids.

    Args:
      sample: of `list_samples`.
      resize_labels: fit larger labels to their image, see `fit_label`, rather than
        refuse them.
    """
    label = files.read_label(sample.label)
    if not sample.label.endswith(TRAIN_IDS):
        label = convert_label(label)
    image_bytes = files.read_file(sample.image)
    size = _image_size(image_bytes)
    if size in (None, label.shape[::-1]):
        return image_bytes, label
    if not resize_labels:
        raise ValueError(
            f"image is {size[0]}x{size[1]} (width x height), label is "
            f"{label.shape[1]}x{label.shape[0]}; --resize_labels fits "
            "labels to images that were made smaller"
        )
    return image_bytes, fit_label(label, *size)


def build_cityscapes(
    input_dir: str | Path,
    output_dir: str | Path,
    splits: Sequence[str] = (),
    *,
    coarse: bool = False,
    resize_labels: bool = False,
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
      input_dir: folder with leftImg8bit and gtFine or gtCoarse.
      output_dir: folder to make.
      splits: of train, val and train_extra; default: see `list_splits`.
      coarse: see `list_samples`.
      resize_labels: see `read_sample`.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: see `dataset.build_dataset`.
    """
    return dataset.build_listed(
        input_dir,
        output_dir,
        splits,
        info=DATASETS["cityscapes"],
        list_splits=functools.partial(list_splits, coarse=coarse),
        list_samples=functools.partial(list_samples, coarse=coarse),
        read_sample=functools.partial(read_sample, resize_labels=resize_labels),
        **options,
    )


def define_flags() -> None:
    command_line.define_flags("Folder with leftImg8bit and gtFine or gtCoarse.")
    flags.DEFINE_bool(
        "coarse", False, "Write coarse labels, by default those of train_extra."
    )
    flags.DEFINE_bool(
        "resize_labels", False, "Fit labels to images that were made smaller."
    )


def main() -> None:
    args = flags.FLAGS
    build_cityscapes(
        coarse=args.coarse,
        resize_labels=args.resize_labels,
        **command_line.flag_options("cityscapes", "input_dir"),
    )


def run() -> None:
    run_builder(define_flags, main)


if __name__ == "__main__":
    run()
