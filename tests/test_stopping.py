"""What must not cost a run its work: signals, closed terminals, a second start."""

import dataclasses
import io
import json
import os
import signal
import sys

import pytest

from deeplab_tf.commands import train
from deeplab_tf.commands.steady_output import steady_output
from deeplab_tf.config import TrainConfig, read_config
from deeplab_tf.files import InUse
from deeplab_tf.training import resuming
from deeplab_tf.workdir import LAST_WEIGHTS, LOG_FILE

CONFIG = TrainConfig(num_classes=2, learning_rate=0.002)


# --- Printing ------------------------------------------------------------------------


def print_to_closed_pipe(monkeypatch):
    """Makes sys.stdout a pipe that nobody reads any more, as after `| head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = open(writing, "w", encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_a_print_that_nobody_reads_ends_nothing(monkeypatch):
    closed_pipe = print_to_closed_pipe(monkeypatch)
    with steady_output():
        for _ in range(3):
            print("x" * 100_000)
            print("flushed", flush=True)
    assert sys.stdout is closed_pipe
    closed_pipe.close()  # as Python does at its end: what is left in it goes nowhere


def test_without_it_the_print_raises(monkeypatch):
    print_to_closed_pipe(monkeypatch)
    with pytest.raises(BrokenPipeError):
        print("x" * 100_000, flush=True)
    with steady_output():
        sys.stdout.flush()


def test_a_stream_that_was_closed_ends_nothing(monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with steady_output():
        print("lost", file=sys.stderr, flush=True)


def test_letters_that_a_terminal_cannot_show_are_written_plainly(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with steady_output():
        print("Straße and after")
    assert stream.buffer.getvalue() == b"Stra\\xdfe and after\n"


# --- Signals -------------------------------------------------------------------------


class Run:
    def __init__(self):
        self.reasons = []

    def request_stop(self, reason):
        self.reasons.append(reason)


@pytest.fixture
def clock(monkeypatch):
    """A list whose last entry is the time."""
    times = [100.0]
    monkeypatch.setattr(resuming.time, "monotonic", lambda: times[-1])
    return times


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_stops_a_run_and_a_later_one_ends_it(name, clock):
    if not hasattr(signal, name):
        pytest.skip(f"this system has no {name}")
    number, killed, run = getattr(signal, name), [], Run()
    outside = signal.signal(number, lambda *_: killed.append(name))
    try:
        with resuming.stop_on_signals(run):
            signal.raise_signal(number)
            clock.append(100.9)
            signal.raise_signal(number)  # schedulers send two at once
            assert run.reasons == [name] and not killed
            clock.append(101.1)
            signal.raise_signal(number)
            assert run.reasons == [name] and killed == [name]
        signal.raise_signal(number)
        assert killed == [name] * 2
    finally:
        signal.signal(number, outside)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_what_nohup_ignores_stays_ignored():
    run, outside = Run(), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with resuming.stop_on_signals(run):
            signal.raise_signal(signal.SIGHUP)
        assert run.reasons == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, outside)


def test_a_signal_amid_a_print_stops_the_run(clock, monkeypatch):
    """Python's buffer refuses a second write inside the first."""

    class Interrupted(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            signal.raise_signal(signal.SIGTERM)
            return len(data)

    run = Run()
    stream = io.TextIOWrapper(io.BufferedWriter(Interrupted()), write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    with resuming.stop_on_signals(run):
        print("x" * 100_000, flush=True)
    assert run.reasons == ["SIGTERM"]


# --- Two runs in one workdir ---------------------------------------------------------


def test_a_second_training_is_told_who_holds_the_workdir(tmp_path):
    workdir = tmp_path / "run"
    with train.sole_trainer(str(workdir), is_chief=True):
        (workdir / "kept").touch()
        with pytest.raises(InUse) as told:
            with train.sole_trainer(str(workdir), is_chief=True):
                raise AssertionError("both hold it")
        with train.sole_trainer(str(workdir), is_chief=False):
            pass  # another worker of the same run
    assert str(told.value).startswith(
        f"{workdir} is being written by process {os.getpid()} ("
    )
    assert os.listdir(workdir) == ["kept"]
    with train.sole_trainer(str(workdir), is_chief=True):
        pass


def test_the_lock_of_a_dead_process_holds_nothing(tmp_path):
    dead = {
        "process": 2**22 + 1,
        "machine": "here",
        "since": "x",
        "command": "train.py",
    }
    (tmp_path / ".train.lock").write_text(json.dumps(dead))
    with train.sole_trainer(str(tmp_path), is_chief=True):
        holder = json.loads((tmp_path / ".train.lock").read_text())
        assert holder["process"] == os.getpid()


# --- A run that never began ----------------------------------------------------------


def test_a_run_that_left_nothing_has_no_claim(tmp_path):
    resuming.claim_workdir(CONFIG, str(tmp_path))
    other = dataclasses.replace(CONFIG, learning_rate=0.5)
    resuming.claim_workdir(other, str(tmp_path))
    assert read_config(tmp_path) == other


@pytest.mark.parametrize("name", ["checkpoints/000000-step-2", LAST_WEIGHTS, LOG_FILE])
def test_a_run_that_left_something_keeps_its_workdir(tmp_path, name):
    resuming.claim_workdir(CONFIG, str(tmp_path))
    if name.startswith("checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    else:
        (tmp_path / name).touch()
    other = dataclasses.replace(CONFIG, learning_rate=0.5)
    with pytest.raises(ValueError, match="0.002 -> 0.5\nGive another --workdir"):
        resuming.claim_workdir(other, str(tmp_path))
    assert read_config(tmp_path) == CONFIG


def test_a_worker_writes_no_configuration(tmp_path):
    resuming.claim_workdir(CONFIG, str(tmp_path))
    other = dataclasses.replace(CONFIG, learning_rate=0.5)
    with pytest.raises(ValueError, match="learning_rate"):
        resuming.claim_workdir(other, str(tmp_path), is_chief=False)
