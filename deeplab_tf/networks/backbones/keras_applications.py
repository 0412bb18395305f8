"""Networks of keras.applications as they are, their strides turned into dilations.

Keras builds the network; its layers are made again one by one, by the output-stride
rule, with their names. What the rule does not fit is refused with its reason:
convolutions without padding (Inception, Xception's first), pooling at strides beyond 8
(VGG, DenseNet, Xception, NASNet) and layers that nobody has thought about yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tensorflow import keras

from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.blocks import (
    batch_norm,
    convolution,
    depthwise_convolution,
    global_mean,
    keep_every,
    max_pool,
)
from deeplab_tf.networks.multiply_adds import calls

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"
_EFFICIENTNET = "https://storage.googleapis.com/keras-applications/"


class Application(NamedTuple):
    """A network of keras.applications that has passed the property test.

    Attributes:
      normalization: a row of `layers.NORMALIZATIONS`.
      url: of its ImageNet weights without a top.
      md5: theirs; None where Keras states none.
    """

    normalization: str
    url: str
    md5: str | None = None


def _resnet_v2(depth: int, md5: str) -> Application:
    name = f"resnet{depth}v2_weights_tf_dim_ordering_tf_kernels_notop.h5"
    return Application("unit", f"{_KERAS}resnet/{name}", md5)


APPLICATIONS = {
    "MobileNet": Application(
        "unit", f"{_KERAS}mobilenet/mobilenet_1_0_224_tf_no_top.h5"
    ),
    "ResNet50V2": _resnet_v2(50, "fac2f116257151a9d068a22e544a4917"),
    "ResNet101V2": _resnet_v2(101, "c0ed64b8031c3730f411d2eb4eea35b5"),
    "ResNet152V2": _resnet_v2(152, "ed17cf2e0169df9d443503ef94b23b33"),
    **{
        f"EfficientNetB{number}": Application(
            "torch", f"{_EFFICIENTNET}efficientnetb{number}_notop.h5", md5
        )
        for number, md5 in enumerate(
            (
                "50bc09e76180e00e4465e1a485ddc09d",
                "74c4e6b3e1f6a1eea24c589628592432",
                "111f8e2ac8aa800a7a99e3239f7bfb39",
                "af6d107764bb5b1abb91932881670226",
                "ebc24e6d6c33eaebbd558eafbeedf1ba",
                "38879255a25d3c92d5e44e04ae6cec6f",
                "9ecce42647a20130c1f39a5d4cb75743",
                "cbcfe4450ddf6f3ad90b1b398090fe4a",
            )
        )
    },
}
# Features by the stride of the network that was trained.
_FEATURES = {2: "stride2", 4: "stride4", 8: "stride8", 16: "auxiliary"}
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
# Layers that see one pixel at a time, and two of training or of preparing the image.
_POINTWISE = (
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.Multiply,
    keras.layers.ReLU,
    keras.layers.Reshape,
)
_LEFT_OUT = (
    keras.layers.Dropout,
    keras.layers.Normalization,
    keras.layers.Rescaling,
)


class _Map(NamedTuple):
    """A tensor of the new network, and where its pixels lie.

    Attributes:
      tensor: [B, h, w, channels].
      stride: image pixels per feature.
      rate: dilation of what reads it.
      border: zeros that Keras' network has around it here, both sides together.
    """

    tensor: object
    stride: int = 1
    rate: int = 1
    border: int = 0


def keras_application(
    image, output_stride: int, multi_grid: Sequence[int], *, application: str
) -> dict:
    """Builds a network of keras.applications up to what it has without a top.

    Args:
      image: normalised image [B, height, width, 3].
      output_stride: 8, 16 or 32.
      multi_grid: all 1; nobody has said to which units of such a network it belongs.
      application: a name in `keras.applications`.

    Returns:
      {"stride4", "stride8", "auxiliary": what the convolutions with the strides from 4
      to 8, 8 to 16 and 16 to 32 read, "stride2": what goes from 2 to 4 by a convolution
      or pooling, "out": its last features}.

    Raises:
      ValueError: a layer does not fit the rule, or a multi-grid.
    """
    if set(multi_grid) - {1}:
        raise ValueError(
            f"keras.{application} has no multi_grid. Received: {tuple(multi_grid)}"
        )
    build = getattr(keras.applications, application)
    network = build(include_top=False, weights=None, input_shape=(None, None, 3))
    maps = {id(network.inputs[0]): _Map(image)}
    features = {}
    for layer, inputs, output in calls(network):
        read = [maps[id(tensor)] for tensor in inputs]
        source = read[0]
        made = maps[id(output)] = _convert(layer, read, output_stride)
        stride = source.stride * source.rate
        is_strided = made.stride * made.rate > stride
        if is_strided and (isinstance(layer, _CONVOLUTIONS) or stride == 2):
            features[_FEATURES.get(stride)] = source.tensor
    last = maps[id(network.outputs[0])]
    missing = set(_FEATURES.values()) - set(features)
    if missing or last.stride * last.rate != 32:
        raise ValueError(
            f"keras.{application} has no strides of convolutions up to 32. Received: "
            f"{last.stride * last.rate}, without {sorted(missing)}"
        )
    features.pop(None, None)
    return {**features, "out": last.tensor}


def _convert(layer, maps, output_stride) -> _Map:
    """One layer of Keras' network in the new one."""
    source = maps[0]
    if isinstance(layer, _LEFT_OUT):
        return source
    if isinstance(layer, keras.layers.ZeroPadding2D):
        return source._replace(border=source.border + sum(layer.padding[0]))
    if isinstance(layer, _CONVOLUTIONS):
        return _convolved(layer, source, output_stride)
    if isinstance(layer, keras.layers.MaxPooling2D):
        return _pooled(layer, source, output_stride)
    _check(not source.border, layer, "it reads zeros around its input")
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        # Of the positions that the network has at output stride 32, see
        # `activations.squeeze_excitation`.
        kept = keep_every(source.tensor, source.rate, name=f"{layer.name}_positions")
        return _Map(global_mean(kept, name=layer.name))
    if isinstance(layer, keras.layers.BatchNormalization):
        _check(layer.scale and layer.center, layer, "it has no gamma or no beta")
        normalised = batch_norm(
            source.tensor,
            name=layer.name,
            epsilon=layer.epsilon,
            momentum=layer.momentum,
        )
        return source._replace(tensor=normalised)
    _check(isinstance(layer, _POINTWISE), layer, "it is of a kind that is not known")
    config = {name: v for name, v in layer.get_config().items() if name != "dtype"}
    tensors = [each.tensor for each in maps]
    made = type(layer).from_config(config)(tensors if len(tensors) > 1 else tensors[0])
    # A gate has no pixels of its own.
    place = max(maps, key=lambda each: each.stride * each.rate)
    return place._replace(tensor=made)


def _convolved(layer, source, output_stride) -> _Map:
    """A full or depthwise convolution, with our padding."""
    (size, stride), rate = _sizes(layer, layer.kernel_size), source.rate
    _check(size % 2 == 1, layer, "its kernel has no middle")
    _check(set(layer.dilation_rate) == {1}, layer, "it is dilated already")
    if layer.padding == "valid":
        # At even sizes TensorFlow's padding is one short.
        enough = {size - 1} if stride == 1 else {size - 1, size - 2}
        fits = source.border in enough or size == 1
        _check(
            fits,
            layer,
            f"it has {source.border} zeros around its input, not {size - 1}",
        )
    step = apply_output_stride([stride], output_stride, source.stride)[0]
    options = {
        "stride": step.stride,
        "rate": rate if size > 1 else 1,
        "use_bias": layer.use_bias,
        "name": layer.name,
    }
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        _check(layer.depth_multiplier == 1, layer, "it has a depth multiplier")
        made = depthwise_convolution(source.tensor, size, **options)
    else:
        _check(layer.groups == 1, layer, "it has groups")
        activation = layer.get_config()["activation"]
        made = convolution(
            source.tensor,
            layer.filters,
            size,
            activation=None if activation == "linear" else activation,
            **options,
        )
    return _Map(made, source.stride * step.stride, rate * step.rate)


def _pooled(layer, source, output_stride) -> _Map:
    """Every other pixel, or 3x3 pooling at a stride that is always kept."""
    size, stride = _sizes(layer, layer.pool_size)
    step = apply_output_stride([stride], output_stride, source.stride)[0]
    if size == 1:
        made = keep_every(source.tensor, step.stride, name=layer.name)
    else:
        reason = "it pools at a stride that may become a dilation"
        _check(source.stride * stride <= 8, layer, reason)
        fits = size == 3 and (layer.padding == "same" or source.border == 2)
        _check(fits, layer, "only pooling of 3x3 with padding is known")
        made = max_pool(source.tensor, stride=stride, name=layer.name)
    return _Map(made, source.stride * step.stride, source.rate * step.rate)


def _sizes(layer, sizes) -> tuple[int, int]:
    """(size, stride) of a kernel that is square."""
    _check(len({*sizes}) == 1 == len({*layer.strides}), layer, "it is not square")
    return sizes[0], layer.strides[0]


def _check(condition, layer, reason: str) -> None:
    if not condition:
        raise ValueError(
            f"The strides of this network cannot become dilations: {layer.name}, "
            f"{type(layer).__name__}: {reason}."
        )
