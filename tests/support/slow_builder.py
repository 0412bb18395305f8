"""A builder that waits, for tests that kill it: run by `python -c` in a process.

Its reader leaves the number of its process, and waits at e and later names until a file
`go` is there. What it reads with is imported here and there under one name, so that
another process goes on with its shards.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from datasets import build_voc2012
from deeplab_tf.data.building import command_line, dataset
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.records.info import DatasetInfo

INFO = DatasetInfo("two", ("a", "b"))
NAMES = "abcdefgh"  # two in each of four shards
PROGRAM = "from tests.support import slow_builder; slow_builder.run()"


def read_sample(sample: Sample):
    """Reads a pair of a folder that `tests.support.pairs.make_pairs` wrote."""
    folder = Path(sample.image).parents[1]
    folder.joinpath(f"worker-{os.getpid()}").touch()
    end = time.monotonic() + 300  # nothing stays behind a test that failed
    while sample.name >= "e" and time.monotonic() < end:
        if folder.joinpath("go").exists():
            break
        folder.joinpath("waiting").touch()
        time.sleep(0.1)
    return build_voc2012.read_sample(sample)


def main() -> None:
    folder = os.environ["FOLDER"]
    samples = [
        Sample(name, f"{folder}/images/{name}.png", f"{folder}/labels/{name}.png")
        for name in NAMES
    ]
    dataset.build_dataset(
        f"{folder}/out",
        INFO,
        {"train": samples},
        read_sample,
        num_processes=2,
        runner=os.environ["RUNNER"],
    )


def run() -> None:
    command_line.run_builder(lambda: None, main)
