"""Files are whole whenever they are read; a place has one writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deeplab_tf import files
from deeplab_tf.files import InUse, atomic_write, sole_writer

ROOT = Path(__file__).resolve().parent.parent


def start(code: str, *arguments) -> subprocess.Popen:
    """Runs code that prints a line when it is ready, and then waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


# --- Files ---------------------------------------------------------------------------


def test_writers_of_one_path_do_not_meet(tmp_path):
    path = tmp_path / "file"
    texts = {str(digit) * 200_000 for digit in range(4)}
    path.write_text(min(texts))
    seen = set()

    def write(text: str):
        for _ in range(25):
            with atomic_write(path) as file:
                for place in range(0, len(text), 20_000):
                    file.write(text[place : place + 20_000])
                    file.flush()

    threads = [threading.Thread(target=write, args=[text]) for text in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.add(path.read_text())
    assert seen <= texts
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path, monkeypatch):
    code = (
        "import sys, time; from deeplab_tf.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write('half'); file.flush()\n"
        "    print('ready', flush=True); time.sleep(60)\n"
    )
    process = start(code, tmp_path / "file")
    (unfinished,) = tmp_path.iterdir()
    two_seconds_ago = unfinished.stat().st_mtime - 2
    os.utime(unfinished, (two_seconds_ago, two_seconds_ago))
    monkeypatch.setattr(files, "_swept", set())
    with atomic_write(tmp_path / "other"):
        pass
    assert unfinished.exists(), "its writer is alive"
    kill(process)
    files._swept.clear()
    with atomic_write(tmp_path / "file") as file:
        file.write("whole")
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]
    assert (tmp_path / "file").read_text() == "whole"


def test_strangers_files_are_not_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_swept", set())
    stranger = tmp_path / "notes.tmp"
    stranger.touch()
    os.utime(stranger, (0, 0))
    with atomic_write(tmp_path / "file"):
        pass
    assert stranger.exists()


# --- Places --------------------------------------------------------------------------

HOLD = (
    "import sys, time; from deeplab_tf.files import sole_writer\n"
    "with sole_writer(sys.argv[1], 'runs/x'):\n"
    "    print('ready', flush=True); time.sleep(60)\n"
)


def test_the_second_writer_learns_of_the_first_until_it_dies(tmp_path):
    lock = tmp_path / "lock"
    process = start(HOLD, lock)
    expected = rf"runs/x is being written by process {process.pid} .* since 20\d\d-"
    with pytest.raises(InUse, match=expected):
        with sole_writer(lock, "runs/x"):
            pass
    kill(process)
    assert lock.exists()  # stale
    with sole_writer(lock, "runs/x"):
        with pytest.raises(InUse, match=f"process {os.getpid()} "):
            with sole_writer(lock, "runs/x"):
                pass
    assert not lock.exists()


def test_where_nothing_can_be_locked_the_named_process_counts(tmp_path, monkeypatch):
    lock = tmp_path / "lock"
    process = start(HOLD, lock)
    monkeypatch.setattr(files, "_try_lock", lambda descriptor: None)
    with pytest.raises(InUse, match=f"process {process.pid} "):
        with sole_writer(lock, "runs/x"):
            pass
    kill(process)
    with sole_writer(lock, "runs/x"):
        assert f'"process": {os.getpid()}' in lock.read_text()
