"""Backbones: image in, dictionary of features out, at any output stride."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Callable

from deeplab_tf.command_names import did_you_mean
from deeplab_tf.networks.backbones.mobilenet_v2 import mobilenet_v2
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
      imagenet_url: keras.applications' file; None where there is none.
      imagenet_md5: its hash as Keras states it; None where Keras states none.
      adapt: turns the arrays of that file into arrays by our names.
    """

    build: Callable
    normalization: str
    multi_grid_units: int
    multi_grid: tuple[int, ...] = (1, 1, 1)
    separable: bool = False
    imagenet_url: str | None = None
    imagenet_md5: str | None = None
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
    return _resnet(units, imagenet_url=url, imagenet_md5=md5)


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
        imagenet_md5="64373286793e3c8b2b4e3219cbf3544b",
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
}


def find_backbone(name: str) -> Backbone:
    """Returns the row of `BACKBONES`; `mobilenet_v2_0.5` is MobileNetV2 at alpha 0.5.

    `mobilenet_v2_0.5_unrounded` has the widths of the authors' TensorFlow code, which
    does not round them to multiples of 8.

    Raises:
      ValueError: no such backbone.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    match = re.fullmatch(r"mobilenet_v2_(\d+(?:\.\d+)?)(_unrounded)?", name)
    if match and float(match[1]) > 0:
        return _mobilenet_v2(float(match[1]), divisor=1 if match[2] else 8)
    raise ValueError(
        f"backbone must be one of {sorted(BACKBONES)}, or mobilenet_v2_ALPHA such as "
        f"mobilenet_v2_0.5. Received: {name!r}.{did_you_mean(name, BACKBONES)}"
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
      Dictionary of tensors [B, ceil(height / s), ceil(width / s), channels]: "stride4"
      (s = 4, low-level features), "auxiliary" (in front of the last stage) and "out"
      (s = output_stride).

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
