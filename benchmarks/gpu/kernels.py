"""Which operations of the networks have no kernel for a GPU, from the registry.

    python -m benchmarks.gpu.kernels

TensorFlow's wheel for Linux is a CUDA build: its registry lists the kernels of a GPU
on a machine without one. Here the graphs of training steps, evaluation and signatures
are walked, with the functions that they call, and every operation is looked up with
its types. Prints a markdown table.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tensorflow import keras
from tensorflow.python.framework import kernels

GPU, XLA_GPU = "GPU", "XLA_GPU_JIT"
# Kernels of device DEFAULT run on every device.
DEVICES = {GPU: (GPU, "DEFAULT"), XLA_GPU: (XLA_GPU,)}

# What a GPU does not run, and need not: placed on the CPU beside it.
CPU_BY_DESIGN = {
    "DecodeImage": "files are decoded on the CPU",
    "DecodeJpeg": "files are decoded on the CPU",
    "DecodePng": "files are decoded on the CPU",
    "EncodePng": "files are encoded on the CPU",
    "ExtractJpegShape": "headers are read on the CPU",
}
# XLA takes these apart while it compiles; the registry has no kernel of them.
XLA_INLINES = {
    "PartitionedCall": "a call of a function",
    "StatefulPartitionedCall": "a call of a function",
}


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation and its types.

    Attributes:
      name: such as "Conv2D".
      types: (attribute, type) of those attributes that are a type, sorted.
    """

    name: str
    types: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        types = ", ".join(f"{name}={dtype}" for name, dtype in self.types)
        return f"{self.name}({types})"


def operations(function) -> set[Operation]:
    """All operations of a concrete function and of those it calls, gradients too."""
    graph = function.graph.as_graph_def()
    library = {each.signature.name: each for each in graph.library.function}
    found, seen = set(), set()
    waiting = [graph.node]
    while waiting:
        for node in waiting.pop():
            found.add(_operation(node))
            for name in _called(node):
                if name in library and name not in seen:
                    seen.add(name)
                    waiting.append(library[name].node_def)
    return found


def _operation(node) -> Operation:
    types = []
    for name, value in node.attr.items():
        if name.startswith("_"):
            continue  # of whoever made the graph, not of the operation
        kind = value.WhichOneof("value")
        if kind == "type":
            types.append((name, tf.as_dtype(value.type).name))
    return Operation(node.op, tuple(sorted(types)))


def _called(node) -> Iterator[str]:
    """Names of the functions that a node calls."""
    yield node.op
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            yield value.func.name
        for function in value.list.func:
            yield function.name


@functools.cache
def _registered(name: str) -> tuple:
    return tuple(kernels.get_registered_kernels_for_op(name).kernel)


def has_kernel(operation: Operation, device: str) -> bool:
    """Says whether an operation of these types has a kernel for a device.

    Args:
      operation: what is looked up.
      device: a key of `DEVICES`.
    """
    types = dict(operation.types)
    return any(
        kernel.device_type in DEVICES[device]
        and all(
            types[constraint.name]
            in [tf.as_dtype(t).name for t in constraint.allowed_values.list.type]
            for constraint in kernel.constraint
            if constraint.name in types
        )
        for kernel in _registered(operation.name)
    )


def without_kernel(found: Iterable[Operation], device: str) -> list[Operation]:
    """The operations that have no kernel for a device and no excuse."""
    excused = {GPU: CPU_BY_DESIGN, XLA_GPU: XLA_INLINES}[device]
    return sorted(
        (
            operation
            for operation in found
            if operation.name not in excused and not has_kernel(operation, device)
        ),
        key=str,
    )
