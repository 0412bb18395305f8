"""Runs lowered programs on the card at hand, and torchvision's network beside them.

    python -m benchmarks.gpu.run_programs PROGRAMS RESULT.json --seconds=500
    python -m benchmarks.gpu.run_programs --table=RESULT.json

PROGRAMS is the folder of `make_programs`. Needs numpy, jax, torch and torchvision;
neither TensorFlow nor deeplab_tf. Checks come first, then rows by their importance,
those of JAX and of PyTorch by turns, each turn in a process of its own. The result is
written after every row; a row that fails, hangs or ends its process is one line in it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.report import report
from benchmarks.gpu.rows import COMPILING, RUNNING, Results
from benchmarks.gpu.torch_table import TORCH_ROWS


def rows_of(folder: Path, only: Sequence[str]) -> list[tuple[str, str]]:
    """Returns (kind, name) of all rows in the order in which they are to run.

    Args:
      folder: of the programs.
      only: names, or beginnings of names; all rows where it is empty.
    """
    rows = []  # (importance, whether it is PyTorch's, place in its table, kind, name)
    for path in folder.glob("*.mlirbc"):
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        rows.append((facts["importance"], False, facts["order"], "xla", path.stem))
    for order, (name, row) in enumerate(TORCH_ROWS.items()):
        rows.append((row.importance, True, order, "torch", name))
    wanted = tuple(only) or ("",)
    return [(kind, name) for *_, kind, name in sorted(rows) if name.startswith(wanted)]


class Runner:
    """Starts the children, and watches them.

    Attributes:
      options: of the command line.
      results: what the children write.
      deadline: seconds since the epoch after which no row starts.
    """

    def __init__(self, options):
        self.options = options
        self.results = Results(options.result)
        self.deadline = time.time() + options.seconds

    def run(self, rows: Sequence[tuple[str, str]]) -> None:
        """Runs rows; those for which there was no time are told at the end."""
        for kind, group in itertools.groupby(rows, key=lambda row: row[0]):
            left = [name for _, name in group]
            while left and time.time() < self.deadline:
                self._turn(kind, left)
                left = self._unfinished(left)
        if missing := self._unfinished([name for _, name in rows]):
            print(f"No time was left for: {', '.join(missing)}")

    def _turn(self, kind: str, names: Sequence[str]) -> None:
        """One child for rows of one kind; a row in which it ends gets the reason."""
        options = self.options
        settings = {
            "xla": [str(options.together)],
            "torch": [str(options.torch_batch), str(options.torch_size)],
        }[kind]
        common = [options.result, options.programs, str(self.deadline)]
        module = f"benchmarks.gpu.{kind}_rows"
        child = subprocess.Popen(
            [sys.executable, "-m", module, *common, *settings, *names]
        )
        reason = self._watch(child)
        if not reason:
            return
        states = self.results.read()["rows"]
        # A process that ended before any row would do so again.
        for state in (RUNNING, COMPILING, None):
            if blamed := [name for name in names if states.get(name) == state]:
                break
        for name in blamed:
            self.results.write_row(name, {"error": reason})
            print(f"{name}: {reason}", flush=True)

    def _unfinished(self, names: Sequence[str]) -> list[str]:
        rows = self.results.read()["rows"]
        return [name for name in names if not isinstance(rows.get(name), dict)]

    def _watch(self, child) -> str:
        """Waits for a child, ends it where a row takes too long; says why it ended."""
        last, changed = None, time.time()
        while child.poll() is None:
            time.sleep(0.2)
            state = self.results.read()["rows"]
            if state != last:
                last, changed = state, time.time()
            if time.time() - changed > self.options.row_seconds:
                child.kill()
                child.wait()
                return f"took more than {self.options.row_seconds} s"
        return f"its process ended with {child.returncode}" if child.returncode else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("programs", nargs="?", help="Folder of the programs.")
    parser.add_argument("result", nargs="?", help="JSON file that is written.")
    parser.add_argument("--table", help="Prints the tables of this JSON file instead.")
    parser.add_argument(
        "--seconds", type=float, default=3600, help="After these no row starts."
    )
    parser.add_argument(
        "--row_seconds", type=float, default=240, help="Longest time of one row."
    )
    parser.add_argument(
        "--together",
        type=int,
        default=1,
        help="Programs that compile at the same time; their compile times count this.",
    )
    parser.add_argument(
        "--only", default="", help="Beginnings of names of rows, with commas."
    )
    parser.add_argument(
        "--torch_batch", type=int, default=16, help="Images a step of PyTorch's rows."
    )
    parser.add_argument(
        "--torch_size", type=int, default=513, help="Pixels a side of their images."
    )
    options = parser.parse_args()
    if options.table:
        print(report(Results(options.table).read()))
        return
    if not options.result:
        parser.error("expected PROGRAMS and RESULT.json, or --table=RESULT.json")
    runner = Runner(options)
    only = [name for name in options.only.split(",") if name]
    runner.results.write(compiled_together=options.together)
    runner.run(rows_of(Path(options.programs), only))
    print(report(runner.results.read()))


if __name__ == "__main__":
    main()
