"""MobileNetV3 (1905.02244) with dilation, named as Keras 3's applications name it.

Keras 2, whose files are the ones that are downloaded, has slashes in the names of its
layers, which Keras 3 does not allow: see `keras3_names`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tensorflow import keras

from deeplab_tf.networks.backbones.activations import activate, squeeze_excitation
from deeplab_tf.networks.backbones.mobilenet_v2 import width
from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.blocks import (
    batch_norm,
    convolution,
    depthwise_convolution,
)


class Block(NamedTuple):
    """An inverted residual, a row of the paper's tables 1 and 2.

    Attributes:
      expansion: channels inside, as a multiple of its input's.
      filters: of its output.
      kernel_size: of its depthwise convolution.
      squeeze: whether it has squeeze-and-excitation.
      activation: a row of `activations.ACTIVATIONS`.
      stride: 1 or 2.
    """

    expansion: float
    filters: int
    kernel_size: int
    squeeze: bool
    activation: str
    stride: int = 1


LARGE = (
    Block(1, 16, 3, False, "relu"),
    Block(4, 24, 3, False, "relu", 2),
    Block(3, 24, 3, False, "relu"),
    Block(3, 40, 5, True, "relu", 2),
    *[Block(3, 40, 5, True, "relu")] * 2,
    Block(6, 80, 3, False, "hard_swish", 2),
    Block(2.5, 80, 3, False, "hard_swish"),
    *[Block(2.3, 80, 3, False, "hard_swish")] * 2,
    *[Block(6, 112, 3, True, "hard_swish")] * 2,
    Block(6, 160, 5, True, "hard_swish", 2),
    *[Block(6, 160, 5, True, "hard_swish")] * 2,
)
SMALL = (
    Block(1, 16, 3, True, "relu", 2),
    Block(72 / 16, 24, 3, False, "relu", 2),
    Block(88 / 24, 24, 3, False, "relu"),
    Block(4, 40, 5, True, "hard_swish", 2),
    *[Block(6, 40, 5, True, "hard_swish")] * 2,
    *[Block(3, 48, 5, True, "hard_swish")] * 2,
    Block(6, 96, 5, True, "hard_swish", 2),
    *[Block(6, 96, 5, True, "hard_swish")] * 2,
)


def mobilenet_v3(
    image,
    output_stride: int,
    multi_grid: Sequence[int],
    *,
    blocks: Sequence[Block],
    alpha: float = 1.0,
    halved_tail: bool = False,
    minimalistic: bool = False,
    torchvision: bool = False,
) -> dict:
    """Builds MobileNetV3 up to the last convolution in front of its pooling.

    Args:
      image: normalised image [B, height, width, 3].
      output_stride: 8, 16 or 32.
      multi_grid: factors on the dilation of the blocks after the last stride.
      blocks: `LARGE` or `SMALL`.
      alpha: width multiplier.
      halved_tail: half the channels from the last stride on, as the authors'
        segmentation networks have them (section 6.4).
      minimalistic: no squeeze-and-excitation, hard-swish or 5x5, as Keras' networks of
        that name.
      torchvision: as its segmentation networks have it. Its weights were trained at
        output stride 16, where the depthwise convolution that carried the last stride
        is dilated too, and features are outputs of the blocks that carry a stride.

    Returns:
      {"stride2", "stride4", "stride8": the depthwise convolution of the last block of
      that stride, in front of its squeeze-and-excitation, where the authors' code takes
      low-level features, "auxiliary": in front of the last stride, in torchvision's the
      features of stride 8, "out": six times as many channels as the last block's}.
    """
    if minimalistic:
        plain = {"kernel_size": 3, "squeeze": False, "activation": "relu"}
        blocks = [block._replace(**plain) for block in blocks]
    if halved_tail:
        blocks = _with_halved_tail(blocks)
    activation = blocks[-1].activation
    x = convolution(image, 16, 3, stride=2, name="conv")
    x = activate(_batch_norm(x, "conv_bn"), activation, name="conv_activation")
    features, running_stride = {"stride2": x}, 2
    strides = [block.stride for block in blocks]
    steps = apply_output_stride(strides, output_stride, 2)
    trained = apply_output_stride(strides, 16 if torchvision else 32, 2)
    grid = dict(zip(range(_last_stride(blocks) + 1, len(blocks)), multi_grid))
    for index, (step, block) in enumerate(zip(steps, blocks)):
        if index == _last_stride(blocks):
            features["auxiliary"] = x
        running_stride *= block.stride
        x, expanded = _inverted_residual(
            *(x, block, step, trained[index]),
            alpha=alpha,
            grid=grid.get(index, 1),
            name=f"expanded_conv_{index}" if index else "expanded_conv",
        )
        if block.stride > 1 or not torchvision:
            features[f"stride{running_stride}"] = x if torchvision else expanded
    if torchvision:
        features["auxiliary"] = features["stride8"]
    x = convolution(x, width(6 * x.shape[-1], 1.0), 1, name="conv_1")
    x = activate(_batch_norm(x, "conv_1_bn"), activation, name="conv_1_activation")
    kept = ("stride2", "stride4", "stride8", "auxiliary")
    return {**{name: features[name] for name in kept}, "out": x}


def _inverted_residual(x, block, step, trained, *, alpha, grid, name):
    """Returns (output, the depthwise convolution's, expanded).

    Args:
      step, trained: of `apply_output_stride` here, and where the weights were trained.
    """
    inputs, channels = x, width(x.shape[-1] * block.expansion, 1.0)
    filters = width(block.filters, alpha)
    if name != "expanded_conv":  # the first block
        x = convolution(x, channels, 1, name=f"{name}_expand")
        x = _batch_norm(x, f"{name}_expand_bn")
        x = activate(x, block.activation, name=f"{name}_expand_activation")
    x = depthwise_convolution(
        x,
        block.kernel_size,
        stride=step.stride,
        rate=step.entry_rate * grid * trained.rate // trained.entry_rate,
        name=f"{name}_depthwise",
    )
    x = _batch_norm(x, f"{name}_depthwise_bn")
    x = activate(x, block.activation, name=f"{name}_depthwise_activation")
    expanded = x
    if block.squeeze:
        prefix = f"{name}_squeeze_excite"
        x = squeeze_excitation(
            x,
            width(channels / 4, 1.0),
            rate=max(1, step.rate // trained.rate),
            names=(f"{prefix}_conv", f"{prefix}_conv_1"),
            activation="relu",
            gate="hard_sigmoid",
            name=prefix,
        )
    x = convolution(x, filters, 1, name=f"{name}_project")
    x = _batch_norm(x, f"{name}_project_bn")
    if block.stride == 1 and inputs.shape[-1] == filters:
        x = keras.layers.Add(name=f"{name}_add")([inputs, x])
    return x, expanded


def _last_stride(blocks) -> int:
    """Index of the block with the last stride."""
    return max(index for index, block in enumerate(blocks) if block.stride > 1)


def _with_halved_tail(blocks) -> list[Block]:
    last = _last_stride(blocks)
    tail = [block._replace(filters=block.filters // 2) for block in blocks[last:]]
    tail[0] = tail[0]._replace(expansion=tail[0].expansion / 2)
    return [*blocks[:last], *tail]


def _batch_norm(x, name):
    return batch_norm(x, name=name, epsilon=1e-3, momentum=0.999)


def keras3_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames Keras 2's layers as Keras 3 does.

    expanded_conv_3/depthwise/BatchNorm/gamma -> expanded_conv_3_depthwise_bn/gamma
    """
    renamed = {}
    for name, array in arrays.items():
        layer, _, leaf = name.rpartition("/")
        layer = layer.replace("/BatchNorm", "_bn").replace("/", "_").lower()
        renamed[f"{layer}/{leaf}"] = array
    return renamed
