"""Rows of the page of speed that run PyTorch; they need torch and torchvision."""

from __future__ import annotations

import json
import time

import torch
from torch.utils import mkldnn

from benchmarks.peers.convolutions import read_convolutions
from benchmarks.peers.torch_networks import SameLayers, make_step, torchvision_network


def same_layers(case: dict, folder: str):
    """Our network layer by layer in PyTorch, out of the folder's layer list."""
    return make_step(SameLayers(folder), case, compiled=False)


def same_layers_compiled(case: dict, folder: str):
    """The same through torch.compile."""
    return make_step(SameLayers(folder), case, compiled=True)


def torchvision(case: dict, folder: str):
    """torchvision's deeplabv3_resnet50, at output stride 16."""
    return make_step(torchvision_network(), case, compiled=False)


def torchvision_compiled(case: dict, folder: str):
    """The same through torch.compile."""
    return make_step(torchvision_network(), case, compiled=True)


def layers(case: dict, folder: str):
    """{convolution: seconds} of each that benchmarks.limit asks for, by oneDNN."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[case["precision"]]
    runs = {}
    for each in read_convolutions(folder):
        height, width, inputs, outputs, rows, columns, stride, rate, groups = each
        convolution = torch.nn.Conv2d(
            *(inputs, outputs, (rows, columns), stride),
            padding=(rate * (rows // 2), rate * (columns // 2)),
            dilation=rate,
            groups=groups,
            bias=False,
        ).eval()
        image = torch.ones(1, inputs, height * stride, width * stride)
        # oneDNN's own order of features and weights.
        runs[json.dumps(each)] = (
            mkldnn.to_mkldnn(convolution, dtype),
            image.to_mkldnn(dtype),
        )

    def run():
        seconds = {}
        with torch.inference_mode():
            for name, (convolution, image) in runs.items():
                start = time.perf_counter()
                convolution(image)
                seconds[name] = time.perf_counter() - start
        return seconds

    return run
