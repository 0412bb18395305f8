"""Parquet files of Hugging Face's data sets -> images and masks as files.

The Hub keeps a data set of images as Parquet files, one or more a split, in which an
image is a struct of bytes and path: data/train-00000-of-00002.parquet in a repository,
default/train/0000.parquet in its branch refs/convert/parquet. They are read by pyarrow:
the package `datasets` is not needed, whose name a checkout's own builders have.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from deeplab_tf.data.annotations.found import join_splits, split_of
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.strangers_words import first_ten

IMAGE_KEYS = ("image", "pixel_values", "img", "photo")
LABEL_KEYS = ("label", "labels", "mask", "annotation", "segmentation_mask", "annotated")
LABEL_KEYS += ("segmentation", "semantic", "gt", "target", "label_mask")
CONVERTED = "refs/convert/parquet"
NAMES_FILE = "id2label.json"
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
_ENDINGS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"BM", ".bmp"))
_ENDINGS += ((b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"RIFF", ".webp"))


def import_pyarrow():
    """Returns pyarrow.parquet.

    Raises:
      DatasetError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DatasetError(
            "Data sets of Hugging Face are Parquet files, which pyarrow reads. Run: "
            "pip install pyarrow huggingface_hub"
        ) from error
    return pyarrow.parquet


def fetch(name: str) -> Path:
    """Returns a folder with the Parquet files of a data set.

    Args:
      name: a folder, or OWNER/NAME[/CONFIG] on the Hub, which is downloaded to its own
        cache once.

    Raises:
      DatasetError: huggingface_hub is absent, or says what is wrong.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if Path(name).is_absolute() or name[0] in "~.":
        raise DatasetError(
            f"Expected OWNER/NAME, or a folder of Parquet files. Received: {name}, "
            "which is no folder"
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise DatasetError(
            f"{name} is no folder, and huggingface_hub, which would download it, is "
            "not installed. Run: pip install huggingface_hub"
        ) from error
    repository, config = "/".join(name.split("/")[:2]), name.split("/")[2:]
    wanted = [f"{'/'.join(config)}/*.parquet" if config else "*.parquet", NAMES_FILE]
    options = dict(repo_type="dataset", allow_patterns=wanted)
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, **options))
        if not any(folder.rglob("*.parquet")):
            options["revision"] = CONVERTED
            folder = Path(huggingface_hub.snapshot_download(repository, **options))
    # The Hub's own errors, those of the network, and names that are none.
    except Exception as error:
        raise DatasetError(
            f"Hugging Face has not given {name}: {str(error).strip()[:300]}"
        ) from error
    return folder


def shards_of(folder: Path) -> dict[str, list[Path]]:
    """Returns split -> Parquet files, by their names or their folders'.

    Raises:
      DatasetError: there are none.
    """
    shards: dict[str, list[Path]] = {}
    # Hidden files are macOS' copies, or named to lead elsewhere ("...parquet").
    for path in sorted(folder.rglob("[!.]*.parquet")):
        match = _SHARD.fullmatch(path.stem)
        name = match[1] if match else path.stem
        name = path.parent.name if name.isdecimal() else name
        shards.setdefault(split_of(name), []).append(path)
    if not shards:
        raise DatasetError(
            f"Expected Parquet files in {folder}. Received: none. Data sets that only "
            "a loading script reads have them in their branch refs/convert/parquet."
        )
    return shards


def find_columns(names: Sequence[str], image_key: str, label_key: str):
    """Returns the columns of image and label.

    Args:
      names: of the columns that hold images.
      image_key: one that is said; "" looks for it.
      label_key: likewise.

    Raises:
      DatasetError: they cannot be told.
    """
    image = [image_key] if image_key else [k for k in IMAGE_KEYS if k in names]
    label = [label_key] if label_key else [k for k in LABEL_KEYS if k in names]
    if not label and len(names) == 2 and image:
        label = [name for name in names if name != image[0]]
    if not image or not label or not {image[0], label[0]} <= set(names):
        raise DatasetError(
            f"Expected a column of images and one of masks. Received columns that hold "
            f"images: {', '.join(first_ten(list(names))) or 'none'}. Say which: "
            "--image_key=NAME --label_key=NAME"
        )
    return image[0], label[0]


def image_columns(schema) -> list[str]:
    """Returns the columns of a Parquet schema that are structs of bytes and path."""
    return [
        field.name for field in schema if str(field.type).startswith("struct<bytes:")
    ]


def stage(
    shards: dict[str, list[Path]], folder: Path, image_key: str, label_key: str
) -> dict[str, list[Sample]]:
    """Writes all images and masks to files, and returns split -> samples.

    Args:
      shards: of `shards_of`.
      folder: to write to.
      image_key: see `find_columns`.
      label_key: likewise.

    Raises:
      DatasetError: columns cannot be told, or a row has no bytes.
    """
    parquet = import_pyarrow()
    parts = []
    for split, paths in shards.items():
        samples: list[Sample] = []
        (folder / split).mkdir(parents=True, exist_ok=True)
        for path in paths:
            file = parquet.ParquetFile(path)
            names = image_columns(file.schema_arrow)
            keys = find_columns(names, image_key, label_key)
            for batch in file.iter_batches(64, columns=list(keys)):
                for row in batch.to_pylist():
                    number = f"{len(samples):06d}"
                    files = [
                        _write(row[key], folder / split / f"{number}_{what}", path)
                        for key, what in zip(keys, ("image", "label"))
                    ]
                    samples.append(Sample(_name(row[keys[0]], number), *files))
        parts.append((split, _with_unique_names(samples)))
    return join_splits(parts)


def _write(value, stem: Path, place: Path) -> str:
    data = value.get("bytes") if isinstance(value, dict) else None
    if not isinstance(data, bytes):
        raise DatasetError(
            f"Expected the bytes of an image in each row of {place}. Received: "
            f"{value!r:.80}"
        )
    endings = [ending for start, ending in _ENDINGS if data.startswith(start)]
    path = f"{stem}{endings[0] if endings else '.png'}"
    Path(path).write_bytes(data)
    return path


def _name(value: dict, number: str) -> str:
    return os.path.splitext(os.path.basename(value.get("path") or number))[0]


def _with_unique_names(samples: list[Sample]) -> list[Sample]:
    """Numbers samples where their images' names do not tell them apart."""
    if len({sample.name for sample in samples}) == len(samples):
        return samples
    return [s._replace(name=f"{i:06d}") for i, s in enumerate(samples)]
