"""What the runner and its two kinds of rows share: the result file and the clock.

Nothing here or in the modules beside it that run on the card imports TensorFlow or
deeplab_tf.
"""

from __future__ import annotations

import json
import os
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path

WARM_UP = 3  # calls before the timed ones
REPEATS = 10
# Stand for a row that is not finished; they stay where its process ends.
RUNNING, COMPILING = "running", "compiling"


class Results:
    """The result file: {"rows": {name: facts}, ...}, written after every change.

    One process writes at a time: the runner waits while a child runs.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def read(self) -> dict:
        if not self.path.exists():
            return {"rows": {}}
        return json.loads(self.path.read_text(encoding="utf-8"))

    def write(self, **facts) -> None:
        """Sets facts beside the rows."""
        self._replace({**self.read(), **facts})

    def write_row(self, name: str, facts) -> None:
        content = self.read()
        content["rows"][name] = facts
        self._replace(content)

    def _replace(self, content: dict) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(partial, self.path)


def run_row(results: Results, name: str, row: Callable[[], dict]) -> None:
    """Runs one row and writes what it returns, or its error as one line."""
    results.write_row(name, RUNNING)
    try:
        facts = row()
    except Exception as error:  # any failure is this row's alone
        traceback.print_exc()
        facts = {"error": one_line(f"{type(error).__name__}: {error}")}
    results.write_row(name, facts)
    print(f"{name}: {json.dumps(facts)}", flush=True)


def one_line(text: str, length: int = 300) -> str:
    return " ".join(text.split())[:length]


def seconds_of(run: Callable[[], object]) -> float:
    """Median seconds of `REPEATS` calls that end when their result is there."""
    for _ in range(WARM_UP):
        run()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
