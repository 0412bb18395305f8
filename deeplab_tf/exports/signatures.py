"""What TF Serving is asked: signatures over a network, with limits inside the graph.

`SIGNATURES` is the table of them. Warm-up requests, the comparison of an export with
its Keras model and the table of docs/serving.md follow from it: a new signature is a
function and a row here.

TF Serving's REST interface takes and gives tensors whose name ends in `_bytes` as
base64. Images out of bounds, and bytes that are no JPEG or PNG, are answered by
InvalidArgument with a sentence; sizes are looked up before anything is decoded.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf.image_work import MAX_SCANS, has_few_scans
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.inference.signature_names import (
    CLASSES,
    IMAGES,
    SERVE_IMAGES,
    SERVE_PROBABILITIES,
)
from deeplab_tf.networks.models import MIN_IMAGE_SIZE
from deeplab_tf.pictures.images import decode_image

MAX_PIXELS = 2**24  # 4096 x 4096
CONFIDENCE_SIDE = 4  # pixels of the image, a side, for one of the confidence
METADATA_KEYS = ("class_names", "colormap", "ignore_label", "max_pixels", "model")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"


@dataclasses.dataclass(frozen=True)
class Served:
    """What signatures are built of.

    Attributes:
      segmenter: network, scales and flip; it has labels. Windows and CRF are left out:
        they are no graph.
      model: what the key "model" of `metadata` tells, for JSON.
      max_pixels: most pixels of an image; larger ones are refused.
    """

    segmenter: Segmenter
    model: Mapping
    max_pixels: int = MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class Signature:
    """One way to ask an exported model.

    Attributes:
      input: the tensor that it takes; its name is that in requests.
      takes: what goes in, in the words of docs/serving.md. B is any batch, 0 too.
      gives: what comes out, in the same words.
      build: Served -> function of the input -> {name: tensor}.
      request: image uint8 [h, w, 3] -> input that asks for it; None where images are
        not what it is asked for.
      read_classes: outputs for one image -> its classes [h, w]; None as above.
      warms_up: whether a server is asked it before it serves.
    """

    input: tf.TensorSpec
    takes: str
    gives: str
    build: Callable[[Served], Callable[[tf.Tensor], dict[str, tf.Tensor]]]
    request: Callable[[np.ndarray], Any] | None = None
    read_classes: Callable[[Mapping[str, tf.Tensor]], np.ndarray] | None = None
    warms_up: bool = False


def make_signatures(
    segmenter: Segmenter, model: Mapping, max_pixels: int = MAX_PIXELS
) -> dict[str, tf.types.experimental.GenericFunction]:
    """Builds all of `SIGNATURES`; for the arguments see `Served`.

    Returns:
      {signature name: tf.function}.
    """
    served = Served(segmenter, model, max_pixels)
    return {
        name: tf.function(signature.build(served), input_signature=[signature.input])
        for name, signature in SIGNATURES.items()
    }


def _serving_default(served: Served):
    def segment(image):
        classes = served.segmenter.classes_of(image[None])[0]
        height, width = tf.unstack(tf.shape(classes))
        png = tf.io.encode_png(classes[..., None])
        return {"classes_png_bytes": png, "height": height, "width": width}

    outputs = {
        "classes_png_bytes": tf.TensorSpec([], tf.string),
        "height": tf.TensorSpec([], tf.int32),
        "width": tf.TensorSpec([], tf.int32),
    }
    return _of_files(segment, outputs, served.max_pixels)


def _serve_confidence(served: Served):
    count = len(served.segmenter.labels.class_names)

    def segment(image):
        probabilities = served.segmenter.probabilities_of(image[None])[0]
        classes = tf.argmax(probabilities, -1, output_type=tf.int32)
        pixels = tf.math.bincount(tf.reshape(classes, [-1]), None, count, count)
        # Means of blocks; a resize by area has no kernel for a GPU.
        confidence = tf.nn.avg_pool2d(
            tf.reduce_max(probabilities, -1, keepdims=True)[None],
            CONFIDENCE_SIDE,
            CONFIDENCE_SIDE,
            "SAME",
        )[0]
        levels = tf.cast(tf.round(255 * confidence), tf.uint8)
        return {
            "classes_png_bytes": tf.io.encode_png(
                tf.cast(classes, tf.uint8)[..., None]
            ),
            "confidence_png_bytes": tf.io.encode_png(levels),
            "class_shares": tf.cast(pixels / tf.size(classes), tf.float32),
        }

    outputs = {
        "classes_png_bytes": tf.TensorSpec([], tf.string),
        "confidence_png_bytes": tf.TensorSpec([], tf.string),
        "class_shares": tf.TensorSpec([count], tf.float32),
    }
    return _of_files(segment, outputs, served.max_pixels)


def _of_files(segment, outputs: Mapping[str, tf.TensorSpec], max_pixels: int):
    """Function of files [B] -> what `segment` gives of each as float32 [h, w, 3]."""

    def read_and_segment(image_bytes):
        image = decode_image(_checked_bytes(image_bytes, max_pixels))
        return segment(tf.cast(image, tf.float32))

    def of_files(image_bytes):
        image_bytes = _of_shape(image_bytes, [None], "JPEG or PNG files as a list [B].")
        # One image at a time: each has its own size, and the memory of only one.
        return tf.map_fn(
            read_and_segment,
            image_bytes,
            parallel_iterations=1,
            fn_output_signature=outputs,
        )

    return of_files


def _serve_images(served: Served):
    def serve_images(images):
        run = served.segmenter.classes_of
        return {CLASSES: _any_batch(run, images, served.max_pixels)}

    return serve_images


def _serve_probabilities(served: Served):
    def serve_probabilities(images):
        run = served.segmenter.probabilities_of
        return {"probabilities": _any_batch(run, images, served.max_pixels)}

    return serve_probabilities


def _metadata(served: Served):
    labels = served.segmenter.labels
    values = (
        *(labels.class_names, labels.colormap, labels.ignore_label),
        *(served.max_pixels, dict(served.model)),
    )
    texts = dict(zip(METADATA_KEYS, map(json.dumps, values)))

    def metadata(keys):
        keys = _of_shape(keys, [None], "keys as a list [N].")
        return {"values": _look_up(keys, texts)}

    return metadata


def _read_png(answer: Mapping[str, tf.Tensor]) -> np.ndarray:
    png = answer["classes_png_bytes"][0]
    return tf.io.decode_png(png, channels=1).numpy()[..., 0]


_IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8, IMAGES)
_OF_FILES = {
    "input": tf.TensorSpec([None], tf.string, "image_bytes"),
    "takes": "`image_bytes` string [B]: JPEG or PNG files, each of its own size",
    "request": lambda image: tf.io.encode_png(image)[None],
    "read_classes": _read_png,
}
SIGNATURES = {
    # What TF Serving asks where a request names none.
    tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: Signature(
        **_OF_FILES,
        gives="`classes_png_bytes` string [B]: single-channel PNGs of class ids; "
        "`height`, `width` int32 [B]",
        build=_serving_default,
        warms_up=True,
    ),
    "serve_confidence": Signature(
        **_OF_FILES,
        gives="`classes_png_bytes` string [B], as above; `confidence_png_bytes` string "
        f"[B]: single-channel PNGs of 1/{CONFIDENCE_SIDE} of each side, the "
        "probability of the chosen class (255 is 1), mean of blocks of "
        f"{CONFIDENCE_SIDE} x {CONFIDENCE_SIDE} pixels, of which the first and the "
        "last are smaller by the same where a side is no multiple of "
        f"{CONFIDENCE_SIDE}; `class_shares` float32 [B, classes]: share of the pixels, "
        "0 where a class is absent",
        build=_serve_confidence,
    ),
    SERVE_IMAGES: Signature(
        _IMAGES,
        takes=f"`{IMAGES}` uint8 [B, h, w, 3]",
        gives=f"`{CLASSES}` uint8 [B, h, w]",
        build=_serve_images,
        request=lambda image: image[None],
        read_classes=lambda answer: answer[CLASSES].numpy()[0],
        warms_up=True,
    ),
    SERVE_PROBABILITIES: Signature(
        _IMAGES,
        takes=f"`{IMAGES}` uint8 [B, h, w, 3]",
        gives="`probabilities` float32 [B, h, w, classes]",
        build=_serve_probabilities,
        request=lambda image: image[None],
        read_classes=lambda answer: answer["probabilities"].numpy()[0].argmax(-1),
    ),
    "metadata": Signature(
        tf.TensorSpec([None], tf.string, "keys"),
        takes=f"`keys` string [N]: of {', '.join(METADATA_KEYS)}",
        gives="`values` string [N]: JSON texts",
        build=_metadata,
    ),
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
    words = "RGB images [B, height, width, 3], B of 1 where it is one."
    images = _of_shape(images, [None, None, None, 3], words)
    batch, height, width, _ = tf.unstack(tf.shape(images))
    # oneDNN's convolution fails on a batch of none: compute one image, drop it.
    extra = tf.cast(tf.equal(batch, 0), tf.int32)
    with tf.control_dependencies(_size_checks(height, width, max_pixels)):
        images = tf.pad(images, [[0, extra], [0, 0], [0, 0], [0, 0]])
    return run(tf.cast(images, tf.float32))[:batch]


def _of_shape(tensor: tf.Tensor, shape: list[int | None], words: str) -> tf.Tensor:
    """Stops the graph where a tensor has another shape than its signature says.

    TF Serving does not look at it: of one channel it made three, and other shapes ended
    in what operations say of them.

    Args:
      tensor: as it was sent.
      shape: static; None is any.
      words: what is expected.
    """
    # Its own static shape would make the comparison a constant.
    sent = tf.compat.v1.placeholder_with_default(tensor, None)
    sides = tf.shape(sent)
    fits = tf.equal(tf.size(sides), len(shape))
    if shape[-1]:
        fits &= tf.reduce_all(tf.equal(sides[-1:], shape[-1]))
    received = tf.strings.reduce_join(tf.strings.as_string(sides), separator=", ")
    checks = _required(fits, f"Expected {words}", "Received: shape", received)
    with tf.control_dependencies(checks):
        return tf.ensure_shape(tf.identity(sent), shape)


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
    # Zeros after it make a file that ends before that one of no pixels.
    padded = tf.strings.join([image_bytes, tf.constant(bytes(24))])
    text = tf.strings.substr(padded, 16, 8)
    width, height = tf.unstack(
        tf.ensure_shape(tf.io.decode_raw(text, tf.int32, little_endian=False), [2])
    )
    return height, width


def _jpeg_size(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    few = _required(
        has_few_scans(image_bytes),
        f"Expected a JPEG of at most {MAX_SCANS} scans; save it anew. Received one of "
        "more, of bytes as many as:",
        tf.strings.length(image_bytes),
    )
    with tf.control_dependencies(few):
        shape = tf.image.extract_jpeg_shape(image_bytes)
    height, width, _ = tf.unstack(tf.ensure_shape(shape, [3]))
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
