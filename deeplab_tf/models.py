"""The DeepLab networks: each is a backbone, a head and an upsampling.

Every model takes `image`, float32 RGB [B, height, width, 3] in 0..255, and returns
`logits`, float32 [B, height, width, num_classes] at the same size.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tensorflow import keras

from deeplab_tf import heads
from deeplab_tf.backbones import backbone_features, find_backbone
from deeplab_tf.layers import ResizeLike, layer_defaults
from deeplab_tf.weight_files import load_imagenet_weights

MIN_IMAGE_SIZE = 32  # pixels a side; under it the last feature map is a single cell


def DeepLabV3(
    num_classes: int,
    backbone: str = "resnet101",
    output_stride: int = 16,
    multi_grid: Sequence[int] = (1, 2, 4),
    atrous_rates: Sequence[int] | None = None,
    image_pooling: bool = True,
    dropout_rate: float = 0.0,
    input_shape: tuple = (None, None, 3),
    weights: str | None = None,
    name: str = "deeplab_v3",
):
    """DeepLabV3 with atrous spatial pyramid pooling (1706.05587, figure 5).

    The same weights fit every output stride: train at 16, evaluate at 8.

    Args:
      num_classes: classes of the logits, without the ignored one.
      backbone: a name of `backbones.BACKBONES`, or mobilenet_v2_ALPHA.
      output_stride: input pixels per feature, 8, 16 or 32.
      multi_grid: dilation factors of the last stage's units (section 3.2.1).
      atrous_rates: dilations of ASPP's 3x3 branches; None follows the output stride:
        (6, 12, 18) at 16, (12, 24, 36) at 8, (3, 6, 9) at 32.
      image_pooling: whether ASPP has its image-level branch.
      dropout_rate: in front of the classifier; the authors' code uses 0.1.
      input_shape: (height, width, 3) or any size (None, None, 3).
      weights: None, "imagenet", or the path of a keras.applications file.
      name: name of the model.

    Raises:
      ValueError: an argument out of its choices, or a weight file that does not fit.
    """
    image = _image_input(input_shape, num_classes)
    features = backbone_features(backbone, image, output_stride, multi_grid)
    _load_backbone(image, features, backbone, weights)
    x = heads.aspp(
        features["out"],
        rates=atrous_rates or heads.atrous_rates_for(output_stride),
        image_pooling=image_pooling,
        dropout_rate=dropout_rate,
    )
    return _segmentation_model(image, x, num_classes, output_stride, name)


MODELS = {"deeplab_v3": DeepLabV3}


def build_model(config, *, output_stride: int | None = None, synchronized=False):
    """Builds the model of a `config.TrainConfig`, without pretrained weights.

    Args:
      config: names the model, its backbone and options.
      output_stride: instead of the configuration's; a given `atrous_rates` belongs to
        the configuration's output stride and is scaled with it.
      synchronized: whether BatchNorm computes its statistics over all replicas.

    Raises:
      ValueError: unknown model, backbone or output stride.
    """
    if config.model not in MODELS:
        raise ValueError(
            f"model must be one of {sorted(MODELS)}. Received: {config.model!r}"
        )
    stride = output_stride or config.output_stride
    rates = config.atrous_rates and tuple(
        max(1, rate * config.output_stride // stride) for rate in config.atrous_rates
    )
    with layer_defaults(
        weight_decay=config.weight_decay,
        batch_norm_momentum=config.batch_norm_momentum,
        synchronized_batch_norm=synchronized,
    ):
        return MODELS[config.model](
            num_classes=config.num_classes,
            backbone=config.backbone,
            output_stride=stride,
            multi_grid=config.multi_grid,
            atrous_rates=rates,
            image_pooling=config.image_pooling,
            dropout_rate=config.dropout_rate,
        )


def _image_input(input_shape, num_classes):
    """Checks what is common to all models and makes their input."""
    if num_classes < 2:
        raise ValueError(
            "num_classes must be at least 2 (background is a class). "
            f"Received: {num_classes}"
        )
    sizes = [size for size in input_shape[:2] if size is not None]
    if len(input_shape) != 3 or input_shape[2] != 3:
        raise ValueError(
            f"input_shape must be (height, width, 3). Received: {input_shape}"
        )
    if sizes and min(sizes) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"input_shape must be at least {MIN_IMAGE_SIZE} pixels a side. "
            f"Received: {input_shape}"
        )
    return keras.Input(input_shape, name="image")


def _load_backbone(image, features, backbone, weights):
    if weights is not None:
        backbone_model = keras.Model(image, features["out"])
        report = load_imagenet_weights(backbone_model, find_backbone(backbone), weights)
        logging.getLogger(__name__).info("%s", report)


def _segmentation_model(image, x, num_classes, stride, name):
    """Classifier and bilinear upsampling to the size of the image, in float32."""
    logits = heads.logits(x, num_classes)
    logits = ResizeLike(stride, dtype="float32", name="upsample")([logits, image])
    return keras.Model(image, logits, name=name)
