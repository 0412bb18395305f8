"""TensorFlow's words at its start, which tell a user nothing: not in our commands.

TensorFlow writes its first lines before it looks at TF_CPP_MIN_LOG_LEVEL, and one that
no driver of a GPU is there as an error. A command that imports TensorFlow calls
`install` before. Then, while TensorFlow is imported and looks for devices, standard
error goes through a process of its own, which drops what is in this table and passes
on all else; a process, since a TensorFlow that ends Python takes threads and buffers
along. A variable that the user has set stays: 0 shows everything.

    lines                                            are dropped at the levels
    those of information, and how they are written   1, 2, 3
    warnings, and errors of `_HARMLESS`              2, 3
    all other errors                                 3
    what ends the process, and what is no log line   none
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_DEFAULT = "2"  # errors; the warnings are of TensorFlow's own affairs
_SECONDS = 5.0  # for the last lines, which take milliseconds

# absl's lines, as since TensorFlow 2.17, and TensorFlow's own before.
_LOG_LINE = re.compile(
    rb"(?:([IWEF])\d{4} [\d:.]+ +\d+ \S+:\d+\] "
    rb"|\d{4}-\d\d-\d\d [\d:.]+: ([IWEF]) \S+:\d+\] )"
)
_PREAMBLE = b"WARNING: All log messages before absl::InitializeLog() is called"
# Written at every start of a TensorFlow that is well. Where a card is there and its
# driver is not, `devices.unseen` says so, and what to do.
_HARMLESS = re.compile(
    rb"failed call to cuInit: .*(UNKNOWN ERROR \(303\)|CUDA_ERROR_NO_DEVICE)"
    rb"|Unable to register cu\w+ factory: Attempting to register factory for plugin"
    rb"|computation placer already registered"
    rb"|oneDNN supports \w+ only on platforms with"
)


def install() -> None:
    """Keeps TensorFlow quiet in this process, if it is not imported yet."""
    os.environ.setdefault(LEVEL, _DEFAULT)
    if "tensorflow" in sys.modules:
        return
    if not any(isinstance(finder, _QuietImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _QuietImport())


class _QuietImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands before the finder and the loader of TensorFlow, once."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader
        with without_noise():
            self._loader.exec_module(module)
            module.config.list_physical_devices()  # it is silent about them later


def hear_onednn() -> None:
    """Lets TensorFlow say here what it says once, of whole numbers that are transposed.

    Augmentation does so, and the line, of an error that is none, would stand amid a
    training. It touches the CPU: call it when the devices are set up.
    """
    import tensorflow as tf

    with without_noise(), tf.device("CPU:0"):
        tf.transpose(tf.zeros([2, 2], tf.uint8))


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Sends standard error through `pass_on` for the time of the block.

    Where that cannot be had, as there is no standard error or no room for a process,
    everything is shown.
    """
    with contextlib.ExitStack() as stack:
        level = level_of(os.environ.get(LEVEL))
        if level:
            with contextlib.suppress(OSError, ValueError):
                stack.enter_context(_through_process(level))
        yield


def level_of(text: str | None) -> int:
    """Reads TF_CPP_MIN_LOG_LEVEL as TensorFlow does: what is no number is 0."""
    return int(text) if text and text.strip().isdecimal() else 0


@contextlib.contextmanager
def _through_process(level: int) -> Iterator[None]:
    import subprocess

    before = os.dup(2)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(level)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        try:
            os.dup2(process.stdin.fileno(), 2)
            yield
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
            os.dup2(before, 2)
            process.stdin.close()
            # Something that was started meanwhile may hold the pipe for long.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS)
    finally:
        os.close(before)


def is_noise(line: bytes, level: int) -> bool:
    """Whether a line of standard error is dropped at a level of the log, 0 to 3."""
    if level >= 1 and line.startswith(_PREAMBLE):
        return True
    match = _LOG_LINE.match(line)
    if not match:
        return False
    severity = "IWEF".index((match[1] or match[2]).decode())
    return severity < min(level, 3) or (level >= 2 and bool(_HARMLESS.search(line)))


def pass_on(chunks: Iterable[bytes], write, level: int) -> None:
    """Writes what comes, line by line, without the noise.

    Args:
      chunks: bytes, cut anywhere.
      write: is called with bytes.
      level: of `level_of`.
    """
    waiting = b""
    for chunk in chunks:
        *lines, waiting = (waiting + chunk).split(b"\n")
        kept = [line + b"\n" for line in lines if not is_noise(line, level)]
        if kept:
            write(b"".join(kept))
    if waiting and not is_noise(waiting, level):
        write(waiting)


def _filter_standard_input(level: int) -> None:
    """Ends with its input alone: signals to the group are for the command."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with open(2, "wb", buffering=0, closefd=False) as stream:

        def write(data: bytes) -> None:
            while data:
                data = data[stream.write(data) :]

        with contextlib.suppress(OSError):  # nobody reads it any more
            pass_on(iter(lambda: os.read(0, 1 << 16), b""), write, level)


if __name__ == "__main__":
    _filter_standard_input(int(sys.argv[1]))
