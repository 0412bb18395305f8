"""What XLA compiles gives the numbers that it gives without."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.networks.models import MODELS, build_model
from deeplab_tf.networks.precision import precision_policy
from deeplab_tf.training import compiling
from tests.support.networks import image_batch, randomize, small_config

STEPS = 5
# Name -> fields of the run.
OPTIONS = {
    "hard pixels, class weights": {
        "hard_pixel_fraction": 0.3,
        "hard_mining_steps": 4,
        "class_weights": (1.0, 2.0, 1.0, 1.0, 0.5),
    },
    "label stride": {"label_stride": 8},
    "dropout": {"dropout_rate": 0.3},
    "frozen BatchNorm": {"frozen_batch_norm": True},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "gradient steps": {
        "accumulation_steps": 2,
        "clip_norm": 1.0,
        "ema_momentum": 0.9,
        "head_multiplier": 10.0,
    },
    "adamw": {"optimizer": "adamw", "decoupled_weight_decay": 0.01},
}


def history(config) -> list[dict]:
    """Loss and metrics of every step of `fit` on seeded batches."""
    keras.utils.set_random_seed(0)
    with precision_policy(config.precision):
        model = randomize(build_model(config, auxiliary_outputs=True))
        compiling.compile_model(model, config)
    image = image_batch(33, 33, 2 * STEPS)
    label = np.random.default_rng(0).integers(0, 5, image.shape[:3]).astype("int32")
    label[:, :5] = config.ignore_label
    batches = tf.data.Dataset.from_tensor_slices((image, label)).batch(2).repeat()
    return model.fit(
        compiling.label_outputs(model, batches),
        epochs=STEPS,
        steps_per_epoch=1,
        verbose=0,
    ).history


@pytest.mark.parametrize(
    "model, option",
    [
        *(pytest.param(m, None, marks=pytest.mark.slow) for m in MODELS),
        *(pytest.param("deeplab_v3", o, marks=pytest.mark.slow) for o in OPTIONS),
    ],
)
def test_losses_are_those_without(model, option):
    config = small_config(
        model, steps=STEPS, learning_rate=1e-4, **OPTIONS.get(option, {})
    )
    plain = history(config)
    compiled = history(dataclasses.replace(config, jit_compile=True))
    assert compiled.keys() == plain.keys()
    # XLA keeps more digits between operations of half precision.
    tolerance = 0.1 if "float16" in config.precision else 1e-4
    for name, values in plain.items():
        difference = np.abs(np.subtract(compiled[name], values)).max()
        print(model, option, name, difference)
        assert difference < tolerance, name
