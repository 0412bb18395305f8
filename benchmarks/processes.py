"""Work in a process of its own, whose memory is that work's alone."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from pathlib import Path


def in_a_process(function: Callable, *arguments):
    """Calls a function of a module, with what can be pickled, in a new process."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def highest_gigabytes() -> float:
    """The memory that this process held at most (Linux).

    Not `getrusage`, which counts what the parent held when it forked.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9
