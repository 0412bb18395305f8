"""One shard: its samples, the file that holds them and the report beside it.

A shard is the unit of a build. It is written under a temporary name and renamed; then
its report says what it was made of and what it holds. A build that starts again keeps
each shard whose report still fits, and makes the others: the bytes are those of a build
without a break.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from deeplab_tf.data.building.output_folder import PART_SUFFIX, whole_file
from deeplab_tf.data.building.pairs import Pair, ReadSample, Sample
from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.data.records.tfrecord import serialize_example, shard_name

# Unless a number of shards is asked for.
MIN_SHARDS = 4
MAX_SHARD_SAMPLES = 1000

REPORT_SUFFIX = ".report.json"


class Shard(NamedTuple):
    """One file to write.

    Attributes:
      split: name of its split.
      name: of the file.
      samples: what it is to hold, in order.
      fingerprint: changes with everything that its bytes depend on.
    """

    split: str
    name: str
    samples: tuple[Sample, ...]
    fingerprint: str


@dataclasses.dataclass
class ShardReport:
    """What a shard holds.

    Attributes:
      fingerprint: of the `Shard`.
      num_examples: records in it.
      pixel_counts: pixels of each class, int64 [num_classes]; a list once it is JSON.
      offenders: "split/name: what is wrong" of the samples that it lacks.
      image_counts: records that show each class, likewise.
      ignored: pixels without a class.
    """

    fingerprint: str
    num_examples: int
    pixel_counts: np.ndarray | list[int]
    offenders: list[str]
    image_counts: np.ndarray | list[int] = ()
    ignored: int = 0


# --- What is to be written -----------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _code_version() -> str:
    """Hash of the builders' code: after a mended bug no old shard is to be kept."""
    digest = hashlib.sha256(PIL.__version__.encode())  # encodes the labels
    data, package = Path(__file__).parents[1], Path(__file__).parents[2]
    # A wheel has the builders inside the package, a checkout beside it.
    inside, beside = package / "datasets", package.parent / "datasets"
    paths = [package / "class_tables.py"]  # has ids that labels are read by
    for folder in (data, inside if inside.is_dir() else beside):
        paths += sorted(folder.rglob("*.py"))
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _file_state(path: str) -> list[int]:
    """Size and time of change of a file; nothing where `path` names none."""
    try:
        status = os.stat(path)
    except (OSError, TypeError, ValueError):
        return []
    return [status.st_size, status.st_mtime_ns]


def _fingerprint(common: bytes, samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256(common)
    for sample in samples:
        states = [_file_state(sample.image), _file_state(sample.label)]
        digest.update(json.dumps([sample, states]).encode())
    return digest.hexdigest()


def plan_shards(
    splits: Mapping[str, Sequence[Sample]],
    num_shards: int | None,
    read_sample: ReadSample,
    info: DatasetInfo,
) -> list[Shard]:
    """Deals each split's samples out to shards of consecutive samples.

    A sample's shard depends on its place in the list alone, so that a sample which is
    left out moves no other.

    Args:
      splits: split name -> samples, in the order to be written.
      num_shards: for each split, but never more than it has samples; None takes 4, or
        more so that none has over 1,000: what a build that breaks off can lose.
      read_sample: as for `dataset.build_dataset`, and so is `info`.
      info: part of the fingerprints.
    """
    common = pickle.dumps([_code_version(), info.to_json(), read_sample])
    shards = []
    for split, samples in splits.items():
        wanted = num_shards or max(MIN_SHARDS, -(-len(samples) // MAX_SHARD_SAMPLES))
        count = min(wanted, len(samples))
        bounds = [index * len(samples) // count for index in range(count + 1)]
        for index in range(count):
            part = tuple(samples[bounds[index] : bounds[index + 1]])
            name = shard_name(split, index, count)
            shards.append(Shard(split, name, part, _fingerprint(common, part)))
    return shards


# --- Writing and reading back --------------------------------------------------------


def write_shard(
    shard: Shard, pairs: Iterable[Pair | str], folder: str, num_classes: int
) -> None:
    """Writes a shard, then its report.

    Args:
      shard: see `plan_shards`.
      pairs: one for each sample, in order; a sentence for a bad one.
      folder: to write to; anything that tf.io.gfile can write.
      num_classes: of the data set.
    """
    import tensorflow as tf

    zeros = np.zeros(num_classes, np.int64)
    report = ShardReport(shard.fingerprint, 0, zeros, [], zeros.copy())
    path = os.path.join(folder, shard.name)
    # Distributed runners may run one piece of work twice, at the same time.
    with whole_file(path) as temporary, tf.io.TFRecordWriter(temporary) as writer:
        for sample, pair in zip(shard.samples, pairs):
            if isinstance(pair, str):
                report.offenders.append(f"{shard.split}/{sample.name}: {pair}")
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
            report.num_examples += 1
            report.pixel_counts += pair.pixel_counts
            report.image_counts += pair.pixel_counts > 0
            report.ignored += pair.height * pair.width - int(pair.pixel_counts.sum())
    report.pixel_counts = report.pixel_counts.tolist()
    report.image_counts = report.image_counts.tolist()
    with whole_file(path + REPORT_SUFFIX) as temporary:
        with tf.io.gfile.GFile(temporary, "w") as file:
            file.write(json.dumps(dataclasses.asdict(report)))


def read_report(shard: Shard, folder: str) -> ShardReport | None:
    """Returns a shard's report; None where it is absent or of other samples."""
    import tensorflow as tf

    path = os.path.join(folder, shard.name)
    if not all(map(tf.io.gfile.exists, (path, path + REPORT_SUFFIX))):
        return None
    with tf.io.gfile.GFile(path + REPORT_SUFFIX) as file:
        report = ShardReport(**json.load(file))
    return report if report.fingerprint == shard.fingerprint else None


def is_finished(shard: Shard, folder: str, keep_offenders: bool) -> bool:
    """Says whether a folder holds a shard; see `remaining_shards`."""
    report = read_report(shard, folder)
    return report is not None and (keep_offenders or not report.offenders)


def remaining_shards(
    shards: Sequence[Shard], folder: str, keep_offenders: bool
) -> list[Shard]:
    """Removes from a folder what is no finished shard; returns those to be written.

    Args:
      shards: those that the folder is to hold.
      folder: of a build.
      keep_offenders: whether a shard that lacks bad samples counts as finished.
    """
    import tensorflow as tf

    remaining, kept = [], set()
    for shard in shards:
        if is_finished(shard, folder, keep_offenders):
            kept |= {shard.name, shard.name + REPORT_SUFFIX}
        else:
            remaining.append(shard)
    for name in set(tf.io.gfile.listdir(folder)) - kept:
        tf.io.gfile.remove(os.path.join(folder, name))
    return remaining


def remove_reports(folder: str) -> None:
    """Removes all that is not a shard: the reports, and what double work left."""
    import tensorflow as tf

    for name in tf.io.gfile.listdir(folder):
        if name.endswith((REPORT_SUFFIX, PART_SUFFIX)):
            tf.io.gfile.remove(os.path.join(folder, name))
