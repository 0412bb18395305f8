"""Whether commands are quiet when they import TensorFlow, which none of them gets to.

    python -m tests.support.first_import '["train.py", "-m datasets.build_folder"]'

prints a JSON object: command -> "quiet" or "noisy" at the import of TensorFlow, or
"never" where --help needs none. Every command runs in a fork of its own.
"""

from __future__ import annotations

import importlib.abc
import json
import os
import runpy
import sys

# What most commands import, once for all of them.
import absl.app  # noqa: F401
import numpy  # noqa: F401
import PIL.Image  # noqa: F401

from deeplab_tf import quiet
from tests.support.commands import ROOT

_ANSWERS = {10: "quiet", 11: "noisy"}


class _Spy(importlib.abc.MetaPathFinder):
    """Ends the process when TensorFlow is asked for, whoever is asked first."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "tensorflow":
            is_quiet = os.environ.get(quiet.LEVEL) == "2" and _was_asked()
            os._exit(10 if is_quiet else 11)
        return None


def _was_asked() -> bool:
    """Whether the finder of `quiet` is among the callers."""
    frame = sys._getframe()
    while frame:
        if isinstance(frame.f_locals.get("self"), quiet._QuietImport):
            return True
        frame = frame.f_back
    return False


def _run(command: str) -> None:
    if command.startswith("-m "):
        module, *rest = command.split()[1:]
        sys.argv = [module, *rest, "--help"]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [command, "--help"]
        runpy.run_path(command, run_name="__main__")


def _answer(command: str) -> str:
    process = os.fork()
    if not process:
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        sys.meta_path.insert(0, _Spy())
        try:
            _run(command)
        except BaseException:
            os._exit(0)  # as --help ends
        os._exit(0)
    return _ANSWERS.get(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), "never")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    commands = json.loads(sys.argv[1])
    print(json.dumps({command: _answer(command) for command in commands}))
