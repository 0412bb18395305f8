"""Reads record files with random damage in every way that there is: no crash, no hang.

    python -m benchmarks.mutated_records --files=400 --seed=0

Each file is a shard of drawn pairs that one of `MUTATIONS` changed, some of them with
right checksums afterwards. It is searched for bad records, read by what is good of it,
inspected and unpacked, in a child process; a child that dies is told with the seed of
its file, and another goes on. Exits with 1 unless all files end in results or in errors
of this package within 5 s and 2 GB.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from deeplab_tf.data.records.frames import FOOTER_BYTES, HEADER_BYTES, crc32c

SHARD = "train-00000-of-00001.tfrecord"
MAX_SECONDS, MAX_GIGABYTES = 5.0, 2.0

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


def read_everything(folder: Path) -> str:
    """Reads a folder of records in every way; returns what the search found."""
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
    for way in ways.values():
        try:
            with bad_records_named(str(folder), ["train"]):
                way()
        except (ValueError, OSError) as error:
            assert not scan.is_whole or "name" in str(error), error
    return "whole" if scan.is_whole else "bad"


def _quietly(function: Callable, *arguments):
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return function(*arguments)


def _child(first: int, last: int) -> None:
    """Tells in a line of JSON of each file what came of it."""
    with tempfile.TemporaryDirectory() as name:
        shard = write_whole(Path(name))
        (Path(name) / SHARD).write_bytes(shard)
        _quietly(read_everything, Path(name))  # what the first of all takes longer
        for seed in range(first, last):
            print(json.dumps({"begun": seed}), flush=True)
            draw = random.Random(seed)
            kind = draw.choice(list(MUTATIONS))
            folder = Path(name, str(seed))
            folder.mkdir()
            (folder / "info.json").write_bytes(Path(name, "info.json").read_bytes())
            (folder / SHARD).write_bytes(MUTATIONS[kind](shard, draw))
            start, failure = time.perf_counter(), ""
            try:
                result = _quietly(read_everything, folder)
            except Exception as error:  # all that a user would see as a traceback
                result, failure = "error", repr(error)[:300]
            row = {"seed": seed, "kind": kind, "result": result, "failure": failure}
            row["seconds"] = time.perf_counter() - start
            row["gigabytes"] = _peak_gigabytes()
            print(json.dumps(row), flush=True)


def _peak_gigabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e6


def run(first: int, last: int) -> list[dict]:
    """Returns a row for each seed; a child that dies counts as the result "died"."""
    rows = []
    while first < last:
        command = [sys.executable, "-m", __spec__.name, f"--child={first},{last}"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in child.stdout:
            row = json.loads(line)
            if "result" in row:
                rows.append(row)
            first = row.get("begun", first)
        if child.wait():
            rows.append({"seed": first, "result": "died", "failure": child.returncode})
        first += 1
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=400, help="Number of files.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the first file.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(*map(int, options.child.split(",")))
        return
    rows = run(options.seed, options.seed + options.files)
    print(dict(collections.Counter(row["result"] for row in rows)))
    seconds = max(row.get("seconds", 0) for row in rows)
    memory = max(row.get("gigabytes", 0) for row in rows)
    print(f"Longest {seconds:.2f} s, peak of memory {memory:.2f} GB.")
    bad = [row for row in rows if row["result"] in ("died", "error")]
    for row in bad[:10]:
        print(row)
    if bad or seconds > MAX_SECONDS or memory > MAX_GIGABYTES:
        sys.exit(1)


if __name__ == "__main__":
    main()
