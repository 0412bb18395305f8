"""Scripts of the project in processes that know the tiny backbone of the tests."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(script: str, *flags: object) -> list[str]:
    """Returns the command of a process, that can be started in any folder."""
    program = f"import sys; sys.path.insert(0, {os.fspath(ROOT)!r}); "
    program += "from tests.support.run_script import main; main()"
    return [sys.executable, "-c", program, str(ROOT / script), *map(str, flags)]


def answer_of(module: str, *arguments: object, **environment: str):
    """Runs a module of tests.support in a process of its own.

    Returns:
      What its last line says in JSON.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"tests.support.{module}", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": ".", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    from deeplab_tf.networks.backbones import BACKBONES
    from tests.support.networks import TINY_BACKBONE

    BACKBONES["tiny"] = TINY_BACKBONE
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
