"""The networks as a user of Keras sees them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf import DeepLabV3, DeepLabV3Plus
from deeplab_tf.networks import heads
from deeplab_tf.networks.models import (
    ALWAYS_AUXILIARY,
    AUXILIARY_HEAD,
    MODELS,
    build_model,
    inference_model,
)
from deeplab_tf.networks.precision import precision_policy
from deeplab_tf.networks.weight_files import (
    load_weights,
    named_weights,
    save_weights,
)
from deeplab_tf.training import compiling
from tests.support.lanes import all_in_lane_a
from tests.support.networks import (
    OUTPUT_STRIDES,
    assert_same_arrays,
    image_batch,
    kernels_not_drawn,
    randomize,
    small_config,
)

pytestmark = pytest.mark.both_keras

V3 = "deeplab_v3"
HEAD = ("aspp", "decoder")


def small_model(**changes):
    return build_model(small_config(**changes))


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "backbone, parameters", [("resnet50", 39_048_533), ("resnet101", 58_040_661)]
)
def test_parameters_of_the_paper(backbone, parameters):
    with kernels_not_drawn():
        model = DeepLabV3(21, backbone)
    counts = [int(np.prod(weight.shape)) for weight in model.trainable_weights]
    assert sum(counts) == parameters


def test_atrous_rates_follow_the_output_stride():
    assert heads.atrous_rates_for(16) == (6, 12, 18)
    assert heads.atrous_rates_for(8) == (12, 24, 36)
    assert heads.atrous_rates_for(32) == (3, 6, 9)


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "name, output_stride",
    [(name, os) for name in MODELS for os in OUTPUT_STRIDES.get(name, (8, 16, 32))],
)
def test_logits_have_the_size_of_the_image(name, output_stride):
    model = small_model(model=name, output_stride=output_stride)
    for size in ((32, 32), (65, 97), (50, 43)):
        logits = model(image_batch(*size, batch=2))
        assert logits.shape == (2, *size, 5)
        assert logits.dtype == tf.float32
        assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    "name, precision",
    all_in_lane_a(
        [*((name, "bfloat16") for name in MODELS), (V3, "float16")],
        [(V3, "bfloat16"), (V3, "float16")],
    ),
)
def test_logits_are_float32_and_close_under_mixed_precision(name, precision):
    exact = randomize(small_model(model=name))
    with precision_policy(precision):
        mixed = randomize(small_model(model=name))
    assert any(layer.compute_dtype == precision for layer in mixed.layers)
    image = image_batch(65, 65)
    logits, expected = mixed(image), exact(image)
    assert logits.dtype == tf.float32
    error = np.abs(logits - expected).mean() / np.abs(expected).mean()
    assert 0 < error < 0.1


# Their authors' code cuts the distribution off in TensorFlow, and not in Caffe.
CAFFE = ("deeplab_v1", "deeplab_v2")


@pytest.mark.parametrize("name", all_in_lane_a(MODELS, [V3, *CAFFE]))
def test_classifiers_begin_as_the_authors_do(name):
    """At N(0, 0.01): cut off at two deviations, it deviates by 0.88 of that."""
    keras.utils.set_random_seed(0)
    options = {"cascade_blocks": 0, "auxiliary_head": name in AUXILIARY_HEAD}
    config = small_config(name, num_classes=21, **options)
    model = build_model(config, auxiliary_outputs=True)
    classifiers = [layer for layer in model.layers if layer.name.startswith("logits")]
    expected = {"deeplab_v2": 4, "deeplab_v1": 1}.get(name, 2)
    assert len(classifiers) == expected
    for layer in classifiers:
        kernel, bias = layer.get_weights()
        assert not bias.any()
        if kernel.size < 1000:  # the auxiliary head of the tiny backbone reads 4
            continue
        deviation = 0.01 if name in CAFFE else 0.0088
        assert kernel.std() == pytest.approx(deviation, rel=0.1)
        assert abs(kernel.mean()) < 4 * deviation / np.sqrt(kernel.size)
        assert (np.abs(kernel).max() <= 0.02) == (name not in CAFFE)


@pytest.mark.parametrize("name", AUXILIARY_HEAD)
def test_auxiliary_head_is_for_training_alone(name, tmp_path):
    """It takes nothing of the network away, draws last, and is asked for."""
    config = small_config(name, multi_grid=(1, 1, 1), cascade_blocks=0)
    models = {}
    for wanted in (False, True):
        keras.utils.set_random_seed(0)
        options = dataclasses.replace(config, auxiliary_head=wanted)
        models[wanted] = build_model(options, auxiliary_outputs=True)
    assert isinstance(models[False].output, dict) == (name in ALWAYS_AUXILIARY)
    assert list(models[True].output) == ["logits", "auxiliary"]
    alone, reduced = inference_model(models[False]), inference_model(models[True])
    weights, expected = named_weights(reduced), named_weights(alone)
    assert_same_arrays(weights, expected)
    own = named_weights(models[True]).keys() - weights.keys()
    assert own and all("auxiliary" in key for key in own)
    outputs = models[True](image_batch(49, 33))
    assert {scores.shape for scores in outputs.values()} == {(1, 49, 33, 5)}
    # A run of the one goes on as a run of the other, and inference has none.
    save_weights(models[True], tmp_path / "with.npz")
    save_weights(alone, tmp_path / "without.npz")
    for file, model in (("with", alone), ("without", models[True])):
        init = str(tmp_path / f"{file}.npz")
        report = compiling.initialize(model, dataclasses.replace(config, init=init))
        assert set(report.missing if file == "without" else report.unused) == own
    bare = build_model(dataclasses.replace(config, auxiliary_head=True))
    assert not any("auxiliary" in layer.name for layer in bare.layers)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - set(AUXILIARY_HEAD)))
def test_auxiliary_head_where_there_is_none_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} has no auxiliary head.*deeplab_v3,"):
        build_model(small_config(name, auxiliary_head=True))


def test_training_weights_serve_another_output_stride(tmp_path):
    """At a place far from any border, twice as dense is the same network."""
    trained = randomize(small_model(image_pooling=False, output_stride=16))
    save_weights(trained, tmp_path / "w.npz")
    dense = small_model(image_pooling=False, output_stride=8)
    report = load_weights(dense, tmp_path / "w.npz")
    assert not report.missing and not report.unused
    low = [keras.Model(m.input, m.get_layer("logits").output) for m in (trained, dense)]
    image = image_batch(129, 129)
    expected, actual = (np.asarray(model(image)) for model in low)
    assert np.abs(actual[:, ::2, ::2] - expected).max() < 1e-4 * np.abs(expected).max()


def test_given_rates_scale_with_the_output_stride():
    model = build_model(
        small_config(atrous_rates=(2, 4), output_stride=16),
        output_stride=8,
    )
    assert model.get_layer("aspp_atrous2_conv").dilation_rate == (8, 8)
    assert [layer.name for layer in model.layers].count("aspp_atrous3_conv") == 0


def test_image_pooling_is_global_at_every_size():
    """Doubling the image beyond the receptive field still reaches every pixel."""
    model = randomize(small_model(multi_grid=(1, 1, 1)))
    pooled = keras.Model(model.input, model.get_layer("aspp_pool").output)
    features = keras.Model(model.input, model.get_layer("aspp_1x1_conv").input)
    image = image_batch(97, 161)
    expected = np.asarray(features(image)).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(pooled(image), expected, rtol=1e-3, atol=1e-5)


def test_fixed_input_shape_gives_the_same_logits():
    flexible = randomize(DeepLabV3(3, "resnet18", multi_grid=(1, 1)))
    fixed = randomize(
        DeepLabV3(3, "resnet18", multi_grid=(1, 1), input_shape=(65, 48, 3))
    )
    image = image_batch(65, 48)
    np.testing.assert_allclose(fixed(image), flexible(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["deeplab_v3", "deeplab_v3plus"])
@pytest.mark.parametrize("separable", [False, True])
def test_head_filters_are_those_of_the_whole_head(name, separable):
    """ASPP, projection and decoder have them; the low-level features keep their 48."""
    default = small_model(model=name, separable=separable)
    narrow = small_model(model=name, separable=separable, head_filters=24)
    widths = {
        layer.name: (layer.filters, narrow.get_layer(layer.name).filters)
        for layer in default.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.name.startswith(HEAD)
    }
    low_level = widths.pop("decoder_low_level_conv", (48, 48))
    assert low_level == (48, 48) and len(widths) >= 5
    assert set(widths.values()) == {(256, 24)}


@pytest.mark.one_lane
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("strides", [(4,), (2,), (4, 2), (8, 4), (8, 4, 2)])
def test_the_decoder_joins_the_features_of_each_stride(strides, output_stride):
    """Each stage brings what came to its own stride, then joins and refines."""
    model = small_model(
        model="deeplab_v3plus",
        output_stride=output_stride,
        decoder_output_stride=strides,
    )
    low_level = {8: "tiny_unit1_project_bn", 4: "tiny_unit0_project_bn"}
    low_level[2] = "tiny_stem_relu"
    size, before = (50, 71), output_stride
    for stride in strides:
        prefix = "decoder" if stride == 4 else f"decoder_stride{stride}"
        assert model.get_layer(f"{prefix}_upsample").stride == before // stride
        stage = {
            part: keras.Model(model.input, model.get_layer(f"{prefix}_{part}").output)
            for part in ("upsample", "concat")
        }
        outputs = {part: stage[part](image_batch(*size)) for part in stage}
        assert outputs["concat"].shape[1:3] == tuple(-(-n // stride) for n in size)
        assert outputs["concat"].shape[3] == 256 + 48
        np.testing.assert_array_equal(outputs["concat"][..., :256], outputs["upsample"])
        reader = model.get_layer(f"{prefix}_low_level_conv")
        source = model.get_layer(low_level[stride])
        assert reader.input is source.output
        before = stride
    assert model.get_layer("upsample").stride == before


@pytest.mark.parametrize("strides", [(), (2, 4), (4, 4), (16,), (4, 3)])
def test_strides_that_a_decoder_cannot_join_are_refused(strides):
    expected = r"some of \[8, 4, 2\] for tiny, the largest first. Received: \("
    with pytest.raises(ValueError, match=expected):
        small_model(model="deeplab_v3plus", decoder_output_stride=strides)


def test_a_backbone_without_features_of_stride_2_says_so():
    with pytest.raises(ValueError, match=r"some of \[8, 4\] for convnext_tiny"):
        DeepLabV3Plus(3, "convnext_tiny", decoder_output_stride=(4, 2))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_classes": 1}, "at least 2.*Received: 1"),
        ({"input_shape": (31, 64, 3)}, "at least 32 pixels.*Received"),
        ({"input_shape": (64, 64, 1)}, r"\(height, width, 3\)"),
        ({"backbone": "vgg"}, "resnet50.*Received: 'vgg'"),
        ({"output_stride": 12}, "Received: 12"),
        ({"weights": "nowhere.h5"}, "No weights at nowhere.h5"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, message):
    arguments = {"num_classes": 3, "backbone": "mobilenet_v2_0.35", **arguments}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DeepLabV3(**arguments)


def test_unknown_model_names_the_choices():
    with pytest.raises(ValueError, match="deeplab_v3.*Received: 'unet'"):
        build_model(small_config(model="unet"))
