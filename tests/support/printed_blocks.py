"""Runs the blocks of a page as they are printed, as a user with a terminal would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.docs_pages import ROOT, Block

_SCRIPTS = ("train.py", "evaluate.py", "predict.py", "export.py", "serving")


class Terminal:
    """A folder in which `python`, `deeplab-tf` and the checkout's scripts are found.

    Args:
      folder: where blocks are run.
      environment: more variables.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] = {}):  # noqa: B006
        self.folder = folder
        programs = folder / ".bin"
        programs.mkdir(parents=True)
        for name, module in (("python", ""), ("deeplab-tf", "-m deeplab_tf")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
            program.chmod(0o755)
        for name in _SCRIPTS:
            (folder / name).symlink_to(ROOT / name)
        self._environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **environment,
        }

    def run(self, block: Block, replaced: Mapping[str, str] = {}) -> str:  # noqa: B006
        """Runs a block; returns its output.

        Args:
          block: of "bash" or "python".
          replaced: text -> what is run instead.

        Raises:
          AssertionError: it fails; with what it printed.
        """
        text = block.text
        for printed, instead in replaced.items():
            text = text.replace(printed, instead)
        command = {
            "bash": ["bash", "-euo", "pipefail", "-c", text],
            "python": [sys.executable, "-c", text],
        }[block.language]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=540,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout
