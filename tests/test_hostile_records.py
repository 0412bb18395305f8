"""Shards with random damage of every kind end in results or in names of bad records.

Some draws of each kind; `python -m benchmarks.mutated_records` takes hundreds, in a
process of its own.
"""

from __future__ import annotations

import random

import pytest

from benchmarks.mutated_records import (
    MUTATIONS,
    SHARD,
    frame,
    read_everything,
    split_frames,
    write_whole,
)
from deeplab_tf.data.reading.bad_records import scan_split

pytestmark = pytest.mark.two_lanes


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a good set, and the bytes of its shard."""
    folder = tmp_path_factory.mktemp("whole")
    shard = write_whole(folder)
    (folder / SHARD).write_bytes(shard)
    return folder, shard


def test_what_is_whole_is_read(whole):
    folder, shard = whole
    assert b"".join(map(frame, split_frames(shard))) == shard
    assert read_everything(folder) == "whole"


@pytest.mark.parametrize("kind", MUTATIONS)
def test_damage_is_named_and_the_rest_is_read(whole, kind, tmp_path, capsys):
    folder, shard = whole
    (tmp_path / "info.json").write_bytes((folder / "info.json").read_bytes())
    for seed in range(3):
        (tmp_path / SHARD).write_bytes(MUTATIONS[kind](shard, random.Random(seed)))
        scan = scan_split(str(tmp_path), "train")
        assert 0 <= scan.num_good <= 13 and len(scan.bad) <= 13
        assert str(scan).count("\n") <= 12
    if kind in ("claimed length", "numbers of a record"):  # of a second each
        assert read_everything(tmp_path) in ("whole", "bad")
