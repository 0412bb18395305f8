"""Writes a network of ours down as a list of layers, for another framework."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
from tensorflow import keras

from benchmarks.peers.layer_files import EXAMPLE, LAYERS, WEIGHTS
from deeplab_tf.networks.layers import NORMALIZATIONS, ImageNormalization
from deeplab_tf.networks.multiply_adds import calls

EXAMPLE_SIZE = 129  # pixels a side, at which every stride ends on the last one
# What of a layer's configuration says what it computes.
OPTIONS = (
    *("strides", "padding", "dilation_rate", "pool_size", "epsilon", "max_value"),
    *("stride", "rate", "mean", "deviation", "bgr"),
)


def write_layer_list(model: keras.Model, folder: str) -> None:
    """Writes `LAYERS`, `WEIGHTS` and `EXAMPLE` into a folder.

    LAYERS is {"input", "output", "layers"}; a layer is {"name", "kind", "inputs",
    "output", "options"}, in the order of computation, its tensors by numbers. WEIGHTS
    has a layer's arrays as "name/0", "name/1", ... in Keras' order. EXAMPLE has "image"
    float32 [1, h, w, 3] in 0..255, and the "logits" [1, h, w, classes] of it.

    Args:
      model: functional model of one image and one output.
      folder: an existing folder.
    """
    numbers = {id(model.inputs[0]): 0}
    layers, arrays = [], {}
    for layer, inputs, output in calls(model):
        inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        config = layer.get_config()
        if isinstance(layer, ImageNormalization):
            config = dataclasses.asdict(NORMALIZATIONS[config["mode"]])
        layers.append(
            {
                "name": layer.name,
                "kind": type(layer).__name__,
                "inputs": [numbers[id(each)] for each in inputs],
                "output": numbers.setdefault(id(output), len(numbers)),
                "options": {key: config[key] for key in OPTIONS if key in config},
            }
        )
        for index, array in enumerate(layer.get_weights()):
            arrays[f"{layer.name}/{index}"] = array
    network = {"input": 0, "output": numbers[id(model.outputs[0])], "layers": layers}
    with open(os.path.join(folder, LAYERS), "w") as file:
        json.dump(network, file)
    np.savez(os.path.join(folder, WEIGHTS), **arrays)
    shape = (1, EXAMPLE_SIZE, EXAMPLE_SIZE, 3)
    image = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    logits = model(image, training=False).numpy()
    np.savez(os.path.join(folder, EXAMPLE), image=image, logits=logits)
