"""The first hour with one's own data: the same pairs in each layout, each by a command.

    python -m benchmarks.layouts ../shared/data/camvid --pairs=60

Writes the pairs as annotation tools do (`tests.support.layouts`), builds each layout
with `python -m datasets.build_folder --input_dir=X --output_dir=Y` and nothing else,
and compares the ids of all records with the masks they came from, pixel by pixel.
CamVid's void becomes class 0, background: COCO and VOC have no other word for it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_tf.class_tables import CAMVID
from deeplab_tf.data.records.info import read_info
from tests.support.layouts import LAYOUTS, Example
from tests.support.pairs import read_records

CHOSEN = (
    *("cvat", "roboflow", "coco", "labelme", "label_studio", "supervisely"),
    *("paddleseg", "voc", "mmseg", "one_folder", "labelme_voc", "ade20k"),
)
NAMES = ("background", *CAMVID.names)


def read_examples(folder: Path, count: int) -> list[Example]:
    """Returns pairs of CamVid, five of six from train and the others from val."""
    examples = []
    for split, number in (("train", count - count // 6), ("val", count // 6)):
        for path in sorted((folder / split).iterdir())[:number]:
            mask = folder / f"{split}annot" / f"{path.stem}.png"
            ids = np.asarray(Image.open(mask))
            ids = np.where(ids == 255, 0, ids + 1).astype(np.uint8)
            examples.append(Example(split, path.stem, path.read_bytes(), ids))
    return examples


def build(folder: Path, output: Path) -> tuple[subprocess.CompletedProcess, float]:
    """Runs the one command; returns what it printed, and its seconds."""
    command = [sys.executable, "-m", "datasets.build_folder"]
    command += [f"--input_dir={folder}", f"--output_dir={output}"]
    start = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True)
    return result, time.monotonic() - start


def count_wrong(output: Path, examples: list[Example]) -> tuple[int, int]:
    """Returns the number of records, and of pixels that differ from their masks.

    Classes are compared by their names, where a layout has names: tools without an
    order of classes get the alphabet's.
    """
    info, records = read_info(output), {}
    table = np.arange(256)
    if set(info.class_names) <= set(NAMES):
        table[: len(info.class_names)] = list(map(NAMES.index, info.class_names))
    for split in info.splits:
        records.update(read_records(output, split))
    wrong = sum(
        int(np.sum(table[records[e.name]["label"][..., 0]] != e.ids)) for e in examples
    )
    return len(records), wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="CamVid, in SegNet's folders.")
    parser.add_argument("--pairs", type=int, default=60, help="Pairs to write.")
    parser.add_argument("--layouts", default=",".join(CHOSEN), help="Rows of LAYOUTS.")
    args = parser.parse_args()
    examples = read_examples(args.folder, args.pairs)
    print("| layout | lines printed | pairs | pixels that differ | seconds |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as base:
        for name in args.layouts.split(","):
            folder, output = Path(base, name), Path(base, f"{name}_records")
            LAYOUTS[name].write(folder, examples, NAMES)
            result, seconds = build(folder, output)
            if result.returncode:
                print(f"| {name} | {result.stderr.strip()} |")
                continue
            pairs, wrong = count_wrong(output, examples)
            lines = len(result.stdout.splitlines()) + len(result.stderr.splitlines())
            print(f"| {name} | {lines} | {pairs} | {wrong} | {seconds:.1f} |")
            print(f"  {result.stdout.splitlines()[0].replace(base, '')}")


if __name__ == "__main__":
    main()
