"""The exported SavedModel: signatures, answers, errors, and what lies on disk."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from deeplab_tf.commands import run_exports
from deeplab_tf.exports import saved_model, signatures
from deeplab_tf.exports.agreement import example_images, share_of_best
from deeplab_tf.files import InUse, sole_writer_in
from deeplab_tf.inference import saved_models
from deeplab_tf.inference.segmenter import Segmenter, load_segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.networks.folding import freeze
from deeplab_tf.networks.models import DeepLabV3
from deeplab_tf.pictures.images import read_image
from deeplab_tf.prediction.input_files import find_inputs
from deeplab_tf.prediction.outputs import Output, predict_files
from deeplab_tf.workdir import load_workdir
from tests.support import c_loader

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


def test_signatures_are_those_of_the_table_and_keep_their_form(exported):
    found = dict(read_meta_graph(exported).signature_def)
    found.pop("__saved_model_init_op")
    assert set(found) == set(signatures.SIGNATURES)
    images = {"images": ("uint8", [-1, -1, -1, 3])}
    documented = {
        "serving_default": (
            {"image_bytes": ("string", [-1])},
            {
                "classes_png_bytes": ("string", [-1]),
                "height": ("int32", [-1]),
                "width": ("int32", [-1]),
            },
        ),
        "serve_confidence": (
            {"image_bytes": ("string", [-1])},
            {
                "classes_png_bytes": ("string", [-1]),
                "confidence_png_bytes": ("string", [-1]),
                "class_shares": ("float32", [-1, 4]),
            },
        ),
        "serve_images": (images, {"classes": ("uint8", [-1, -1, -1])}),
        "serve_probabilities": (
            images,
            {"probabilities": ("float32", [-1, -1, -1, 4])},
        ),
        "metadata": ({"keys": ("string", [-1])}, {"values": ("string", [-1])}),
    }
    assert documented == {
        name: (describe(found[name].inputs), describe(found[name].outputs))
        for name in documented
    }


def test_encoded_images_of_different_sizes_in_one_batch(ask, segmenter, photos):
    paths = find_inputs(str(photos))
    answer = ask("serving_default", [Path(path).read_bytes() for path in paths])
    assert len(answer["height"]) == len(paths) == 4
    for index, path in enumerate(paths):
        image = np.asarray(Image.open(path).convert("RGB"))
        assert answer["height"][index] == image.shape[0]
        assert answer["width"][index] == image.shape[1]
        png = tf.io.decode_png(answer["classes_png_bytes"][index])
        assert png.shape == (*image.shape[:2], 1)
        if path.endswith(".png"):  # JPEG decoders differ: see the next test
            np.testing.assert_array_equal(png[..., 0], segmenter.predict(image))


def test_confidence_and_shares_are_those_of_the_probabilities(ask, photos):
    paths = [path for path in find_inputs(str(photos)) if path.endswith(".png")]
    files = [Path(path).read_bytes() for path in paths]
    answer, classes = ask("serve_confidence", files), ask("serving_default", files)
    assert list(answer["classes_png_bytes"]) == list(classes["classes_png_bytes"])
    for index, path in enumerate(paths):
        image = np.asarray(Image.open(path).convert("RGB"))
        (found,) = ask("serve_probabilities", image[None])["probabilities"]
        shares = np.bincount(found.argmax(-1).ravel(), minlength=4) / found[..., 0].size
        np.testing.assert_allclose(answer["class_shares"][index], shares, atol=1e-6)
        levels = tf.io.decode_png(answer["confidence_png_bytes"][index]).numpy()
        # Blocks of 4 x 4; those at the edges have what there is, both edges alike.
        missing = [-side % 4 for side in image.shape[:2]]
        around = [(each // 2, each - each // 2) for each in missing]
        padded = np.pad(found.max(-1), around, constant_values=np.nan)
        height, width = (side // 4 for side in padded.shape)
        blocks = np.nanmean(padded.reshape(height, 4, width, 4), (1, 3))
        assert levels.shape == (height, width, 1)
        np.testing.assert_allclose(levels[..., 0] / 255, blocks, atol=0.6 / 255)


def test_predict_gives_the_same_classes_from_workdir_and_saved_model(
    workdir, exported, photos
):
    run = load_segmenter(str(workdir), None)
    served = load_segmenter(None, str(exported.parent))
    assert served.labels == run.labels
    for path in find_inputs(str(photos)):
        image = read_image(path)
        classes = run.predict(image)
        assert len(np.unique(classes)) > 1
        np.testing.assert_array_equal(served.predict(image), classes)


def test_raw_images_in_classes_or_probabilities_out(ask, segmenter):
    images = np.stack([example_images(seed)[0] for seed in range(2)])
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
        name: (0,) for name in ("classes_png_bytes", "height", "width")
    }
    images = np.zeros([0, 40, 50, 3], np.uint8)
    assert ask("serve_images", images)["classes"].shape == (0, 40, 50)
    assert ask("serve_probabilities", images)["probabilities"].shape == (0, 40, 50, 4)


def test_images_out_of_bounds_are_an_invalid_argument_with_a_sentence(ask, photos):
    too_small = "at least 32 pixels a side. Received .height x width.: 31 x 40"
    with pytest.raises(InvalidArgument, match=too_small):
        ask("serve_images", np.zeros([1, 31, 40, 3], np.uint8))
    png = tf.io.encode_png(np.zeros([31, 40, 3], np.uint8)).numpy()
    jpeg = (photos / "drawn.jpg").read_bytes()
    with pytest.raises(InvalidArgument, match=too_small):
        ask("serving_default", [jpeg, png])


def png_header(width, height):
    """What a PNG that claims such a size begins with; there is nothing behind."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + b"\x08\2\0\0\0"


@pytest.mark.parametrize(
    "size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (4097, 4096)]
)
def test_huge_images_are_refused_before_they_are_decoded(ask, size):
    width, height = size
    sentence = f"at most 16777216 pixels. Received .*: {height} x {width}"
    with pytest.raises(InvalidArgument, match=sentence):
        ask("serving_default", [png_header(*size)])


def test_a_huge_jpeg_is_refused_before_it_is_decoded(ask, photos):
    jpeg = (photos / "drawn.jpg").read_bytes()
    frame = jpeg.index(b"\xff\xc0")  # start of frame: height and width at byte 5
    huge = jpeg[: frame + 5] + b"\xfd\xe8\xfd\xe8" + jpeg[frame + 9 :]
    with pytest.raises(InvalidArgument, match="Received .*: 65000 x 65000"):
        ask("serving_default", [huge])


def test_a_jpeg_of_a_thousand_scans_is_refused_before_it_is_decoded(ask):
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG", progressive=True)
    jpeg = file.getvalue()
    scan = jpeg[jpeg.rfind(b"\xff\xda") : jpeg.rfind(b"\xff\xd9")]
    with pytest.raises(InvalidArgument, match="a JPEG of at most 100 scans"):
        ask("serving_default", [jpeg[:-2] + 1000 * scan + jpeg[-2:]])


@pytest.mark.parametrize(
    "name", ["text", "empty", "gif", "bmp", "half", "magic", "riff"]
)
def test_bytes_of_no_jpeg_or_png_are_refused_by_name(ask, photos, name):
    jpeg = (photos / "drawn.jpg").read_bytes()
    neither = "Expected a JPEG or PNG image. Received bytes of neither, as many as: "
    gif = b"GIF89a" + bytes(50)
    data, sentence = {
        "text": (b"no image", neither + "8"),
        "empty": (b"", neither + "0"),
        "gif": (gif, neither + "56"),
        "bmp": (b"BM" + bytes(70), neither + "72"),
        "riff": (b"RIFF\0\0\0\0WEBP", neither + "12"),
        "magic": (b"\x89PNG\r\n\x1a\n", "at least 32 pixels a side.*: 0 x 0"),
        "half": (jpeg[: len(jpeg) // 2], "(?i)jpeg"),
    }[name]
    with pytest.raises(InvalidArgument, match=sentence):
        ask("serving_default", [jpeg, data])


def test_metadata_tell_of_classes_and_model(ask, workdir):
    config = load_workdir(workdir)[1]
    keys = ["model", "class_names", "colormap", "ignore_label", "max_pixels"]
    assert sorted(keys) == sorted(signatures.METADATA_KEYS)
    model, names, colors, ignore, pixels = map(
        json.loads, ask("metadata", keys)["values"]
    )
    assert names == list(config.class_names)
    assert colors == [list(color) for color in config.colormap]
    assert (ignore, pixels) == (255, 2**24)
    assert model["backbone"] == "tiny"
    assert (model["precision"], model["scales"], model["flip"]) == (
        "float32",
        [1],
        False,
    )
    with pytest.raises(InvalidArgument, match="keys out of class_names.*: model, na"):
        ask("metadata", ["model", "names"])


def test_labels_travel_as_an_asset(exported, workdir):
    config = load_workdir(workdir)[1]
    labels = saved_models.read_labels(exported)
    assert labels.class_names == config.class_names
    assert labels.colormap == config.colormap
    assert labels.ignore_label == config.ignore_label
    assert os.listdir(exported / "assets") == ["labels.json"]


@pytest.mark.parametrize("change", [-1, 1])
def test_labels_of_another_number_of_classes_are_refused(change, exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "1")
    labels = json.loads((copy / "assets/labels.json").read_text())
    for name, more in (("class_names", ["more"]), ("colormap", [[1, 2, 3]])):
        labels[name] = labels[name][:-1] if change < 0 else labels[name] + more
    (copy / "assets/labels.json").write_text(json.dumps(labels))
    count = len(labels["class_names"])
    sentence = (
        f"labels.json names {count} classes, and the network has {count - change}"
    )
    with pytest.raises(ValueError, match=sentence):
        Segmenter.from_saved_model(copy)


def test_dilated_convolutions_are_one_operation(tmp_path):
    model = DeepLabV3(3, "resnet18", multi_grid=(1, 1))
    images = example_images()[:1]
    path, _ = saved_model.export_model(model, LABELS, tmp_path, images=images)
    graph = read_meta_graph(path).graph_def
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    assert not {node.op for node in nodes if "SpaceToBatch" in node.op}
    dilations = {tuple(n.attr["dilations"].list.i) for n in nodes if n.op == "Conv2D"}
    assert {(1, 2, 2, 1), (1, 18, 18, 1)} <= dilations  # last stage and ASPP


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_an_export_runs_with_and_without_onednn(onednn, exported, photos, tmp_path):
    """A server's processor need not be that of whoever exports."""
    image, expected = photos / "drawn.jpg", tmp_path / "expected.png"
    ask_c_library(exported, image, expected)
    ask_c_library(
        exported, image, tmp_path / "answer.png", TF_ENABLE_ONEDNN_OPTS=onednn
    )
    answer, expected = (
        np.asarray(Image.open(path)) for path in (tmp_path / "answer.png", expected)
    )
    assert np.mean(answer == expected) > 0.999


def test_c_library_answers_as_predict_does(exported, workdir, photos, tmp_path):
    image, result = photos / "drawn.jpg", tmp_path / "answer.png"
    ask_c_library(exported, image, result)
    run = load_segmenter(str(workdir), None)
    assert not predict_files(run, [str(image)], Output(str(tmp_path)))
    answer, predicted = Image.open(result), Image.open(tmp_path / "classes/drawn.png")
    assert answer.mode == "L" and predicted.mode == "P"
    np.testing.assert_array_equal(np.asarray(answer), np.asarray(predicted))


def ask_c_library(exported, image, result, **environment):
    """Has TensorFlow's C library segment an image's file, in a process of its own."""
    signature = read_meta_graph(exported).signature_def["serving_default"]
    command = [
        *(sys.executable, Path(c_loader.__file__), exported),
        signature.inputs["image_bytes"].name,
        signature.outputs["classes_png_bytes"].name,
        *(image, result),
    ]
    environment = {**os.environ, **environment}
    subprocess.run(command, check=True, cwd=result.parent, env=environment)


def test_versions_count_up_and_are_never_replaced(exported, model, tmp_path):
    for name in ("2", "10", "assets", ".export-99-1"):
        (tmp_path / name).mkdir()
    assert saved_models.next_version(tmp_path) == 11
    assert saved_models.next_version(tmp_path / "new") == 1
    with pytest.raises(FileExistsError, match="10 exists. Give another --version"):
        saved_model.export_model(model, labels_of(4), tmp_path, version=10)
    with pytest.raises(ValueError, match="positive integer. Received: 0"):
        saved_model.export_model(model, labels_of(4), tmp_path, version=0)
    assert saved_models.find_version(exported.parent) == str(exported)
    assert os.listdir(exported.parent) == ["1"]


def labels_of(count):
    return Labels(("name",) * count, ((0, 0, 0),) * count)


def test_labels_must_fit_the_model(model, tmp_path):
    with pytest.raises(ValueError, match="has 4 classes .* Received: 3 names"):
        saved_model.export_model(model, LABELS, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("existing", [[], ["1"]])
def test_nothing_is_left_after_a_failure(existing, model, tmp_path, monkeypatch):
    output_dir, seen = tmp_path / "served", []
    for name in existing:
        (output_dir / name).mkdir(parents=True)

    def write_half(module, path, **_):
        seen.append(Path(path))
        (seen[0] / "variables").mkdir(parents=True)
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", write_half)
    with pytest.raises(OSError, match="disk full"):
        saved_model.export_model(model, labels_of(4), output_dir)
    assert output_dir.exists() == bool(existing)
    assert [p.name for p in output_dir.glob("*")] == existing
    # What lay there meanwhile is no version to TF Serving, which reads whole numbers.
    assert seen[0].parent == output_dir and not seen[0].name.isdecimal()


@pytest.mark.parametrize("where", ["save", "warmup"])
def test_a_full_disk_is_one_sentence(where, model, tmp_path, monkeypatch):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(
            None, None, f"{tmp_path}/variables/x.tempstate; No space left on device"
        )

    monkeypatch.setattr(
        tf.saved_model, "save", full if where == "save" else write_empty
    )
    monkeypatch.setattr(saved_model, "compare_with_model", lambda *_: None)
    monkeypatch.setattr(saved_model, "write_warmup", full)
    with pytest.raises(OSError) as error:
        saved_model.export_model(model, labels_of(4), tmp_path / "served")
    assert str(error.value) == (
        f"The export cannot be written to {tmp_path / 'served'}: No space left on "
        "device. No version was added. Make room on the disk, then run again."
    )
    assert os.listdir(tmp_path) == []


def test_what_a_killed_export_left_is_cleared_by_the_next(model, tmp_path, monkeypatch):
    (tmp_path / ".export-3-99" / "variables").mkdir(parents=True)
    (tmp_path / "1").mkdir()
    monkeypatch.setattr(tf.saved_model, "save", write_empty)
    monkeypatch.setattr(saved_model, "compare_with_model", lambda *_: None)
    monkeypatch.setattr(saved_model, "write_warmup", lambda *_: None)
    path, _ = saved_model.export_model(model, labels_of(4), tmp_path)
    assert (os.path.basename(path), sorted(os.listdir(tmp_path))) == ("2", ["1", "2"])


def test_two_exports_into_one_folder_do_not_meet(model, tmp_path):
    with sole_writer_in(tmp_path, "export"):
        with pytest.raises(InUse, match=f"being written by process {os.getpid()}"):
            saved_model.export_model(model, labels_of(4), tmp_path)
    assert os.listdir(tmp_path) == []


def test_an_export_that_differs_is_not_published(model, tmp_path, monkeypatch):
    def compare(path, *_):
        assert (Path(path) / "saved_model.pb").is_file()
        raise RuntimeError("differs")

    monkeypatch.setattr(saved_model, "compare_with_model", compare)
    monkeypatch.setattr(tf.saved_model, "save", write_empty)
    with pytest.raises(RuntimeError, match="differs"):
        saved_model.export_model(model, labels_of(4), tmp_path / "served")
    assert os.listdir(tmp_path) == []


def write_empty(module, path, **_):
    Path(path).mkdir()
    (Path(path) / "saved_model.pb").touch()


def compare(exported, served, model):
    return saved_model.compare_with_model(
        exported,
        freeze(served),
        model,
        example_images()[:1],
        saved_model.BOUNDS["float32"],
    )


@pytest.mark.two_lanes
def test_the_comparison_notices_another_model(exported, workdir, model):
    other = load_workdir(workdir)[0]
    agreement = compare(exported, model, other)
    assert agreement.images == 1
    assert agreement.classes == 1 and agreement.logits < 1e-4
    bias = other.get_layer("logits").weights[-1]
    bias.assign(bias + np.float32([1e3, 0, 0, 0]))
    with pytest.raises(RuntimeError, match="not answer as the Keras model does: l"):
        compare(exported, model, other)
    with pytest.raises(RuntimeError, match=r"and \d+.\d+% of the pixels"):
        compare(exported, other, other)
    bias.assign(bias * np.float32("nan"))
    with pytest.raises(RuntimeError, match="differ by up to nan"):
        compare(exported, other, model)


def test_of_two_tied_classes_either_will_do():
    probabilities = np.float32([[[0.2, 0.8], [0.5, 0.5 + 1e-7]]])
    assert share_of_best(np.uint8([[1, 0]]), probabilities) == 1
    assert share_of_best(np.uint8([[0, 1]]), probabilities) == 0.5


@pytest.mark.two_lanes
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_served_and_told(precision, workdir, tmp_path):
    images = example_images()[:1]
    path, agreement = run_exports.export_workdir(
        workdir, tmp_path, precision=precision, images=images
    )
    bound = saved_model.BOUNDS[precision]
    assert 1e-6 < agreement.logits <= bound.logits
    assert bound.agreement <= agreement.classes
    dtypes = [
        tf.dtypes.as_dtype(node.attr["T"].type).name
        for function in read_meta_graph(path).graph_def.library.function
        for node in function.node_def
        if node.op == "Conv2D"
    ]
    # The classifier is float32 under every policy.
    assert dtypes.count(precision) == len(dtypes) - 1


@pytest.mark.two_lanes
def test_scales_and_flip_inside_the_export(workdir, tmp_path, photos):
    options = {"scales": (0.75, 1.0), "flip": True}
    images = example_images()[:1]
    path, _ = run_exports.export_workdir(workdir, tmp_path, images=images, **options)
    signatures = tf.saved_model.load(path).signatures
    image = read_image(photos / "drawn.png")
    served = signatures["serve_images"](images=tf.constant(image[None]))["classes"][0]
    run = Segmenter.from_workdir(workdir, **options)
    np.testing.assert_array_equal(served, run.predict(image))
    assert (served != Segmenter.from_workdir(workdir).predict(image)).numpy().any()


@pytest.mark.two_lanes
@pytest.mark.parametrize("constants", [False, True])
def test_batch_norm_is_folded_into_variables_or_constants(constants, model, tmp_path):
    path, agreement = saved_model.export_model(
        model,
        labels_of(4),
        tmp_path,
        images=example_images()[:1],
        constants=constants,
    )
    assert agreement.classes == 1
    graph = read_meta_graph(path).graph_def
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    operations = {node.op for node in nodes}
    assert not {op for op in operations if "BatchNorm" in op}
    assert {"Conv2D", "BiasAdd"} <= operations
    variables = Path(path) / "variables"
    sizes = [
        sum(file.stat().st_size for file in variables.iterdir()),
        (Path(path) / "saved_model.pb").stat().st_size,
    ]
    assert sizes[constants] > 3 * sizes[not constants]


def test_warmup_requests_are_what_the_server_replays(exported, ask):
    prediction_log_pb2 = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2"
    )
    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    requests = [log.predict_log.request for log in logs]
    asked = [request.model_spec.signature_name for request in requests]
    table = signatures.SIGNATURES
    assert asked == [name for name in table if table[name].warms_up] * 2
    assert {"serving_default", "serve_images"} <= set(asked)
    for request in requests:
        ((name, value),) = request.inputs.items()
        answer = ask(request.model_spec.signature_name, tf.make_ndarray(value))
        assert len(answer) in (1, 3), name


def test_a_missing_package_is_named_before_the_run_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    places = (tmp_path, tmp_path / "new")
    with pytest.raises(ImportError, match="Run: pip install tensorflow-serving-api=="):
        run_exports.export_workdir(*places)
    with pytest.raises(ImportError, match="Run: pip install tf2onnx onnxruntime$"):
        run_exports.convert_workdir(*places, "onnx")
    assert os.listdir(tmp_path) == []


def test_export_of_no_run_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a workdir"):
        run_exports.export_workdir(tmp_path, tmp_path / "new")
    assert os.listdir(tmp_path) == []
