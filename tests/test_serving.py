"""The exported SavedModel: signatures, answers, errors, and what lies on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

import export
import predict
from deeplab_tf import saved_models, serving
from deeplab_tf.inference import Segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.layers import native_atrous_convolution_works
from deeplab_tf.models import DeepLabV3
from deeplab_tf.workdir import load_workdir

LABELS = Labels(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (99, 99, 99)))
InvalidArgument = tf.errors.InvalidArgumentError


@pytest.fixture(scope="module")
def model(workdir):
    return load_workdir(workdir)[0]


@pytest.fixture(scope="module")
def segmenter(model):
    return Segmenter(model)


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def ask(loaded):
    """ask(signature, value) -> its outputs as numpy arrays."""

    def ask(name, value):
        signature = loaded.signatures[name]
        (argument,) = signature.structured_input_signature[1]
        answer = signature(**{argument: tf.convert_to_tensor(value)})
        return {key: output.numpy() for key, output in answer.items()}

    return ask


def read_meta_graph(path):
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((Path(path) / "saved_model.pb").read_bytes())
    return saved_model.meta_graphs[0]


def describe(tensors):
    return {
        name: (
            tf.dtypes.as_dtype(info.dtype).name,
            [d.size for d in info.tensor_shape.dim],
        )
        for name, info in tensors.items()
    }


def test_signatures_are_exactly_the_documented_ones(exported):
    signatures = dict(read_meta_graph(exported).signature_def)
    signatures.pop("__saved_model_init_op")
    images = {"images": ("uint8", [-1, -1, -1, 3])}
    documented = {
        "serving_default": (
            {"image_bytes": ("string", [-1])},
            {
                "classes_png": ("string", [-1]),
                "height": ("int32", [-1]),
                "width": ("int32", [-1]),
            },
        ),
        "serve_images": (images, {"classes": ("uint8", [-1, -1, -1])}),
        "serve_probabilities": (
            images,
            {"probabilities": ("float32", [-1, -1, -1, 4])},
        ),
    }
    assert documented == {
        name: (describe(signature.inputs), describe(signature.outputs))
        for name, signature in signatures.items()
    }


def test_encoded_images_of_different_sizes_in_one_batch(ask, segmenter, photos):
    paths = predict.find_images(str(photos))
    answer = ask("serving_default", [Path(path).read_bytes() for path in paths])
    for index, path in enumerate(paths):
        image = np.asarray(Image.open(path).convert("RGB"))
        assert answer["height"][index] == image.shape[0]
        assert answer["width"][index] == image.shape[1]
        png = tf.io.decode_png(answer["classes_png"][index])
        assert png.shape == (*image.shape[:2], 1)
        if path.endswith(".png"):  # JPEG decoders differ: see the next test
            np.testing.assert_array_equal(png[..., 0], segmenter.predict(image))


def test_predict_gives_the_same_classes_from_workdir_and_saved_model(
    workdir, exported, photos
):
    run = predict.make_predictor(str(workdir), None)
    served = predict.make_predictor(None, str(exported.parent))
    assert served.labels == run.labels
    for path in predict.find_images(str(photos)):
        image_bytes = Path(path).read_bytes()
        classes = run.predict(image_bytes)
        assert len(np.unique(classes)) > 1
        np.testing.assert_array_equal(served.predict(image_bytes), classes)


def test_raw_images_in_classes_or_probabilities_out(ask, segmenter):
    images = np.stack([serving.example_images(seed)[0] for seed in range(2)])
    np.testing.assert_array_equal(
        ask("serve_images", images)["classes"], segmenter.predict_batch(images)
    )
    probabilities = ask("serve_probabilities", images)["probabilities"]
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(
        probabilities, segmenter.probabilities(images), atol=1e-4
    )


def test_a_batch_of_none(ask):
    answer = ask("serving_default", tf.constant([], tf.string))
    assert {name: value.shape for name, value in answer.items()} == {
        name: (0,) for name in ("classes_png", "height", "width")
    }
    images = np.zeros([0, 40, 50, 3], np.uint8)
    assert ask("serve_images", images)["classes"].shape == (0, 40, 50)
    assert ask("serve_probabilities", images)["probabilities"].shape == (0, 40, 50, 4)


def test_bad_input_is_an_invalid_argument_with_a_sentence(ask, photos):
    too_small = "at least 32 pixels a side. Received: 31x40 .height x width"
    with pytest.raises(InvalidArgument, match=too_small):
        ask("serve_images", np.zeros([1, 31, 40, 3], np.uint8))
    png = tf.io.encode_png(np.zeros([31, 40, 3], np.uint8)).numpy()
    jpeg = (photos / "drawn.jpg").read_bytes()
    with pytest.raises(InvalidArgument, match=too_small):
        ask("serving_default", [jpeg, png])
    with pytest.raises(InvalidArgument, match="Unknown image file format"):
        ask("serving_default", [jpeg, b"no image"])
    with pytest.raises(InvalidArgument, match="(?i)jpeg"):
        ask("serving_default", [jpeg[: len(jpeg) // 2]])


def test_labels_travel_as_an_asset(exported, workdir):
    config = load_workdir(workdir)[1]
    labels = saved_models.read_labels(exported)
    assert labels.class_names == config.class_names
    assert labels.colormap == config.colormap
    assert labels.ignore_label == config.ignore_label
    assert os.listdir(exported / "assets") == ["labels.json"]


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet"])
def test_the_graph_has_no_space_to_batch(backbone, exported, tmp_path):
    if not native_atrous_convolution_works():
        pytest.skip("this device has no gradient for dilated convolutions")
    path = exported
    if backbone == "resnet":
        model = DeepLabV3(3, "resnet18", multi_grid=(1, 1))
        path = serving.export_model(model, LABELS, tmp_path)
    graph = read_meta_graph(path).graph_def
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    assert not {node.op for node in nodes if "SpaceToBatch" in node.op}
    dilations = {tuple(n.attr["dilations"].list.i) for n in nodes if n.op == "Conv2D"}
    assert {(1, 2, 2, 1), (1, 18, 18, 1)} <= dilations  # last stage and ASPP


def test_c_library_answers_as_predict_does(exported, workdir, photos, tmp_path):
    signature = read_meta_graph(exported).signature_def["serving_default"]
    image, result = photos / "drawn.jpg", tmp_path / "answer.png"
    command = [
        *(sys.executable, Path(__file__).with_name("c_loader.py"), exported),
        signature.inputs["image_bytes"].name,
        signature.outputs["classes_png"].name,
        *(image, result),
    ]
    subprocess.run(command, check=True, cwd=tmp_path)
    predictor = predict.make_predictor(str(workdir), None)
    assert not predict.predict_files(predictor, [str(image)], str(tmp_path))
    answer, predicted = Image.open(result), Image.open(tmp_path / "classes/drawn.png")
    assert answer.mode == "L" and predicted.mode == "P"
    np.testing.assert_array_equal(np.asarray(answer), np.asarray(predicted))


def test_versions_count_up_and_are_never_replaced(exported, model, tmp_path):
    for name in ("2", "10", "assets", ".export-99-1"):
        (tmp_path / name).mkdir()
    assert saved_models.next_version(tmp_path) == 11
    assert saved_models.next_version(tmp_path / "new") == 1
    with pytest.raises(FileExistsError, match="10 exists. Give another --version"):
        serving.export_model(model, labels_of(4), tmp_path, version=10)
    with pytest.raises(ValueError, match="positive integer. Received: 0"):
        serving.export_model(model, labels_of(4), tmp_path, version=0)
    assert saved_models.find_version(exported.parent) == str(exported)
    assert os.listdir(exported.parent) == ["1"]


def labels_of(count):
    return Labels(("name",) * count, ((0, 0, 0),) * count)


def test_labels_must_fit_the_model(model, tmp_path):
    with pytest.raises(ValueError, match="has 4 classes .* Received: 3 names"):
        serving.export_model(model, LABELS, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("existing", [[], ["1"]])
def test_nothing_is_left_after_a_failure(existing, model, tmp_path, monkeypatch):
    output_dir, seen = tmp_path / "served", []
    for name in existing:
        (output_dir / name).mkdir(parents=True)

    def write_half(model, labels, path):
        seen.append(Path(path))
        (seen[0] / "variables").mkdir(parents=True)
        raise OSError("disk full")

    monkeypatch.setattr(serving, "_write", write_half)
    with pytest.raises(OSError, match="disk full"):
        serving.export_model(model, labels_of(4), output_dir)
    assert output_dir.exists() == bool(existing)
    assert [p.name for p in output_dir.glob("*")] == existing
    # What lay there meanwhile is no version to TF Serving, which reads whole numbers.
    assert seen[0].parent == output_dir and not seen[0].name.isdecimal()


def test_an_export_that_differs_is_not_published(model, tmp_path, monkeypatch):
    def compare(path, *_):
        assert (Path(path) / "saved_model.pb").is_file()
        raise RuntimeError("differs")

    monkeypatch.setattr(serving, "compare_with_model", compare)
    monkeypatch.setattr(serving, "_write", lambda *arguments: touch(arguments[-1]))
    with pytest.raises(RuntimeError, match="differs"):
        serving.export_model(model, labels_of(4), tmp_path / "served")
    assert os.listdir(tmp_path) == []


def touch(folder):
    Path(folder).mkdir()
    (Path(folder) / "saved_model.pb").touch()


def test_the_comparison_notices_another_model(exported, workdir):
    other = load_workdir(workdir)[0]
    bias = other.get_layer("logits").weights[-1]
    bias.assign(bias + np.float32([3, 0, 0, 0]))
    with pytest.raises(RuntimeError, match="not give the Keras model's probabilities"):
        serving.compare_with_model(exported, other, serving.example_images())


def test_the_comparison_notices_wrong_classes():
    logits = np.float32([[[1, 5], [5, 5 + 1e-6]]])
    serving._check_classes("x", np.uint8([[1, 0]]), logits)  # the second is a tie
    with pytest.raises(RuntimeError, match="other classes .* 1 of 2 pixels"):
        serving._check_classes("x", np.uint8([[0, 1]]), logits)


def test_export_of_no_run_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a workdir"):
        export.export_workdir(tmp_path, tmp_path / "new")
    assert os.listdir(tmp_path) == []
