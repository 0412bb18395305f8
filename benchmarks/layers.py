"""Times our layers against Keras' own or the plain way, forward and with gradients.

    python -m benchmarks.layers

One line a layer: milliseconds of ours, of the other, and their ratio. Both take turns
in one process.
"""

from __future__ import annotations

import argparse
import functools
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
    ResizeLike,
    is_keras3,
)

SAME = {"padding": "same", "use_bias": False}


def upsample(features):
    """Features of stride 16 at stride 4, as the decoder of V3+ has them."""
    reference = tf.zeros([1, 4 * features.shape[1] - 2, 4 * features.shape[2], 1])
    return ResizeLike(4)([features, reference])


def upsample_plainly(features):
    """The same with a plain cut."""
    height, width = features.shape[1:3]
    resized = tf.raw_ops.ResizeBilinear(images=features, size=[4 * height, 4 * width])
    return resized[:, : 4 * height - 2, : 4 * width]


def convolution(kernel_size, inputs, filters, side=33, batch_size=1, **options):
    """{dtype: case} of a convolution of ours and Keras' own."""
    title = f"{kernel_size}x{kernel_size} {inputs} -> {filters}"
    makers = [
        lambda dtype, layer=layer: layer(
            filters, kernel_size, dtype=dtype, **SAME, **options
        )
        for layer in (AtrousConv2D, keras.layers.Conv2D)
    ]
    return _cases(title, makers, (batch_size, side, side, inputs), options)


def depthwise(channels, height=33, width=33, batch_size=1, **options):
    """{dtype: case} of a depthwise 3x3 of ours and Keras' own."""
    makers = [
        lambda dtype, layer=layer: layer(3, dtype=dtype, **SAME, **options)
        for layer in (AtrousDepthwiseConv2D, keras.layers.DepthwiseConv2D)
    ]
    shape = (batch_size, height, width, channels)
    return _cases(f"depthwise 3x3 {channels}", makers, shape, options)


def _cases(title, makers, shape, options) -> dict:
    words = {"dilation_rate": "rate", "strides": "stride"}
    for name, value in options.items():
        title += f", {words[name]} {value}"
    return {
        dtype: (
            f"{title}, {dtype}",
            *(functools.partial(make, dtype) for make in makers),
            shape,
            dtype,
        )
        for dtype in ("float32", "bfloat16")
    }


# Title, our layer, the other, shape of its input, its type.
CASES = [
    case
    for cases in (
        *(convolution(3, 2048, 256, dilation_rate=rate) for rate in (6, 12, 18)),
        *(depthwise(960, dilation_rate=rate) for rate in (2, 4)),
        depthwise(2048, dilation_rate=18),
        depthwise(96, 180, 240, batch_size=8, strides=2),
    )
    for case in cases.values()
]
CASES += [
    cases["bfloat16"]
    for cases in (
        convolution(3, 256, 256, batch_size=2),
        convolution(3, 256, 256, batch_size=2, dilation_rate=2),
        convolution(1, 1024, 512, batch_size=2),
        convolution(1, 512, 2048, batch_size=2),
    )
]
CASES.append(
    (
        "up by 4, cut to 90x120x256",
        lambda: upsample,
        lambda: upsample_plainly,
        (8, 23, 30, 256),
        "float32",
    )
)
if is_keras3():
    CASES.append(
        (
            "BatchNormalization 144",
            FusedBatchNormalization,
            keras.layers.BatchNormalization,
            (8, 81, 81, 144),
            "float32",
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
        return tape.gradient(loss, [image, *getattr(layer, "trainable_weights", [])])

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
    print("| layer | pass | ours, ms | other, ms | ratio |\n|---|---|---|---|---|")
    for title, ours, others, shape, dtype in CASES:
        image = tf.cast(tf.random.stateless_normal(shape, seed=[0, 0]), dtype)
        variants = {
            (owner, name): run
            for owner, make in (("ours", ours), ("other", others))
            for name, run in make_runs(make(), image).items()
        }
        seconds = measure(variants, options.repeats)
        for name in ("forward", "training"):
            fast, slow = seconds["ours", name], seconds["other", name]
            times = [1000 * statistics.median(values) for values in (fast, slow)]
            print(
                f"| {title} | {name} | {times[0]:.2f} | {times[1]:.2f} "
                f"| {ratio(slow, fast):.2f} |"
            )


if __name__ == "__main__":
    main()
