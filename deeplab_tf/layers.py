"""The few custom layers of the DeepLab networks, and the defaults all layers share.

Every layer here takes and gives [batch, height, width, channels] in the layer's
compute dtype.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import logging

import tensorflow as tf
from tensorflow import keras


def is_keras3() -> bool:
    """Says which Keras TensorFlow carries; tf-keras states no version there."""
    return getattr(keras, "__version__", "2").startswith("3")


@dataclasses.dataclass(frozen=True)
class LayerDefaults:
    """What the papers set once for a whole network.

    Attributes:
      weight_decay: lambda of the papers, whose gradient is `lambda * w`, on kernels of
        full and 1x1 convolutions; depthwise kernels, biases and BatchNorm have none.
      batch_norm_momentum: decay of the moving statistics; None keeps the value of the
        network the layer belongs to (0.999 for MobileNetV2, 0.99 for all others).
      synchronized_batch_norm: compute batch statistics over all replicas.
    """

    weight_decay: float = 0.0
    batch_norm_momentum: float | None = None
    synchronized_batch_norm: bool = False


_defaults: contextvars.ContextVar[LayerDefaults] = contextvars.ContextVar("defaults")


@contextlib.contextmanager
def layer_defaults(**changes):
    """Sets fields of `LayerDefaults` for every layer made inside the block.

    `with layer_defaults(weight_decay=1e-4): model = DeepLabV3(21)`
    """
    token = _defaults.set(dataclasses.replace(_current_defaults(), **changes))
    try:
        yield
    finally:
        _defaults.reset(token)


def _current_defaults() -> LayerDefaults:
    return _defaults.get(LayerDefaults())


@functools.cache
def native_atrous_convolution_works(dtype: tf.DType = tf.float32) -> bool:
    """Says whether `Conv2D` with dilations has a gradient on the device at hand.

    It has one on GPUs and, but for float64, on CPUs with oneDNN; plain CPU kernels run
    the forward pass and raise InvalidArgumentError for the gradient. Tried once for
    each dtype, on a tiny input.
    """
    with tf.init_scope():
        image = tf.ones([1, 5, 5, 1], dtype)
        try:
            # The gradient by its own name: tapes do not record inside init_scope.
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=image.shape,
                filter=tf.ones([3, 3, 1, 1], dtype),
                out_backprop=image,
                strides=[1, 1, 1, 1],
                padding="SAME",
                dilations=[1, 2, 2, 1],
            )
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            logging.getLogger(__name__).info(
                "This TensorFlow has no gradient for dilated convolutions on this "
                "device: using space-to-batch, which is slower and equal."
            )
            return False
    return True


@keras.utils.register_keras_serializable("deeplab_tf")
class AtrousConv2D(keras.layers.Conv2D):
    """Conv2D whose dilated form runs as one `Conv2D` operation.

    Keras lowers `dilation_rate > 1` to SpaceToBatchND -> Conv2D -> BatchToSpaceND, up
    to 8 times slower at rate 18. The numbers are the same; where the native gradient is
    missing (`native_atrous_convolution_works`) this is Keras' own layer.
    """

    def convolution_op(self, inputs, kernel):
        if max(self.dilation_rate) == 1 or not native_atrous_convolution_works(
            inputs.dtype
        ):
            return super().convolution_op(inputs, kernel)
        return tf.nn.conv2d(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding.upper(),
            dilations=self.dilation_rate,
        )


def _atrous_depthwise(inputs, kernel, rate: int):
    """Stride-1 SAME depthwise convolution as a grouped `Conv2D`.

    `DepthwiseConv2dNative` with dilations has a silently wrong gradient with oneDNN and
    does not run without it. The grouped form is as fast and right everywhere; its
    gradient takes the space-to-batch way, the faster of the two that are right.
    """
    height, width, channels, multiplier = kernel.shape

    @tf.custom_gradient
    def convolve(inputs, kernel):
        grouped = tf.reshape(kernel, [height, width, 1, channels * multiplier])
        outputs = tf.nn.conv2d(inputs, grouped, 1, "SAME", dilations=rate)

        def gradient(upstream):
            with tf.GradientTape() as tape:
                tape.watch([inputs, kernel])
                same_outputs = tf.nn.depthwise_conv2d(
                    inputs, kernel, [1, 1, 1, 1], "SAME", dilations=[rate, rate]
                )
            return tape.gradient(same_outputs, [inputs, kernel], upstream)

        return outputs, gradient

    return convolve(inputs, kernel)


@keras.utils.register_keras_serializable("deeplab_tf")
class AtrousDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """DepthwiseConv2D (padding "same") that avoids space-to-batch when dilated."""

    def call(self, inputs):
        rate = max(self.dilation_rate)
        if rate == 1 or not native_atrous_convolution_works(inputs.dtype):
            return super().call(inputs)
        # Keras 3 calls the variable `kernel`, Keras 2 `depthwise_kernel`.
        variable = getattr(self, "depthwise_kernel", None)
        kernel = tf.convert_to_tensor(self.kernel if variable is None else variable)
        outputs = _atrous_depthwise(inputs, tf.cast(kernel, inputs.dtype), rate)
        return tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs


@keras.utils.register_keras_serializable("deeplab_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras 3's BatchNormalization as one `FusedBatchNormV3`, as Keras 2 has it.

    Keras 3 normalises by elementwise operations: a training step of MobileNetV2 on a
    CPU takes 1.37 times as long, and half precision is computed in float32. Moving
    variances are Bessel-corrected, as in Keras 2. Synchronized statistics and float64
    go Keras' own way.
    """

    def call(self, inputs, training=None, mask=None):
        if self.synchronized or inputs.dtype == tf.float64:
            return super().call(inputs, training=training, mask=mask)
        scale, offset, mean, variance = (
            tf.convert_to_tensor(value)
            for value in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        if not (training and self.trainable):
            return tf.compat.v1.nn.fused_batch_norm(
                inputs, scale, offset, mean, variance, self.epsilon, is_training=False
            )[0]
        outputs, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, scale, offset, epsilon=self.epsilon, is_training=True
        )
        for moving, old, batch in (
            (self.moving_mean, mean, batch_mean),
            (self.moving_variance, variance, batch_variance),
        ):
            moving.assign(old * self.momentum + batch * (1.0 - self.momentum))
        return outputs


@keras.utils.register_keras_serializable("deeplab_tf")
class ResizeLike(keras.layers.Layer):
    """Bilinear resize of `features` to the height and width of `reference`.

    Call it on `[features, reference]`. Feature (i, j) of stride s was computed around
    pixel (i * s, j * s), so it is put back there: at sizes s * k + 1 this equals
    `align_corners=True` of the authors' code, and unlike it stays aligned at every
    other size. Beyond the last feature the border is repeated.

    Args:
      stride: pixels of `reference` per feature. None stretches the features over the
        whole reference, as needed for the 1x1 map of image-level pooling.
    """

    def __init__(self, stride: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, inputs):
        features, reference = inputs
        height, width = reference.shape[1], reference.shape[2]
        if height is None or width is None:
            height, width = tf.unstack(tf.shape(reference)[1:3])
        if self.stride is None:
            return tf.cast(tf.image.resize(features, [height, width]), features.dtype)
        # With legacy alignment output pixel p reads feature p / stride exactly.
        resized = tf.raw_ops.ResizeBilinear(
            images=features, size=tf.shape(features)[1:3] * self.stride
        )
        return tf.cast(resized[:, :height, :width], features.dtype)

    def compute_output_shape(self, input_shape):
        features, reference = input_shape
        return (features[0], reference[1], reference[2], features[3])

    def get_config(self):
        return {**super().get_config(), "stride": self.stride}


# ImageNet statistics of the three conventions that published weights were trained with.
_CAFFE_BGR_MEAN = (103.939, 116.779, 123.68)
_TORCH_RGB_MEAN = (123.675, 116.28, 103.53)
_TORCH_RGB_DEVIATION = (58.395, 57.12, 57.375)
NORMALIZATIONS = ("caffe", "torch", "unit")


def mean_color(mode: str) -> tuple[float, float, float]:
    """Returns the RGB that `ImageNormalization(mode)` turns into zeros, to pad with."""
    means = {"caffe": _CAFFE_BGR_MEAN[::-1], "torch": _TORCH_RGB_MEAN}
    return means.get(mode, (127.5, 127.5, 127.5))


@keras.utils.register_keras_serializable("deeplab_tf")
class ImageNormalization(keras.layers.Layer):
    """Turns RGB in 0..255 into what the backbone's weights were trained on.

    Computed in float32 under every precision policy.

    Args:
      mode: "caffe" (BGR minus the ImageNet mean), "torch" (RGB minus mean over
        deviation) or "unit" (x / 127.5 - 1).
    """

    def __init__(self, mode: str, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if mode not in NORMALIZATIONS:
            raise ValueError(f"mode must be one of {NORMALIZATIONS}. Received: {mode}")
        self.mode = mode

    def call(self, image):
        if self.mode == "caffe":
            return tf.reverse(image, axis=[-1]) - tf.constant(_CAFFE_BGR_MEAN)
        if self.mode == "torch":
            return (image - tf.constant(_TORCH_RGB_MEAN)) / _TORCH_RGB_DEVIATION
        return image / 127.5 - 1.0

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}


def convolution(
    x,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    stride: int = 1,
    rate: int = 1,
    use_bias: bool = False,
    dtype=None,
):
    """A convolution with the shared initializer and weight decay.

    Strided kernels are padded symmetrically, whatever the size: the output sits at
    input pixels 0, s, 2s, ... so that every output stride sees the same pixels.
    """
    if stride > 1 and kernel_size > 1:
        x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    return AtrousConv2D(
        filters,
        kernel_size,
        strides=stride,
        dilation_rate=rate,
        padding="same" if stride == 1 or kernel_size == 1 else "valid",
        use_bias=use_bias,
        kernel_initializer="he_normal",
        kernel_regularizer=_weight_decay(),
        dtype=dtype,
        name=name,
    )(x)


def depthwise_convolution(x, kernel_size: int, *, name: str, stride=1, rate=1):
    """A depthwise convolution, padded as `convolution`; never decayed."""
    if stride > 1:
        x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    return AtrousDepthwiseConv2D(
        kernel_size,
        strides=stride,
        dilation_rate=rate,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        depthwise_initializer="he_normal",
        name=name,
    )(x)


def batch_norm(x, *, name: str, epsilon: float = 1.001e-5, momentum: float = 0.99):
    """BatchNormalization with the shared momentum and synchronization."""
    defaults = _current_defaults()
    if defaults.batch_norm_momentum is not None:
        momentum = defaults.batch_norm_momentum
    layer = FusedBatchNormalization if is_keras3() else keras.layers.BatchNormalization
    return layer(
        epsilon=epsilon,
        momentum=momentum,
        synchronized=defaults.synchronized_batch_norm,
        name=name,
    )(x)


def conv_bn_relu(x, filters: int, kernel_size: int, *, name: str, rate: int = 1):
    """Convolution, BatchNorm and ReLU, named `<name>_conv`, `_bn` and `_relu`."""
    x = convolution(x, filters, kernel_size, rate=rate, name=f"{name}_conv")
    x = batch_norm(x, name=f"{name}_bn")
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _weight_decay():
    """The papers' lambda as Keras' L2, which adds `l2 * sum(w^2)`: half of it."""
    weight_decay = _current_defaults().weight_decay
    return keras.regularizers.L2(weight_decay / 2) if weight_decay else None
