"""Writes the images and labels of a split back to files, as they went in.

    python -m datasets.unpack --data_dir=runs/data/shapes --split=val --output_dir=out

<output_dir>/images/NAME.jpg holds the very bytes of the record, <output_dir>/labels/
NAME.png the class ids, with the palette of the data set.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from absl import flags

from deeplab_tf.colors import IGNORE_COLOR
from deeplab_tf.data.building.command_line import run_builder
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.files import open_image
from deeplab_tf.data.records.info import read_info
from deeplab_tf.data.records.tfrecord import FILENAME, IMAGE, LABEL, shard_paths
from deeplab_tf.files import atomic_write
from deeplab_tf.strangers_words import leads_out, printable


def unpack(data_dir: str, split: str, output_dir: str, limit: int | None = None) -> int:
    """Writes the first `limit` examples of a split, or all; returns how many.

    Each file is there whole or not at all, and none outside `output_dir`.

    Raises:
      FileNotFoundError: no such records.
      ValueError: info.json or a record is damaged, or a record's name leads out of
        the folder or comes twice.
      OSError: a file cannot be written.
    """
    import tensorflow as tf

    from deeplab_tf.data.reading.bad_records import bad_records_named
    from deeplab_tf.data.records.frames import read_shards

    info = read_info(data_dir)
    palette = [value for color in info.colormap for value in color]
    # All 256 entries: Pillow cuts ids down to the bits that a shorter palette needs.
    palette += IGNORE_COLOR * (256 - info.num_classes)
    records = read_shards(shard_paths(data_dir, split))
    keys = {IMAGE: None, LABEL: None, FILENAME: ""}
    features = {
        key: tf.io.FixedLenFeature([], tf.string, default)
        for key, default in keys.items()
    }
    names: set[str] = set()
    with bad_records_named(data_dir, [split]):
        for record in records.take(-1 if limit is None else limit):
            place = f"Record {len(names)} of split {split} in {data_dir}"
            parsed = tf.io.parse_single_example(record, features)
            feature = {key: value.numpy() for key, value in parsed.items()}
            name = feature[FILENAME].decode("utf-8", "surrogateescape")
            name = name or f"{len(names):06d}"
            _check_name(name, names, place)
            names.add(name)
            _write_pair(name, feature, output_dir, palette, place)
    return len(names)


def _check_name(name: str, names: Collection[str], place: str) -> None:
    if leads_out(name):
        raise ValueError(
            f"{place} is named {printable(name)}, which leads out of --output_dir. "
            "Such records are broken or malicious; what came before it was written."
        )
    if name in names:
        raise ValueError(
            f"{place} is named {printable(name)}, as one before it is, whose files it "
            "would replace. Build the data set again with names that differ."
        )


def _write_pair(
    name: str,
    feature: Mapping[str, bytes],
    output_dir: str,
    palette: Sequence[int],
    place: str,
) -> None:
    suffix = ".jpg" if feature[IMAGE].startswith(b"\xff\xd8") else ".png"
    label = open_image(feature[LABEL], f"{place}: its label")
    if label.mode not in ("L", "P"):
        raise ValueError(f"{place} has a label of colours (Pillow mode {label.mode}).")
    label.putpalette(palette)
    encoded = io.BytesIO()
    label.save(encoded, "PNG")
    parts = {"images": (suffix, feature[IMAGE]), "labels": (".png", encoded.getvalue())}
    for folder, (ending, data) in parts.items():
        path = Path(output_dir, folder, name + ending)
        os.makedirs(path.parent, exist_ok=True)
        _check_links(path.parent, Path(output_dir, folder))
        with atomic_write(path, "wb") as file:
            file.write(data)


def _check_links(parent: Path, folder: Path) -> None:
    """Refuses a folder inside the output that is a link to elsewhere."""
    if not parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{parent} is a link that leads out of {folder}.")


def define_flags() -> None:
    flags.DEFINE_string("data_dir", None, "Folder of records.", required=True)
    flags.DEFINE_string("split", "val", "Split to write.")
    flags.DEFINE_string(
        "output_dir", None, "Folder for images/ and labels/.", required=True
    )
    flags.DEFINE_integer(
        "limit", None, "Number of examples, from the first on; default: all."
    )


def main() -> None:
    args = flags.FLAGS
    try:
        count = unpack(args.data_dir, args.split, args.output_dir, args.limit)
    except (OSError, ValueError) as error:
        raise DatasetError(str(error)) from error
    print(f"Wrote {count} pairs to {args.output_dir}")


def run() -> None:
    run_builder(define_flags, main)


if __name__ == "__main__":
    run()
