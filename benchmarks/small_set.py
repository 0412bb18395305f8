"""What the recipes for one's own images reach on 60 images, and on all of CamVid.

    python -m benchmarks.small_set --camvid=CamVid --init=mobilenet_v2.weights.h5

The 60 images are every sixth of CamVid's train.txt, from the first on. Options are
chosen by their scores on 60 others of train.txt, every sixth from the fourth on; the
101 images of val are scored as well, and choose nothing: weights are those after the
last step. What was done is not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from deeplab_tf.workdir import EVALUATION_FOLDER

COUNT, DISTANCE = 60, 6
# Split of the small set -> (split of CamVid, first image, distance of the others).
SPLITS = {
    "train": ("train", 0, DISTANCE),
    "val": ("train", DISTANCE // 2, DISTANCE),
    "test": ("val", 0, 1),
}
# Row of the table -> what it changes of the recipe.
ROWS = {
    "as it is": "",
    "SGD, learning rate 0.007": "--set=optimizer=sgd --learning_rate=0.007",
}


def choose(names: list[str], first: int, distance: int) -> list[str]:
    """Every `distance`-th name from `first` on; 60 where there is a distance."""
    return names[first::distance][: COUNT if distance > 1 else None]


def write_small_set(camvid: Path, output: Path) -> None:
    """Copies the small set, laid out as CamVid is, so that its builder reads it."""
    for split, (origin, first, distance) in SPLITS.items():
        listed = (camvid / f"{origin}.txt").read_text().split()
        chosen = choose(listed, first, distance)
        for ending in ("", "annot"):
            folder = output / f"{split}{ending}"
            folder.mkdir(parents=True, exist_ok=True)
            for name in chosen:
                for file in (camvid / f"{origin}{ending}").glob(f"{name}.*"):
                    shutil.copy(file, folder)
        (output / f"{split}.txt").write_text("\n".join(chosen) + "\n")


def call(command: str) -> float:
    """Runs a command of this project; returns the minutes that it took."""
    begin = time.monotonic()
    subprocess.run([sys.executable, *command.split()], check=True)
    return (time.monotonic() - begin) / 60


def build(camvid: Path, output: Path) -> dict[str, Path]:
    """Builds both sets of records, unless they are there."""
    small, folders = output / "small", {}
    if not small.exists():
        write_small_set(camvid, small)
    for name, source in {"60 images": small, "CamVid": camvid}.items():
        folders[name] = output / "data" / name.replace(" ", "_")
        if not folders[name].exists():
            builder = f"-m datasets.build_camvid --input_dir={source}"
            call(f"{builder} --output_dir={folders[name]}")
    return folders


def train(workdir: Path, data: Path, flags: str, options) -> float:
    """Trains without a look at val; returns the minutes, those of the first time."""
    done = workdir / "minutes.json"
    if done.exists():
        return json.loads(done.read_text())
    minutes = call(
        f"train.py --recipe={options.recipe} --init={options.init} --data_dir={data} "
        f"--workdir={workdir} --set=validate_every=1000 {flags}"
    )
    done.write_text(json.dumps(minutes))
    return minutes


def score(workdir: Path, split: str) -> str:
    """Mean IoU of a split in per cent, of weights after the last step."""
    result = workdir / EVALUATION_FOLDER / f"{split}.json"
    if not result.exists():
        call(f"evaluate.py --workdir={workdir} --split={split}")
    return f"{100 * json.loads(result.read_text())['mean_iou']:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--camvid", type=Path, required=True, help="CamVid's folder.")
    parser.add_argument("--init", default="imagenet", help="As of train.py.")
    parser.add_argument("--recipe", default="finetune_mobilenet_v2")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/small_set"))
    parser.add_argument("--all", action="store_true", help="On all of CamVid too.")
    options = parser.parse_args()
    folders = build(options.camvid, options.output_dir)
    lines = ["| set | run | minutes | 60 others | val |", "|---|---|---|---|---|"]
    for name, data in list(folders.items())[: 2 if options.all else 1]:
        others, val = ("val", "test") if name != "CamVid" else ("", "val")
        for row in options.rows:
            folder = f"{data.name}-{list(ROWS).index(row)}"
            workdir = options.output_dir / folder
            minutes = train(workdir, data, ROWS[row], options)
            cells = [score(workdir, split) if split else "-" for split in (others, val)]
            lines.append(f"| {name} | {row} | {minutes:.0f} | {' | '.join(cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
