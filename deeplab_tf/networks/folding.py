"""A network as one graph of constants, for servers and other runtimes.

`logits = inference_graph(model)`, or `freeze(model)`

At inference BatchNorm is an affine function of each channel, and so is what a
convolution does last: one convolution with a bias does both. Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018), equation 14.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import keras
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from deeplab_tf.networks.models import inference_model

ANY_IMAGES = (None, None, None, 3)
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


class _Passed(keras.layers.Layer):
    """Stands where a BatchNormalization stood."""

    def call(self, inputs, training=None, mask=None):
        return inputs


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Returns a copy of a functional model without foldable BatchNormalization.

    Folded is each whose every input comes from one convolution without an activation
    that nothing else reads. Others stay, and so do all names. Weights of convolutions
    are of the type that they are computed in, which a model that is trained in half
    precision makes of them at every call.

    Args:
      model: functional model; left as it is.

    Returns:
      A model of the same inputs and outputs, for inference only; in float32 its outputs
      differ by rounding.
    """
    folded = _foldable(model)
    with_bias = set(folded.values())

    def clone(layer):
        if layer.name in folded:
            return _Passed(name=layer.name, dtype=layer.dtype_policy)
        config = layer.get_config()
        if layer.name in with_bias:
            config["use_bias"] = True
        if isinstance(layer, _CONVOLUTIONS):
            config["dtype"] = layer.compute_dtype
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone)
    norms = {convolution: norm for norm, convolution in folded.items()}
    for layer in model.layers:
        if layer.name in norms:
            norm = model.get_layer(norms[layer.name])
            copy.get_layer(layer.name).set_weights(_folded_weights(layer, norm))
        elif layer.weights and layer.name not in folded:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def inference_graph(model: keras.Model, input_shape=ANY_IMAGES):
    """Traces a network's logits, BatchNorm folded.

    Args:
      model: Keras model of this package.
      input_shape: of the images; None where any will do.

    Returns:
      A `tf.function`: image float32 [B, h, w, 3] in 0..255 -> logits float32
      [B, h, w, num_classes].
    """
    folded = fold_batch_norm(inference_model(model))

    @tf.function(input_signature=[tf.TensorSpec(input_shape, tf.float32, "image")])
    def logits(image):
        return folded(image, training=False)

    return logits


def freeze(model: keras.Model, input_shape=ANY_IMAGES):
    """As `inference_graph`, with the weights as constants.

    Without variables TensorFlow can compute ahead what depends on weights alone, such
    as casts to bfloat16. Converters of other runtimes do this by themselves, in less
    memory.
    """
    logits = inference_graph(model, input_shape)
    frozen = convert_variables_to_constants_v2(logits.get_concrete_function())

    @tf.function(input_signature=[tf.TensorSpec(input_shape, tf.float32, "image")])
    def frozen_logits(image):
        (result,) = frozen(image)
        return result

    return frozen_logits


def _foldable(model) -> dict[str, str]:
    """Returns {BatchNormalization: convolution in front of it}, by name."""
    sources = {layer.name: _sources(layer) for layer in model.layers}
    readers = {}
    for name, layers in sources.items():
        for source in layers:
            readers.setdefault(source, set()).add(name)
    outputs = {
        tensor._keras_history[0].name for tensor in tf.nest.flatten(model.outputs)
    }
    folded = {}
    for layer in model.layers:
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        if not is_norm or len(sources[layer.name]) != 1:
            continue
        (source,) = sources[layer.name]
        read_elsewhere = source in outputs or readers[source] != {layer.name}
        if _is_affine(model.get_layer(source)) and not read_elsewhere:
            folded[layer.name] = source
    return folded


def _is_affine(layer) -> bool:
    return (
        isinstance(layer, _CONVOLUTIONS)
        and layer.activation is keras.activations.linear
    )


def _sources(layer) -> set[str]:
    """Names of the layers whose outputs a layer reads, wherever it is called."""
    return {
        tensor._keras_history[0].name
        for node in layer._inbound_nodes
        for tensor in tf.nest.flatten(node.input_tensors)
    }


def _folded_weights(convolution, norm) -> list[np.ndarray]:
    """Kernel and bias that do what the convolution and then the norm do."""
    kernel, *bias = convolution.get_weights()
    weights = {
        name: np.asarray(getattr(norm, name), np.float64)
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
        if getattr(norm, name) is not None
    }
    scale = weights.get("gamma", 1.0) / np.sqrt(
        weights["moving_variance"] + norm.epsilon
    )
    offset = weights.get("beta", 0.0) - weights["moving_mean"] * scale
    if bias:
        offset = offset + bias[0] * scale
    depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
    # A depthwise kernel is [height, width, channels, multiplier].
    shape = kernel.shape[2:] if depthwise else kernel.shape[3:]
    kernel = kernel * scale.reshape(shape)
    return [kernel.astype(np.float32), offset.astype(np.float32)]
