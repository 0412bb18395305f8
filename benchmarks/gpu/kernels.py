"""Which operations of the networks have no kernel for a GPU, from the registry.

    python -m benchmarks.gpu.kernels

TensorFlow's wheel for Linux is a CUDA build: its registry lists the kernels of a GPU
on a machine without one. Here the graphs of training steps, evaluation and signatures
are walked, with the functions that they call, and every operation is looked up with
its types. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tensorflow import keras
from tensorflow.python.framework import kernels

from deeplab_tf.config import TrainConfig
from deeplab_tf.exports.signatures import make_signatures
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.networks.convolutions import graph_for_any_processor, graph_for_gpu
from deeplab_tf.networks.folding import fold_batch_norm
from deeplab_tf.networks.models import MODELS, build_model
from deeplab_tf.networks.precision import PRECISIONS, precision_policy
from deeplab_tf.networks.recomputation import recompute_in_training
from deeplab_tf.training.compiling import compile_model
from deeplab_tf.training.losses import LOSSES
from deeplab_tf.training.optimizers import build_optimizer

GPU, XLA_GPU = "GPU", "XLA_GPU_JIT"
# Kernels of device DEFAULT run on every device.
DEVICES = {GPU: (GPU, "DEFAULT"), XLA_GPU: (XLA_GPU,)}

# What a GPU does not run, and need not: it is placed on the CPU beside it.
_FILES = "a picture's file, or its header"
_TEXTS = "the sentence of an error, or metadata"
CPU_BY_DESIGN = {
    "DecodeImage": _FILES,
    "EncodePng": _FILES,
    "ExtractJpegShape": _FILES,
    "DecodeRaw": _FILES,
    "StringLength": _FILES,
    "Substr": _FILES,
    "AsString": _TEXTS,
    "ReduceJoin": _TEXTS,
    "StringJoin": _TEXTS,
}
# So is what has this type: a file's bytes, or a text.
TEXT = "string"
# XLA takes these apart while it compiles; the registry has no kernel of them.
XLA_INLINES = {
    "Placeholder": "an argument",
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


def nodes(function) -> Iterator:
    """All nodes of a concrete function and of those that it calls, gradients too."""
    graph = function.graph.as_graph_def()
    library = {each.signature.name: each for each in graph.library.function}
    seen, waiting = set(), [graph.node]
    while waiting:
        for node in waiting.pop():
            yield node
            for name in _called(node):
                if name in library and name not in seen:
                    seen.add(name)
                    waiting.append(library[name].node_def)


def operations(function) -> set[Operation]:
    """All operations of a concrete function, see `nodes`."""
    return set(map(_operation, nodes(function)))


def _operation(node) -> Operation:
    # Names with an underscore are of whoever made the graph, not of the operation.
    types = [
        (name, tf.as_dtype(value.type).name)
        for name, value in node.attr.items()
        if value.WhichOneof("value") == "type" and not name.startswith("_")
    ]
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
            if operation.name not in excused
            and TEXT not in dict(operation.types).values()
            and not has_kernel(operation, device)
        ),
        key=str,
    )


# --- Determinism ---------------------------------------------------------------------

# What raises on a GPU under `enable_op_determinism`, from the sentences in TensorFlow
# 2.21's library. FusedBatchNormGrad does so for fixed statistics alone. Reductions of
# segments have such a sentence too, but sort where determinism is asked for.
_FIXED_STATISTICS = (
    "FusedBatchNormGrad",
    "FusedBatchNormGradV2",
    "FusedBatchNormGradV3",
)
NOT_DETERMINISTIC = {
    *("AdjustContrast", "AdjustContrastv2", "Bincount", "DenseBincount"),
    *("CropAndResizeGradBoxes", "CropAndResizeGradImage", "DebugNumericSummaryV2"),
    *("Dilation2DBackpropFilter", "Dilation2DBackpropInput", "Svd", "Timestamp"),
    *("FakeQuantWithMinMaxVarsGradient", "FakeQuantWithMinMaxVarsPerChannelGradient"),
    *("MaxPoolGradWithArgmax", "ResizeNearestNeighborGrad", "SparseTensorDenseMatMul"),
    *("ScatterAdd", "ScatterDiv", "ScatterMul", "ScatterNdAdd", "ScatterSub"),
    *("SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"),
    *_FIXED_STATISTICS,
}
# What XLA does not compile for a GPU then: hence no XLA in a deterministic run.
NOT_DETERMINISTIC_IN_XLA = {"MaxPoolGrad", "MaxPoolGradV2"}


def raising_under_determinism(function) -> set[str]:
    """Names of operations that would raise on a GPU; trace it with determinism on."""
    return {
        node.op
        for node in nodes(function)
        if node.op in NOT_DETERMINISTIC
        and not (node.op in _FIXED_STATISTICS and node.attr["is_training"].b)
        and "CPU" not in node.device
    }


# --- The graphs that are walked ------------------------------------------------------


def training_graphs(config: TrainConfig) -> dict:
    """{"training", "evaluation"}: the steps that `fit` runs, of images of any size."""
    with precision_policy(config.precision):
        model = build_model(config, auxiliary_outputs=True)
        if config.recompute:
            recompute_in_training(model)
        compile_model(model, config)
    build_optimizer(model.optimizer, model.trainable_variables)
    image = tf.TensorSpec([None, *config.crop_size, 3], tf.float32)
    label = tf.TensorSpec([None, *config.crop_size], tf.int32)
    names = list(model.output) if isinstance(model.output, dict) else None

    def graph(step):
        def run(image, label):
            return step((image, dict.fromkeys(names, label) if names else label))

        with graph_for_gpu():
            return tf.function(run).get_concrete_function(image, label)

    return {"training": graph(model.train_step), "evaluation": graph(model.test_step)}


def signature_graphs(config: TrainConfig) -> dict:
    """Signature's name -> its graph: an exported network, two scales and mirrored."""
    with precision_policy(config.precision):
        model = fold_batch_norm(build_model(config))
    names = tuple(map(str, range(config.num_classes)))
    labels = Labels(names, ((0, 0, 0),) * config.num_classes, config.ignore_label)

    def logits_of(image):
        return model(image, training=False)

    segmenter = Segmenter(logits_of, scales=(0.5, 1.0), flip=True, labels=labels)
    with graph_for_any_processor():
        return {
            name: function.get_concrete_function()
            for name, function in make_signatures(segmenter, {}).items()
        }


# What of a configuration adds operations, besides the network and the precision.
OPTIONS = {
    "loss": {
        "loss": "+".join(LOSSES),
        "label_smoothing": 0.1,
        "class_weights": (1.0, 2.0, 1.0, 1.0, 0.5),
        "label_stride": 2,
        "hard_pixel_fraction": 0.5,
        "hard_mining_steps": 4,
    },
    "frozen BatchNorm, other conventions": {
        "frozen_batch_norm": True,
        "strided_padding": "caffe",
        "resize": "half_pixel",
        "dropout_rate": 0.1,
        "separable": True,
    },
    "gradient steps": {
        "clip_norm": 1.0,
        "ema_momentum": 0.999,
        "accumulation_steps": 2,
        "head_multiplier": 10.0,
        "warmup_steps": 2,
    },
    "recompute": {"recompute": True},
    "adamw": {"optimizer": "adamw", "decoupled_weight_decay": 1e-4},
}


def config_of(model: str, precision: str, **changes) -> TrainConfig:
    """A small run of a model on a small backbone."""
    return TrainConfig(
        model=model,
        backbone="vgg16" if model == "deeplab_v1" else "resnet18",
        precision=precision,
        num_classes=5,
        crop_size=(65, 65),
        steps=10,
        **changes,
    )


# --- The table -----------------------------------------------------------------------


def table_lines() -> Iterator[tuple[str, ...]]:
    """A line of every model, and of every option of DeepLabV3, in every precision."""
    runs = [(model, "", {}) for model in MODELS]
    runs += [("deeplab_v3", name, changes) for name, changes in OPTIONS.items()]
    for model, name, changes in runs:
        for precision in PRECISIONS:
            config = config_of(model, precision, **changes)
            graphs = training_graphs(config)
            training = operations(graphs["training"])
            evaluation = operations(graphs["evaluation"])
            exported = set()
            if not name:
                exported.update(*map(operations, signature_graphs(config).values()))
            everything = training | evaluation | exported
            counts = [len(each) or "" for each in (training, evaluation, exported)]
            yield (
                f"{model}, {name}" if name else model,
                precision,
                *map(str, counts),
                _names(without_kernel(everything, GPU)),
                _names(without_kernel(training, XLA_GPU)),
            )
            keras.backend.clear_session()


def _names(missing) -> str:
    return ", ".join(map(str, missing)) or "none"


def main():
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    head = (
        "network",
        "precision",
        "operations of training",
        "evaluation",
        "signatures",
        "without a GPU's kernel",
        "training without XLA's",
    )
    for line in itertools.chain((head, ["---"] * len(head)), table_lines()):
        print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
