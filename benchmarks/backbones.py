"""Times backbones beside MobileNetV2, for docs/models.md.

    python -m benchmarks.backbones            # prints the table
    python -m benchmarks.backbones --write    # puts it into docs/models.md

Features of one image of 513 x 513 at output stride 16, in float32 and with random
weights. Each network and MobileNetV2 take turns in one process; the time is the median
of their ratios.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from tensorflow import keras

from benchmarks.model_table import (
    DOCUMENT,
    IMAGE_SIZE,
    count_parameters,
    markdown_table,
    replace_block,
)
from benchmarks.timing import cpu_description, measure, ratio
from deeplab_tf.networks.backbones import BACKBONES, backbone_features
from deeplab_tf.networks.multiply_adds import multiply_adds

BASELINE = "mobilenet_v2"
NAMES = [
    name
    for name in BACKBONES
    if name.startswith(("mobilenet_v3", "efficientnet", "convnext"))
]


def features_of(name: str) -> keras.Model:
    """The backbone up to its last features, at output stride 16."""
    image = keras.Input([None, None, 3], name="image")
    return keras.Model(image, backbone_features(name, image, 16)["out"])


def line(name: str, repeats: int) -> list[str]:
    """Cells of a backbone's row; builds it and MobileNetV2."""
    models = {each: features_of(each) for each in (BASELINE, name)}
    image = tf.random.uniform([1, IMAGE_SIZE, IMAGE_SIZE, 3], 0, 255, seed=0)
    runs = {
        each: functools.partial(tf.function(model), image, training=False)
        for each, model in models.items()
    }
    seconds = measure(runs, repeats)
    trainable, everything = count_parameters(models[name])
    count = multiply_adds(models[name], IMAGE_SIZE, IMAGE_SIZE)
    return [
        name,
        str(models[name].output.shape[-1]),
        f"{trainable:,}",
        f"{everything:,}",
        f"{count / 1e9:.2f}",
        f"{1000 * statistics.median(seconds[name]):.0f}",
        f"{ratio(seconds[name], seconds[BASELINE]):.2f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9, help="Turns of each network.")
    parser.add_argument(
        "--write", action="store_true", help="Into docs/models.md, not on the screen."
    )
    options = parser.parse_args()
    head = (
        "backbone,channels,trainable parameters,all weights,multiply-adds (1e9),"
        "milliseconds,beside mobilenet_v2"
    )
    names = [BASELINE, *NAMES]
    table = markdown_table(head, (line(name, options.repeats) for name in names))
    print(table, cpu_description(), sep="\n\n")
    if options.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(replace_block(text, "backbones", table), encoding="utf-8")


if __name__ == "__main__":
    main()
