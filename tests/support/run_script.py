"""Scripts of the project in processes that know the tiny backbone of the tests."""

import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(script: str, *flags: object) -> list[str]:
    """Returns the command of a process, that can be started in any folder."""
    program = f"import sys; sys.path.insert(0, {os.fspath(ROOT)!r}); "
    program += "from tests.support.run_script import main; main()"
    return [sys.executable, "-c", program, str(ROOT / script), *map(str, flags)]


def main() -> None:
    from deeplab_tf.networks.backbones import BACKBONES
    from tests.support.networks import TINY_BACKBONE

    BACKBONES["tiny"] = TINY_BACKBONE
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
