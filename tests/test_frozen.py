"""BatchNorm folded into convolutions: the same function, fewer operations."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from deeplab_tf.networks.folding import fold_batch_norm
from deeplab_tf.networks.models import MODELS, build_model, inference_model
from tests.support.lanes import all_in_lane_a
from tests.support.networks import image_batch, randomize, small_config


def norms(model):
    return [
        layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


@pytest.mark.parametrize("name", all_in_lane_a(MODELS, ["deeplab_v3plus"]))
def test_every_model_computes_the_same_without_batch_norm(name):
    model = inference_model(randomize(build_model(small_config(name))))
    folded = fold_batch_norm(model)
    image = image_batch(65, 81)
    expected = model(image, training=False).numpy()
    np.testing.assert_allclose(
        folded(image, training=False).numpy(),
        expected,
        atol=2e-5 * np.abs(expected).max(),
    )
    assert not norms(folded)
    assert [layer.name for layer in folded.layers] == [
        layer.name for layer in model.layers
    ]


def test_by_hand():
    inputs = keras.Input([4, 4, 1])
    x = keras.layers.Conv2D(1, 1, name="conv")(inputs)
    x = keras.layers.BatchNormalization(epsilon=0.0, name="norm")(x)
    model = keras.Model(inputs, x)
    model.get_layer("conv").set_weights([np.full([1, 1, 1, 1], 3.0), np.array([1.0])])
    # gamma, beta, mean, variance: (3 x + 1 - 5) / sqrt(4) * 2 + 7 = 3 x + 3
    model.get_layer("norm").set_weights([np.array([v]) for v in (2.0, 7.0, 5.0, 4.0)])
    kernel, bias = fold_batch_norm(model).get_layer("conv").get_weights()
    assert kernel.item() == pytest.approx(3) and bias.item() == pytest.approx(3)


def test_what_cannot_be_folded_stays():
    """An activation between, a second reader, no convolution, an output."""
    layers = keras.layers
    inputs = keras.Input([8, 8, 2])
    x = layers.BatchNormalization(name="first")(inputs)
    x = layers.Conv2D(3, 3, activation="relu", name="active")(x)
    x = layers.BatchNormalization(name="after_relu")(x)
    shared = layers.Conv2D(3, 1, name="shared")(x)
    x = layers.BatchNormalization(name="after_shared")(shared)
    x = layers.Add()([x, shared])
    seen = layers.Conv2D(3, 1, name="seen")(x)
    x = layers.BatchNormalization(name="after_seen")(seen)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.BatchNormalization(name="foldable", scale=False, center=False)(x)
    model = randomize(keras.Model(inputs, [x, seen]))
    folded = fold_batch_norm(model)
    assert sorted(norms(model)) == sorted([*norms(folded), "foldable"])
    image = image_batch(8, 8)[..., :2] / 255
    for ours, theirs in zip(folded(image), model(image)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
