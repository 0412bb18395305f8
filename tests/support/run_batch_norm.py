"""Normalises batches on one device and on two logical CPUs: run by its test.

Prints for every case of `CASES` the largest relative difference of outputs, gradients
and moving statistics.
"""

import json

import numpy as np
import tensorflow as tf

from deeplab_tf.networks.batch_normalization import FusedBatchNormalization
from deeplab_tf.training import strategies

# Name -> (dtype, images of the first and of the second replica).
CASES = {
    "float32": ("float32", (3, 3)),
    "uneven": ("float32", (4, 1)),
    "empty": ("float32", (5, 0)),
    "float64": ("float64", (3, 2)),
    "bfloat16": ("mixed_bfloat16", (3, 3)),
    "float16": ("mixed_float16", (3, 3)),
}
VALUES = ("output", "image", "gamma", "beta", "moving_mean", "moving_variance")


def run(layer, image):
    """The values of one step, in the order of `VALUES`."""
    with tf.GradientTape() as tape:
        tape.watch(image)
        output = layer(image, training=True)
        loss = tf.reduce_sum(tf.sin(tf.cast(output, tf.float64)))
    scale, offset = layer.trainable_weights
    return (output, *tape.gradient(loss, [image, scale, offset]))


def one_step(policy, image, sizes, strategy):
    """Values by name, float64; those of replicas joined, or summed of parameters."""
    with strategy.scope():
        layer = FusedBatchNormalization(synchronized=True, dtype=policy, momentum=0.5)
        layer.build(image.shape)
    rng = np.random.default_rng(1)
    layer.set_weights([rng.uniform(0.5, 2, image.shape[-1]) for _ in range(4)])
    parts = np.split(image, np.cumsum(sizes)[:-1])
    replica_images = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )

    @tf.function
    def step(images):
        return strategy.run(run, args=(layer, images))

    values = step(replica_images)
    results = []
    for value, join in zip(values, (np.concatenate, np.concatenate, sum, sum)):
        parts = strategy.experimental_local_results(value)
        results.append(join([np.asarray(tf.cast(part, tf.float64)) for part in parts]))
    results += [np.asarray(weight, "float64") for weight in layer.get_weights()[2:]]
    return dict(zip(VALUES, results))


def main():
    two = strategies.make_strategy("mirrored", 2)
    one = tf.distribute.get_strategy()
    differences = {}
    for name, (policy, sizes) in CASES.items():
        dtype = {"mixed_bfloat16": tf.bfloat16, "mixed_float16": tf.float16}.get(policy)
        image = np.random.default_rng(0).normal(3, 2, (sum(sizes), 4, 5, 6))
        image = image.astype(dtype.as_numpy_dtype if dtype else policy)
        expected = one_step(policy, image, (sum(sizes),), one)
        actual = one_step(policy, image, sizes, two)
        differences[name] = {
            key: float(np.abs(actual[key] - value).max() / np.abs(value).max())
            for key, value in expected.items()
        }
    print(json.dumps(differences))


if __name__ == "__main__":
    main()
