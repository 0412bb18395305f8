"""Chooses a recipe for CamVid on a part of its training split, then scores it on val.

    python -m benchmarks.camvid --camvid=CamVid --init=mobilenet_v2.weights.h5
    python -m benchmarks.camvid --camvid=CamVid --init=... --final=RECIPE --seeds 0 1 2

Rows are trained on 301 images of train.txt and scored on the 66 others: the last of
each drive, as neighbours in time look alike. Val, the 101 images, is read with --final
alone, which trains the recipe on all of train.txt. Weights are those after the last
step. A run that was stopped goes on, and one that is done is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.camvid_runs import build, names_of, scores, train, write_part

HELD_OUT = 67 / 367
THIN = ("pole", "sign_symbol", "bicyclist")
# What all rows of the choice share: DeepLabV3+ with half of the paper's filters.
SHARED = (
    "--recipe=camvid_mobilenet_v2 --model=deeplab_v3plus --precision=bfloat16 "
    "--set=separable=true --set=head_filters=128 --set=crop_size=[288,384] "
    "--set=optimizer=adam --learning_rate=0.001 --set=batch_norm_momentum=0.9"
)
_RARE = "--set=loss=ce+lovasz --set=class_weights=balanced"
# Row of the table -> what it changes.
ROWS = {
    "base": "",
    "SGD, learning rate 0.02": "--set=optimizer=sgd --learning_rate=0.02",
    "BatchNorm's momentum 0.99": "--set=batch_norm_momentum=0.99",
    "no image pooling": "--set=image_pooling=false",
    "no decoder": "--model=deeplab_v3",
    "256 filters in the head": "--set=head_filters=256",
    "balanced class weights": "--set=class_weights=balanced",
    "ce+lovasz": "--set=loss=ce+lovasz",
    "ce+lovasz, balanced": _RARE,
    "ce+lovasz, balanced, no decoder": f"{_RARE} --model=deeplab_v3",
    "ce+lovasz, balanced, copy-paste": f"{_RARE} --set=copy_paste=0.5",
    "ce+lovasz, balanced, averaged weights": f"{_RARE} --set=ema_momentum=0.98 "
    "--set=batch_norm_batches=30",
    "ce+lovasz, balanced, output stride 8": f"{_RARE} --output_stride=8",
    "ce+lovasz, balanced, decoder to stride 2": f"{_RARE} "
    "--set=decoder_output_stride=[4,2]",
    "ce+dice": "--set=loss=ce+dice",
    "copy-paste": "--set=copy_paste=0.5",
    "rare classes in crops": "--set=max_class_share=0.75",
    "trained at output stride 8": "--output_stride=8",
}


def hold_out(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits train.txt: (names to train on, the last of each drive)."""
    kept, held = [], []
    for _, drive in itertools.groupby(names, key=lambda name: name.split("_")[0]):
        frames = list(drive)
        count = round(HELD_OUT * len(frames))
        kept += frames[:-count]
        held += frames[-count:]
    return kept, held


def records(camvid: Path, output: Path, final: bool) -> Path:
    """Builds the records of the choice, or of all of CamVid."""
    if final:
        return build(camvid, output / "data" / "camvid")
    part = output / "part"
    if not part.exists():
        kept, held = hold_out(names_of(camvid, "train"))
        write_part(camvid, part, {"train": ("train", kept), "val": ("train", held)})
    return build(part, output / "data" / "part")


def table_row(title: str, results: Sequence[dict], minutes: Sequence[float]) -> str:
    """Mean over the seeds, with the standard deviation of mean IoU where there is one.

    Args:
      title: of the row.
      results: what evaluate.py wrote, a seed each.
      minutes: of training, a seed each.
    """
    mean_ious = [100 * result["mean_iou"] for result in results]
    cell = f"{statistics.mean(mean_ious):.1f}"
    if len(results) > 1:
        cell += f" ± {statistics.stdev(mean_ious):.1f}"
    thin = [
        f"{statistics.mean(100 * r['per_class'][name]['iou'] for r in results):.1f}"
        for name in THIN
    ]
    return f"| {title} | {cell} | {' | '.join(thin)} | {statistics.mean(minutes):.0f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--camvid", type=Path, required=True, help="CamVid's folder.")
    parser.add_argument("--init", default="imagenet", help="As of train.py.")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--steps", type=int, default=300, help="Of each row.")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--final", metavar="RECIPE", help="Scores a recipe on val.")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/camvid_choice"))
    options = parser.parse_args()
    data = records(options.camvid, options.output_dir, bool(options.final))
    shared = f"--data_dir={data} --init={options.init}"
    rows = {
        row: f"{SHARED} --steps={options.steps} {ROWS[row]}" for row in options.rows
    }
    if options.final:
        rows = {options.final: f"--recipe={options.final}"}
    lines = [f"| run | mean IoU | {' | '.join(THIN)} | minutes |", "|---" * 6 + "|"]
    for row, flags in rows.items():
        length = "final" if options.final else options.steps
        name = f"{row.replace(' ', '_')}-{length}"
        names = [f"{name}-{seed}" for seed in options.seeds]
        workdirs = [options.output_dir / name for name in names]
        minutes = [
            train(workdir, f"{flags} {shared} --seed={seed}")
            for workdir, seed in zip(workdirs, options.seeds)
        ]
        results = [scores(workdir, "val") for workdir in workdirs]
        lines.append(table_row(row, results, minutes))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
