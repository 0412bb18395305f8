"""How commands are called: from a checkout, and where the package is installed.

    command             from a checkout                       installed
    train               python train.py                       deeplab-tf train
    build voc2012       python -m datasets.build_voc2012      deeplab-tf build voc2012
    weights             python -m deeplab_tf.weights          deeplab-tf weights

Errors and advice name a command as this process would be asked for it.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from absl import app, flags

CONSOLE = "deeplab-tf"

# Command -> how a checkout calls it. A builder's is made from its name.
_IN_CHECKOUT = {
    "train": "python train.py",
    "evaluate": "python evaluate.py",
    "predict": "python predict.py",
    "export": "python export.py",
    "inspect": "python -m datasets.inspect_records",
    "unpack": "python -m datasets.unpack",
    "report": "python -m deeplab_tf.report",
    "rename": "python -m deeplab_tf.rename",
    "average": "python -m deeplab_tf.average",
    "weights": "python -m deeplab_tf.weights",
}


_HAS_SCRIPTS = (Path(__file__).resolve().parents[1] / "train.py").is_file()


def is_console() -> bool:
    """Whether commands are called by `deeplab-tf`: as this one was, or none other."""
    return sys.argv[0].split(" ")[0] == CONSOLE or not _HAS_SCRIPTS


def call_of(command: str) -> str:
    """Returns the words that call a command.

    Args:
      command: as after `deeplab-tf`: "train", "build voc2012".
    """
    if is_console():
        return f"{CONSOLE} {command}"
    builder = command.partition("build ")[2]
    return f"python -m datasets.build_{builder}" if builder else _IN_CHECKOUT[command]


def name_of(command: str) -> str:
    """Returns what an error begins with: `train.py` or `deeplab-tf train`."""
    return call_of(command) if is_console() else call_of(command).split(" ")[-1]


def as_typed(text: str) -> str:
    """Returns a text with commands of a checkout as `call_of` gives them."""
    if not is_console():
        return text
    for command, call in _IN_CHECKOUT.items():
        text = re.sub(rf"{re.escape(call)}\b", f"{CONSOLE} {command}", text)
    return re.sub(r"python -m datasets\.build_(\w+)", rf"{CONSOLE} build \1", text)


def run_with_flags(
    define_flags: Callable[[], None], main: Callable[[list[str]], object]
) -> None:
    """Runs a command with absl's flags, whichever program it is part of.

    absl shows the text and the flags of the program's own file for --help, which is a
    script of a few lines, or the console command: both are given the command's.

    Args:
      define_flags: defines the command's flags; the text is that of its module.
      main: gets the command's name and the arguments that are no flags.
    """
    define_flags()
    command, program = sys.modules[define_flags.__module__], sys.modules["__main__"]
    for flag in flags.FLAGS.get_key_flags_for_module(command):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    program.__doc__ = as_typed(command.__doc__ or "")
    suggest_choices(flags.FLAGS)
    app.run(main)


def suggest_choices(values: flags.FlagValues) -> None:
    """Lets flags of a few choices say which one a mistyped value is close to."""
    for name in values:
        if isinstance(values[name], flags.EnumFlag):
            values[name].parser = _SuggestingParser(
                values[name].parser.enum_values, values[name].parser.case_sensitive
            )


class _SuggestingParser(flags.EnumParser):
    def parse(self, argument):
        try:
            return super().parse(argument)
        except ValueError as error:
            raise ValueError(
                f"{error}.{did_you_mean(argument, self.enum_values)}"
            ) from error


def did_you_mean(received: str, choices: Iterable[str]) -> str:
    """("resnet5", ["resnet50", "vgg16"]) -> " Did you mean resnet50?"; "" of none."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(received).lower(), by_lower, 1, 0.75)
    return f" Did you mean {by_lower[close[0]]}?" if close else ""


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Returns a `type` of argparse that takes choices, and says which one is meant."""

    def parse(text: str) -> str:
        if text in choices:
            return text
        raise argparse.ArgumentTypeError(
            f"expected one of {', '.join(choices)}. Received: {text}."
            f"{did_you_mean(text, choices)}"
        )

    return parse


def refuse_arguments(argv: Sequence[str]) -> None:
    """Refuses words that are no flags, where a command takes none.

    Args:
      argv: the program's name, and the arguments that are no flags.

    Raises:
      app.UsageError: there are some.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")


def list_failures(failures: Sequence[str], most: int = 10) -> str:
    """Returns sentences on lines of their own, the first of them, the rest counted."""
    more = len(failures) - most
    lines = [*failures[:most], f"... and {more} more."] if more > 0 else failures
    return "\n".join(lines)
