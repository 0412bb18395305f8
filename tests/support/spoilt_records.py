"""Records with faults in what they hold, or in the bytes of their file."""

from __future__ import annotations

import io
import struct

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.data.records.tfrecord import IMAGE, LABEL, encode_example, shard_name

SIZE = (40, 48)
CLASSES = ("background", "cat", "dog", "horse")


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, format="PNG")
    return buffer.getvalue()


def example(index: int, change=None) -> bytes:
    """Record `index`: noise, half of its label one class and half to ignore."""
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    label = np.full(SIZE, index % len(CLASSES), np.uint8)
    label[:20] = 255
    record = encode_example(png(image), label, f"image{index}", "png", *SIZE)
    if change is None:
        return record
    if isinstance(change, bytes):
        return change
    message = tf.train.Example.FromString(record)
    change(message.features.feature)
    return message.SerializeToString(deterministic=True)


def write_data(folder, changes=None, left_out=(), num_train=12, num_val=3) -> str:
    """Writes splits train, in 3 shards, and val; returns the folder.

    Args:
      folder: to write to.
      changes: record of train -> a change of its features.
      left_out: records of train that their shards lack.
    """
    folder.mkdir(exist_ok=True)
    changes = changes or {}
    for split, indices, num_shards in (
        ("train", range(num_train), 3),
        ("val", range(100, 100 + num_val), 1),
    ):
        for shard in range(num_shards):
            path = str(folder / shard_name(split, shard, num_shards))
            with tf.io.TFRecordWriter(path) as writer:
                for index in indices[shard::num_shards]:
                    if index not in left_out:
                        writer.write(example(index, changes.get(index)))
    splits = {"train": num_train - len(left_out), "val": num_val}
    info = DatasetInfo("drawn", CLASSES, splits=splits)
    (folder / "info.json").write_text(info.to_json())
    return str(folder)


def frames_of(path) -> list[tuple[int, int]]:
    """(start, size) of each record of a whole shard."""
    content, position, frames = path.read_bytes(), 0, []
    while position < len(content):
        (size,) = struct.unpack_from("<Q", content, position)
        frames.append((position + 12, size))
        position += 12 + size + 4
    return frames


def flip(path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(bytes(content))


def shard_of_train(folder, shard: int):
    return folder / shard_name("train", shard, 3)


def flip_data(folder, index: int) -> None:
    """Changes a byte of the image of record `index` of train."""
    path = shard_of_train(folder, index % 3)
    start, size = frames_of(path)[index // 3]
    flip(path, start + size // 2)


def set_bytes(key: str, value: bytes):
    def change(features):
        features[key].bytes_list.value[0] = value

    return change


def remove(key: str):
    return lambda features: features.pop(key)


def label_of(*ids: int) -> bytes:
    label = np.zeros(SIZE, np.uint8)
    label.reshape(-1)[: len(ids)] = ids
    return png(label)


# A change of record 4, which is record 1 of shard 1, and what is said about it.
CONTENT_FAULTS = {
    "no image": (remove(IMAGE), "it has no image, key image/encoded"),
    "no label": (
        remove(LABEL),
        "it has no label, key image/segmentation/class/encoded",
    ),
    "image damaged": (set_bytes(IMAGE, b"no image"), "its image cannot be decoded"),
    "label damaged": (
        set_bytes(LABEL, label_of(1)[:60]),
        "its label is no single-channel 8-bit PNG that can be decoded",
    ),
    "palette label": (
        set_bytes(LABEL, png(np.zeros(SIZE, np.uint8), "P")),
        "its label is no single-channel 8-bit PNG that can be decoded",
    ),
    "other size": (
        set_bytes(LABEL, png(np.zeros((48, 40), np.uint8))),
        "its image is 40 x 48 pixels (height x width), its label 48 x 40",
    ),
    "ids out of range": (
        set_bytes(LABEL, label_of(4, 200, 3, 255)),
        "its label holds 4, 200, which is neither a class in [0, 4) nor the ignore "
        "label 255",
    ),
}
