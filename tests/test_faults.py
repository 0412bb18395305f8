"""Faults of data and disk, injected into train.py and evaluate.py; what a user sees.

Each ends the script with the message below, exit status 1 and no traceback, and the
same command goes on when it is mended. The network is a single convolution.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import subprocess
import types
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.commands import (
    evaluate,
    evaluation_places,
    export,
    predict,
    train,
)
from deeplab_tf.config import TrainConfig, read_config, write_config
from deeplab_tf.evaluation.scores import write_summary
from deeplab_tf.files import atomic_write
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.networks.weight_files import read_weights, save_weights
from deeplab_tf.training import loop, resuming
from deeplab_tf.training.checkpoints import CheckpointFolder, list_checkpoints
from deeplab_tf.training.watching import EpochLog
from deeplab_tf.workdir import LAST_WEIGHTS
from tests.support.commands import call
from tests.support.networks import assert_same_arrays
from tests.support.small_files import files_up_to
from tests.support.spoilt_records import (
    CONTENT_FAULTS,
    flip_data,
    shard_of_train,
    write_data,
)

pytestmark = pytest.mark.two_lanes

NUM_CLASSES = 4
KEPT = (
    "{workdir} keeps what it holds: when the records are mended the same command "
    "resumes."
)
BUILD_AGAIN = (
    "Build the data set again. Or leave these out: --skip_bad_records, with another "
    f"--workdir. {KEPT}"
)


def build_tiny_model(*_, **__):
    image = keras.Input([None, None, 3], name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    return keras.Model(image, keras.layers.Conv2D(NUM_CLASSES, 1, name="logits")(x))


class Flags(types.SimpleNamespace):
    """What absl makes of a command line: None for a flag that is not given."""

    def __getattr__(self, name):
        return None


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setattr(loop, "build_model", build_tiny_model)


@pytest.fixture
def run_train(tmp_path, monkeypatch):
    """Runs train.py: 12 images, 3 steps an epoch, each validated."""

    def run(data_dir, workdir=tmp_path / "run", steps=6, **given):
        flags = dict(
            recipe="demo",
            strategy="default",
            logical_cpus=1,
            cross_device="auto",
            data_dir=str(data_dir),
            workdir=str(workdir),
            crop_size=["33"],
            batch_size=4,
            steps=steps,
            set=["validate_every=1"],
        )
        monkeypatch.setattr(train, "FLAGS", Flags(**{**flags, **given}))
        train.main(["train.py"])
        return read_weights(os.path.join(workdir, LAST_WEIGHTS))

    return run


def message_of(call, *arguments, **options) -> str:
    """What a script ends with."""
    with pytest.raises(SystemExit) as stop:
        call(*arguments, **options)
    return stop.value.code


def steps_kept(workdir) -> list[int]:
    names = list_checkpoints(os.path.join(workdir, "checkpoints"))
    return [int(name.rpartition("-")[2]) for name in names]


def at_step(patch, step, act):
    """Acts as a step of training ends."""
    original = resuming.ResumableRun.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == step:
            act(self)

    patch.setattr(resuming.ResumableRun, "on_train_batch_end", on_train_batch_end)


# --- Data ----------------------------------------------------------------------------


def test_a_corrupt_record_ends_training_by_its_name(run_train, tmp_path, capsys):
    """Also one that comes while it runs: the checkpoint of before is resumed."""
    workdir = tmp_path / "run"
    folder = write_data(tmp_path / "data")
    whole = shard_of_train(tmp_path / "data", 1).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 4, lambda run: flip_data(tmp_path / "data", 4))
        message = message_of(run_train, folder, steps=300)
    assert message == (
        f"train.py: 1 of 12 records in split train of {folder} are bad:\n"
        "  train-00001-of-00003.tfrecord record 1 (image4): its checksum is wrong: its "
        "bytes have changed\n" + BUILD_AGAIN.format(workdir=workdir)
    )
    assert f"Searching {folder} for bad records" in capsys.readouterr().out
    kept = steps_kept(workdir)[-1]
    shard_of_train(tmp_path / "data", 1).write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, kept + 1, lambda run: run.request_stop("the test"))
        run_train(folder, steps=300)
    output = capsys.readouterr().out
    assert f"Resuming after step {kept} of 300." in output
    assert "Stopped by the test" in output


def test_a_shard_deleted_while_training_runs_is_named(run_train, tmp_path):
    folder = write_data(tmp_path / "data")
    shard = shard_of_train(tmp_path / "data", 2)
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 4, lambda run: shard.unlink())
        message = message_of(run_train, folder, steps=300)
    expected = (
        f"train.py: Expected 3 shards of split train in {folder}. Received: "
        "train-00000-of-00003.tfrecord, train-00001-of-00003.tfrecord; missing: "
        "train-00002-of-00003.tfrecord. Put them back, or build the data set again."
    )
    assert message == f"{expected} {KEPT.format(workdir=tmp_path / 'run')}"
    assert steps_kept(tmp_path / "run")
    assert message_of(run_train, folder, tmp_path / "other") == expected


def test_labels_out_of_range_are_named(run_train, tmp_path):
    """On CPUs the loss raises; on GPUs it becomes NaN, which is told the same way."""
    folder = write_data(tmp_path / "data", {4: CONTENT_FAULTS["ids out of range"][0]})
    expected = (
        f"train.py: 1 of 12 records in split train of {folder} are bad:\n"
        "  train-00001-of-00003.tfrecord record 1 (image4): its label holds 4, 200, "
        "which is neither a class in [0, 4) nor the ignore label 255\n"
    )
    for error in (
        tf.errors.InvalidArgumentError(None, None, "label value of 200"),
        resuming.NonFiniteLoss("The loss became nan"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "train", raiser(error))
            message = message_of(run_train, folder)
        assert message == expected + BUILD_AGAIN.format(workdir=tmp_path / "run")
    # A crop of 33 pixels may miss the four of them; validation takes whole images.
    split = "eval_split=train"
    message = message_of(
        run_train, folder, tmp_path / "other", set=["validate_every=1", split]
    )
    assert message.startswith(expected)


def raiser(error):
    def call(*_, **__):
        raise error

    return call


def test_an_error_of_whole_records_is_told_as_it_is(run_train, tmp_path, monkeypatch):
    folder = write_data(tmp_path / "data")
    lost = resuming.NonFiniteLoss("The loss became nan at step 3.")
    monkeypatch.setattr(loop, "train", raiser(lost))
    assert message_of(run_train, folder) == "train.py: The loss became nan at step 3."
    error = tf.errors.InvalidArgumentError(None, None, "a mistake of ours")
    monkeypatch.setattr(loop, "train", raiser(error))
    with pytest.raises(tf.errors.InvalidArgumentError, match="a mistake of ours"):
        run_train(folder)


def test_bad_records_are_skipped_and_counted(run_train, tmp_path, capsys):
    """Stopped and resumed, with the weights of shards that never held them."""
    data = tmp_path / "damaged"
    folder = write_data(data, {2: CONTENT_FAULTS["other size"][0]})
    flip_data(data, 4)
    clean = run_train(write_data(tmp_path / "clean", left_out=(2, 4)), tmp_path / "c")
    skip = dict(workdir=tmp_path / "s", skip_bad_records=True)
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 3, lambda run: run.request_stop("the test"))
        run_train(folder, **skip)
    assert_same_arrays(run_train(folder, **skip), clean)
    output = capsys.readouterr().out
    assert "Stopped by the test after step 4" in output
    assert (
        f"Skipping what is bad: 2 of 12 records in split train of {folder} are bad:\n"
        "  train-00001-of-00003.tfrecord record 1 (image4): its checksum is wrong: its "
        "bytes have changed\n  train-00002-of-00003.tfrecord record 0 (image2): its "
        "image is 40 x 48 pixels (height x width), its label 48 x 40\n"
    ) in output
    assert f"All 3 records in split val of {folder} are good." in output
    header, *rows = (tmp_path / "s" / "log.csv").read_text().splitlines()
    column = header.split(",").index("skipped_records")
    assert [row.split(",")[column] for row in rows] == ["2", "2", "2"]
    assert (read_config(tmp_path / "s").epochs, len(rows)) == (3, 3), "2 steps an epoch"


def test_damaged_records_without_any_good_one_are_refused(run_train, tmp_path):
    changes = {index: b"no example" for index in range(12)}
    folder = write_data(tmp_path / "data", changes)
    message = message_of(run_train, folder, skip_bad_records=True)
    assert "train.py: 12 of 12 records in split train" in message
    assert message.endswith(
        "  and 2 more\nNo good record is left. Build the data set again."
    )


NAMES = ("background", "cat", "dog", "horse")  # of `write_data`


def evaluate_tiny_model(monkeypatch, folder, **changes):
    """Lets evaluate.py find a run with `build_tiny_model` and folder / "data"."""
    config = TrainConfig(
        num_classes=NUM_CLASSES,
        class_names=NAMES,
        colormap=((0, 0, 0),) * NUM_CLASSES,
        data_dir=str(folder / "data"),
        **changes,
    )
    segmenter = Segmenter(build_tiny_model(), labels=Labels.from_config(config))
    monkeypatch.setattr(evaluation_places, "read_config", lambda _: config)
    monkeypatch.setattr(evaluation_places, "workdir_weights", lambda _: "best.npz")
    monkeypatch.setattr(evaluate, "segmenter_of", lambda *_: segmenter)
    flags = Flags(workdir=str(folder), scales=["1"], flip=False, batch_size=1)
    monkeypatch.setattr(evaluate, "FLAGS", flags)


def test_evaluation_names_bad_records(tmp_path, monkeypatch):
    """An image that cannot be read, and labels that only the count refuses."""
    evaluate_tiny_model(monkeypatch, tmp_path, eval_split="train")
    for fault in ("image damaged", "ids out of range"):
        change, problem = CONTENT_FAULTS[fault]
        folder = write_data(tmp_path / "data", {4: change})
        assert message_of(evaluate.main, ["evaluate.py"]) == (
            f"evaluate.py: 1 of 12 records in split train of {folder} are bad:\n"
            f"  train-00001-of-00003.tfrecord record 1 (image4): {problem}\n"
            "Build the data set again."
        )
    assert not (tmp_path / "evaluation").exists()


# --- Disk ----------------------------------------------------------------------------


def write_log(workdir, rows=1):
    log = EpochLog(workdir / "log.csv")
    log.on_epoch_end(0, {f"column {index}": 0.5 for index in range(rows)})


def write_checkpoint(workdir, size=1):
    checkpoint = tf.train.Checkpoint(value=tf.Variable(tf.zeros([size])))
    CheckpointFolder(workdir / "checkpoints", checkpoint).save(1)


def dense_model(units=1):
    return keras.Sequential([keras.Input([2]), keras.layers.Dense(units, name="dense")])


# Writes a small file with 1 and one beyond 10,000 bytes with 10,000.
WRITERS = {
    "log.csv": write_log,
    "config.json": lambda workdir, size=1: write_config(
        TrainConfig(recipe="x" * size), workdir
    ),
    "last.npz": lambda workdir, size=1: save_weights(
        dense_model(size), workdir / "last.npz"
    ),
    "val.json": lambda workdir, size=1: write_summary(
        {"mean_iou": [0.5] * size}, workdir / "val.json"
    ),
    "checkpoints": write_checkpoint,
}


def contents(folder) -> dict:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_fails_leaves_what_was_there(tmp_path, name):
    """The write really fails half way."""
    WRITERS[name](tmp_path)
    before = contents(tmp_path)
    with files_up_to(10_000), pytest.raises(OSError) as error:
        WRITERS[name](tmp_path, 10_000)
    gc.collect()  # what is left open would now print a traceback
    assert contents(tmp_path) == before
    if name == "checkpoints":
        assert "The checkpoint of step 1 cannot be written to" in str(error.value)
        assert "The last one there is 000000-step-1." in str(error.value)
    else:
        assert str(error.value) == (
            f"{tmp_path / name} cannot be written: File too large. What was there "
            "before is unchanged. Make room on the disk, then run again."
        )


def test_another_failure_while_writing_keeps_its_kind(tmp_path):
    (tmp_path / "file").write_text("before")
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), atomic_write(tmp_path / "file") as file:
            file.write("half")
            raise error
    assert contents(tmp_path) == {"file": b"before"}


def test_a_full_disk_under_tensorboard_is_told(run_train, tmp_path, monkeypatch):
    """TensorFlow's writer raises this as it makes a file, and says nothing later."""
    folder = write_data(tmp_path / "data")
    text = "events.v2; No space left on device"
    error = tf.errors.ResourceExhaustedError(None, None, text)
    monkeypatch.setattr(loop, "train", raiser(error))
    assert message_of(run_train, folder) == (
        f"train.py: No space left on the disk of {tmp_path / 'run'}. Make room, then "
        "run again: the same command resumes."
    )


OOM = tf.errors.ResourceExhaustedError(
    None,
    None,
    "OOM when allocating tensor with shape[4,33,33,256] and type half on "
    "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc",
)
DID_NOT_FIT = "Out of memory on GPU:0: a tensor float16 [4, 33, 33, 256], 2 MB, did"


def test_training_out_of_memory_says_what_to_lower(run_train, tmp_path, monkeypatch):
    folder = write_data(tmp_path / "data")
    monkeypatch.setattr(loop, "train", raiser(OOM))
    message = message_of(run_train, folder)
    assert message.startswith(f"train.py: {DID_NOT_FIT} not fit. Give another ")
    assert "--set=accumulation_steps=2" in message and "\n" not in message


def test_an_evaluation_out_of_memory_says_what_to_lower(tmp_path, monkeypatch):
    evaluate_tiny_model(monkeypatch, tmp_path)
    monkeypatch.setattr(evaluate, "evaluate", raiser(OOM))
    assert message_of(evaluate.main, ["evaluate.py"]) == (
        f"evaluate.py: {DID_NOT_FIT} not fit. Try --window=513, which runs larger "
        "images in pieces."
    )


@pytest.mark.parametrize(
    "command, asked", [(predict, "predict_as"), (export, "export_as")]
)
def test_other_commands_out_of_memory_say_so(command, asked, monkeypatch):
    monkeypatch.setattr(command, asked, raiser(OOM))
    needed = {"predict": [], "export": ["--workdir=run", "--output_dir=out"]}
    done = call(command, *needed[command.__name__.rpartition(".")[2]])
    assert done.returncode == 1 and DID_NOT_FIT in done.stderr
    assert done.stdout.startswith("On ")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB of its own, which can really be full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs rights that this process has not")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk) -> Path:
    with open(disk / "fill", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    return disk / "fill"


def test_a_full_disk_ends_training_and_costs_nothing(run_train, tmp_path, small_disk):
    folder, workdir = write_data(tmp_path / "data"), small_disk / "run"
    whole = run_train(folder, tmp_path / "whole")
    fill(small_disk)
    message = message_of(run_train, folder, workdir)
    assert message == (
        f"train.py: {workdir / 'config.json'} cannot be written: No space left on "
        "device. What was there before is unchanged. Make room on the disk, then run "
        "again."
    )
    assert not contents(workdir)
    (small_disk / "fill").unlink()
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 4, lambda run: fill(small_disk))
        message = message_of(run_train, folder, workdir)
    checkpoints = workdir / "checkpoints"
    assert message == (
        f"train.py: The checkpoint of step 6 cannot be written to {checkpoints}: No "
        "space left on device. The last one there is 000001-step-3."
    )
    assert sorted(os.listdir(checkpoints)) == ["000000-step-3", "000001-step-3"]
    assert read_weights(workdir / LAST_WEIGHTS)
    fill(small_disk)  # the lock of the workdir has made room
    with pytest.raises(tf.errors.ResourceExhaustedError, match="No space left"):
        tf.summary.create_file_writer(str(small_disk / "logs"))
    (small_disk / "fill").unlink()
    assert_same_arrays(run_train(folder, workdir), whole)


def test_an_evaluation_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    evaluate_tiny_model(monkeypatch, tmp_path)
    write_data(tmp_path / "data")
    evaluate.main(["evaluate.py"])
    before = contents(tmp_path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "replace", raiser(full))
    message = message_of(evaluate.main, ["evaluate.py"])
    path = tmp_path / "evaluation" / "val.json"
    assert message == (
        f"evaluate.py: {path} cannot be written: No space left on device. What was "
        "there before is unchanged. Make room on the disk, then run again."
    )
    assert contents(tmp_path) == before
    assert json.loads(path.read_text())["images"] == 3
