"""Rows of benchmarks that are processes in the environments of their packages.

They wait for each other: a turn runs one after the other, so that other work on the
machine touches all alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venv-peers"
# Environment -> what pip installs into it. None is the one that runs this.
REQUIREMENTS = {
    "torch": ("torch==2.14.1", "torchvision==0.29.1", "numpy"),
    "keras_hub": ("keras-hub==0.32.0", "tensorflow==2.21.0"),
    "tf_models": ("tf-models-official==2.20.0",),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table; its name is "module.function" of benchmarks.peers.

    Attributes:
      title: how the table calls it.
      environment: a key of `REQUIREMENTS`, or None.
      only: the backbone that it has; None is any.
      variables: of its process, besides those at hand.
    """

    title: str
    environment: str | None = None
    only: str | None = None
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)


def python_of(environment: str | None) -> str:
    """The interpreter of an environment, which is made where it is missing."""
    if environment is None:
        return sys.executable
    folder = ENVIRONMENTS / environment
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*pip, *REQUIREMENTS[environment]], check=True)
        done.touch()
    return str(python)


class Worker:
    """A row's process, `benchmarks.peers.worker`."""

    def __init__(self, name: str, row: Row, case: Mapping, folder: str):
        module, _, function = name.partition(".")
        what = f"benchmarks.peers.{module}:{function}"
        self._log = open(os.path.join(folder, f"{name}.log"), "w+")
        self._process = subprocess.Popen(
            [
                *(python_of(row.environment), "-m", "benchmarks.peers.worker"),
                *(what, json.dumps(case), folder),
            ],
            cwd=ROOT,
            env={**os.environ, **row.variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def is_ready(self) -> bool:
        """Waits until it has warmed up; says whether it has."""
        return self._process.stdout.readline() == "ready\n"

    def run(self) -> tuple[float, object]:
        """Seconds of one run, and what it returned."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return tuple(json.loads(self._process.stdout.readline()))

    def gigabytes(self) -> float:
        """Ends it; the memory that it held at most."""
        self._process.stdin.close()
        return float(self._process.stdout.readline())

    def stop(self) -> str:
        """Stops it; the last line that it wrote for people."""
        self._process.kill()
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        self._log.close()
        return lines[-1] if lines else "it ended without a word"


@contextlib.contextmanager
def workers_of(rows: Mapping[str, Row], case: Mapping, folder: str) -> Iterator[tuple]:
    """Starts a worker for each row, one after the other, as exports take much memory.

    Args:
      rows: name -> row.
      case: what the rows' functions are given.
      folder: an existing folder, which all are given.

    Yields:
      {name: worker} of those that are ready, {name: last words} of the others.
    """
    workers, failures = {}, {}
    try:
        for name, row in rows.items():
            workers[name] = Worker(name, row, case, folder)
            if not workers[name].is_ready():
                failures[name] = workers.pop(name).stop()
        yield workers, failures
    finally:
        for worker in workers.values():
            worker.stop()
