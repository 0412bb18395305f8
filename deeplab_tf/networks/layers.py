"""The few custom layers of the DeepLab networks.

Every layer here takes and gives [batch, height, width, channels] in the layer's
compute dtype.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.networks.convolutions import (
    atrous_conv2d,
    atrous_depthwise_conv2d,
    has_quick_gradient,
    is_bfloat16_by_onednn,
    is_for_gpu,
    is_grouped_here,
    pointwise_conv2d,
    refuse_frozen_weights,
    with_float32_gradient,
    with_gradient_of_images,
)


def is_keras3() -> bool:
    """Says which Keras TensorFlow carries; tf-keras states no version there."""
    return getattr(keras, "__version__", "2").startswith("3")


def several_replicas():
    """The replica context where there are several replicas, else None."""
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return None
    return replica


@keras.utils.register_keras_serializable("deeplab_tf")
class AtrousConv2D(keras.layers.Conv2D):
    """Conv2D whose dilated form avoids space-to-batch (padding "same").

    The numbers are those of Keras' layer, which takes up to 8 times as long; so are the
    gradients, which in half precision are computed in float32 on processors without it.
    Convolutions in groups are Keras' own.
    """

    def convolution_op(self, inputs, kernel):
        refuse_frozen_weights()
        convolve = super().convolution_op
        if self.groups > 1:
            return convolve(inputs, kernel)
        is_odd = all(side % 2 for side in self.kernel_size)
        if max(self.dilation_rate) > 1 and self.padding == "same" and is_odd:
            convolve = functools.partial(atrous_conv2d, rates=self.dilation_rate)
        elif max(*self.kernel_size, *self.strides) == 1:
            if is_bfloat16_by_onednn(inputs.dtype):
                convolve = pointwise_conv2d
        kernel = tf.convert_to_tensor(kernel)
        if not has_quick_gradient(inputs.dtype):
            return with_float32_gradient(convolve, inputs, kernel)
        return convolve(inputs, kernel)


@keras.utils.register_keras_serializable("deeplab_tf")
class AtrousDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """DepthwiseConv2D that is one operation where that is quicker (padding "same")."""

    def call(self, inputs):
        rate = max(self.dilation_rate)
        is_grouped = rate > 1 and is_grouped_here(inputs.dtype, rate)
        is_shared = tf.distribute.get_strategy().num_replicas_in_sync > 1
        is_bfloat16 = inputs.dtype == tf.bfloat16 and not is_for_gpu()
        is_slow = is_bfloat16 and max(self.strides) > 1
        if not is_grouped and not is_shared and not is_slow:
            return super().call(inputs)
        # Keras 3 calls the variable `kernel`, Keras 2 `depthwise_kernel`.
        variable = getattr(self, "depthwise_kernel", None)
        kernel = tf.convert_to_tensor(self.kernel if variable is None else variable)
        kernel = tf.cast(kernel, inputs.dtype)
        if is_shared:
            kernel = with_gradient_of_images(kernel, inputs)
        convolve = functools.partial(
            tf.nn.depthwise_conv2d,
            strides=[1, *self.strides, 1],
            padding=self.padding.upper(),
            dilations=self.dilation_rate,
        )
        if is_grouped:
            outputs = atrous_depthwise_conv2d(inputs, kernel, rate)
        elif is_slow:
            outputs = with_float32_gradient(convolve, inputs, kernel)
        else:
            outputs = convolve(inputs, kernel)
        return tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs


@keras.utils.register_keras_serializable("deeplab_tf")
class StatelessDropout(keras.layers.Layer):
    """Dropout that is a function of its inputs and has no random state.

    Call it on `[features, image]`. The seed is made of the bits of the image that the
    network was given, which no two batches share. So a run that is resumed from a
    checkpoint drops what it would have dropped (the state of Keras' Dropout is not in
    its checkpoints), and so does another device, precision or compiler: features differ
    there in their last digits, the image does not.

    Args:
      rate: share of the features to drop, in [0, 1).
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be in [0, 1). Received: {rate}")
        self.rate = rate

    def call(self, inputs, training=None):
        # Models that were saved earlier give the features alone.
        features, image = (
            inputs if isinstance(inputs, (list, tuple)) else (inputs, inputs)
        )
        if not training:
            return features
        bits = tf.bitcast(tf.cast(image, tf.float32), tf.int32)
        # Sums of integers are the same in any order; int64, as GPUs do not add int32.
        total = tf.reduce_sum(tf.cast(bits, tf.int64))
        layer = zlib.crc32(self.name.encode()) + tf.size(features, tf.int64)
        # Integers by an algorithm's name: by default each device has its own, and XLA
        # makes other floats of the same integers.
        draws = tf.random.stateless_uniform(
            tf.shape(features),
            seed=tf.stack([total, layer]),
            minval=None,
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )
        kept = tf.cast(draws, tf.float32) >= self.rate * 2.0**32
        return tf.where(kept, features / (1.0 - self.rate), tf.zeros_like(features))

    def compute_output_shape(self, input_shape):
        one = isinstance(input_shape[0], (list, tuple, tf.TensorShape))
        return input_shape[0] if one else input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


@keras.utils.register_keras_serializable("deeplab_tf")
class ResizeLike(keras.layers.Layer):
    """Bilinear resize of `features` to the height and width of `reference`.

    Call it on `[features, reference]`. Feature (i, j) of stride s was computed around
    pixel (i * s, j * s), so it is put back there: at sizes s * k + 1 this equals
    `align_corners=True` of the authors' code, and unlike it stays aligned at every
    other size. Beyond the last feature the border is repeated.

    Args:
      stride: pixels of `reference` per feature, which need not be a whole number. None
        stretches the features over the whole reference, as needed for the 1x1 map of
        image-level pooling.
    """

    def __init__(self, stride: float | None = None, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, inputs):
        features, reference = inputs
        height, width = reference.shape[1], reference.shape[2]
        if height is None or width is None:
            height, width = tf.unstack(tf.shape(reference)[1:3])
        dtype = features.dtype
        if dtype.size < tf.float32.size:
            # XLA gives the gradient of half precision in float32 all the same, which
            # what comes before does not take; other kernels add it up in few bits.
            features = tf.cast(features, tf.float32)
        if self.stride is None:
            return tf.cast(tf.image.resize(features, [height, width]), dtype)
        if self.stride % 1:
            for axis, size in ((1, height), (2, width)):
                features = _read_at(
                    features,
                    lambda _, size=size: (
                        tf.range(tf.cast(size, tf.float32)) / self.stride
                    ),
                    axis,
                )
            return tf.cast(features, dtype)
        # With legacy alignment output pixel p reads feature p / stride exactly.
        resized = tf.raw_ops.ResizeBilinear(
            images=features, size=tf.shape(features)[1:3] * int(self.stride)
        )
        # Not resized[:, :height, :width], whose gradient is 20 times slower on a CPU
        # (`python -m benchmarks.layers`).
        cut = tf.slice(resized, [0, 0, 0, 0], [-1, height, width, features.shape[3]])
        return tf.cast(cut, dtype)

    def compute_output_shape(self, input_shape):
        features, reference = input_shape
        return (features[0], reference[1], reference[2], features[3])

    def get_config(self):
        return {**super().get_config(), "stride": self.stride}


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How pixels are prepared: (color - mean) / deviation.

    Attributes:
      mean, deviation: of red, green and blue, in 0..255.
      bgr: whether the result is ordered blue, green, red.
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False


# The conventions that published weights were trained with.
NORMALIZATIONS = {
    # keras.applications' ResNets and VGG.
    "caffe": Normalization((123.68, 116.779, 103.939), bgr=True),
    # DeepLabV1 and V2 by their authors, in Caffe.
    "caffe_deeplab": Normalization((122.675, 116.669, 104.008), bgr=True),
    "torch": Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    # Keras Hub's DeepLabV3+ was trained on plain RGB in 0..255.
    "none": Normalization((0.0, 0.0, 0.0)),
    # EfficientNetV2-S.
    "unit_128": Normalization((128.0, 128.0, 128.0), (128.0, 128.0, 128.0)),
    # x / 127.5 - 1: MobileNets, Xception, TensorFlow's ResNets with the beta stem.
    "unit": Normalization((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}


def mean_color(mode: str) -> tuple[float, float, float]:
    """Returns the RGB that `ImageNormalization(mode)` turns into zeros, to pad with."""
    return NORMALIZATIONS[mode].mean


@keras.utils.register_keras_serializable("deeplab_tf")
class ImageNormalization(keras.layers.Layer):
    """Turns RGB in 0..255 into what the backbone's weights were trained on.

    Computed in float32 under every precision policy.

    Args:
      mode: a row of `NORMALIZATIONS`.

    Raises:
      ValueError: another mode.
    """

    def __init__(self, mode: str, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if mode not in NORMALIZATIONS:
            raise ValueError(
                f"normalization must be one of {sorted(NORMALIZATIONS)}. "
                f"Received: {mode!r}"
            )
        self.mode = mode

    def call(self, image):
        rule = NORMALIZATIONS[self.mode]
        image = (image - tf.constant(rule.mean)) / tf.constant(rule.deviation)
        return tf.reverse(image, axis=[-1]) if rule.bgr else image

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}


@keras.utils.register_keras_serializable("deeplab_tf")
class ScaleImage(keras.layers.Layer):
    """Bilinear resize, computed in float32 under every precision policy.

    Args:
      factor: of height and width.
      aligned: True gives floor((size - 1) * factor) + 1 pixels; pixel p lies at
        p / factor of the input. False gives floor(size * factor); pixel p lies at
        (p + 0.5) / factor - 0.5, also where size * factor is not whole.
    """

    def __init__(self, factor: float, aligned: bool = False, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.factor = factor
        self.aligned = aligned

    def call(self, image):
        # tf.image.resize takes its scale from whole sizes; ScaleAndTranslate takes one,
        # but runs on CPUs alone.
        return self._resize(self._resize(image, axis=1), axis=2)

    def _resize(self, image, axis: int):
        def positions(size):
            # float64, so that it is Python's number of `compute_output_shape`.
            scaled = self._scaled(tf.cast(size, tf.float64))
            pixels = tf.cast(tf.range(tf.floor(scaled)), tf.float32)
            offset = 0.0 if self.aligned else 0.5
            return (pixels + offset) / self.factor - offset

        return _read_at(image, positions, axis)

    def _scaled(self, size):
        """Pixels of a side, not yet rounded down."""
        if self.aligned:
            return (size - 1) * self.factor + 1
        return size * self.factor

    def compute_output_shape(self, input_shape):
        scaled = [size and int(self._scaled(size)) for size in input_shape[1:3]]
        return (input_shape[0], *scaled, input_shape[3])

    def get_config(self):
        return {**super().get_config(), "factor": self.factor, "aligned": self.aligned}


def _read_at(image, positions, axis: int):
    """Reads rows (axis 1) or columns (axis 2) between pixels, linearly.

    Where the size is fixed, so are the pixels that are read: numbers in the graph,
    which converters of other runtimes need not work out.

    Args:
      image: float32 [B, height, width, channels].
      positions: pixels along the axis, int32 scalar -> float32 [n] where to read, in
        pixels; beyond the border it is repeated.
      axis: 1 or 2.

    Returns:
      float32, of size n along `axis`.
    """

    def neighbours(size):
        last = tf.cast(size, tf.float32) - 1.0
        places = tf.clip_by_value(positions(size), 0.0, last)
        before = tf.floor(places)
        after = tf.minimum(before + 1.0, last)
        return tf.cast(before, tf.int32), tf.cast(after, tf.int32), places - before

    if image.shape[axis] is None:
        before, after, share = neighbours(tf.shape(image)[axis])
    else:
        with tf.init_scope():
            found = neighbours(tf.constant(image.shape[axis]))
            before, after, share = (each.numpy() for each in found)
    share = tf.reshape(share, [-1, 1] if axis == 2 else [-1, 1, 1])
    before, after = (tf.gather(image, each, axis=axis) for each in (before, after))
    return before * (1.0 - share) + after * share
