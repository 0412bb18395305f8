"""TensorFlow's noise at its start: dropped from our commands, and nothing else is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from deeplab_tf import quiet
from deeplab_tf.command_names import _IN_CHECKOUT
from tests.support.commands import ROOT

ABSL = "{}0000 00:00:1795745527.023731    2629 port.cc:153] words"
OLD = "2026-11-27 02:12:58.185099: {} tensorflow/core/util/port.cc:113] words"
PREAMBLE = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to "
    "STDERR"
)
HARMLESS = (
    "E0000 00:00:1795745531.824273    2629 cuda_platform.cc:52] failed call to cuInit: "
    "INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)",
    "2026-11-27 02:12:58.682185: E external/local_xla/xla/stream_executor/cuda/"
    "cuda_dnn.cc:9261] Unable to register cuDNN factory: Attempting to register "
    "factory for plugin cuDNN when one has already been registered",
    "E0000 00:00:1736000000.1    99 computation_placer.cc:177] computation placer "
    "already registered. Please check linkage and avoid linking the same target more "
    "than once.",
    "E0000 00:00:1795745711.265979    3909 util.cc:131] oneDNN supports DT_UINT8 only "
    "on platforms with AVX-512. Falling back to the default Eigen-based implementation",
)
REAL = (
    "E0000 00:00:1795745531.8    2629 cuda_platform.cc:52] failed call to cuInit: "
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: system has unsupported display driver",
    "E1127 02:12:58.682185 2629 cuda_dnn.cc:500] Could not create cuDNN handle",
    "F0000 00:00:1795745531.8    2629 cpu_feature_guard.cc:9] The TensorFlow library "
    "was compiled to use AVX instructions, but these aren't available.",
    "Traceback (most recent call last):",
    "UserWarning: I0000 is no prefix here",
    "WARNING:tensorflow:a warning of Python",
    "",
)


@pytest.mark.parametrize("form", [ABSL, OLD])
def test_lines_are_dropped_by_their_severity(form):
    dropped = [
        "".join(s for s in "IWEF" if quiet.is_noise(form.format(s).encode(), level))
        for level in range(5)
    ]
    assert dropped == ["", "I", "IW", "IWE", "IWE"]


def test_what_is_harmless_is_dropped_and_what_is_real_is_not():
    for line in HARMLESS:
        dropped = [quiet.is_noise(line.encode(), level) for level in range(4)]
        assert dropped == [False, False, True, True], line
    for line in REAL:
        assert not quiet.is_noise(line.encode(), 2), line
    assert quiet.is_noise(PREAMBLE.encode(), 1)


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_what_is_passed_on_is_whole_however_it_is_cut(size):
    lines = [PREAMBLE, *HARMLESS, *REAL, ABSL.format("I"), "no end of line: \xe9 \0"]
    text, written = "\n".join(lines).encode(), []
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    quiet.pass_on(chunks, written.append, 2)
    assert b"".join(written) == "\n".join([*REAL, lines[-1]]).encode()


@pytest.mark.parametrize(
    "given, level", [(None, 0), ("", 0), ("2", 2), ("3", 3), ("x", 0), ("-1", 0)]
)
def test_the_level_is_read_as_tensorflow_reads_it(given, level):
    assert quiet.level_of(given) == level


# --- In a process, with a package that stands in for TensorFlow ----------------------

# What the stand-in writes while it is imported, and then while it looks for devices.
_STAND_IN = f"""
import os, sys
def say(*lines):
    for line in lines:
        os.write(2, line.encode() + b"\\n")
say({PREAMBLE!r}, {ABSL.format("I")!r}, "a real line")
print("of Python", file=sys.stderr)
class config:
    def list_physical_devices():
        say(*{HARMLESS!r}, *{REAL[:1]!r})
"""


def run_with_stand_in(tmp_path, text=_STAND_IN, then="", **environment):
    package = tmp_path / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text(text, encoding="utf-8")
    program = f"import quiet; quiet.install(); import tensorflow; {then}"
    inherited = {k: v for k, v in os.environ.items() if k != quiet.LEVEL}
    folders = [str(tmp_path), str(ROOT / "deeplab_tf")]
    return subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**inherited, "PYTHONPATH": os.pathsep.join(folders), **environment},
        capture_output=True,
        text=True,
    )


SEEN = ["a real line", "of Python", REAL[0]]


@pytest.mark.parametrize(
    "level, seen",
    [
        (None, SEEN),
        ("2", SEEN),
        ("3", SEEN[:2]),
        ("1", [*SEEN[:2], *HARMLESS, REAL[0]]),
        ("0", [PREAMBLE, ABSL.format("I"), *SEEN[:2], *HARMLESS, REAL[0]]),
    ],
)
def test_an_import_is_quiet_as_the_user_has_it(tmp_path, level, seen):
    environment = {} if level is None else {quiet.LEVEL: level}
    then = f"tensorflow.say({ABSL.format('I')!r}); print(tensorflow.__spec__.loader)"
    done = run_with_stand_in(tmp_path, then=then, **environment)
    # After the import standard error is what it was.
    assert done.stderr.splitlines() == [*seen, ABSL.format("I")]
    assert "SourceFileLoader" in done.stdout and done.returncode == 0


@pytest.mark.parametrize("end", ["os.abort()", "raise ValueError('broken')"])
def test_an_import_that_ends_the_process_says_so(tmp_path, end):
    done = run_with_stand_in(tmp_path, f"{_STAND_IN}\nsay({REAL[2]!r})\n{end}")
    assert done.stderr.splitlines()[:3] == [*SEEN[:2], REAL[2]]
    if "abort" in end:
        assert abs(done.returncode) == signal.SIGABRT
    else:
        assert done.stderr.splitlines()[-1] == "ValueError: broken"


@pytest.mark.skipif(os.name == "nt", reason="POSIX closes a descriptor by 2>&-")
def test_a_process_without_standard_error_imports_all_the_same(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "class config:\n    list_physical_devices = staticmethod(lambda: 0)"
    )
    program = "import quiet; quiet.install(); import tensorflow; print('done')"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT / 'deeplab_tf'}"}
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -S -c "$1" 2>&-', sys.executable, program],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "done\n"


# --- The commands --------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_command_is_quiet_before_it_imports_tensorflow():
    scripts = [call.partition(" ")[2] for call in _IN_CHECKOUT.values()]
    commands = [*scripts, "-m deeplab_tf train"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.first_import", json.dumps(commands)],
        env={k: v for k, v in os.environ.items() if k != quiet.LEVEL},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(commands)
    assert {command for command, answer in found.items() if answer == "noisy"} == set()
    # Those that compute import it for --help already; the test sees them do so.
    computing = {"train.py", "evaluate.py", "-m deeplab_tf.weights", commands[-1]}
    assert computing <= {command for command in found if found[command] == "quiet"}
