"""Images as files -> RGB."""

from __future__ import annotations

import tensorflow as tf


def decode_image(image_bytes) -> tf.Tensor:
    """Decodes an image as the records, predict.py and the exported model all do.

    The stored pixels count: an EXIF orientation is not applied, as it is not when the
    network is trained. Greyscale and palettes become RGB, transparency is dropped.

    Args:
      image_bytes: string [], a JPEG or PNG (BMP and a GIF's first frame work too).

    Returns:
      uint8 [height, width, 3].

    Raises:
      tf.errors.InvalidArgumentError: another kind of file, or a damaged one.
    """
    image = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])
