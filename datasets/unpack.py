"""Writes the images and labels of a split back to files, as they went in.

    python -m datasets.unpack --data_dir=runs/data/shapes --split=val --output_dir=out

<output_dir>/images/NAME.jpg holds the very bytes of the record, <output_dir>/labels/
NAME.png the class ids, with the palette of the data set.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags
from PIL import Image

from deeplab_tf.colors import IGNORE_COLOR
from deeplab_tf.data.building.command_line import run_builder
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.records.info import read_info
from deeplab_tf.data.records.tfrecord import FILENAME, FORMAT, IMAGE, LABEL, shard_paths


def unpack(data_dir: str, split: str, output_dir: str, limit: int | None = None) -> int:
    """Writes the first `limit` examples of a split, or all; returns how many.

    Raises:
      FileNotFoundError: no such records.
      ValueError: info.json is damaged.
    """
    import tensorflow as tf

    info = read_info(data_dir)
    palette = [value for color in info.colormap for value in color]
    # All 256 entries: Pillow cuts ids down to the bits that a shorter palette needs.
    palette += IGNORE_COLOR * (256 - info.num_classes)
    records = tf.data.TFRecordDataset(shard_paths(data_dir, split))
    count = 0
    for record in records.take(-1 if limit is None else limit):
        example = tf.train.Example.FromString(record.numpy())
        feature = {
            key: value.bytes_list.value[0]
            for key, value in example.features.feature.items()
            if value.bytes_list.value
        }
        _write_pair(feature, output_dir, palette)
        count += 1
    return count


def _write_pair(
    feature: Mapping[str, bytes], output_dir: str, palette: Sequence[int]
) -> None:
    name = feature[FILENAME].decode()
    suffix = {"jpeg": ".jpg"}.get(feature[FORMAT].decode(), ".png")
    image_path = Path(output_dir, "images", name + suffix)
    label_path = Path(output_dir, "labels", name + ".png")
    for path in (image_path, label_path):
        os.makedirs(path.parent, exist_ok=True)
    image_path.write_bytes(feature[IMAGE])
    label = Image.open(io.BytesIO(feature[LABEL]))
    label.putpalette(palette)
    label.save(label_path)


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
    except (FileNotFoundError, ValueError) as error:
        raise DatasetError(str(error)) from error
    print(f"Wrote {count} pairs to {args.output_dir}")


def run() -> None:
    run_builder(define_flags, main)


if __name__ == "__main__":
    run()
