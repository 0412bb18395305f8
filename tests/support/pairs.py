"""Images and labels drawn for the tests of the builders, and records read back.

Free of TensorFlow at import, for worker processes that import a test module.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_tf.data.building import pairs
from deeplab_tf.data.building.pairs import Sample

PALETTE = np.random.default_rng(1).integers(0, 256, 768).tolist()


def save_image(path: Path, size=(6, 4), mode="RGB", **options) -> Path:
    """Draws an image; every name its own pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    rng = np.random.default_rng(list(path.stem.encode()))
    pixels = rng.integers(0, 256, (height, width, 3))
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path, **options)
    return path


def save_label(path: Path, ids=((0, 1, 0, 1, 0, 255),) * 4, palette=True) -> Path:
    """Draws a PNG label of class ids, with a palette or grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(ids, np.uint8))
    if palette:
        image.putpalette(PALETTE)
    image.save(path)
    return path


def grey_png(ids: np.ndarray, bit_depth: int) -> bytes:
    """A grey PNG of 1, 2, 4 or 16 bits, put together by hand."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    height, width = ids.shape
    shifts = np.arange(bit_depth)[::-1]
    bits = (ids[..., None].astype(int) >> shifts & 1).reshape(height, -1)
    rows = np.packbits(bits.astype(bool), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bit_depth, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def exif(orientation: int) -> Image.Exif:
    """EXIF tags of a camera that was held so."""
    tags = Image.Exif()
    tags[pairs.EXIF_ORIENTATION] = orientation
    return tags


def make_pairs(folder: Path, names, **label_options) -> list[Sample]:
    """Draws folder/images/NAME.png and folder/labels/NAME.png."""
    return [
        Sample(
            name,
            str(save_image(folder / "images" / f"{name}.png")),
            str(save_label(folder / "labels" / f"{name}.png", **label_options)),
        )
        for name in names
    ]


def read_records(data_dir, split) -> dict[str, dict]:
    """Records of a split by their file name, in the order of the shards."""
    import tensorflow as tf

    from deeplab_tf.data.records.tfrecord import parse_example, shard_paths

    records = tf.data.TFRecordDataset(shard_paths(data_dir, split)).map(parse_example)
    return {r["filename"].decode(): r for r in records.as_numpy_iterator()}


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
