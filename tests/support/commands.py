"""Commands of the checkout, run as a user runs them."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags

ROOT = Path(__file__).resolve().parents[2]


def command(module: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs `python -m datasets.MODULE ...` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", f"datasets.{module}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def call(module, *arguments: str) -> subprocess.CompletedProcess:
    """Runs a command's `run()` in this process, which TensorFlow need not enter again.

    Args:
      module: with `run()`, such as `datasets.build_voc2012`.
      *arguments: of the command line.

    Returns:
      What `command` returns: status, and what was written to stdout and stderr.
    """
    written, errors, status = io.StringIO(), io.StringIO(), 0
    with _process_unchanged():
        sys.argv = [module.__name__, *map(str, arguments)]
        with contextlib.redirect_stdout(written), contextlib.redirect_stderr(errors):
            try:
                module.run()
            except SystemExit as end:
                status = end.code or 0
    if isinstance(status, str):  # Python writes it to stderr, and ends with 1.
        errors.write(status)
        status = 1
    return subprocess.CompletedProcess(
        sys.argv, status, written.getvalue(), errors.getvalue()
    )


@contextlib.contextmanager
def _process_unchanged() -> Iterator[None]:
    """Takes back what a command does to its process: flags, signals, logging."""
    program, arguments = sys.modules["__main__"], sys.argv
    text, handlers = program.__doc__, logging.root.handlers[:]
    terminate = signal.getsignal(signal.SIGTERM)
    app.define_help_flags()  # Once a process: they stay.
    before = set(flags.FLAGS)
    try:
        yield
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        signal.signal(signal.SIGTERM, terminate)
        sys.argv, program.__doc__, logging.root.handlers = arguments, text, handlers
