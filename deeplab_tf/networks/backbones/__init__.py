"""Backbones: image in, dictionary of features out, at any output stride."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Callable

from deeplab_tf.command_names import did_you_mean
from deeplab_tf.networks.backbones.convnext import convnext, convolutions_of_keras
from deeplab_tf.networks.backbones.efficientnet_v2 import (
    BASE_STAGES,
    S_STAGES,
    efficientnet_v2,
)
from deeplab_tf.networks.backbones.keras_applications import (
    APPLICATIONS,
    keras_application,
)
from deeplab_tf.networks.backbones.mobilenet_v2 import mobilenet_v2
from deeplab_tf.networks.backbones.mobilenet_v3 import (
    LARGE,
    SMALL,
    keras3_names,
    mobilenet_v3,
)
from deeplab_tf.networks.backbones.output_stride import OUTPUT_STRIDES
from deeplab_tf.networks.backbones.resnet import resnet
from deeplab_tf.networks.backbones.vgg import fully_connected_as_convolutions, vgg16
from deeplab_tf.networks.backbones.xception import ENTRY_BLOCKS_71, xception
from deeplab_tf.networks.blocks import current_defaults
from deeplab_tf.networks.layers import ImageNormalization
from deeplab_tf.networks.weight_files import fold_convolution_biases

_KERAS_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A row of `BACKBONES`.

    Attributes:
      build: `build(normalised_image, output_stride, multi_grid) -> features`.
      normalization: what its weights were trained with, a row of
        `layers.NORMALIZATIONS`.
      multi_grid_units: how many units of the last stage take a multi-grid factor.
      multi_grid: the factors a paper or the authors' code use with it.
      separable: whether DeepLabV3+ uses separable convolutions in ASPP and decoder.
      auxiliary_stride: the largest that its features for an auxiliary head have.
      imagenet_url: keras.applications' file; None where there is none.
      imagenet_hash: its MD5 or SHA-256, as Keras states it; None where it states none.
      adapt: turns the arrays of that file into arrays by our names.
    """

    build: Callable
    normalization: str
    multi_grid_units: int
    multi_grid: tuple[int, ...] = (1, 1, 1)
    separable: bool = False
    auxiliary_stride: int = 16
    imagenet_url: str | None = None
    imagenet_hash: str | None = None
    adapt: Callable[[dict], dict] = dict


def _resnet(units: Sequence[int], normalization: str = "caffe", **changes) -> Backbone:
    row = {name: changes.pop(name) for name in list(changes) if "imagenet" in name}
    return Backbone(
        functools.partial(resnet, units=units, **changes),
        normalization,
        multi_grid_units=units[-1],
        multi_grid=(1, 2, 4),
        adapt=fold_convolution_biases,
        **row,
    )


def _keras_resnet(depth: int, units: Sequence[int], md5: str) -> Backbone:
    name = f"resnet{depth}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    url = f"{_KERAS_APPLICATIONS}resnet/{name}"
    return _resnet(units, imagenet_url=url, imagenet_hash=md5)


def _mobilenet_v2(alpha: float, divisor: int = 8) -> Backbone:
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224_no_top.h5"
    return Backbone(
        functools.partial(mobilenet_v2, alpha=alpha, divisor=divisor),
        "unit",
        3,
        # Keras' widths are multiples of 8.
        imagenet_url=f"{_KERAS_APPLICATIONS}mobilenet_v2/{name}"
        if divisor == 8
        else None,
    )


# MD5 of keras.applications' files without a top, by size, minimalistic and alpha.
_MOBILENET_V3_FILES = {
    ("large", False, 0.75): "40af19a13ebea4e2ee0c676887f69a2e",
    ("large", False, 1.0): "07fb09a5933dd0c8eaafa16978110389",
    ("large", True, 1.0): "ec5221f64a2f6d1ef965a614bdae7973",
    ("small", False, 0.75): "ebdb5cc8e0b497cd13a7c275d475c819",
    ("small", False, 1.0): "d3e8ec802a04aa4fc771ee12a9a9b836",
    ("small", True, 1.0): "cde8136e733e811080d9fcd8a252f7e4",
}


def _mobilenet_v3(size: str, alpha: float = 1.0, **changes) -> Backbone:
    blocks = LARGE if size == "large" else SMALL
    minimalistic = changes.get("minimalistic", False)
    url = md5 = None
    torchvision = changes.get("torchvision", False)
    if not (changes.get("halved_tail") or torchvision):
        md5 = _MOBILENET_V3_FILES.get((size, minimalistic, alpha))
    if md5:
        kind = f"{size}_minimalistic" if minimalistic else size
        name = f"weights_mobilenet_v3_{kind}_224_{alpha}_float_no_top_v2.h5"
        url = f"{_KERAS_APPLICATIONS}mobilenet_v3/{name}"
    return Backbone(
        functools.partial(mobilenet_v3, blocks=blocks, alpha=alpha, **changes),
        "torch" if torchvision else "unit",
        2,
        auxiliary_stride=8 if torchvision else 16,
        imagenet_url=url,
        imagenet_hash=md5,
        adapt=keras3_names,
    )


def _efficientnet_v2(name: str, md5: str, normalization="torch", **changes) -> Backbone:
    changes = {"stages": BASE_STAGES, "stem_filters": 32, **changes}
    return Backbone(
        functools.partial(efficientnet_v2, **changes),
        normalization,
        3,
        imagenet_url=f"{_KERAS_APPLICATIONS}efficientnet_v2/{name}_notop.h5",
        imagenet_hash=md5,
    )


def _convnext(name: str, sha256: str, depths, filters) -> Backbone:
    return Backbone(
        functools.partial(convnext, name=name, depths=depths, filters=filters),
        "torch",
        depths[-1],
        imagenet_url=f"{_KERAS_APPLICATIONS}convnext/{name}_notop.h5",
        imagenet_hash=sha256,
        adapt=convolutions_of_keras,
    )


def _keras_application(name: str) -> Backbone:
    application = APPLICATIONS[name]
    return Backbone(
        functools.partial(keras_application, application=name),
        application.normalization,
        0,
        multi_grid=(),
        imagenet_url=application.url,
        imagenet_hash=application.md5,
    )


def _xception(middle_blocks: int, **changes) -> Backbone:
    build = functools.partial(xception, middle_blocks=middle_blocks, **changes)
    return Backbone(build, "unit", 3, separable=True)


def _torchvision_resnet(units: Sequence[int]) -> Backbone:
    return _resnet(units, "torch", stride_place="first_3x3")


def _keras_hub_resnet(units: Sequence[int]) -> Backbone:
    return _resnet(units, "none", stride_place="first_3x3", low_level_output=True)


def _beta_resnet(units: Sequence[int]) -> Backbone:
    return _resnet(units, "unit", stride_place="last_3x3", beta_stem=True)


BACKBONES = {
    "vgg16": Backbone(
        vgg16,
        "caffe",
        0,
        multi_grid=(),
        imagenet_url=f"{_KERAS_APPLICATIONS}vgg16/"
        "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
        imagenet_hash="64373286793e3c8b2b4e3219cbf3544b",
        adapt=fully_connected_as_convolutions,
    ),
    "resnet18": _resnet((2, 2, 2, 2), bottleneck=False),
    "resnet34": _resnet((3, 4, 6, 3), bottleneck=False),
    "resnet50": _keras_resnet(50, (3, 4, 6, 3), "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": _keras_resnet(101, (3, 4, 23, 3), "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": _keras_resnet(152, (3, 8, 36, 3), "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    # As torchvision's segmentation models have them: stride on the 3x3.
    "resnet50_torchvision": _torchvision_resnet((3, 4, 6, 3)),
    "resnet101_torchvision": _torchvision_resnet((3, 4, 23, 3)),
    # As Keras Hub has it: plain RGB, low-level features where the stage ends.
    "resnet50_keras_hub": _keras_hub_resnet((3, 4, 6, 3)),
    # As the authors' TensorFlow code has them: three 3x3 in the stem.
    "resnet50_beta": _beta_resnet((3, 4, 6, 3)),
    "resnet101_beta": _beta_resnet((3, 4, 23, 3)),
    "xception41": _xception(8),
    "xception65": _xception(16),
    "xception71": _xception(16, entry_blocks=ENTRY_BLOCKS_71),
    "mobilenet_v2": _mobilenet_v2(1.0),
    "mobilenet_v3_large": _mobilenet_v3("large"),
    "mobilenet_v3_small": _mobilenet_v3("small"),
    # As the authors' segmentation networks have them.
    "mobilenet_v3_large_seg": _mobilenet_v3("large", halved_tail=True),
    "mobilenet_v3_small_seg": _mobilenet_v3("small", halved_tail=True),
    # As torchvision's have it: trained at output stride 16.
    "mobilenet_v3_large_torchvision": _mobilenet_v3("large", torchvision=True),
    "mobilenet_v3_large_minimalistic": _mobilenet_v3("large", minimalistic=True),
    "mobilenet_v3_small_minimalistic": _mobilenet_v3("small", minimalistic=True),
    "efficientnet_v2_b0": _efficientnet_v2(
        "efficientnetv2-b0", "893217f2bb855e2983157299931e43ff"
    ),
    "efficientnet_v2_b1": _efficientnet_v2(
        "efficientnetv2-b1", "0e80663031ca32d657f9caa404b6ec37", depth=1.1
    ),
    "efficientnet_v2_b2": _efficientnet_v2(
        "efficientnetv2-b2", "1dfe2e7a5d45b6632553a8961ea609eb", width=1.1, depth=1.2
    ),
    "efficientnet_v2_b3": _efficientnet_v2(
        "efficientnetv2-b3", "f6abf7b5849ac99a89b50dd3fd532856", width=1.2, depth=1.4
    ),
    "efficientnet_v2_s": _efficientnet_v2(
        "efficientnetv2-s",
        "af0682fb74e8c54910f2d4393339c070",
        "unit_128",
        stages=S_STAGES,
        stem_filters=24,
    ),
    "convnext_tiny": _convnext(
        "convnext_tiny",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
        (3, 3, 9, 3),
        (96, 192, 384, 768),
    ),
}


def find_backbone(name: str) -> Backbone:
    """Returns the row of `BACKBONES`; `mobilenet_v2_0.5` is MobileNetV2 at alpha 0.5.

    So is `mobilenet_v3_large_0.75`, and `mobilenet_v3_small_0.75`.
    `mobilenet_v2_0.5_unrounded` has the widths of the authors' TensorFlow code, which
    does not round them to multiples of 8. `keras.ResNet50V2` is a network of
    keras.applications as it is there, one of `keras_applications.APPLICATIONS`.

    Raises:
      ValueError: no such backbone.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    match = re.fullmatch(r"mobilenet_v2_(\d+(?:\.\d+)?)(_unrounded)?", name)
    if match and float(match[1]) > 0:
        return _mobilenet_v2(float(match[1]), divisor=1 if match[2] else 8)
    match = re.fullmatch(r"mobilenet_v3_(large|small)_(\d+(?:\.\d+)?)", name)
    if match and float(match[2]) > 0:
        return _mobilenet_v3(match[1], float(match[2]))
    family, _, application = name.partition(".")
    if family == "keras" and application in APPLICATIONS:
        return _keras_application(application)
    choices = [*BACKBONES, *(f"keras.{each}" for each in APPLICATIONS)]
    raise ValueError(
        f"backbone must be one of {sorted(choices)}, or mobilenet_v2_ALPHA such as "
        f"mobilenet_v2_0.5. Received: {name!r}.{did_you_mean(name, choices)}"
    )


def backbone_features(
    name: str, image, output_stride: int, multi_grid: Sequence[int] | None = None
) -> dict:
    """Normalises the image and runs a backbone over it.

    Args:
      name: see `find_backbone`.
      image: RGB in 0..255, [B, height, width, 3].
      output_stride: 8, 16 or 32.
      multi_grid: dilation factors of the last stage's units; ResNet-18, with two units,
        uses the first two. None is the backbone's own.

    Returns:
      Dictionary of tensors [B, ceil(height / s), ceil(width / s), channels]: "stride2",
      which ConvNeXt does not have, "stride4" and "stride8" (low-level features),
      "auxiliary" (in front of the last stage) and "out" (s = output_stride).

    Raises:
      ValueError: unknown backbone or output stride, or too few multi-grid factors.
    """
    backbone = find_backbone(name)
    if multi_grid is None:
        multi_grid = backbone.multi_grid
    if len(multi_grid) < backbone.multi_grid_units or min(multi_grid, default=1) < 1:
        raise ValueError(
            f"multi_grid must hold {backbone.multi_grid_units} positive factors for "
            f"{name}. Received: {tuple(multi_grid)}"
        )
    mode = current_defaults().normalization or backbone.normalization
    image = ImageNormalization(mode, name="normalization")(image)
    return backbone.build(image, output_stride, tuple(multi_grid))


__all__ = [
    "BACKBONES",
    "OUTPUT_STRIDES",
    "Backbone",
    "backbone_features",
    "find_backbone",
]
