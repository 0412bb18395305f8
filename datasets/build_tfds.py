r"""Writes a segmentation data set of tensorflow-datasets (TFDS) as TFRecords.

    python -m datasets.build_tfds --name=oxford_iiit_pet --output_dir=data/pets
    python train.py --recipe=finetune_resnet50 --data_dir=tfds:oxford_iiit_pet

The second command does the first one's work once and keeps it under runs/data.
`tfds:NAME[/CONFIG][:VERSION]` names a data set as TFDS does; what TFDS has not prepared
yet in --tfds_dir (default: its own folder) is downloaded and prepared by TFDS.

The image is the feature with three channels. The label is a LabeledImage, or an image
with one channel, and has a name such as segmentation_mask. Where there are several,
--image_key and --label_key choose. How stored ids become classes is known for the data
sets of `tfds_features.KNOWN`; for others a stored id plus --label_offset is a class,
255 and ids that become negative are ignored. Class names are those of the LabeledImage.

Images stay the JPEG or PNG bytes that TFDS keeps. train is TFDS's train; val is its
validation split, without one its test split, without one a seeded fraction of train.
Examples pass through OUTPUT_DIR.staging, which is removed in the end: it needs as much
room again. Needs: pip install tensorflow-datasets importlib_resources
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from deeplab_tf.data.building import command_line, dataset, files, image_files, pairs
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.output_folder import check_free, full_path, locked
from deeplab_tf.data.folders import found_ids
from deeplab_tf.data.folders.class_lists import read_class_list
from deeplab_tf.data.folders.folder_splits import split_by_fraction
from deeplab_tf.data.records.info import IGNORE_LABEL, INFO_FILE, DatasetInfo

from . import build_hf
from .sources.tfds_features import Reading, find_features, import_tfds, known_reading
from .sources.tfds_staging import choose_splits, stage, staging_folder

PREFIX = "tfds:"
DATA_ROOT = os.path.join("runs", "data")


# --- Reading staged files ------------------------------------------------------------


def read_stored_ids(path: str, channel: int | None) -> np.ndarray:
    """Returns the ids that a label stores, those of a palette PNG as indices.

    Args:
      path: of the label.
      channel: that holds the ids; None where the label has one channel.

    Returns:
      uint8 [height, width].

    Raises:
      ValueError: the file cannot be read, or has other channels.
    """
    if channel is None:
        return files.read_label(path)
    image = files.open_image(files.read_file(path), path)
    if not 0 <= channel < len(image.getbands()) or image.mode not in ("RGB", "RGBA"):
        raise ValueError(
            f"{path} has Pillow mode {image.mode}; expected a channel {channel} of "
            "RGB or RGBA"
        )
    return np.asarray(image.getchannel(channel))


def convert_label(
    label: np.ndarray, ids: Mapping[int, int] | None = None, offset: int = 0
) -> np.ndarray:
    """Maps stored ids to class ids.

    Args:
      label: uint8 [height, width], stored ids.
      ids: stored id -> class id or 255; 255 stays 255 unless it is among them. None
        adds `offset`; what becomes negative is ignored.
      offset: such as -1 where 0 marks pixels without a class.

    Returns:
      uint8 [height, width], class ids or 255.

    Raises:
      ValueError: the label has an id that `ids` lacks, or an id becomes too high.
    """
    if ids is None:
        moved = {stored: stored + offset for stored in range(255)}
        ids = {k: IGNORE_LABEL if v < 0 else v for k, v in moved.items() if v < 255}
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids.values())
    table[IGNORE_LABEL] = ids.get(IGNORE_LABEL, IGNORE_LABEL)
    stored = np.flatnonzero(np.bincount(label.ravel(), minlength=256)).tolist()
    unknown = sorted(set(stored) - set(ids) - {IGNORE_LABEL})
    if unknown:
        raise ValueError(
            f"label has the stored ids {', '.join(map(str, unknown))}; expected "
            f"{', '.join(map(str, ids))} or {IGNORE_LABEL}"
        )
    return table[label]


def read_sample(
    sample: pairs.Sample,
    ids: Mapping[int, int] | None = None,
    offset: int = 0,
    channel: int | None = None,
    exif_orientation: str = "refuse",
) -> tuple[bytes, np.ndarray]:
    """Returns the image as RGB JPEG or PNG bytes, and its label.

    See `image_files.read_image`, `read_stored_ids` and `convert_label`.
    """
    label = convert_label(read_stored_ids(sample.label, channel), ids, offset)
    return image_files.read_image(sample.image, exif_orientation), label


def _read_classes(path: str, reading: Reading) -> np.ndarray:
    """Returns a label's class ids, uint8 [height, width], 255 for none."""
    stored = read_stored_ids(path, reading.channel)
    return convert_label(stored, reading.ids, reading.offset)


def _count_classes(
    reading: Reading,
    samples: Mapping[str, Sequence[pairs.Sample]],
    num_processes: int | None,
) -> int:
    """Returns the highest class id of all labels plus 1.

    Raises:
      DatasetError: there is no class but 0, or an id below the highest is missing.
    """
    paths = [sample.label for split in samples.values() for sample in split]
    read = functools.partial(_read_classes, reading=reading)
    found = found_ids.count_ids(paths, read, num_processes)
    ids = [i for i in found.ids if i != IGNORE_LABEL]
    if not ids or ids == [0]:
        raise DatasetError(
            "Expected labels with two classes or more. Received: no readable label "
            "with an id other than 0 and 255. Mend the labels, or give --num_classes."
        )
    if len(ids) <= ids[-1]:
        raise DatasetError(
            f"Expected the class ids 0 to {ids[-1]} in the labels. Received: "
            f"{found_ids.as_ranges(ids)}. Where stored ids are class ids, and the "
            f"others only do not occur: --num_classes={ids[-1] + 1}. Where all are "
            "higher than the class ids: --label_offset"
        )
    return ids[-1] + 1


def _class_names(
    reading: Reading,
    class_names: str | None,
    num_classes: int | None,
    samples: Mapping[str, Sequence[pairs.Sample]],
    num_processes: int | None,
) -> tuple[str, ...]:
    """Returns the names of a file, those that are known, or class_0 and so on.

    Raises:
      DatasetError: names and number do not fit, or there is no class but 0.
    """
    names = reading.class_names
    if class_names:
        names, ids = read_class_list(class_names)
        if ids:
            raise DatasetError(
                f"Expected names of the classes 0, 1 and so on in {class_names}. "
                f"Received: the ids {', '.join(map(str, ids))}"
            )
    if names and num_classes not in (None, len(names)):
        raise DatasetError(
            f"Expected {num_classes} class names. Received: {len(names)}"
        )
    if not names and num_classes is None:
        num_classes = _count_classes(reading, samples, num_processes)
    names = names or tuple(f"class_{index}" for index in range(num_classes))
    if len(names) > IGNORE_LABEL:
        raise DatasetError(
            f"Expected 1 to 255 classes; 255 is ignored. Received: {len(names)}"
        )
    return names


# --- The whole data set --------------------------------------------------------------


def _prepared_builder(tfds, name: str, tfds_dir: str | Path | None):
    """Returns TFDS's builder, its data downloaded and prepared.

    Raises:
      DatasetError: with TFDS's own words.
    """
    if tfds_dir is not None:
        tfds_dir = full_path(tfds_dir)
    try:
        builder = tfds.builder(name, data_dir=tfds_dir)
        builder.download_and_prepare()
    # Its builders raise whatever they like where an archive is missing or has changed.
    except Exception as error:
        raise DatasetError(
            f"tensorflow-datasets cannot prepare {name}: {str(error).strip()}"
        ) from error
    return builder


def dataset_folder_name(name: str) -> str:
    """Returns tfds_NAME_CONFIG_VERSION for NAME/CONFIG:VERSION."""
    return "tfds_" + re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_.")


def build_tfds(
    name: str,
    output_dir: str | Path,
    splits: Sequence[str] = (),
    *,
    tfds_dir: str | Path | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    label_offset: int | None = None,
    label_channel: int | None = None,
    class_names: str | None = None,
    num_classes: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    exif_orientation: str = "refuse",
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
      name: NAME[/CONFIG][:VERSION], as for `tfds.builder`.
      output_dir: folder to make.
      splits: TFDS's splits to write; see `choose_splits`.
      tfds_dir: folder of TFDS's prepared data sets; None takes its own.
      image_key: feature of the image; default: see `find_features`.
      label_key: likewise.
      label_offset: see `convert_label`; replaces what is known of the ids.
      label_channel: see `read_stored_ids`.
      class_names: text file with one class a line.
      num_classes: default: those of the names, or the highest id plus 1.
      val_fraction: where train is all there is, see `folder_splits`.
      seed: likewise.
      exif_orientation: see `image_files.read_image`.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: TFDS is absent or cannot prepare the data set; image or label
        cannot be told; or see `dataset.build_dataset`.
    """
    output_dir = full_path(output_dir)
    check_free(output_dir, options.get("overwrite", False))
    tfds = import_tfds()
    builder = _prepared_builder(tfds, name, tfds_dir)
    known = known_reading(
        builder.name, image_key, label_key, label_channel, label_offset
    )
    reading = find_features(tfds, builder.info.features, known)
    if reading.note:
        print(reading.note)
    sources = choose_splits(list(builder.info.splits), splits)
    folder = staging_folder(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(str(folder)):
        samples = stage(tfds, builder, sources, reading, folder)
        if not splits and list(samples) == ["train"]:
            samples = split_by_fraction(samples["train"], val_fraction, seed)
        workers = options.get("num_processes")
        names = _class_names(reading, class_names, num_classes, samples, workers)
        info = DatasetInfo(
            dataset_folder_name(builder.name), names, colormap=reading.colormap
        )
        read = functools.partial(
            read_sample,
            ids=reading.ids,
            offset=reading.offset,
            channel=reading.channel,
            exif_orientation=exif_orientation,
        )
        info = dataset.build_dataset(output_dir, info, samples, read, **options)
        shutil.rmtree(folder)
    return info


def resolve_data_dir(data_dir: str) -> str:
    """Returns a folder of records: `data_dir` itself, or that of tfds: or hf:NAME.

    Args:
      data_dir: a folder, or tfds:NAME[/CONFIG][:VERSION], which is written to
        runs/data/tfds_NAME... the first time, or hf:OWNER/NAME[/CONFIG], likewise.

    Raises:
      DatasetError: see `build_tfds`, `build_hf`.
    """
    if data_dir.startswith(build_hf.PREFIX):
        return _resolve_hf(data_dir[len(build_hf.PREFIX) :])
    if not data_dir.startswith(PREFIX):
        return data_dir
    name = data_dir[len(PREFIX) :]
    if not name:
        raise DatasetError(f"Expected {PREFIX}NAME. Received: {data_dir}")
    folder = os.path.join(DATA_ROOT, dataset_folder_name(name))
    if not os.path.exists(os.path.join(folder, INFO_FILE)):
        print(f"Writing {name} of tensorflow-datasets to {folder} ...")
        build_tfds(name, folder)
    return folder


def _resolve_hf(name: str) -> str:
    if not name:
        raise DatasetError(f"Expected {build_hf.PREFIX}OWNER/NAME. Received no name")
    folder = os.path.join(DATA_ROOT, build_hf.dataset_folder_name(name))
    if not os.path.exists(os.path.join(folder, INFO_FILE)):
        print(f"Writing {name} of Hugging Face to {folder} ...")
        build_hf.build_hf(name, folder)
    return folder


# --- Command line --------------------------------------------------------------------


def define_flags() -> None:
    command_line.define_flags()
    image_files.define_exif_flag()
    flags.DEFINE_string(
        "name",
        None,
        "Name of the data set, NAME[/CONFIG][:VERSION] of TFDS.",
        required=True,
    )
    flags.DEFINE_list(
        "splits",
        [],
        "Splits of TFDS to write, or NAME=SPLIT; default: train and one as val.",
    )
    flags.DEFINE_string("tfds_dir", None, "Folder of TFDS's prepared data sets.")
    flags.DEFINE_string("image_key", None, "Feature of the image; default: found.")
    flags.DEFINE_string("label_key", None, "Feature of the label; default: found.")
    flags.DEFINE_integer(
        "label_offset",
        None,
        "Number added to stored ids, such as -1 where 0 marks no class.",
    )
    flags.DEFINE_integer(
        "label_channel", None, "Channel that holds the ids of an RGB label."
    )
    flags.DEFINE_string("class_names", None, "Text file with one class name a line.")
    flags.DEFINE_integer(
        "num_classes",
        None,
        "Number of classes; default: that of the names, or the highest id plus 1.",
    )
    flags.DEFINE_float(
        "val_fraction",
        0.1,
        "Share of train that becomes val, where train is all there is.",
    )
    flags.DEFINE_integer(
        "seed", 0, "Seed that chooses which examples val_fraction takes."
    )


def main() -> None:
    own = (
        "tfds_dir image_key label_key label_offset label_channel class_names "
        "num_classes val_fraction seed exif_orientation"
    ).split()
    args = flags.FLAGS
    build_tfds(
        args.name,
        args.output_dir,
        args.splits,
        **{flag: args[flag].value for flag in own},
        **command_line.flag_options(),
    )


def run() -> None:
    command_line.run_builder(define_flags, main)


if __name__ == "__main__":
    run()
