"""ConvNeXt (2201.03545) with dilation, named as keras.applications names it.

Kernels of even size that do not overlap make its strides, 4x4 and three 2x2. Without
its stride a 2x2 sees the same two pixels a side, `rate` apart. No padding centres it:
see `BORDERS`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from tensorflow import keras

from deeplab_tf.networks.backbones.activations import LayerScale, activate
from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.blocks import (
    convolution,
    current_defaults,
    depthwise_convolution,
)

STAGE_STRIDES = (1, 2, 2, 2)  # after a stem of stride 4
# Zeros in front of the kernel of the stem and of each stride. "symmetric": the last
# one looks back, which makes up for the others. Then a feature of the last stage lies
# 1.5 pixels before i * 32, not 15.5 after it: 0.5 + 2 + 4 - 8.
BORDERS = {"symmetric": (1, 0, 0, 1), "same": (0, 0, 0, 0)}
FEATURES = ("stride4", "stride8", "auxiliary")  # outputs of the first three stages


def convnext(
    image,
    output_stride: int,
    multi_grid: Sequence[int],
    *,
    depths: Sequence[int],
    filters: Sequence[int],
    name: str,
) -> dict:
    """Builds ConvNeXt, with the LayerNorm that Keras has after the last stage.

    Args:
      image: normalised image [B, height, width, 3].
      output_stride: 8, 16 or 32.
      multi_grid: factors on the dilation of the last stage's blocks.
      depths, filters: blocks and channels of each stage.
      name: prefix of its layers.

    Returns:
      {"stride4", "stride8": outputs of the first two stages, "auxiliary": in front of
      the last stride, "out": [B, h, w, filters[-1]]}; the stem leaves out stride 2.
    """
    # "caffe" is symmetric but for pooling.
    borders = BORDERS.get(current_defaults().strided_padding, BORDERS["symmetric"])
    x = _patches(image, filters[0], 4, borders[0], stride=4, name=f"{name}_stem_conv")
    x = _layer_norm(x, f"{name}_stem_layernorm")
    features = {}
    steps = apply_output_stride(STAGE_STRIDES, output_stride, running_stride=4)
    for stage, (step, depth) in enumerate(zip(steps, depths)):
        if stage:
            features[FEATURES[stage - 1]] = x
            x = _layer_norm(x, f"{name}_downsampling_layernorm_{stage - 1}")
            x = _patches(
                x,
                filters[stage],
                2,
                borders[stage],
                stride=step.stride,
                rate=step.entry_rate,
                name=f"{name}_downsampling_conv_{stage - 1}",
            )
        grid = multi_grid if stage == len(depths) - 1 else ()
        for block in range(depth):
            rate = step.rate * (grid[block] if block < len(grid) else 1)
            x = _block(x, rate, f"{name}_stage_{stage}_block_{block}")
    return {**features, "out": _layer_norm(x, f"{name}_head_layernorm")}


def _patches(x, filters, kernel_size, before, *, stride, rate=1, name):
    """An even kernel as large as its stride in the network that was trained."""
    border = (before * rate, (kernel_size - 1 - before) * rate)
    return convolution(
        x,
        filters,
        kernel_size,
        stride=stride,
        rate=rate,
        border=border,
        use_bias=True,
        name=name,
    )


def _block(x, rate, name):
    """Depthwise 7x7, LayerNorm, 1x1 to four times the channels, GELU, 1x1; residual."""
    inputs, filters = x, x.shape[-1]
    x = depthwise_convolution(
        x, 7, rate=rate, use_bias=True, name=f"{name}_depthwise_conv"
    )
    x = _layer_norm(x, f"{name}_layernorm")
    x = convolution(x, 4 * filters, 1, use_bias=True, name=f"{name}_pointwise_conv_1")
    x = activate(x, "gelu", name=f"{name}_gelu")
    x = convolution(x, filters, 1, use_bias=True, name=f"{name}_pointwise_conv_2")
    x = LayerScale(name=f"{name}_layer_scale")(x)
    return keras.layers.Add(name=f"{name}_add")([inputs, x])


def _layer_norm(x, name):
    return keras.layers.LayerNormalization(epsilon=1e-6, name=name)(x)


def convolutions_of_keras(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turns the arrays of Keras' ConvNeXt into those of `convnext`.

    Keras has dense layers for the 1x1, grouped convolutions for the depthwise ones, a
    Sequential around each stride, a last LayerNorm without a name, and no name for the
    factors of a layer scale.
    """
    prefix = next(name.partition("_stage_")[0] for name in arrays if "_stage_" in name)
    turned = {}
    for name, array in arrays.items():
        layer, _, leaf = name.rpartition("/")
        is_norm = leaf in ("gamma", "beta")
        layer = re.sub(
            r"^layer_normalization(_\d+)?$", f"{prefix}_head_layernorm", layer
        )
        part = "layernorm" if is_norm else "conv"
        layer = re.sub(r"_stem$", f"_stem_{part}", layer)
        layer = re.sub(r"_block_(\d)$", rf"_{part}_\1", layer)
        if "layernorm" in layer:
            # Files of Keras 3 have no names for the arrays of a layer.
            leaf = {"kernel": "gamma", "bias": "beta"}.get(leaf, leaf)
        elif layer.endswith("_layer_scale"):
            leaf = "gamma"
        elif layer.endswith("_depthwise_conv") and leaf == "kernel":
            array = array.transpose(0, 1, 3, 2)
        elif "_pointwise_conv_" in layer and leaf == "kernel":
            array = array[None, None]
        turned[f"{layer}/{leaf}"] = array
    return turned
