"""Checkpoints that appear whole or not at all."""

import os
from pathlib import Path

import pytest
import tensorflow as tf

from deeplab_tf.training.checkpoints import CheckpointFolder


@pytest.fixture
def value():
    return tf.Variable(0)


@pytest.fixture
def folder(value, tmp_path):
    return CheckpointFolder(tmp_path / "checkpoints", tf.train.Checkpoint(value=value))


def save(folder, value, step):
    value.assign(step)
    return Path(folder.save(step))


def test_the_newest_of_three_is_restored(folder, value):
    assert folder.restore() is None
    for step in (1, 2, 3, 4, 10):
        save(folder, value, step)
    names = sorted(os.listdir(folder.folder))
    assert names == ["000002-step-3", "000003-step-4", "000004-step-10"]
    value.assign(0)
    assert folder.restore().endswith(names[-1])
    assert value.numpy() == 10


@pytest.mark.parametrize("part", ["state.index", "state.data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["cut", "absent"])
def test_an_unreadable_checkpoint_gives_way_to_the_one_before(
    folder, value, part, damage, capsys
):
    save(folder, value, 1)
    path = save(folder, value, 2)
    if damage == "cut":
        (path / part).write_bytes((path / part).read_bytes()[:3])
    else:
        (path / part).unlink()
    assert folder.restore().endswith("000000-step-1")
    assert value.numpy() == 1
    assert f"{path} cannot be read, trying the one before" in capsys.readouterr().out
    (Path(folder.folder) / "000000-step-1" / part).write_bytes(b"")
    with pytest.raises(ValueError, match="None of the 2 checkpoints.*--workdir"):
        folder.restore()


def test_a_failure_while_writing_leaves_the_last_one(folder, value, monkeypatch):
    save(folder, value, 1)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="step 2.*No space left.*last one.*step-1"):
        folder.save(2)
    assert os.listdir(folder.folder) == ["000000-step-1"]


def test_what_a_kill_left_half_written_is_not_taken_for_a_checkpoint(folder, value):
    save(folder, value, 1)
    (Path(folder.folder) / ".temporary").mkdir()
    (Path(folder.folder) / ".temporary" / "state.index").write_bytes(b"half")
    assert folder.restore().endswith("step-1")
    assert save(folder, value, 2).name == "000001-step-2"
