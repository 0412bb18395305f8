"""Builds a whole data set: checks its pairs and writes them as shards of records.

A builder lists its samples, says how one of them is read, and hands both over:

    def list_samples(folder, split) -> list[Sample]: ...
    def read_sample(sample) -> (image_bytes, label): ...     # ValueError: a bad pair

    build_dataset(output_dir, info, {"train": samples}, read_sample)

`build_dataset` checks every pair in parallel processes, or on Apache Beam, writes
shards and `info.json` to a folder beside `output_dir`, and renames that folder when all
is well: a folder named `output_dir` is always a whole data set. The same samples give
the same bytes, whatever the number of processes and the runner, and however often the
build was broken off: what is finished is kept, and the same command goes on with it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deeplab_tf.data.building import beam
from deeplab_tf.data.building.class_table import class_table
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.output_folder import full_path, unfinished_folder
from deeplab_tf.data.building.pairs import (
    Pair,
    ReadSample,
    Sample,
    check_pair,
)
from deeplab_tf.data.building.shards import (
    Shard,
    ShardReport,
    is_finished,
    plan_shards,
    read_report,
    remaining_shards,
    remove_reports,
    write_shard,
)
from deeplab_tf.data.building.worker_pool import available_cpus, map_in_order
from deeplab_tf.data.records.info import INFO_FILE, DatasetInfo
from deeplab_tf.files import is_disk_full
from deeplab_tf.strangers_words import first_ten, printable

LOCAL = "local"

# --- The whole data set --------------------------------------------------------------


def _check_request(
    splits: Mapping[str, Sequence[Sample]], num_shards: int | None, num_processes: int
) -> None:
    """Raises DatasetError for what needs no file to be read."""
    if (num_shards is not None and num_shards < 1) or num_processes < 1:
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
                f"{', '.join(first_ten(repeated))}"
            )


def _write_locally(
    shards: Sequence[Shard],
    check: Callable[[Sample], Pair | str],
    folder: str,
    info: DatasetInfo,
    num_processes: int,
) -> None:
    """Writes shards here, one by one, from pairs that worker processes check."""
    samples = itertools.chain.from_iterable(shard.samples for shard in shards)
    count = sum(len(shard.samples) for shard in shards)
    with contextlib.closing(map_in_order(check, samples, num_processes)) as results:
        # disable=None: no bar where the output is no terminal.
        pairs = iter(tqdm(results, info.name, count, disable=None))
        for shard in shards:
            own = itertools.islice(pairs, len(shard.samples))
            write_shard(shard, own, folder, info.num_classes)


@contextlib.contextmanager
def _advice(shards: Sequence[Shard], folder: str, keep_offenders: bool):
    """Says, where a build breaks off, what is kept; a full disk gets a sentence."""
    try:
        yield
    except BaseException as error:
        finished = sum(is_finished(shard, folder, keep_offenders) for shard in shards)
        if finished:
            print(
                f"{folder} keeps {finished} of {len(shards)} shards. The same command "
                "goes on with the others.",
                file=sys.stderr,
            )
        # TensorFlow's errors say it in words.
        if is_disk_full(error) or "No space left" in str(error):
            raise DatasetError(
                f"No space left on the disk of {folder}. Make room and run the same "
                "command again, or give another --output_dir."
            ) from error
        raise


def _report_offenders(reports: Sequence[ShardReport], skip_bad: bool) -> None:
    """Prints the pairs that were left out, or raises DatasetError with them: ten."""
    offenders = [line for report in reports for line in report.offenders]
    if not offenders:
        return
    total = len(offenders) + sum(report.num_examples for report in reports)
    listing = printable("\n  ".join(first_ten(offenders)))
    if not skip_bad:
        raise DatasetError(
            f"{len(offenders)} of {total} pairs cannot be used:\n  {listing}\n"
            "Mend or remove them, or go on without them: --skip_bad"
        )
    print(f"Skipped {len(offenders)} of {total} pairs:\n  {listing}", file=sys.stderr)


def _complete_info(
    info: DatasetInfo, shards: Sequence[Shard], reports: Sequence[ShardReport]
) -> DatasetInfo:
    """Adds to `info` what each split holds.

    Raises:
      DatasetError: a split has no example.
    """
    examples, pixel_counts = collections.Counter(), {}
    for shard, report in zip(shards, reports):
        examples[shard.split] += report.num_examples
        counts = pixel_counts.get(shard.split, 0) + np.array(report.pixel_counts)
        pixel_counts[shard.split] = counts
    for split, count in examples.items():
        if not count:
            raise DatasetError(f"Split {split} has no pair that can be used.")
    return dataclasses.replace(
        info,
        splits=dict(examples),
        pixel_counts={split: count.tolist() for split, count in pixel_counts.items()},
    )


def build_dataset(
    output_dir: str | Path,
    info: DatasetInfo,
    splits: Mapping[str, Sequence[Sample]],
    read_sample: ReadSample,
    *,
    num_shards: int | None = None,
    num_processes: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    runner: str = LOCAL,
    beam_options: str = "",
) -> DatasetInfo:
    """Checks every pair and writes shards and `info.json` to `output_dir`.

    Args:
      output_dir: folder to make; it appears only when the data set is whole. Anything
        that tf.io.gfile can write.
      info: name, classes and colours; splits and pixel counts are filled in.
      splits: split name -> samples, in the order to be written.
      read_sample: picklable function from a sample to (bytes of a JPEG or PNG file,
        RGB; label uint8 [height, width] of ids in [0, num_classes) or the ignore
        label). Raises ValueError with a sentence for a bad pair.
      num_shards: shards for each split, see `shards.plan_shards`.
      num_processes: worker processes; default: as many as there are CPUs.
      skip_bad: leave out bad pairs and print them, rather than fail.
      overwrite: replace an existing data set.
      runner: "local", or one of `beam.RUNNERS`.
      beam_options: of that runner, as on a command line.

    Returns:
      `info` with the splits and pixel counts that were written.

    Raises:
      DatasetError: with the first ten bad pairs by name; or `output_dir` exists; or a
        split is empty or has a name twice; or the disk is full; or Beam failed.
    """
    import tensorflow as tf

    num_processes = available_cpus() if num_processes is None else num_processes
    output_dir = full_path(output_dir)
    _check_request(splits, num_shards, num_processes)
    check = functools.partial(check_pair, read_sample=read_sample, info=info)
    with unfinished_folder(output_dir, overwrite) as folder:
        shards = plan_shards(splits, num_shards, read_sample, info)
        with _advice(shards, folder, skip_bad):
            remaining = remaining_shards(shards, folder, skip_bad)
            if len(remaining) < len(shards):
                print(
                    f"Going on with an earlier run: {len(remaining)} of {len(shards)} "
                    "shards are still to be written."
                )
            if runner == LOCAL:
                _write_locally(remaining, check, folder, info, num_processes)
            elif remaining:
                beam.write_shards(
                    remaining,
                    check,
                    folder,
                    info.num_classes,
                    runner=runner,
                    options=beam_options,
                    num_processes=num_processes,
                )
            reports = [read_report(shard, folder) for shard in shards]
            _report_offenders(reports, skip_bad)
            info = _complete_info(info, shards, reports)
        remove_reports(folder)
        with tf.io.gfile.GFile(os.path.join(folder, INFO_FILE), "w") as file:
            file.write(info.to_json())
    print(f"Wrote {output_dir}: {info.splits}")
    print(printable(class_table(info, reports)))
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
