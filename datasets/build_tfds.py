r"""Writes a segmentation data set of tensorflow-datasets (TFDS) as TFRecords.

    python -m datasets.build_tfds --name=oxford_iiit_pet --output_dir=data/pets
    python train.py --recipe=finetune_resnet50 --data_dir=tfds:oxford_iiit_pet

The second command does the first one's work once and keeps it under runs/data.
`tfds:NAME[/CONFIG][:VERSION]` names a data set as TFDS does; what TFDS has not prepared
yet in --tfds_dir (default: its own folder) is downloaded and prepared by TFDS.

The image is the feature with three channels. The label is a LabeledImage, or an image
with one channel, and has a name such as segmentation_mask. Where there are several,
--image_key and --label_key choose. How stored ids become classes is known for the data
sets of `KNOWN`; for others a stored id plus --label_offset is a class, 255 and ids that
become negative are ignored. Class names are those of the LabeledImage.

Images stay the JPEG or PNG bytes that TFDS keeps. train is TFDS's train; val is its
validation split, without one its test split, without one a seeded fraction of train.
Examples pass through OUTPUT_DIR.staging, which is removed in the end: it needs as much
room again. Needs: pip install tensorflow-datasets
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from datasets import build, build_cityscapes, image_files, pairs
from datasets.catalog import CITYSCAPES_COLORS, CITYSCAPES_NAMES
from datasets.folder_splits import split_by_fraction
from datasets.info import IGNORE_LABEL, INFO_FILE, DatasetInfo
from datasets.output_folder import full_path, is_remote, locked
from datasets.tfrecord import encode_label
from datasets.worker_pool import available_cpus, map_in_order

PREFIX = "tfds:"
DATA_ROOT = os.path.join("runs", "data")
INSTALL = (
    "Run: pip install tensorflow-datasets (with TensorFlow 2.15 also: "
    "pip install tensorflow-metadata==1.15.0)"
)
LABEL_NAMES = re.compile(r"segmentation|semantic|annotation|label|mask|seg_?map")
# Features that tell the name of an example, the best first.
NAME_KEYS = ("file_name", "filename", "image/filename", "image_id", "image/id", "id")
VAL_SPLITS = ("val", "validation", "valid", "dev")
STAGED = "staged.json"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the features of a TFDS example become image and label.

    Attributes:
        image_key: feature of the image; "" to find it.
        label_key: likewise, of the label.
        class_names: in the order of the class ids; () where they are not known.
        ids: stored id -> class id or 255; None where all stored ids plus `offset` are.
        offset: see there.
        channel: of the label that holds the ids, where it has several; else None.
        colormap: of the classes; () takes that of VOC.
        note: what to know about this data set.
    """

    image_key: str = ""
    label_key: str = ""
    class_names: tuple[str, ...] = ()
    ids: Mapping[int, int] | None = None
    offset: int = 0
    channel: int | None = None
    colormap: tuple[tuple[int, int, int], ...] = ()
    note: str = ""


def _cityscapes_ids() -> dict[int, int]:
    stored = [*range(build_cityscapes.HIGHEST_ID + 1), build_cityscapes.LICENSE_PLATE]
    converted = build_cityscapes.convert_label(np.array(stored, np.uint8))
    return dict(zip(stored, converted.tolist()))


# Data sets whose stored ids are no class ids. "image" and "segmentation_mask" are the
# names of features that tensorflow-datasets 4.9 gives them.
KNOWN = {
    "oxford_iiit_pet": Reading(
        "image",
        "segmentation_mask",
        ("pet", "background", "border"),
        {1: 0, 2: 1, 3: 2},
    ),
    "cityscapes": Reading(
        "image_left",
        "segmentation_label",
        CITYSCAPES_NAMES,
        _cityscapes_ids(),
        colormap=CITYSCAPES_COLORS,
    ),
    # gtCoarse: 0 is outside of what was labelled, 1 the free road, the others hazards.
    "lost_and_found": Reading(
        "image_left",
        "segmentation_label",
        ("free space", "obstacle"),
        {0: IGNORE_LABEL, 1: 0, **dict.fromkeys(range(2, 255), 1)},
    ),
    "caltech_birds2010": Reading(
        "image",
        "segmentation_mask",
        ("background", "bird"),
        {0: 0, **dict.fromkeys(range(1, 256), 1)},
    ),
    # The share of five annotators, of 255, who marked a pixel: a majority is a bird.
    "caltech_birds2011": Reading(
        "image",
        "segmentation_mask",
        ("background", "bird"),
        {value: value // 128 for value in range(256)},
    ),
    "scene_parse150": Reading(
        "image",
        "annotation",
        tuple(f"object_{index}" for index in range(1, 101)),
        {0: IGNORE_LABEL, **{index: index - 1 for index in range(1, 101)}},
        channel=0,
        note="TFDS's scene_parse150 has the masks of the instance benchmark: 100 kinds "
        "of objects, everything else ignored. For its 150 classes use "
        "datasets.build_ade20k.",
    ),
}


# --- The features of a data set ------------------------------------------------------


def import_tfds():
    """Returns the module tensorflow_datasets.

    Raises:
        DatasetError: it is absent, or does not work beside this TensorFlow.
    """
    try:
        import tensorflow_datasets as tfds

        # Where one of its own imports fails, it logs that and lacks its functions.
        tfds.builder  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise pairs.DatasetError(
            f"tensorflow-datasets cannot be imported ({error}). {INSTALL}"
        ) from error
    return tfds


def _is_label(tfds, name: str, feature) -> bool:
    """Says whether a feature looks like class ids for each pixel."""
    if isinstance(feature, tfds.features.LabeledImage):
        return True
    one_channel = isinstance(feature, tfds.features.Image) and feature.shape[-1] == 1
    return one_channel and bool(LABEL_NAMES.search(name.lower()))


def _is_image(tfds, name: str, feature) -> bool:
    is_image = isinstance(feature, tfds.features.Image)
    return is_image and feature.shape[-1] == 3 and not LABEL_NAMES.search(name.lower())


def _describe(features: Mapping) -> str:
    return "; ".join(
        f"{name}: {type(feature).__name__} {getattr(feature, 'shape', '')}".strip()
        for name, feature in features.items()
    )


def _choose(features: Mapping, kind: str, given: str, candidates: list[str]) -> str:
    """Returns the feature that is meant.

    Raises:
        DatasetError: there is no such feature, or several.
    """
    if given in features:
        return given
    if not given and len(candidates) == 1:
        return candidates[0]
    received = given or ", ".join(candidates) or "none"
    raise pairs.DatasetError(
        f"Expected one feature with the {kind}; --{kind}_key names it. Received: "
        f"{received}. Features: {_describe(features)}"
    )


def find_features(tfds, features: Mapping, reading: Reading) -> Reading:
    """Completes a reading by the names of the features and the classes.

    Args:
        tfds: the module.
        features: name -> feature, as of `builder.info.features`.
        reading: what is known.

    Raises:
        DatasetError: image or label cannot be told.
    """
    labels = [name for name in features if _is_label(tfds, name, features[name])]
    images = [name for name in features if _is_image(tfds, name, features[name])]
    reading = dataclasses.replace(
        reading,
        image_key=_choose(features, "image", reading.image_key, images),
        label_key=_choose(features, "label", reading.label_key, labels),
    )
    label = features[reading.label_key]
    count = getattr(label, "num_classes", None)
    if reading.class_names or not count:
        return reading
    # Names may not be set, only their number.
    names = tuple(label.names or ()) or tuple(f"class_{i}" for i in range(count))
    return dataclasses.replace(reading, class_names=names)


# --- Staging: from TFDS's examples to files ------------------------------------------


def _named_split(text: str, available: Sequence[str]) -> tuple[str, str]:
    """Reads NAME=SPLIT, such as val=train[:10%], or SPLIT alone.

    Raises:
        DatasetError: TFDS has no such split, or its name is no name of ours.
    """
    name, equals, source = text.partition("=")
    source = source if equals else name
    if not equals and name in VAL_SPLITS:
        name = "val"
    whole = source.partition("[")[0]
    if whole not in available or not re.fullmatch(r"\w+", name):
        raise pairs.DatasetError(
            f"Expected splits of {', '.join(available) or 'no split'}, or parts of one "
            f"with a name, such as val=train[:10%]. Received: {text}"
        )
    return name, source


def choose_splits(
    available: Sequence[str], wanted: Sequence[str] = ()
) -> dict[str, str]:
    """Returns our split -> TFDS's split.

    Args:
        available: names of TFDS's splits.
        wanted: some of them, or NAME=SPLIT with TFDS's syntax for a part of one; empty
            takes train, and as val its validation split or else test.

    Raises:
        DatasetError: there is no train, or no such split.
    """
    if wanted:
        chosen = dict(_named_split(text, available) for text in wanted)
        if len(chosen) < len(wanted):
            raise pairs.DatasetError(
                "Expected splits that get different names. "
                f"Received: {', '.join(wanted)}"
            )
        return chosen
    if "train" not in available:
        raise pairs.DatasetError(
            "Expected a split named train, or --splits. Received: "
            f"{', '.join(available) or 'no split'}"
        )
    chosen = {"train": "train"}
    evaluated = [name for name in (*VAL_SPLITS, "test") if name in available]
    if evaluated:
        chosen["val"] = evaluated[0]
        if evaluated[0] == "test":
            print("There is no validation split: TFDS's test becomes val.")
    return chosen


def _as_bytes(value) -> bytes:
    """Returns the file that TFDS keeps, or a PNG of an array of 8 bits.

    Raises:
        DatasetError: the array is no image or label.
    """
    if isinstance(value, bytes):
        return value
    array = np.asarray(value)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.dtype == np.uint8:
        return _png(array)
    fits = np.issubdtype(array.dtype, np.integer) and array.ndim == 2
    if not fits or array.min(initial=0) < 0 or array.max(initial=0) > 255:
        raise pairs.DatasetError(
            "Expected features with whole numbers in 0..255 of shape [height, width] "
            f"or [height, width, channels]. Received: {array.dtype} "
            f"{list(array.shape)}"
        )
    return encode_label(array.astype(np.uint8))


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _example_name(example: Mapping, key: str | None, default: str) -> str:
    """Returns the name that a feature tells, without folder and suffix."""
    if key is None:
        return default
    value = example[key]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    name = re.split(r"[/\\]", text)[-1].strip()
    stem, suffix = os.path.splitext(name)
    return (stem if suffix.lower() in image_files.IMAGE_SUFFIXES else name) or default


def _read_examples(tfds, builder, split: str, reading: Reading, name_key: str | None):
    """Yields a split's examples in a fixed order, images and labels not decoded."""
    skip = {
        key: tfds.decode.SkipDecoding()
        for key in (reading.image_key, reading.label_key)
        if isinstance(builder.info.features[key], tfds.features.Image)
    }
    wanted = {reading.image_key, reading.label_key, *([name_key] if name_key else [])}
    examples = builder.as_dataset(
        split=split,
        shuffle_files=False,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        decoders=tfds.decode.PartialDecoding(
            dict.fromkeys(wanted, True), decoders=skip
        ),
    )
    yield from tfds.as_numpy(examples)


def stage_split(
    tfds, builder, split: str, reading: Reading, folder: Path
) -> list[pairs.Sample]:
    """Writes the images and labels of one of TFDS's splits as files.

    Args:
        tfds: the module.
        builder: of the data set.
        split: TFDS's name of the split.
        reading: completed by `find_features`.
        folder: to write to.

    Returns:
        Their samples; each has the name that the data set tells, or where these are not
        all different SPLIT_INDEX.

    Raises:
        DatasetError: the features are no image and label.
    """
    folder.mkdir(parents=True)
    features = builder.info.features
    name_key = next((key for key in NAME_KEYS if key in features), None)
    samples = []
    examples = _read_examples(tfds, builder, split, reading, name_key)
    for index, example in enumerate(examples):
        default = f"{re.sub(r'[^A-Za-z0-9]+', '_', split)}_{index:06d}"
        image, label = folder / f"{index}.image", folder / f"{index}.label"
        image.write_bytes(_as_bytes(example[reading.image_key]))
        label.write_bytes(_as_bytes(example[reading.label_key]))
        name = _example_name(example, name_key, default)
        samples.append((default, pairs.Sample(name, str(image), str(label))))
    if len({sample.name for _, sample in samples}) == len(samples):
        return [sample for _, sample in samples]
    return [sample._replace(name=default) for default, sample in samples]


def stage(
    tfds, builder, splits: Mapping[str, str], reading: Reading, folder: Path
) -> dict[str, list[pairs.Sample]]:
    """Writes splits as files, or takes those that an earlier run left whole.

    Args:
        tfds: the module.
        builder: of the data set.
        splits: our name -> TFDS's.
        reading: completed by `find_features`.
        folder: to write to.
    """
    keys = [reading.image_key, reading.label_key]
    request = [builder.info.full_name, str(builder.data_dir), dict(splits), keys]
    marker = folder / STAGED
    if marker.is_file():
        staged = json.loads(marker.read_text())
        if staged["request"] == request:
            return {
                split: [pairs.Sample(*sample) for sample in samples]
                for split, samples in staged["samples"].items()
            }
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    samples = {
        split: stage_split(tfds, builder, source, reading, folder / split)
        for split, source in splits.items()
    }
    part = folder / f"{STAGED}.part"
    part.write_text(json.dumps({"request": request, "samples": samples}))
    part.rename(marker)
    return samples


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
        return pairs.read_label(path)
    image = pairs.open_image(pairs.read_file(path), path)
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


def _highest_id(sample: pairs.Sample, reading: Reading) -> int:
    """Returns a label's highest class id, or 0 where it has none or is unreadable."""
    try:
        stored = read_stored_ids(sample.label, reading.channel)
        label = convert_label(stored, reading.ids, reading.offset)
    except ValueError:
        return 0  # build_dataset reads it again, and says what is wrong.
    return int(label.max(initial=0, where=label != IGNORE_LABEL))


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
        names = tuple(pairs.read_list(Path(class_names).expanduser()))
    if names and num_classes not in (None, len(names)):
        raise pairs.DatasetError(
            f"Expected {num_classes} class names. Received: {len(names)}"
        )
    if not names and num_classes is None:
        find = functools.partial(_highest_id, reading=reading)
        labels = [sample for split in samples.values() for sample in split]
        workers = num_processes or available_cpus()
        num_classes = 1 + max(map_in_order(find, labels, workers), default=0)
        if num_classes < 2:
            raise pairs.DatasetError(
                "Expected labels with two classes or more. Received: no readable label "
                "with an id but 0 and 255. Or give --num_classes."
            )
    names = names or tuple(f"class_{index}" for index in range(num_classes))
    if len(names) > IGNORE_LABEL:
        raise pairs.DatasetError(
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
        raise pairs.DatasetError(
            f"tensorflow-datasets cannot prepare {name}: {str(error).strip()}"
        ) from error
    return builder


def _known_reading(
    name: str,
    image_key: str | None,
    label_key: str | None,
    channel: int | None,
    offset: int | None,
) -> Reading:
    """Returns what `KNOWN` says of a data set, but for what is given."""
    given = {
        "image_key": image_key,
        "label_key": label_key,
        "channel": channel,
        "offset": offset,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if offset is not None:
        given.update(ids=None, class_names=(), colormap=())
    return dataclasses.replace(KNOWN.get(name, Reading()), **given)


def dataset_folder_name(name: str) -> str:
    """Returns tfds_NAME_CONFIG_VERSION for NAME/CONFIG:VERSION."""
    return "tfds_" + re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_.")


def _check_is_new(output_dir: str, overwrite: bool) -> None:
    """Raises DatasetError for what `build_dataset` would refuse after all staging."""
    import tensorflow as tf

    if tf.io.gfile.exists(os.path.join(output_dir, INFO_FILE)) and not overwrite:
        raise pairs.DatasetError(
            f"{output_dir} exists already. Give another --output_dir, or --overwrite "
            "to replace it."
        )


def _staging_folder(output_dir: str) -> Path:
    if not is_remote(output_dir):
        return Path(f"{output_dir}.staging")
    digest = hashlib.sha256(output_dir.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tfds_{digest}.staging"


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
        **options: as for `build.build_dataset`.

    Raises:
        DatasetError: TFDS is absent or cannot prepare the data set; image or label
            cannot be told; or see `build.build_dataset`.
    """
    output_dir = full_path(output_dir)
    _check_is_new(output_dir, options.get("overwrite", False))
    tfds = import_tfds()
    builder = _prepared_builder(tfds, name, tfds_dir)
    known = _known_reading(
        builder.name, image_key, label_key, label_channel, label_offset
    )
    reading = find_features(tfds, builder.info.features, known)
    if reading.note:
        print(reading.note)
    sources = choose_splits(list(builder.info.splits), splits)
    folder = _staging_folder(output_dir)
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
        info = build.build_dataset(output_dir, info, samples, read, **options)
        shutil.rmtree(folder)
    return info


def resolve_data_dir(data_dir: str) -> str:
    """Returns a folder of records: `data_dir` itself, or that of tfds:NAME.

    Args:
        data_dir: a folder, or tfds:NAME[/CONFIG][:VERSION], which is written to
            runs/data/tfds_NAME... the first time.

    Raises:
        DatasetError: see `build_tfds`.
    """
    if not data_dir.startswith(PREFIX):
        return data_dir
    name = data_dir[len(PREFIX) :]
    if not name:
        raise pairs.DatasetError(f"Expected {PREFIX}NAME. Received: {data_dir}")
    folder = os.path.join(DATA_ROOT, dataset_folder_name(name))
    if not os.path.exists(os.path.join(folder, INFO_FILE)):
        print(f"Writing {name} of tensorflow-datasets to {folder} ...")
        build_tfds(name, folder)
    return folder


# --- Command line --------------------------------------------------------------------


def define_flags() -> None:
    build.define_flags()
    image_files.define_exif_flag()
    flags.adopt_module_key_flags(build)
    flags.adopt_module_key_flags(image_files)
    flags.DEFINE_string("name", None, "NAME[/CONFIG][:VERSION] of TFDS.", required=True)
    flags.DEFINE_list(
        "splits", [], "TFDS's splits, or NAME=SPLIT; default: train and one as val."
    )
    flags.DEFINE_string("tfds_dir", None, "Folder of TFDS's prepared data sets.")
    flags.DEFINE_string("image_key", None, "Feature of the image; default: found.")
    flags.DEFINE_string("label_key", None, "Feature of the label; default: found.")
    flags.DEFINE_integer(
        "label_offset", None, "Added to stored ids: -1 where 0 marks no class."
    )
    flags.DEFINE_integer("label_channel", None, "That holds the ids of an RGB label.")
    flags.DEFINE_string("class_names", None, "Text file with one class name a line.")
    flags.DEFINE_integer(
        "num_classes", None, "Default: the class names, or the highest id plus 1."
    )
    flags.DEFINE_float("val_fraction", 0.1, "For val, where there is but train.")
    flags.DEFINE_integer("seed", 0, "Chooses which examples val_fraction takes.")


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
        **build.flag_options(),
    )


if __name__ == "__main__":
    build.run(define_flags, main)
