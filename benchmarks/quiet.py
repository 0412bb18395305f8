"""How many lines of standard error are not ours: each command's --help, and a training.

    python -m benchmarks.quiet                     every command and 5 steps of training
    python -m benchmarks.quiet --nocommands        the training alone

"before" is with TF_CPP_MIN_LOG_LEVEL=0, which shows what TensorFlow writes, "after" is
without that variable. What our commands print goes to standard output, so that every
line counts. Prints the lines that are left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from deeplab_tf.command_names import _IN_CHECKOUT
from deeplab_tf.quiet import LEVEL

ROOT = Path(__file__).resolve().parents[1]
FLAGS = flags.FLAGS
flags.DEFINE_bool("commands", True, "Ask every command for --help.")
flags.DEFINE_integer("steps", 5, "Steps of the training.", 1)


def lines_of(arguments: list[str], level: str | None) -> list[str]:
    """Runs Python, and returns the lines of its standard error."""
    environment = {key: value for key, value in os.environ.items() if key != LEVEL}
    if level is not None:
        environment[LEVEL] = level
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    return done.stderr.splitlines()


def help_calls() -> list[list[str]]:
    calls = [call.split()[1:] for call in _IN_CHECKOUT.values()]
    builders = sorted((ROOT / "datasets").glob("build_*.py"))
    calls += [["-m", f"datasets.{path.stem}"] for path in builders]
    return [[*call, "--help"] for call in [*calls, ["-m", "deeplab_tf"]]]


def training_calls(folder: str) -> list[list[str]]:
    """A user's first run, from the scenes to the page of scores."""
    data, workdir, exported = (f"{folder}/{name}" for name in ("data", "run", "export"))
    photo = str(ROOT / "docs" / "demo.png")
    return [
        ["-m", "datasets.build_shapes", f"--output_dir={data}"],
        ["-m", "datasets.inspect_records", data],
        [
            *("train.py", f"--data_dir={data}", f"--workdir={workdir}"),
            f"--steps={FLAGS.steps}",
        ],
        ["-m", "deeplab_tf.report", f"--workdir={workdir}"],
        ["evaluate.py", f"--workdir={workdir}"],
        [
            "predict.py",
            f"--workdir={workdir}",
            f"--input={photo}",
            f"--output={folder}",
        ],
        ["export.py", f"--workdir={workdir}", f"--output_dir={exported}"],
    ]


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as before, tempfile.TemporaryDirectory() as now:
        pairs = [(call, call) for call in help_calls()] if FLAGS.commands else []
        pairs += zip(training_calls(before), training_calls(now))
        print(f"{'before':>6} {'after':>5}")
        for loud, quiet in pairs:
            counted = len(lines_of(loud, "0"))
            left = lines_of(quiet, None)
            words = [part for part in quiet if not part.startswith(("/", "--input"))]
            print(f"{counted:6} {len(left):5}  {' '.join(words)}")
            print("".join(f"{'':14}{line}\n" for line in left), end="", flush=True)


if __name__ == "__main__":
    app.run(main)
