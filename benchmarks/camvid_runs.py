"""Parts of CamVid as records, and runs on them that are done once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deeplab_tf.workdir import EVALUATION_FOLDER


def call(command: str) -> float:
    """Runs a command of this project; returns the minutes that it took."""
    begin = time.monotonic()
    subprocess.run([sys.executable, *command.split()], check=True)
    return (time.monotonic() - begin) / 60


def write_part(
    camvid: Path, output: Path, splits: Mapping[str, tuple[str, Sequence[str]]]
) -> None:
    """Copies a part of CamVid, laid out as CamVid is, so that its builder reads it.

    Args:
      camvid: its folder.
      output: folder to make.
      splits: split of the part -> (split of CamVid, names of its images).
    """
    for split, (origin, names) in splits.items():
        for ending in ("", "annot"):
            folder = output / f"{split}{ending}"
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                for file in (camvid / f"{origin}{ending}").glob(f"{name}.*"):
                    shutil.copy(file, folder)
        (output / f"{split}.txt").write_text("\n".join(names) + "\n")


def names_of(camvid: Path, split: str) -> list[str]:
    """The names that a list of CamVid holds."""
    return (camvid / f"{split}.txt").read_text().split()


def build(source: Path, records: Path) -> Path:
    """Builds the records of a folder in CamVid's layout, unless they are there."""
    if not records.exists():
        call(f"-m datasets.build_camvid --input_dir={source} --output_dir={records}")
    return records


def train(workdir: Path, flags: str) -> float:
    """Trains without validation; returns the minutes, those of the first time.

    Args:
      workdir: of the run.
      flags: of train.py.
    """
    done = workdir / "minutes.json"
    if done.exists():
        return json.loads(done.read_text())
    minutes = call(f"train.py --workdir={workdir} --set=validate_every=1000 {flags}")
    done.write_text(json.dumps(minutes))
    return minutes


def scores(workdir: Path, split: str, flags: str = "") -> dict:
    """What evaluate.py wrote of a split, by the weights after the last step."""
    result = workdir / EVALUATION_FOLDER / f"{split}.json"
    if not result.exists():
        call(f"evaluate.py --workdir={workdir} --split={split} {flags}")
    return json.loads(result.read_text())
