"""Times our layers against Keras' own, forward and with gradients.

    python -m benchmarks.layers

One line a layer: milliseconds of ours, of Keras', and their ratio. Both take turns in
one process.
"""

from __future__ import annotations

import argparse
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tensorflow import keras

from benchmarks.timing import measure, ratio
from deeplab_tf.networks.batch_normalization import FusedBatchNormalization
from deeplab_tf.networks.layers import (
    AtrousConv2D,
    AtrousDepthwiseConv2D,
    is_keras3,
)

SAME = {"padding": "same", "use_bias": False}
# Title, our layer, Keras', shape of its input.
CASES = [
    (
        f"3x3 2048 -> 256, rate {rate}",
        lambda rate=rate: AtrousConv2D(256, 3, dilation_rate=rate, **SAME),
        lambda rate=rate: keras.layers.Conv2D(256, 3, dilation_rate=rate, **SAME),
        (1, 33, 33, 2048),
    )
    for rate in (6, 12, 18)
] + [
    (
        f"depthwise 3x3 960, rate {rate}",
        lambda rate=rate: AtrousDepthwiseConv2D(3, dilation_rate=rate, **SAME),
        lambda rate=rate: keras.layers.DepthwiseConv2D(3, dilation_rate=rate, **SAME),
        (1, 33, 33, 960),
    )
    for rate in (2, 4)
]
if is_keras3():
    CASES.append(
        (
            "BatchNormalization 144",
            FusedBatchNormalization,
            keras.layers.BatchNormalization,
            (8, 81, 81, 144),
        )
    )


def make_runs(layer, image) -> dict:
    """Returns {"forward": ..., "training": ...}, each a function that runs one."""
    layer(image)

    @tf.function
    def forward(image):
        return layer(image, training=False) if _has_modes(layer) else layer(image)

    @tf.function
    def training(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            output = layer(image, training=True) if _has_modes(layer) else layer(image)
            loss = tf.reduce_sum(output * output)
        return tape.gradient(loss, [image, *layer.trainable_weights])

    return {
        "forward": lambda: forward(image).numpy(),
        "training": lambda: training(image)[0].numpy(),
    }


def _has_modes(layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    print("| layer | pass | ours, ms | Keras, ms | ratio |\n|---|---|---|---|---|")
    for title, ours, kerases, shape in CASES:
        image = tf.random.stateless_normal(shape, seed=[0, 0])
        variants = {
            (owner, name): run
            for owner, make in (("ours", ours), ("keras", kerases))
            for name, run in make_runs(make(), image).items()
        }
        seconds = measure(variants, options.repeats)
        for name in ("forward", "training"):
            fast, slow = seconds["ours", name], seconds["keras", name]
            times = [1000 * statistics.median(values) for values in (fast, slow)]
            print(
                f"| {title} | {name} | {times[0]:.2f} | {times[1]:.2f} "
                f"| {ratio(slow, fast):.2f} |"
            )


if __name__ == "__main__":
    main()
