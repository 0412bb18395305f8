"""Times a training step on two replicas, with our synchronized BatchNorm and Keras'.

    python -m benchmarks.replicated_batch_norm
    TF_USE_LEGACY_KERAS=1 python -m benchmarks.replicated_batch_norm

One JSON line. MirroredStrategy over two logical CPUs; both networks take turns in one
process, so that other work on the machine touches them alike. Times are medians, the
ratio is the median of ratios: above 1 ours is quicker.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tensorflow import keras

from benchmarks.timing import cpu_description, measure, ratio
from deeplab_tf import TrainConfig
from deeplab_tf.networks import blocks
from deeplab_tf.networks.batch_normalization import FusedBatchNormalization
from deeplab_tf.networks.models import build_model
from deeplab_tf.training import compiling, strategies
from deeplab_tf.training.optimizers import build_optimizer

LAYERS = {"ours": FusedBatchNormalization, "keras": keras.layers.BatchNormalization}


def make_step(layer, options, strategy):
    """A function that trains one step of a network with this layer."""
    config = TrainConfig(
        backbone=options.backbone, num_classes=21, steps=100, learning_rate=1e-4
    )
    blocks.FusedBatchNormalization = layer
    with strategy.scope():
        model = build_model(config, synchronized=True)
        compiling.compile_model(model, config)
        build_optimizer(model.optimizer, model.trainable_variables)
    image = np.zeros((options.batch_size, options.size, options.size, 3), np.float32)
    label = np.zeros(image.shape[:3], np.int32)
    batches = tf.data.Dataset.from_tensors((image, label)).repeat()
    iterator = iter(strategy.experimental_distribute_dataset(batches))
    model.make_train_function()
    return lambda: model.train_function(iterator)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=161, help="Pixels a side.")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    strategy = strategies.make_strategy("mirrored", 2)
    steps = {
        name: make_step(layer, options, strategy) for name, layer in LAYERS.items()
    }
    seconds = measure(steps, options.repeats)
    result = {
        **cpu_description(),
        **vars(options),
        **{
            f"{name}_s": round(statistics.median(times), 3)
            for name, times in seconds.items()
        },
        "keras_over_ours": round(ratio(seconds["keras"], seconds["ours"]), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
