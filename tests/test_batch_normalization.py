"""FusedBatchNormalization against Keras' own, by hand, and over replicas."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.networks import batch_normalization
from deeplab_tf.networks.batch_normalization import FusedBatchNormalization
from tests.support import run_script
from tests.support.run_batch_norm import CASES, VALUES

TOLERANCES = {"float64": 1e-12, "bfloat16": 0.01, "float16": 0.002}


@pytest.fixture(scope="module")
def differences_of_two_replicas():
    return run_script.answer_of("run_batch_norm")


@pytest.mark.parametrize("case", CASES)
def test_two_replicas_equal_one_device(case, differences_of_two_replicas):
    differences = differences_of_two_replicas[case]
    assert differences.keys() == set(VALUES)
    limit = TOLERANCES.get(case, 3e-6)
    assert max(differences.values()) < limit, differences


def values_of_a_step(layer, weights, image):
    """Output in both modes, gradients, and the moving statistics afterwards."""
    layer.build(image.shape)
    layer.set_weights(weights)
    before = layer(image, training=False)
    variable = tf.constant(image)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        output = layer(variable, training=True)
        loss = tf.reduce_sum(tf.sin(output))
    gradients = tape.gradient(loss, [variable, *layer.trainable_weights])
    return [before, output, *gradients, *layer.get_weights()[2:]]


def image_and_weights(shape=(4, 6, 5, 3)):
    image = np.random.default_rng(0).normal(3, 2, shape).astype("float32")
    weights = [np.random.default_rng(i).uniform(0.5, 2, shape[-1]) for i in range(4)]
    return image, weights


@pytest.mark.parametrize("elementwise", [False, True])
def test_values_are_those_of_keras(elementwise, monkeypatch):
    """Also by the operations that are taken where determinism is asked for."""
    monkeypatch.setattr(
        batch_normalization, "is_op_determinism_enabled", lambda: elementwise
    )
    image, weights = image_and_weights()
    ours, kerases = (
        values_of_a_step(layer(momentum=0.5, epsilon=0.01), weights, image)
        for layer in (FusedBatchNormalization, keras.layers.BatchNormalization)
    )
    for actual, expected in zip(ours[:-1], kerases[:-1]):
        np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (8, 1, 1, 3), (1, 1, 1, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moving_variance_is_bessel_corrected(shape, dtype):
    """Image pooling has one value an image: at batch 8 the correction is 8 / 7."""
    image, weights = image_and_weights(shape)
    layer = FusedBatchNormalization(momentum=0.5, dtype=dtype)
    layer.build(image.shape)
    layer.set_weights(weights)
    layer(image.astype(dtype), training=True)
    values = image[..., 0].size
    variance = image.astype("float64").var((0, 1, 2)) * values / max(values - 1, 1)
    mean = image.astype("float64").mean((0, 1, 2))
    for actual, old, batch in zip(
        layer.get_weights()[2:], weights[2:], (mean, variance)
    ):
        np.testing.assert_allclose(actual, 0.5 * old + 0.5 * batch, rtol=1e-5)


def test_frozen_is_inference_mode_in_training_too():
    image, weights = image_and_weights()
    layer = FusedBatchNormalization()
    layer.build(image.shape)
    layer.set_weights(weights)
    layer.trainable = False
    np.testing.assert_array_equal(layer(image, training=True), layer(image))
    for actual, expected in zip(
        sorted(map(tuple, layer.get_weights())),
        sorted(tuple(np.float32(w)) for w in weights),
    ):
        np.testing.assert_array_equal(actual, expected)
