"""Fields of a run: what each takes, and what they say of each other."""

from __future__ import annotations

import dataclasses
import json

import pytest
from absl import flags

from deeplab_tf.command_names import suggest_choices
from deeplab_tf.config import TrainConfig, parse_changes, read_config
from deeplab_tf.config_checks import check_fields
from deeplab_tf.data.reading.policies import find_policy
from deeplab_tf.networks.backbones import find_backbone
from deeplab_tf.networks.models import build_model
from deeplab_tf.recipes import RECIPES, recipe_config
from deeplab_tf.training.losses import check_loss
from deeplab_tf.training.optimizers import check_optimizer

# A value of another type for each annotation that a field has.
ANNOTATIONS = sorted({field.type for field in dataclasses.fields(TrainConfig)})


@pytest.mark.parametrize("annotation", ANNOTATIONS)
def test_a_value_of_another_type_is_refused_for_every_field(annotation):
    wrong = {"a": 1} if "str" in annotation else "x y"
    for field in dataclasses.fields(TrainConfig):
        if field.type == annotation:
            config = dataclasses.replace(TrainConfig(), **{field.name: wrong})
            with pytest.raises(ValueError, match=rf"^{field.name} takes .*Received: "):
                check_fields(config)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("class_names=[a,b]", r"in quotes: 'class_names=\[\"a\", \"b\"\]'"),
        ('class_names=["a",2]', "a list, each item of it a text"),
        ("batch_size=0", "batch_size must be 1 or more. Received: 0"),
        ("batch_size=2.5", "batch_size takes a whole number. Received: 2.5"),
        ("batch_size=true", "batch_size takes a whole number"),
        ("learning_rate=NaN", "learning_rate takes a number. Received: NaN"),
        ("learning_rate=-1", "learning_rate must be 0 or more"),
        ("class_weights=[1,-2]", "class_weights must be 0 or more"),
        ("class_weights=[1,null]", "class_weights takes a list"),
        (
            "class_weights=balance",
            'of texts balanced, balanced_sqrt alone. Received: "balance"',
        ),
        ("colormap=[[1,2]]", "colormap takes"),
        ("colormap=[[1,2,300]]", "colormap must be 0 to 255"),
        ("crop_size=65", "crop_size takes a list of a whole number and a whole number"),
        ("multi_grid=1", "multi_grid takes a list, each item of it a whole number, or"),
        ("dropout_rate=1", "dropout_rate must be 0 to 0.999"),
        ("skip_bad_records=1", "skip_bad_records takes true or false. Received: 1"),
        ("input_scales=" + "[" * 5000, "input_scales takes"),
    ],
)
def test_what_a_field_cannot_have_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_changes([change])


@pytest.mark.parametrize(
    "change, meant",
    [
        ("learning_rat=0.1", "learning_rate"),
        ("Batch_Size=4", "batch_size"),
        ("weightdecay=0", "weight_decay"),
        ("multi_grids=[1]", "multi_grid"),
    ],
)
def test_a_field_that_is_mistyped_is_guessed(change, meant):
    with pytest.raises(ValueError, match=f"Received: '.*'. Did you mean {meant}\\?$"):
        parse_changes([change])


def test_a_field_that_is_like_no_other_gets_the_list():
    with pytest.raises(ValueError, match="Received: 'zebra=1'. Fields: .*, warmup"):
        parse_changes(["zebra=1"])


@pytest.mark.parametrize(
    "look_up, mistyped, meant",
    [
        (recipe_config, "camvid_mobilenetv2", "camvid_mobilenet_v2"),
        (find_backbone, "ResNet50", "resnet50"),
        (lambda name: build_model(TrainConfig(model=name)), "deeplabv3", "deeplab_v3"),
        (
            lambda name: check_loss(TrainConfig(loss=name)),
            "crossentropy",
            "cross_entropy",
        ),
        (check_optimizer, "adagrd", "adagrad"),
        (find_policy, "papr", "paper"),
    ],
)
def test_a_name_that_is_mistyped_is_guessed(look_up, mistyped, meant):
    with pytest.raises(ValueError, match=f"'{mistyped}'. Did you mean {meant}\\?"):
        look_up(mistyped)


def test_a_flag_of_choices_guesses():
    values = flags.FlagValues()
    flags.DEFINE_enum("recipe", None, list(RECIPES), "A row.", flag_values=values)
    suggest_choices(values)
    assert values(["train.py", "--recipe=demo"]) and values.recipe == "demo"
    with pytest.raises(flags.IllegalFlagValueError, match="Did you mean demo\\?"):
        values(["train.py", "--recipe=dmo"])
    with pytest.raises(flags.IllegalFlagValueError) as error:
        values(["train.py", "--recipe=xyz"])
    assert "mean" not in str(error.value) and "<demo|" in str(error.value)


def test_a_text_that_looks_like_a_number_stays_a_text():
    assert parse_changes(["init=2012", "recipe=true"]) == {
        "init": "2012",
        "recipe": "true",
    }


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (
            {"class_weights": (1.0, 2.0)},
            "class_weights needs .* 3 classes. Received: 2",
        ),
        ({"class_weights": (1,) * 5}, "class_weights needs .* 3 classes. Received: 5"),
        ({"class_names": ("a", "b")}, "class_names needs .* 3 classes. Received: 2"),
        ({"colormap": ((0, 0, 0),)}, "colormap needs .* 3 classes. Received: 1"),
        ({"class_names": ("a", "b", "a")}, "more than once: a"),
    ],
)
def test_lengths_that_contradict_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_fields(TrainConfig(num_classes=3, **changes))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_passes(name):
    check_fields(RECIPES[name].config)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}}", "[]", "null", "{" * 3, '{"model": 3}', '{"steps": "10"}'),
        *('{"class_names": ["a"], "num_classes": 2}', '{"crop_size": [1]}'),
        '{"atrous_rates": ' + "[" * 100_000,
    ],
)
def test_an_edited_file_ends_in_a_sentence_with_its_path(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not a configuration: .{10}"):
        read_config(tmp_path)


def test_a_file_of_an_earlier_version_reads_as_before(tmp_path):
    config = TrainConfig(num_classes=2, class_names=("a", "b"), class_weights=(1, 2.5))
    values = json.loads(config.to_json())
    del values["decoupled_weight_decay"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_config(tmp_path) == config
