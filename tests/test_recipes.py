"""Recipes, schedules, frozen BatchNorm and the warnings about it."""

import dataclasses
import functools
import re

import numpy as np
import pytest
from tensorflow import keras

from benchmarks import recipe_costs
from datasets.sources.catalog import DATASETS
from deeplab_tf import TrainConfig
from deeplab_tf.commands.command_line import list_builders
from deeplab_tf.commands.train import CONFIG_FLAGS
from deeplab_tf.config import NETWORK_FIELDS, parse_changes
from deeplab_tf.networks.heads import is_classifier
from deeplab_tf.networks.models import MODELS, build_model
from deeplab_tf.networks.weight_files import named_weights
from deeplab_tf.recipe_help import CHOICES, describe_recipes
from deeplab_tf.recipes import RECIPES, Costs, recipe_config
from deeplab_tf.training import compiling
from deeplab_tf.training.schedules import make_schedule
from deeplab_tf.training.strategies import STRATEGIES
from tests.support.networks import (
    image_batch,
    kernels_not_drawn,
    randomize,
    small_config,
)

pytestmark = pytest.mark.both_keras

SMALLER = {
    "resnet101": "resnet18",
    "resnet50": "resnet18",
    "xception65": "xception41",
    "xception71": "xception41",
}


@functools.lru_cache(maxsize=2)  # a network is 250 MB
@kernels_not_drawn()
def build_once(config):
    """Recipes share networks, and building one takes seconds."""
    return build_model(config, auxiliary_outputs=True)


@pytest.mark.one_lane
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build_and_survive_their_json(name):
    config = recipe_config(name)
    assert config.recipe == name
    assert TrainConfig.from_json(config.to_json()) == config
    assert config.model in MODELS
    compiling.make_optimizer(dataclasses.replace(config, steps=config.steps or 10))
    network = {field: getattr(config, field) for field in NETWORK_FIELDS}
    network["backbone"] = SMALLER.get(config.backbone, config.backbone)
    build_once(TrainConfig(num_classes=3, **network))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_what_they_begin_from_and_reach(name):
    recipe = RECIPES[name]
    start = recipe.config.init.partition("runs/")[2]
    assert not start or start in RECIPES or recipe.config.init in recipe.needs
    assert recipe.config.data_dir.startswith("runs/data/")
    text = " ".join(describe_recipes().split())
    for words in (name, recipe.what, recipe.paper, recipe.needs, recipe.measured):
        assert words and words in text
    told = text.partition(f"{name} {recipe.what}")[2].partition("paper:")[2]
    told = told.partition("paper:")[0]
    assert ("quicker: --precision=bfloat16" in told) == recipe.needs_gpu


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_what_they_take(name):
    config, costs = RECIPES[name].config, RECIPES[name].costs
    facts = costs.describe(config)
    text = " ".join(describe_recipes().split()).partition(
        f"{name} {RECIPES[name].what}"
    )
    for title, said in facts.items():
        assert f"{title}: {said}" in text[2]
        assert re.search(r"\d (GB|minutes|hours|days)", said)
    for said in (facts["memory"], facts["time"]):  # a device, or an estimate
        assert re.search("Xeon|H200 in bfloat16|estimated", said)


@pytest.mark.parametrize("name", RECIPES)
def test_builders_that_a_recipe_names_exist(name):
    named = re.findall(r"python -m datasets\.build_(\w+)", RECIPES[name].needs)
    assert set(named) <= set(list_builders())
    assert named or name == "demo" or RECIPES[name].config.init.startswith("runs/")


def test_time_of_a_recipe_by_hand():
    costs = Costs(5.0, 100, 1.0)
    steps = TrainConfig(steps=90_000, batch_size=16)
    assert costs.describe(steps)["time"] == "4 hours on an H200, estimated"
    epochs = TrainConfig(epochs=50)
    told = "8 minutes on an H200, 50 epochs of 1,000 images, estimated"
    assert costs.describe(epochs)["time"] == told


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_estimates_are_those_of_the_benchmark(name):
    config = dataclasses.replace(recipe_config(name), num_classes=21)
    memory, seconds, disk = recipe_costs.costs(config)
    costs = RECIPES[name].costs
    assert costs.gpu_gigabytes == pytest.approx(memory, abs=0.06)
    assert costs.images_per_second == pytest.approx(1 / seconds, rel=0.02)
    assert costs.disk_gigabytes == pytest.approx(disk, abs=0.06)


def test_the_help_begins_with_what_to_take():
    lines = describe_recipes().splitlines()
    assert lines[0].split() == ["You", "have", "Take", "--recipe="]
    for line, (have, take) in zip(lines[1:], CHOICES.items()):
        assert line.split() == [*have.split(), *take.split("--recipe=")[1].split()]
        assert len(line) <= 88
    assert lines.index("demo") > len(CHOICES)


@pytest.mark.parametrize("have", CHOICES)
def test_what_to_take_is_a_command_that_train_py_takes(have):
    flags = dict(flag[2:].split("=") for flag in CHOICES[have].split())
    config = recipe_config(flags.pop("recipe"))
    assert flags.pop("strategy", "mirrored") in STRATEGIES
    fields = {field.name: field for field in dataclasses.fields(config)}
    for name, value in flags.items():
        parse_changes([f"{name}={value}"])
        assert name in CONFIG_FLAGS and name in fields


def test_duplicated_classes_are_classes_of_the_data_set():
    config = recipe_config("deeplab_v3_voc2012_stage2")
    names = {name for name, _ in config.duplicate}
    assert len(names) == 5 and names < set(DATASETS["voc2012"].class_names)


def test_unknown_recipe_names_the_others():
    with pytest.raises(ValueError, match="demo.*Received: 'dem'"):
        recipe_config("dem")


def test_poly_schedule_by_hand():
    config = TrainConfig(learning_rate=0.007, steps=30_000)
    schedule = make_schedule(config)
    assert float(schedule(0)) == pytest.approx(0.007)
    assert float(schedule(15_000)) == pytest.approx(0.007 * 0.5**0.9)
    assert float(schedule(30_000)) == 0.0


def test_step_schedule_by_hand():
    schedule = make_schedule(recipe_config("deeplab_v1_voc2012"))
    rates = [float(schedule(step)) for step in (0, 1999, 2000, 5999)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 1e-4, 1e-5], rtol=1e-5)


def test_deeplab_v2_has_the_rates_of_the_released_solver():
    """Of its three learning rates, over all, for the classifier and for its bias."""
    config = recipe_config("deeplab_v2_voc2012")
    factors = (1.0, config.head_multiplier, config.head_bias_multiplier)
    rates = [config.learning_rate * factor for factor in factors]
    assert rates == pytest.approx([2.5e-4, 2.5e-3, 5e-3])
    assert (config.steps, config.weight_decay) == (20_000, 5e-4)


def step_on(config, seed=0):
    """Weights before and after one training step on random labels."""
    model = randomize(build_model(config))
    compiling.compile_model(model, config)
    before = {name: np.array(value) for name, value in named_weights(model).items()}
    label = np.random.default_rng(seed).integers(0, config.num_classes, (2, 33, 33))
    if config.learning_rate == 1.0:
        label[:] = config.ignore_label  # no gradient at all
    model.fit(image_batch(33, 33, 2), label.astype("int32"), verbose=0)
    return model, before, named_weights(model)


def test_synchronized_batch_norm_is_frozen_too():
    config = small_config(frozen_batch_norm=True)
    model = randomize(build_model(config, synchronized=True))
    image = image_batch(33, 33, 2)
    np.testing.assert_array_equal(model(image, training=True), model(image))


def test_the_backbones_batch_norm_is_frozen_alone():
    model = build_model(small_config(frozen_batch_norm="backbone"))
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    trained = {layer.name for layer in norms if layer.trainable}
    assert trained and all(name.startswith("aspp") for name in trained)
    frozen = {layer.name for layer in norms if not layer.trainable}
    assert frozen and all(name.startswith("tiny") for name in frozen)


def test_frozen_batch_norm_is_inference_mode_and_does_not_change():
    config = small_config(frozen_batch_norm=True, steps=1, backbone="mobilenet_v2_0.35")
    model, before, after = step_on(config)
    image = image_batch(33, 33, 2)
    np.testing.assert_array_equal(model(image, training=True), model(image))
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    assert sum(name.endswith("moving_mean") for name in before) > 50
    for name, value in before.items():
        changed = not np.array_equal(value, after[name])
        assert changed != name.endswith(leaves), name


def test_decoupled_weight_decay_spares_what_the_papers_do_not_decay():
    config = small_config(
        optimizer="adamw",
        decoupled_weight_decay=0.1,
        weight_decay=0.0,
        learning_rate=1.0,
        frozen_batch_norm=True,
        steps=1,
    )
    _, before, after = step_on(config)
    decayed = "aspp_projection_conv/kernel"
    np.testing.assert_allclose(after[decayed], 0.9 * before[decayed], rtol=1e-5)
    for name, value in before.items():
        spared = "depthwise" in name or not name.endswith("kernel")
        if spared:
            np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert any(is_classifier(name) for name in before)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"batch_norm_momentum": 0.99, "steps": 300, "batch_size": 8}, []),
        (
            {"batch_norm_momentum": 0.9997, "steps": 600, "batch_size": 8},
            ["0.9997 average over 3,333 steps.*has 600.*batch_norm_momentum to 0.9950"],
        ),
        ({"steps": 9, "batch_size": 8, "batch_norm_batches": 4}, []),
        (
            {"batch_norm_momentum": 0.9, "steps": 300, "batch_size": 7},
            ["over 7 images.*batch_size=8 or more.*frozen_batch_norm"],
        ),
        (
            {"batch_size": 2, "steps": 2, "frozen_batch_norm": True},
            ["nothing has trained it.*Set frozen_batch_norm=backbone"],
        ),
        (
            {
                "batch_size": 2,
                "steps": 2,
                "frozen_batch_norm": True,
                "init": "best.npz",
            },
            [],
        ),
        ({"batch_size": 2, "steps": 300, "frozen_batch_norm": "backbone"}, []),
        (
            {"steps": 1, "batch_size": 1, "backbone": "mobilenet_v2_0.35"},
            # No momentum is low enough for one step.
            [
                "momentum 0.999 average over 1,000 steps.*has 1:.*Set batch_norm_batch",
                "over 1 images",
            ],
        ),
    ],
)
def test_batch_norm_warnings(changes, expected):
    config = small_config(**changes)
    warnings = compiling.batch_norm_warnings(build_model(config), config)
    assert len(warnings) == len(expected)
    for warning, pattern in zip(warnings, expected):
        assert re.search(pattern, warning), warning


def test_networks_without_batch_norm_have_nothing_to_warn_of():
    config = small_config("deeplab_v1", batch_size=1, steps=1)
    assert compiling.batch_norm_warnings(build_model(config), config) == []
