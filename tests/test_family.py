"""What one paper of the family has and the one before has not."""

import h5py
import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf import (
    DeepLabV1,
    DeepLabV2,
    DeepLabV3,
    DeepLabV3Cascade,
    DeepLabV3Plus,
    DeepLabV3Torchvision,
    MeanIoU,
    SegmentationLoss,
)
from deeplab_tf.networks import heads
from deeplab_tf.networks.backbones import backbone_features
from deeplab_tf.networks.backbones.vgg import fully_connected_as_convolutions
from deeplab_tf.networks.blocks import HEAD_PREFIXES, apply_again, layer_defaults
from deeplab_tf.networks.models import (
    AUXILIARY_HEAD,
    MODELS,
    build_model,
    inference_model,
    load_backbone_weights,
)
from deeplab_tf.networks.weight_files import named_weights
from deeplab_tf.training import compiling
from deeplab_tf.training.resuming import validation_score
from tests.support.lanes import mark_rows
from tests.support.networks import image_batch, narrow, randomize, small_config

TINY = "tiny"  # see conftest.py


def output_of(model, layer):
    return keras.Model(model.input, model.get_layer(layer).output)


def assert_close(actual, expected, tolerance=1e-4):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


# --- DeepLabV1 -----------------------------------------------------------------------


def test_v1_without_its_branches_is_large_fov(monkeypatch):
    """The classifier is linear: MSc branches of weight zero change nothing."""
    narrow(monkeypatch)
    plain = randomize(DeepLabV1(3))
    enhanced = randomize(DeepLabV1(3, multi_scale_features=True))
    kernel, bias = enhanced.get_layer("logits").get_weights()
    assert kernel.shape == (1, 1, 1024 + 5 * 128, 3)
    expected = plain.get_layer("logits").get_weights()
    kernel[:, :, 1024:] = 0
    kernel[:, :, :1024] = expected[0]
    enhanced.get_layer("logits").set_weights([kernel, expected[1]])
    image = image_batch(50, 67)
    assert_close(enhanced(image), plain(image))


def test_v1_at_stride_8_is_dilated_as_in_the_paper():
    model = DeepLabV1(3)
    for name, rate in (("block4_conv3", 1), ("block5_conv1", 2), ("fc6", 12)):
        assert model.get_layer(name).dilation_rate == (rate, rate)
    assert model.get_layer("block4_pool").strides == (1, 1)
    assert DeepLabV1(3, output_stride=16).get_layer("fc6").dilation_rate == (6, 6)


def test_vgg_dense_layers_are_sub_sampled_by_hand():
    fc1 = np.zeros([7 * 7 * 512, 4096], np.uint8)
    # Position (3, 6), channel 5, filter 8 -> (1, 2), 5, 2.
    fc1[(3 * 7 + 6) * 512 + 5, 8] = 9
    fc1[(3 * 7 + 5) * 512 + 5, 8] = 7  # between the positions that are kept
    fc2 = np.zeros([4096, 4096], np.uint8)
    fc2[8, 4] = 3
    bias = np.arange(4096)
    arrays = fully_connected_as_convolutions(
        {"fc1/kernel": fc1, "fc1/bias": bias, "fc2/kernel": fc2, "fc2/bias": bias}
    )
    assert arrays["fc6/kernel"].shape == (3, 3, 512, 1024)
    assert arrays["fc6/kernel"][1, 2, 5, 2] == 9 == arrays["fc6/kernel"].sum()
    assert arrays["fc7/kernel"].shape == (1, 1, 1024, 1024)
    assert arrays["fc7/kernel"][0, 0, 2, 1] == 3 == arrays["fc7/kernel"].sum()
    np.testing.assert_array_equal(arrays["fc6/bias"], bias[::4])


def write_vgg(path, rng):
    """VGG-16 without top, as keras.applications writes it."""
    reference = keras.applications.VGG16(include_top=False, weights=None)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in reference.layers]
        for layer in reference.layers:
            group = file.create_group(layer.name)
            names = []
            for variable, leaf in zip(layer.weights, ("kernel", "bias")):
                names.append(f"{layer.name}/{leaf}:0")
                group[names[-1]] = rng.normal(size=variable.shape).astype("float32")
            group.attrs["weight_names"] = [name.encode() for name in names]


def test_vgg_file_without_top_fills_the_convolutions_and_says_so(tmp_path):
    path = str(tmp_path / "vgg16_notop.h5")
    write_vgg(path, np.random.default_rng(0))
    model = DeepLabV1(3)
    fc6 = model.get_layer("fc6").get_weights()[0]
    report = load_backbone_weights(model, "vgg16", path)
    assert len(report.copied) == 2 * 13 and not report.unused
    assert set(report.missing) == {
        f"{layer}/{leaf}"
        for layer in ("fc6", "fc7", "logits")
        for leaf in ("kernel", "bias")
    }
    np.testing.assert_array_equal(model.get_layer("fc6").get_weights()[0], fc6)
    with h5py.File(path) as file:
        expected = file["block5_conv3/block5_conv3/kernel:0"][()]
    actual = model.get_layer("block5_conv3").get_weights()[0]
    np.testing.assert_array_equal(actual, expected)


# --- DeepLabV2 -----------------------------------------------------------------------


def test_v2_fuses_its_scales_by_maximum_and_shares_their_weights():
    options = {"backbone": TINY, "output_stride": 16}
    fused = randomize(DeepLabV2(4, auxiliary_outputs=True, **options))
    single = randomize(DeepLabV2(4, input_scales=(1.0,), **options))
    assert named_weights(fused).keys() == named_weights(single).keys()
    image = image_batch(97, 81)
    outputs = fused(image)
    assert list(outputs) == ["logits", "scale_1", "scale_0.75", "scale_0.5"]
    assert_close(outputs["scale_1"], single(image))
    # Upsampling keeps the values of the cells at every 16th pixel.
    cells = {
        name: np.asarray(scores)[:, ::16, ::16] for name, scores in outputs.items()
    }
    fusion = cells.pop("logits")
    np.testing.assert_array_equal(fusion, np.max(list(cells.values()), axis=0))
    assert all((fusion == scores).mean() > 0.05 for scores in cells.values())


def test_v2_scaled_image_by_hand():
    image = image_batch(9, 8)
    # Aligned: output pixel p is input pixel 2p.
    halved = np.asarray(heads.ScaleImage(0.5, aligned=True)(image))
    np.testing.assert_allclose(halved, image[:, ::2, ::2], rtol=1e-6)
    # By half pixels: the mean of inputs 2p and 2p + 1.
    halved = np.asarray(heads.ScaleImage(0.5)(image))
    blocks = image[:, :8].reshape(1, 4, 2, 4, 2, 3).mean((2, 4))
    np.testing.assert_allclose(halved, blocks, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rates", [heads.LARGE_FOV, heads.ASPP_S, heads.ASPP_L])
@pytest.mark.parametrize("backbone", ["vgg16", "resnet18"])
def test_v2_sums_the_branches_of_its_rates(backbone, rates, monkeypatch):
    narrow(monkeypatch)
    model = DeepLabV2(
        3, backbone, output_stride=8, atrous_rates=rates, input_scales=(1,)
    )
    first = {"vgg16": "fc6_", "resnet18": "logits_"}[backbone]
    layers = [layer for layer in model.layers if layer.name.startswith(first)]
    layers = [layer for layer in layers if hasattr(layer, "dilation_rate")]
    assert [layer.dilation_rate for layer in layers] == [(r, r) for r in rates]
    randomize(model)
    image = image_batch(48, 33)
    branches = [
        np.asarray(output_of(model, f"logits_{index}")(image))
        for index in range(1, len(rates) + 1)
    ]
    last = "aspp_sum" if len(rates) > 1 else "logits_1"
    assert_close(output_of(model, last)(image), np.sum(branches, axis=0))


def test_network_applied_again_has_the_same_weights():
    image, other = keras.Input([8, 8, 3]), keras.Input([None, None, 3])
    layer = keras.layers.Conv2D(2, 3)
    features = layer(image)
    joined = keras.layers.Add()([features, features])
    (again,) = apply_again(image, joined, [other])
    pixels = image_batch(12, 9)
    actual = keras.Model(other, again)(pixels)
    assert_close(actual, 2 * layer(pixels))


# --- DeepLabV3, cascade --------------------------------------------------------------


@pytest.mark.one_lane
@pytest.mark.parametrize("stride", [16, 128])
def test_cascade_sub_sampled_equals_twice_the_stride(stride, monkeypatch):
    narrow(monkeypatch)
    options = {"backbone": "resnet18", "multi_grid": (1, 2, 1)}
    dense = randomize(DeepLabV3Cascade(3, output_stride=stride, **options))
    sparse = randomize(DeepLabV3Cascade(3, output_stride=2 * stride, **options))
    image = image_batch(2 * stride + 1, 4 * stride + 1)
    actual = np.asarray(output_of(dense, "logits")(image))[:, ::2, ::2]
    assert_close(actual, output_of(sparse, "logits")(image))


@pytest.mark.one_lane
def test_cascade_rates_are_those_of_the_paper():
    """At output stride 16 rates are 2, 4, 8 and 16 for block4 to block7 (figure 3b)."""
    model = DeepLabV3Cascade(3, "resnet50", 16, multi_grid=(1, 2, 1))

    def rates(prefix):
        return [
            model.get_layer(f"{prefix}{unit}_2_conv").dilation_rate[0]
            for unit in (1, 2, 3)
        ]

    assert rates("conv5_block") == [2, 4, 2]
    assert rates("cascade_block5_unit") == [4, 8, 4]
    assert rates("cascade_block6_unit") == [8, 16, 8]
    assert rates("cascade_block7_unit") == [16, 32, 16]


@pytest.mark.one_lane
def test_cascade_begins_as_copies_of_block4(tmp_path):
    source = randomize(backbone_model("resnet50"))
    path = tmp_path / "imagenet.npz"
    np.savez(path, **{k: np.asarray(v) for k, v in named_weights(source).items()})
    model = DeepLabV3Cascade(3, "resnet50", weights=str(path))
    for unit, copied in ((1, 2), (2, 2), (3, 3)):
        for part in ("1_conv", "2_bn", "3_conv"):
            actual = model.get_layer(f"cascade_block7_unit{unit}_{part}").get_weights()
            expected = source.get_layer(f"conv5_block{copied}_{part}").get_weights()
            for one, other in zip(actual, expected):
                np.testing.assert_array_equal(one, other)


def backbone_model(name, output_stride=16):
    image = keras.Input([None, None, 3], name="image")
    return keras.Model(image, backbone_features(name, image, output_stride)["out"])


@pytest.mark.parametrize("blocks, last", [(0, 32), (1, 64), (2, 128)])
def test_cascade_of_fewer_blocks(blocks, last, monkeypatch):
    narrow(monkeypatch)
    model = DeepLabV3Cascade(
        3, "resnet18", last, multi_grid=(1, 1, 1), cascade_blocks=blocks
    )
    names = [layer.name for layer in model.layers]
    assert any(f"block{4 + blocks}" in name for name in names) or blocks == 0
    assert not any(f"cascade_block{5 + blocks}" in name for name in names)
    assert model(image_batch(65, 65)).shape == (1, 65, 65, 3)


# --- DeepLabV3 of torchvision --------------------------------------------------------


def test_auxiliary_head_has_its_weighted_loss_in_fit():
    # On the tiny backbone the two losses are too much alike to be told apart.
    backbone = "mobilenet_v2_0.35"
    model = randomize(DeepLabV3Torchvision(4, backbone, 16, auxiliary_outputs=True))
    config = small_config(
        num_classes=4, steps=10, auxiliary_weight=0.5, learning_rate=1e-9
    )
    compiling.compile_model(model, config)
    image = image_batch(49, 33, batch=2)
    label = np.random.default_rng(0).integers(0, 4, [2, 49, 33]).astype("int32")
    label[:, :5] = 255
    dataset = tf.data.Dataset.from_tensors((image, label))
    logs = model.evaluate(
        compiling.label_outputs(model, dataset), return_dict=True, verbose=0
    )
    outputs = model(image)
    loss = SegmentationLoss(255)
    parts = {name: float(loss(label, scores)) for name, scores in outputs.items()}
    assert parts["auxiliary"] != pytest.approx(parts["logits"], rel=1e-2)
    expected = parts["logits"] + 0.5 * parts["auxiliary"]
    assert logs["loss"] == pytest.approx(expected, rel=1e-4)
    metric = MeanIoU(4)
    metric.update_state(label, outputs["logits"])
    score = validation_score({f"val_{k}": v for k, v in logs.items()})
    assert score == pytest.approx(float(metric.result()), abs=1e-4)


def test_inference_leaves_the_auxiliary_head_out():
    model = randomize(DeepLabV3Torchvision(3, TINY, 16, auxiliary_outputs=True))
    reduced = inference_model(model)
    assert not any("auxiliary" in layer.name for layer in reduced.layers)
    image = image_batch(33, 49)
    np.testing.assert_array_equal(reduced(image), model(image)["logits"])
    assert inference_model(reduced) is reduced


# --- DeepLabV3+ ----------------------------------------------------------------------


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "backbone, layer, channels",
    [
        ("resnet50", "conv2_block2_3_bn", 256),
        ("resnet50_beta", "conv2_block2_3_bn", 256),
        ("xception41", "entry_flow_block2_separable_conv2_pointwise_BN", 256),
        ("xception71", "entry_flow_block3_separable_conv2_pointwise_BN", 256),
        ("mobilenet_v2", "block_2_depthwise_relu", 144),
    ],
)
def test_low_level_features_are_taken_where_the_authors_take_them(
    backbone, layer, channels
):
    model = DeepLabV3Plus(3, backbone)
    source = model.get_layer("decoder_low_level_conv").input
    assert source.shape[-1] == channels
    assert source is model.get_layer(layer).output


def test_xception_has_separable_convolutions_and_others_have_not():
    names = {layer.name for layer in DeepLabV3Plus(3, "xception41").layers}
    assert {"aspp_atrous3_depthwise", "decoder_conv3x3_2_depthwise"} <= names
    names = {layer.name for layer in DeepLabV3Plus(3, TINY).layers}
    assert {"aspp_atrous3_conv", "decoder_conv3x3_2_conv"} <= names


@pytest.mark.one_lane
def test_xception_dilates_as_the_authors_code_does():
    """Middle flow 2 and exit flow 2, 4 at output stride 8; 1 and 1, 2 at 16."""
    layers = [
        "middle_flow_unit_1_separable_conv1_depthwise",
        "exit_flow_block1_separable_conv3_depthwise",
        "exit_flow_block2_separable_conv1_depthwise",
    ]
    for output_stride, rates in ((8, [2, 2, 4]), (16, [1, 1, 2])):
        model = DeepLabV3(3, "xception41", output_stride)
        found = [model.get_layer(name).dilation_rate[0] for name in layers]
        assert found == rates


def test_aspp_without_rates_is_the_authors_head_for_phones():
    names = [layer.name for layer in DeepLabV3(3, TINY, atrous_rates=()).layers]
    assert "aspp_concat" in names and "aspp_atrous1_conv" not in names


# --- All of them ---------------------------------------------------------------------


@pytest.mark.one_lane
@pytest.mark.parametrize("name", MODELS)
def test_head_and_backbone_layers_are_told_apart_by_name(name):
    config = small_config(name, auxiliary_head=name in AUXILIARY_HEAD)
    image = keras.Input([None, None, 3], name="image")
    backbone = {
        layer.name
        for layer in keras.Model(
            image, backbone_features(config.backbone, image, 16)["out"]
        ).layers
    }
    model = build_model(config, output_stride=16, auxiliary_outputs=True)
    for layer in model.layers:
        if layer.weights:
            is_head = layer.name.startswith(HEAD_PREFIXES)
            assert is_head != (layer.name in backbone), layer.name


@pytest.mark.parametrize(
    "name", mark_rows(MODELS, pytest.mark.two_lanes, but=["deeplab_v3plus"])
)
def test_every_model_trains_saves_and_loads_in_plain_keras(name, tmp_path, monkeypatch):
    narrow(monkeypatch)
    keras.utils.set_random_seed(0)
    config = small_config(
        name,
        steps=16,
        output_stride=16,
        optimizer="adam",
        learning_rate=1e-3 if name == "deeplab_v1" else 1e-2,
        weight_decay=1e-6,
        auxiliary_head=name in AUXILIARY_HEAD,
        cascade_blocks=1,  # Keras 2.15 takes minutes to load large .keras files
    )
    model = build_model(config, auxiliary_outputs=True)
    compiling.compile_model(model, config)
    label = np.zeros([2, 33, 33], "int32")
    label[:, :, 16:] = 3
    label[:, :, 15:18] = 255
    image = np.repeat(label[..., None] % 255 * 60.0, 3, axis=-1).astype("float32")
    dataset = compiling.label_outputs(
        model, tf.data.Dataset.from_tensors((image, label)).repeat(8)
    )
    losses = model.fit(dataset, epochs=2, verbose=0).history["loss"]
    assert losses[1] < 0.7 * losses[0]
    inference = inference_model(model)
    inference.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_close(again(image), inference(image))
    assert len(again.losses) == len(inference.losses) > 0


def test_compiled_model_keeps_its_loss_in_a_keras_file(tmp_path):
    model = build_model(small_config())
    model.compile("sgd", loss=SegmentationLoss(254), metrics=[MeanIoU(5)])
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").loss.ignore_label == 254


@pytest.mark.parametrize(
    "build, arguments, message",
    [
        (DeepLabV1, {"backbone": "resnet50"}, "vgg16. Received: 'resnet50'"),
        (DeepLabV1, {"output_stride": 32}, r"\(8, 16\). Received: 32"),
        (DeepLabV2, {"input_scales": (0.5,)}, r"hold 1. Received: \(0.5,\)"),
        (DeepLabV3Cascade, {"backbone": TINY}, "needs a ResNet. Received"),
        (DeepLabV3Cascade, {"output_stride": 512}, "256.*Received: 512"),
        (DeepLabV3Plus, {"output_stride": 64}, r"\(8, 16, 32\). Received: 64"),
    ],
)
def test_bad_arguments_say_what_was_expected(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(3, **arguments)


@pytest.mark.parametrize(
    "default", [{"strided_padding": "valid"}, {"resize": "nearest"}]
)
def test_unknown_conventions_are_refused(default):
    with pytest.raises(ValueError, match="must be one of.*Received: '(valid|nearest)'"):
        with layer_defaults(**default):
            pass
