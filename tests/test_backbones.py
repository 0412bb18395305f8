"""Backbones against each other's output strides."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.exports.runtime_files import convert_model
from deeplab_tf.inference.runtimes import load_network
from deeplab_tf.labels import Labels
from deeplab_tf.networks.backbones import BACKBONES, find_backbone
from deeplab_tf.networks.backbones.activations import squeeze_excitation
from deeplab_tf.networks.backbones.convnext import convnext
from deeplab_tf.networks.backbones.efficientnet_v2 import BASE_STAGES, efficientnet_v2
from deeplab_tf.networks.backbones.mobilenet_v3 import SMALL, mobilenet_v3
from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.blocks import (
    HEAD_PREFIXES,
    layer_defaults,
)
from deeplab_tf.networks.folding import fold_batch_norm
from deeplab_tf.networks.layers import NORMALIZATIONS
from deeplab_tf.networks.models import (
    DeepLabV3,
    DeepLabV3Plus,
)
from deeplab_tf.networks.multiply_adds import multiply_adds
from deeplab_tf.networks.recomputation import recompute_in_training
from tests.support.networks import (
    SHALLOW_BACKBONES,
    assert_close,
    backbone_model,
    image_batch,
    randomize,
)


def test_stride_turns_into_dilation_by_hand():
    # ResNet: stem of stride 4, then stages of stride 1, 2, 2, 2.
    assert apply_output_stride([1, 2, 2, 2], 16, 4) == [
        (1, 1, 1),
        (2, 1, 1),
        (2, 1, 1),
        (1, 1, 2),
    ]
    assert apply_output_stride([1, 2, 2, 2], 8, 4)[2:] == [(1, 1, 2), (1, 2, 4)]
    assert apply_output_stride([1, 2, 2, 2], 32, 4)[3] == (2, 1, 1)


@pytest.mark.one_lane
@pytest.mark.parametrize("name", SHALLOW_BACKBONES)
def test_features_at_stride_8_subsampled_equal_stride_16(name):
    dense = randomize(backbone_model(name, 8))
    sparse = randomize(backbone_model(name, 16))
    for size in ((33, 65), (50, 71)):  # sizes 16 k + 1, and others
        dense_features, sparse_features = (
            m(image_batch(*size)) for m in (dense, sparse)
        )
        strides = [stride for stride in (2, 4, 8) if f"stride{stride}" in dense.output]
        assert strides == ([4, 8] if name == "convnext_tiny" else [2, 4, 8])
        for stride in strides:
            low_level = sparse_features[f"stride{stride}"]
            assert low_level.shape[1:3] == tuple(-(-n // stride) for n in size)
            assert_close(dense_features[f"stride{stride}"], low_level)
        assert sparse_features["out"].shape[1:3] == tuple(-(-n // 16) for n in size)
        assert_close(dense_features["out"][:, ::2, ::2], sparse_features["out"])
        step = find_backbone(name).auxiliary_stride // 8
        dense_auxiliary = dense_features["auxiliary"][:, ::step, ::step]
        assert_close(dense_auxiliary, sparse_features["auxiliary"])


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "name, multi_grid",
    [
        ("resnet18", (1, 1, 1)),
        ("resnet18", (2, 1)),
        ("resnet50_torchvision", (1, 2, 4)),
        ("resnet50", (1, 1, 1)),
        ("mobilenet_v2_0.35", (1, 1, 1)),
        ("mobilenet_v3_small", (2, 1)),
        ("efficientnet_v2_b0", (1, 2, 1)),
        ("convnext_tiny", (1, 2, 4)),
    ],
)
def test_features_at_stride_16_subsampled_equal_stride_32(name, multi_grid):
    dense = randomize(backbone_model(name, 16, multi_grid))
    sparse = randomize(backbone_model(name, 32, multi_grid))
    image = image_batch(96, 129)
    assert_close(dense(image)["out"][:, ::2, ::2], sparse(image)["out"])


def test_the_gate_is_of_the_positions_of_the_network_that_was_trained():
    """By hand: 0, 2, 8 and 10 of 4 x 4 pixels at rate 2, whose mean is 5."""
    image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    names = ("reduce", "expand")
    for rate, mean in ((2, 5), (1, 7.5)):
        inputs = keras.Input([None, None, 1])
        gated = squeeze_excitation(
            inputs,
            1,
            rate=rate,
            names=names,
            activation="relu",
            gate="hard_sigmoid",
            name="se",
        )
        model = keras.Model(inputs, gated)
        for name, bias in zip(names, (1.0, -8.0)):
            layer = model.get_layer(name)
            layer.set_weights([np.ones([1, 1, 1, 1]), np.array([bias])])
        gate = (mean + 1 - 8 + 3) / 6
        np.testing.assert_allclose(model(image), image * gate, rtol=1e-6)


def last_rates(name, output_stride, multi_grid):
    """Dilations of the 3x3 of the last stage, unit by unit."""
    model = backbone_model(name, output_stride, multi_grid, outputs="out")
    return [
        layer.dilation_rate[0]
        for layer in model.layers
        if layer.name.startswith("conv5_")
        and getattr(layer, "kernel_size", 0) == (3, 3)
    ]


@pytest.mark.one_lane
@pytest.mark.parametrize("name", ["resnet50", "resnet50_torchvision"])
@pytest.mark.parametrize(
    "output_stride, rates", [(16, [2, 4, 8]), (8, [4, 8, 16]), (32, [1, 2, 4])]
)
def test_multi_grid_multiplies_the_rate_of_the_stage(name, output_stride, rates):
    """DeepLabV3, section 3.2.1: 2 * (1, 2, 4) at output stride 16."""
    assert last_rates(name, output_stride, (1, 2, 4)) == rates


def test_multi_grid_of_units_without_a_bottleneck():
    # Two 3x3 a unit; the first of the first unit carries the stride.
    assert last_rates("resnet18", 16, (1, 2)) == [2, 2, 4, 4]
    assert last_rates("resnet18", 8, (2, 1)) == [8, 8, 4, 4]


def test_without_multi_grid_a_strided_3x3_keeps_the_rate_it_was_trained_with():
    assert last_rates("resnet50_torchvision", 16, (1, 1, 1)) == [1, 2, 2]
    assert last_rates("resnet18", 8, (1, 1)) == [2, 4, 4, 4]


def test_multi_grid_as_earlier_versions_had_it():
    with layer_defaults(multi_grid_rates="entry"):
        assert last_rates("resnet50_torchvision", 16, (1, 2, 4)) == [1, 4, 8]
        assert last_rates("resnet18", 16, (1, 2)) == [1, 2, 4, 4]


@pytest.mark.parametrize(
    "name", ["resnet", "mobilenet_v2_x", "mobilenet_v2_-1", "keras.VGG19", "keras."]
)
def test_unknown_backbone_names_the_choices(name):
    with pytest.raises(ValueError, match="resnet101.*Received"):
        find_backbone(name)


def test_bad_options_name_the_choices():
    with pytest.raises(ValueError, match=r"\(8, 16, 32\). Received: 4"):
        backbone_model("resnet18", 4)
    with pytest.raises(ValueError, match=r"3 positive factors.*Received: \(1, 2\)"):
        backbone_model("resnet50", 16, multi_grid=(1, 2))


@pytest.mark.one_lane
@pytest.mark.parametrize("name", SHALLOW_BACKBONES)
def test_layers_of_backbones_are_not_called_as_those_of_heads(name):
    layers = backbone_model(name, 16).layers[1:]
    assert not [layer.name for layer in layers if layer.name.startswith(HEAD_PREFIXES)]


def test_every_row_states_how_its_weights_were_trained():
    for row in BACKBONES.values():
        assert row.normalization in NORMALIZATIONS


# --- What is new in the layers of these backbones ------------------------------------

SHORT = {
    "mobilenet_v3_small": functools.partial(
        mobilenet_v3, blocks=[SMALL[index] for index in (0, 1, 3, 8, 9)], alpha=0.5
    ),
    "efficientnet_v2_b0": functools.partial(
        efficientnet_v2,
        stages=[stage._replace(blocks=1) for stage in BASE_STAGES],
        stem_filters=32,
        width=0.25,
    ),
    "convnext_tiny": functools.partial(
        convnext, depths=(1, 1, 1, 1), filters=(8, 8, 16, 16), name="convnext_tiny"
    ),
}


@pytest.fixture
def short(request, monkeypatch):
    """Name of a row of `BACKBONES` with one block of each kind."""
    row = dataclasses.replace(BACKBONES[request.param], build=SHORT[request.param])
    monkeypatch.setitem(BACKBONES, "short", row)
    return "short"


each_kind = pytest.mark.parametrize("short", SHORT, indirect=True)


@pytest.mark.two_lanes
@each_kind
def test_a_saved_network_is_loaded_counted_and_folded(short, tmp_path):
    model = randomize(DeepLabV3Plus(3, short))
    image = image_batch(65, 49)
    expected = np.asarray(model(image))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(image), expected)
    assert multiply_adds(loaded, 65, 49) > 0
    folded = np.asarray(fold_batch_norm(model)(image, training=False))
    np.testing.assert_allclose(folded, expected, atol=1e-4 * np.abs(expected).max())


@each_kind
def test_only_kernels_of_full_convolutions_decay(short):
    with layer_defaults(weight_decay=1e-4):
        model = DeepLabV3(3, short)
    for layer in model.layers:
        decays = getattr(layer, "kernel_regularizer", None) is not None
        assert decays == (type(layer).__name__ == "AtrousConv2D"), layer.name
    assert not any(
        getattr(layer, f"{part}_regularizer", None)
        for layer in model.layers
        for part in ("bias", "gamma", "beta", "depthwise")
    )


@pytest.mark.two_lanes
@each_kind
@pytest.mark.parametrize(
    "format_", ["tflite", pytest.param("onnx", marks=pytest.mark.slow)]
)
def test_a_runtime_gives_the_classes_of_keras(short, format_, tmp_path):
    if format_ == "onnx":
        pytest.importorskip("tf2onnx")
    model = randomize(DeepLabV3(3, short))
    labels = Labels(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    image = image_batch(33, 65).round()
    path = tmp_path / f"x.{format_}"
    convert_model(model, labels, path, input_size=(33, 65), images=list(image))
    logits = np.asarray(model(image, training=False))[0]
    classes = load_network(path).classes(image.astype("uint8"))[0]
    chosen = np.take_along_axis(logits, classes[..., None].astype(int), -1)[..., 0]
    # Of two that tie either will do.
    assert (logits.max(-1) - chosen).max() <= 1e-4 * np.abs(logits).max()


@pytest.mark.slow
@each_kind
def test_recomputed_and_compiled_steps_are_those_of_before(short, request):
    image = image_batch(33, 33, 2)
    gradients = []
    for way in ("plain", "recomputed", "xla"):
        model = randomize(DeepLabV3(3, short))
        if way == "recomputed":
            assert recompute_in_training(model) >= 3

        @tf.function(jit_compile=way == "xla")
        def step(image, model=model):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.sin(model(image, training=True)))
            return tape.gradient(loss, model.trainable_variables)

        gradients.append(step(tf.constant(image)))
    largest = max(np.abs(plain).max() for plain in gradients[0])
    tolerance = 5e-3 if "convnext" in request.node.name else 2e-3
    for plain, *others in zip(*gradients):
        # What a normalization takes away again has a gradient of rounding errors alone.
        scale = max(np.abs(plain).max(), 1e-2 * largest)
        for other in others:
            np.testing.assert_allclose(other, plain, atol=tolerance * scale)
