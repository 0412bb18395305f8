"""Networks of ours in PyTorch, layer by layer, and torchvision's own.

Needs torch, torchvision and numpy alone. Images are float32 [B, 3, h, w], RGB, 0 to
255, channels last.
"""

from __future__ import annotations

import functools
import json
import os

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.gpu import torch_rows
from benchmarks.peers.layer_files import EXAMPLE, LAYERS, WEIGHTS


class SameLayers(nn.Module):
    """A network out of the files of `layer_list.write_layer_list`, with its weights.

    Its images may be of any size. Up to rounding it computes the same where a stride
    divides the sides minus one (513 at stride 16); elsewhere its resizes reach the
    border of the image, as PyTorch's do, where ours repeat the last feature.

    Raises:
      ValueError: it does not give the example's logits.
    """

    def __init__(self, folder: str):
        super().__init__()
        with open(os.path.join(folder, LAYERS)) as file:
            network = json.load(file)
        weights = np.load(os.path.join(folder, WEIGHTS))
        self.ends = network["input"], network["output"]
        self.modules_by_name = nn.ModuleDict()
        self.steps = []
        padded = {}  # tensor -> the one before its padding, and that
        for layer in network["layers"]:
            inputs, kind = layer["inputs"], layer["kind"]
            if kind == "ZeroPadding2D" and _is_symmetric(**layer["options"]):
                (top, _), (left, _) = layer["options"]["padding"]
                padded[layer["output"]] = inputs[0], (top, left)
                continue
            arrays = []
            while f"{layer['name']}/{len(arrays)}" in weights:
                arrays.append(weights[f"{layer['name']}/{len(arrays)}"])
            module = _KINDS[kind](arrays, **layer["options"])
            if inputs[0] in padded:
                # PyTorch's own: its pooling's is of ReLU's features, where it is zero.
                source, padding = padded[inputs[0]]
                inputs = [source, *inputs[1:]]
                getattr(module, "convolution", module).padding = padding
            self.modules_by_name[layer["name"]] = module
            self.steps.append((layer["name"], inputs, layer["output"]))
        self._check(os.path.join(folder, EXAMPLE))

    def _check(self, path: str) -> None:
        example = np.load(path)
        with torch.inference_mode():
            image = torch.tensor(example["image"]).permute(0, 3, 1, 2)
            logits = self.eval()(image).permute(0, 2, 3, 1).numpy()
        difference = np.abs(logits - example["logits"]).max()
        relative = difference / np.abs(example["logits"]).max()
        if not relative < 1e-5:
            raise ValueError(f"Logits differ by {relative:.1g} of the largest.")

    def forward(self, image):
        """float32 [B, 3, h, w] -> logits [B, classes, h, w]."""
        tensors = {self.ends[0]: image}
        for name, inputs, output in self.steps:
            module = self.modules_by_name[name]
            tensors[output] = module(*(tensors[each] for each in inputs))
        return tensors[self.ends[1]]


class _Convolution(nn.Module):
    """Conv2d with TensorFlow's padding, which may be one pixel more behind."""

    def __init__(self, arrays, *, strides, padding, dilation_rate, depthwise=False):
        super().__init__()
        kernel, *bias = arrays
        height, width, inputs, outputs = kernel.shape
        groups = 1
        if depthwise:
            groups, outputs = inputs, inputs * outputs
            kernel = kernel.reshape(height, width, 1, outputs)
        self.convolution = nn.Conv2d(
            *(inputs, outputs, (height, width)),
            stride=tuple(strides),
            dilation=tuple(dilation_rate),
            groups=groups,
            bias=bool(bias),
        )
        self.is_same = padding == "same"
        with torch.no_grad():
            self.convolution.weight.copy_(torch.tensor(kernel).permute(3, 2, 0, 1))
            if bias:
                self.convolution.bias.copy_(torch.tensor(bias[0]))

    def forward(self, features):
        conv = self.convolution
        if self.is_same:
            pads = [
                max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
                for n, k, s, d in zip(
                    features.shape[2:], conv.kernel_size, conv.stride, conv.dilation
                )
            ]
            if all(pad % 2 == 0 for pad in pads):
                conv.padding = tuple(pad // 2 for pad in pads)
            else:
                conv.padding = (0, 0)
                top, left = (pad // 2 for pad in pads)
                around = (left, pads[1] - left, top, pads[0] - top)
                features = functional.pad(features, around)
        return conv(features)


class _BatchNorm(nn.BatchNorm2d):
    def __init__(self, arrays, *, epsilon):
        super().__init__(len(arrays[0]), eps=epsilon)
        with torch.no_grad():
            own = (self.weight, self.bias, self.running_mean, self.running_var)
            for parameter, array in zip(own, arrays):
                parameter.copy_(torch.tensor(array))


class _Normalization(nn.Module):
    def __init__(self, arrays, *, mean, deviation, bgr):
        super().__init__()
        self.bgr = bgr
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1))

    def forward(self, image):
        image = (image - self.mean) / self.deviation
        return image.flip(1) if self.bgr else image


class _Resize(nn.Module):
    def __init__(self, arrays, *, stride):
        super().__init__()

    def forward(self, features, reference):
        return functional.interpolate(
            features, reference.shape[2:], mode="bilinear", align_corners=True
        )


class _Function(nn.Module):
    """A layer without weights."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class _Dropout(nn.Dropout):
    def __init__(self, arrays, *, rate):
        super().__init__(rate)

    def forward(self, features, image):
        return super().forward(features)


def _is_symmetric(*, padding) -> bool:
    return all(before == after for before, after in padding)


def _zero_padding(arrays, *, padding):
    (top, bottom), (left, right) = padding
    around = (left, right, top, bottom)
    return _Function(functools.partial(functional.pad, pad=around))


def _relu(arrays, *, max_value=None):
    if max_value is None:
        return _Function(functional.relu)
    assert max_value == 6, max_value
    return _Function(functional.relu6)


_KINDS = {
    "AtrousConv2D": _Convolution,
    "AtrousDepthwiseConv2D": functools.partial(_Convolution, depthwise=True),
    "FusedBatchNormalization": _BatchNorm,
    "ReLU": _relu,
    "Add": lambda arrays: _Function(torch.add),
    "Concatenate": lambda arrays: _Function(lambda *inputs: torch.cat(inputs, 1)),
    "ZeroPadding2D": _zero_padding,
    "MaxPooling2D": lambda arrays, pool_size, strides, padding: nn.MaxPool2d(
        tuple(pool_size), tuple(strides)
    ),
    "GlobalAveragePooling2D": lambda arrays: nn.AdaptiveAvgPool2d(1),
    "ResizeLike": _Resize,
    "ImageNormalization": _Normalization,
    "StatelessDropout": _Dropout,
}


def torchvision_network() -> nn.Module:
    """torchvision's DeepLabV3 on ResNet-50, output stride 16, of 21 classes."""
    return _Logits(torch_rows.network(output_stride=16))


class _Logits(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(image)["out"]


def make_step(network: nn.Module, case: dict, compiled: bool):
    """A function that trains one step, or gives the classes of one batch.

    Args:
      network: images -> logits [B, classes, h, w].
      case: "step", "batch_size", "size", "num_classes", "precision", see the main
        module.
      compiled: whether by torch.compile.
    """
    network = network.to(memory_format=torch.channels_last)
    image = torch.rand(case["batch_size"], 3, *case["size"]) * 255
    image = image.to(memory_format=torch.channels_last)
    shape = (case["batch_size"], *case["size"])
    label = torch.randint(0, case["num_classes"], shape)
    call = torch.compile(network) if compiled else network
    half = case["precision"] == "bfloat16"

    def logits():
        with torch.autocast("cpu", torch.bfloat16, half):
            return call(image).float()

    if case["step"] == "forward":
        network.eval()

        def forward():
            with torch.inference_mode():
                return logits().argmax(1)

        return forward
    network.train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.007, momentum=0.9, weight_decay=1e-4
    )

    def train():
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(logits(), label, ignore_index=255)
        loss.backward()
        optimizer.step()
        return loss.item()

    return train
