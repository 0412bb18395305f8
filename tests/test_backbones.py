"""Backbones against each other's output strides and against keras.applications."""

import dataclasses
import functools
import http.server
import threading

import h5py
import numpy as np
import pytest
from tensorflow import keras

from deeplab_tf.networks.backbones import BACKBONES, backbone_features, find_backbone
from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.blocks import HEAD_PREFIXES, layer_defaults
from deeplab_tf.networks.layers import NORMALIZATIONS, is_keras3
from deeplab_tf.networks.models import load_backbone_weights
from tests.support.networks import image_batch, randomize

# More units of what a shallower row already tests.
DEEPER = (
    "resnet34 resnet101 resnet152 resnet101_torchvision resnet101_beta xception65"
).split()
NAMES = [name for name in BACKBONES if name not in DEEPER]
NAMES += ["mobilenet_v2_0.35", "mobilenet_v2_0.5_unrounded"]


def backbone_model(name, output_stride, multi_grid=(1, 2, 4), outputs=None):
    image = keras.Input([None, None, 3], name="image")
    features = backbone_features(name, image, output_stride, multi_grid)
    return keras.Model(image, features[outputs] if outputs else features)


def assert_close(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


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


@pytest.mark.parametrize("name", NAMES)
def test_features_at_stride_8_subsampled_equal_stride_16(name):
    dense = randomize(backbone_model(name, 8))
    sparse = randomize(backbone_model(name, 16))
    for size in ((33, 65), (50, 71)):  # sizes 16 k + 1, and others
        dense_features, sparse_features = (
            m(image_batch(*size)) for m in (dense, sparse)
        )
        assert sparse_features["stride4"].shape[1:3] == tuple(-(-n // 4) for n in size)
        assert sparse_features["out"].shape[1:3] == tuple(-(-n // 16) for n in size)
        assert_close(dense_features["out"][:, ::2, ::2], sparse_features["out"])
        assert_close(dense_features["stride4"], sparse_features["stride4"])
        dense_auxiliary = dense_features["auxiliary"][:, ::2, ::2]
        assert_close(dense_auxiliary, sparse_features["auxiliary"])


@pytest.mark.parametrize(
    "name, multi_grid",
    [
        ("resnet18", (1, 1, 1)),
        ("resnet18", (2, 1)),
        ("resnet50_torchvision", (1, 2, 4)),
        ("resnet50", (1, 1, 1)),
        ("mobilenet_v2_0.35", (1, 1, 1)),
    ],
)
def test_features_at_stride_16_subsampled_equal_stride_32(name, multi_grid):
    dense = randomize(backbone_model(name, 16, multi_grid))
    sparse = randomize(backbone_model(name, 32, multi_grid))
    image = image_batch(96, 129)
    assert_close(dense(image)["out"][:, ::2, ::2], sparse(image)["out"])


def last_rates(name, output_stride, multi_grid):
    """Dilations of the 3x3 of the last stage, unit by unit."""
    model = backbone_model(name, output_stride, multi_grid, outputs="out")
    return [
        layer.dilation_rate[0]
        for layer in model.layers
        if layer.name.startswith("conv5_")
        and getattr(layer, "kernel_size", 0) == (3, 3)
    ]


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


def keras_application(name):
    """keras.applications' own network and its preprocessing, random weights."""
    if name.startswith("mobilenet_v2"):
        alpha = float(name.rpartition("_")[2]) if name.count("_") > 1 else 1.0
        model = keras.applications.MobileNetV2(
            input_shape=(65, 97, 3), include_top=False, weights=None, alpha=alpha
        )
        output = model.get_layer("block_16_project_BN").output
        return model, output, keras.applications.mobilenet_v2.preprocess_input
    model = keras.applications.ResNet50(
        input_shape=(65, 97, 3), include_top=False, weights=None
    )
    return model, model.output, keras.applications.resnet.preprocess_input


def write_legacy_h5(model, path):
    """The layout of the files that keras.applications downloads (Keras 2, HDF5)."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = []
            for variable in layer.weights:
                leaf = variable.name.rpartition("/")[2].partition(":")[0]
                names.append(f"{layer.name}/{leaf}:0".encode())
                group[names[-1].decode()] = np.asarray(variable)
            group.attrs["weight_names"] = names


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "mobilenet_v2_0.35"])
def test_weights_of_keras_applications_give_its_features(name, tmp_path):
    reference, output, preprocess = keras_application(name)
    randomize(reference)  # ResNets: with biases in front of BatchNorm
    path = tmp_path / "weights.h5"
    write_legacy_h5(reference, path)
    ours = backbone_model(name, 32, multi_grid=(1, 1, 1), outputs="out")
    report = load_backbone_weights(ours, name, str(path))
    assert not report.missing
    image = image_batch(65, 97)
    expected = keras.Model(reference.input, output)(preprocess(image.copy()))
    assert_close(ours(image), expected)


@pytest.mark.skipif(not is_keras3(), reason="Keras 2 writes no layer names there")
def test_weights_of_keras3_files(tmp_path):
    reference, _, _ = keras_application("mobilenet_v2_0.35")
    randomize(reference)
    reference.save_weights(tmp_path / "x.weights.h5")
    write_legacy_h5(reference, tmp_path / "x.h5")
    models = [backbone_model("mobilenet_v2_0.35", 32, outputs="out") for _ in range(2)]
    for model, name in zip(models, ("x.weights.h5", "x.h5")):
        load_backbone_weights(model, "mobilenet_v2_0.35", str(tmp_path / name))
    for new, legacy in zip(models[0].get_weights(), models[1].get_weights()):
        np.testing.assert_array_equal(new, legacy)


def test_file_of_another_network_is_refused_and_changes_nothing(tmp_path):
    reference, _, _ = keras_application("mobilenet_v2")
    write_legacy_h5(reference, tmp_path / "x.h5")
    model = backbone_model("mobilenet_v2_0.35", 16, outputs="out")
    before = model.get_weights()
    with pytest.raises(ValueError, match="holds Conv1/kernel as .* needs .*width"):
        load_backbone_weights(model, "mobilenet_v2_0.35", str(tmp_path / "x.h5"))
    resnet = backbone_model("resnet18", 16, outputs="out")
    with pytest.raises(ValueError, match="lacks .*conv1_bn.*another backbone"):
        load_backbone_weights(resnet, "resnet18", str(tmp_path / "x.h5"))
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_imagenet_is_downloaded_and_its_hash_checked(tmp_path, monkeypatch):
    reference, _, _ = keras_application("mobilenet_v2_0.35")
    write_legacy_h5(randomize(reference), tmp_path / "deeplab_tf_test_weights.h5")
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path)
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/deeplab_tf_test_weights.h5"
    row = dataclasses.replace(BACKBONES["mobilenet_v2"], imagenet_url=url)
    model = backbone_model("mobilenet_v2_0.35", 16, outputs="out")
    try:
        with pytest.raises(Exception, match="(?i)hash|incomplete|corrupt"):
            wrong = dataclasses.replace(row, imagenet_md5="0" * 32)
            monkeypatch.setitem(BACKBONES, "wrong", wrong)
            load_backbone_weights(model, "wrong", "imagenet")
        monkeypatch.setitem(BACKBONES, "local", row)
        report = load_backbone_weights(model, "local", "imagenet")
    finally:
        server.shutdown()
    assert len(report.copied) == len(model.weights)
    expected = reference.get_layer("Conv1").get_weights()[0]
    np.testing.assert_array_equal(model.get_layer("Conv1").get_weights()[0], expected)


def test_backbone_without_imagenet_weights_says_so():
    model = backbone_model("resnet18", 16, outputs="out")
    with pytest.raises(ValueError, match="no ImageNet weights"):
        load_backbone_weights(model, "resnet18", "imagenet")


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2_x", "mobilenet_v2_-1"])
def test_unknown_backbone_names_the_choices(name):
    with pytest.raises(ValueError, match="resnet101.*Received"):
        find_backbone(name)


def test_bad_options_name_the_choices():
    with pytest.raises(ValueError, match=r"\(8, 16, 32\). Received: 4"):
        backbone_model("resnet18", 4)
    with pytest.raises(ValueError, match=r"3 positive factors.*Received: \(1, 2\)"):
        backbone_model("resnet50", 16, multi_grid=(1, 2))


@pytest.mark.parametrize("name", NAMES)
def test_layers_of_backbones_are_not_called_as_those_of_heads(name):
    layers = backbone_model(name, 16).layers[1:]
    assert not [layer.name for layer in layers if layer.name.startswith(HEAD_PREFIXES)]


def test_every_row_states_how_its_weights_were_trained():
    for row in BACKBONES.values():
        assert row.normalization in NORMALIZATIONS
