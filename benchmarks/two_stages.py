"""The papers' two stages on CamVid beside one stage of the same length, as a table.

    python -m datasets.build_camvid --input_dir=CamVid --output_dir=runs/data/camvid
    python -m benchmarks.two_stages --init=mobilenet_v2.weights.h5

Stage 1 trains at output stride 16 with BatchNorm trained, stage 2 goes on from its
weights at output stride 8 with BatchNorm frozen and a lower learning rate (DeepLabV3,
section 4.1). Each is validated at its end alone, so no weights are chosen by val, and
evaluated at both output strides. What was done is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from deeplab_tf.recipes import RECIPES
from deeplab_tf.workdir import EVALUATION_FOLDER

STAGE1, STAGE2 = RECIPES["camvid_stage1"].config, RECIPES["camvid_stage2"].config
OUTPUT_STRIDES = (16, 8)


def train(name: str, flags: str, options) -> str:
    """Runs train.py, unless that is done; returns the workdir."""
    workdir = os.path.join(options.output_dir, name)
    command = f"train.py --workdir={workdir} --data_dir={options.data_dir} {flags}"
    command += f" --seed={options.seed} --set=validate_every=1000"
    subprocess.run([sys.executable, *command.split()], check=True)
    return workdir


def score(workdir: str, output_stride: int) -> dict:
    """Returns what evaluate.py says of a run at an output stride."""
    command = f"evaluate.py --workdir={workdir} --output_stride={output_stride}"
    subprocess.run([sys.executable, *command.split()], check=True)
    path = os.path.join(workdir, EVALUATION_FOLDER, "val.json")
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--init", default="imagenet", help="As of train.py.")
    parser.add_argument("--data_dir", default="runs/data/camvid")
    parser.add_argument("--output_dir", default="runs/two_stages")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begin = f"--recipe=camvid_stage1 --init={options.init}"
    stage1 = train("stage1", begin, options)
    stage2 = train("stage2", f"--recipe=camvid_stage2 --init={stage1}", options)
    longer = STAGE1.steps + STAGE2.steps
    whole = train("one_stage", f"{begin} --steps={longer}", options)
    titles = {
        stage1: f"stage 1, {STAGE1.steps} steps",
        stage2: f"and stage 2, {STAGE2.steps} steps",
        whole: f"one stage, {longer} steps",
    }
    lines = ["| run | mean IoU at 16 | at 8 |", "|---|---|---|"]
    for workdir, title in titles.items():
        scores = [100 * score(workdir, s)["mean_iou"] for s in OUTPUT_STRIDES]
        lines.append(f"| {title} | {scores[0]:.1f} | {scores[1]:.1f} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
