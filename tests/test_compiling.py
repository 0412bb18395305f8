"""What is asked of a configuration before a run begins."""

import importlib.util
import os

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.commands import train
from deeplab_tf.config import TrainConfig, parse_changes, write_config
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.weight_files import (
    WeightReport,
    named_weights,
    save_weights,
)
from deeplab_tf.training import compiling
from deeplab_tf.training.compiling import check_packages, is_jit_compiled
from deeplab_tf.training.gradient_steps import variable_name
from tests.support.networks import randomize, small_config

pytestmark = pytest.mark.both_keras

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


@pytest.mark.parametrize("field", ["optimizer", "schedule", "loss"])
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


@pytest.mark.parametrize(
    "changes",
    [
        {"resize": "half_pixel"},
        {"model": "deeplab_v2", "scale_resize": "half_pixel"},
    ],
)
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


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("head_layers", ["classifier", "head"])
def test_each_part_of_a_network_takes_steps_of_its_rate(head_layers, optimizer):
    """One step from zero by gradients of one: what moves a weight is its rate."""
    config = small_config(
        "deeplab_v3plus",
        optimizer=optimizer,
        learning_rate=0.01,
        steps=10,
        momentum=0.0,
        head_layers=head_layers,
        head_multiplier=10.0,
        head_bias_multiplier=20.0,
        backbone_multiplier=0.5,
    )
    model = build_model(config)
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(tf.zeros(variable.shape))
    compiling.make_optimizer(config).apply_gradients(
        [(tf.ones(variable.shape), variable) for variable in variables]
    )
    factors = {variable_name(v): float(-v.numpy().max() / 0.01) for v in variables}
    of_head = 10.0 if head_layers == "head" else 1.0
    expected = {
        "tiny_stem_conv/kernel": 0.5,
        "tiny_stem_bn/beta": 0.5,
        "aspp_pool_conv/kernel": of_head,
        "aspp_projection_bn/gamma": of_head,
        "decoder_low_level_conv/kernel": of_head,
        "logits/kernel": 10.0,
        "logits/bias": 20.0,
    }
    found = {name: factors[name] for name in expected}
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_rate_for_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="head_layers takes .*classifier, head alone"):
        parse_changes(["head_layers=decoder"])


# --- Weights of another run ----------------------------------------------------------


def trained_workdir(folder, names):
    config = small_config(num_classes=len(names), class_names=names)
    model = randomize(build_model(config))
    write_config(config, folder)
    save_weights(model, folder / "best.npz")
    return {name: np.array(value) for name, value in named_weights(model).items()}


@pytest.mark.parametrize(
    "names, ids",
    [
        (("road", "car", "sky"), [0, 1, 2]),
        (("sky", "road", "Car"), [2, 0, 1]),
        (("class_0", "class_1", "class_2"), [0, 1, 2]),
    ],
)
def test_a_classifier_is_taken_by_the_names_of_its_classes(names, ids, tmp_path):
    before = trained_workdir(tmp_path, ("road", "car", "sky"))
    config = small_config(num_classes=3, class_names=names, init=str(tmp_path))
    model = build_model(config)
    compiling.initialize(model, config)
    for name, value in named_weights(model).items():
        expected = before[name][..., ids] if name.startswith("logits") else before[name]
        np.testing.assert_array_equal(np.array(value), expected, err_msg=name)


def test_a_classifier_of_other_classes_is_left_out(tmp_path):
    before = trained_workdir(tmp_path, ("road", "car", "sky"))
    config = small_config(
        num_classes=3, class_names=("cat", "dog", "sky"), init=str(tmp_path)
    )
    model = build_model(config)
    new = {name: np.array(value) for name, value in named_weights(model).items()}
    report = compiling.initialize(model, config)
    assert report.missing == ("logits/bias", "logits/kernel")
    for name, value in named_weights(model).items():
        kept = new if name.startswith("logits") else before
        np.testing.assert_array_equal(np.array(value), kept[name], err_msg=name)


HEAD = ("aspp_pool_conv/kernel", "logits/kernel")


@pytest.mark.parametrize(
    "source, missing, unused, said",
    [
        (
            "net.h5",
            HEAD,
            (),
            "net.h5: 3 weights copied, 2 new (the head), as expected",
        ),
        ("net.h5", HEAD, ("top/bias",), "net.h5: 3 weights copied, 2 new (the head),"),
        ("best.npz", (), (), "best.npz: 3 weights copied"),
        ("best.npz", (), ("x/bias",), "3 weights copied\n  1 of the file left out"),
        ("net.h5", ("conv1/kernel",), (), ", 1 new (conv1/kernel)"),
    ],
)
def test_what_a_run_begins_from_is_one_line_where_it_is_well(
    source, missing, unused, said
):
    report = WeightReport(source, ("a", "b", "c"), missing, unused)
    told = compiling.describe_start(report)
    assert said in told and ("left out" in told) == (
        source == "best.npz" and unused != ()
    )


def test_a_run_from_scratch_says_so():
    assert compiling.describe_start(None) == "Training from scratch."
