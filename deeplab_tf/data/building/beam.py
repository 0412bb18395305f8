"""The same build on Apache Beam, for data sets that one machine does not get done.

    python -m datasets.build_coco ... --num_shards=256 --runner=DataflowRunner \
        --beam_options="--project=P --region=R --sdk_container_image=I" \
        --output_dir=gs://bucket/coco

Each shard is one piece of work: a worker reads its samples, checks them and writes the
file and its report, as the local build does. So the shards are the same bytes, and a
build that starts again makes only what is missing.

Workers must see the input files under the same paths (a shared or mounted disk), and
import this project: a container image with the checkout in PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Pair, Sample
from deeplab_tf.data.building.shards import Shard, write_shard

RUNNERS = ("DirectRunner", "DataflowRunner", "SparkRunner", "FlinkRunner")
# Name of the thread that waits for a worker process.
BEAM_WATCHER = "run_worker"


def _check_and_write(
    shard: Shard,
    check: Callable[[Sample], Pair | str],
    folder: str,
    num_classes: int,
) -> None:
    write_shard(shard, map(check, shard.samples), folder, num_classes)


def _direct_options(options: list[str], num_processes: int) -> list[str]:
    """Completes DirectRunner's options: more than one worker means processes."""
    given = {option.partition("=")[0] for option in options}
    defaults = {"--direct_num_workers": num_processes}
    if num_processes > 1:
        defaults["--direct_running_mode"] = "multi_processing"
    # Its workers are started by `python -m`, and have to find this package.
    root = str(Path(__file__).resolve().parents[3])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    return options + [
        f"{name}={value}" for name, value in defaults.items() if name not in given
    ]


class _WorkerKilled(Exception):
    """A worker process of DirectRunner ended by itself."""


@contextlib.contextmanager
def _killed_workers_noticed():
    """Raises DatasetError where a worker process of DirectRunner dies in the block.

    Beam waits for its answer forever. The thread that watches over the process ends by
    an exception, and that is all there is to be noticed. A signal then wakes the main
    thread, and Beam lets the other workers end their shards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread can be woken.
        return
    deaths = []
    report = threading.excepthook

    def notice(arguments):
        if arguments.thread is None or arguments.thread.name != BEAM_WATCHER:
            report(arguments)
        elif not deaths:
            deaths.append(arguments.exc_value)
            print(
                "A worker process was killed: the build ends.",
                file=sys.stderr,
                flush=True,
            )
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def wake(number, frame):
        if deaths:
            raise _WorkerKilled
        if callable(interrupt):
            interrupt(number, frame)

    # Of our own also where SIGINT is ignored, as in a shell's background jobs.
    interrupt = signal.signal(signal.SIGINT, wake)
    threading.excepthook = notice
    try:
        yield
    except _WorkerKilled as error:
        raise DatasetError(
            f"a worker process was killed, perhaps because memory ran out ({deaths[0]})"
        ) from error
    finally:
        threading.excepthook = report
        signal.signal(signal.SIGINT, interrupt)


def write_shards(
    shards: Sequence[Shard],
    check: Callable[[Sample], Pair | str],
    folder: str,
    num_classes: int,
    *,
    runner: str,
    options: str = "",
    num_processes: int = 1,
) -> None:
    """Writes shards and their reports on a Beam pipeline.

    Args:
      shards: see `shards.plan_shards`.
      check: picklable; a sample -> its `Pair`, or what is wrong with it.
      folder: that all workers can write; anything that tf.io.gfile can.
      num_classes: of the data set.
      runner: one of `RUNNERS`.
      options: the pipeline's, as on a command line.
      num_processes: of DirectRunner.

    Raises:
      DatasetError: apache-beam is not installed, or the pipeline failed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise DatasetError(
            f"--runner={runner} needs Apache Beam. Run: pip install apache-beam "
            "(for Dataflow: apache-beam[gcp]), or leave --runner out."
        ) from error
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    arguments = shlex.split(options)
    if runner == "DirectRunner":
        arguments = _direct_options(arguments, num_processes)
    try:
        with _killed_workers_noticed():
            with beam.Pipeline(runner, PipelineOptions(arguments)) as pipeline:
                _ = (
                    pipeline
                    | beam.Create(shards)
                    | beam.Reshuffle()
                    | beam.Map(_check_and_write, check, folder, num_classes)
                )
    except Exception as error:  # Each runner has exceptions of its own.
        sentence = str(error).strip().splitlines() or [type(error).__name__]
        raise DatasetError(
            f"The pipeline of {runner} failed: {sentence[-1]}. Mend the cause and run "
            "the same command again: it goes on with the shards that are missing."
        ) from error
