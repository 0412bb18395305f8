"""ResNet v1 (1512.03385) with dilation, named as keras.applications names it.

Convolutions have no bias, as in the papers; `weight_files` folds the biases of
keras.applications' files into BatchNorm. As there, the stride of a bottleneck sits on
its first 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow import keras

from deeplab_tf.backbones.output_stride import apply_output_stride
from deeplab_tf.layers import batch_norm, convolution

STAGE_STRIDES = (1, 2, 2, 2)  # conv2 .. conv5, behind a stem of stride 4


def resnet(
    image,
    output_stride: int,
    multi_grid: Sequence[int],
    *,
    units: Sequence[int],
    unit,
) -> dict:
    """Builds a ResNet up to its last stage.

    Args:
      image: normalised image [B, height, width, 3].
      output_stride: 8, 16 or 32.
      multi_grid: factors on the dilation of the last stage's units, in order
        (DeepLabV3, section 3.2.1); at least as many as it has units.
      units: number of residual units of stages conv2 to conv5.
      unit: `basic_unit` or `bottleneck_unit`.

    Returns:
      {"stride4": conv2's output, "out": conv5's output}.
    """
    x = _stem(image)
    features = {}
    steps = apply_output_stride(STAGE_STRIDES, output_stride, running_stride=4)
    for stage, step in enumerate(steps):
        grid = multi_grid if stage == 3 else (1,) * units[stage]
        for index in range(units[stage]):
            first = index == 0
            x = unit(
                x,
                64 * 2**stage,
                stride=step.stride if first else 1,
                entry_rate=step.entry_rate if first else step.rate * grid[index],
                rate=step.rate * grid[index],
                name=f"conv{stage + 2}_block{index + 1}",
            )
        if stage == 0:
            features["stride4"] = x
    return {**features, "out": x}


def _stem(image):
    x = convolution(image, 64, 7, stride=2, name="conv1_conv")
    x = batch_norm(x, name="conv1_bn")
    x = keras.layers.ReLU(name="conv1_relu")(x)
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    return keras.layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)


def bottleneck_unit(x, filters, *, stride, entry_rate, rate, name):
    """1x1 (strided), 3x3, 1x1 to 4 * filters; entry_rate is unused: a 1x1 has none."""
    del entry_rate
    shortcut = x
    if x.shape[-1] != 4 * filters:
        shortcut = convolution(x, 4 * filters, 1, stride=stride, name=f"{name}_0_conv")
        shortcut = batch_norm(shortcut, name=f"{name}_0_bn")
    x = convolution(x, filters, 1, stride=stride, name=f"{name}_1_conv")
    x = batch_norm(x, name=f"{name}_1_bn")
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    x = convolution(x, filters, 3, rate=rate, name=f"{name}_2_conv")
    x = batch_norm(x, name=f"{name}_2_bn")
    x = keras.layers.ReLU(name=f"{name}_2_relu")(x)
    x = convolution(x, 4 * filters, 1, name=f"{name}_3_conv")
    x = batch_norm(x, name=f"{name}_3_bn")
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_out")(x)


def basic_unit(x, filters, *, stride, entry_rate, rate, name):
    """3x3 (strided), 3x3, both of `filters`, as in ResNet-18 and -34."""
    shortcut = x
    if x.shape[-1] != filters:
        shortcut = convolution(x, filters, 1, stride=stride, name=f"{name}_0_conv")
        shortcut = batch_norm(shortcut, name=f"{name}_0_bn")
    x = convolution(
        x, filters, 3, stride=stride, rate=entry_rate, name=f"{name}_1_conv"
    )
    x = batch_norm(x, name=f"{name}_1_bn")
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    x = convolution(x, filters, 3, rate=rate, name=f"{name}_2_conv")
    x = batch_norm(x, name=f"{name}_2_bn")
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_out")(x)
