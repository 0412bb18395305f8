"""What the papers put on top of a backbone, one function per figure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tensorflow import keras

from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.backbones.resnet import grid_factors, residual_unit
from deeplab_tf.networks.blocks import (
    apply_again,
    conv_bn_relu,
    convolution,
    current_defaults,
    global_mean,
    max_pool,
    resize_like,
    separable_conv_bn_relu,
)
from deeplab_tf.networks.layers import ResizeLike, ScaleImage, StatelessDropout

CASCADE_OUTPUT_STRIDES = (8, 16, 32, 64, 128, 256)
# The paper's rates, by the name of the variant; all at output stride 8 (DeepLabV2,
# section 4.1.2 and figure 7).
LARGE_FOV = (12,)
ASPP_S = (2, 4, 8, 12)
ASPP_L = (6, 12, 18, 24)


# --- DeepLabV1 -----------------------------------------------------------------------


def large_fov(x, image, *, rate: int, suffix: str = "", average_pooling: bool = False):
    """The dense layers of VGG-16 as convolutions, LargeFOV (DeepLabV1, section 3.2).

    pool5 without stride, fc6 3x3 of 1024 filters at `rate`, fc7 1x1.

    Args:
      x: conv5_3 [B, h, w, 512].
      image: input of the network, of which dropout makes its seed.
      rate: dilation of fc6, 12 at output stride 8.
      suffix: of the layers' names, where there are several.
      average_pooling: whether a 3x3 average follows pool5, as in the prototxt of V1.

    Returns:
      [B, h, w, 1024].
    """
    x = max_pool(x, stride=1, name=f"fc_pool5{suffix}")
    if average_pooling:
        # Caffe counts the padding in the mean.
        x = keras.layers.ZeroPadding2D(1, name=f"fc_pool5a{suffix}_pad")(x)
        x = keras.layers.AveragePooling2D(3, strides=1, name=f"fc_pool5a{suffix}")(x)
    for name, kernel_size in (("fc6", 3), ("fc7", 1)):
        x = convolution(
            x,
            1024,
            kernel_size,
            rate=rate if kernel_size > 1 else 1,
            use_bias=True,
            activation="relu",
            name=f"{name}{suffix}",
        )
        x = StatelessDropout(0.5, name=f"{name}{suffix}_dropout")([x, image])
    return x


def multi_scale_features(x, features: dict, output_stride: int):
    """Joins the image and pool1..pool4 to the last features (DeepLabV1, section 4.3).

    Each goes through a 3x3 of 128 filters, with the stride that is left, and a 1x1 of
    128: 640 channels join those of `x`.

    Args:
      x: the last features [B, h, w, channels].
      features: of VGG-16, "image" and "pool1" to "pool4".
      output_stride: of `x`.

    Returns:
      [B, h, w, channels + 640].
    """
    branches = [x]
    strides = {"image": 1, "pool1": 2, "pool2": 4, "pool3": 8, "pool4": output_stride}
    for source, stride in strides.items():
        branch, name = features[source], f"multi_scale_{source}"
        for index, kernel_size in ((1, 3), (2, 1)):
            branch = convolution(
                branch,
                128,
                kernel_size,
                stride=output_stride // stride if index == 1 else 1,
                use_bias=True,
                activation="relu",
                name=f"{name}_conv{index}",
            )
            dropout = StatelessDropout(0.5, name=f"{name}_dropout{index}")
            branch = dropout([branch, features["image"]])
        branches.append(branch)
    return keras.layers.Concatenate(name="multi_scale_concat")(branches)


# --- DeepLabV2 -----------------------------------------------------------------------


def aspp_sum(
    x,
    image,
    num_classes: int,
    output_stride: int,
    *,
    rates: Sequence[int] | None = None,
    dense: bool = False,
):
    """ASPP of DeepLabV2 (section 3.2, figure 7): logits of every rate, summed.

    Args:
      x: features [B, h, w, channels].
      image: input of the network, see `large_fov`.
      num_classes: of the logits.
      output_stride: of the features.
      rates: dilation of each branch; None is `ASPP_L`, scaled from output stride 8.
      dense: whether a branch is VGG's fc6, fc7 and a 1x1, or (ResNet) one 3x3.

    Returns:
      Logits [B, h, w, num_classes].
    """
    if rates is None:
        rates = scale_rates(ASPP_L, 8, output_stride)
    branches = []
    for index, rate in enumerate(rates, start=1):
        branch, options = x, {"kernel_size": 3, "rate": rate}
        if dense:
            branch, options = large_fov(x, image, rate=rate, suffix=f"_{index}"), {}
        name = f"logits_{index}"
        branches.append(
            logits(branch, num_classes, truncated=False, name=name, **options)
        )
    if len(branches) == 1:
        return branches[0]
    return keras.layers.Add(name="aspp_sum")(branches)


def at_scales(image, scores, scales: Sequence[float]) -> dict:
    """Runs the network between `image` and `scores` over the scaled image as well.

    Args:
      image: input of the network [B, height, width, 3].
      scores: its output [B, h, w, num_classes].
      scales: factors of height and width; 1 stands for `scores`.

    Returns:
      Scale -> scores [B, h * scale, w * scale, num_classes], about.
    """
    others = [scale for scale in scales if scale != 1]
    is_aligned = current_defaults().scale_resize == "aligned"
    images = [
        ScaleImage(scale, aligned=is_aligned, name=f"multi_scale_{scale}")(image)
        for scale in others
    ]
    return {1: scores, **dict(zip(others, apply_again(image, scores, images)))}


def put_back(scores: dict) -> dict:
    """Resizes the scores of each scale, of `at_scales`, to those of scale 1.

    Returns:
      Scale -> scores [B, h, w, num_classes].
    """
    results = {1: scores[1]}
    for scale, result in scores.items():
        if scale != 1:
            resize = ResizeLike(
                scale_stride(1, scale),
                dtype="float32",
                name=f"multi_scale_{scale}_resize",
            )
            results[scale] = resize([result, scores[1]])
    return results


def scale_stride(stride: int, scale: float) -> float | None:
    """Pixels of the image that a feature of stride `stride` of a scaled image is for.

    Feature j of a scaled image saw what feature j / scale of the image sees. None
    stands for features that are stretched over the whole image, see `LayerDefaults`.
    """
    is_aligned = scale == 1 or current_defaults().scale_resize == "aligned"
    return stride / scale if is_aligned else None


def maximum(scores: Sequence):
    """Fuses scores [B, h, w, num_classes] of several scales (DeepLabV2, 4.1.2)."""
    if len(scores) == 1:
        return scores[0]
    return keras.layers.Maximum(name="multi_scale_fusion", dtype="float32")(scores)


# --- DeepLabV3 -----------------------------------------------------------------------


def aspp(
    x,
    image,
    output_stride: int,
    *,
    rates: Sequence[int] | None = None,
    filters: int = 256,
    image_pooling: bool = True,
    separable: bool = False,
    dropout_rate: float = 0.0,
):
    """Atrous spatial pyramid pooling of DeepLabV3 (figure 5).

    Image-level pooling, a 1x1 and one 3x3 convolution per rate, each with BatchNorm,
    concatenated in the order of the authors' code and projected by a 1x1.

    Args:
      x: features [B, h, w, channels].
      image: input of the network, see `large_fov`.
      output_stride: theirs.
      rates: dilation of each 3x3 branch; None is `atrous_rates_for(output_stride)`. An
        empty one leaves the 1x1 and the image-level branch, as in the authors' networks
        for phones.
      filters: width of every branch and of the result.
      image_pooling: whether the image-level branch is there.
      separable: whether the 3x3 are separable (DeepLabV3+, section 3.1).
      dropout_rate: on the projection; the authors' code drops 0.1, the paper is silent.

    Returns:
      [B, h, w, filters].
    """
    if rates is None:
        rates = atrous_rates_for(output_stride)
    branches = [conv_bn_relu(x, filters, 1, name="aspp_1x1")]
    for index, rate in enumerate(rates, start=1):
        name = f"aspp_atrous{index}"
        branches.append(_conv3x3(x, filters, separable, rate=rate, name=name))
    if image_pooling:
        branches.insert(0, image_level_pooling(x, filters))
    if len(branches) > 1:
        x = keras.layers.Concatenate(name="aspp_concat")(branches)
    else:
        x = branches[0]
    x = conv_bn_relu(x, filters, 1, name="aspp_projection")
    if dropout_rate:
        x = StatelessDropout(dropout_rate, name="aspp_dropout")([x, image])
    return x


def atrous_rates_for(output_stride: int) -> tuple[int, int, int]:
    """DeepLabV3's rates: (6, 12, 18) at output stride 16, doubled at 8, halved at 32.

    Section 3.3: "the rates are doubled when output stride = 8".
    """
    return scale_rates((6, 12, 18), 16, output_stride)


def image_level_pooling(x, filters: int):
    """Global average, 1x1 convolution, spread over the map: [B, h, w, filters].

    DeepLabV3, section 3.3.
    """
    pooled = global_mean(x, name="aspp_pool")
    pooled = conv_bn_relu(pooled, filters, 1, name="aspp_pool")
    return ResizeLike(name="aspp_pool_resize")([pooled, x])


def cascade(x, output_stride: int, multi_grid: Sequence[int], blocks: int = 3):
    """block5, block6 and block7 of DeepLabV3: copies of a ResNet's block4 (figure 3).

    Args:
      x: block4's output [B, h, w, 2048], or 512 of a ResNet-18 or -34.
      output_stride: 8 to 256; each block has stride 2 as long as it is not reached.
      multi_grid: dilation factors of each block's three units (section 3.2.1).
      blocks: how many of them, 0 to 3; the paper's tables have 4 to 7 blocks in all.

    Returns:
      [B, ceil(height / output_stride), ceil(width / output_stride), channels of x].
    """
    strides = (1, 2, 2, 2) + (2,) * blocks
    steps = apply_output_stride(strides, output_stride, 4, CASCADE_OUTPUT_STRIDES)
    grid = grid_factors(multi_grid, 3)
    for block, step in enumerate(steps[4:], start=5):
        for unit in range(1, 4):
            x, _ = residual_unit(
                x,
                512,
                # The stride is the first unit's.
                step if unit == 1 else step._replace(stride=1, entry_rate=step.rate),
                bottleneck=x.shape[-1] == 2048,
                grid=grid[unit - 1],
                name=f"cascade_block{block}_unit{unit}",
            )
    return x


def pretrained_name(name: str) -> str:
    """Name of the classification network's weight that a weight begins with.

    Its own, but for block5..7 of the cascade, which are copies of block4 (their first
    unit has 2048 inputs as block4's second has), and the fc6 and fc7 of each rate.
    """
    name = re.sub(r"^(fc[67])_\d+", r"\1", name)
    return re.sub(
        r"^cascade_block\d_unit(\d)",
        lambda unit: f"conv5_block{max(2, int(unit[1]))}",
        name,
    )


def auxiliary_head(x, image, num_classes: int):
    """FCN head of torchvision's DeepLabV3: 3x3 to a quarter, dropout 0.1, 1x1.

    Args:
      x: features in front of the last stage [B, h, w, channels].
      image: input of the network, see `large_fov`.
      num_classes: of the logits.

    Returns:
      Logits [B, h, w, num_classes].
    """
    x = conv_bn_relu(x, x.shape[-1] // 4, 3, name="auxiliary")
    x = StatelessDropout(0.1, name="auxiliary_dropout")([x, image])
    return logits(x, num_classes, name="logits_auxiliary")


# --- DeepLabV3+ ----------------------------------------------------------------------


def low_level_decoder(
    x,
    low_level_features: Mapping,
    output_stride: int,
    *,
    filters: int = 256,
    low_level_filters: int = 48,
    separable: bool = False,
):
    """Decoder of DeepLabV3+ (figure 2), once for each stride of low-level features.

    Args:
      x: the encoder's output [B, h, w, channels].
      low_level_features: stride -> [B, ceil(height / stride), ceil(width / stride),
        channels]; from the largest stride on. The paper's decoder has 4 alone.
      output_stride: of `x`.
      filters: of its two 3x3.
      low_level_filters: of the 1x1 that reduces them; 48 is the best of table 1.
      separable: whether the 3x3 are separable.

    Returns:
      [B, h, w, filters], of the last stride.
    """
    for stride, features in low_level_features.items():
        prefix = "decoder" if stride == 4 else f"decoder_stride{stride}"
        low_level = conv_bn_relu(
            features, low_level_filters, 1, name=f"{prefix}_low_level"
        )
        x = resize_like(
            x, low_level, stride=output_stride // stride, name=f"{prefix}_upsample"
        )
        x = keras.layers.Concatenate(name=f"{prefix}_concat")([x, low_level])
        for index in (1, 2):
            x = _conv3x3(x, filters, separable, name=f"{prefix}_conv3x3_{index}")
        output_stride = stride
    return x


# --- MobileNetV3 ---------------------------------------------------------------------


def lite_r_aspp(
    x, low_level_features, num_classes: int, *, stride: int, filters: int = 128
):
    """Lite R-ASPP (1905.02244, section 6.4, figure 10), as the authors' code has it.

    A 1x1 with BatchNorm and ReLU times a gate of the image's mean, classified, and the
    low-level features classified: their sum. The gate's mean is over the whole image,
    as at the crops of 769 that the authors trained with; over 1024 x 2048 they take 4
    windows of 769 pixels. Classified is before the upsampling, not after it, which is
    the same function of fewer multiply-adds.

    Args:
      x: features [B, h, w, channels].
      low_level_features: [B, h * stride, w * stride, channels], of stride 8.
      num_classes: of the logits.
      stride: of `x` in low-level features, output stride / 8.
      filters: of the 1x1 and the gate; 128 is the last row of table 7.

    Returns:
      Logits [B, ceil(height / 8), ceil(width / 8), num_classes].
    """
    gates = convolution(
        global_mean(x, name="aspp_pool"),
        filters,
        1,
        use_bias=True,
        activation="sigmoid",
        name="aspp_gate",
    )
    x = conv_bn_relu(x, filters, 1, name="aspp_1x1")
    x = keras.layers.Multiply(name="aspp_gated")([x, gates])
    low_level = logits(low_level_features, num_classes, name="logits_low_level")
    x = logits(x, num_classes)
    x = resize_like(x, low_level, stride=stride, name="decoder_upsample")
    return keras.layers.Add(name="decoder_add", dtype="float32")([x, low_level])


# --- All of them ---------------------------------------------------------------------


def logits(
    x,
    num_classes: int,
    *,
    kernel_size: int = 1,
    rate: int = 1,
    truncated: bool = True,
    name: str = "logits",
):
    """A classifier: a convolution with bias, float32 under mixed precision too.

    Its kernel begins at N(0, 0.01), so that all classes are about equally likely at
    first; `truncated` cuts the distribution off at two deviations, as the authors'
    code in TensorFlow does (V3 and V3+). Their prototxts do not (V1 and V2).
    """
    initializers = keras.initializers
    normal = initializers.TruncatedNormal if truncated else initializers.RandomNormal
    return convolution(
        x,
        num_classes,
        kernel_size,
        rate=rate,
        use_bias=True,
        kernel_initializer=normal(stddev=0.01),
        dtype=keras.mixed_precision.global_policy().variable_dtype,
        name=name,
    )


def is_classifier(layer_name: str) -> bool:
    """Says whether a layer's shape depends on the number of classes."""
    return layer_name.startswith("logits")


def scale_rates(rates: Sequence[int], stride: int, output_stride: int) -> tuple:
    """Rates that see at `output_stride` what `rates` see at `stride`; at least 1."""
    return tuple(max(1, rate * stride // output_stride) for rate in rates)


def _conv3x3(x, filters, separable, *, name, rate=1):
    if separable:
        return separable_conv_bn_relu(x, filters, rate=rate, name=name)
    return conv_bn_relu(x, filters, 3, rate=rate, name=name)
