"""What the recipes for one's own images reach on 60 images, and on all of CamVid.

    python -m benchmarks.small_set --camvid=CamVid --init=mobilenet_v2.weights.h5

The 60 images are every sixth of CamVid's train.txt, from the first on. Options are
chosen by their scores on 60 others of train.txt, every sixth from the fourth on; the
101 images of val are scored as well, and choose nothing: weights are those after the
last step. What was done is not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import camvid_runs
from benchmarks.camvid_runs import names_of, scores, train, write_part

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


def build(camvid: Path, output: Path) -> dict[str, Path]:
    """Builds both sets of records, unless they are there."""
    small = output / "small"
    if not small.exists():
        splits = {
            split: (origin, choose(names_of(camvid, origin), first, distance))
            for split, (origin, first, distance) in SPLITS.items()
        }
        write_part(camvid, small, splits)
    return {
        name: camvid_runs.build(source, output / "data" / name.replace(" ", "_"))
        for name, source in {"60 images": small, "CamVid": camvid}.items()
    }


def mean_iou(workdir: Path, split: str) -> str:
    """Of a split, in per cent."""
    return f"{100 * scores(workdir, split)['mean_iou']:.1f}"


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
            flags = f"--recipe={options.recipe} --init={options.init} --data_dir={data}"
            minutes = train(workdir, f"{flags} {ROWS[row]}")
            cells = [mean_iou(workdir, part) if part else "-" for part in (others, val)]
            lines.append(f"| {name} | {row} | {minutes:.0f} | {' | '.join(cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
