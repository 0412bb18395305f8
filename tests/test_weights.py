"""Other projects' files: their outputs, their workdirs, and what is refused.

Golden outputs were computed by those projects' own code.
"""

from __future__ import annotations

import hashlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from benchmarks.tflite_agreement import TFLiteNetwork, compare
from datasets.build_voc2012 import build_voc2012
from deeplab_tf.commands import evaluate, run_exports, train
from deeplab_tf.config import TrainConfig
from deeplab_tf.files import sole_writer_in
from deeplab_tf.inference.segmenter import Segmenter, load_segmenter
from deeplab_tf.labels import labels_for
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.weight_files import named_weights
from deeplab_tf.pictures.images import read_image
from deeplab_tf.training import compiling
from deeplab_tf.weights import importing, sources
from deeplab_tf.workdir import load_workdir
from tests.support import torchvision_golden
from tests.support.networks import image_batch
from tests.support.torch_writers import Raw, payloads, write_legacy, write_zip
from tests.support.weight_writers import (
    ROUNDED_HALF,
    UNROUNDED_HALF,
    bonlime_mobilenet,
    golden,
    slim_names,
    slim_resnet_beta,
    state_dict,
    write_checkpoint,
    write_legacy_h5,
)

pytestmark = pytest.mark.two_lanes

FLOAT_TFLITE = "deeplabv3_257_mv_gpu.tflite"
QUANTIZED_TFLITE = "deeplabv3_mnv2_pascal_quant.tflite"
PHOTOS = ("2007_001774", "2007_004112", "2007_004189")


@pytest.fixture
def folder(tmp_path):
    """A folder that is emptied at once: golden weights take 170 MB each."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def assert_golden(actual, expected):
    """Relative error below 1e-5 in all and, of all but tiny values, 1e-3 in each."""
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape
    error = np.abs(actual - expected)
    assert np.linalg.norm(error) < 1e-5 * np.linalg.norm(expected)
    size = np.maximum(np.abs(expected), 0.01 * np.abs(expected).max())
    assert (error / size).max() < 1e-3


def outputs_of(model, layer, image):
    """Returns (output of a layer, output of the model)."""
    return keras.Model(model.input, [model.get_layer(layer).output, model.output])(
        image
    )


def assert_complete(report, tensors):
    """Every tensor found its place, and nothing else was expected."""
    used = [name for name in tensors if not name.endswith("num_batches_tracked")]
    assert len(report.copied) == len(used)
    assert not report.missing and not report.unused


# --- Golden outputs ------------------------------------------------------------------


def test_torchvision(shared_data, folder):
    tensors, rule, outputs = golden(shared_data, "torchvision_deeplabv3_resnet50")
    path = write_zip(folder / "weights.pth", state_dict(tensors))
    model, config, report = importing.load_source("torchvision", path)
    assert_complete(report, tensors)
    assert (config.model, config.num_classes) == ("deeplab_v3_torchvision", 21)
    layers = ["logits", "upsample", "upsample_auxiliary"]
    tensors = [model.get_layer(layer).output for layer in layers]
    small, logits, auxiliary = keras.Model(model.input, tensors)(rule.image(65, 81))
    assert_golden(small, outputs["logits_stride8"])
    assert_golden(logits, outputs["logits"])
    assert_golden(auxiliary, outputs["aux"])


@pytest.mark.parametrize("network", torchvision_golden.NETWORKS)
def test_torchvision_on_mobilenet_v3(network, tmp_path):
    tensors, expected = torchvision_golden.read(network)
    path = write_zip(tmp_path / "weights.pth", state_dict(tensors))
    model, config, report = importing.load_source("torchvision", path)
    added = ["aspp_gate/bias"] * (config.model == "lr_aspp")  # zeros, there none
    used = [name for name in tensors if not name.endswith("num_batches_tracked")]
    assert len(report.copied) == len(used) + len(added)
    assert not report.missing and not report.unused
    assert config.backbone == "mobilenet_v3_large_torchvision"
    outputs = model(torchvision_golden.image()[None].astype("float32"))
    if not isinstance(outputs, dict):
        outputs = {"logits": outputs}
    names = {"logits": "out", "auxiliary": "aux"}
    assert {names[name] for name in outputs} == set(expected)
    step = torchvision_golden.GRID
    for name, output in outputs.items():
        assert_golden(np.asarray(output)[:, ::step, ::step], expected[names[name]])


@pytest.mark.one_lane
def test_kazuto1011(shared_data, folder):
    tensors, rule, outputs = golden(shared_data, "kazuto1011_deeplabv2_resnet101_msc")
    path = write_legacy(folder / "weights.pth", state_dict(tensors))
    image = rule.image(97, 81)
    for changes, layer, expected in (
        ({}, "multi_scale_fusion", "logits_stride8"),
        ({"input_scales": (1.0,)}, "aspp_sum", "single_scale_stride8"),
    ):
        model, config, report = importing.load_source("kazuto1011", path, **changes)
        assert_complete(report, tensors)
        assert (config.model, config.num_classes) == ("deeplab_v2", 21)
        small, logits = outputs_of(model, layer, image)
        assert_golden(small, outputs[expected])
        stretched = tf.image.resize(outputs[expected], (97, 81))
        assert_golden(logits, stretched.numpy())


# Two ways to the same function: .h5 files of one project hold what the other trained.
AUTHORS_NETWORKS = {
    "bonlime_deeplabv3plus_xception65_os16": ("xception_65", 16, "deeplab_v3plus"),
    "bonlime_deeplabv3_mobilenetv2_os8": ("MobilenetV2", 8, "deeplab_v3"),
}


@pytest.mark.one_lane
@pytest.mark.parametrize("source", ["bonlime", "research_deeplab"])
@pytest.mark.parametrize("name", AUTHORS_NETWORKS)
def test_networks_of_the_authors(shared_data, folder, name, source):
    tensors, rule, outputs = golden(shared_data, name)
    scope, output_stride, model_name = AUTHORS_NETWORKS[name]
    changes = {}
    if source == "bonlime":
        path = write_legacy_h5(folder / "weights.h5", tensors)
    else:
        path = write_checkpoint(folder / "model.ckpt", slim_names(tensors, scope))
        # What keras-deeplab-v3-plus does in another way.
        changes.update(strided_padding="same", resize="half_pixel")
        changes.update(output_stride=output_stride)
    model, config, report = importing.load_source(source, path, **changes)
    assert_complete(report, tensors)
    assert (config.model, config.output_stride) == (model_name, output_stride)
    small, logits = outputs_of(model, "logits", rule.image(65, 81))
    assert_golden(small, outputs["logits_low"])
    assert_golden(logits, outputs["logits"])


# --- research/deeplab ----------------------------------------------------------------


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "widths, backbone",
    [
        (ROUNDED_HALF, "mobilenet_v2_0.5"),
        (UNROUNDED_HALF, "mobilenet_v2_0.5_unrounded"),
    ],
)
def test_half_mobilenet_by_both_names(tmp_path, widths, backbone):
    tensors = bonlime_mobilenet(widths=widths)
    slim = slim_names(tensors, "MobilenetV2")
    assert "MobilenetV2/expanded_conv/depthwise/depthwise_weights" in slim
    assert "MobilenetV2/expanded_conv_16/project/BatchNorm/gamma" in slim
    other, _, _ = importing.load_source(
        "bonlime", write_legacy_h5(tmp_path / "x.h5", tensors), resize="aligned"
    )
    write_checkpoint(tmp_path / "model.ckpt-30000", slim)
    model, config, report = importing.load_source(
        "research_deeplab", tmp_path, output_stride=8, strided_padding="same"
    )
    assert_complete(report, tensors)
    assert (config.backbone, config.num_classes) == (backbone, 4)
    image = image_batch(65, 97)
    np.testing.assert_array_equal(model(image), other(image))


def test_resnet_beta_with_a_decoder_that_is_not_separable(folder):
    tensors = slim_resnet_beta((3, 4, 6, 3), num_classes=19)
    path = write_checkpoint(folder / "model.ckpt", tensors)
    model, config, report = importing.load_source("research_deeplab", f"{path}.index")
    assert_complete(report, tensors)
    assert (config.model, config.backbone) == ("deeplab_v3plus", "resnet50_beta")
    assert config.colormap[0] == (128, 64, 128)  # Cityscapes' road
    variables = named_weights(model)
    scope, tail = "resnet_v1_50/block2", "bottleneck_v1"
    for theirs, ours in {
        "resnet_v1_50/conv1_2/weights": "conv1_2_conv/kernel",
        f"{scope}/unit_1/{tail}/shortcut/weights": "conv3_block1_0_conv/kernel",
        f"{scope}/unit_4/{tail}/conv1/BatchNorm/beta": "conv3_block4_1_bn/beta",
        f"{scope}/unit_2/{tail}/conv2/weights": "conv3_block2_2_conv/kernel",
        f"{scope}/unit_3/{tail}/conv3/BatchNorm/gamma": "conv3_block3_3_bn/gamma",
        "image_pooling/BatchNorm/moving_mean": "aspp_pool_bn/moving_mean",
        "aspp2/weights": "aspp_atrous2_conv/kernel",
        "concat_projection/weights": "aspp_projection_conv/kernel",
        "decoder/feature_projection0/weights": "decoder_low_level_conv/kernel",
        "decoder/decoder_conv0/decoder_conv0_1/BatchNorm/moving_variance": (
            "decoder_conv3x3_1_bn/moving_variance"
        ),
        "decoder/decoder_conv0/decoder_conv0_2/weights": (
            "decoder_conv3x3_2_conv/kernel"
        ),
        "logits/semantic/biases": "logits/bias",
    }.items():
        np.testing.assert_array_equal(variables[ours], tensors[theirs], err_msg=theirs)


def test_backbone_of_an_imagenet_checkpoint(tmp_path, capsys):
    tensors = {
        name: array
        for name, array in slim_resnet_beta((3, 4, 6, 3), num_classes=2).items()
        if name.startswith("resnet_v1_50/")
    }
    classifier = "resnet_v1_50/logits/weights"
    tensors[classifier] = np.zeros([1, 1, 2048, 1000], np.float32)
    path = write_checkpoint(tmp_path / "model.ckpt", tensors)
    message = refusal(capsys, "research_deeplab", path)
    assert "holds a resnet50_beta that classifies images" in message
    output = tmp_path / "out"
    importing.main(
        ["research_deeplab", str(path), f"--output={output}", "--partial"]
        + ["--set=multi_grid=[1,2,1]", "--set=model=deeplab_v3"]
    )
    model, config = load_workdir(output)
    assert (config.model, config.multi_grid) == ("deeplab_v3", (1, 2, 1))
    variables = named_weights(model)
    expected = tensors["resnet_v1_50/block4/unit_3/bottleneck_v1/conv3/weights"]
    np.testing.assert_array_equal(variables["conv5_block3_3_conv/kernel"], expected)
    out = capsys.readouterr().out
    assert f"{len(tensors) - 1} weights copied" in out
    assert "1 of the file left out" in out


def scalars(names):
    """Tensors of which only the names count."""
    return {name: np.zeros((1, 1, 1, 1), np.float32) for name in names}


@pytest.mark.parametrize("entry, middle, depth", [(3, 8, 41), (3, 16, 65), (5, 16, 71)])
def test_depth_of_an_xception_is_read_off_its_names(entry, middle, depth):
    module = "unit_1/xception_module/separable_conv1_pointwise/weights"
    names = [f"entry_flow/block{i}/{module}" for i in range(1, entry + 1)]
    names += [
        f"middle_flow/block1/{module}".replace("unit_1", f"unit_{i}")
        for i in range(1, middle + 1)
    ]
    tensors = scalars([f"xception_{depth}/{name}" for name in names])
    tensors.update(scalars(["logits/semantic/weights"]))
    network = sources.research_deeplab(tensors)
    assert network.config["backbone"] == f"xception{depth}" and not network.unused
    assert network.config["model"] == "deeplab_v3"  # without a decoder


@pytest.mark.parametrize(
    "units, depth", [((3, 4, 6, 3), 50), ((3, 4, 23, 3), 101), ((3, 8, 36, 3), 152)]
)
def test_depth_of_a_resnet_is_read_off_its_names(units, depth):
    tensors = {
        source: scalars(
            pattern.format(stage + first, unit + index)
            for stage, count in enumerate(units)
            for unit in range(count)
        )
        for source, pattern, first, index in (
            ("torchvision", "backbone.layer{}.{}.conv2.weight", 1, 0),
            ("kazuto1011", "scale.layer{}.block{}.conv3x3.conv.weight", 2, 1),
        )
    }
    tensors["torchvision"].update(scalars(["classifier.4.weight"]))
    tensors["kazuto1011"].update(scalars(["scale.aspp.c0.weight"]))
    network = sources.torchvision(tensors["torchvision"])
    assert network.config["backbone"] == f"resnet{depth}_torchvision"
    network = sources.kazuto1011(tensors["kazuto1011"])
    assert network.config["backbone"] == f"resnet{depth}" and not network.unused
    assert network.config["input_scales"] == (1.0, 0.75, 0.5)
    plain = {name[len("scale.") :]: x for name, x in tensors["kazuto1011"].items()}
    assert sources.kazuto1011(plain).config["input_scales"] == (1.0,)


# --- .tflite, on real images ---------------------------------------------------------


@pytest.mark.parametrize(
    "file, backbone, output_stride, least",
    [
        (FLOAT_TFLITE, "mobilenet_v2_0.5_unrounded", 8, 0.995),
        (QUANTIZED_TFLITE, "mobilenet_v2", 16, 0.975),
    ],
)
def test_tflite_networks(shared_data, file, backbone, output_stride, least):
    path = str(shared_data / "weights" / file)
    model, config, report = importing.load_source("tflite", path)
    assert not report.missing and not report.unused
    assert (config.backbone, config.output_stride) == (backbone, output_stride)
    network = TFLiteNetwork(path)
    folder = shared_data / "VOCdevkit" / "VOC2012" / "JPEGImages"
    results = []
    for name in PHOTOS:
        encoded = tf.io.read_file(str(folder / f"{name}.jpg"))
        image = tf.io.decode_jpeg(encoded, channels=3).numpy()
        results.append(compare(model, network, image))
    agreements, differences = np.transpose(results)
    assert agreements.mean() >= least
    if not network.quantized:
        assert differences.max() < 1e-3


# --- The workdir ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_workdir(shared_data, tmp_path_factory):
    """Workdir of a network that really segments."""
    path = tmp_path_factory.mktemp("real") / "new" / "workdir"
    file = shared_data / "weights" / FLOAT_TFLITE
    importing.main(["tflite", str(file), f"--output={path}"])
    return path


@pytest.fixture(scope="module")
def voc_records(shared_data, tmp_path_factory):
    """TFRecords of `PHOTOS`."""
    devkit = tmp_path_factory.mktemp("voc")
    lists = devkit / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join(PHOTOS))
    for folder in ("JPEGImages", "SegmentationClass"):
        (devkit / folder).symlink_to(shared_data / "VOCdevkit" / "VOC2012" / folder)
    build_voc2012(devkit, devkit / "records", num_processes=1)
    return str(devkit / "records")


@pytest.mark.one_lane
def test_workdir_is_evaluated(real_workdir, voc_records):
    segmenter = Segmenter.from_workdir(real_workdir)
    evaluation, _ = evaluate.evaluate(segmenter, segmenter.labels, voc_records, "val")
    assert len(evaluation.names) == len(PHOTOS)
    assert evaluation.results()["pixel_accuracy"] > 0.85


def test_workdir_predicts(real_workdir, shared_data):
    segmenter = load_segmenter(str(real_workdir), None)
    folder = shared_data / "VOCdevkit" / "VOC2012" / "JPEGImages"
    classes = segmenter.predict(read_image(folder / f"{PHOTOS[0]}.jpg"))
    names = [segmenter.labels.class_names[index] for index in np.unique(classes)]
    assert set(names) & {"sheep", "dog", "cat", "cow", "horse", "person"}, names


def test_workdir_starts_a_run(real_workdir, voc_records):
    changes = {
        "init": str(real_workdir),
        "data_dir": voc_records,
        "train_split": "val",
        "output_stride": 16,
        "batch_size": 1,
    }
    config, _ = train.make_run("deeplab_v3_voc2012_stage1", changes)
    assert (config.backbone, config.model) == (
        "mobilenet_v2_0.5_unrounded",
        "deeplab_v3",
    )
    assert (config.atrous_rates, config.output_stride) == ((), 16)
    model = build_model(config, auxiliary_outputs=True)
    report = compiling.initialize(model, config)
    assert not report.missing and not report.unused
    trained = named_weights(load_workdir(real_workdir)[0])
    for name, variable in named_weights(model).items():
        np.testing.assert_array_equal(variable, trained[name], err_msg=name)


@pytest.mark.one_lane
def test_workdir_of_any_classes_is_exported(tmp_path, capsys):
    """A file whose last layer and number of classes are somebody's own."""
    tensors = bonlime_mobilenet(num_classes=4)
    path = write_legacy_h5(tmp_path / "mine.h5", tensors)
    workdir = tmp_path / "workdir"
    workdir.mkdir()  # empty, so it may be there
    importing.main(["bonlime", str(path), "--output", str(workdir)])
    printed = capsys.readouterr().out
    assert f"{len(tensors)} weights copied\n" in printed
    assert f"predict.py --workdir={workdir}" in printed
    assert sorted(item.name for item in workdir.iterdir()) == [
        "best.npz",
        "config.json",
    ]
    _, config = load_workdir(workdir)
    assert config.class_names == ("class 0", "class 1", "class 2", "class 3")
    assert len(set(config.colormap)) == 4
    assert run_exports.export_workdir(str(workdir), str(tmp_path / "exported"))


# --- What is refused -----------------------------------------------------------------


def refusal(capsys, source, path, *options):
    """Runs the command; returns its one line, having checked that it left nothing."""
    folder = path.parent
    before = sorted(folder.rglob("*"))
    output = folder / "output"
    with pytest.raises(SystemExit) as caught:
        importing.main([source, str(path), f"--output={output}", *options])
    assert sorted(folder.rglob("*")) == before
    message = str(caught.value)
    assert message.startswith("deeplab_tf.weights: ") and "\n" not in message
    assert not capsys.readouterr().out
    return message


def without(tensors, *names):
    return {name: array for name, array in tensors.items() if name not in names}


def changed(**arrays):
    """A network of 21 classes with some of its tensors replaced."""
    tensors = bonlime_mobilenet(num_classes=21)
    renamed = {name.replace("__", "/"): array for name, array in arrays.items()}
    assert renamed.keys() <= tensors.keys()
    return {**tensors, **renamed}


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "arrays, message",
    [
        (
            {"custom_logits_semantic__bias": np.zeros(19, np.float32)},
            r"holds logits/bias as \(19,\), the model needs \(21,\).*number of classes",
        ),
        (
            {"expanded_conv_3_expand_BN__gamma": np.zeros(95, np.float32)},
            r"holds block_3_expand_BN/gamma as \(95,\), the model needs \(96,\)",
        ),
        (
            {"aspp0__kernel": np.zeros((1, 1, 159, 256), np.float32)},
            r"holds aspp_1x1_conv/kernel as \(1, 1, 159, 256\)",
        ),
        ({"custom_logits_semantic__kernel": np.float32(3)}, "four dimensions"),
        ({"expanded_conv_16_project__kernel": np.zeros((9, 9))}, "four dimensions"),
        (
            {
                "custom_logits_semantic__kernel": np.zeros((1, 1, 256, 1)),
                "custom_logits_semantic__bias": np.zeros(1),
            },
            "num_classes must be at least 2",
        ),
    ],
)
def test_tensors_of_a_wrong_shape(tmp_path, capsys, arrays, message):
    tensors = changed(**arrays)
    path = write_legacy_h5(tmp_path / "x.h5", tensors)
    assert re.search(message, refusal(capsys, "bonlime", path))


def test_checkpoint_whose_class_counts_disagree(tmp_path, capsys):
    tensors = changed(custom_logits_semantic__bias=np.zeros(19, np.float32))
    names = slim_names(tensors, "MobilenetV2")
    path = write_checkpoint(tmp_path / "model.ckpt", names)
    assert "holds logits/bias as (19,)" in refusal(capsys, "research_deeplab", path)


@pytest.mark.one_lane
def test_missing_and_left_over_tensors(tmp_path, capsys):
    tensors = bonlime_mobilenet()
    lacking = without(tensors, "aspp0_BN/gamma", "aspp0_BN/beta")
    path = write_legacy_h5(tmp_path / "x.h5", lacking)
    message = refusal(capsys, "bonlime", path)
    assert "lacks 2 of the model's" in message and "aspp_1x1_bn/beta" in message
    _, _, report = importing.load_source("bonlime", path, partial=True)
    assert report.missing == ("aspp_1x1_bn/beta", "aspp_1x1_bn/gamma")
    # One that means nothing, and one that has a meaning, but not in this network.
    more = {
        "other/kernel": np.zeros((1, 1, 2, 2), np.float32),
        "expanded_conv_17_expand/kernel": np.zeros((1, 1, 2, 2), np.float32),
    }
    write_legacy_h5(path, {**tensors, **more})
    message = refusal(capsys, "bonlime", path)
    assert "2 tensors" in message and "--partial" in message
    assert "other/kernel" in message and "block_17_expand/kernel" in message
    output = tmp_path / "output"
    importing.main(["bonlime", str(path), f"--output={output}", "--partial"])
    assert "2 of the file left out" in capsys.readouterr().out
    assert (output / "best.npz").is_file()


def test_file_of_another_network(tmp_path, capsys):
    classifier = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None)
    tensors = {name: np.asarray(x) for name, x in named_weights(classifier).items()}
    path = write_legacy_h5(tmp_path / "mobilenet_v2.h5", tensors)
    message = refusal(capsys, "bonlime", path)
    assert "is not DeepLabV3+ of bonlime/keras-deeplab-v3-plus" in message
    assert f"holds {len(tensors)} tensors, such as Conv1/kernel" in message
    path = write_zip(tmp_path / "x.pth", state_dict(scalars(["fc.weight"])))
    for source in ("torchvision", "kazuto1011"):
        assert "The file is not" in refusal(capsys, source, path)
    # Another project's network, but not of this depth.
    names = ["backbone.layer4.5.conv1.weight", "classifier.4.weight"]
    path = write_zip(tmp_path / "x.pth", state_dict(scalars(names)))
    assert "It has (0, 0, 0, 6)" in refusal(capsys, "torchvision", path)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_truncated_pth(tmp_path, capsys, write):
    tensors = {"classifier.4.weight": np.ones((21, 256, 1, 1), np.float32)}
    path = write(tmp_path / "weights.pth", state_dict(tensors))
    content = path.read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        for source in ("torchvision", "kazuto1011"):
            assert "cannot be read" in refusal(capsys, source, path)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("payload", payloads("", ""))
def test_malicious_pickle(tmp_path, capsys, write, payload):
    trace = tmp_path / "trace"
    command, expression = f'echo > "{trace}"', f"open({str(trace)!r}, 'w').close()"
    value = state_dict({"classifier.4.weight": np.ones((21, 256, 1, 1), np.float32)})
    value["x"] = Raw(payloads(command, expression)[payload])
    path = write(tmp_path / "weights.pth", value)
    message = refusal(capsys, "torchvision", path)  # also: no file has appeared
    assert "Nothing was executed" in message
    assert not trace.exists()


def test_altered_file_whose_name_carries_its_hash(tmp_path, capsys):
    tensors = {"classifier.4.weight": np.ones((21, 256, 1, 1), np.float32)}
    path = write_zip(tmp_path / "x.pth", state_dict(tensors))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path = path.rename(tmp_path / f"deeplabv3_resnet50_coco-{digest}.pth")
    assert "is no ResNet-50" in refusal(capsys, "torchvision", path)  # it was read
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert f"begins with {digest}" in refusal(capsys, "torchvision", path)
    renamed = path.rename(tmp_path / "deeplabv3_resnet50_coco-0123abcd.pth")
    assert "begins with 0123abcd" in refusal(capsys, "torchvision", renamed)


def test_damaged_h5(tmp_path, capsys):
    path = write_legacy_h5(tmp_path / "x.h5", bonlime_mobilenet())
    content = path.read_bytes()
    for size in (0, 100, 5000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert "x.h5" in refusal(capsys, "bonlime", path)


def test_damaged_checkpoint(tmp_path, capsys):
    names = slim_names(bonlime_mobilenet(), "MobilenetV2")
    path = write_checkpoint(tmp_path / "model.ckpt", names)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    index = tmp_path / "model.ckpt.index"
    for file in (data, index):
        content = file.read_bytes()
        for size in (0, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:size])
            assert "model.ckpt" in refusal(capsys, "research_deeplab", path)
        file.write_bytes(content)
    data.unlink()
    assert "model.ckpt" in refusal(capsys, "research_deeplab", path)
    index.unlink()
    assert "No checkpoint" in refusal(capsys, "research_deeplab", path)


def test_damaged_tflite(shared_data, tmp_path, capsys):
    """TensorFlow 2.15's interpreter crashes on some of these."""
    content = (shared_data / "weights" / FLOAT_TFLITE).read_bytes()
    path = tmp_path / "x.tflite"
    sizes = (0, 10, 1000, 100_000, len(content) // 2, len(content) - 5000)
    for size in sizes:
        path.write_bytes(content[:size])
        message = refusal(capsys, "tflite", path)
        assert "is not a .tflite file, or it is cut short" in message


@pytest.mark.parametrize("source", sorted(importing.SOURCES))
def test_absent_file_and_other_content(tmp_path, capsys, source):
    assert "No " in refusal(capsys, source, tmp_path / "absent")
    path = tmp_path / "page.html"
    path.write_text("<!DOCTYPE html><html>404</html>")
    assert "page.html" in refusal(capsys, source, path)


def test_output_that_exists_is_left_alone(tmp_path, capsys):
    path = write_legacy_h5(tmp_path / "x.h5", bonlime_mobilenet())
    output = tmp_path / "output"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    assert "output exists" in refusal(capsys, "bonlime", path)
    shutil.rmtree(output)
    output.write_text("a file")
    assert "output exists" in refusal(capsys, "bonlime", path)
    assert output.read_text() == "a file"


def test_failure_while_writing_leaves_nothing(tmp_path, capsys, monkeypatch):
    path = write_legacy_h5(tmp_path / "x.h5", bonlime_mobilenet())

    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(importing, "save_weights", fail)
    assert "No space left" in refusal(capsys, "bonlime", path)


def test_unknown_source_names_the_choices(tmp_path, capsys):
    with pytest.raises(ValueError, match="'bonlime'.*'torchvision'.*Received: 'onnx'"):
        importing.load_source("onnx", tmp_path / "x")
    with pytest.raises(SystemExit):
        importing.main(["onnx", "x", "--output=y"])
    said = capsys.readouterr().err
    assert "expected one of bonlime" in said and "Received: onnx" in said


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("class_names=[a,b]", "Texts stand in quotes"),
        ('class_names=["a","b"]', "has 4 classes. Received: 2 as class_names"),
        ("num_classes=2", "has 4 classes. Received: 2 as num_classes"),
        ("colormap=[[0,0,0]]", "colormap needs one value for each of the 4"),
    ],
)
def test_classes_that_the_network_has_not_are_refused(
    tmp_path, capsys, change, sentence
):
    path = write_legacy_h5(tmp_path / "mine.h5", bonlime_mobilenet(num_classes=4))
    assert sentence in refusal(capsys, "bonlime", path, f"--set={change}")


@pytest.mark.parametrize("options", [(), ('--set=class_names=["a","b"]',)])
def test_names_that_nobody_gave_are_told(tmp_path, capsys, options, monkeypatch):
    path = write_legacy_h5(tmp_path / "mine.h5", bonlime_mobilenet(num_classes=2))
    importing.main(["bonlime", str(path), f"--output={tmp_path / 'run'}", *options])
    printed = capsys.readouterr().out
    if options:
        assert "Classes: 0 a, 1 b" in printed and "ASSUMED" not in printed
    else:
        assert "ASSUMED by their number, 2" in printed
        assert "0 class 0, 1 class 1" in printed


@pytest.mark.parametrize("count, name", [(11, "sky"), (19, "road"), (21, "aeroplane")])
def test_names_of_a_known_number_are_assumed_aloud(count, name):
    labels = labels_for(count)
    config = TrainConfig(num_classes=count, class_names=labels.class_names)
    told = importing.describe_classes(config, given=False)
    assert f" {name}" in told and "ASSUMED" in told


def test_an_auxiliary_head_of_other_classes_is_left_out():
    """Who exchanges torchvision's classifier alone leaves the one of COCO."""
    arrays = {
        "logits/kernel": np.zeros([1, 1, 8, 4]),
        "logits_auxiliary/kernel": np.zeros([1, 1, 8, 21]),
        "logits_auxiliary/bias": np.zeros([21]),
        "auxiliary_conv/kernel": np.zeros([3, 3, 8, 8]),
    }
    network = sources.Network({}, arrays, ())
    kept, dropped = importing._without_other_head(network)
    assert list(kept.arrays) == ["logits/kernel"]
    assert sorted(dropped) == sorted(set(arrays) - {"logits/kernel"})
    same = {**arrays, "logits/kernel": np.zeros([1, 1, 8, 21])}
    network = sources.Network({}, same, ())
    assert importing._without_other_head(network) == (network, ())


def test_an_import_clears_what_a_killed_one_left_and_is_the_only_one(tmp_path, capsys):
    path = write_legacy_h5(tmp_path / "mine.h5", bonlime_mobilenet(num_classes=2))
    output = tmp_path / "runs" / "mine"
    (tmp_path / "runs" / ".weights-mine").mkdir(parents=True)
    (tmp_path / "runs" / ".weights-mine" / "best.npz").write_bytes(b"half")
    arguments = ["bonlime", str(path), f"--output={output}"]
    with sole_writer_in(tmp_path / "runs", "mine"):
        with pytest.raises(SystemExit, match="mine is being written by process"):
            importing.main(arguments)
    importing.main(arguments)
    assert [each.name for each in (tmp_path / "runs").iterdir()] == ["mine"]
    assert sorted(each.name for each in output.iterdir()) == ["best.npz", "config.json"]
