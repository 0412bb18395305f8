"""Work in a process of its own, whose memory is that work's alone."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import resource
from collections.abc import Callable


def in_a_process(function: Callable, *arguments):
    """Calls a function of a module, with what can be pickled, in a new process."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def highest_gigabytes() -> float:
    """The memory that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
