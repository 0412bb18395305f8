"""Training of the head alone: every model, every backbone."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tensorflow import keras

from deeplab_tf import backbone_layers, freeze_backbone
from deeplab_tf.networks.backbones import BACKBONES
from deeplab_tf.networks.blocks import HEAD_PREFIXES
from deeplab_tf.networks.freezing import head_layers
from deeplab_tf.networks.models import MODELS, build_model
from deeplab_tf.networks.weight_files import named_weights
from deeplab_tf.training import compiling
from tests.support.networks import (
    image_batch,
    kernels_not_drawn,
    narrow,
    randomize,
    small_config,
)

# Deeper ones have the same layers more often, and take seconds.
DEEP = re.compile(
    "resnet(34|101|152)|xception(65|71)|efficientnet_v2_(b[123]|s)|"
    "mobilenet_v3_(large|.*(seg|minimalistic))"
)
CASES = [(model, small_config(model).backbone) for model in MODELS] + [
    pytest.param(
        *("deeplab_v3", name), marks=[pytest.mark.slow] if DEEP.match(name) else []
    )
    for name in BACKBONES
]


@pytest.mark.one_lane
@pytest.mark.parametrize("model, backbone", CASES)
def test_a_frozen_backbone_leaves_the_head_to_train(model, backbone, monkeypatch):
    narrow(monkeypatch)
    with kernels_not_drawn():
        network = build_model(small_config(model, backbone=backbone, multi_grid=None))
    frozen = freeze_backbone(network)
    assert frozen == [layer.name for layer in backbone_layers(network)]
    names = {id(v): name for name, v in named_weights(network).items()}
    trained = {names[id(v)] for v in network.trainable_variables}
    assert trained and all(name.startswith(HEAD_PREFIXES) for name in trained)
    heads = {layer.name for layer in head_layers(network)}
    assert {name.partition("/")[0] for name in trained} <= heads
    assert not heads & set(frozen) and any("logits" in name for name in heads)
    assert all(w.partition("/")[0] in heads | set(frozen) for w in names.values())


def test_a_step_changes_nothing_of_a_frozen_backbone():
    """Neither its weights nor BatchNorm's statistics, which are those of inference."""
    config = small_config(steps=1, learning_rate=0.1)
    model = randomize(build_model(config))
    freeze_backbone(model)
    compiling.compile_model(model, config)
    before = {name: np.array(v) for name, v in named_weights(model).items()}
    label = np.random.default_rng(0).integers(0, 5, (2, 33, 33)).astype("int32")
    model.fit(image_batch(33, 33, 2), label, verbose=0)
    for name, value in named_weights(model).items():
        changed = not np.array_equal(value, before[name])
        assert changed == name.startswith(HEAD_PREFIXES), name


def test_a_backbone_thaws():
    model = build_model(small_config())
    count = len(model.trainable_variables)
    freeze_backbone(model)
    assert len(model.trainable_variables) < count
    freeze_backbone(model, frozen=False)
    assert len(model.trainable_variables) == count


def test_other_models_are_refused():
    other = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, name="fully")])
    with pytest.raises(ValueError, match="of this package.*begin with .'fully'"):
        freeze_backbone(other)
