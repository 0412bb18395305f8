"""The DeepLab networks: each is a backbone, a head and an upsampling.

Every model takes `image`, float32 RGB [B, height, width, 3] in 0..255, and returns
logits, float32 [B, height, width, num_classes] at the same size. With
`auxiliary_outputs=True`, for training, a dictionary instead: "logits", and others of
the same shape that have a loss of their own.

Arguments that all models share:
  num_classes: classes of the logits, without the ignored one.
  backbone: a name that `backbones.find_backbone` knows, such as resnet50.
  output_stride: input pixels per feature; the same weights fit each of its choices.
  input_shape: (height, width, 3) or any size (None, None, 3).
  weights: None, "imagenet", or the path of a keras.applications file, for the backbone.
  name: name of the model.
All raise ValueError for an argument out of its choices, or a weight file that does not
fit.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence

from deeplab_tf.command_names import did_you_mean
from deeplab_tf.networks import heads
from deeplab_tf.networks.backbones import backbone_features, find_backbone
from deeplab_tf.networks.blocks import (
    conv_bn_relu,
    is_of_head,
    layer_defaults,
)
from deeplab_tf.networks.segmentation_model import (
    MIN_IMAGE_SIZE as MIN_IMAGE_SIZE,  # what others ask of a network's image
)
from deeplab_tf.networks.segmentation_model import (
    SegmentationModel,
    image_input,
    image_outputs,
)
from deeplab_tf.networks.weight_files import (
    WeightReport,
    copy_weights,
    named_weights,
    read_imagenet_weights,
)

ANY_SIZE = (None, None, 3)
NO_MULTI_GRID = (1, 1, 1)
SCALE_LOSSES = ("input", "own")


def DeepLabV1(
    num_classes: int,
    backbone: str = "vgg16",
    output_stride: int = 8,
    multi_scale_features: bool = False,
    input_shape: tuple = ANY_SIZE,
    weights: str | None = None,
    name: str = "deeplab_v1",
):
    """DeepLab-LargeFOV and DeepLab-MSc-LargeFOV (1412.7062).

    Args:
      backbone: "vgg16".
      output_stride: 8, or 16.
      multi_scale_features: MSc, branches from the image and pool1..pool4 (section 4.3).
    """
    image = image_input(input_shape, num_classes)
    _require(backbone == "vgg16", "DeepLabV1 is made of vgg16", backbone)
    features = backbone_features(backbone, image, output_stride)
    (rate,) = heads.scale_rates(heads.LARGE_FOV, 8, output_stride)
    x = heads.large_fov(features["out"], image, rate=rate, average_pooling=True)
    if multi_scale_features:
        x = heads.multi_scale_features(x, features, output_stride)
    x = heads.logits(x, num_classes, truncated=False)
    return _segmentation_model(image, x, output_stride, name, backbone, weights)


def DeepLabV2(
    num_classes: int,
    backbone: str = "resnet101",
    output_stride: int = 8,
    atrous_rates: Sequence[int] | None = None,
    input_scales: Sequence[float] = (1.0, 0.75, 0.5),
    scale_losses: str = "input",
    auxiliary_outputs: bool = False,
    input_shape: tuple = ANY_SIZE,
    weights: str | None = None,
    name: str = "deeplab_v2",
):
    """DeepLabV2 (1606.00915): ASPP by sum, multi-scale inputs fused by maximum.

    Args:
      backbone: a ResNet or "vgg16".
      output_stride: 8, 16 or 32 (VGG: 8 or 16).
      atrous_rates: of the parallel branches; None is `heads.ASPP_L` scaled from output
        stride 8. `heads.ASPP_S` and `heads.LARGE_FOV` are the paper's others.
      input_scales: 1 and other factors at which the image is also run (section
        4.1.2); (1.0,) is the network without multi-scale inputs.
      scale_losses: where the auxiliary outputs are: "input", brought to the size of the
        image; or "own", at each scale's own resolution, as in the authors' Caffe:
        [B, h, w, num_classes] for a `losses.AtFeatures`.
      auxiliary_outputs: also "scale_1", "scale_0.75" and so on, of several scales.
    """
    image = image_input(input_shape, num_classes)
    _require(1 in input_scales, "input_scales must hold 1", tuple(input_scales))
    _require(
        scale_losses in SCALE_LOSSES,
        f"scale_losses must be one of {SCALE_LOSSES}",
        scale_losses,
    )
    features = backbone_features(backbone, image, output_stride, NO_MULTI_GRID)
    x = heads.aspp_sum(
        features["out"],
        image,
        num_classes,
        output_stride,
        rates=atrous_rates,
        dense=backbone == "vgg16",
    )
    own_scores = heads.at_scales(image, x, input_scales)
    scores = heads.put_back(own_scores)
    x = heads.maximum(list(scores.values()))
    auxiliary = {}
    for scale in scores if auxiliary_outputs and len(scores) > 1 else ():
        stride = heads.scale_stride(output_stride, scale)
        auxiliary[f"scale_{scale}"] = (
            (own_scores[scale], stride, False)
            if scale_losses == "own"
            else (scores[scale], output_stride, True)
        )
    return _segmentation_model(
        image, x, output_stride, name, backbone, weights, auxiliary
    )


def DeepLabV3Cascade(
    num_classes: int,
    backbone: str = "resnet101",
    output_stride: int = 16,
    multi_grid: Sequence[int] = (1, 2, 1),
    cascade_blocks: int = 3,
    auxiliary_outputs: bool = False,
    input_shape: tuple = ANY_SIZE,
    weights: str | None = None,
    name: str = "deeplab_v3_cascade",
):
    """DeepLabV3 going deeper with atrous convolution (1706.05587, figure 3).

    Args:
      backbone: a ResNet.
      output_stride: 8, 16, 32, 64, 128 or 256 (table 1).
      multi_grid: dilation factors of the units of block4 to block7 (section 3.2.1).
      cascade_blocks: 3 for block5, block6 and block7; fewer for the rows of table 2.
      auxiliary_outputs: as `DeepLabV3`.
    """
    image = image_input(input_shape, num_classes)
    _require(backbone.startswith("resnet"), "DeepLabV3Cascade needs a ResNet", backbone)
    features = backbone_features(backbone, image, min(output_stride, 32), multi_grid)
    x = heads.cascade(features["out"], output_stride, multi_grid, cascade_blocks)
    x = heads.logits(x, num_classes)
    auxiliary = _auxiliary_head(
        features, image, num_classes, backbone, output_stride, wanted=auxiliary_outputs
    )
    stride = min(output_stride, 32 * 2**cascade_blocks)
    return _segmentation_model(image, x, stride, name, backbone, weights, auxiliary)


def DeepLabV3(
    num_classes: int,
    backbone: str = "resnet101",
    output_stride: int = 16,
    multi_grid: Sequence[int] | None = None,
    atrous_rates: Sequence[int] | None = None,
    image_pooling: bool = True,
    separable: bool = False,
    dropout_rate: float = 0.0,
    head_filters: int = 256,
    auxiliary_outputs: bool = False,
    input_shape: tuple = ANY_SIZE,
    weights: str | None = None,
    name: str = "deeplab_v3",
):
    """DeepLabV3 with atrous spatial pyramid pooling (1706.05587, figure 5).

    The same weights fit every output stride: train at 16, evaluate at 8.

    Args:
      output_stride: 8, 16 or 32.
      multi_grid: dilation factors of the last stage's units (section 3.2.1); None is
        (1, 2, 4) for ResNets, as in the paper, and no factors for the others.
      atrous_rates: dilations of ASPP's 3x3 branches; None follows the output stride:
        (6, 12, 18) at 16, (12, 24, 36) at 8, (3, 6, 9) at 32; () is no such branch.
      image_pooling: whether ASPP has its image-level branch.
      separable: whether ASPP's 3x3 are separable, as in DeepLabV3+ on Xception.
      dropout_rate: in front of the classifier; the authors' code uses 0.1.
      head_filters: of ASPP's branches and projection, 256 in the paper; 64 or 128 on a
        small backbone is quicker without a GPU.
      auxiliary_outputs: also "auxiliary", an FCN head in front of the last stage, which
        the paper does not have; torchvision weights its loss by 0.5.
    """
    image = image_input(input_shape, num_classes)
    features = backbone_features(backbone, image, output_stride, multi_grid)
    x = heads.aspp(
        features["out"],
        image,
        output_stride,
        rates=atrous_rates,
        filters=head_filters,
        image_pooling=image_pooling,
        separable=separable,
        dropout_rate=dropout_rate,
    )
    x = heads.logits(x, num_classes)
    auxiliary = _auxiliary_head(
        features, image, num_classes, backbone, output_stride, wanted=auxiliary_outputs
    )
    return _segmentation_model(
        image, x, output_stride, name, backbone, weights, auxiliary
    )


def DeepLabV3Torchvision(
    num_classes: int,
    backbone: str = "resnet50_torchvision",
    output_stride: int = 8,
    atrous_rates: Sequence[int] | None = None,
    auxiliary_outputs: bool = False,
    input_shape: tuple = ANY_SIZE,
    weights: str | None = None,
    name: str = "deeplab_v3_torchvision",
):
    """DeepLabV3 as torchvision has it: no multi-grid, one more 3x3, dropout 0.5.

    Args:
      backbone: resnet50_torchvision, resnet101_torchvision,
        mobilenet_v3_large_torchvision, or any other.
      output_stride: 8 as in torchvision, 16 (as there on MobileNetV3) or 32.
      atrous_rates: as `DeepLabV3`; torchvision has (12, 24, 36) on MobileNetV3 too.
      auxiliary_outputs: as `DeepLabV3`.
    """
    image = image_input(input_shape, num_classes)
    features = backbone_features(backbone, image, output_stride, NO_MULTI_GRID)
    x = heads.aspp(
        features["out"], image, output_stride, rates=atrous_rates, dropout_rate=0.5
    )
    x = conv_bn_relu(x, 256, 3, name="aspp_3x3")
    x = heads.logits(x, num_classes)
    auxiliary = _auxiliary_head(
        features, image, num_classes, backbone, output_stride, wanted=auxiliary_outputs
    )
    return _segmentation_model(
        image, x, output_stride, name, backbone, weights, auxiliary
    )


def DeepLabV3Plus(
    num_classes: int,
    backbone: str = "xception65",
    output_stride: int = 16,
    multi_grid: Sequence[int] | None = None,
    atrous_rates: Sequence[int] | None = None,
    image_pooling: bool = True,
    separable: bool | None = None,
    dropout_rate: float = 0.0,
    head_filters: int = 256,
    decoder_output_stride: Sequence[int] = (4,),
    auxiliary_outputs: bool = False,
    input_shape: tuple = ANY_SIZE,
    weights: str | None = None,
    name: str = "deeplab_v3plus",
):
    """DeepLabV3+ (1802.02611): DeepLabV3 as encoder, and a decoder (figure 2).

    Args:
      separable: whether the 3x3 of ASPP and decoder are separable; None is yes on
        Xception and no on all others, as in the paper.
      head_filters: of ASPP and of the decoder's 3x3; the low-level features keep 48.
      decoder_output_stride: of the low-level features that the decoder joins, from the
        largest on; named as in the authors' code. The paper has (4,); (4, 2) goes on to
        half of the image's size, for objects of a few pixels.
      others: as `DeepLabV3`.
    """
    image = image_input(input_shape, num_classes)
    features = backbone_features(backbone, image, output_stride, multi_grid)
    if separable is None:
        separable = find_backbone(backbone).separable
    x = heads.aspp(
        features["out"],
        image,
        output_stride,
        rates=atrous_rates,
        filters=head_filters,
        image_pooling=image_pooling,
        separable=separable,
        dropout_rate=dropout_rate,
    )
    strides = tuple(decoder_output_stride)
    joined = [stride for stride in (8, 4, 2) if f"stride{stride}" in features]
    _require(
        strides and strides == tuple(s for s in joined if s in strides),
        f"decoder_output_stride must hold some of {joined} for {backbone}, the largest "
        "first",
        strides,
    )
    x = heads.low_level_decoder(
        x,
        {stride: features[f"stride{stride}"] for stride in strides},
        output_stride,
        filters=head_filters,
        separable=separable,
    )
    x = heads.logits(x, num_classes)
    auxiliary = _auxiliary_head(
        features, image, num_classes, backbone, output_stride, wanted=auxiliary_outputs
    )
    return _segmentation_model(
        image, x, strides[-1], name, backbone, weights, auxiliary
    )


def LRASPP(
    num_classes: int,
    backbone: str = "mobilenet_v3_large",
    output_stride: int = 16,
    input_shape: tuple = ANY_SIZE,
    weights: str | None = None,
    name: str = "lr_aspp",
):
    """Lite R-ASPP, the segmentation head of MobileNetV3 (1905.02244, section 6.4).

    Args:
      backbone: the paper's are "mobilenet_v3_large_seg" and "mobilenet_v3_small_seg".
      output_stride: 8, 16, or 32 as in the authors' released networks.
    """
    image = image_input(input_shape, num_classes)
    features = backbone_features(backbone, image, output_stride, NO_MULTI_GRID)
    x = heads.lite_r_aspp(
        features["out"], features["stride8"], num_classes, stride=output_stride // 8
    )
    return _segmentation_model(image, x, 8, name, backbone, weights)


MODELS = {
    "deeplab_v1": DeepLabV1,
    "deeplab_v2": DeepLabV2,
    "deeplab_v3_cascade": DeepLabV3Cascade,
    "deeplab_v3": DeepLabV3,
    "deeplab_v3_torchvision": DeepLabV3Torchvision,
    "deeplab_v3plus": DeepLabV3Plus,
    "lr_aspp": LRASPP,
}
# Those whose auxiliary outputs are an FCN head, and those that always train with some.
AUXILIARY_HEAD = (
    "deeplab_v3",
    "deeplab_v3_cascade",
    "deeplab_v3_torchvision",
    "deeplab_v3plus",
)
ALWAYS_AUXILIARY = ("deeplab_v2", "deeplab_v3_torchvision")


def build_model(
    config,
    *,
    output_stride: int | None = None,
    synchronized: bool = False,
    auxiliary_outputs: bool = False,
):
    """Builds the model of a `config.TrainConfig`, without pretrained weights.

    Args:
      config: names the model, its backbone and options; those that the model does not
        have are left out, and None stands for the model's own.
      output_stride: instead of the configuration's; a given `atrous_rates` belongs to
        the configuration's output stride and is scaled with it.
      synchronized: whether BatchNorm computes its statistics over all replicas.
      auxiliary_outputs: whether outputs that only training needs are there: V2's
        scales, torchvision's head, or another's where `config.auxiliary_head` asks for
        it. A model without such returns logits all the same.

    Raises:
      ValueError: unknown model, backbone or output stride, or an auxiliary head that
        the model does not have.
    """
    if config.model not in MODELS:
        raise ValueError(
            f"model must be one of {sorted(MODELS)}. Received: {config.model!r}."
            f"{did_you_mean(config.model, MODELS)}"
        )
    _check_auxiliary_head(config)
    stride = output_stride or config.output_stride
    rates = config.atrous_rates
    options = {
        **vars(config),
        "output_stride": stride,
        "atrous_rates": rates
        and heads.scale_rates(rates, config.output_stride, stride),
        "auxiliary_outputs": auxiliary_outputs
        and (config.auxiliary_head or config.model in ALWAYS_AUXILIARY),
    }
    build = MODELS[config.model]
    arguments = {
        name: options[name]
        for name in inspect.signature(build).parameters
        if options.get(name) is not None
    }
    with layer_defaults(
        weight_decay=config.weight_decay,
        batch_norm_momentum=config.batch_norm_momentum,
        synchronized_batch_norm=synchronized,
        frozen_batch_norm=config.frozen_batch_norm,
        strided_padding=config.strided_padding,
        resize=config.resize,
        normalization=config.normalization,
        scale_resize=config.scale_resize,
        multi_grid_rates=config.multi_grid_rates,
    ):
        return build(**arguments)


def _check_auxiliary_head(config):
    if config.auxiliary_head and config.model not in AUXILIARY_HEAD:
        raise ValueError(
            f"{config.model} has no auxiliary head: leave auxiliary_head at false, or "
            f"take one of {', '.join(AUXILIARY_HEAD)}. Received: auxiliary_head=true"
        )


def load_backbone_weights(model, backbone: str, weights: str) -> WeightReport:
    """Puts a classification network of keras.applications into a model's backbone.

    Blocks that a paper copies from the backbone begin with its weights too.

    Args:
      model: a model of this file.
      backbone: its name; all its layers must find their weights.
      weights: "imagenet" downloads Keras' file (to ~/.keras/models); anything else is
        the path of such a file.

    Returns:
      What was copied; "missing" are weights of the head, which stay as they are.

    Raises:
      ValueError: "imagenet" for a backbone Keras has no file of, or a file of another
        network.
    """
    arrays, path = read_imagenet_weights(find_backbone(backbone), weights)
    sources = {name: heads.pretrained_name(name) for name in named_weights(model)}
    found = {
        name: arrays[source] for name, source in sources.items() if source in arrays
    }
    unused = {name: arrays[name] for name in arrays.keys() - set(sources.values())}
    head_layers = [layer.name for layer in model.layers if is_of_head(layer.name)]
    return copy_weights(model, {**found, **unused}, path, allow_missing=head_layers)


def inference_model(model):
    """Returns the model that has only the output "logits"; `model` if it has no other.

    Weights are shared; what only auxiliary outputs need is left out.
    """
    if not isinstance(model.output, dict):
        return model
    return SegmentationModel(model.input, model.output["logits"], name=model.name)


def _require(condition, sentence, received):
    if not condition:
        raise ValueError(f"{sentence}. Received: {received!r}")


def _auxiliary_head(
    features, image, num_classes, backbone, output_stride, *, wanted: bool
):
    """The head in front of the last stage for `_segmentation_model`, or {}."""
    if not wanted:
        return {}
    scores = heads.auxiliary_head(features["auxiliary"], image, num_classes)
    stride = min(output_stride, find_backbone(backbone).auxiliary_stride)
    return {"auxiliary": (scores, stride, True)}


def _segmentation_model(image, x, stride, name, backbone, weights, auxiliary=None):
    """Makes the model of its logits, and loads its backbone.

    Args:
      image: input of the model.
      x: logits [B, h, w, num_classes].
      stride: of `x`, in pixels of the image.
      name: of the model.
      backbone, weights: see `load_backbone_weights`; weights may be None.
      auxiliary: further outputs, see `image_outputs`.
    """
    outputs = image_outputs(image, {"logits": (x, stride, True), **(auxiliary or {})})
    model = SegmentationModel(image, outputs, name=name)
    if weights is not None:
        report = load_backbone_weights(model, backbone, weights)
        logging.getLogger(__name__).info("%s", report)
    return model
