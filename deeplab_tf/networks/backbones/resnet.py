"""ResNet v1 (1512.03385) with dilation, named as keras.applications names it.

Convolutions have no bias, as in the papers; `weight_files` folds the biases of
keras.applications' files into BatchNorm. Where a bottleneck's stride sits is what the
published weights differ in: see `STRIDE_PLACES`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow import keras

from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.blocks import (
    batch_norm,
    conv_bn_relu,
    convolution,
    current_defaults,
    keep_every,
    max_pool,
)

STAGE_STRIDES = (1, 2, 2, 2)  # conv2 .. conv5, after a stem of stride 4
STRIDE_PLACES = {
    # Of a stage's units, the one with the stride; of its convolutions, the one.
    "first_1x1": (0, 1),  # the paper, Caffe, keras.applications
    "first_3x3": (0, 2),  # torchvision ("v1.5")
    "last_3x3": (-1, 2),  # TF-slim: the stride of the next stage, in the last unit
}


def resnet(
    image,
    output_stride: int,
    multi_grid: Sequence[int],
    *,
    units: Sequence[int],
    bottleneck: bool = True,
    beta_stem: bool = False,
    stride_place: str = "first_1x1",
    low_level_output: bool = False,
) -> dict:
    """Builds a ResNet up to its last stage.

    Args:
      image: normalised image [B, height, width, 3].
      output_stride: 8, 16 or 32.
      multi_grid: factors on the dilation of the last stage's units, in order
        (DeepLabV3, section 3.2.1); at least as many as it has units.
      units: number of residual units of stages conv2 to conv5.
      bottleneck: whether units are 1x1, 3x3, 1x1 or (ResNet-18, -34) two 3x3.
      beta_stem: three 3x3 convolutions in the place of the 7x7 (the authors' code).
      stride_place: a row of `STRIDE_PLACES`.
      low_level_output: whether conv2's output is "stride4", as in Keras Hub.

    Returns:
      {"stride2": the stem in front of its pooling, "stride4": second unit of conv2 in
      front of its addition, where DeepLabV3+ takes its low-level features, "stride8":
      the last but one of conv3, "auxiliary": conv4's output, "out": conv5's output}.
    """
    x = _beta_stem(image) if beta_stem else _stem(image)
    features = {"stride2": x}
    x = max_pool(x, stride=2, name="pool1_pool")
    unit_with_stride, strided_convolution = STRIDE_PLACES[stride_place]
    strides = _unit_strides(units, unit_with_stride)
    steps = iter(apply_output_stride(strides, output_stride, running_stride=4))
    for stage, num_units in enumerate(units):
        is_last = stage == len(units) - 1
        grid = grid_factors(multi_grid if is_last else (), num_units)
        for index in range(num_units):
            x, residual = residual_unit(
                x,
                64 * 2**stage,
                next(steps),
                grid=grid[index],
                bottleneck=bottleneck,
                strided_convolution=strided_convolution,
                name=f"conv{stage + 2}_block{index + 1}",
            )
            if (stage, index) == (0, 1):
                features["stride4"] = residual
            elif (stage, index) == (1, num_units - 2):
                features["stride8"] = residual
        if stage == 0 and low_level_output:
            features["stride4"] = x
        if stage == len(units) - 2:
            features["auxiliary"] = x
    return {**features, "out": x}


def grid_factors(multi_grid: Sequence[int], num_units: int) -> tuple:
    """The multi-grid factor of each unit of a stage; None for all where all are 1."""
    factors = tuple(multi_grid[:num_units])
    return factors if set(factors) - {1} else (None,) * num_units


def residual_unit(
    x, filters, step, *, grid=None, bottleneck=True, strided_convolution=1, name
):
    """One residual unit.

    Args:
      x: input [B, h, w, channels].
      filters: of its 3x3 convolutions; a bottleneck gives 4 times as many.
      step: its `Atrous`.
      grid: multi-grid factor on its dilation; None is no multi-grid.
      bottleneck: 1x1, 3x3, 1x1 rather than two 3x3.
      strided_convolution: 1 or 2, which of a bottleneck's has the stride.
      name: prefix of its layers.

    Returns:
      (output, the residual before it was added).
    """
    out_filters = 4 * filters if bottleneck else filters
    follows_stage = current_defaults().multi_grid_rates == "stage"
    shortcut = _shortcut(x, out_filters, step.stride, name)
    for index, kernel_size in enumerate((1, 3) if bottleneck else (3, 3), start=1):
        part, stride, rate = f"{name}_{index}", 1, step.rate
        if index == (strided_convolution if bottleneck else 1):
            stride, rate = step.stride, step.entry_rate
            if kernel_size > 1 and grid and follows_stage:
                # The stride first, so that the rate counts pixels of the stage at
                # every output stride.
                x = keep_every(x, stride, name=f"{part}_pool")
                stride, rate = 1, step.rate
        x = convolution(
            x,
            filters,
            kernel_size,
            stride=stride,
            rate=rate * (grid or 1) if kernel_size > 1 else 1,
            name=f"{part}_conv",
        )
        x = batch_norm(x, name=f"{part}_bn")
        if bottleneck or index == 1:
            x = keras.layers.ReLU(name=f"{part}_relu")(x)
    if bottleneck:
        x = convolution(x, out_filters, 1, name=f"{name}_3_conv")
        x = batch_norm(x, name=f"{name}_3_bn")
    output = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_out")(output), x


def _unit_strides(units, unit_with_stride) -> list[int]:
    """Stride of every unit: a stage's own in its first, or the next one's in its last.

    _unit_strides((2, 2), 0) == [1, 1, 2, 1]; with -1 it is [1, 2, 1, 1].
    """
    strides = [[1] * count for count in units]
    for stage, stride in enumerate(STAGE_STRIDES[1 : len(units)], start=1):
        strides[stage + unit_with_stride][unit_with_stride] = stride
    return [stride for stage in strides for stride in stage]


def _shortcut(x, filters, stride, name):
    """Projection where the channels change, else the pixels the stride keeps."""
    if x.shape[-1] != filters:
        x = convolution(x, filters, 1, stride=stride, name=f"{name}_0_conv")
        return batch_norm(x, name=f"{name}_0_bn")
    return keep_every(x, stride, name=f"{name}_0_pool")


def _stem(image):
    return conv_bn_relu(image, 64, 7, stride=2, name="conv1")


def _beta_stem(image):
    x = conv_bn_relu(image, 64, 3, stride=2, name="conv1_1")
    x = conv_bn_relu(x, 64, 3, name="conv1_2")
    return conv_bn_relu(x, 128, 3, name="conv1_3")
