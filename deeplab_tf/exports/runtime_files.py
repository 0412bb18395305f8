"""A Keras model as .tflite or .onnx file: converted, compared, then given its name.

`runtimes.py` says what the files are and runs them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.exports.calibration import others
from deeplab_tf.exports.saved_model import (
    Agreement,
    Bound,
    check_labels,
    example_images,
)
from deeplab_tf.files import sole_writer_in, write_together
from deeplab_tf.inference.runtimes import (
    PREVIOUS,
    RUNTIMES,
    RuntimeNetwork,
    RuntimeRefusal,
    fit_image,
    labels_path,
    read_described,
    sha256,
)
from deeplab_tf.inference.signature_names import CLASSES, IMAGES
from deeplab_tf.labels import Labels
from deeplab_tf.networks.folding import freeze

ONNX_OPSET = 18
CALIBRATION_IMAGES = 100


class ConversionError(Exception):
    """What a converter, or the runtime of what it made, says on one line."""


# Format -> precision -> how far it may be from the Keras model. `logits` bounds by how
# much the Keras model's logit of the class chosen by the file is below its largest.
BOUNDS = {
    "tflite": {
        "float32": Bound(2e-3, 0.999),
        "float16": Bound(2e-2, 0.99),
        # Kernels in 8 bits; activations in float, or in 8 bits where there are kernels
        # for that.
        "dynamic": Bound(0.15, 0.95),
        # All in 8 bits.
        "int8": Bound(0.25, 0.9),
    },
    "onnx": {"float32": Bound(2e-3, 0.999)},
}


def convert_model(
    model: keras.Model,
    labels: Labels,
    path: str | os.PathLike,
    precision: str = "float32",
    input_size: tuple[int, int] | None = None,
    *,
    calibration: Sequence[np.ndarray] = (),
    images: Sequence[np.ndarray] = (),
    about: Mapping | None = None,
) -> Agreement:
    """Writes a .tflite or .onnx file and its labels, checked against the Keras model.

    Args:
      model: Keras model in float32: image float32 [B, h, w, 3] in 0..255 -> logits
        float32 [B, h, w, classes].
      labels: what the classes are called.
      path: its ending is the format; what is there is replaced when all is done, the
        file and its labels as one.
      precision: a key of `BOUNDS[format]`.
      input_size: (height, width) of the images that the file takes; None is any, of
        which "int8" knows none.
      calibration: uint8 [h, w, 3] each, for "int8": the ranges of the activations are
        those on these images.
      images: uint8 [h, w, 3] each, to compare on. None given takes drawn ones, and so
        do those of the calibration alone.
      about: what the labels' file tells of the model, for JSON.

    Returns:
      What the comparison found.

    Raises:
      ImportError: a package that the format needs is not installed.
      InUse: another process writes the same file.
      OSError: it cannot be written.
      ValueError: a precision that the format has not, int8 without size or images, or
        labels that do not fit the model.
      RuntimeError: it cannot be converted, or answers differently.
    """
    ending = os.path.splitext(os.fspath(path))[1]
    check_converter(ending[1:], precision)
    _check_calibration(precision, input_size, calibration)
    check_labels(labels, model)
    try:
        content = _convert(model, ending[1:], precision, input_size, calibration)
        network = RuntimeNetwork(RUNTIMES[ending](content), labels)
    except (ConversionError, RuntimeRefusal) as error:
        raise RuntimeError(
            f"{model.name} cannot be converted to {ending[1:]} in {precision} for "
            f"images of {input_size or 'any size'}: {error}. Give another --input_size "
            "or none, another --precision, or export a SavedModel."
        ) from error
    images = others(images, calibration) or example_images()
    agreement = compare_with_model(
        network, model, images, BOUNDS[ending[1:]][precision]
    )
    described = {
        **dataclasses.asdict(labels),
        "model": {**(about or {}), "precision": precision, "input_size": input_size},
        "sha256": sha256(content),
    }
    folder, name = os.path.split(os.path.abspath(path))
    with sole_writer_in(folder, name):
        _write_pair(os.fspath(path), content, described)
    return agreement


def _write_pair(path: str, content: bytes, described: dict) -> None:
    """Writes a file and its labels, which change as one.

    No system renames two files at once: in between the labels describe both the file
    that is there and the one that comes, and whoever reads them takes those of the file
    that is there (`runtimes.load_network`).
    """
    before = read_described(path)
    texts = [
        (json.dumps(each, indent=2) + "\n").encode()
        for each in ({**described, PREVIOUS: before}, before, described)
    ]
    both, old, new = texts
    labels = labels_path(path)
    write_together({labels: both if before else new})
    try:
        write_together({path: content})
    except BaseException:
        if before:
            write_together({labels: old})
        else:
            os.remove(labels)
        raise
    with contextlib.suppress(OSError):  # those of both are right as well
        write_together({labels: new})


def compare_with_model(
    network: RuntimeNetwork,
    model: keras.Model,
    images: Sequence[np.ndarray],
    bound: Bound,
) -> Agreement:
    """Compares the classes of a network under its runtime with the Keras model's.

    Args:
      network: of the file.
      model: the Keras model in float32.
      images: uint8 [h, w, 3] each; stretched to the network's size where it has one.
      bound: what is still rounding.

    Returns:
      The comparison; its `logits` is as in `BOUNDS`, and pixels whose logits tie within
      1e-4 of the largest count as of the same class.

    Raises:
      RuntimeError: they differ by more than bound.
    """
    logits_of = tf.function(
        lambda batch: model(batch, training=False),
        input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32)],
    )
    worst, shares = 0.0, []
    for image in images:
        image = fit_image(image, network.size) if network.size else image
        logits = logits_of(tf.constant(image[None], tf.float32)).numpy()[0]
        chosen = network.classes(image[None])[0, ..., None].astype(np.intp)
        below = logits.max(-1) - np.take_along_axis(logits, chosen, -1)[..., 0]
        below = below / max(1.0, np.abs(logits).max())
        worst = max(worst, float(below.max()))
        shares.append(float((below <= 1e-4).mean()))
    agreement = Agreement(worst, min(shares), len(images))
    # Not `>`: that would let NaN pass.
    if not (worst <= bound.logits and agreement.classes >= bound.agreement):
        raise RuntimeError(
            "The converted model does not answer as the Keras model does: "
            f"{agreement.classes:.2%} of the pixels have its class (bound "
            f"{bound.agreement:.1%}), and its logit of a chosen class is up to "
            f"{worst:.2g} of the largest below its best (bound {bound.logits:g})."
        )
    return agreement


def check_converter(format_: str, precision: str) -> None:
    """Says before a conversion begins what cannot be, or what it lacks.

    Args:
      format_: a key of `BOUNDS`.
      precision: a key of `BOUNDS[format_]`.

    Raises:
      ImportError: a package is not installed.
      ValueError: no such format, or a precision that it has not.
    """
    if precision not in BOUNDS.get(format_, ()):
        known = ", ".join(f"{key} in {', '.join(BOUNDS[key])}" for key in BOUNDS)
        raise ValueError(f"Expected {known}. Received: {format_} in {precision}")
    packages = {"onnx": ("tf2onnx", "onnxruntime")}.get(format_, ())
    if not all(map(importlib.util.find_spec, packages)):
        raise ImportError(
            f"--format={format_} needs {' and '.join(packages)}, and they are not all "
            f"installed. Run: pip install {' '.join(packages)}"
        )


def _check_calibration(precision, input_size, calibration) -> None:
    if precision == "int8" and not (input_size and calibration):
        raise ValueError(
            "int8 needs a fixed input size, and images to take the ranges of the "
            f"activations from. Received: size {input_size}, {len(calibration)} images"
        )


def _convert(model, format_, precision, input_size, calibration) -> bytes:
    # LiteRT plans memory for one image.
    batch = None if format_ == "onnx" and not input_size else 1
    shape = (batch, *(input_size or (None, None)), 3)
    logits = freeze(model, shape)
    spec = tf.TensorSpec(shape, tf.uint8, IMAGES)

    @tf.function(input_signature=[spec])
    def classes(images):
        scores = logits(tf.cast(images, tf.float32))
        best = tf.argmax(scores, -1, output_type=tf.int32)
        return {CLASSES: tf.cast(best, tf.uint8)}

    if format_ == "onnx":
        return _to_onnx(classes, spec)
    if precision == "int8":
        calibration = [fit_image(image, input_size) for image in calibration]
    return _to_tflite(classes, precision, calibration)


def _to_tflite(classes, precision: str, calibration: Sequence[np.ndarray]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        # By way of a SavedModel: only so does the file keep the names of its input and
        # output.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(
            tf.Module(),
            folder,
            signatures=classes,
            options=options,
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.representative_dataset = lambda: (
                {IMAGES: image[None]} for image in calibration
            )
        try:
            return converter.convert()
        except Exception as error:  # of converters that raise what they like
            raise ConversionError(_first_lines(error)) from error


def _to_onnx(classes, spec: tf.TensorSpec) -> bytes:
    import tf2onnx

    try:
        proto, _ = tf2onnx.convert.from_function(
            classes, input_signature=[spec], opset=ONNX_OPSET
        )
    except Exception as error:
        raise ConversionError(_first_lines(error)) from error
    for node in proto.graph.node:
        if node.op_type == "Conv":
            _pad_explicitly(node)
    return proto.SerializeToString()


def _pad_explicitly(node) -> None:
    """Writes out "same" padding: ONNX Runtime refuses it where a kernel is dilated."""
    from onnx import helper

    values = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    strides = values.get("strides", [1, 1])
    if values.get("auto_pad") != b"SAME_UPPER" or list(strides) != [1, 1]:
        return
    kernel, dilations = values["kernel_shape"], values.get("dilations", [1, 1])
    totals = [rate * (side - 1) for side, rate in zip(kernel, dilations)]
    before = [total // 2 for total in totals]
    after = [total - half for total, half in zip(totals, before)]
    kept = [each for each in node.attribute if each.name not in ("auto_pad", "pads")]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("pads", before + after)])


def _first_lines(error: Exception) -> str:
    """The gist of a converter's error, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4])[:500].rstrip(".")
