"""Reads record files with random damage in every way that there is: no crash, no hang.

    python -m benchmarks.mutated_records --files=400 --seed=0

Each file is a shard of drawn pairs that one of `MUTATIONS` changed, some of them with
right checksums afterwards. It is searched for bad records and read by what is good of
it, then evaluated, inspected or unpacked, in a child process; a child that dies is told
with the seed of its file, and another goes on. Exits with 1 unless all files end in
results or in errors of this package within 5 s and 2 GB.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.mutation_runs import (
    Trial,
    change_bytes,
    cut,
    insert,
    quietly,
    repeat,
    run_from_command_line,
)
from deeplab_tf.data.records.frames import FOOTER_BYTES, HEADER_BYTES, crc32c

WAYS = ("evaluate", "inspect", "unpack")
SHARD = "train-00000-of-00001.tfrecord"

# --- Mutations -----------------------------------------------------------------------


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(record: bytes) -> bytes:
    """Returns a record as it lies in a shard."""
    length = struct.pack("<Q", len(record))
    return length + _masked(length) + record + _masked(record)


def split_frames(shard: bytes) -> list[bytes]:
    """Returns the records of a whole shard."""
    records, place = [], 0
    while place < len(shard):
        (size,) = struct.unpack_from("<Q", shard, place)
        start = place + HEADER_BYTES
        records.append(shard[start : start + size])
        place = start + size + FOOTER_BYTES
    return records


def claim(data: bytes, draw: random.Random) -> bytes:
    """One record claims another length, with the right checksum of it."""
    records = split_frames(data)
    chosen, frames = draw.randrange(len(records)), [frame(record) for record in records]
    size = draw.choice((0, 1, 2**16, 2**31, 2**33, 2**40, 2**63, 2**64 - 1))
    length = struct.pack("<Q", size)
    frames[chosen] = length + _masked(length) + frames[chosen][HEADER_BYTES:]
    return b"".join(frames)


def inside(change: Callable[[bytes, random.Random], bytes]):
    """Returns a change of one record's bytes, whose checksums are right again."""

    def mutate(data: bytes, draw: random.Random) -> bytes:
        records = split_frames(data)
        chosen = draw.randrange(len(records))
        records[chosen] = change(records[chosen], draw)
        return b"".join(map(frame, records))

    return mutate


def number_inside(data: bytes, draw: random.Random) -> bytes:
    """Two bytes of a record become the highest number: lengths, sizes of images."""
    place = draw.randrange(len(data) - 2)
    return (
        data[:place]
        + draw.choice((b"\xff\xff", b"\x7f\xff", b"\0\0"))
        + data[place + 2 :]
    )


MUTATIONS = {
    "bytes": change_bytes,
    "cut": cut,
    "inserted": insert,
    "repeated": repeat,
    "claimed length": claim,
    "bytes of a record": inside(change_bytes),
    "record cut": inside(cut),
    "record with more": inside(insert),
    "numbers of a record": inside(number_inside),
}

# --- One file ------------------------------------------------------------------------


def write_whole(folder: Path) -> bytes:
    """Writes info.json of a set of one shard; returns the shard's bytes."""
    import io

    from PIL import Image

    from deeplab_tf.data.records.info import DatasetInfo
    from deeplab_tf.data.records.tfrecord import encode_example

    generator, records = np.random.default_rng(0), []
    for index in range(6):
        coarse = generator.integers(0, 256, [4, 5, 3], np.uint8)
        image = Image.fromarray(coarse).resize((50, 40))
        kind = ("JPEG", "PNG")[index % 2]
        file = io.BytesIO()
        image.save(file, kind, **({"progressive": True} if index % 4 == 2 else {}))
        label = np.kron(coarse[..., 0] % 3, np.ones([10, 10], np.uint8))
        records.append(
            encode_example(file.getvalue(), label, f"n{index}", kind.lower(), 40, 50)
        )
    info = DatasetInfo("drawn", ("a", "b", "c"), splits={"train": len(records)})
    (folder / "info.json").write_text(info.to_json())
    return b"".join(map(frame, records))


def read_everything(folder: Path, names: Sequence[str] = WAYS) -> str:
    """Reads a folder of records in some ways; returns what the search found."""
    from datasets import inspect_records, unpack
    from deeplab_tf.data.reading.bad_records import bad_records_named, scan_split
    from deeplab_tf.data.reading.pipeline import make_eval_dataset
    from deeplab_tf.data.reading.selection import Selection, select_records

    scan = scan_split(str(folder), "train")
    if scan.num_good:
        good = Selection(
            str(folder), "train", scan.num_good, good_frames=scan.good_frames
        )
        read = sum(1 for _ in make_eval_dataset(good))
        assert read == scan.num_good, f"{read} of {scan.num_good} were read"
    ways = {
        "evaluate": lambda: list(
            make_eval_dataset(select_records(str(folder), "train"))
        ),
        "inspect": lambda: inspect_records.inspect(folder),
        "unpack": lambda: unpack.unpack(str(folder), "train", str(folder / "out")),
    }
    for name in names:
        try:
            with bad_records_named(str(folder), ["train"]):
                ways[name]()
        except (ValueError, OSError) as error:
            assert not scan.is_whole or "name" in str(error), error
    return "whole" if scan.is_whole else "bad"


def make_trial(folder: Path) -> Trial:
    """Returns what makes and reads one damaged shard; see `mutation_runs`."""
    shard = write_whole(folder)
    (folder / SHARD).write_bytes(shard)
    quietly(read_everything, folder)  # what the first of all takes longer

    def trial(inside: Path, draw: random.Random):
        kind = draw.choice(list(MUTATIONS))
        (inside / "info.json").write_bytes((folder / "info.json").read_bytes())
        (inside / SHARD).write_bytes(MUTATIONS[kind](shard, draw))
        way = draw.choice(WAYS)
        return kind, lambda: quietly(read_everything, inside, [way])

    return trial


if __name__ == "__main__":
    run_from_command_line(__spec__.name, __doc__, make_trial)
