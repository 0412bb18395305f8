"""Backbones against keras.applications, and its networks as backbones."""

import dataclasses
import functools
import http.server
import threading

import h5py
import numpy as np
import pytest
from tensorflow import keras

from deeplab_tf.networks.backbones import BACKBONES, backbone_features
from deeplab_tf.networks.backbones.convnext import convolutions_of_keras
from deeplab_tf.networks.backbones.keras_applications import (
    APPLICATIONS,
    keras_application,
)
from deeplab_tf.networks.blocks import layer_defaults
from deeplab_tf.networks.layers import NORMALIZATIONS, is_keras3
from deeplab_tf.networks.models import load_backbone_weights
from tests.support.lanes import all_in_lane_a
from tests.support.networks import (
    assert_close,
    backbone_model,
    image_batch,
    randomize,
)

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def scale_to_unit(image):
    return image / 127.5 - 1


def scale_as_torch(image):
    rule = NORMALIZATIONS["torch"]
    return ((image - rule.mean) / rule.deviation).astype("float32")


# Name -> keras.applications' function, its layers that read the image and give what our
# backbone gives (None: the model's own), how the image is prepared for it.
OF_KERAS = {
    "resnet50": ("ResNet50", None, None, keras.applications.resnet.preprocess_input),
    "mobilenet_v2": ("MobileNetV2", None, "block_16_project_BN", scale_to_unit),
    "mobilenet_v3_large": ("MobileNetV3Large", None, None, np.asarray),
    "mobilenet_v3_small": ("MobileNetV3Small", None, None, np.asarray),
    "efficientnet_v2_b0": ("EfficientNetV2B0", None, "block6h_add", np.asarray),
    "convnext_tiny": ("ConvNeXtTiny", None, None, np.asarray),
    "keras.MobileNet": ("MobileNet", None, None, scale_to_unit),
    "keras.ResNet50V2": ("ResNet50V2", None, None, scale_to_unit),
    # What prepares its image are statistics of Keras' file.
    "keras.EfficientNetB0": ("EfficientNetB0", "stem_conv_pad", None, scale_as_torch),
}


def network_of_keras(name, size=(65, 97)):
    """keras.applications' own network with random weights, and its preprocessing."""
    kind, options = name, {"input_shape": (*size, 3)}
    if name.endswith("_minimalistic"):
        kind, options["minimalistic"] = name.rpartition("_")[0], True
    elif name not in OF_KERAS:
        kind, _, alpha = name.rpartition("_")
        options["alpha"] = float(alpha)
    build, first, last, prepare = OF_KERAS[kind]
    model = getattr(keras.applications, build)(
        include_top=False, weights=None, **options
    )
    output = model.get_layer(last).output if last else model.output
    if first:
        model = keras.Model(model.get_layer(first).input, output)
        output = model.output
    return model, output, prepare


def write_legacy_h5(model, path):
    """The layout of the files that keras.applications downloads (Keras 2, HDF5)."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            # The name of a layer of Keras 2 may begin with that of another.
            group = file.require_group(layer.name)
            names = []
            for variable in layer.weights:
                leaf = variable.name.rpartition("/")[2].partition(":")[0]
                names.append(f"{layer.name}/{leaf}:0".encode())
                group[names[-1].decode()] = np.asarray(variable)
            group.attrs["weight_names"] = names


# Whether Keras pads as PyTorch does is seen at even sizes.
KERAS_APPLICATIONS = [
    ("resnet50", "symmetric", (64, 97)),
    ("mobilenet_v2", "symmetric", (65, 97)),
    ("mobilenet_v2_0.35", "same", (64, 96)),
    ("mobilenet_v3_large", "symmetric", (65, 97)),
    ("mobilenet_v3_small_0.75", "same", (64, 96)),
    ("efficientnet_v2_b0", "same", (64, 96)),
    ("convnext_tiny", "same", (64, 96)),
    ("keras.MobileNet", "same", (64, 64)),
    ("keras.EfficientNetB0", "symmetric", (65, 65)),
]
MORE_APPLICATIONS = [
    slow("mobilenet_v3_small", "same", (64, 96)),
    slow("mobilenet_v3_small_minimalistic", "symmetric", (65, 65)),
    slow("keras.ResNet50V2", "symmetric", (64, 65)),
]


@pytest.mark.two_lanes
@pytest.mark.parametrize(
    "name, padding, size",
    all_in_lane_a(KERAS_APPLICATIONS, KERAS_APPLICATIONS[2:4]) + MORE_APPLICATIONS,
)
def test_weights_of_keras_applications_give_its_features(name, padding, size, tmp_path):
    reference, output, preprocess = network_of_keras(name, size)
    randomize(reference)  # ResNets: with biases in front of BatchNorm
    path = tmp_path / "weights.h5"
    write_legacy_h5(reference, path)
    with layer_defaults(strided_padding=padding):
        ours = backbone_model(name, 32, multi_grid=(1, 1, 1), outputs="out")
    report = load_backbone_weights(ours, name, str(path))
    assert not report.missing
    image = image_batch(*size)
    expected = keras.Model(reference.input, output)(preprocess(image.copy()))
    assert_close(ours(image), expected)
    assert np.std(expected) > 0.01 * np.abs(expected).max()


@pytest.mark.skipif(not is_keras3(), reason="Keras 2 writes no layer names there")
def test_weights_of_keras3_files(tmp_path):
    reference, _, _ = network_of_keras("mobilenet_v2_0.35")
    randomize(reference)
    reference.save_weights(tmp_path / "x.weights.h5")
    write_legacy_h5(reference, tmp_path / "x.h5")
    models = [backbone_model("mobilenet_v2_0.35", 32, outputs="out") for _ in range(2)]
    for model, name in zip(models, ("x.weights.h5", "x.h5")):
        load_backbone_weights(model, "mobilenet_v2_0.35", str(tmp_path / name))
    for new, legacy in zip(models[0].get_weights(), models[1].get_weights()):
        np.testing.assert_array_equal(new, legacy)


def test_names_of_convnext_in_files_of_keras_2_and_3():
    """Arrays of a Sequential and without names; of its parts, by their number."""
    block = "convnext_tiny_stage_0_block_0"
    ours = {
        "convnext_tiny_stem_conv/kernel": (4, 4, 3, 2),
        "convnext_tiny_stem_layernorm/beta": (2,),
        "convnext_tiny_downsampling_layernorm_1/gamma": (3,),
        f"{block}_depthwise_conv/kernel": (7, 7, 2, 1),
        f"{block}_pointwise_conv_1/kernel": (1, 1, 2, 8),
        f"{block}_layer_scale/gamma": (2,),
        "convnext_tiny_head_layernorm/beta": (5,),
    }
    keras2 = {
        "convnext_tiny_stem/kernel": (4, 4, 3, 2),
        "convnext_tiny_stem/beta": (2,),
        "convnext_tiny_downsampling_block_1/gamma": (3,),
        f"{block}_depthwise_conv/kernel": (7, 7, 1, 2),
        f"{block}_pointwise_conv_1/kernel": (2, 8),
        f"{block}_layer_scale/Variable": (2,),
        "layer_normalization_4/beta": (5,),
    }
    keras3 = {
        "convnext_tiny_stem_conv/kernel": (4, 4, 3, 2),
        "convnext_tiny_stem_layernorm/bias": (2,),
        "convnext_tiny_downsampling_layernorm_1/kernel": (3,),
        f"{block}_depthwise_conv/kernel": (7, 7, 1, 2),
        f"{block}_pointwise_conv_1/kernel": (2, 8),
        f"{block}_layer_scale/kernel": (2,),
        "layer_normalization/bias": (5,),
    }
    for shapes in (keras2, keras3):
        arrays = {name: np.ones(shape) for name, shape in shapes.items()}
        found = convolutions_of_keras(arrays)
        assert {name: array.shape for name, array in found.items()} == ours


def test_file_of_another_network_is_refused_and_changes_nothing(tmp_path):
    reference, _, _ = network_of_keras("mobilenet_v2")
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
    reference, _, _ = network_of_keras("mobilenet_v2_0.35")
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
            wrong = dataclasses.replace(row, imagenet_hash="0" * 32)
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


# Keras' own counts, with BatchNorm's statistics and without the layers that are left
# out here: top_conv and top_bn, and of ConvNeXt nothing.
PARAMETERS = {
    "mobilenet_v3_large": 2_996_352,
    "mobilenet_v3_small": 939_120,
    "efficientnet_v2_b0": 5_919_312 - 192 * 1280 - 4 * 1280,
    "convnext_tiny": 27_820_128,
}


@pytest.mark.parametrize("name, count", PARAMETERS.items())
def test_parameters_are_those_of_keras_applications(name, count):
    model = backbone_model(name, 16, outputs="out")
    assert sum(int(np.prod(weight.shape)) for weight in model.weights) == count


# --- keras.applications as they are --------------------------------------------------

# What docs/models.md says of those that are not in.
REFUSED = {
    "VGG19": "block1_pool.*only pooling of 3x3",
    "Xception": "block1_conv1.*0 zeros around",
    "InceptionV3": "0 zeros around",
    "InceptionResNetV2": "0 zeros around",
    "DenseNet121": "conv2_block1_concat.*not known",
    "NASNetMobile": "0 zeros around",
}


@pytest.mark.parametrize(
    "name",
    [name if name == "VGG19" else slow(name) for name in REFUSED],
)
def test_networks_that_do_not_fit_the_rule_are_refused_with_the_reason(name):
    image = keras.Input([None, None, 3])
    with pytest.raises(ValueError, match=REFUSED[name]):
        keras_application(image, 8, (), application=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_every_application_of_the_table_has_the_same_features_at_each_stride(name):
    image = image_batch(65, 65)
    features = [
        np.asarray(randomize(backbone_model(f"keras.{name}", stride))(image)["out"])
        for stride in (8, 16, 32)
    ]
    assert_close(features[0][:, ::2, ::2], features[1])
    assert_close(features[1][:, ::2, ::2], features[2])


def test_an_application_has_no_multi_grid():
    image = keras.Input([None, None, 3])
    with pytest.raises(ValueError, match=r"no multi_grid. Received: \(1, 2\)"):
        backbone_features("keras.MobileNet", image, 16, (1, 2))
