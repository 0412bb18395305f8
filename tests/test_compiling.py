"""What is asked of a configuration before a run begins."""

import importlib.util
import os

import pytest
import tensorflow as tf

from deeplab_tf.commands import train
from deeplab_tf.config import TrainConfig
from deeplab_tf.training.compiling import check_packages, is_jit_compiled

ADDONS_LANE = tf.__version__.startswith("2.15")


def test_a_run_that_lacks_nothing_passes():
    check_packages(TrainConfig(optimizer="adam"))


@pytest.fixture
def no_tensorboard(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tensorboard" else find(name, *rest),
    )


def test_tensorboard_is_asked_for_at_the_start(no_tensorboard):
    with pytest.raises(ImportError, match="not installed. Run: pip install tensorboar"):
        check_packages(TrainConfig())


def test_a_run_that_lacks_a_package_writes_nothing(
    no_tensorboard, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportError, match="tensorboard is not installed"):
        train.run_workers("demo", {}, "runs/demo", tf.distribute.get_strategy())
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(ADDONS_LANE, reason="tensorflow-addons is installed")
def test_tensorflow_addons_is_asked_for_at_the_start():
    with pytest.raises(ImportError, match="'swa' is in .*Run: pip install -r"):
        check_packages(TrainConfig(optimizer="swa"))


@pytest.mark.parametrize("field", ["optimizer", "loss"])
def test_names_that_do_not_exist_are_errors_at_the_start(field):
    with pytest.raises(ValueError, match=f"^{field} must be one of .*'sdg'"):
        check_packages(TrainConfig(**{field: "sdg"}))


@pytest.mark.parametrize(
    "changes, compiled",
    [
        ({}, True),
        ({"resize": "half_pixel"}, True),
        ({"deterministic": True}, False),
        ({"jit_compile": False}, False),
        ({"jit_compile": True, "deterministic": True}, True),
    ],
)
def test_xla_compiles_by_itself_on_a_gpu(changes, compiled, monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert is_jit_compiled(TrainConfig(**changes)) == compiled


def test_xla_does_not_compile_by_itself_on_a_cpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    assert not is_jit_compiled(TrainConfig())
    assert is_jit_compiled(TrainConfig(jit_compile=True))


@pytest.mark.parametrize("changes", [{"resize": "half_pixel"}, {"model": "deeplab_v2"}])
def test_xla_that_would_resize_wrongly_is_refused(changes, monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    with pytest.raises(ValueError, match="wrongly.*Leave jit_compile at auto or false"):
        is_jit_compiled(TrainConfig(jit_compile=True, **changes))


def test_xla_on_several_replicas_is_refused(monkeypatch):
    class Two:
        num_replicas_in_sync = 2

    monkeypatch.setattr(tf.distribute, "get_strategy", Two)
    assert not is_jit_compiled(TrainConfig())
    with pytest.raises(ValueError, match="one device alone.*true on 2 replicas"):
        is_jit_compiled(TrainConfig(jit_compile=True))
