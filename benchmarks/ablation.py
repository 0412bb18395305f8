"""Short CamVid runs that differ in one piece of the protocol each, as a table.

    python -m datasets.build_camvid --input_dir=CamVid --output_dir=runs/data/camvid
    python -m benchmarks.ablation --init=mobilenet_v2.weights.h5
    python -m benchmarks.ablation --table=bootstrapping --init=runs/camvid

Every run has the same number of steps. The base is run with several seeds, which shows
how much of a difference is chance. Bootstrapping goes on from a run of the recipe
camvid_mobilenet_v2: within so few steps from ImageNet's weights nothing learns the
rare classes. A run that was stopped goes on, and one that is done is not repeated.
With --docs the table replaces the one in docs/training.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys

from deeplab_tf.files import atomic_write
from deeplab_tf.workdir import EVALUATION_FOLDER

# What all runs share: MobileNetV2 of the recipe, smaller crops, validated once.
SHARED = (
    "--recipe=camvid_mobilenet_v2 --crop_size=225 --set=validate_every=1000 "
    "--set=multi_grid=[1,1,1]"
)
# Row of the table -> what it changes.
ABLATION = {
    "base": "",
    "base, seed 1": "--seed=1",
    "base, seed 2": "--seed=2",
    "no image pooling": "--set=image_pooling=false",
    "multi-grid (1, 2, 1)": "--set=multi_grid=[1,2,1]",
    "multi-grid (1, 2, 4)": "--set=multi_grid=[1,2,4]",
    "crop 161": "--crop_size=161",
    "crop 321": "--crop_size=321",
    "trained at output stride 8": "--output_stride=8",
    "labels sub-sampled by 16": "--set=label_stride=16",
    "learning rate 0.002": "--learning_rate=0.002",
    "learning rate 0.002, no image pooling": "--learning_rate=0.002 "
    "--set=image_pooling=false",
    "learning rate 0.002, multi-grid (1, 2, 4)": "--learning_rate=0.002 "
    "--set=multi_grid=[1,2,4]",
    # At the base's 0.02 the loss is infinite after a dozen steps: a new head whose
    # BatchNorm does not normalise.
    "learning rate 0.002, BatchNorm frozen": "--learning_rate=0.002 "
    "--set=frozen_batch_norm=true",
    "warm-up of 60 steps": "--set=warmup_steps=60",
    "head multiplier 10": "--set=head_multiplier=10 --set=head_bias_multiplier=10",
    "balanced class weights": "--set=class_weights=balanced",
    "hardest quarter of the pixels": "--set=hard_pixel_fraction=0.25",
}
HARD = '[["pedestrian",{0}],["bicyclist",{0}]]'
DUPLICATE = f"--set=duplicate={HARD} --set=min_class_pixels=1000"
BOOTSTRAPPING = {
    f"{name}, seed {seed}": f"--seed={seed} --learning_rate=0.005 {flags}"
    for seed in range(2)
    for name, flags in {
        "each image once": "",
        "twice": DUPLICATE.format(2),
        "four times": DUPLICATE.format(4),
    }.items()
}
TABLES = {"ablation": ABLATION, "bootstrapping": BOOTSTRAPPING}


def run(name: str, flags: str, options) -> dict:
    """Trains and evaluates one row, unless that is done; returns its scores."""
    folder = "-".join(re.findall(r"\w+", name))
    workdir = os.path.join(options.output_dir, options.table, folder)
    result = os.path.join(workdir, EVALUATION_FOLDER, f"{options.split}.json")
    if not os.path.exists(result):
        train = f"train.py {SHARED} {flags} --workdir={workdir} --steps={options.steps}"
        places = [f"--data_dir={options.data_dir}", f"--init={options.init}"]
        evaluate = f"evaluate.py --workdir={workdir} --split={options.split}"
        subprocess.run([sys.executable, *train.split(), *places], check=True)
        subprocess.run([sys.executable, *evaluate.split()], check=True)
    with open(result, encoding="utf-8") as file:
        return json.load(file)


def ablation_table(rows: dict[str, dict]) -> list[str]:
    """Mean IoU, and its difference to the mean of the base's seeds."""
    scores = {name: 100 * row["mean_iou"] for name, row in rows.items()}
    bases = [score for name, score in scores.items() if name.startswith("base")]
    mean = statistics.mean(bases)
    lines = ["| run | mean IoU | to the base | pixel accuracy |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {scores[name]:.1f} | {scores[name] - mean:+.1f} "
        f"| {100 * row['pixel_accuracy']:.1f} |"
        for name, row in rows.items()
    ]
    if len(bases) > 1:
        spread = statistics.stdev(bases)
        lines.append(f"\nThe base: {mean:.1f}, standard deviation {spread:.2f}.")
    return lines


def bootstrapping_table(rows: dict[str, dict]) -> list[str]:
    """IoU of the hard classes for each seed, and the mean over the seeds."""
    classes = ["pedestrian", "bicyclist"]
    lines = [
        f"| duplicated | {' | '.join(classes)} | mean IoU |",
        "|---|---|---|---|",
    ]
    by_name = {}
    for name, row in rows.items():
        scores = [100 * row["per_class"][hard]["iou"] for hard in classes]
        by_name.setdefault(name.partition(", seed")[0], []).append(
            [*scores, 100 * row["mean_iou"]]
        )
    for name, seeds in by_name.items():
        cells = [
            f"{statistics.mean(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})"
            for values in zip(*seeds)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def replace_table(path: str, name: str, lines: list[str]) -> None:
    """Puts the lines between `<!-- name -->` and `<!-- end name -->` of a file."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    head, found, rest = text.partition(begin)
    if not found or end not in rest:
        sys.exit(f"{path} has no place for the table: expected {begin} and {end}.")
    tail = rest.partition(end)[2]
    with atomic_write(path) as file:
        file.write("\n".join([head + begin, *lines, end]) + tail)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", choices=list(TABLES), default="ablation")
    parser.add_argument("--rows", nargs="*", help="Some of its rows.")
    parser.add_argument("--init", default="imagenet", help="As of train.py.")
    parser.add_argument("--data_dir", default="runs/data/camvid")
    parser.add_argument("--output_dir", default="runs")
    parser.add_argument("--split", default="val")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--docs", help="File whose table is to be replaced.")
    options = parser.parse_args()
    table = TABLES[options.table]
    names = options.rows or list(table)
    rows = {name: run(name, table[name], options) for name in names}
    make = {"ablation": ablation_table, "bootstrapping": bootstrapping_table}
    lines = make[options.table](rows)
    print("\n".join(lines))
    if options.docs:
        replace_table(options.docs, options.table, lines)


if __name__ == "__main__":
    main()
