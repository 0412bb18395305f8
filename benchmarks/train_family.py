"""Trains every model of the family for some steps on CamVid, exports it and asks it.

    python -m datasets.build_camvid --input_dir=CamVid --output_dir=runs/data/camvid
    python -m benchmarks.train_family --data_dir=runs/data/camvid

Not a way to good scores: crops are small and most networks start from random weights.
It shows that each learns, is saved, exports, and answers; one row each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from deeplab_tf.training.log import read_log
from deeplab_tf.workdir import LOG_FILE

# Model -> flags of train.py.
RUNS = {
    # VGG-16 has no BatchNorm: larger steps from random weights end in NaN.
    "deeplab_v1": "--backbone=vgg16 --output_stride=8 --learning_rate=0.0001 "
    "--set=multi_scale_features=true",
    "deeplab_v2": "--backbone=resnet50 --output_stride=8 --set=auxiliary_weight=1",
    "deeplab_v3_cascade": "--backbone=resnet50",
    "deeplab_v3": "--backbone=resnet50",
    "deeplab_v3_torchvision": "--backbone=resnet50_torchvision --output_stride=8",
    "deeplab_v3plus": "--backbone=xception41",
    "lr_aspp": "--backbone=mobilenet_v3_large",
}


def train(model: str, options) -> tuple[list[float], float]:
    """Returns (loss of every epoch, seconds)."""
    command = [
        sys.executable,
        "train.py",
        "--recipe=camvid_mobilenet_v2",
        f"--workdir={workdir(options, model)}",
        f"--data_dir={options.data_dir}",
        "--init=",
        "--set=multi_grid=null",
        "--set=validate_every=1000",
        # So few steps from random weights: quick to adapt rather than good in the end.
        "--set=optimizer=adam",
        "--learning_rate=0.0005",
        "--set=batch_norm_momentum=0.9",
        f"--model={model}",
        f"--steps={options.steps}",
        f"--crop_size={options.crop_size}",
        f"--batch_size={options.batch_size}",
        *RUNS[model].split(),
    ]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    rows = read_log(os.path.join(workdir(options, model), LOG_FILE))
    return [row["loss"] for row in rows], seconds


def export_and_ask(model: str, options) -> None:
    """Exports a run and lets the export segment a folder of images."""
    folder = workdir(options, model)
    for command in (
        f"export.py --workdir={folder} --output_dir={folder}/exported",
        f"-m datasets.unpack --data_dir={options.data_dir} "
        f"--output_dir={folder}/scenes --limit=2",
        f"predict.py --saved_model={folder}/exported --input={folder}/scenes/images "
        f"--output={folder}/predictions",
    ):
        subprocess.run([sys.executable, *command.split()], check=True)


def workdir(options, model: str) -> str:
    return os.path.join(options.output_dir, model)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", default="runs/data/camvid")
    parser.add_argument("--output_dir", default="runs/family")
    parser.add_argument("--models", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--crop_size", type=int, default=97)
    parser.add_argument("--batch_size", type=int, default=4)
    options = parser.parse_args()
    rows = []
    for model in options.models:
        losses, seconds = train(model, options)
        export_and_ask(model, options)
        trace = " -> ".join(f"{loss:.3f}" for loss in losses)
        rows.append(f"| {model} | {trace} | {seconds:.0f} s |")
        if len(losses) > 1 and not losses[-1] < losses[0]:
            sys.exit(f"{model}: the loss did not fall: {trace}")
    print("| model | loss of each epoch | training |\n|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
