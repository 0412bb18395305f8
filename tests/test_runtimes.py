"""Files of other runtimes: the same classes, labels beside them, refusals by name."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import dataclasses
import gc
import importlib.util
import itertools
import json
import os
import shutil
import signal
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.commands.run_exports import convert_workdir
from deeplab_tf.commands.run_images import int8_images
from deeplab_tf.config import read_config
from deeplab_tf.exports import runtime_files
from deeplab_tf.exports.agreement import Bound, example_images
from deeplab_tf.exports.converters import CONVERTERS
from deeplab_tf.exports.runtime_files import convert_model
from deeplab_tf.inference.runners import openvino_core, signal_stack_kept
from deeplab_tf.inference.runtimes import (
    fit_image,
    labels_path,
    load_network,
    network_paths,
    read_described,
)
from deeplab_tf.inference.saved_models import read_labels
from deeplab_tf.inference.segmenter import Segmenter, load_segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.networks.models import MODELS, build_model, inference_model
from deeplab_tf.prediction.outputs import Output, predict_files
from tests.support.networks import narrow, randomize, small_config

pytestmark = pytest.mark.two_lanes

LABELS = Labels(tuple("abcde"), tuple((n, n, n) for n in range(5)))
SIZE = (65, 65)


def needs(*packages):
    """Skips where packages are not installed, or do not fit the lane."""
    there = all(map(importlib.util.find_spec, packages))
    return pytest.mark.skipif(not there, reason=f"needs {' and '.join(packages)}")


def row(*values, marks=()):
    """A format, perhaps a precision and more, with the packages that they need."""
    format_, precision = (*values, "float32")[:2]
    packages = CONVERTERS[format_].needed_packages(precision)
    return pytest.param(*values, marks=(needs(*packages), *marks))


FORMATS = [row(name) for name in CONVERTERS]
# OpenVINO takes several seconds a network.
REDUCED = [
    row(name, precision, marks=[pytest.mark.one_lane] * (name == "openvino"))
    for name, converter in CONVERTERS.items()
    for precision in converter.bounds
    if precision != "float32"
]
FORMATS_OF_MODELS = [
    row(name, marks=[pytest.mark.slow] * (name == "openvino")) for name in CONVERTERS
]
needs_onnx = needs(*CONVERTERS["onnx"].packages)
needs_openvino = needs(*CONVERTERS["openvino"].packages)


def image_of(height, width, seed=0):
    coarse = np.random.default_rng(seed).uniform(0, 255, [6, 8, 3])
    image = tf.image.resize(coarse, [height, width], "bicubic").numpy()
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def files(workdir, tmp_path_factory):
    """files(format, precision, size) -> path of the run of `workdir`, made once."""
    made = {}
    folder = tmp_path_factory.mktemp("files")

    def convert(format_, precision="float32", size=SIZE):
        key = (format_, precision, size)
        if key not in made:
            images = [image_of(*SIZE, seed) for seed in range(4)]
            output_dir = folder / f"{len(made)}"
            made[key] = convert_workdir(
                workdir, output_dir, format_, precision, size, images=images
            )
        return made[key]

    return convert


@pytest.fixture(autouse=True)
def signal_stack():
    """No test leaves another stack for signals, as OpenVINO by itself does."""
    before = stack_for_signals()
    yield
    assert stack_for_signals() == before


def stack_for_signals() -> bytes:
    stack = ctypes.create_string_buffer(24)
    if os.name == "posix":
        ctypes.CDLL(None).sigaltstack(None, stack)
    return stack.raw


@needs_openvino
@pytest.mark.one_lane
def test_a_signal_after_networks_of_openvino_is_handled(files):
    """They end in the order in which they began, and in another thread."""
    path = files("openvino")[0]
    networks = [load_network(path) for _ in range(3)]
    ends = threading.Thread(target=lambda: [networks.pop(0) for _ in range(3)])
    ends.start()
    ends.join()
    gc.collect()
    handled = []
    before = signal.signal(signal.SIGINT, lambda *_: handled.append(1))
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert handled == [1]


@pytest.mark.parametrize("format_", FORMATS_OF_MODELS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_the_classes_of_keras(name, format_, tmp_path, monkeypatch):
    narrow(monkeypatch)
    changes = {"cascade_blocks": 1} if name == "deeplab_v3_cascade" else {}
    model = inference_model(randomize(build_model(small_config(name, **changes))))
    path = tmp_path / f"x{CONVERTERS[format_].ending}"
    convert_model(model, LABELS, path, input_size=SIZE, images=[image_of(*SIZE)])
    image = image_of(*SIZE, seed=1)
    logits = model(image[None].astype(np.float32), training=False).numpy()[0]
    classes = load_network(path).classes(image[None])[0]
    chosen = np.take_along_axis(logits, classes[..., None].astype(int), -1)[..., 0]
    # Of two that tie either will do.
    assert (logits.max(-1) - chosen).max() <= 1e-4 * np.abs(logits).max()
    written = [*network_paths(path), labels_path(path)]
    assert sorted(os.listdir(tmp_path)) == sorted(map(os.path.basename, written))


@needs_onnx
def test_scales_by_half_pixels_are_no_onnx_of_one_size(tmp_path, monkeypatch):
    """Their maximum has sizes that ONNX Runtime's checks do not follow."""
    narrow(monkeypatch)
    config = small_config("deeplab_v2", scale_resize="half_pixel")
    model = inference_model(build_model(config))
    with pytest.raises(RuntimeError, match="deeplab_v2 cannot be converted to onnx"):
        convert_model(model, LABELS, tmp_path / "x.onnx", input_size=SIZE, images=[])


@pytest.mark.parametrize("format_", FORMATS)
def test_any_size_and_a_fixed_size(files, workdir, format_):
    run = Segmenter.from_workdir(workdir)
    any_size = load_segmenter(saved_model=files(format_, size=None)[0])
    assert any_size.labels == run.labels
    for height, width in ((65, 65), (48, 97)):
        image = image_of(height, width)
        agreement = (any_size.predict(image) == run.predict(image)).mean()
        assert agreement > 0.999
    fixed = load_segmenter(saved_model=files(format_)[0])
    image = image_of(97, 130)
    stretched = run.predict(fit_image(image, SIZE))[..., None]
    expected = tf.image.resize(stretched, image.shape[:2], "nearest").numpy()[..., 0]
    assert (fixed.predict(image) == expected).mean() > 0.999


@pytest.mark.parametrize(
    "format_, precision", [each for each in REDUCED if each.values[1] != "int8"]
)
def test_reduced_precision_of_any_size(files, workdir, format_, precision):
    """But for int8, which is calibrated for one."""
    any_size = load_segmenter(saved_model=files(format_, precision, size=None)[0])
    run = Segmenter.from_workdir(workdir)
    for height, width in ((65, 65), (48, 97)):
        image = image_of(height, width, seed=9)
        agreement = (any_size.predict(image) == run.predict(image)).mean()
        assert agreement > CONVERTERS[format_].bounds[precision].agreement - 0.05


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_that_tells_classes_alone_is_not_said_to_have_logits(files, format_):
    _, agreement = files(format_)
    assert "a chosen class is below its best by at most" in str(agreement)
    with_logits = dataclasses.replace(agreement, logits=2e-6, tells_logits=True)
    assert "logits differ by at most 2e-06 of the largest" in str(with_logits)


# Size of the file to that in float32; OpenVINO's bfloat16 is a way of computing.
SIZES = {"float16": 0.6, "dynamic": 0.4, "int8": 0.4, "bfloat16": 1.01}


@pytest.mark.parametrize("format_, precision", REDUCED)
def test_reduced_precision_stays_within_its_bound(files, workdir, format_, precision):
    path, agreement = files(format_, precision)
    bound = CONVERTERS[format_].bounds[precision]
    assert agreement.logits <= bound.logits
    assert bound.agreement <= agreement.classes
    if precision != "bfloat16":  # which is float32 on processors without it
        assert agreement.logits > 0 and agreement.classes < 1

    def size(path):
        return sum(map(os.path.getsize, network_paths(path)))

    assert size(path) < size(files(format_)[0]) * SIZES[precision]
    classes = load_segmenter(saved_model=path).predict(image_of(*SIZE, seed=9))
    expected = Segmenter.from_workdir(workdir).predict(image_of(*SIZE, seed=9))
    assert (classes == expected).mean() > bound.agreement - 0.05


def test_the_file_has_builtin_operations_and_the_documented_names(files):
    interpreter = tf.lite.Interpreter(files("tflite")[0])
    (given,) = interpreter.get_signature_list().values()
    assert given == {"inputs": ["images"], "outputs": ["classes"]}
    (image,) = interpreter.get_input_details()
    (classes,) = interpreter.get_output_details()
    assert (image["dtype"], image["shape"].tolist()) == (np.uint8, [1, 65, 65, 3])
    assert (classes["dtype"], classes["shape"].tolist()) == (np.uint8, [1, 65, 65])
    operations = {each["op_name"] for each in interpreter._get_ops_details()}
    assert not {name for name in operations if "SPACE_TO" in name or "Flex" in name}


@needs_openvino
@pytest.mark.one_lane
def test_openvino_knows_every_size_whoever_exported_it(files):
    """It does not with the space-to-batch that TensorFlow runs without oneDNN."""
    path = str(files("openvino")[0])
    operations = openvino_core().read_model(path).get_ops()
    kinds = {operation.get_type_name() for operation in operations}
    assert "GroupConvolution" in kinds
    assert not {kind for kind in kinds if "SpaceToBatch" in kind}


def test_predict_runs_a_file(files, photos, tmp_path):
    segmenter = load_segmenter(saved_model=files("tflite")[0])
    paths = [str(photos / "drawn.png")]
    assert predict_files(segmenter, paths, Output(str(tmp_path))) == []
    assert (tmp_path / "overlay" / "drawn.png").is_file()


def test_what_needs_probabilities_is_refused(files):
    path = files("tflite")[0]
    for options in ({"flip": True}, {"scales": (0.5,)}, {"window": 64}):
        with pytest.raises(ValueError, match="need probabilities. Give a --workdir"):
            load_segmenter(saved_model=path, **options)
    segmenter = load_segmenter(saved_model=path)
    with pytest.raises(ValueError, match="need probabilities"):
        segmenter.probabilities(image_of(*SIZE)[None])
    with pytest.raises(ValueError, match="need probabilities"):
        segmenter.with_window(64)


def test_a_file_without_its_labels_or_of_others_is_named(files, tmp_path):
    path = tmp_path / "x.tflite"
    with pytest.raises(FileNotFoundError, match="x.tflite is missing: expected a file"):
        load_network(path)
    path.write_bytes(b"no network")
    with pytest.raises(FileNotFoundError, match="x.tflite.labels.json is missing"):
        load_network(path)
    with open(labels_path(files("tflite")[0])) as file:
        described = json.load(file)
    (tmp_path / "x.tflite.labels.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="damaged, or another. Copy or export all"):
        load_network(path)


def test_what_cannot_be_is_refused(workdir, tmp_path):
    def convert(*arguments):
        images = [image_of(*SIZE)]
        return convert_workdir(workdir, tmp_path, *arguments, images=images)

    sentence = "onnx in float32, float16, int8.* Received: onnx in dynamic"
    with pytest.raises(ValueError, match=sentence):
        convert("onnx", "dynamic")
    with pytest.raises(ValueError, match="Received: coreml in float32"):
        convert("coreml", "float32")
    with pytest.raises(ValueError, match="int8 needs a fixed input size"):
        convert("tflite", "int8")
    assert os.listdir(tmp_path) == []


def test_labels_must_fit_the_model(tmp_path):
    model = build_model(small_config())
    labels = Labels(("a", "b"), ((0, 0, 0), (9, 9, 9)))
    with pytest.raises(ValueError, match="has 5 classes .* Received: 2 names"):
        convert_model(model, labels, tmp_path / "x.tflite")


def test_a_file_that_differs_is_not_written(workdir, tmp_path, monkeypatch):
    bounds = CONVERTERS["tflite"].bounds
    monkeypatch.setitem(bounds, "float32", Bound(0.0, 1.01))
    with pytest.raises(RuntimeError, match="does not answer as the Keras model does"):
        images = example_images()[:1]
        convert_workdir(workdir, tmp_path, "tflite", images=images)
    assert os.listdir(tmp_path) == []


def flat(color):
    return np.full([*SIZE, 3], color, np.uint8)


@pytest.mark.parametrize(
    "images, calibrated, compared",
    [
        ([flat(0)], 1, "drawn"),
        ([flat(0)] * 8, 4, "drawn"),
        ([image_of(*SIZE)] * 6, 3, "drawn"),
        ([image_of(*SIZE, seed) for seed in range(2)], 1, 1),
        ([image_of(*SIZE, seed) for seed in range(12)], 8, 4),
    ],
    ids=["black", "black ones", "one image often", "two", "twelve"],
)
def test_int8_is_compared_on_other_images(workdir, images, calibrated, compared):
    config = read_config(workdir)
    calibration, others = int8_images(config, images)
    assert len(calibration) == calibrated
    if compared == "drawn":
        drawn = example_images()
        assert len(others) == len(drawn) and all(map(np.array_equal, others, drawn))
    else:
        assert len(others) == compared
    for other in others:
        assert not any(np.array_equal(other, each) for each in calibration)


def test_one_black_image_does_not_pass_for_a_calibration(workdir, tmp_path, capsys):
    """It did: on that image 100 % of the pixels were right."""
    try:
        arguments = ("tflite", "int8", SIZE)
        path, agreement = convert_workdir(
            workdir, tmp_path, *arguments, images=[flat(0)]
        )
        assert agreement.classes < 0.99, "of drawn images, not of the black one"
    except RuntimeError as error:
        assert "does not answer as the Keras model does" in str(error)
    warning = capsys.readouterr().out
    assert "1 images are few" in warning and "1 of 1 are of one colour" in warning


# --- Two files that change as one ----------------------------------------------------


class Killed(BaseException):
    """In place of SIGKILL: what cannot be caught leaves no more than this."""


@pytest.fixture
def pair(files, tmp_path):
    """An export, and a function that writes another one over it, of other names."""
    path = tmp_path / "x.tflite"
    shutil.copy(files("tflite")[0], path)
    shutil.copy(labels_path(files("tflite")[0]), labels_path(path))
    other = Path(files("tflite", "float16")[0]).read_bytes()
    described = json.loads(Path(labels_path(files("tflite", "float16")[0])).read_text())
    described["class_names"] = ["other", *described["class_names"][1:]]
    return path, lambda: runtime_files._write_files(str(path), [other], described)


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()])
def test_a_file_and_its_labels_change_as_one(pair, step, error, monkeypatch):
    path, write = pair
    before = load_network(path).labels
    replace, steps = os.replace, itertools.count()

    def failing(source, target):
        now = next(steps)
        if now == step or (now > step and isinstance(error, Killed)):
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with contextlib.suppress(OSError, Killed):
        write()
    monkeypatch.undo()
    names = load_network(path).labels.class_names
    if step < 2:
        assert names == before.class_names
    else:
        assert names[0] == "other"
    assert read_described(path)["class_names"] == list(names)
    write()
    assert load_network(path).labels.class_names[0] == "other"
    assert sorted(os.listdir(path.parent)) == [path.name, f"{path.name}.labels.json"]
    assert "previous" not in json.loads(Path(labels_path(path)).read_text())


@needs_openvino
@pytest.mark.one_lane
@pytest.mark.parametrize("step", range(5))
def test_two_files_and_their_labels_change_as_one(files, step, tmp_path, monkeypatch):
    path = tmp_path / "x.xml"
    for source, target in zip(network_paths(files("openvino")[0]), network_paths(path)):
        shutil.copy(source, target)
    shutil.copy(labels_path(files("openvino")[0]), labels_path(path))
    before = load_network(path).classes(image_of(*SIZE)[None])
    other = [each + b" " for each in runtime_files.read_contents(path)]
    replace, steps = os.replace, itertools.count()

    def failing(source, target):
        if next(steps) == step:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    described = read_described(path)
    described["sha256"] = runtime_files.sha256(*other)
    described["class_names"] = ["other", *described["class_names"][1:]]
    with contextlib.suppress(OSError):
        runtime_files._write_files(str(path), other, described)
    monkeypatch.undo()
    network = load_network(path)
    assert (network.labels.class_names[0] == "other") == (step > 2)
    np.testing.assert_array_equal(network.classes(image_of(*SIZE)[None]), before)
    names = sorted(["x.bin", "x.xml", "x.xml.labels.json"])
    assert sorted(os.listdir(tmp_path)) == names
    (tmp_path / "x.bin").write_bytes(b"of another")
    with pytest.raises(ValueError, match="x.xml is not the file that .* damaged"):
        load_network(path)
    (tmp_path / "x.bin").unlink()
    with pytest.raises(FileNotFoundError, match="x.bin is missing"):
        load_network(path)


@needs_onnx
def test_onnx_is_made_without_copies_of_the_weights(workdir, tmp_path, monkeypatch):
    """Nor by TensorFlow's optimizer; and tf2onnx is afterwards as it was."""
    import tf2onnx
    from tf2onnx.graph import Graph, Node

    copied = []

    def deepcopy(value):
        copied.append(type(value))
        return copy.deepcopy(value)

    def optimize(*_):
        raise AssertionError("grappler copies all weights for each of its passes")

    monkeypatch.delenv("TF2ONNX_CATCH_ERRORS", raising=False)
    monkeypatch.setattr(
        tf2onnx.optimizer, "copy", types.SimpleNamespace(deepcopy=deepcopy)
    )
    monkeypatch.setattr(tf2onnx.tf_loader, "tf_optimize_grappler", optimize)
    update_proto, storage = Node.update_proto, tf2onnx.convert.ExternalTensorStorage
    convert_workdir(workdir, tmp_path, "onnx")
    assert copied and Graph not in copied
    assert Node.update_proto is update_proto
    assert tf2onnx.convert.ExternalTensorStorage is storage


@needs_openvino
@pytest.mark.one_lane
def test_openvino_computes_in_the_precision_of_the_file(files):
    """By itself it takes bfloat16 wherever the processor has it."""
    kinds = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision, hint in (("float32", "f32"), ("bfloat16", "bf16")):
        compiled = load_network(files("openvino", precision)[0])._runner._compiled
        found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        assert found == (hint if "BF16" in kinds else "f32")


@needs_openvino
@pytest.mark.one_lane
def test_plain_openvino_reads_the_files(files):
    import openvino

    path = files("openvino", size=None)[0]
    images = np.stack([image_of(40, 60, seed) for seed in range(2)])
    with signal_stack_kept():
        classes = openvino.compile_model(path, "CPU")({"images": images})["classes"]
    assert classes.dtype == np.uint8
    assert (classes == load_network(path).classes(images)).mean() > 0.97


@needs(*CONVERTERS["openvino"].needed_packages("int8"))
@pytest.mark.one_lane
def test_int8_that_loses_too_much_keeps_layers_in_float(files, monkeypatch):
    import nncf

    asked = []

    def control(model, *datasets, **options):
        asked.append(options)
        return model

    bounds = CONVERTERS["openvino"].bounds
    monkeypatch.setitem(bounds, "int8", Bound(0.25, 1.01))
    monkeypatch.setattr(nncf, "quantize_with_accuracy_control", control)
    with pytest.raises(RuntimeError, match="does not answer"):
        files("openvino", "int8", (66, 66))
    assert asked


@needs_onnx
def test_the_axes_of_onnx_have_names(files):
    import onnx

    graph = onnx.load(files("onnx", size=None)[0]).graph
    for value, names in (
        (graph.input[0], ["batch", "height", "width", ""]),
        (graph.output[0], ["batch", "height", "width"]),
    ):
        axes = value.type.tensor_type.shape.dim
        assert [axis.dim_param for axis in axes] == names


LABELS_EDITS = {
    "{}": "expected class_names, colormap and ignore_label",
    "[]": "expected names and values",
    "": "Expecting value",
    "{" * 20: "Expecting",
    "[" * 100_000: "nested without end",
    '{"class_names": "abcd", "colormap": [], "ignore_label": 1}': "not a list of them",
    '{"class_names": [1], "colormap": [[0,0,0]], "ignore_label": 1}': "list of texts",
    '{"class_names": ["a"], "colormap": [[0,0]], "ignore_label": 1}': "red, green",
    '{"class_names": ["a"], "colormap": [[0,0,999]], "ignore_label": 1}': "0..255",
    '{"class_names": ["a"], "colormap": [], "ignore_label": 1}': "1 names and 0",
    '{"class_names": ["a"], "colormap": 3, "ignore_label": 1}': "not iterable",
}


@pytest.mark.parametrize("text", LABELS_EDITS, ids=range(len(LABELS_EDITS)))
def test_edited_labels_are_told_by_their_path(files, exported, tmp_path, text):
    path = tmp_path / "x.tflite"
    shutil.copy(files("tflite")[0], path)
    Path(labels_path(path)).write_text(text)
    sentence = f"is not the labels of an export: .*{LABELS_EDITS[text]}"
    with pytest.raises(ValueError, match=f"x.tflite.labels.json {sentence}"):
        load_network(path)
    assets = tmp_path / "1" / "assets"
    assets.mkdir(parents=True)
    (assets / "labels.json").write_text(text)
    with pytest.raises(ValueError, match="labels.json is not the labels of an export"):
        read_labels(tmp_path / "1")
