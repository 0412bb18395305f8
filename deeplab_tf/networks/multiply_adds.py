"""Counts the multiply-adds of a model, by its layers and their sizes.

Counted are the multiplications of convolutions, each with its addition: every weight of
a kernel is used once for each pixel of the output. Not counted are biases, BatchNorm,
activations, pooling, additions and resizing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tensorflow import keras


def calls(model) -> Iterator[tuple]:
    """Yields (layer, its input tensors, its output tensor) of every call in a model.

    Calls come after those whose outputs they read. Those that belong to another model
    of the same layers are left out, and so are input layers.

    Args:
      model: functional Keras model.
    """
    # Keras 2 and 3 have this in common, and nothing public that tells calls apart.
    nodes_by_depth = model._nodes_by_depth
    for depth in sorted(nodes_by_depth, reverse=True):
        for node in nodes_by_depth[depth]:
            # Keras 3 says operation and input_tensors, Keras 2 layer and keras_inputs.
            layer = getattr(node, "operation", None) or node.layer
            inputs = getattr(node, "keras_inputs", None) or node.input_tensors
            if isinstance(layer, keras.layers.InputLayer):
                continue
            output = node.outputs
            output = output[0] if isinstance(output, (list, tuple)) else output
            yield layer, inputs, output


def layer_calls(model, height: int, width: int) -> Iterator[tuple]:
    """Yields (layer, output shape) of every call between a model's input and outputs.

    A layer that is called several times, as the shared ones of DeepLabV2's multi-scale
    inputs, comes once for each call, with the shape of that call.

    Args:
      model: functional Keras model of one image, of any size.
      height, width: of the image, pixels.
    """
    shapes = {id(model.inputs[0]): (1, height, width, model.inputs[0].shape[-1])}
    for layer, inputs, output in calls(model):
        given = [shapes[id(tensor)] for tensor in inputs]
        shape = layer.compute_output_shape(given if len(given) > 1 else given[0])
        shapes[id(output)] = tuple(shape)
        yield layer, tuple(shape)


def multiply_adds(
    model, height: int = 513, width: int = 513, space_to_batch=False
) -> int:
    """Counts the multiply-adds of a model's convolutions on one image.

    Args:
      model: functional Keras model of one image, of any size.
      height, width: of the image, pixels.
      space_to_batch: whether to count dilated convolutions at the size at which
        TensorFlow 1 ran them; see `space_to_batch_size`.

    Raises:
      ValueError: a layer with a kernel that is no convolution.
    """
    total = 0
    for layer, (_, *size, _) in layer_calls(model, height, width):
        kernels = [weight for weight in layer.weights if len(weight.shape) > 1]
        if not kernels:
            continue
        if not isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            raise ValueError(
                "Only Conv2D and DepthwiseConv2D are counted. "
                f"Received: {layer.name}, {type(layer).__name__}"
            )
        if space_to_batch:
            reach = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
            size = [
                space_to_batch_size(pixels, layer.dilation_rate[0], reach)
                for pixels in size
            ]
        total += sum(math.prod(kernel.shape) for kernel in kernels) * math.prod(size)
    return total


def space_to_batch_size(pixels: int, rate: int, reach: int) -> int:
    """Outputs a side that SpaceToBatchND computes for a dilated "same" convolution.

    It pads the input by `reach`, then up to a multiple of `rate`, and runs one smaller
    convolution for each of rate * rate offsets; what is too much is cropped behind it.
    33 pixels at rate 6 with a 3x3 kernel: 36, as 45 is padded to 48.
    """
    return -(-(pixels + reach) // rate) * rate - reach
