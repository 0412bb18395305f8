"""What all builders share: checking pairs, writing shards, flags and errors.

A builder lists its samples, says how one of them is read, and hands both over:

    def list_samples(folder, split) -> list[Sample]: ...
    def read_sample(sample) -> (image_bytes, label): ...     # ValueError: a bad pair

    build_dataset(output_dir, info, {"train": samples}, read_sample)

`build_dataset` checks every pair in parallel processes, writes shards and `info.json`
to a temporary folder beside `output_dir`, and renames that folder when all is well: a
folder named `output_dir` is always a whole data set. The same samples give the same
bytes, whatever the number of processes.

A builder's file ends in `if __name__ == "__main__": run(define_flags, main)`. Flags are
defined by a function rather than on import, so that other programs can import a builder
without getting its flags.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from tqdm import tqdm

from datasets.info import INFO_FILE, DatasetInfo
from datasets.pairs import DatasetError, Pair, ReadSample, Sample, check_pair
from datasets.tfrecord import serialize_example, shard_name

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind.
    fcntl = None

DEFAULT_NUM_SHARDS = 4

# --- Worker processes ----------------------------------------------------------------


def available_cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker() -> None:
    """Ties a worker's life to its parent's."""
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
    finally:
        pool.shutdown(cancel_futures=True)


# --- The temporary folder ------------------------------------------------------------


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder; the system releases it however the process ends."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(
                f"Another process is writing {folder}. Wait for it to end."
            ) from error
        except OSError:
            pass  # Some network file systems cannot lock a folder; go on without.
        yield
    finally:
        os.close(descriptor)


def _check_output_dir(output_dir: Path, overwrite: bool) -> None:
    """Raises DatasetError where `output_dir` may not be written or replaced."""
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise DatasetError(f"Expected a folder. Received: {output_dir}, a file")
    if not any(output_dir.iterdir()):
        return
    if not overwrite:
        raise DatasetError(
            f"{output_dir} exists already. Give another --output_dir, or --overwrite "
            "to replace it."
        )
    # --overwrite deletes the folder: a mistyped path must not cost anything else.
    if not (output_dir / INFO_FILE).is_file():
        raise DatasetError(
            f"{output_dir} has no {INFO_FILE}, so it is no data set of ours and "
            "--overwrite does not replace it. Give another --output_dir."
        )


def _install(temporary: Path, output_dir: Path) -> None:
    """Renames `temporary` to `output_dir`, replacing what is there."""
    replaced = output_dir.with_name(output_dir.name + ".replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if output_dir.exists():
        output_dir.rename(replaced)
    temporary.rename(output_dir)
    shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def _temporary_folder(output_dir: Path, overwrite: bool) -> Iterator[Path]:
    """Yields an empty folder that becomes `output_dir` when the block succeeds.

    Raises:
        DatasetError: `output_dir` may not be replaced, or is being written.
    """
    _check_output_dir(output_dir, overwrite)
    temporary = output_dir.with_name(output_dir.name + ".incomplete")
    temporary.mkdir(parents=True, exist_ok=True)
    with _locked(temporary):
        # The folder may hold what a killed run left.
        for path in temporary.iterdir():
            path.unlink()
        try:
            yield temporary
            _check_output_dir(output_dir, overwrite)
            _install(temporary, output_dir)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


# --- The whole data set --------------------------------------------------------------


def _check_request(
    splits: Mapping[str, Sequence[Sample]], num_shards: int, num_processes: int
) -> None:
    """Raises DatasetError for what needs no file to be read."""
    if num_shards < 1 or num_processes < 1:
        raise DatasetError(
            "Expected num_shards and num_processes of 1 or more. "
            f"Received: {num_shards} and {num_processes}"
        )
    if not splits:
        raise DatasetError("Expected at least one split. Received: none")
    for split, samples in splits.items():
        if not samples:
            raise DatasetError(f"Split {split} is empty. Expected at least one pair.")
        counts = collections.Counter(sample.name for sample in samples)
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise DatasetError(
                f"Expected each name once in split {split}. Received more than once: "
                f"{', '.join(repeated)}"
            )


@dataclasses.dataclass
class _Written:
    """What one split's shards hold, and which pairs were left out."""

    num_examples: int
    pixel_counts: np.ndarray  # int64 [num_classes]
    offenders: list[str]


def _write_split(
    folder: Path,
    split: str,
    samples: Sequence[Sample],
    pairs: Iterator[Pair | str],
    num_shards: int,
    num_classes: int,
) -> _Written:
    """Writes one split; takes exactly `len(samples)` results from `pairs`.

    Shards hold consecutive samples. A sample's shard depends on its place in the list
    alone, so a skipped pair moves no other.
    """
    import tensorflow as tf

    written = _Written(0, np.zeros(num_classes, np.int64), [])
    num_shards = min(num_shards, len(samples))
    for index in range(num_shards):
        first = index * len(samples) // num_shards
        last = (index + 1) * len(samples) // num_shards
        path = str(folder / shard_name(split, index, num_shards))
        with tf.io.TFRecordWriter(path) as writer:
            for sample in samples[first:last]:
                pair = next(pairs)
                if isinstance(pair, str):
                    written.offenders.append(f"{split}/{sample.name}: {pair}")
                    continue
                writer.write(
                    serialize_example(
                        pair.image_bytes,
                        pair.label_png,
                        sample.name,
                        pair.image_format,
                        pair.height,
                        pair.width,
                    )
                )
                written.num_examples += 1
                written.pixel_counts += pair.pixel_counts
    return written


def _report_offenders(written: Mapping[str, _Written], skip_bad: bool) -> None:
    """Prints the pairs that were left out, or raises DatasetError with all of them."""
    offenders = [line for split in written.values() for line in split.offenders]
    if not offenders:
        return
    total = len(offenders) + sum(split.num_examples for split in written.values())
    listing = "\n  ".join(offenders)
    if not skip_bad:
        raise DatasetError(
            f"{len(offenders)} of {total} pairs cannot be used:\n  {listing}\n"
            "Mend or remove them, or go on without them: --skip_bad"
        )
    print(f"Skipped {len(offenders)} of {total} pairs:\n  {listing}", file=sys.stderr)
    for split, part in written.items():
        if not part.num_examples:
            raise DatasetError(f"Split {split} has no pair that can be used.")


def build_dataset(
    output_dir: str | Path,
    info: DatasetInfo,
    splits: Mapping[str, Sequence[Sample]],
    read_sample: ReadSample,
    *,
    num_shards: int = DEFAULT_NUM_SHARDS,
    num_processes: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
) -> DatasetInfo:
    """Checks every pair and writes shards and `info.json` to `output_dir`.

    Args:
        output_dir: folder to make; it appears only when the data set is whole.
        info: name, classes and colours; splits and pixel counts are filled in.
        splits: split name -> samples, in the order to be written.
        read_sample: picklable function from a sample to (bytes of a JPEG or PNG file,
            RGB; label uint8 [height, width] of ids in [0, num_classes) or the ignore
            label). Raises ValueError with a sentence for a bad pair.
        num_shards: shards for each split; never more than it has samples.
        num_processes: worker processes; default: as many as there are CPUs.
        skip_bad: leave out bad pairs and print them, rather than fail.
        overwrite: replace an existing data set.

    Returns:
        `info` with the splits and pixel counts that were written.

    Raises:
        DatasetError: with every bad pair by name; or `output_dir` exists; or a split is
            empty or has a name twice.
    """
    num_processes = available_cpus() if num_processes is None else num_processes
    output_dir = Path(output_dir).expanduser().resolve()
    _check_request(splits, num_shards, num_processes)
    samples = list(itertools.chain.from_iterable(splits.values()))
    check = functools.partial(check_pair, read_sample=read_sample, info=info)
    written = {}
    with _temporary_folder(output_dir, overwrite) as folder:
        with contextlib.closing(map_in_order(check, samples, num_processes)) as results:
            # disable=None: no bar where the output is no terminal.
            pairs = iter(tqdm(results, info.name, len(samples), disable=None))
            for split in splits:
                written[split] = _write_split(
                    folder, split, splits[split], pairs, num_shards, info.num_classes
                )
        _report_offenders(written, skip_bad)
        info = dataclasses.replace(
            info,
            splits={split: part.num_examples for split, part in written.items()},
            pixel_counts={s: part.pixel_counts.tolist() for s, part in written.items()},
        )
        (folder / INFO_FILE).write_text(info.to_json())
    print(f"Wrote {output_dir}: {info.splits}")
    return info


def build_listed(
    input_dir: str | Path,
    output_dir: str | Path,
    splits: Sequence[str],
    *,
    info: DatasetInfo,
    list_splits: Callable[[str | Path], Sequence[str]],
    list_samples: Callable[[str | Path, str], list[Sample]],
    read_sample: ReadSample,
    **options,
) -> DatasetInfo:
    """Writes a data set whose folder says what its splits hold.

    Args:
        input_dir: the data set as it is distributed.
        output_dir: folder to make.
        splits: names of splits; empty takes all of `list_splits`.
        info: as for `build_dataset`, and so are `read_sample` and `options`.
        list_splits: input_dir -> names of the splits that are there.
        list_samples: (input_dir, split) -> its samples, in order.
        read_sample: see `build_dataset`.
        **options: likewise.

    Raises:
        DatasetError: see `build_dataset`.
    """
    names = splits or list_splits(input_dir)
    samples = {split: list_samples(input_dir, split) for split in names}
    return build_dataset(output_dir, info, samples, read_sample, **options)


# --- Command line --------------------------------------------------------------------


def define_flags() -> None:
    """Defines the flags that all builders have.

    A builder's own `define_flags` calls it, then `flags.adopt_module_key_flags(build)`
    so that --help lists these flags too.
    """
    flags.DEFINE_string("output_dir", None, "Folder to write.", required=True)
    flags.DEFINE_integer("num_shards", DEFAULT_NUM_SHARDS, "Shards for each split.")
    flags.DEFINE_integer(
        "num_processes", None, "Worker processes; default: one for each CPU."
    )
    flags.DEFINE_bool("skip_bad", False, "Leave out bad pairs instead of failing.")
    flags.DEFINE_bool("overwrite", False, "Replace an existing data set.")


def define_input_flags(input_help: str) -> None:
    """Defines the flags of a builder of a data set with lists: see `build_listed`."""
    define_flags()
    flags.DEFINE_string("input_dir", None, input_help, required=True)
    flags.DEFINE_list("splits", [], "Splits to write; default: all that are there.")


def flag_options() -> dict[str, Any]:
    """Returns the keyword arguments of `build_dataset` that `define_flags` defines."""
    names = ("num_shards", "num_processes", "skip_bad", "overwrite")
    return {name: flags.FLAGS[name].value for name in names}


def run(define_builder_flags: Callable[[], None], main: Callable[[], None]) -> None:
    """Runs a builder's `main()`; a DatasetError ends it with the sentence alone."""

    def checked_main(arguments):
        if arguments[1:]:
            raise app.UsageError(f"Expected flags only. Received: {arguments[1:]}")
        # SIGTERM raises SystemExit, so that the temporary folder is removed.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            main()
        except DatasetError as error:
            sys.exit(f"Error: {error}")

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    define_builder_flags()
    app.run(checked_main)
