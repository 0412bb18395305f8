"""Memory that training and evaluation take, by size and batch, on CPUs.

    python -m benchmarks.training_memory
    python -m benchmarks.training_memory --model=deeplab_v3plus \\
        --backbone=mobilenet_v2 --sizes 288,384 360,480 --batches 4 8 16

Each in a process of its own, three steps of it: gigabytes at most. TensorFlow alone,
imported, is the last line. A second table has the forward pass of one image, as
evaluation and prediction run it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.networks import (
    Case,
    add_arguments,
    case_of,
    forward_pass,
    training_step,
)
from benchmarks.processes import highest_gigabytes, in_a_process
from benchmarks.timing import cpu_description

STEPS = {"training": training_step, "evaluation": forward_pass}


def measure(step: str, case: Case) -> float:
    """Gigabytes that this process holds at most."""
    run = STEPS[step](case)
    for _ in range(3):
        run()
    return highest_gigabytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", default=["321,321", "513,513"])
    parser.add_argument("--batches", nargs="*", type=int, default=[2, 4, 8])
    add_arguments(parser)
    args = parser.parse_args()
    case = case_of(args)
    print(f"{case.model}, {case.backbone}, {case.precision}. {cpu_description()}\n")
    titles = " | ".join(f"batch of {batch}" for batch in args.batches)
    print(f"| training | {titles} |\n|---|{'---|' * len(args.batches)}")
    sizes = [tuple(map(int, size.split(","))) for size in args.sizes]
    for size in sizes:
        cells = [
            in_a_process(
                measure,
                "training",
                dataclasses.replace(case, size=size, batch_size=batch),
            )
            for batch in args.batches
        ]
        words = " | ".join(f"{cell:.1f} GB" for cell in cells)
        print(f"| {size[0]} x {size[1]} | {words} |", flush=True)
    print("\n| one image | evaluation |\n|---|---|")
    for size in sizes:
        found = in_a_process(
            measure, "evaluation", dataclasses.replace(case, size=size)
        )
        print(f"| {size[0]} x {size[1]} | {found:.1f} GB |", flush=True)
    print(f"\nTensorFlow alone: {in_a_process(highest_gigabytes):.1f} GB")


if __name__ == "__main__":
    main()
