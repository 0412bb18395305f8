"""A function applied to many items in worker processes, results in order."""

from __future__ import annotations

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures

from deeplab_tf import quiet
from deeplab_tf.data.building.errors import DatasetError


def available_cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker() -> None:
    """Ties a worker's life to its parent's, and keeps TensorFlow quiet in it."""
    quiet.install()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent reports Ctrl-C, once.

    def exit_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def map_in_order(function: Callable, items: Iterable, num_processes: int) -> Iterator:
    """Yields `function(item)` for each item in order, computed in worker processes.

    Workers are spawned, not forked: TensorFlow's threads do not survive a fork. Only a
    bounded number of results waits, so that memory does not grow with the data set.

    Args:
      function: picklable.
      items: picklable.
      num_processes: with 1, everything happens in this process.

    Raises:
      DatasetError: a worker process was killed.
    """
    if num_processes == 1:
        yield from map(function, items)
        return
    pool = futures.ProcessPoolExecutor(
        num_processes, multiprocessing.get_context("spawn"), _start_worker
    )
    try:
        items = iter(items)
        pending = collections.deque(
            pool.submit(function, item)
            for item in itertools.islice(items, 16 * num_processes)
        )
        while pending:
            yield pending.popleft().result()
            for item in itertools.islice(items, 1):
                pending.append(pool.submit(function, item))
    except futures.process.BrokenProcessPool as error:
        raise DatasetError(
            f"One of {num_processes} worker processes was killed, perhaps because "
            "memory ran out. Run the same command again, with fewer --num_processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
