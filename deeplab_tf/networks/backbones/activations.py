"""Activations of the newer backbones, squeeze-and-excitation and layer scale."""

from __future__ import annotations

import functools

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.networks.blocks import convolution, global_mean, keep_every


@keras.utils.register_keras_serializable("deeplab_tf")
class HardSigmoid(keras.layers.Layer):
    """relu6(x + 3) / 6 (MobileNetV3, section 5.2); Keras 2's is another function."""

    def call(self, inputs):
        return tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.utils.register_keras_serializable("deeplab_tf")
class HardSwish(keras.layers.Layer):
    """x * relu6(x + 3) / 6 (MobileNetV3, section 5.2), in the form LiteRT fuses."""

    def call(self, inputs):
        return inputs * tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.utils.register_keras_serializable("deeplab_tf")
class LayerScale(keras.layers.Layer):
    """Multiplies each channel by a weight, 1e-6 at first (ConvNeXt, appendix A.1)."""

    def build(self, input_shape):
        self.gamma = self.add_weight(
            name="gamma",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(1e-6),
        )
        super().build(input_shape)

    def call(self, inputs):
        return inputs * tf.cast(tf.convert_to_tensor(self.gamma), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.utils.register_keras_serializable("deeplab_tf")
class Gelu(keras.layers.Layer):
    """x / 2 * (1 + erf(x / sqrt(2))) (1606.08415); ONNX lacks the erfc of Keras 3."""

    def call(self, inputs):
        return 0.5 * inputs * (1.0 + tf.math.erf(inputs * 0.5**0.5))

    def compute_output_shape(self, input_shape):
        return input_shape


ACTIVATIONS = {
    "relu": keras.layers.ReLU,
    "sigmoid": functools.partial(keras.layers.Activation, "sigmoid"),
    "swish": functools.partial(keras.layers.Activation, "swish"),
    "gelu": Gelu,
    "hard_sigmoid": HardSigmoid,
    "hard_swish": HardSwish,
}


def activate(x, activation: str, *, name: str):
    """An activation as a layer of its own; a row of `ACTIVATIONS`."""
    return ACTIVATIONS[activation](name=name)(x)


def squeeze_excitation(
    x,
    filters: int,
    *,
    rate: int,
    names: tuple[str, str],
    activation: str,
    gate: str,
    name: str,
):
    """Squeeze-and-excitation (1709.01507): channels times a gate of their means.

    The mean is over every `rate`-th pixel, those that the network computes at output
    stride 32. So the gate is that of the weights' own network at every output stride,
    and denser features stay the same features; over all pixels it would differ by what
    lies between.

    Args:
      x: features [B, h, w, channels].
      filters: channels of the squeezed mean.
      rate: of `x`, the dilation of what follows the strides in front of it.
      names: of the two 1x1 convolutions.
      activation, gate: rows of `ACTIVATIONS`, after the first and the second.
      name: prefix of the layers without weights.

    Returns:
      [B, h, w, channels].
    """
    gates = global_mean(
        keep_every(x, rate, name=f"{name}_positions"), name=f"{name}_mean"
    )
    gates = convolution(gates, filters, 1, use_bias=True, name=names[0])
    gates = activate(gates, activation, name=f"{name}_activation")
    gates = convolution(gates, x.shape[-1], 1, use_bias=True, name=names[1])
    gates = activate(gates, gate, name=f"{name}_gate")
    return keras.layers.Multiply(name=f"{name}_multiply")([x, gates])
