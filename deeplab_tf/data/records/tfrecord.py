"""The one place that knows the keys of a record: writing and reading side by side.

The keys are those of TensorFlow Models' DeepLab (research/deeplab/datasets), so that
its existing records load. The image is stored as the bytes of its JPEG or PNG file, the
label as a single-channel 8-bit PNG of class ids.
"""

# TensorFlow is imported by the functions that need it: a builder's worker processes
# import this module to encode labels, and start faster without it.
from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from deeplab_tf.command_names import call_of
from deeplab_tf.image_work import MAX_SCANS, has_few_scans
from deeplab_tf.strangers_words import first_ten

if TYPE_CHECKING:
    import tensorflow as tf

IMAGE = "image/encoded"
FILENAME = "image/filename"
FORMAT = "image/format"
HEIGHT = "image/height"
WIDTH = "image/width"
CHANNELS = "image/channels"
LABEL = "image/segmentation/class/encoded"
LABEL_FORMAT = "image/segmentation/class/format"

# Bytes 24 and 25 of a PNG file: bit depth 8, colour type 0 (one grey channel).
PNG_DEPTH_AND_COLOR = b"\x08\x00"
NO_IDS = (
    "Expected the label of every record to be a single-channel 8-bit PNG of class ids. "
    "Write the records anew with a builder of datasets/. Received another PNG in:"
)
TOO_MANY_SCANS = f"the image of a record has more than {MAX_SCANS} scans"
OTHER_SIZE = (
    "Expected image and label of every record to be of one size. Received, by file "
    "name, shape of the image and shape of the label:"
)


def shard_name(split: str, index: int, count: int) -> str:
    """Returns the file name of shard `index` (from 0) of `count`."""
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def encode_label(label: np.ndarray) -> bytes:
    """Encodes a label as a single-channel 8-bit PNG.

    Args:
      label: uint8 [height, width], class ids or the ignore label.

    Raises:
      ValueError: `label` has another dtype or rank.
    """
    if label.dtype != np.uint8 or label.ndim != 2:
        raise ValueError(
            "Expected a label of dtype uint8 and shape [height, width]. "
            f"Received: {label.dtype} {list(label.shape)}"
        )
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(label)).save(buffer, format="PNG")
    return buffer.getvalue()


def serialize_example(
    image_bytes: bytes,
    label_png: bytes,
    filename: str,
    image_format: str,
    height: int,
    width: int,
) -> bytes:
    """Returns a serialized tf.train.Example of parts that are encoded already.

    Args:
      image_bytes: a JPEG or PNG file, RGB.
      label_png: what `encode_label` returned.
      filename: name of the example.
      image_format: "jpeg" or "png".
      height: height of image and label, in pixels.
      width: width of image and label, in pixels.
    """
    import tensorflow as tf

    def of_bytes(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def of_int(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    features = {
        IMAGE: of_bytes(image_bytes),
        FILENAME: of_bytes(filename.encode()),
        FORMAT: of_bytes(image_format.encode()),
        HEIGHT: of_int(height),
        WIDTH: of_int(width),
        CHANNELS: of_int(3),
        LABEL: of_bytes(label_png),
        LABEL_FORMAT: of_bytes(b"png"),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    # Protocol buffers order a map by hash unless told otherwise; the same data set
    # should give the same bytes.
    return example.SerializeToString(deterministic=True)


def encode_example(
    image_bytes: bytes,
    label: np.ndarray,
    filename: str,
    image_format: str,
    height: int,
    width: int,
) -> bytes:
    """Returns a serialized tf.train.Example of an image file and its label.

    Args:
      image_bytes: a JPEG or PNG file, RGB; stored as it is.
      label: uint8 [height, width], class ids in [0, num_classes) or 255.
      filename: name of the example.
      image_format: "jpeg" or "png".
      height: height of image and label, in pixels.
      width: width of image and label, in pixels.

    Raises:
      ValueError: the label is not uint8 [height, width].
    """
    if label.shape != (height, width):
        raise ValueError(
            f"Expected a label of shape [{height}, {width}]. "
            f"Received: {list(label.shape)}"
        )
    return serialize_example(
        image_bytes, encode_label(label), filename, image_format, height, width
    )


def _parse_features(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    import tensorflow as tf

    return tf.io.parse_single_example(
        serialized,
        {
            IMAGE: tf.io.FixedLenFeature([], tf.string),
            LABEL: tf.io.FixedLenFeature([], tf.string),
            FILENAME: tf.io.FixedLenFeature([], tf.string, default_value=""),
        },
    )


def _decode_label(features: dict[str, tf.Tensor]) -> tf.Tensor:
    import tensorflow as tf

    kind = tf.strings.substr(features[LABEL], 24, len(PNG_DEPTH_AND_COLOR))
    is_ids = tf.debugging.Assert(
        tf.equal(kind, PNG_DEPTH_AND_COLOR), [NO_IDS, features[FILENAME]]
    )
    # Assert returns None in eager mode, where it has raised already.
    with tf.control_dependencies([] if is_ids is None else [is_ids]):
        return tf.io.decode_png(features[LABEL], channels=1)


def parse_label(serialized: tf.Tensor) -> tf.Tensor:
    """Decodes the label of one record alone; see `parse_example`."""
    return _decode_label(_parse_features(serialized))


def parse_example(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Decodes one record; graph code for `tf.data.Dataset.map`.

    Args:
      serialized: string [], what `encode_example` or TF-Models' converters wrote.

    Returns:
      "image": uint8 [height, width, 3], RGB in 0..255;
      "label": uint8 [height, width, 1], class ids in [0, num_classes) or 255;
      "filename": string [], empty where the record has none.

    Raises:
      tf.errors.InvalidArgumentError: a key is missing, an image cannot be decoded or
        would take for ever (`image_work.MAX_SCANS`), the label is no single-channel
        8-bit PNG (TensorFlow would turn a palette into greys, which are not the ids),
        or its size is not the image's (a crop of both would go on with wrong labels).
    """
    import tensorflow as tf

    features = _parse_features(serialized)
    label = _decode_label(features)
    is_quick = tf.debugging.Assert(
        has_few_scans(features[IMAGE]), [TOO_MANY_SCANS, features[FILENAME]]
    )
    with tf.control_dependencies([] if is_quick is None else [is_quick]):
        image = tf.io.decode_image(features[IMAGE], channels=3, expand_animations=False)
    image = tf.ensure_shape(image, [None, None, 3])
    same_size = tf.debugging.Assert(
        tf.reduce_all(tf.equal(tf.shape(image)[:2], tf.shape(label)[:2])),
        [OTHER_SIZE, features[FILENAME], tf.shape(image), tf.shape(label)],
    )
    with tf.control_dependencies([] if same_size is None else [same_size]):
        image = tf.identity(image)
    return {"image": image, "label": label, "filename": features[FILENAME]}


def shard_paths(data_dir: str, split: str) -> list[str]:
    """Returns the sorted paths of a split's shards.

    Args:
      data_dir: folder that a builder wrote; anything that tf.io.gfile can list.
      split: name of the split, such as "train".

    Raises:
      FileNotFoundError: the split has no shards there, or some are missing.
    """
    import tensorflow as tf

    data_dir = os.fspath(data_dir)
    names = tf.io.gfile.listdir(data_dir) if tf.io.gfile.isdir(data_dir) else []
    shards = [re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.tfrecord", name) for name in names]
    shards = [shard for shard in shards if shard]
    found = sorted(shard[0] for shard in shards if shard[1] == split)
    if not found:
        splits = ", ".join(sorted({shard[1] for shard in shards})) or "none"
        pattern = os.path.join(data_dir, f"{split}-*-of-*.tfrecord")
        raise FileNotFoundError(
            f"No TFRecords match {pattern}. Splits found there: {splits}. "
            f"Run: {call_of('build folder')} --help (or another builder)."
        )
    count = int(found[0][-len("00000.tfrecord") : -len(".tfrecord")])
    expected = [shard_name(split, index, count) for index in range(count)]
    if found != expected:
        absent = [name for name in expected if name not in found]
        raise FileNotFoundError(
            f"Expected {count} shards of split {split} in {data_dir}. "
            f"Received: {', '.join(first_ten(found))}; missing: "
            f"{', '.join(first_ten(absent)) or 'none'}. Put them back, or build the "
            "data set again."
        )
    return [os.path.join(data_dir, name) for name in found]
