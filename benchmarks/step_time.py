"""Times DeepLabV3-ResNet-50 against the same network on plain Keras convolutions.

    python -m benchmarks.step_time

One JSON line: seconds and ratios of a forward pass and a training step at 513 x 513,
output stride 16. The variants take turns in one process, so that other work on the
machine touches them alike; times are medians, ratios are medians of ratios.
"""

from __future__ import annotations

import json
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags
from tensorflow import keras

from benchmarks.timing import cpu_description, measure, ratio
from deeplab_tf import DeepLabV3, SegmentationLoss
from deeplab_tf.networks import blocks
from deeplab_tf.networks.precision import precision_policy

FLAGS = flags.FLAGS
flags.DEFINE_integer("size", 513, "Height and width of the image, pixels.")
flags.DEFINE_integer("repeats", 7, "Turns of each variant.")
flags.DEFINE_list("precisions", ["float32", "bfloat16"], "Precisions to time.")
NUM_CLASSES = 21
TRAINING_BATCH = 2


def build(precision: str, plain_keras: bool):
    """DeepLabV3-ResNet-50, with AtrousConv2D or with keras.layers.Conv2D."""
    native = blocks.AtrousConv2D
    if plain_keras:
        blocks.AtrousConv2D = keras.layers.Conv2D
    try:
        with precision_policy(precision), blocks.layer_defaults(weight_decay=1e-4):
            return DeepLabV3(NUM_CLASSES, "resnet50")
    finally:
        blocks.AtrousConv2D = native


def make_steps(model, size: int) -> dict:
    """Returns {"forward": ..., "training": ...}, each a function that runs one."""
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (TRAINING_BATCH, size, size, 3)).astype("float32")
    label = rng.integers(0, NUM_CLASSES, (TRAINING_BATCH, size, size)).astype("int32")
    image, label = tf.constant(image), tf.constant(label)
    forward = tf.function(lambda image: model(image, training=False))
    model.compile(
        keras.optimizers.SGD(0.007, momentum=0.9),
        loss=SegmentationLoss(),
        jit_compile=False,
    )
    return {
        "forward": lambda: forward(image[:1]).numpy(),
        "training": lambda: model.train_on_batch(image, label),
    }


def main(argv):
    del argv
    variants = {}
    for precision in FLAGS.precisions:
        for plain_keras in (False, True):
            steps = make_steps(build(precision, plain_keras), FLAGS.size)
            for step, run in steps.items():
                variants[precision, plain_keras, step] = run
    result = {
        "benchmark": "step_time",
        "tensorflow": tf.__version__,
        "size": FLAGS.size,
        "training_batch": TRAINING_BATCH,
        **cpu_description(),
    }
    seconds = measure(variants, FLAGS.repeats)
    for step in ("forward", "training"):
        for precision in FLAGS.precisions:
            ours = seconds[precision, False, step]
            plain = seconds[precision, True, step]
            key = f"{step}_{precision}"
            result[f"{key}_seconds"] = round(statistics.median(ours), 4)
            result[f"{key}_plain_keras_seconds"] = round(statistics.median(plain), 4)
            result[f"{key}_over_plain_keras"] = round(ratio(plain, ours), 3)
        if {"float32", "bfloat16"} <= set(FLAGS.precisions):
            exact, half = (seconds[p, False, step] for p in ("float32", "bfloat16"))
            result[f"{step}_bfloat16_over_float32"] = round(ratio(exact, half), 3)
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
