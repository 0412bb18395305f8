"""Modified aligned Xception-41, -65 and -71 (DeepLabV3+, section 3.2, figure 4).

Layers are named as the authors' code names its scopes, joined by underscores:
entry_flow_block1_separable_conv1_depthwise, ...
"""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow import keras

from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.blocks import batch_norm, convolution, depthwise_convolution

# Filters and stride of the entry flow's blocks.
ENTRY_BLOCKS = ((128, 2), (256, 2), (728, 2))
ENTRY_BLOCKS_71 = ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2))


def xception(
    image,
    output_stride: int,
    multi_grid: Sequence[int],
    *,
    middle_blocks: int,
    entry_blocks: Sequence[tuple[int, int]] = ENTRY_BLOCKS,
) -> dict:
    """Builds an aligned Xception up to its last block.

    Max-pooling is replaced by strided separable convolutions; every depthwise
    convolution is followed by BatchNorm.

    Args:
      image: normalised image [B, height, width, 3].
      output_stride: 8, 16 or 32.
      multi_grid: three factors on the dilation of the last block's convolutions.
      middle_blocks: 8 or 16.
      entry_blocks: (filters, stride) of each block of the entry flow.

    Returns:
      {"stride2": the second convolution, "stride4": second separable convolution of
      the last block that goes from stride 4 to 8, "stride8": that of the last from 8 to
      16, "auxiliary": the middle flow's output, "out": exit_flow_block2's output}.
    """
    strides = [stride for _, stride in entry_blocks] + [1] * middle_blocks + [2, 1]
    steps = iter(apply_output_stride(strides, output_stride, running_stride=2))
    x = convolution(image, 32, 3, stride=2, name="entry_flow_conv1_1")
    x = _batch_norm_relu(x, "entry_flow_conv1_1")
    x = convolution(x, 64, 3, name="entry_flow_conv1_2")
    x = _batch_norm_relu(x, "entry_flow_conv1_2")
    features = {"stride2": x}
    for index, (filters, _) in enumerate(entry_blocks, start=1):
        name = f"entry_flow_block{index}"
        x, second = _block(x, (filters,) * 3, next(steps), shortcut=True, name=name)
        if filters > 128:
            features["stride4" if filters == 256 else "stride8"] = second
    for index in range(1, middle_blocks + 1):
        name = f"middle_flow_unit_{index}"
        x, _ = _block(x, (728,) * 3, next(steps), shortcut=False, name=name)
    features["auxiliary"] = x
    filters = (728, 1024, 1024)
    x, _ = _block(x, filters, next(steps), shortcut=True, name="exit_flow_block1")
    step = next(steps)
    for index, filters in enumerate((1536, 1536, 2048), start=1):
        name = f"exit_flow_block2_separable_conv{index}"
        rate = step.rate * multi_grid[index - 1]
        x = _separable_convolution(x, filters, rate=rate, relu_after=True, name=name)
    return {**features, "out": x}


def _block(x, filters, step, *, shortcut, name):
    """Three separable convolutions, the last with the stride, beside a shortcut."""
    inputs, outputs = x, []
    for index, count in enumerate(filters, start=1):
        x = _separable_convolution(
            x,
            count,
            stride=step.stride if index == 3 else 1,
            rate=step.entry_rate,
            name=f"{name}_separable_conv{index}",
        )
        outputs.append(x)
    if shortcut:
        name_of_shortcut = f"{name}_shortcut"
        inputs = convolution(
            inputs, filters[-1], 1, stride=step.stride, name=name_of_shortcut
        )
        inputs = _batch_norm(inputs, name_of_shortcut)
    return keras.layers.Add(name=f"{name}_add")([inputs, x]), outputs[1]


def _separable_convolution(x, filters, *, name, stride=1, rate=1, relu_after=False):
    """Depthwise 3x3 and pointwise 1x1, each with BatchNorm.

    ReLU stands in front of both together or, in the last block, after each.
    """
    if not relu_after:
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
    # Padded symmetrically in every code base, whatever it does to its stem.
    x = depthwise_convolution(
        x,
        3,
        stride=stride,
        rate=rate,
        strided_padding="symmetric",
        name=f"{name}_depthwise",
    )
    x = _batch_norm(x, f"{name}_depthwise")
    if relu_after:
        x = keras.layers.ReLU(name=f"{name}_depthwise_relu")(x)
    x = convolution(x, filters, 1, name=f"{name}_pointwise")
    x = _batch_norm(x, f"{name}_pointwise")
    if relu_after:
        x = keras.layers.ReLU(name=f"{name}_pointwise_relu")(x)
    return x


def _batch_norm(x, name):
    return batch_norm(x, name=f"{name}_BN", epsilon=1e-3)


def _batch_norm_relu(x, name):
    return keras.layers.ReLU(name=f"{name}_relu")(_batch_norm(x, name))
