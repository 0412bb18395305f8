"""Converters of other runtimes: a function of images in, the content of files out."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.exports.agreement import Bound
from deeplab_tf.inference.runners import (
    openvino_core,
    signal_stack_kept,
    store_precision,
)
from deeplab_tf.inference.runtimes import read_contents
from deeplab_tf.inference.signature_names import CLASSES, IMAGES
from deeplab_tf.networks.convolutions import graph_for_other_runtimes

ONNX_OPSET = 18


class ConversionError(Exception):
    """What a converter, or the runtime of what it made, says on one line."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images for 8 bits, uint8 [height, width, 3] of the network's size each.

    Attributes:
      calibration: the ranges of the activations are those on them.
      others: they judge what the calibration made.
    """

    calibration: Sequence[np.ndarray] = ()
    others: Sequence[np.ndarray] = ()


@dataclasses.dataclass(frozen=True)
class Converter:
    """How a format is made.

    Attributes:
      convert: (tf.function with the input and output of `runners.py`, precision,
        examples) -> content of each file, in the order of the runner's endings.
      ending: of the file that is named.
      bounds: precision -> how far it may be from the Keras model. `logits` bounds by
        how much the Keras model's logit of the class that the file chooses is below its
        largest.
      packages: that it imports; precision -> those that it alone needs.
      any_batch: whether a file of any size takes several images.
    """

    convert: Callable[[Callable, str, Examples], list[bytes]]
    ending: str
    bounds: Mapping[str, Bound]
    packages: tuple[str, ...] = ()
    packages_of: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    any_batch: bool = True

    def needed_packages(self, precision: str) -> tuple[str, ...]:
        return self.packages + self.packages_of.get(precision, ())


def _to_tflite(classes, precision: str, examples: Examples) -> list[bytes]:
    with _saved(classes) as folder:
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.representative_dataset = lambda: (
                {IMAGES: image[None]} for image in examples.calibration
            )
        # It calibrates with an interpreter that TensorFlow says will go.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [converter.convert()]


def _to_onnx(classes, precision: str, examples: Examples) -> list[bytes]:
    import tf2onnx

    with _without_copies():
        proto, _ = tf2onnx.convert.from_function(
            classes,
            input_signature=classes.input_signature,
            opset=ONNX_OPSET,
            large_model=True,
        )
    for node in proto.graph.node:
        if node.op_type == "Conv":
            _pad_explicitly(node)
    _leave_out_empty_inputs(proto.graph)
    _name_axes(proto.graph)
    if precision == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        proto = convert_float_to_float16(proto)
    if precision == "int8":
        proto = _quantized_onnx(proto, examples.calibration)
    return [proto.SerializeToString()]


@contextlib.contextmanager
def _without_copies() -> Iterator[None]:
    """Keeps tf2onnx from holding the weights some fifty times: 13 GB for ResNet-50.

    Its way for large models freezes the graph without several functions of constants
    and without grappler, and copies nothing before each of its passes; here the
    weights stay in the message nevertheless. It writes them anew after each pass into
    the same message, which never gives memory back; here into an empty one.
    """
    import tf2onnx
    from onnx import NodeProto
    from tf2onnx.graph import Node

    update_proto = Node.update_proto

    def update_empty_proto(node, *arguments):
        old = node._op
        node._op = NodeProto(op_type=old.op_type, name=old.name, domain=old.domain)
        update_proto(node, *arguments)

    replaced = (
        (Node, "update_proto", update_empty_proto),
        (tf2onnx.convert, "ExternalTensorStorage", lambda: None),
    )
    with contextlib.ExitStack() as stack:
        for owner, name, value in replaced:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def _quantized_onnx(proto, calibration: Sequence[np.ndarray]):
    """8 bits between pairs of QuantizeLinear and DequantizeLinear, which every runtime
    of ONNX turns into its own kernels; weights per channel."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self._images = iter(calibration)

        def get_next(self):
            image = next(self._images, None)
            return None if image is None else {IMAGES: image[None]}

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "int8.onnx")
        quantize_static(proto, path, Reader(), per_channel=True)
        return onnx.load(path)


def _leave_out_empty_inputs(graph) -> None:
    """Names no scales where Resize has sizes, instead of a tensor of no scales.

    The conversion to float16 casts that tensor, and ONNX Runtime then sees two answers.
    """
    empty = [tensor for tensor in graph.initializer if list(tensor.dims) == [0]]
    names = {tensor.name for tensor in empty}
    for node in graph.node:
        if node.op_type == "Resize":
            node.input[:] = ["" if name in names else name for name in node.input]
    used = {name for node in graph.node for name in node.input}
    for tensor in empty:
        if tensor.name not in used:
            graph.initializer.remove(tensor)


def _name_axes(graph) -> None:
    """Calls the axes that are not fixed by what they are, instead of by numbers."""
    for value in (*graph.input, *graph.output):
        axes = value.type.tensor_type.shape.dim
        for axis, name in zip(axes, ("batch", "height", "width")):
            if not axis.HasField("dim_value"):
                axis.dim_param = name


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


def _to_openvino(classes, precision: str, examples: Examples) -> list[bytes]:
    import openvino

    with _saved(classes) as folder:
        model = openvino.convert_model(folder)
    if precision == "int8":
        with signal_stack_kept():
            model = _quantized_openvino(model, examples)
    store_precision(model, precision)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "network.xml")
        openvino.save_model(model, path, compress_to_fp16=False)
        return read_contents(path)


def _quantized_openvino(model, examples: Examples):
    """8 bits by NNCF; layers that cost too many pixels their class stay in float."""
    import nncf

    def inputs(images):
        return nncf.Dataset([{IMAGES: image[None]} for image in images])

    def classes_of(compiled) -> list[np.ndarray]:
        return [np.array(compiled(image[None])[0]) for image in examples.others]

    expected = classes_of(openvino_core().compile_model(model, "CPU"))

    def agreement(compiled, _=None) -> tuple[float, None]:
        found = classes_of(compiled)
        return float(np.mean([(f == e).mean() for f, e in zip(found, expected)])), None

    calibration = inputs(examples.calibration)
    size = len(examples.calibration)
    least = CONVERTERS["openvino"].bounds["int8"].agreement
    with _warnings_alone("nncf"):
        quantized = nncf.quantize(model, calibration, subset_size=size)
        if agreement(openvino_core().compile_model(quantized, "CPU"))[0] >= least:
            return quantized
        return nncf.quantize_with_accuracy_control(
            *(model, calibration, inputs(examples.others), agreement),
            max_drop=1 - least,
            subset_size=size,
        )


@contextlib.contextmanager
def _warnings_alone(package: str) -> Iterator[None]:
    """Keeps a package that is imported from logging more; its bars go on."""
    logger = logging.getLogger(package)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _saved(classes) -> Iterator[str]:
    """A SavedModel of a function: by way of it converters keep the names."""
    module = tf.Module()
    module.variables_of_model = classes.get_concrete_function().variables
    with tempfile.TemporaryDirectory() as folder:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, signatures=classes, options=options)
        yield folder


_FLOAT32 = Bound(2e-3, 0.999)
_FLOAT16 = Bound(2e-2, 0.99)
_INT8 = Bound(0.25, 0.9)
CONVERTERS = {
    "tflite": Converter(
        _to_tflite,
        ".tflite",
        {
            "float32": _FLOAT32,
            "float16": _FLOAT16,
            # Kernels in 8 bits; activations in float, or in 8 bits where there are
            # kernels for that.
            "dynamic": Bound(0.15, 0.95),
            # All in 8 bits.
            "int8": _INT8,
        },
        any_batch=False,  # LiteRT plans memory for one image
    ),
    "onnx": Converter(
        _to_onnx,
        ".onnx",
        {"float32": _FLOAT32, "float16": _FLOAT16, "int8": _INT8},
        packages=("tf2onnx", "onnxruntime"),
    ),
    "openvino": Converter(
        _to_openvino,
        ".xml",
        {"float32": _FLOAT32, "bfloat16": Bound(0.4, 0.97), "int8": _INT8},
        packages=("openvino",),
        packages_of={"int8": ("nncf",)},
    ),
}
FORMAT_OF = {converter.ending: name for name, converter in CONVERTERS.items()}


def convert(
    logits: Callable[[tf.Tensor], tf.Tensor],
    format_: str,
    precision: str,
    input_size: tuple[int, int] | None,
    examples: Examples,
) -> list[bytes]:
    """Converts a network.

    Args:
      logits: float32 [B, h, w, 3] in 0..255 -> logits float32 [B, h, w, classes].
      format_: a key of `CONVERTERS`.
      precision: a key of its bounds.
      input_size: (height, width) of the images; None is any.
      examples: for "int8".

    Returns:
      The content of each file.

    Raises:
      ConversionError: what the converter said.
    """
    converter = CONVERTERS[format_]
    spec = tf.TensorSpec(input_shape(format_, input_size), tf.uint8, IMAGES)

    @tf.function(input_signature=[spec])
    def classes(images):
        scores = logits(tf.cast(images, tf.float32))
        best = tf.argmax(scores, -1, output_type=tf.int32)
        return {CLASSES: tf.cast(best, tf.uint8)}

    try:
        with graph_for_other_runtimes():
            return converter.convert(classes, precision, examples)
    except Exception as error:  # of converters that raise what they like
        raise ConversionError(_first_lines(error)) from error


def input_shape(format_: str, input_size: tuple[int, int] | None) -> tuple:
    """Returns the shape of the images of a file: (batch, height, width, 3)."""
    batch = None if CONVERTERS[format_].any_batch and not input_size else 1
    return (batch, *(input_size or (None, None)), 3)


def _first_lines(error: Exception) -> str:
    """The gist of a converter's error, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4])[:500].rstrip(".")
