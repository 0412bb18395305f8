"""Builds that break off: nothing half-written, and the next run goes on from there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf

from datasets import build_voc2012
from deeplab_tf.data.building import output_folder, shards
from deeplab_tf.data.building.dataset import build_dataset
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.records.info import DatasetInfo, read_info
from deeplab_tf.data.records.tfrecord import shard_paths
from tests.support import slow_builder
from tests.support.pairs import files_of, make_pairs, save_image
from tests.support.slow_builder import INFO, NAMES

pytestmark = pytest.mark.one_lane
ROOT = Path(__file__).resolve().parent.parent


def build(out, samples, read_sample=build_voc2012.read_sample, **options):
    options = {"num_processes": 1, **options}
    splits = {"train": samples}
    return build_dataset(out, INFO, splits, read_sample, **options)


class CountingReader:
    """Reads pairs and remembers which. All readers pickle alike: as one builder's."""

    def __init__(self):
        self.names = []

    def __call__(self, sample):
        self.names.append(sample.name)
        return build_voc2012.read_sample(sample)

    def __reduce__(self):
        return CountingReader, ()


class FailingReader(CountingReader):
    """Fails at one name, as a bug or a signal would."""

    def __init__(self, name, error):
        super().__init__()
        self.failure = name, error

    def __call__(self, sample):
        if sample.name == self.failure[0]:
            raise self.failure[1]
        return super().__call__(sample)


def read_with_bug(sample):
    if sample.name == "f":
        raise TypeError("a bug")
    return build_voc2012.read_sample(sample)


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    return make_pairs(tmp_path, NAMES)


@pytest.fixture
def uninterrupted(samples, tmp_path) -> dict[str, bytes]:
    """The files of a build without a break."""
    build(tmp_path / "whole", samples)
    return files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    "error", [TypeError("a bug"), KeyboardInterrupt(), SystemExit()]
)
def test_what_is_finished_is_kept_and_used(
    samples, uninterrupted, tmp_path, capsys, error
):
    out = tmp_path / "out"
    with pytest.raises(type(error)):
        build(out, samples, FailingReader("f", error))
    assert not out.exists()
    left = {path.name for path in (tmp_path / "out.incomplete").iterdir()}
    assert {name.split(".")[0] for name in left} == {
        "train-00000-of-00004",
        "train-00001-of-00004",
    }
    assert not [name for name in left if name.endswith(shards.PART_SUFFIX)]
    assert "keeps 2 of 4 shards" in capsys.readouterr().err
    reader = CountingReader()
    build(out, samples, reader)
    assert "".join(reader.names) == "efgh"
    assert files_of(out) == uninterrupted
    assert not list(tmp_path.glob("out.*"))


def test_nothing_is_left_where_no_shard_was_finished(samples, tmp_path):
    with pytest.raises(TypeError, match="a bug"):
        build(tmp_path / "out", samples, FailingReader("a", TypeError("a bug")))
    assert not list(tmp_path.glob("out*"))


def test_changed_files_are_read_again(samples, tmp_path):
    reader = FailingReader("h", TypeError("a bug"))
    with pytest.raises(TypeError, match="a bug"):
        build(tmp_path / "out", samples, reader)
    save_image(Path(samples[3].image), (6, 4), compress_level=0)
    os.utime(samples[4].label, ns=(1, 1))
    reader = CountingReader()
    build(tmp_path / "out", samples, reader)
    assert "".join(reader.names) == "cdefgh"
    build(tmp_path / "again", samples)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "again")


def test_other_samples_or_classes_start_anew(samples, tmp_path):
    def broken_off(**options):
        reader = FailingReader("h", TypeError("a bug"))
        with pytest.raises(TypeError, match="a bug"):
            build(tmp_path / "out", samples, reader, **options)

    broken_off()
    reader = CountingReader()
    build(tmp_path / "out", samples[1:], reader)
    assert "".join(reader.names) == "bgh"  # two shards hold what they held
    other = DatasetInfo("two", ("a", "c"))
    broken_off(overwrite=True)
    reader = CountingReader()
    options = dict(num_processes=1, overwrite=True)
    build_dataset(tmp_path / "out", other, {"train": samples}, reader, **options)
    assert "".join(reader.names) == NAMES


PRINT_FINGERPRINT = """
from deeplab_tf.data.building import pairs, shards
from deeplab_tf.data.records.info import DatasetInfo
samples = {"train": [pairs.Sample("a", "", "")]}
shard, = shards.plan_shards(samples, 1, len, DatasetInfo("two", ("a", "b")))
print(shard.fingerprint)
"""


@pytest.mark.parametrize("builders", ["datasets", "deeplab_tf/datasets"])
def test_mended_code_makes_shards_anew(tmp_path, builders):
    """In a checkout and in a wheel. A shard is kept where its fingerprint fits."""

    def fingerprint():
        command = [sys.executable, "-c", PRINT_FINGERPRINT]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "deeplab_tf", tmp_path / "deeplab_tf", ignore=ignored)
    shutil.copytree(ROOT / "datasets", tmp_path / builders, ignore=ignored)
    before = fingerprint()
    for module, counts in (
        ("deeplab_tf/data/folders/class_map.py", True),
        (f"{builders}/sources/matlab.py", True),
        ("deeplab_tf/networks/heads.py", False),
    ):
        path = tmp_path / module
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        assert (fingerprint() != before) == counts, module
        path.write_bytes(content)
    assert fingerprint() == before


def test_a_mended_pair_costs_its_shard_alone(samples, uninterrupted, tmp_path):
    bad = Path(samples[5].label)
    content = bad.read_bytes()
    bad.unlink()
    with pytest.raises(DatasetError, match="1 of 8 pairs cannot be used"):
        build(tmp_path / "out", samples, CountingReader())
    bad.write_bytes(content)
    reader = CountingReader()
    build(tmp_path / "out", samples, reader)
    assert "".join(reader.names) == "ef"
    assert files_of(tmp_path / "out") == uninterrupted


def test_skip_bad_after_a_failure_reads_nothing_again(samples, tmp_path, capsys):
    Path(samples[5].label).unlink()
    with pytest.raises(DatasetError, match="train/f: there is no file"):
        build(tmp_path / "out", samples, CountingReader())
    reader = CountingReader()
    info = build(tmp_path / "out", samples, reader, skip_bad=True)
    assert not reader.names
    assert info.splits == {"train": 7}
    assert "Skipped 1 of 8 pairs" in capsys.readouterr().err


def test_a_full_disk_is_named_and_costs_no_finished_shard(
    samples, uninterrupted, tmp_path, monkeypatch
):
    written = []

    class FullDisk(tf.io.TFRecordWriter):
        def write(self, record):
            super().write(record)
            written.append(record)
            if len(written) == 5:
                raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tf.io, "TFRecordWriter", FullDisk)
        with pytest.raises(DatasetError, match="No space left on the disk of .*out"):
            build(tmp_path / "out", samples, CountingReader())
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("out.incomplete/*.part"))
    reader = CountingReader()
    build(tmp_path / "out", samples, reader)
    assert "".join(reader.names) == "efgh"
    assert files_of(tmp_path / "out") == uninterrupted


def test_shards_are_at_most_a_thousand_pairs_unless_asked_otherwise():
    def count(num_samples, num_shards=None):
        samples = [Sample(str(index), "", "") for index in range(num_samples)]
        plan = shards.plan_shards({"train": samples}, num_shards, len, INFO)
        assert [s for shard in plan for s in shard.samples] == samples
        return len(plan)

    assert [count(n) for n in (3, 4, 4000, 4001, 10582)] == [3, 4, 4, 5, 11]
    assert count(4001, num_shards=2) == 2


# --- Two runs, killed runs -----------------------------------------------------------


def test_two_runs_do_not_write_the_same_folder(samples, tmp_path):
    running = tmp_path / "out.incomplete"
    running.mkdir()
    (running / "half").touch()
    with output_folder.locked(str(running)):
        sentence = rf"writing here: .*by process {os.getpid()} .* since 20\d\d-"
        with pytest.raises(DatasetError, match=sentence):
            build(tmp_path / "out", samples)
        assert (running / "half").exists()


def test_a_run_that_waited_for_another_to_end_replaces_nothing(
    samples, tmp_path, monkeypatch
):
    """The other writes the whole data set between a look at it and the lock."""
    build(tmp_path / "other", samples)
    whole = files_of(tmp_path / "other")

    @contextlib.contextmanager
    def taken_after_the_other(*arguments):
        (tmp_path / "other").rename(tmp_path / "out")
        yield

    monkeypatch.setattr(output_folder, "sole_writer", taken_after_the_other)
    with pytest.raises(DatasetError, match="out exists already"):
        build(tmp_path / "out", samples)
    assert files_of(tmp_path / "out") == whole
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]


def wait_until(condition, process=None, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_running(process_id: int) -> bool:
    stat = Path(f"/proc/{process_id}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def workers(folder: Path) -> list[int]:
    return [int(path.name.split("-")[1]) for path in folder.glob("worker-*")]


def start(folder: Path, runner: str = "local") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", slow_builder.PROGRAM],
        cwd=ROOT,
        env={**os.environ, "FOLDER": str(folder), "RUNNER": runner},
        stderr=subprocess.PIPE,
        text=True,
    )


def go_on(folder: Path, samples: list[Sample]) -> None:
    """Runs the builder of `start` to its end, in this process."""
    (folder / "go").touch()
    build(folder / "out", samples, slow_builder.read_sample)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="needs Linux' /proc"
)


@needs_proc
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_build_goes_on_to_the_same_bytes(
    samples, uninterrupted, tmp_path, kill
):
    unfinished = tmp_path / "out.incomplete"
    report = unfinished / f"train-00001-of-00004.tfrecord{shards.REPORT_SUFFIX}"
    process = start(tmp_path)
    wait_until(lambda: report.exists() and (tmp_path / "waiting").exists(), process)
    process.send_signal(kill)
    if kill == signal.SIGTERM:  # its workers wait on
        for worker in workers(tmp_path):
            os.kill(worker, signal.SIGKILL)
    process.communicate(timeout=300)
    wait_until(lambda: not any(map(is_running, workers(tmp_path))))
    assert not (tmp_path / "out").exists()
    first = unfinished / "train-00000-of-00004.tfrecord"
    state = first.stat().st_mtime_ns, first.stat().st_ino
    (unfinished / "train-00000-of-00009.tfrecord").touch()
    go_on(tmp_path, samples)
    assert files_of(tmp_path / "out") == uninterrupted
    first = tmp_path / "out" / "train-00000-of-00004.tfrecord"
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == state
    assert not list(tmp_path.glob("out.*"))


@needs_proc
def test_a_killed_worker_ends_the_build_with_a_sentence(
    samples, uninterrupted, tmp_path
):
    process = start(tmp_path)
    wait_until(
        lambda: (tmp_path / "waiting").exists() and len(workers(tmp_path)) == 2, process
    )
    os.kill(workers(tmp_path)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Error: One of 2 worker processes was killed" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


# --- Other file systems, and Beam ----------------------------------------------------


def remote_files(folder: str) -> dict[str, bytes]:
    names = tf.io.gfile.listdir(folder)
    return {name: tf.io.gfile.GFile(f"{folder}/{name}", "rb").read() for name in names}


def test_records_go_to_any_file_system_of_tensorflow(samples, uninterrupted):
    out = "ram://bucket/folder/out"
    with pytest.raises(TypeError, match="a bug"):
        build(out, samples, FailingReader("f", TypeError("a bug")))
    assert not tf.io.gfile.exists(out + "/info.json")
    reader = CountingReader()
    build(out + "/", samples, reader)
    assert "".join(reader.names) == "efgh"
    assert remote_files(out) == uninterrupted
    assert len(shard_paths(out, "train")) == 4
    with pytest.raises(DatasetError, match="exists already"):
        build(out, samples)
    build(out, samples[:2], overwrite=True)
    assert len(remote_files(out)) == 3
    assert read_info(out).splits == {"train": 2}


def test_beam_writes_the_same_bytes(samples, uninterrupted, tmp_path):
    pytest.importorskip("apache_beam")
    build(tmp_path / "out", samples, runner="DirectRunner")
    assert files_of(tmp_path / "out") == uninterrupted


def test_beam_goes_on_where_the_local_build_broke_off(samples, uninterrupted, tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(TypeError, match="a bug"):
        build(tmp_path / "out", samples, FailingReader("f", TypeError("a bug")))
    first = tmp_path / "out.incomplete" / "train-00000-of-00004.tfrecord"
    changed = first.stat().st_mtime_ns
    build(tmp_path / "out", samples, CountingReader(), runner="DirectRunner")
    assert files_of(tmp_path / "out") == uninterrupted
    first = tmp_path / "out" / "train-00000-of-00004.tfrecord"
    assert first.stat().st_mtime_ns == changed


def test_beam_names_bad_pairs_as_the_local_build_does(samples, tmp_path):
    pytest.importorskip("apache_beam")
    Path(samples[5].label).unlink()
    messages = []
    for runner in ("local", "DirectRunner"):
        with pytest.raises(DatasetError) as error:
            build(tmp_path / runner, samples, runner=runner)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "train/f: there is no file" in messages[0]


def test_a_failed_pipeline_is_a_sentence_and_keeps_what_is_finished(samples, tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(DatasetError, match="DirectRunner failed: .*a bug"):
        build(tmp_path / "out", samples, read_with_bug, runner="DirectRunner")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("out.incomplete/*.part"))


def test_beam_that_is_not_installed(samples, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(DatasetError, match="Run: pip install apache-beam"):
        build(tmp_path / "out", samples, runner="DirectRunner")


@needs_proc
def test_a_killed_beam_worker_ends_the_build_and_the_next_goes_on(
    samples, uninterrupted, tmp_path
):
    pytest.importorskip("apache_beam")
    # Ctrl-C is ignored, as in jobs that a shell runs in the background.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(tmp_path, "DirectRunner")
    finally:
        signal.signal(signal.SIGINT, handler)
    wait_until(
        lambda: (tmp_path / "waiting").exists() and len(workers(tmp_path)) == 2, process
    )
    os.kill(workers(tmp_path)[0], signal.SIGKILL)
    time.sleep(1)
    (tmp_path / "go").touch()  # The other worker ends what it does.
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "A worker process was killed" in errors
    assert "a worker process was killed" in errors.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    go_on(tmp_path, samples)
    assert files_of(tmp_path / "out") == uninterrupted
