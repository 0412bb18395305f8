"""The weights of a .tflite file, by the names of the graph it was made from."""

from __future__ import annotations

import os
import re
import struct

import numpy as np

# The format in Python, not tf.lite.Interpreter: where a file is cut short, that of
# TensorFlow 2.15 ends the process.
from tensorflow.lite.python import schema_py_generated as schema

_KERNEL = re.compile(r"(.+)/(?:weights|depthwise_weights|weights_quant/FakeQuant.*)")
_BIAS = re.compile(r"(.+)/(?:BatchNorm_Fold/bias|Conv2D_bias|depthwise_bias|biases)")
_DTYPES = {
    schema.TensorType.FLOAT32: np.dtype("<f4"),
    schema.TensorType.FLOAT16: np.dtype("<f2"),
    schema.TensorType.INT32: np.dtype("<i4"),
    schema.TensorType.UINT8: np.dtype("u1"),
    schema.TensorType.INT8: np.dtype("i1"),
}
# What reading beyond the end of a file, or nonsense as an offset, may lead to.
_DAMAGE = (LookupError, TypeError, AttributeError, OverflowError, struct.error)


def read_tflite_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads kernels and biases of a .tflite file; quantised ones become float32.

    Args:
      path: a network whose tensors carry the names of TF-slim layers.

    Returns:
      "<layer>/kernel" float32 [height, width, in, out] (depthwise [height, width,
      channels, 1]), "<layer>/bias" float32 [out], with BatchNorm folded into both, and
      "output_stride" int [].

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a .tflite file, or one without such layers.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No weights at {path}. Give the path of a file.")
    with open(path, "rb") as file:
        content = file.read()
    try:
        arrays, stride = _read_graph(content)
    except (*_DAMAGE, ValueError) as error:
        raise ValueError(
            f"{path} is not a .tflite file, or it is cut short: {error}"
        ) from error
    if not arrays or stride is None:
        raise ValueError(
            f"{path} holds no layers named as those of the authors' MobileNetV2 "
            "networks (MobilenetV2/..., aspp0, logits/semantic)."
        )
    return {**arrays, "output_stride": np.asarray(stride)}


def _read_graph(content: bytes) -> tuple[dict[str, np.ndarray], int | None]:
    """Returns the arrays by their names, and the output stride."""
    if content[4:8] != b"TFL3":
        raise ValueError("it lacks the mark TFL3")
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    arrays, shapes = {}, {}
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        name, shape = tensor.Name().decode(), tuple(tensor.ShapeAsNumpy())
        shapes[name] = shape
        layer, leaf = _layer_and_leaf(name, len(shape))
        if layer:
            data = model.Buffers(tensor.Buffer()).DataAsNumpy()
            array = data.view(_DTYPES[tensor.Type()]).reshape(shape)
            arrays[f"{layer}/{leaf}"] = _dequantized(array, tensor.Quantization())
    height = graph.Tensors(graph.Inputs(0)).Shape(1)
    return arrays, _output_stride(height, shapes)


def _layer_and_leaf(joined_names: str, dimensions: int):
    """A tensor fused from several operations has their names, joined by semicolons."""
    pattern, leaf = (_KERNEL, "kernel") if dimensions == 4 else (_BIAS, "bias")
    for name in reversed(joined_names.split(";")):
        match = pattern.fullmatch(name)
        if match and dimensions in (1, 4):
            return match[1], leaf
    return None, None


def _dequantized(array, quantization) -> np.ndarray:
    """(array - zero_point) * scale, and kernels with the output channels last."""
    if quantization and quantization.ScaleLength():
        scales = quantization.ScaleAsNumpy()
        zeros = quantization.ZeroPointAsNumpy()
        shape = [1] * array.ndim
        axis = quantization.QuantizedDimension()
        if {len(scales), len(zeros)} - {1, array.shape[axis]}:
            raise ValueError("a tensor has scales of another number than its channels")
        shape[axis] = -1
        array = (array.astype(np.int64) - zeros.reshape(shape)) * scales.reshape(shape)
    if array.ndim == 4:
        array = array.transpose(1, 2, 3, 0)
    return array.astype(np.float32)


def _output_stride(height: int, shapes: dict[str, tuple]) -> int | None:
    """Pixels of the input per cell of the logits, of which both have 1 + a multiple."""
    for name, shape in shapes.items():
        if name.startswith("logits/semantic") and len(shape) == 4 and shape[1] > 1:
            return round((height - 1) / (shape[1] - 1))
    return None
