"""Trains some steps on N logical CPUs and prints the losses: run by test_training.

Prints a JSON object: name of `CASES` -> what came of it.

In float32 a rounding error of 1e-6 flips a few ReLUs, each worth 1 / sqrt(activations)
of the gradient's norm: two correct runs part by 1e-3 within steps. In float64 nothing
flips, and any difference is a mistake.
"""

import functools
import json
import sys

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf import TrainConfig
from deeplab_tf.data.reading.pipeline import fill_batch
from deeplab_tf.networks.backbones import BACKBONES
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.weight_files import named_weights
from deeplab_tf.training import compiling, strategies
from deeplab_tf.training.averaging import BatchNormEstimate
from tests.support.networks import TINY_BACKBONE

# Name -> (policy, learning rate, steps).
CASES = {"training": ("float64", 0.01, 5), "standing": ("float32", 0.0, 20)}


def run(strategy, policy, learning_rate, steps):
    """What training of `steps` steps leaves, as JSON has it."""
    config = TrainConfig(
        backbone="tiny",
        num_classes=4,
        atrous_rates=(6, 12),  # of each kind of convolution one, see `atrous_conv2d`
        steps=steps,
        learning_rate=learning_rate,
        weight_decay=1e-3,
    )
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:33, 0:33]
    waves = [
        np.sin(x / rng.uniform(2, 20) + y / rng.uniform(2, 20) + rng.uniform(0, 6))
        for _ in range(60)
    ]
    image = 127.5 + 90 * np.reshape(waves, (20, 3, 33, 33)).transpose(0, 2, 3, 1)
    image = (image + rng.normal(0, 12, image.shape)).astype("float32")
    label = rng.integers(0, 4, (20, 33, 33)).astype("int32")
    for index in range(20):  # the replicas see very different numbers of valid pixels
        label[index, 2 + index * 7 % 30 :] = 255
    keras.utils.set_random_seed(0)
    keras.backend.set_floatx(policy)
    keras.mixed_precision.set_global_policy(policy)
    with strategy.scope():
        model = build_model(config, synchronized=strategy.num_replicas_in_sync > 1)
        compiling.compile_model(model, config)
    losses = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: history.append(
            [logs["loss"], logs["mean_iou"]]
        )
    )
    history = []
    data = tf.data.Dataset.from_tensor_slices((image, label)).batch(4).repeat()
    model.fit(data, epochs=steps, steps_per_epoch=1, callbacks=[losses], verbose=0)
    # Three images in batches of two: the last is filled up.
    rest = tf.data.Dataset.from_tensor_slices((image[:3], label[:3])).batch(2)
    fill = functools.partial(fill_batch, batch_size=2, ignore_label=255)
    score = model.evaluate(rest.map(fill), verbose=0, return_dict=True)["mean_iou"]
    estimate = BatchNormEstimate(model, lambda: data, 3)
    names = [name for name in named_weights(model) if "moving" in name]
    means = [np.abs(weight).mean() for weight in model.get_weights()]
    return {
        "replicas": strategy.num_replicas_in_sync,
        "history": np.asarray(history, float).tolist(),
        "score": float(score),
        "weights": np.asarray(means, float).tolist(),
        "estimated": dict(zip(names, (value.tolist() for value in estimate()))),
        "statistics": {
            name: np.asarray(weight, float).tolist()
            for name, weight in named_weights(model).items()
            if "moving" in name
        },
    }


def main(logical_cpus):
    BACKBONES["tiny"] = TINY_BACKBONE
    strategy = strategies.make_strategy("mirrored", logical_cpus)
    print(json.dumps({name: run(strategy, *case) for name, case in CASES.items()}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
