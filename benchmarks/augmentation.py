"""Times the augmentation policies side by side, and the pipelines made with them.

python -m benchmarks.augmentation --data_dir=runs/data/camvid    prints JSON lines

Milliseconds an image are those of one thread that scales, crops, flips and changes
decoded images, in its best turn; the ratio is the median over the turns. Policies that
choose records are timed in the pipeline alone. Images per second are those of the whole
pipeline, from the records to batches in memory, on all cores, in the best turn, and
their ratio to "paper" the median over the turns; "repeated" is policy "paper" with some
records twice.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time

import numpy as np
import tensorflow as tf

from benchmarks.timing import cpu_description, measure, ratio
from deeplab_tf.data.reading.bootstrap import count_pixels
from deeplab_tf.data.reading.pipeline import make_eval_dataset, make_train_dataset
from deeplab_tf.data.reading.policies import POLICIES, Crop, make_augmenter
from deeplab_tf.data.reading.selection import Selection, select_records


def one_thread() -> tf.data.Options:
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    return options


def augmented(images: tf.data.Dataset, policy: str, crop_size) -> tf.data.Dataset:
    """Decoded images through a policy, one after the other."""
    augment = make_augmenter(Crop(crop_size, policy))

    def change(index, image_and_label):
        seed = tf.stack([tf.constant(0, tf.int64), index])
        return augment(*image_and_label, seed)

    return images.enumerate().map(change).with_options(one_thread())


def drain(dataset: tf.data.Dataset) -> None:
    for _ in dataset:
        pass


def time_policies(args, crop_size) -> dict:
    """Returns policy -> milliseconds an image, and their ratio to "paper"."""
    selection = select_records(args.data_dir, args.split)
    examples = make_eval_dataset(selection).unbatch()
    examples = examples.map(
        lambda image, label: (image, tf.cast(label[..., tf.newaxis], tf.uint8))
    )
    images = examples.take(args.images).cache()
    count = sum(1 for _ in images)
    datasets = {
        name: augmented(images, name, crop_size)
        for name, policy in POLICIES.items()
        if name in args.policies and not policy.needs_records
    }
    seconds = measure(
        {name: (lambda d=dataset: drain(d)) for name, dataset in datasets.items()},
        args.repeats,
    )
    return {
        name: {
            "milliseconds": round(1000 * min(times) / count, 2),
            "ratio_to_paper": round(ratio(times, seconds["paper"]), 2),
        }
        for name, times in seconds.items()
    }


def selected(args, policy: str) -> Selection:
    """Returns the records as a policy draws them."""
    row = POLICIES[policy]
    return select_records(
        args.data_dir,
        args.split,
        class_uniform=row.class_uniform,
        paste_classes=row.paste_classes if row.copy_paste else (),
    )


def time_pipelines(args, crop_size, repeats: np.ndarray) -> dict:
    """Returns policy -> images per second of the pipeline, and the ratio to "paper"."""
    variants = {
        name: (selected(args, name), Crop(crop_size, name)) for name in args.policies
    }
    twice = dataclasses.replace(selected(args, "paper"), repeats=repeats)
    variants["repeated"] = (twice, Crop(crop_size))
    batches = -(-args.images // args.batch_size)
    # A turn enters the stream anew: one that stays open would prefetch meanwhile.
    streams = {
        name: make_train_dataset(*variant, batch_size=args.batch_size, seed=0).take(
            batches
        )
        for name, variant in variants.items()
    }
    seconds = measure(
        {name: (lambda s=stream: drain(s)) for name, stream in streams.items()},
        args.repeats,
    )
    images = batches * args.batch_size
    return {
        name: {
            "images_per_second": round(images / min(times), 1),
            "ratio_to_paper": round(1 / ratio(times, seconds["paper"]), 2),
        }
        for name, times in seconds.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument(
        "--policies",
        type=lambda names: [*dict.fromkeys(["paper", *names.split(",")])],
        default=list(POLICIES),
        help="rows of the table between commas; paper is timed in any case",
    )
    parser.add_argument("--crop_size", type=int, default=513)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--images", type=int, default=64, help="images a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each policy")
    args = parser.parse_args()
    crop_size = (args.crop_size, args.crop_size)

    start = time.perf_counter()
    counts = count_pixels(args.data_dir, args.split)
    counting = time.perf_counter() - start
    repeats = 1 + np.arange(len(counts)) % 2
    result = {
        "benchmark": "augmentation",
        "crop_size": args.crop_size,
        "policies": time_policies(args, crop_size),
        "pipelines": time_pipelines(args, crop_size, repeats),
        "records": len(counts),
        "count_pixels_seconds": round(counting, 2),
        "tensorflow": tf.__version__,
        **cpu_description(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
