"""Whether a test can notice which Keras is installed: read from what it imports.

Lane b has the interpreter and the packages of lane a, and another Keras. A test from
which nothing leads to Keras does the same in both, and lane b leaves it out. Nothing is
listed by hand: every import is followed, those in functions too, and so is every module
and script that the text of a test names, since other processes are started by it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from tests.support.imports import ROOT, imported_names, module_name, names_in

# Without keras_cv, which the pipeline imports for one policy of several: tests of that
# policy are marked `reaches_keras`, and `keras_forbidden` finds one that is not.
_KERAS = ("keras", "keras_hub", "tf_keras")
_FOLDERS = ("benchmarks", "datasets", "deeplab_tf", "serving", "tests")
# Of these the text counts, as they start processes; others are imported.
_STARTING = ("benchmarks", "tests")
_NAMED = re.compile(rf"\b(?:{'|'.join(_FOLDERS)})(?:\.\w+)+")
_SCRIPT = re.compile(r"\b(\w+)\.py\b")
_PROGRAM = re.compile(r"-m\W+deeplab_tf\b(?!\.)|deeplab-tf")


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the checkout by its full name."""
    paths = [*ROOT.glob("*.py")]
    for folder in _FOLDERS:
        paths += ROOT.glob(f"{folder}/**/*.py")
    return {module_name(path): path for path in paths}


@functools.cache
def module_reaches_keras(path: Path) -> bool:
    """Whether something leads from a module of the checkout to Keras."""
    return reach_keras(_mentioned(path))


@functools.cache
def source_reaches_keras(source: str, path: Path) -> bool:
    """Whether something does from a function, by what it imports itself.

    Args:
      source: of the function.
      path: of the file in which it stands.
    """
    return reach_keras(names_in(ast.walk(ast.parse(textwrap.dedent(source))), path))


def reach_keras(names) -> bool:
    """Whether something leads to Keras from one of full names."""
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        if name.partition(".")[0] in _KERAS or name.startswith("tensorflow.keras"):
            return True
        if name not in seen:
            seen.add(name)
            waiting += _leads_to(name)
    return False


@functools.cache
def _leads_to(name: str) -> frozenset[str]:
    """Full names that a module, or something in it, imports."""
    if name.startswith("deeplab_tf.datasets"):  # as a wheel has it
        name = name.partition(".")[2]
    home = name
    while home and home not in modules():
        home = home.rpartition(".")[0]
    if not home:
        return frozenset()
    is_package = modules()[home].name == "__init__.py"
    if home != name and is_package and (homes := _homes(home)):
        asked = name[len(home) + 1 :].partition(".")[0]
        found = [homes[asked]] if asked in homes else homes.values()
        return frozenset(f"{home}.{module}" for module in found)
    above = home.rpartition(".")[0]
    return _mentioned(modules()[home]) | ({above} if above else set())


def _homes(package: str) -> dict[str, str]:
    """Name -> module, of a package that imports its names when they are used."""
    for node in ast.parse(modules()[package].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            return ast.literal_eval(node.value)
    return {}


@functools.cache
def _mentioned(path: Path) -> frozenset[str]:
    """What a module imports and, of a test, what its text names."""
    names, own = set(imported_names(path)), module_name(path)
    text = path.read_text(encoding="utf-8")
    if re.search(r"\btf\.keras\b", text):
        names.add("tensorflow.keras")
    if own.partition(".")[0] in _STARTING:
        names |= set(_NAMED.findall(text))
        names |= {name for name in _SCRIPT.findall(text) if name in modules()}
        if _PROGRAM.search(text):
            names.add("deeplab_tf.__main__")
        if ".ipynb" in text:  # its cells may import anything
            names.add("keras")
    return frozenset(names - {own})


@contextlib.contextmanager
def keras_forbidden() -> Iterator[None]:
    """Fails a test that makes a layer, though nothing was found to lead to Keras."""
    if "tensorflow" not in sys.modules:
        yield
        return
    from tensorflow import keras

    def refuse(self, *_, **__):
        raise AssertionError(
            f"A {type(self).__name__} was made by a test from which no import leads to "
            "Keras, so that lane b would not run it. See tests/support/reached.py."
        )

    with mock.patch.object(keras.layers.Layer, "__init__", refuse):
        yield
