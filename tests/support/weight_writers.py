"""Files of other projects, written by hand, and the names of their tensors."""

from __future__ import annotations

import importlib.util
import json
import re
import zlib
from collections import OrderedDict

import h5py
import numpy as np
import tensorflow as tf

from tests.support.torch_writers import Storage, Tensor

_TORCH_STORAGES = {"float32": "FloatStorage", "int64": "LongStorage"}
# Filters and expansion of MobileNetV2's 17 blocks (table 2 of its paper).
_MOBILENET_BLOCKS = (
    [(16, 1)]
    + [(24, 6)] * 2
    + [(32, 6)] * 3
    + [(64, 6)] * 4
    + [(96, 6)] * 3
    + [(160, 6)] * 3
    + [(320, 6)]
)
# Widths at half the size, in multiples of 8 and as they come.
ROUNDED_HALF = {16: 8, 24: 16, 32: 16, 64: 32, 96: 48, 160: 80, 320: 160}
UNROUNDED_HALF = {filters: filters // 2 for filters in ROUNDED_HALF}


def load_rule(shared_data):
    """The module that the golden files' weights and images were made with."""
    path = shared_data / "golden" / "rule.py"
    specification = importlib.util.spec_from_file_location("golden_rule", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def golden(shared_data, name):
    """Returns (tensors by the names of the source, the rule, outputs)."""
    rule = load_rule(shared_data)
    folder = shared_data / "golden"
    shapes = json.loads((folder / f"{name}.names.json").read_text())
    tensors = {key: rule.tensor(key, tuple(shape)) for key, shape in shapes.items()}
    return tensors, rule, dict(np.load(folder / f"{name}.npz"))


def random_tensor(name: str, shape) -> np.ndarray:
    """Seeded by its name, and so that no layer explodes."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith(("gamma", "variance")):
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    if len(shape) == 1:
        return rng.normal(0, 0.05, shape).astype(np.float32)
    fan_in = np.prod(shape[:2] if "depthwise_" in name else shape[:3])
    return rng.normal(0, np.sqrt(1.3 / fan_in), shape).astype(np.float32)


def state_dict(tensors) -> OrderedDict:
    """What PyTorch's `torch.save` would be given; `torch_writers` write it."""
    return OrderedDict(
        (name, Tensor(Storage(array, _TORCH_STORAGES[array.dtype.name]), array.shape))
        for name, array in tensors.items()
    )


def write_legacy_h5(path, tensors):
    """Writes {"<layer>/<leaf>": array} as Keras 2's `save_weights` does."""
    layers = {}
    for name in tensors:
        layers.setdefault(name.rpartition("/")[0], []).append(name)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, names in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                group[f"{name}:0"] = tensors[name]
    return path


def write_checkpoint(prefix, tensors):
    """Writes a TensorFlow 1 checkpoint, with what training leaves beside weights."""
    slots = {
        f"{name}/Momentum": np.zeros_like(array)
        for name, array in tensors.items()
        if array.ndim == 1 and "moving_" not in name
    }
    everything = {**tensors, **slots, "global_step": np.asarray(30000, np.int64)}
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(everything),
        shape_and_slices=[""] * len(everything),
        tensors=[tf.constant(array) for array in everything.values()],
    )
    return prefix


def bonlime_mobilenet(num_classes=4, widths=ROUNDED_HALF, tensor=random_tensor):
    """Tensors of keras-deeplab-v3-plus' DeepLabV3 on MobileNetV2, by its names."""
    shapes = {}

    def convolution(name, inputs, outputs, kernel_size=1):
        shapes[f"{name}/kernel"] = (kernel_size, kernel_size, inputs, outputs)
        batch_norm(name, outputs)

    def batch_norm(name, channels):
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes[f"{name}_BN/{leaf}"] = (channels,)

    convolution("Conv", 3, widths[32], 3)
    inputs = widths[32]
    for index, (filters, expansion) in enumerate(_MOBILENET_BLOCKS):
        prefix = f"expanded_conv_{index}_" if index else "expanded_conv_"
        if index:
            convolution(f"{prefix}expand", inputs, expansion * inputs)
        shapes[f"{prefix}depthwise/depthwise_kernel"] = (3, 3, expansion * inputs, 1)
        batch_norm(f"{prefix}depthwise", expansion * inputs)
        convolution(f"{prefix}project", expansion * inputs, widths[filters])
        inputs = widths[filters]
    convolution("image_pooling", inputs, 256)
    convolution("aspp0", inputs, 256)
    convolution("concat_projection", 512, 256)
    shapes["custom_logits_semantic/kernel"] = (1, 1, 256, num_classes)
    shapes["custom_logits_semantic/bias"] = (num_classes,)
    return {name: tensor(name, shape) for name, shape in shapes.items()}


def slim_names(tensors, backbone: str):
    """Tensors by the names of keras-deeplab-v3-plus -> those of research/deeplab.

    Args:
      tensors: by the first names.
      backbone: scope of the backbone, "xception_65" or "MobilenetV2".
    """
    return {_slim_name(name, backbone): array for name, array in tensors.items()}


def _slim_name(name: str, backbone: str) -> str:
    layer, _, leaf = name.rpartition("/")
    layer = layer.replace("custom_logits", "logits")
    leaf = leaf.replace("kernel", "weights").replace("bias", "biases")
    batch_norm = "BatchNorm/" if layer.endswith("_BN") else ""
    layer = re.sub("_BN$", "", layer)
    for pattern, scopes in (
        (r"(entry|exit)_flow_(block\d)_", r"\1_flow/\2/unit_1/xception_module/"),
        (r"middle_flow_(unit_\d+)_", r"middle_flow/block1/\1/xception_module/"),
        (r"entry_flow_(conv1_\d)", r"entry_flow/\1"),
        (r"expanded_conv_(\d+)_(?=[edp])", r"expanded_conv_\1/"),
        (r"expanded_conv_(?=[dp])", "expanded_conv/"),
        (r"(feature_projection0|decoder_conv\d)", r"decoder/\1"),
        (r"logits_semantic", "logits/semantic"),
    ):
        layer = re.sub(f"^{pattern}", scopes, layer)
    head = ("image_pooling", "aspp", "concat", "decoder", "logits")
    scope = "" if layer.startswith(head) else f"{backbone}/"
    return f"{scope}{layer}/{batch_norm}{leaf}"


def slim_resnet_beta(units, num_classes: int) -> dict:
    """A tensor of its own constant for each name of V3+ on a ResNet with three 3x3.

    ASPP and decoder are not separable, as research/deeplab has them by default.
    """
    shapes = {}

    def convolution(name, inputs, outputs, kernel_size=1):
        shapes[f"{name}/weights"] = (kernel_size, kernel_size, inputs, outputs)
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes[f"{name}/BatchNorm/{leaf}"] = (outputs,)

    scope = f"resnet_v1_{3 * sum(units) + 2}"
    for index, (inputs, outputs) in enumerate(((3, 64), (64, 64), (64, 128)), start=1):
        convolution(f"{scope}/conv1_{index}", inputs, outputs, 3)
    inputs = 128
    for block, count in enumerate(units, start=1):
        middle = 32 * 2**block
        for unit in range(1, count + 1):
            name = f"{scope}/block{block}/unit_{unit}/bottleneck_v1"
            if unit == 1:
                convolution(f"{name}/shortcut", inputs, 4 * middle)
            convolution(f"{name}/conv1", inputs, middle)
            convolution(f"{name}/conv2", middle, middle, 3)
            convolution(f"{name}/conv3", middle, 4 * middle)
            inputs = 4 * middle
    convolution("image_pooling", inputs, 256)
    convolution("aspp0", inputs, 256)
    for index in (1, 2, 3):
        convolution(f"aspp{index}", inputs, 256, 3)
    convolution("concat_projection", 5 * 256, 256)
    convolution("decoder/feature_projection0", 256, 48)
    convolution("decoder/decoder_conv0/decoder_conv0_1", 304, 256, 3)
    convolution("decoder/decoder_conv0/decoder_conv0_2", 256, 256, 3)
    shapes["logits/semantic/weights"] = (1, 1, 256, num_classes)
    shapes["logits/semantic/biases"] = (num_classes,)
    return {
        name: np.full(shape, index, np.float32)
        for index, (name, shape) in enumerate(shapes.items())
    }
