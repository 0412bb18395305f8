"""Times Segmenter against the bare forward passes it is made of.

    python -m benchmarks.inference
    python -m benchmarks.inference --workdir=runs/camvid --size=360,480

One JSON line. Variants take turns in one process; ratios are medians over the turns:
  scales_and_flip: six scales, each mirrored too, over the sum of their forward passes
  one_trace: any size from one trace, over a trace of its own for the size
  batch, window_batch: an image out of four at once, over one by one
  windows: an image in windows, over the whole image; and the pixels they run over its
Without --workdir it is a MobileNetV2 DeepLabV3 of 21 classes with random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.timing import cpu_description, measure, ratio
from deeplab_tf import DeepLabV3, Segmenter, inference_model, load_workdir
from deeplab_tf.inference.segmenter import PAPER_SCALES
from deeplab_tf.inference.windows import window_starts


def forward_passes(model, image: np.ndarray):
    """Returns a function that runs the bare network at all scales, mirrored too."""
    forward = tf.function(
        lambda images: model(images, training=False),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
    )
    height, width = image.shape[1:3]
    scaled = [
        tf.image.resize(image, [round(height * scale), round(width * scale)])
        for scale in PAPER_SCALES
    ]

    def run():
        for each in scaled:
            forward(each)
            forward(each)

    return run


def time_scales(model, image, repeats: int) -> float:
    averaged = Segmenter(model, PAPER_SCALES, flip=True)
    variants = {
        "segmenter": lambda: averaged.predict_batch(image),
        "forward": forward_passes(model, image),
    }
    seconds = measure(variants, repeats)
    return ratio(seconds["segmenter"], seconds["forward"])


def time_single(model, image, window: int, repeats: int) -> dict:
    images = np.repeat(image, 4, 0)
    plain = Segmenter(model)
    static = tf.function(
        lambda images: tf.argmax(model(images, training=False), -1),
        input_signature=[tf.TensorSpec(image.shape, tf.float32)],
    )
    windows = Segmenter(model, window=window)
    batched = Segmenter(model, window=window, window_batch=4)
    variants = {
        "plain": lambda: plain.predict_batch(image),
        "static": lambda: static(image).numpy(),
        "batch": lambda: plain.predict_batch(images),
        "windows": lambda: windows.predict_batch(image),
        "window_batch": lambda: batched.predict_batch(image),
    }
    seconds = measure(variants, repeats)
    run = [
        len(window_starts(side, window, window // 4)) * min(side, window)
        for side in image.shape[1:3]
    ]
    return {
        "seconds": statistics.median(seconds["plain"]),
        "one_trace": ratio(seconds["plain"], seconds["static"]),
        "batch": ratio(seconds["batch"], seconds["plain"]) / 4,
        "windows": ratio(seconds["windows"], seconds["plain"]),
        "window_pixels": run[0] * run[1] / (image.shape[1] * image.shape[2]),
        "window_batch": ratio(seconds["window_batch"], seconds["windows"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", help="folder of a run of train.py")
    parser.add_argument("--size", default="513,513", help="height,width")
    parser.add_argument("--window", type=int, default=257)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.workdir:
        model = load_workdir(args.workdir)[0]
    else:
        model = DeepLabV3(21, "mobilenet_v2", multi_grid=(1, 1, 1))
    model = inference_model(model)
    size = [int(side) for side in args.size.split(",")]
    image = np.random.default_rng(0).uniform(0, 255, [1, *size, 3]).astype("float32")
    result = {
        "model": args.workdir or model.name,
        "size": size,
        "window": args.window,
        "scales_and_flip": time_scales(model, image, args.repeats),
        **time_single(model, image, args.window, 3 * args.repeats),
        **cpu_description(),
        "tensorflow": tf.__version__,
    }
    print(
        json.dumps(
            {k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}
        )
    )


if __name__ == "__main__":
    main()
