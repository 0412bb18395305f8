"""Where the time of a step goes, by operation and by layer.

    python -m benchmarks.operations --model=deeplab_v3 --backbone=resnet50
    python -m benchmarks.operations --model=deeplab_v3plus --backbone=mobilenet_v2 \\
        --size=360,480 --batch_size=8 --precision=bfloat16 --layers=20

Prints two Markdown tables, of TensorFlow's profiler: kinds of operations, and the
single operations that take longest. Milliseconds are those in which a kernel was under
way: two at once count twice, and a kernel's own threads once.
"""

from __future__ import annotations

import argparse
import collections
import glob
import os
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from benchmarks.networks import add_arguments, case_of, forward_pass, training_step
from benchmarks.timing import cpu_description


def events(run: Callable[[], object]) -> tuple[dict[str, float], float]:
    """Runs once under the profiler.

    Returns:
      {name:operation as TensorFlow has it: milliseconds} and the seconds of the run.
    """
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        try:
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
        finally:
            tf.profiler.experimental.stop()
        (path,) = glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)
        space = xplane_pb2.XSpace()
        with open(path, "rb") as file:
            space.ParseFromString(file.read())
    milliseconds = collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                layer, separator, operation = name.rpartition(":")
                # Others are the executor's own, which has these inside.
                if separator and operation.isidentifier() and "::" not in name:
                    milliseconds[layer, operation] += event.duration_ps / 1e9
    return milliseconds, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", choices=["training", "forward"], default="training")
    parser.add_argument("--layers", type=int, default=10, help="single operations")
    add_arguments(parser)
    args = parser.parse_args()
    case = case_of(args)
    make = {"training": training_step, "forward": forward_pass}[args.step]
    run = make(case)
    for _ in range(3):  # they trace, and warm up
        run()
    milliseconds, seconds = events(run)
    total = sum(milliseconds.values())
    kinds = collections.Counter()
    for (_, operation), value in milliseconds.items():
        kinds[operation] += value
    print(f"{case.title}, {args.step}: {seconds:.3f} s. {cpu_description()}\n")
    print("| operation | ms | share |\n|---|---|---|")
    for operation, value in kinds.most_common(15):
        print(f"| {operation} | {value:.1f} | {value / total:.1%} |")
    print("\n| layer | operation | ms | share |\n|---|---|---|---|")
    for (layer, operation), value in milliseconds.most_common(args.layers):
        print(f"| {layer} | {operation} | {value:.1f} | {value / total:.1%} |")


if __name__ == "__main__":
    main()
