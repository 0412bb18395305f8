"""Examples of tensorflow-datasets become files: for `datasets.build_tfds`.

`stage` reads each split once, in a fixed order, and writes its images and labels as
TFDS keeps them. What it wrote, `staged.json` lists in the end, so that a build that
failed later does not read them again.
"""

from __future__ import annotations

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
from PIL import Image

from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.output_folder import is_remote
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.records.tfrecord import encode_label
from deeplab_tf.image_kinds import IMAGE_SUFFIXES

from .tfds_features import Reading

# Features that tell the name of an example, the best first.
NAME_KEYS = ("file_name", "filename", "image/filename", "image_id", "image/id", "id")
VAL_SPLITS = ("val", "validation", "valid", "dev")
STAGED = "staged.json"


# --- Which splits --------------------------------------------------------------------


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
        raise DatasetError(
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
            raise DatasetError(
                "Expected splits that get different names. "
                f"Received: {', '.join(wanted)}"
            )
        return chosen
    if "train" not in available:
        raise DatasetError(
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


# --- From examples to files ----------------------------------------------------------


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
        raise DatasetError(
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
    return (stem if suffix.lower() in IMAGE_SUFFIXES else name) or default


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
) -> list[Sample]:
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
        samples.append((default, Sample(name, str(image), str(label))))
    if len({sample.name for _, sample in samples}) == len(samples):
        return [sample for _, sample in samples]
    return [sample._replace(name=default) for default, sample in samples]


def stage(
    tfds, builder, splits: Mapping[str, str], reading: Reading, folder: Path
) -> dict[str, list[Sample]]:
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
                split: [Sample(*sample) for sample in samples]
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


def staging_folder(output_dir: str) -> Path:
    if not is_remote(output_dir):
        return Path(f"{output_dir}.staging")
    digest = hashlib.sha256(output_dir.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tfds_{digest}.staging"
