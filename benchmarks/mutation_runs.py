"""Damaged files, one after the other in child processes: who dies, hangs or fills up.

A benchmark gives a function that makes and reads one such file. A child that dies is
told with the seed of its file, and another goes on.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

MAX_SECONDS, MAX_GIGABYTES = 5.0, 2.0

# (an empty folder, draws of its own) -> (kind of damage, a function that reads the file
# and says in a word what came of it; what it raises is a failure).
Trial = Callable[[Path, random.Random], tuple[str, Callable[[], str]]]

# --- Damage to the bytes of any file -------------------------------------------------


def change_bytes(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 2, 8, 64))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def insert(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + draw.randbytes(draw.choice((1, 7, 300))) + data[place:]


def repeat(data: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.randrange(len(data)) for _ in range(2))
    return data[:end] + data[start:end] + data[end:]


# --- Runs ----------------------------------------------------------------------------


def quietly(function: Callable, *arguments):
    """Calls a function whose lines nobody needs."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return function(*arguments)


def child(first: int, last: int, make_trial: Callable[[Path], Trial]) -> None:
    """Tells in a line of JSON of each file what came of it.

    Args:
      first, last: seeds, without the last.
      make_trial: a folder for what all files need -> the trial of one.
    """
    with tempfile.TemporaryDirectory() as name:
        trial = make_trial(Path(name))
        for seed in range(first, last):
            print(json.dumps({"begun": seed}), flush=True)
            folder = Path(name, str(seed))
            folder.mkdir()
            kind, read = trial(folder, random.Random(seed))
            starts, failure = (time.perf_counter(), time.process_time()), ""
            try:
                result = read()
            except Exception as error:  # all that a user would see as a traceback
                result, failure = "error", repr(error)[:300]
            row = {"seed": seed, "kind": kind, "result": result, "failure": failure}
            row["seconds"] = time.perf_counter() - starts[0]
            row["processor_seconds"] = time.process_time() - starts[1]
            row["gigabytes"] = _peak_gigabytes()
            print(json.dumps(row), flush=True)


def _peak_gigabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e6


def run(module: str, first: int, last: int) -> list[dict]:
    """Returns a row for each seed; a child that dies counts as the result "died"."""
    rows = []
    while first < last:
        command = [sys.executable, "-m", module, f"--child={first},{last}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            row = json.loads(line)
            if "result" in row:
                rows.append(row)
            first = row.get("begun", first)
        if process.wait():
            died = {"seed": first, "result": "died", "failure": process.returncode}
            rows.append(died)
        first += 1
    return rows


def run_from_command_line(
    module: str, text: str, make_trial: Callable[[Path], Trial]
) -> None:
    """Runs as flags say, and tells what came of the files.

    Args:
      module: full name of the benchmark, which children are started by.
      text: of the benchmark.
      make_trial: see `child`.

    Raises:
      SystemExit: with 1 unless all files end in results within 5 s and 2 GB.
    """
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--files", type=int, default=400, help="Number of files.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the first file.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*map(int, options.child.split(",")), make_trial)
        return
    rows = run(module, options.seed, options.seed + options.files)
    print(dict(collections.Counter(row["result"] for row in rows)))
    slowest = max(rows, key=lambda row: row.get("seconds", 0))
    # On a machine that does other things too a clock on the wall tells of these.
    seconds = min(slowest.get("seconds", 0), slowest.get("processor_seconds", 0))
    memory = max(row.get("gigabytes", 0) for row in rows)
    print(
        f"Longest {slowest.get('seconds', 0):.2f} s, {seconds:.2f} s of a processor "
        f"(seed {slowest['seed']}, {slowest.get('kind')}), peak of memory "
        f"{memory:.2f} GB."
    )
    bad = [row for row in rows if row["result"] in ("died", "error")]
    for row in bad[:10]:
        print(row)
    if bad or seconds > MAX_SECONDS or memory > MAX_GIGABYTES:
        sys.exit(1)
