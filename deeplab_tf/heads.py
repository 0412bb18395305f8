"""What the papers put on top of a backbone, one function per figure."""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow import keras

from deeplab_tf.layers import ResizeLike, conv_bn_relu, convolution


def atrous_rates_for(output_stride: int) -> tuple[int, int, int]:
    """ASPP's rates: (6, 12, 18) at output stride 16, doubled at 8, halved at 32.

    DeepLabV3, section 3.3: "the rates are doubled when output stride = 8".
    """
    return tuple(rate * 16 // output_stride for rate in (6, 12, 18))


def aspp(
    x,
    *,
    rates: Sequence[int],
    filters: int = 256,
    image_pooling: bool = True,
    dropout_rate: float = 0.0,
):
    """Atrous spatial pyramid pooling of DeepLabV3 (figure 5).

    Image-level pooling, a 1x1 and one 3x3 convolution per rate, each with BatchNorm,
    concatenated in the order of the authors' code and projected by a 1x1.

    Args:
      x: features [B, h, w, channels].
      rates: dilation of each 3x3 branch; see `atrous_rates_for`.
      filters: width of every branch and of the result.
      image_pooling: whether the image-level branch is there.
      dropout_rate: on the projection; the authors' code drops 0.1, the paper is silent.

    Returns:
      [B, h, w, filters].
    """
    branches = [conv_bn_relu(x, filters, 1, name="aspp_1x1")]
    for index, rate in enumerate(rates, start=1):
        branches.append(
            conv_bn_relu(x, filters, 3, rate=rate, name=f"aspp_atrous{index}")
        )
    if image_pooling:
        branches.insert(0, image_level_pooling(x, filters))
    x = keras.layers.Concatenate(name="aspp_concat")(branches)
    x = conv_bn_relu(x, filters, 1, name="aspp_projection")
    if dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name="aspp_dropout")(x)
    return x


def image_level_pooling(x, filters: int):
    """Global average -> 1x1 convolution -> spread over the map (section 3.3)."""
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True, name="aspp_pool")(x)
    pooled = conv_bn_relu(pooled, filters, 1, name="aspp_pool")
    return ResizeLike(name="aspp_pool_resize")([pooled, x])


def logits(x, num_classes: int):
    """The classifier: a 1x1 convolution with bias, never in half precision."""
    dtype = keras.mixed_precision.global_policy().variable_dtype
    return convolution(x, num_classes, 1, use_bias=True, name="logits", dtype=dtype)
