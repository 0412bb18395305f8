"""How long training waits for its data: MobileNetV2 on CamVid, 360 x 480.

python -m benchmarks.data_wait --data_dir=runs/data/camvid       prints one JSON line

Each step takes the next batch of the recipe's pipeline and trains on it; both are timed
apart. The pipeline works on the same cores meanwhile, as in a real run. Its own pace,
without a network, is taken before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from benchmarks.timing import cpu_description
from deeplab_tf.commands import train
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.precision import precision_policy
from deeplab_tf.training import compiling

WARM_UP = 3


def seconds_of(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="runs/data/camvid")
    parser.add_argument("--recipe", default="camvid_mobilenet_v2")
    parser.add_argument("--crop_size", default="360,480", help="height,width")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()

    changes = {
        "data_dir": args.data_dir,
        "crop_size": args.crop_size.split(","),
        "precision": args.precision,
        "init": "",
    }
    config, data = train.make_run(args.recipe, changes)
    batches = iter(data.train_batches())
    next(batches)
    alone = seconds_of(lambda: [next(batches) for _ in range(args.steps)]) / args.steps

    with precision_policy(config.precision):
        model = build_model(config)
        compiling.compile_model(model, config)
    waits, steps = [], []
    for step in range(WARM_UP + args.steps):
        start = time.perf_counter()
        image, label = next(batches)
        waited = time.perf_counter() - start
        trained = seconds_of(lambda i=image, t=label: model.train_on_batch(i, t))
        if step >= WARM_UP:
            waits.append(waited)
            steps.append(trained)
    result = {
        "benchmark": "data_wait",
        "recipe": args.recipe,
        "crop_size": config.crop_size,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "share_of_time_waiting": round(sum(waits) / (sum(waits) + sum(steps)), 5),
        "longest_wait_milliseconds": round(1000 * max(waits), 2),
        "step_milliseconds": round(1000 * statistics.median(steps), 1),
        "pipeline_alone_milliseconds_a_batch": round(1000 * alone, 1),
        "tensorflow": tf.__version__,
        **cpu_description(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
