"""What TF Serving is asked: signatures over a network, with limits inside the graph.

Signatures of an exported model (B is any batch, 0 too):
  serving_default: image_bytes string [B], JPEG or PNG, each of its own size ->
    classes_png_bytes string [B], single-channel PNGs of class ids; height, width int32
    [B].
  serve_images: images uint8 [B, height, width, 3] -> classes uint8 [B, height, width].
  serve_probabilities: images as above -> probabilities float32 [B, height, width, C].
  metadata: keys string [N] -> values string [N], JSON texts; see `METADATA_KEYS`.

TF Serving's REST interface takes and gives tensors whose name ends in `_bytes` as
base64. Images out of bounds, and bytes that are no JPEG or PNG, are answered by
InvalidArgument with a sentence; sizes are looked up before anything is decoded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import tensorflow as tf

from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.networks.models import MIN_IMAGE_SIZE
from deeplab_tf.pictures.images import decode_image

MAX_PIXELS = 2**24  # 4096 x 4096
METADATA_KEYS = ("class_names", "colormap", "ignore_label", "max_pixels", "model")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"


def make_signatures(
    segmenter: Segmenter, model: Mapping, max_pixels: int = MAX_PIXELS
) -> dict[str, tf.types.experimental.GenericFunction]:
    """Builds the signatures of this file's header.

    Args:
      segmenter: network, scales and flip; it has labels. Windows and CRF stay behind:
        they are no graph.
      model: what the key "model" of `metadata` tells, for JSON.
      max_pixels: most pixels of an image; larger ones are refused.

    Returns:
      {signature name: tf.function}.
    """

    def segment(image_bytes):
        image = decode_image(_checked_bytes(image_bytes, max_pixels))
        classes = segmenter.classes_of(tf.cast(image, tf.float32)[None])[0]
        height, width = tf.unstack(tf.shape(classes))
        png = tf.io.encode_png(classes[..., None])
        return {"classes_png_bytes": png, "height": height, "width": width}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serving_default(image_bytes):
        outputs = {
            "classes_png_bytes": tf.TensorSpec([], tf.string),
            "height": tf.TensorSpec([], tf.int32),
            "width": tf.TensorSpec([], tf.int32),
        }
        # One image at a time: each has its own size, and the memory of only one.
        return tf.map_fn(
            segment, image_bytes, parallel_iterations=1, fn_output_signature=outputs
        )

    images = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")

    @tf.function(input_signature=[images])
    def serve_images(images):
        return {"classes": _any_batch(segmenter.classes_of, images, max_pixels)}

    @tf.function(input_signature=[images])
    def serve_probabilities(images):
        run = segmenter.probabilities_of
        return {"probabilities": _any_batch(run, images, max_pixels)}

    known = {**_metadata(segmenter), "max_pixels": max_pixels, "model": dict(model)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "keys")])
    def metadata(keys):
        return {"values": _look_up(keys, {k: json.dumps(v) for k, v in known.items()})}

    return {
        "serving_default": serving_default,
        "serve_images": serve_images,
        "serve_probabilities": serve_probabilities,
        "metadata": metadata,
    }


def _metadata(segmenter) -> dict:
    return {
        "class_names": segmenter.labels.class_names,
        "colormap": segmenter.labels.colormap,
        "ignore_label": segmenter.labels.ignore_label,
    }


def _look_up(keys: tf.Tensor, texts: Mapping[str, str]) -> tf.Tensor:
    found = tf.equal(keys[:, None], tf.constant(list(texts))[None])
    sentence = f"Expected keys out of {', '.join(texts)}."
    joined = tf.strings.substr(tf.strings.reduce_join(keys, separator=", "), 0, 200)
    known = _required(
        tf.reduce_all(tf.reduce_any(found, 1)), sentence, "Received:", joined
    )
    with tf.control_dependencies(known):
        return tf.gather(tf.constant(list(texts.values())), tf.argmax(found, 1))


def _any_batch(run, images: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Runs uint8 images of one size, none of them too."""
    batch, height, width, _ = tf.unstack(tf.shape(images))
    # oneDNN's convolution fails on a batch of none: compute one image, drop it.
    extra = tf.cast(tf.equal(batch, 0), tf.int32)
    with tf.control_dependencies(_size_checks(height, width, max_pixels)):
        images = tf.pad(images, [[0, extra], [0, 0], [0, 0], [0, 0]])
    return run(tf.cast(images, tf.float32))[:batch]


def _checked_bytes(image_bytes: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Stops the graph where the bytes' header is not that of an image it can take."""
    is_png = tf.equal(tf.strings.substr(image_bytes, 0, len(_PNG)), _PNG)
    is_jpeg = tf.equal(tf.strings.substr(image_bytes, 0, len(_JPEG)), _JPEG)
    known = _required(
        is_png | is_jpeg,
        "Expected a JPEG or PNG image. Received bytes of neither, as many as:",
        tf.strings.length(image_bytes),
    )
    with tf.control_dependencies(known):
        height, width = tf.cond(
            is_png, lambda: _png_size(image_bytes), lambda: _jpeg_size(image_bytes)
        )
    with tf.control_dependencies(_size_checks(height, width, max_pixels)):
        return tf.identity(image_bytes)


def _png_size(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # The first chunk is the header, IHDR: width and height are big-endian, at byte 16.
    # Zeros behind make a file that ends before that one of no pixels.
    padded = tf.strings.join([image_bytes, tf.constant(bytes(24))])
    text = tf.strings.substr(padded, 16, 8)
    width, height = tf.unstack(
        tf.ensure_shape(tf.io.decode_raw(text, tf.int32, little_endian=False), [2])
    )
    return height, width


def _jpeg_size(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height, width, _ = tf.unstack(
        tf.ensure_shape(tf.image.extract_jpeg_shape(image_bytes), [3])
    )
    return height, width


def _size_checks(height: tf.Tensor, width: tf.Tensor, max_pixels: int) -> list:
    """Assertions, with sentences, on images the network or the memory cannot take."""
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    received = ("Received (height x width):", height, "x", width)
    return [
        *_required(
            tf.minimum(height, width) >= MIN_IMAGE_SIZE,
            f"Images must be at least {MIN_IMAGE_SIZE} pixels a side.",
            *received,
        ),
        *_required(
            pixels <= max_pixels,
            f"Images must have at most {max_pixels} pixels.",
            *received,
        ),
    ]


def _required(condition: tf.Tensor, *words) -> list:
    """Control dependencies that stop the graph with a sentence unless it holds."""
    words = [
        word if isinstance(word, str) else tf.strings.as_string(word) for word in words
    ]
    sentence = tf.strings.reduce_join(tf.stack(words), separator=" ")
    return [tf.debugging.Assert(condition, [sentence])]
