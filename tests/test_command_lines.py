"""Every command line of README and docs is answered, and its flags exist."""

from __future__ import annotations

import re
import shlex

import pytest

from deeplab_tf.commands.command_line import COMMANDS, list_builders
from tests.support.docs_pages import PAGES
from tests.support.help_texts import help_texts

pytestmark = pytest.mark.one_lane
CALL = re.compile(
    r"(?:\bpython (-m (?:datasets|deeplab_tf|benchmarks|tests)[\w.]*)"
    r"|\bpython ([\w/]+\.py)"
    r"|(?<=`)((?:train|evaluate|predict|export)\.py)"
    r"|(?<=[ `\n])deeplab-tf ((?:build )?[a-z][a-z0-9_]*))"
    r"([^`|#\n]*)"
)
FLAG = re.compile(r"(?<![\w-])--(?:\[no\])?([A-Za-z][\w-]*)")
CONSOLE = [*COMMANDS, *(f"build {name}" for name in list_builders())]


def command_lines() -> list[tuple[str, str, tuple[str, ...]]]:
    """Finds (file, what stands after `python`, flags) of all documented command lines.

    Lines that end in a backslash go on, as does code that text wraps at a line's end.
    """
    found = set()
    for path in PAGES:
        text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
        text = re.sub(
            r"(?<!`)`[^`]{1,300}`(?!`)", lambda code: code[0].replace("\n", " "), text
        )
        for module, script, bare, console, rest in CALL.findall(text):
            call = module or script or bare or f"-m deeplab_tf {console}"
            if call.endswith("_X"):
                continue  # stands for any builder
            found.add((path.name, call.rstrip("."), tuple(FLAG.findall(rest))))
    return sorted(found)


LINES = command_lines()


@pytest.fixture(scope="module")
def answers() -> dict[str, dict]:
    return help_texts(
        [call for _, call, _ in LINES] + [f"-m deeplab_tf {name}" for name in CONSOLE]
    )


def test_the_command_lines_were_found():
    calls = {call for _, call, _ in LINES}
    assert len(LINES) > 80
    assert calls > {
        "train.py",
        "evaluate.py",
        "predict.py",
        "export.py",
        "serving/client.py",
        "-m datasets.build_folder",
        "-m datasets.inspect_records",
        "-m deeplab_tf.weights",
        "-m deeplab_tf.report",
        "-m deeplab_tf train",
        "-m benchmarks.step_time",
    }
    assert ("training.md", "-m deeplab_tf.report", ("workdir",)) in LINES  # wrapped
    export = ("workdir", "output_dir", "format")
    assert any(line[1:] == ("export.py", export) for line in LINES)


@pytest.mark.parametrize(
    "file, call, flags",
    LINES,
    ids=[shlex.join([file, *call.split(), *flags]) for file, call, flags in LINES],
)
def test_documented_command_lines(file, call, flags, answers):
    answer = answers[call]
    is_absl = "--helpfull" in answer["output"]
    assert answer["code"] == (1 if is_absl else 0), answer["errors"]
    assert "Traceback" not in answer["errors"]
    assert ("flags:" if is_absl else "usage:") in answer["output"]
    known = set(FLAG.findall(answer["output"]))
    unknown = [flag for flag in flags if not {flag, re.sub("^no", "", flag)} & known]
    assert not unknown


@pytest.mark.parametrize("name", CONSOLE)
def test_console_commands(name, answers):
    """Help has the command's own text and flags, and calls it as it was typed."""
    output = answers[f"-m deeplab_tf {name}"]["output"]
    assert f"deeplab-tf {name}" in output
    assert not re.search(r"python (train|evaluate|predict|export)\.py", output)
    if name != "build":  # absl's own --log_dir is nearly everywhere
        known = {"weights": "partial", "inspect": "sheet_images", "rename": "colors"}
        own = {known[name]} if name in known else {"output_dir", "workdir"}
        assert own & set(FLAG.findall(output))
