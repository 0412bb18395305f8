"""Backbones: image in, dictionary of features out, at any output stride."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Callable

from deeplab_tf.backbones.mobilenet_v2 import mobilenet_v2
from deeplab_tf.backbones.output_stride import OUTPUT_STRIDES
from deeplab_tf.backbones.resnet import basic_unit, bottleneck_unit, resnet
from deeplab_tf.layers import ImageNormalization

_KERAS_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A row of `BACKBONES`.

    Attributes:
      build: `build(normalised_image, output_stride, multi_grid) -> features`.
      normalization: what its ImageNet weights were trained with, a mode of
        `layers.ImageNormalization`.
      multi_grid_units: how many units of the last stage take a multi-grid factor.
      imagenet_url: keras.applications' file without top; None where there is none.
      imagenet_md5: its hash as Keras states it; None where Keras states none.
    """

    build: Callable
    normalization: str
    multi_grid_units: int
    imagenet_url: str | None = None
    imagenet_md5: str | None = None


def _resnet(units: Sequence[int], unit, **imagenet) -> Backbone:
    build = functools.partial(resnet, units=units, unit=unit)
    return Backbone(build, "caffe", units[-1], **imagenet)


def _keras_resnet(depth: int, units: Sequence[int], md5: str) -> Backbone:
    name = f"resnet{depth}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    url = f"{_KERAS_APPLICATIONS}resnet/{name}"
    return _resnet(units, bottleneck_unit, imagenet_url=url, imagenet_md5=md5)


def _mobilenet_v2(alpha: float) -> Backbone:
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224_no_top.h5"
    return Backbone(
        functools.partial(mobilenet_v2, alpha=alpha),
        "unit",
        3,
        imagenet_url=f"{_KERAS_APPLICATIONS}mobilenet_v2/{name}",
    )


BACKBONES = {
    "resnet18": _resnet((2, 2, 2, 2), basic_unit),
    "resnet34": _resnet((3, 4, 6, 3), basic_unit),
    "resnet50": _keras_resnet(50, (3, 4, 6, 3), "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": _keras_resnet(101, (3, 4, 23, 3), "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": _keras_resnet(152, (3, 8, 36, 3), "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    "mobilenet_v2": _mobilenet_v2(1.0),
}


def find_backbone(name: str) -> Backbone:
    """Returns the row of `BACKBONES`; `mobilenet_v2_0.5` is MobileNetV2 at alpha 0.5.

    Raises:
      ValueError: no such backbone.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    family, _, alpha = name.rpartition("_")
    try:
        if family == "mobilenet_v2" and float(alpha) > 0:
            return _mobilenet_v2(float(alpha))
    except ValueError:
        pass
    raise ValueError(
        f"backbone must be one of {sorted(BACKBONES)}, or mobilenet_v2_ALPHA such as "
        f"mobilenet_v2_0.5. Received: {name!r}"
    )


def backbone_features(
    name: str, image, output_stride: int, multi_grid: Sequence[int] = (1, 1, 1)
) -> dict:
    """Normalises the image and runs a backbone over it.

    Args:
      name: see `find_backbone`.
      image: RGB in 0..255, [B, height, width, 3].
      output_stride: 8, 16 or 32.
      multi_grid: dilation factors of the last stage's units; ResNet-18, with two units,
        uses the first two.

    Returns:
      Dictionary of tensors [B, ceil(height / s), ceil(width / s), channels]: "stride4"
      (s = 4) and "out" (s = output_stride).

    Raises:
      ValueError: unknown backbone or output stride, or too few multi-grid factors.
    """
    backbone = find_backbone(name)
    if len(multi_grid) < backbone.multi_grid_units or min(multi_grid) < 1:
        raise ValueError(
            f"multi_grid must hold {backbone.multi_grid_units} positive factors for "
            f"{name}. Received: {tuple(multi_grid)}"
        )
    image = ImageNormalization(backbone.normalization, name="normalization")(image)
    return backbone.build(image, output_stride, tuple(multi_grid))


__all__ = [
    "BACKBONES",
    "OUTPUT_STRIDES",
    "Backbone",
    "backbone_features",
    "find_backbone",
]
