"""Tensors as gRPC sends them: TensorProto in, Tensor of the C library out, and back.

Refused is what the library has no type for, or what would end the process inside it.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence

import numpy as np
from tensorflow.core.framework import tensor_pb2

from tests.support.c_loader import TF_STRING, CallError, Tensor
from tests.support.stand_in.refusals import INVALID_ARGUMENT, RESOURCE_EXHAUSTED

MAX_TENSOR_BYTES = 256 * 2**20
_MAX_RANK = 254  # of TensorFlow

# tensorflow.DataType -> (numpy's, the field of TensorProto that holds values).
DTYPES = {1: ("<f4", "float_val"), 3: ("<i4", "int_val"), 4: ("u1", "int_val")}


def tensor_of(proto: tensor_pb2.TensorProto) -> Tensor:
    """TensorProto -> Tensor, with the checks of TensorFlow's own."""
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank:
        raise CallError(INVALID_ARGUMENT, "Expected a tensor of known shape.")
    check_shape(shape)
    elements = math.prod(shape)
    if proto.dtype == TF_STRING:
        values, size = list(proto.string_val), elements
    elif proto.dtype in DTYPES:
        kind, field = DTYPES[proto.dtype]
        size = elements * np.dtype(kind).itemsize
        values = proto.tensor_content or packed(getattr(proto, field), kind, elements)
    else:
        raise CallError(
            INVALID_ARGUMENT, f"Tensors of type {proto.dtype} are not supported."
        )
    if len(values) != size:
        raise CallError(
            INVALID_ARGUMENT,
            f"Shape {shape} does not have as many values as the tensor holds.",
        )
    return Tensor(proto.dtype, shape, values)


def check_shape(shape: Sequence[int]) -> None:
    """Refuses shapes that would end the process inside the library."""
    products = itertools.accumulate(shape, operator.mul, initial=1)
    if len(shape) > _MAX_RANK or min(shape, default=0) < 0 or max(products) >= 2**63:
        words = f"No tensor has the shape {shape[:8]}, of {len(shape)} dimensions."
        raise CallError(INVALID_ARGUMENT, words)


def packed(values, kind: str, elements: int) -> bytes:
    """Values of a TensorProto -> bytes. The last value is repeated, as TensorFlow does.

    As there are few values for any shape, a small message may ask for much memory.
    """
    if elements * np.dtype(kind).itemsize > MAX_TENSOR_BYTES:
        raise CallError(
            RESOURCE_EXHAUSTED, f"A tensor of {elements} values is too large."
        )
    try:
        given = np.array(values, np.int64 if kind != "<f4" else kind)
        cast = given.astype(kind)
    except (OverflowError, ValueError) as error:
        raise CallError(INVALID_ARGUMENT, f"Bad tensor values: {error}") from error
    if kind != "<f4" and not np.array_equal(given, cast):
        raise CallError(INVALID_ARGUMENT, "Tensor values do not fit their type.")
    if 0 < len(cast) < elements:
        cast = np.pad(cast, (0, elements - len(cast)), "edge")
    return cast.tobytes()


def proto_of(tensor: Tensor) -> tensor_pb2.TensorProto:
    """Tensor -> TensorProto."""
    proto = tensor_pb2.TensorProto(dtype=tensor.dtype)
    for size in tensor.shape:
        proto.tensor_shape.dim.add(size=size)
    if tensor.dtype == TF_STRING:
        proto.string_val.extend(tensor.content)
    else:
        proto.tensor_content = tensor.content
    return proto
