"""SavedModels for TF Serving: encoded images or raw RGB in, classes out.

Signatures of an exported model (B is any batch, 0 too):
  serving_default: image_bytes string [B], JPEG or PNG, each of its own size ->
    classes_png string [B], single-channel PNGs of class ids; height, width int32 [B].
  serve_images: images uint8 [B, height, width, 3] -> classes uint8 [B, height, width].
  serve_probabilities: images as above -> probabilities float32 [B, height, width, C].

TF Serving's REST interface sends inputs whose name ends in `_bytes` as base64. Labels
and colormap travel in `assets/labels.json`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile

import numpy as np
import tensorflow as tf

from deeplab_tf.images import decode_image
from deeplab_tf.labels import Labels
from deeplab_tf.models import MIN_IMAGE_SIZE, inference_model
from deeplab_tf.saved_models import LABELS_FILE, load_saved_model, next_version

# Rounding between the export and the Keras model, as a share of the largest logit:
# 1e-6 is usual in float32, a GPU computes convolutions in TF32, which rounds at 1e-3.
_ROUNDING = 1e-3


def export_model(
    model, labels: Labels, output_dir: str | os.PathLike, version: int | None = None
) -> str:
    """Writes `<output_dir>/<version>/`, checked against the Keras model.

    It is written beside, under a name that TF Serving ignores, reloaded, compared and
    renamed; after a failure nothing is left.

    Args:
      model: image float32 [B, h, w, 3] in 0..255 -> logits float32 [B, h, w, classes].
      labels: what the classes are called.
      output_dir: the model's folder for TF Serving; made where needed.
      version: positive integer; None is one more than the highest there.

    Returns:
      Path of the version's folder.

    Raises:
      FileExistsError: the version exists.
      ValueError: version is not positive, or labels do not fit the model.
      RuntimeError: the reloaded model answers differently.
    """
    model = inference_model(model)
    _check_labels(labels, model.output_shape[-1])
    version = next_version(output_dir) if version is None else version
    if version < 1:
        raise ValueError(f"version must be a positive integer. Received: {version}")
    path = os.path.join(output_dir, str(version))
    if os.path.exists(path):
        raise FileExistsError(
            f"{path} exists. Give another --version, or none for the next free one."
        )
    with _temporary_folder(output_dir, version) as temporary:
        _write(model, labels, temporary)
        compare_with_model(temporary, model, example_images())
        os.rename(temporary, path)
    return path


def compare_with_model(saved_model: str | os.PathLike, model, images) -> None:
    """Asks all signatures of a SavedModel and compares them with the Keras model.

    Args:
      saved_model: folder of a SavedModel of `export_model`.
      model: the Keras model it was made from.
      images: uint8 [height, width, 3] each.

    Raises:
      RuntimeError: probabilities or classes differ by more than rounding explains.
    """
    signatures = load_saved_model(saved_model).signatures
    encoded = tf.stack([tf.io.encode_png(image) for image in images])
    answer = signatures["serving_default"](image_bytes=encoded)
    reference = tf.function(lambda batch: model(batch, training=False))
    for image, png in zip(images, answer["classes_png"]):
        logits = reference(tf.cast(image[None], tf.float32)).numpy()[0]
        batch = tf.constant(image[None])
        served = signatures["serve_probabilities"](images=batch)["probabilities"]
        _check_probabilities(served.numpy()[0], logits)
        classes = signatures["serve_images"](images=batch)["classes"]
        _check_classes("serve_images", classes.numpy()[0], logits)
        classes = tf.io.decode_png(png, channels=1)[..., 0]
        _check_classes("serving_default", classes.numpy(), logits)


def example_images(seed: int = 0) -> list[np.ndarray]:
    """Makes smooth, coloured, noisy images uint8 [height, width, 3] of three sizes."""
    generator = np.random.default_rng(seed)
    images = []
    for height, width in ((97, 129), (129, 97), (65, 64)):
        coarse = generator.uniform(0, 255, [5, 7, 3])
        image = tf.image.resize(coarse, [height, width], "bicubic").numpy()
        image += generator.normal(0, 8, image.shape)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return images


def make_signatures(model) -> tuple[tf.Module, dict]:
    """Builds the three signatures of this file's header.

    Returns:
      (module that owns the variables, {signature name: tf.function}).
    """
    module = tf.Module()
    # The model itself is not attached: Keras 2 would save a function of every layer.
    module.variables_of_model = [
        weight if isinstance(weight, tf.Variable) else weight.value
        for weight in model.weights
    ]

    # Traced once and called by all signatures.
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def logits(images):
        batch = tf.shape(images)[0]
        # oneDNN's convolution fails on a batch of none: compute one image, drop it.
        extra = tf.cast(tf.equal(batch, 0), tf.int32)
        images = tf.pad(_checked_size(images), [[0, extra], [0, 0], [0, 0], [0, 0]])
        return model(tf.cast(images, tf.float32), training=False)[:batch]

    def classes_of(images):
        classes = tf.argmax(logits(images), -1, output_type=tf.int32)
        return tf.cast(classes, tf.uint8)

    def segment(image_bytes):
        classes = classes_of(decode_image(image_bytes)[None])[0]
        height, width = tf.unstack(tf.shape(classes))
        png = tf.io.encode_png(classes[..., None])
        return {"classes_png": png, "height": height, "width": width}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serving_default(image_bytes):
        outputs = {
            "classes_png": tf.TensorSpec([], tf.string),
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
        return {"classes": classes_of(images)}

    @tf.function(input_signature=[images])
    def serve_probabilities(images):
        return {"probabilities": tf.nn.softmax(logits(images))}

    return module, {
        "serving_default": serving_default,
        "serve_images": serve_images,
        "serve_probabilities": serve_probabilities,
    }


def _checked_size(images):
    """Stops the graph, with a sentence, on images the network cannot take."""
    height, width = tf.unstack(tf.shape(images)[1:3])
    sentence = tf.strings.format(
        f"Images must be at least {MIN_IMAGE_SIZE} pixels a side. "
        "Received: {}x{} (height x width)",
        (height, width),
    )
    large_enough = tf.minimum(height, width) >= MIN_IMAGE_SIZE
    with tf.control_dependencies([tf.debugging.Assert(large_enough, [sentence])]):
        return tf.identity(images)


def _write(model, labels: Labels, path: str) -> None:
    module, signatures = make_signatures(model)
    with tempfile.TemporaryDirectory() as folder:
        labels_path = os.path.join(folder, LABELS_FILE)
        with open(labels_path, "w", encoding="utf-8") as file:
            file.write(labels.to_json())
        module.labels = tf.saved_model.Asset(labels_path)
        # Gradients are of no use to a server, and ours hold space-to-batch.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, path, signatures=signatures, options=options)


@contextlib.contextmanager
def _temporary_folder(output_dir, version: int):
    """Gives a path inside output_dir; removes what is left there, and new folders."""
    made = not os.path.isdir(output_dir)
    os.makedirs(output_dir, exist_ok=True)
    temporary = os.path.join(output_dir, f".export-{version}-{os.getpid()}")
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made and not os.listdir(output_dir):
            os.rmdir(output_dir)


def _check_labels(labels: Labels, num_classes: int) -> None:
    counts = (len(labels.class_names), len(labels.colormap))
    if counts != (num_classes, num_classes):
        raise ValueError(
            f"The model has {num_classes} classes and needs a name and a colour for "
            f"each. Received: {counts[0]} names and {counts[1]} colours"
        )


def _check_probabilities(served: np.ndarray, logits: np.ndarray) -> None:
    difference = np.abs(served - tf.nn.softmax(logits).numpy()).max()
    if not difference <= _ROUNDING * max(1, np.abs(logits).max()):
        raise RuntimeError(
            "The reloaded model does not give the Keras model's probabilities: they "
            f"differ by up to {difference:.2g}."
        )


def _check_classes(signature: str, classes: np.ndarray, logits: np.ndarray) -> None:
    """Refuses classes that are not the arg max; of two that tie, either will do."""
    chosen = np.take_along_axis(logits, classes[..., None].astype(np.intp), -1)[..., 0]
    wrong = ~(logits.max(-1) - chosen <= _ROUNDING * np.abs(logits).max())
    if wrong.any():
        raise RuntimeError(
            f"The reloaded model's {signature} gives other classes than the Keras "
            f"model at {wrong.sum()} of {wrong.size} pixels."
        )
    ties = (classes != logits.argmax(-1)).sum()
    if ties:
        logging.getLogger(__name__).warning(
            "%s chose the other of two tied classes at %d pixels.", signature, ties
        )
