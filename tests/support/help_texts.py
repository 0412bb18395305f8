"""What many commands answer to --help, from one process that imports TensorFlow once.

    python tests/support/help_texts.py '["train.py", "-m datasets.build_folder"]'

prints a JSON object: command -> {"code", "output", "errors"}, where `output` also has
all flags of a command of absl's. Every command runs in a fork of its own.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def help_texts(commands: Sequence[str]) -> dict[str, dict]:
    """Asks all commands, in a process of their own.

    Args:
      commands: what stands after `python`, without flags: "train.py", "-m MODULE".
    """
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(sorted(set(commands)))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _run(command: str, flag: str) -> None:
    """Becomes `python COMMAND FLAG`."""
    if command.startswith("-m "):
        module, *rest = command.split()[1:]
        sys.argv = [module, *rest, flag]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [command, flag]
        sys.path.insert(0, str(ROOT / Path(command).parent))
        runpy.run_path(command, run_name="__main__")


def _answer(command: str, flag: str) -> dict:
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = os.fork()
        if not process:
            os.dup2(output.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            code = 0
            try:
                _run(command, flag)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else bool(stop.code)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                code = 3
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        status = os.waitpid(process, 0)[1]
        output.seek(0)
        errors.seek(0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "output": output.read(),
            "errors": errors.read(),
        }


def main(commands: Sequence[str]) -> None:
    sys.path[0] = str(ROOT)
    from tensorflow import keras

    keras.backend.clear_session()  # Keras is loaded at its first use, here for all
    answers = {}
    for command in commands:
        answers[command] = answer = _answer(command, "--help")
        if "--helpfull" in answer["output"]:
            answer["output"] += _answer(command, "--helpfull")["output"]
    print(json.dumps(answers))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
