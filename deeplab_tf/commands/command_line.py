"""The console command `deeplab-tf`.

A command's module is imported when it is called: the list of commands does not wait
for TensorFlow, and `train` may choose Keras 2 before TensorFlow is imported.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deeplab_tf import datasets
from deeplab_tf.command_names import CONSOLE
from deeplab_tf.version import __version__


class Command(NamedTuple):
    """A row of the list of commands.

    Attributes:
      summary: one sentence.
      run: reads sys.argv, whose first word is the command as it was typed.
    """

    summary: str
    run: Callable[[], None]


def _train() -> None:
    from deeplab_tf.commands import train

    train.run()


def _evaluate() -> None:
    from deeplab_tf.commands import evaluate

    evaluate.run()


def _predict() -> None:
    from deeplab_tf.commands import predict

    predict.run()


def _export() -> None:
    from deeplab_tf.commands import export

    export.run()


def _inspect() -> None:
    from deeplab_tf.datasets import inspect_records

    inspect_records.run()


def _unpack() -> None:
    from deeplab_tf.datasets import unpack

    unpack.run()


def _report() -> None:
    from deeplab_tf import report

    report.main()


def _rename() -> None:
    from deeplab_tf.commands import rename

    rename.main()


def _average() -> None:
    from deeplab_tf.commands import average

    average.main()


def _weights() -> None:
    from deeplab_tf.weights import command_line

    command_line.main()


def _build() -> None:
    call(sys.argv[0], list_builders(), sys.argv[1:])


COMMANDS = {
    "train": Command("Trains a network on records, or resumes a run.", _train),
    "evaluate": Command("Scores a run or an export, with a page to see.", _evaluate),
    "predict": Command("Segments images and videos, or serves a page.", _predict),
    "export": Command(
        "Writes a run for TF Serving, LiteRT, ONNX or OpenVINO.", _export
    ),
    "build": Command("Writes records: build folder, build voc2012, ...", _build),
    "inspect": Command("Says what records hold and what looks wrong.", _inspect),
    "unpack": Command("Writes the images and labels of records to files.", _unpack),
    "report": Command("Draws the curves of a run, finished or not.", _report),
    "rename": Command("Gives the classes of a run other names and colours.", _rename),
    "average": Command("Averages runs, and estimates BatchNorm anew.", _average),
    "weights": Command(
        "Makes a run of published weights; lists and packs them.", _weights
    ),
}


def list_builders() -> dict[str, Command]:
    """Finds the builders of data sets: every file build_NAME.py in `datasets`."""
    builders = {}
    for path in sorted(Path(datasets.__path__[0]).glob("build_*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        name = path.stem[len("build_") :]
        builders[name] = Command(
            text.partition("\n")[0], functools.partial(_run_builder, path.stem)
        )
    return builders


def _run_builder(module: str) -> None:
    importlib.import_module(f"{datasets.__name__}.{module}").run()


def describe(program: str, commands: Mapping[str, Command]) -> str:
    """Returns the list of commands, a line for each."""
    width = max(map(len, commands))
    rows = [f"  {name:{width}}  {row.summary}" for name, row in commands.items()]
    return "\n".join(
        [
            f"usage: {program} COMMAND [flags]",
            "",
            *rows,
            "",
            f"What a command takes: {program} COMMAND --help",
        ]
    )


def call(
    program: str, commands: Mapping[str, Command], arguments: Sequence[str]
) -> None:
    """Runs the command that the first argument names, with the others.

    Args:
      program: the words typed before the arguments.
      commands: name -> row.
      arguments: of the command line.

    Raises:
      SystemExit: no such command; and what the command raises.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(describe(program, commands))
        return
    name, *rest = arguments
    if name not in commands:
        nearest = difflib.get_close_matches(name, commands, cutoff=0.4) or commands
        sys.exit(
            f"{program}: Expected a command such as {', '.join(nearest)}. "
            f"Received: {name}. {program} --help lists all."
        )
    sys.argv = [f"{program} {name}", *rest]
    commands[name].run()


def main() -> None:
    """Runs `deeplab-tf`, or `python -m deeplab_tf`."""
    if sys.argv[1:] == ["--version"]:
        print(__version__)
        return
    call(CONSOLE, COMMANDS, sys.argv[1:])
