"""Which tests lane b leaves out: those from which nothing leads to Keras."""

from __future__ import annotations

import pytest
from tensorflow import keras

from tests.support import reached
from tests.support.imports import ROOT, module_name

TESTS = sorted(ROOT.glob("tests/test_*.py"))


def forget():
    for function in vars(reached).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@pytest.fixture
def module(monkeypatch, tmp_path):
    """module(name, text) adds a module to the checkout; returns its path."""
    forget()
    known, names = dict(reached.modules()), {}

    def add(name, text):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        known[name], names[path] = path, name
        forget()  # conftest.py asks, before the test, what its module leads to
        return path

    def name_of(path):
        return names.get(path) or module_name(path)

    with monkeypatch.context() as patch:
        patch.setattr(reached, "modules", lambda: known)
        patch.setattr(reached, "module_name", name_of)
        yield add
    forget()


@pytest.mark.parametrize(
    "text",
    [
        "from tensorflow import keras",
        "import tensorflow as tf\ntf.keras.Input([3])",
        "def test():\n    from deeplab_tf.networks import models",
        "from deeplab_tf import MeanIoU",
        "from deeplab_tf import from_pretrained",
        "from tests import test_between",
        "COMMAND = ['-m', 'deeplab_tf', 'train']",
        "COMMAND = 'train.py --recipe=demo'",
        "run('tests.support.run_replicas')",
        "PROGRAM = 'import deeplab_tf.training.losses'",
        "PATH = 'examples/first_hour.ipynb'",
    ],
)
def test_whatever_leads_to_keras_is_followed(module, text):
    module("tests.test_between", "import benchmarks.far")
    module("benchmarks.far", "def f():\n    import tf_keras")
    assert reached.module_reaches_keras(module("tests.test_new", text))


@pytest.mark.parametrize(
    "text",
    [
        "import tensorflow as tf",
        "from datasets import build_voc2012",
        "from deeplab_tf.datasets import build_voc2012",
        "from deeplab_tf import __version__",
        "RUN = ['-m', 'datasets.build_folder']",
        "import numpy\nfrom deeplab_tf.data.annotations import tools",
    ],
)
def test_what_leads_elsewhere_is_not(module, text):
    assert not reached.module_reaches_keras(module("tests.test_new", text))


def test_many_are_left_out_and_those_of_networks_are_not():
    left_out = {p.stem for p in TESTS if not reached.module_reaches_keras(p)}
    assert left_out > {"test_build_coco", "test_torch_files", "test_annotation_tools"}
    others = {"test_family", "test_training", "test_client", "test_command_lines"}
    assert not left_out & others
    assert 20 < len(left_out) < len(TESTS) / 2


def test_fixtures_count_by_what_they_import():
    conftest = ROOT / "tests/conftest.py"
    for body, reaches in (
        ("from deeplab_tf.commands import export", True),
        ("from PIL import Image", False),
    ):
        source = f"    def fixture():\n        {body}\n"
        assert reached.source_reaches_keras(source, conftest) == reaches


def test_a_layer_made_where_none_was_expected_fails():
    with reached.keras_forbidden():
        with pytest.raises(AssertionError, match="A Dense was made by a test from wh"):
            keras.layers.Dense(2)
    assert keras.layers.Dense(2).units == 2
