"""MobileNetV2 (1801.04381) with dilation, named as keras.applications names it."""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow import keras

from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.blocks import batch_norm, convolution, depthwise_convolution

# Table 2 of the paper: expansion, filters and stride of the 17 inverted residuals.
BLOCKS = (
    [(1, 16, 1)]
    + [(6, 24, 2), (6, 24, 1)]
    + [(6, 32, 2)] + [(6, 32, 1)] * 2
    + [(6, 64, 2)] + [(6, 64, 1)] * 3
    + [(6, 96, 1)] * 3
    + [(6, 160, 2)] + [(6, 160, 1)] * 2
    + [(6, 320, 1)]
)  # fmt: skip
MULTI_GRID_BLOCKS = (14, 15, 16)  # the three after the last stride
AUXILIARY_BLOCK = 12  # the last in front of it
LOW_LEVEL_BLOCKS = {0: "stride2", 2: "stride4", 5: "stride8"}


def mobilenet_v2(
    image,
    output_stride: int,
    multi_grid: Sequence[int],
    *,
    alpha: float = 1.0,
    divisor: int = 8,
) -> dict:
    """Builds MobileNetV2 up to its last inverted residual, without the 1280-wide 1x1.

    Args:
      image: normalised image [B, height, width, 3].
      output_stride: 8, 16 or 32.
      multi_grid: three factors on the dilation of the blocks after the last stride.
      alpha: width multiplier.
      divisor: of which all widths are multiples.

    Returns:
      {"stride4": the depthwise convolution of block_2, where the authors' code takes
      low-level features, "stride2", "stride8": those of the first block and block_5,
      "auxiliary": output of block_12, "out": output of block_16}.
    """
    x = convolution(image, width(32, alpha, divisor), 3, stride=2, name="Conv1")
    x = _batch_norm(x, "bn_Conv1")
    x = keras.layers.ReLU(6.0, name="Conv1_relu")(x)
    features = {}
    grid = dict(zip(MULTI_GRID_BLOCKS, multi_grid))
    steps = apply_output_stride([block[2] for block in BLOCKS], output_stride, 2)
    for index, (step, block) in enumerate(zip(steps, BLOCKS)):
        expansion, filters, stride = block
        x, expanded = _inverted_residual(
            x,
            expansion,
            width(filters, alpha, divisor),
            stride=step.stride,
            rate=step.entry_rate * grid.get(index, 1),
            residual=stride == 1,
            name=f"block_{index}" if index else "expanded_conv",
        )
        if index in LOW_LEVEL_BLOCKS:
            features[LOW_LEVEL_BLOCKS[index]] = expanded
        if index == AUXILIARY_BLOCK:
            features["auxiliary"] = x
    return {**features, "out": x}


def _inverted_residual(x, expansion, filters, *, stride, rate, residual, name):
    """Returns (output, the depthwise convolution's, expanded)."""
    inputs = x
    if expansion > 1:
        x = convolution(x, expansion * x.shape[-1], 1, name=f"{name}_expand")
        x = _batch_norm(x, f"{name}_expand_BN")
        x = keras.layers.ReLU(6.0, name=f"{name}_expand_relu")(x)
    x = depthwise_convolution(x, 3, stride=stride, rate=rate, name=f"{name}_depthwise")
    x = _batch_norm(x, f"{name}_depthwise_BN")
    expanded = keras.layers.ReLU(6.0, name=f"{name}_depthwise_relu")(x)
    x = convolution(expanded, filters, 1, name=f"{name}_project")
    x = _batch_norm(x, f"{name}_project_BN")
    if residual and inputs.shape[-1] == filters:
        x = keras.layers.Add(name=f"{name}_add")([inputs, x])
    return x, expanded


def _batch_norm(x, name):
    return batch_norm(x, name=name, epsilon=1e-3, momentum=0.999)


def width(filters: int, alpha: float, divisor: int = 8) -> int:
    """Multiple of divisor nearest to filters * alpha, never below 90 % of it, or 8."""
    nearest = int(filters * alpha + divisor / 2) // divisor * divisor
    if nearest < 0.9 * filters * alpha:
        nearest += divisor
    return max(8, nearest)
