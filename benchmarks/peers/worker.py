"""Runs one row of the page of speed, a turn whenever it is asked.

    python -m benchmarks.peers.worker FUNCTION CASE FOLDER

A child of `python -m benchmarks.peers`, in the environment of the row's package; needs
nothing but that. FUNCTION is "module:name", a function of (case, folder) that returns
what is timed; CASE is JSON. For each line on standard input it runs once, and writes
[seconds, what it returned if that is a dictionary] as a line of JSON (of a forward
pass the second of two runs, as after the other rows' the first finds nothing in the
caches); at the end of input, the gigabytes that the process held at most.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

from benchmarks.processes import highest_gigabytes

WARM_UP = 3  # runs that trace, compile and order weights


def main():
    # Packages print; what is meant for the parent goes through a pipe of its own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    function, case, folder = sys.argv[1:]
    module, _, name = function.partition(":")
    case = json.loads(case)
    run = getattr(importlib.import_module(module), name)(case, folder)
    for _ in range(WARM_UP):
        run()
    print("ready", file=answers)
    for _ in sys.stdin:
        if case.get("step") == "forward":
            run()
        start = time.perf_counter()
        answer = run()
        seconds = time.perf_counter() - start
        answer = answer if isinstance(answer, dict) else None
        print(json.dumps([seconds, answer]), file=answers)
    print(highest_gigabytes(), file=answers)


if __name__ == "__main__":
    main()
