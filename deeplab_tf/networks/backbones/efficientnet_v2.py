"""EfficientNetV2 (2104.00298) with dilation, named as keras.applications names it.

Stochastic depth is left out: Keras' files do not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from tensorflow import keras

from deeplab_tf.networks.backbones.activations import activate, squeeze_excitation
from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.blocks import (
    batch_norm,
    convolution,
    depthwise_convolution,
)


class Stage(NamedTuple):
    """Equal inverted residuals, a row of the paper's table 4.

    Attributes:
      fused: whether the expansion is a 3x3 with the stride and without
        squeeze-and-excitation (Fused-MBConv), or a 1x1 in front of a depthwise 3x3.
      blocks: how many.
      filters: of their outputs.
      expansion: channels inside, as a multiple of a block's input.
      stride: of the first block.
    """

    fused: bool
    blocks: int
    filters: int
    expansion: int
    stride: int


BASE_STAGES = (
    Stage(True, 1, 16, 1, 1),
    Stage(True, 2, 32, 4, 2),
    Stage(True, 2, 48, 4, 2),
    Stage(False, 3, 96, 4, 2),
    Stage(False, 5, 112, 6, 1),
    Stage(False, 8, 192, 6, 2),
)
S_STAGES = (
    Stage(True, 2, 24, 1, 1),
    Stage(True, 4, 48, 4, 2),
    Stage(True, 4, 64, 4, 2),
    Stage(False, 6, 128, 4, 2),
    Stage(False, 9, 160, 6, 1),
    Stage(False, 15, 256, 6, 2),
)
# Outputs of these stages.
FEATURES = {0: "stride2", 1: "stride4", 2: "stride8", 4: "auxiliary"}
MULTI_GRID_BLOCKS = 3


def efficientnet_v2(
    image,
    output_stride: int,
    multi_grid: Sequence[int],
    *,
    stages: Sequence[Stage],
    stem_filters: int,
    width: float = 1.0,
    depth: float = 1.0,
) -> dict:
    """Builds EfficientNetV2 up to its last block, without the 1280-wide 1x1.

    Args:
      image: normalised image [B, height, width, 3].
      output_stride: 8, 16 or 32.
      multi_grid: three factors on the dilation of the last three blocks.
      stages: `BASE_STAGES` or `S_STAGES`.
      stem_filters: of the first convolution.
      width, depth: multipliers of filters and blocks.

    Returns:
      {"stride2", "stride4", "stride8": output of the last block of that stride,
      "auxiliary": in front of the last stride, "out": the last block's output}.
    """
    x = convolution(
        image, _rounded(stem_filters * width), 3, stride=2, name="stem_conv"
    )
    x = activate(_batch_norm(x, "stem_bn"), "swish", name="stem_activation")
    counts = [ceil(stage.blocks * depth) for stage in stages]
    strides = [
        stage.stride if index == 0 else 1
        for stage, count in zip(stages, counts)
        for index in range(count)
    ]
    steps = iter(apply_output_stride(strides, output_stride, 2))
    features = {}
    for number, (stage, count) in enumerate(zip(stages, counts)):
        factors = [1] * count
        if number == len(stages) - 1:
            factors[-MULTI_GRID_BLOCKS:] = multi_grid[:MULTI_GRID_BLOCKS]
        for index in range(count):
            x = _block(
                x,
                stage if index == 0 else stage._replace(stride=1),
                next(steps),
                filters=_rounded(stage.filters * width),
                grid=factors[index],
                name=f"block{number + 1}{chr(ord('a') + index)}_",
            )
        if number in FEATURES:
            features[FEATURES[number]] = x
    return {**features, "out": x}


def _block(x, stage, step, *, filters, grid, name):
    """An inverted residual; a fused one without expansion is a single 3x3."""
    inputs, channels = x, x.shape[-1] * stage.expansion
    size = {"stride": step.stride, "rate": step.entry_rate * grid}
    kernel_size = 1
    if stage.fused and stage.expansion == 1:
        kernel_size = 3
    elif stage.fused:
        x = convolution(x, channels, 3, **size, name=f"{name}expand_conv")
        x = _batch_norm_swish(x, f"{name}expand_bn", f"{name}expand_activation")
    else:
        x = convolution(x, channels, 1, name=f"{name}expand_conv")
        x = _batch_norm_swish(x, f"{name}expand_bn", f"{name}expand_activation")
        x = depthwise_convolution(x, 3, **size, name=f"{name}dwconv2")
        x = _batch_norm_swish(x, f"{name}bn", f"{name}activation")
        x = squeeze_excitation(
            x,
            inputs.shape[-1] // 4,
            rate=step.rate,
            names=(f"{name}se_reduce", f"{name}se_expand"),
            activation="swish",
            gate="sigmoid",
            name=f"{name}se",
        )
    project = f"{name}project_conv"
    if kernel_size == 3:
        x = convolution(x, filters, 3, **size, name=project)
        x = _batch_norm_swish(x, f"{name}project_bn", f"{name}project_activation")
    else:
        x = _batch_norm(convolution(x, filters, 1, name=project), f"{name}project_bn")
    if stage.stride == 1 and inputs.shape[-1] == filters:
        x = keras.layers.Add(name=f"{name}add")([x, inputs])
    return x


def _rounded(filters: float) -> int:
    """The nearest multiple of 8, as Keras rounds it; at least 8."""
    return max(8, int(filters + 4) // 8 * 8)


def _batch_norm(x, name):
    return batch_norm(x, name=name, epsilon=1e-3, momentum=0.9)


def _batch_norm_swish(x, name, activation_name):
    return activate(_batch_norm(x, name), "swish", name=activation_name)
