"""Memory that exports take at their highest, each in a process of its own.

    python -m benchmarks.export_memory
    python -m benchmarks.export_memory --backbone=resnet101 --formats onnx

A network of random weights, in float32, compared on one image of 129 x 129 pixels. One
row a format: gigabytes before, with the network built, and at most; seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import psutil

from benchmarks.processes import highest_gigabytes, in_a_process
from deeplab_tf import TrainConfig, build_model
from deeplab_tf.exports.converters import CONVERTERS
from deeplab_tf.exports.runtime_files import convert_model
from deeplab_tf.exports.saved_model import export_model
from deeplab_tf.labels import labels_for

NUM_CLASSES = 21
SAVED_MODELS = {"saved_model": {}, "saved_model, constants": {"constants": True}}


def export(format_: str, model: str, backbone: str) -> tuple[float, float, float]:
    """Exports once: (gigabytes before, at most, seconds)."""
    config = TrainConfig(model=model, backbone=backbone, num_classes=NUM_CLASSES)
    network = build_model(config)
    labels = labels_for(NUM_CLASSES)
    images = [np.random.default_rng(0).integers(0, 256, [129, 129, 3], np.uint8)]
    before = psutil.Process().memory_info().rss / 1e9
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if format_ in CONVERTERS:
            path = os.path.join(folder, f"x{CONVERTERS[format_].ending}")
            convert_model(network, labels, path, images=images)
        else:
            options = SAVED_MODELS[format_]
            export_model(network, labels, folder, images=images, **options)
    seconds = time.perf_counter() - start
    return before, highest_gigabytes(), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deeplab_v3")
    parser.add_argument("--backbone", default="resnet50")
    formats = [*SAVED_MODELS, *CONVERTERS]
    parser.add_argument("--formats", nargs="*", default=formats, choices=formats)
    args = parser.parse_args()
    print("| format | GB before | GB at most | seconds |\n|---|---|---|---|")
    for format_ in args.formats:
        before, highest, seconds = in_a_process(
            export, format_, args.model, args.backbone
        )
        print(
            f"| {format_} | {before:.1f} | {highest:.1f} | {seconds:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
