"""Training in less memory: features are computed again where the gradient needs them.

Chen et al., "Training Deep Nets with Sublinear Memory Cost" (1604.06174). Between the
cuts of a network nothing is kept but what crosses them.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import NamedTuple

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.networks.batch_normalization import fixed_statistics
from deeplab_tf.networks.layers import is_keras3

# A stretch is worth computing again from this many convolutions on; the units of a
# ResNet have three. Its end is where fewest tensors cross, looking this many layers
# ahead: a unit has about twelve.
MIN_CONVOLUTIONS = 3
LAYERS_AHEAD = 12


class _Step(NamedTuple):
    """A layer of a flat network; tensors are known by their ids."""

    layer: keras.layers.Layer
    inputs: list[int]
    is_list: bool  # whether the layer takes a list
    output: int


def recompute_in_training(model: keras.Model) -> int:
    """Makes the training pass of a network keep less, and compute it again.

    Outputs, gradients and moving statistics are those of before. Layers, names, weights
    and the pass in inference mode are untouched.

    Args:
      model: a flat functional model, each of whose layers is called once (so not
        DeepLabV2 with several input scales).

    Returns:
      The number of stretches that are computed again.

    Raises:
      ValueError: a layer is called several times.
    """
    steps = _steps(model)
    outputs = {id(tensor) for tensor in tf.nest.flatten(model.output)}
    stretches = _stretches(steps, id(model.input), outputs)
    inference = model.call

    @tf.autograph.experimental.do_not_convert
    def call(inputs, training=None, mask=None):
        if not training:
            return inference(inputs, training=training, mask=mask)
        tensors = {id(model.input): inputs}
        for stretch in stretches:
            _run(stretch, tensors)
        return tf.nest.map_structure(lambda t: tensors[id(t)], model.output)

    model.call = call
    return len(stretches)


class _Stretch(NamedTuple):
    steps: list[_Step]
    inputs: list[int]  # what it reads of before
    outputs: list[int]  # what is read after it


def _run(stretch: _Stretch, tensors: dict) -> None:
    """Adds the outputs of a stretch to `tensors`, and moves its statistics once."""
    weights = _weights(stretch)
    moving = [weight for weight in weights if not weight.trainable]
    runs = []

    def forward(*arguments):
        values = dict(zip(stretch.inputs, arguments))
        given = arguments[len(stretch.inputs) :]
        # Statistics move in the first of the two runs.
        with fixed_statistics(bool(runs)), _given_weights(weights, given) as scope:
            runs.append(None)
            for step in stretch.steps:
                read = [values[name] for name in step.inputs]
                values[step.output] = _call(
                    step.layer, read if step.is_list else read[0]
                )
            statistics = [scope.get_current_value(weight) for weight in moving]
        return [*(values[name] for name in stretch.outputs), *statistics]

    inputs = [tensors[name] for name in stretch.inputs]
    inputs += [tf.convert_to_tensor(weight) for weight in weights]
    results = tf.recompute_grad(forward)(*inputs)
    tensors.update(zip(stretch.outputs, results))
    for weight, value in zip(moving, results[len(stretch.outputs) :]):
        weight.assign(value)


def _weights(stretch) -> list:
    """The weights that a stretch is given as arguments.

    Of Keras 3 all: in a `stateless_call` they are tensors, and `tf.recompute_grad` has
    gradients for arguments and variables alone. Keras 2 has variables.
    """
    if not is_keras3():
        return []
    return [weight for step in stretch.steps for weight in step.layer.weights]


def _given_weights(weights, values):
    """A context in which layers read the values and keep what they assign."""
    if not weights:
        return contextlib.nullcontext()
    return keras.StatelessScope(list(zip(weights, values)))


def _call(layer, inputs):
    if "training" in inspect.signature(layer.call).parameters:
        return layer(inputs, training=True)
    return layer(inputs)


def _steps(model) -> list[_Step]:
    steps = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if len(layer._inbound_nodes) > 1:
            raise ValueError(
                "recompute needs a network that calls each layer once; DeepLabV2 with "
                f"several input_scales does not. Received: {layer.name}"
            )
        inputs, output = layer.input, layer.output
        is_list = isinstance(inputs, (list, tuple))
        read = [id(tensor) for tensor in (inputs if is_list else [inputs])]
        steps.append(_Step(layer, read, is_list, id(output)))
    return steps


def _stretches(steps, image: int, outputs: set) -> list[_Stretch]:
    """Cuts a network where few tensors cross."""
    last_read = {name: i for i, step in enumerate(steps) for name in step.inputs}
    last_read.update(dict.fromkeys(outputs, len(steps)))
    made = {image: -1} | {step.output: i for i, step in enumerate(steps)}

    def crossing(index):
        """What is made up to a step and read after it."""
        return [n for n, i in made.items() if i <= index < last_read.get(n, -1)]

    counts = [len(crossing(index)) for index in range(len(steps))]
    stretches, begin, convolutions = [], 0, 0
    for index, step in enumerate(steps):
        convolutions += isinstance(step.layer, keras.layers.Conv2D)
        ahead = counts[index + 1 : index + 1 + LAYERS_AHEAD]
        is_narrow = counts[index] <= min(ahead, default=counts[index])
        if (convolutions >= MIN_CONVOLUTIONS and is_narrow) or not ahead:
            before = [] if begin == 0 else crossing(begin - 1)
            read = {name for s in steps[begin : index + 1] for name in s.inputs}
            inputs = [n for n in before or [image] if n in read]
            after = [n for n in crossing(index) if made[n] >= begin]
            stretches.append(_Stretch(steps[begin : index + 1], inputs, after))
            begin, convolutions = index + 1, 0
    return stretches
