"""Fields that change nothing of a run are told."""

from __future__ import annotations

import dataclasses

import pytest

from deeplab_tf.config import TrainConfig
from deeplab_tf.recipes import RECIPES
from deeplab_tf.training.unheeded import unheeded_warnings


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_have_no_such_field(recipe):
    assert unheeded_warnings(RECIPES[recipe].config) == []


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"input_scales": (0.5, 1.0)}, "deeplab_v3 has none, unlike deeplab_v2."),
        ({"cascade_blocks": 2}, "deeplab_v3 has none, unlike deeplab_v3_cascade."),
        (
            {"model": "lr_aspp", "atrous_rates": (6, 12)},
            "has none, unlike deeplab_v2",
        ),
        ({"teacher_weight": 3.0}, "it counts with teacher alone"),
        ({"warmup_fraction": 0.5}, "it counts with warmup_steps alone"),
    ],
)
def test_what_changes_nothing_is_told(changes, sentence):
    config = dataclasses.replace(TrainConfig(model="deeplab_v3"), **changes)
    (warning,) = unheeded_warnings(config)
    *_, (name, value) = changes.items()
    assert warning.startswith(f"{name}={value!r} changes nothing: ")
    assert sentence in warning


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "deeplab_v2", "input_scales": (0.5, 1.0)},
        {"model": "deeplab_v3_torchvision", "atrous_rates": (12, 24, 36)},
        {"teacher": "runs/large", "teacher_weight": 3.0},
        {"warmup_steps": 10, "warmup_fraction": 0.5},
    ],
)
def test_what_counts_is_not_told(changes):
    assert unheeded_warnings(dataclasses.replace(TrainConfig(), **changes)) == []
