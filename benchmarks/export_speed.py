"""Times exports: BatchNorm folded, constants, half precision, over a plain one.

    python -m benchmarks.export_speed
    python -m benchmarks.export_speed --backbone=mobilenet_v2

The plain export is what `tf.saved_model.save` makes of the Keras model: variables, and
BatchNorm as trained. All are reloaded and asked by turns for the classes of one image;
weights are random. One JSON line: seconds, and how many times quicker than the plain
export each is (medians of the ratios).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.timing import cpu_description, measure, ratio
from deeplab_tf import TrainConfig, build_model
from deeplab_tf.exports.saved_model import export_model
from deeplab_tf.inference.saved_models import load_saved_model
from deeplab_tf.labels import labels_for
from deeplab_tf.networks.precision import precision_policy

NUM_CLASSES = 21


def save_plain(model, path: str) -> str:
    """Saves a model as it is: image uint8 [B, h, w, 3] -> classes uint8."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def serve_images(images):
        logits = model(tf.cast(images, tf.float32), training=False)
        classes = tf.argmax(logits, -1, output_type=tf.int32)
        return {"classes": tf.cast(classes, tf.uint8)}

    module = tf.Module()
    module.variables_of_model = [
        weight if isinstance(weight, tf.Variable) else weight.value
        for weight in model.weights
    ]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    signatures = {"serve_images": serve_images}
    tf.saved_model.save(module, path, signatures=signatures, options=options)
    return path


def exports(config: TrainConfig, folder: str, precisions) -> dict[str, str]:
    """Returns {name: path} of the plain export and of two in each precision."""
    model = build_model(config)
    labels = labels_for(NUM_CLASSES)
    paths = {"plain": save_plain(model, os.path.join(folder, "plain"))}
    for precision in precisions:
        with precision_policy(precision):
            optimized = build_model(config)
        optimized.set_weights(model.get_weights())
        for constants in (False, True):
            name = f"{precision}{', constants' * constants}"
            paths[name], _ = export_model(
                model,
                labels,
                os.path.join(folder, name),
                optimized=optimized,
                precision=precision,
                constants=constants,
            )
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deeplab_v3")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=513, help="pixels a side")
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    config = TrainConfig(
        model=args.model, backbone=args.backbone, num_classes=NUM_CLASSES
    )
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, [1, args.size, args.size, 3], dtype=np.uint8)
    image = tf.constant(image)
    with tempfile.TemporaryDirectory() as folder:
        paths = exports(config, folder, args.precisions.split(","))
        loaded = {name: load_saved_model(path) for name, path in paths.items()}
        variants = {
            name: lambda each=each: each.signatures["serve_images"](images=image)
            for name, each in loaded.items()
        }
        seconds = measure(variants, args.repeats)
    result = {
        "backbone": args.backbone,
        "size": args.size,
        "seconds": {n: round(statistics.median(s), 4) for n, s in seconds.items()},
        "quicker": {
            name: round(ratio(seconds["plain"], each), 2)
            for name, each in seconds.items()
        },
        **cpu_description(),
        "tensorflow": tf.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
