"""Features that are computed again give what features that are kept give."""

import collections
import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.networks.layers import is_keras3
from deeplab_tf.networks.models import AUXILIARY_HEAD, MODELS, build_model
from deeplab_tf.networks.recomputation import recompute_in_training
from tests.support.networks import image_batch, randomize, small_config

# With a decoder; with two outputs and dropout. The others take longer.
QUICK = ("deeplab_v3plus", "deeplab_v3_torchvision")
ONCE = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in MODELS
    if name != "deeplab_v2"
]


def training_pass(model, image):
    """(outputs, gradients by image and weights, weights afterwards)."""

    @tf.function
    def run(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            outputs = tf.nest.flatten(model(image, training=True))
            loss = tf.add_n([tf.reduce_mean(tf.sin(output)) for output in outputs])
        return outputs, tape.gradient(loss, [image, *model.trainable_variables])

    outputs, gradients = run(tf.constant(image))
    return outputs, gradients, model.get_weights()


@pytest.mark.two_lanes
@pytest.mark.parametrize("name", ONCE)
def test_outputs_gradients_and_statistics_are_those_of_before(name):
    config = small_config(name, auxiliary_head=name in AUXILIARY_HEAD)
    model = randomize(build_model(config, auxiliary_outputs=True))
    image, weights = image_batch(33, 33, 2), model.get_weights()
    expected = training_pass(model, image)
    inference = tf.nest.flatten(model(image, training=False))
    model.set_weights(weights)
    # LR-ASPP has no head to cut into stretches.
    assert recompute_in_training(model) >= (2 if name == "lr_aspp" else 3)
    actual = training_pass(model, image)
    for one, other in zip(tf.nest.flatten(actual), tf.nest.flatten(expected)):
        np.testing.assert_allclose(one, other, atol=1e-5)
    again = tf.nest.flatten(model(image, training=False))
    for one, other in zip(again, inference):
        np.testing.assert_array_equal(one, other)


def test_every_layer_runs_once_more_for_the_gradient(monkeypatch):
    model = build_model(small_config(), auxiliary_outputs=True)
    calls = collections.Counter()

    def counted(call, name):
        @functools.wraps(call)
        def count(*arguments, **options):
            calls[name] += 1
            return call(*arguments, **options)

        return count

    for layer in model.layers[1:]:
        monkeypatch.setattr(layer, "call", counted(layer.call, layer.name))
    recompute_in_training(model)
    training_pass(model, image_batch(33, 33, 2))
    assert {calls[layer.name] for layer in model.layers[1:]} == {2}


@pytest.mark.skipif(not is_keras3(), reason="Keras 2 has no stateless_call")
def test_a_stateless_call_has_gradients_too():
    """Weights are tensors there, which `tf.recompute_grad` would not see."""
    model = randomize(build_model(small_config()))
    image = tf.constant(image_batch(33, 33, 2))
    trainable = [tf.convert_to_tensor(w) for w in model.trainable_variables]
    fixed = [tf.convert_to_tensor(w) for w in model.non_trainable_variables]

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            logits, moved = model.stateless_call(trainable, fixed, image, training=True)
            loss = tf.reduce_mean(tf.sin(logits))
        return [*tape.gradient(loss, trainable), *moved]

    expected = gradients()
    recompute_in_training(model)
    for one, other in zip(gradients(), expected):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_network_that_calls_a_layer_twice_is_refused():
    model = build_model(small_config("deeplab_v2"))
    with pytest.raises(ValueError, match="calls each layer once; DeepLabV2"):
        recompute_in_training(model)
