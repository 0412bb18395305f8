"""Functions from tensor to tensor that every network is built of.

They make layers of fixed names and share what a paper sets once for a whole network:
`layer_defaults`.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses

from tensorflow import keras

from deeplab_tf.networks.batch_normalization import FusedBatchNormalization
from deeplab_tf.networks.layers import (
    AtrousConv2D,
    AtrousDepthwiseConv2D,
    ResizeLike,
    StatelessDropout,
)

STRIDED_PADDINGS = ("symmetric", "same", "caffe")
RESIZES = ("aligned", "half_pixel")
MULTI_GRID_RATES = ("stage", "entry")
# Layers of heads begin with these, layers of backbones never do; "logits" are the
# classifiers, whose shape depends on the number of classes.
HEAD_PREFIXES = (
    "aspp",
    "auxiliary",
    "cascade",
    "decoder",
    "fc",
    "logits",
    "multi_scale",
)


def is_of_head(name: str) -> bool:
    """Says whether a layer, or a weight by its name, is of the head."""
    return name.startswith(HEAD_PREFIXES)


@dataclasses.dataclass(frozen=True)
class LayerDefaults:
    """What the papers set once for a whole network.

    The last five name conventions of other people's code; weights that were trained
    with one give the same function only with it.

    Attributes:
      weight_decay: lambda of the papers, whose gradient is `lambda * w`, on kernels of
        full and 1x1 convolutions; depthwise kernels, biases and BatchNorm have none.
      batch_norm_momentum: decay of the moving statistics; None keeps the value of the
        network the layer belongs to (0.999 for MobileNetV2, 0.99 for all others).
      synchronized_batch_norm: compute batch statistics over all replicas.
      frozen_batch_norm: BatchNorm in inference mode while training too, its parameters
        and statistics fixed (DeepLabV3, section 4.1, second stage); "backbone" spares
        the head's, for small batches on a backbone that was trained alone.
      strided_padding: where strided kernels sit. "symmetric", PyTorch's: outputs at
        input pixels 0, s, 2s, ..., so that every output stride sees the same pixels.
        "same", TensorFlow's: at even sizes half a stride later. "caffe": symmetric, but
        pooling rounds its output size up. All are one at sizes 32k + 1.
      resize: how features are put back on pixels. "aligned": feature i at pixel
        i * stride (`ResizeLike`); "half_pixel": stretched over the whole image, as
        `tf.image.resize` and PyTorch without align_corners do.
      normalization: a row of `layers.NORMALIZATIONS`; None is the backbone's own.
      scale_resize: how DeepLabV2 resizes its image and puts the scores back, which lie
        at every `stride`-th pixel of the resized image. "aligned", the authors' in
        Caffe: pixel p of the resized image is pixel p / scale of the image, and scores
        go back to where they were computed; "half_pixel", PyTorch's without
        align_corners: scores are stretched over those of scale 1, up to 15 pixels off
        at 321 pixels, which only weights that were trained so make up for.
      multi_grid_rates: dilation under a multi-grid of the 3x3 that carries the stride,
        as in torchvision's ResNets and in ResNet-18 and -34. "stage": its factor times
        the rate of its stage, so that rates are 2 * (1, 2, 4) at output stride 16
        (DeepLabV3, section 3.2.1); "entry": times the rate before that stride, so
        (1, 4, 8), as earlier versions had it. Without a multi-grid it is the rate
        before the stride, with which such backbones were trained.
    """

    weight_decay: float = 0.0
    batch_norm_momentum: float | None = None
    synchronized_batch_norm: bool = False
    frozen_batch_norm: bool | str = False
    strided_padding: str = "symmetric"
    resize: str = "aligned"
    normalization: str | None = None
    scale_resize: str = "aligned"
    multi_grid_rates: str = "stage"

    def __post_init__(self):
        for name, choices in (
            ("strided_padding", STRIDED_PADDINGS),
            ("resize", RESIZES),
            ("scale_resize", RESIZES),
            ("multi_grid_rates", MULTI_GRID_RATES),
            ("frozen_batch_norm", (False, True, "backbone")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {choices}. "
                    f"Received: {getattr(self, name)!r}"
                )


_defaults: contextvars.ContextVar[LayerDefaults] = contextvars.ContextVar("defaults")


@contextlib.contextmanager
def layer_defaults(**changes):
    """Sets fields of `LayerDefaults` for every layer made inside the block.

    `with layer_defaults(weight_decay=1e-4): model = DeepLabV3(21)`

    Raises:
      ValueError: a value that is not among its choices.
    """
    token = _defaults.set(dataclasses.replace(current_defaults(), **changes))
    try:
        yield
    finally:
        _defaults.reset(token)


def current_defaults() -> LayerDefaults:
    """Returns the defaults of the block the caller is in."""
    return _defaults.get(LayerDefaults())


def convolution(
    x,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    stride: int = 1,
    rate: int = 1,
    use_bias: bool = False,
    activation: str | None = None,
    border: tuple[int, int] | None = None,
    kernel_initializer="he_normal",
    dtype=None,
):
    """A convolution with the shared weight decay and strided padding.

    `border` is the zeros before and after, on both axes, in place of that padding.
    """
    padding = "same"
    if border is not None:
        padding = "valid"
        x = keras.layers.ZeroPadding2D((border, border), name=f"{name}_pad")(x)
    elif stride > 1 and kernel_size > 1:
        x, padding = _pad_strided(x, kernel_size, rate, name)
    return AtrousConv2D(
        filters,
        kernel_size,
        strides=stride,
        dilation_rate=rate,
        padding=padding,
        use_bias=use_bias,
        activation=activation,
        kernel_initializer=kernel_initializer,
        kernel_regularizer=_weight_decay(),
        dtype=dtype,
        name=name,
    )(x)


def depthwise_convolution(
    x,
    kernel_size: int,
    *,
    name: str,
    stride=1,
    rate=1,
    use_bias=False,
    strided_padding=None,
):
    """A depthwise convolution, padded as `convolution`; never decayed."""
    padding = "same"
    if stride > 1:
        x, padding = _pad_strided(x, kernel_size, rate, name, strided_padding)
    return AtrousDepthwiseConv2D(
        kernel_size,
        strides=stride,
        dilation_rate=rate,
        padding=padding,
        use_bias=use_bias,
        depthwise_initializer="he_normal",
        name=name,
    )(x)


def batch_norm(x, *, name: str, epsilon: float = 1.001e-5, momentum: float = 0.99):
    """BatchNormalization with the shared momentum, synchronization and freezing."""
    defaults = current_defaults()
    if defaults.batch_norm_momentum is not None:
        momentum = defaults.batch_norm_momentum
    return FusedBatchNormalization(
        epsilon=epsilon,
        momentum=momentum,
        synchronized=defaults.synchronized_batch_norm,
        trainable=not _is_frozen(name),
        name=name,
    )(x)


def _is_frozen(name: str) -> bool:
    frozen = current_defaults().frozen_batch_norm
    if frozen == "backbone":
        return not is_of_head(name)
    return frozen


def conv_bn_relu(
    x, filters: int, kernel_size: int, *, name: str, stride: int = 1, rate: int = 1
):
    """Convolution, BatchNorm and ReLU, named `<name>_conv`, `_bn` and `_relu`."""
    x = convolution(
        x, filters, kernel_size, stride=stride, rate=rate, name=f"{name}_conv"
    )
    x = batch_norm(x, name=f"{name}_bn")
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def separable_conv_bn_relu(x, filters: int, *, name: str, rate: int = 1):
    """Atrous separable 3x3 convolution, each half with BatchNorm and ReLU.

    DeepLabV3+, figure 3 and section 3.1. Layers are `<name>_depthwise`,
    `<name>_depthwise_bn`, `<name>_depthwise_relu`, `<name>_pointwise_conv`, ...
    """
    x = depthwise_convolution(x, 3, rate=rate, name=f"{name}_depthwise")
    x = batch_norm(x, name=f"{name}_depthwise_bn")
    x = keras.layers.ReLU(name=f"{name}_depthwise_relu")(x)
    return conv_bn_relu(x, filters, 1, name=f"{name}_pointwise")


def keep_every(x, stride: int, *, name: str):
    """Every `stride`-th pixel, from the first; `x` itself at stride 1."""
    if stride == 1:
        return x
    return keras.layers.MaxPooling2D(1, strides=stride, name=name)(x)


def global_mean(x, *, name: str):
    """Mean over all pixels [B, 1, 1, channels], summed in the type of the weights."""
    return keras.layers.GlobalAveragePooling2D(
        keepdims=True,
        # In float16 the sum of a 65x65 map of 100s is infinite.
        dtype=keras.mixed_precision.global_policy().variable_dtype,
        name=name,
    )(x)


def max_pool(x, *, name: str, stride: int):
    """3x3 max-pooling of features that are not negative, padded as `convolution`."""
    convention = current_defaults().strided_padding
    padding = "valid"
    if stride == 1 or convention == "same":
        padding = "same"
    else:
        # Zeros are neutral after a ReLU. Caffe's last window may start at the border.
        border = (1, 2) if convention == "caffe" else (1, 1)
        x = keras.layers.ZeroPadding2D((border, border), name=f"{name}_pad")(x)
    return keras.layers.MaxPooling2D(3, strides=stride, padding=padding, name=name)(x)


def resize_like(features, reference, *, name: str, stride: int, dtype=None):
    """Resizes features, each `stride` pixels of `reference`, to its size."""
    if current_defaults().resize == "half_pixel":
        stride = None
    return ResizeLike(stride, dtype=dtype, name=name)([features, reference])


def apply_again(image, outputs, other_images) -> list:
    """Runs the layers between `image` and `outputs` over other images as well.

    The layers are the same ones, so their weights are shared, and the graph stays flat.

    Args:
      image: input of the network.
      outputs: its output, made from `image` by layers that were called once.
      other_images: tensors to put in the place of `image`.

    Returns:
      The network's output for each of `other_images`.
    """
    layers = keras.Model(image, outputs).layers[1:]
    # Read before the second call, which makes `layer.input` ambiguous.
    steps = [(layer, layer.input, id(layer.output)) for layer in layers]
    results = []
    for other in other_images:
        tensors = {id(image): other}
        for layer, inputs, output in steps:
            if isinstance(layer, StatelessDropout):
                # Its seed is made of the image that was given: a resized one has
                # other last digits on other devices.
                tensors[output] = layer([tensors[id(inputs[0])], image])
            elif isinstance(inputs, (list, tuple)):
                tensors[output] = layer([tensors[id(tensor)] for tensor in inputs])
            else:
                tensors[output] = layer(tensors[id(inputs)])
        results.append(tensors[id(outputs)])
    return results


def _pad_strided(x, kernel_size, rate, name, strided_padding=None):
    """Pads in front of a strided kernel; returns it and the kernel's own padding."""
    if (strided_padding or current_defaults().strided_padding) == "same":
        return x, "same"
    border = kernel_size // 2 * rate
    return keras.layers.ZeroPadding2D(border, name=f"{name}_pad")(x), "valid"


def _weight_decay():
    """The papers' lambda as Keras' L2, which adds `l2 * sum(w^2)`: half of it."""
    weight_decay = current_defaults().weight_decay
    return keras.regularizers.L2(weight_decay / 2) if weight_decay else None
