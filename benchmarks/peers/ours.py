"""Rows of the page of speed that run networks of ours."""

from __future__ import annotations

import collections
import functools
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.networks import Case, training_step
from benchmarks.peers.convolutions import read_convolutions
from benchmarks.processes import in_a_process
from deeplab_tf.exports.agreement import example_images
from deeplab_tf.exports.converters import convert
from deeplab_tf.exports.runtime_files import convert_model
from deeplab_tf.exports.saved_model import export_model
from deeplab_tf.inference.runners import openvino_core
from deeplab_tf.inference.runtimes import fit_image, load_network
from deeplab_tf.inference.saved_models import load_saved_model
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.labels import labels_for
from deeplab_tf.networks.convolutions import FROZEN_WEIGHTS
from deeplab_tf.networks.folding import inference_graph
from deeplab_tf.networks.layers import AtrousConv2D, AtrousDepthwiseConv2D
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.precision import precision_policy


def case_of(case: dict) -> Case:
    names = ("model", "backbone", "precision", "batch_size")
    return Case(**{name: case[name] for name in names}, size=tuple(case["size"]))


def train(case: dict, folder: str):
    """A step of training, as `fit` does it."""
    return training_step(case_of(case))


def saved_model(case: dict, folder: str):
    """The SavedModel that export.py writes by default."""
    return _saved_model(case, folder, constants=False)


def served_saved_model(case: dict, folder: str):
    """The same, in a process that has the variable of serving/."""
    value = os.environ.pop(FROZEN_WEIGHTS)  # the exporter must not have it
    path = _exported(_export_saved_model, case, os.path.join(folder, "served"), False)
    os.environ[FROZEN_WEIGHTS] = value
    return _classes_by(path, case)


def segmenter(case: dict, folder: str):
    """`Segmenter` on the Keras model, as predict.py runs a workdir."""
    _, model = _networks(case)
    image, run = _image(case), Segmenter(model).predict
    return lambda: run(image)


def saved_model_of_constants(case: dict, folder: str):
    """That of `export.py --constants`."""
    return _saved_model(case, folder, constants=True)


def onnx(case: dict, folder: str):
    """ONNX Runtime on `export.py --format=onnx`."""
    return _file(case, folder, ".onnx")


def openvino(case: dict, folder: str):
    """OpenVINO on `export.py --format=openvino`."""
    return _file(case, folder, ".xml")


def tflite(case: dict, folder: str):
    """LiteRT on `export.py --format=tflite`."""
    return _file(case, folder, ".tflite")


def layers(case: dict, folder: str):
    """{convolution: seconds} of each that benchmarks.limit asks for, alone."""
    dtype = tf.as_dtype(case["precision"])
    runs = {}
    for each in read_convolutions(folder):
        height, width, inputs, outputs, rows, columns, stride, rate, groups = each
        image = tf.ones([1, height * stride, width * stride, inputs], dtype)
        make = AtrousConv2D if groups == 1 else AtrousDepthwiseConv2D
        filters = (outputs,) if groups == 1 else ()
        layer = make(
            *filters,
            (rows, columns),
            strides=stride,
            dilation_rate=rate,
            padding="same",
            use_bias=False,
            dtype=dtype.name,
        )
        layer(image)
        run = tf.function(layer, autograph=False)
        runs[json.dumps(each)] = functools.partial(run, image)
    return lambda: {name: _seconds(run) for name, run in runs.items()}


def openvino_layers(case: dict, folder: str):
    """The same by OpenVINO's own count, of the whole network."""
    network = inference_graph(build_model(case_of(case).config))
    contents = convert(network, "openvino", "float32", tuple(case["size"]), None)
    core = openvino_core()
    model = core.read_model(*contents)
    names = {
        each.get_friendly_name(): _convolution_of(each) for each in model.get_ops()
    }
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": True,
        "INFERENCE_PRECISION_HINT": "f32" if case["precision"] == "float32" else "bf16",
    }
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    images = _image(case)[None]

    def run():
        request.infer([images])
        seconds, counts = collections.Counter(), collections.Counter()
        for node in request.get_profiling_info():
            convolution = names.get(node.node_name)
            if convolution is not None and node.real_time.total_seconds() > 0:
                seconds[convolution] += node.real_time.total_seconds()
                counts[convolution] += 1
        return {name: seconds[name] / counts[name] for name in seconds}

    return run


def _convolution_of(node) -> str | None:
    """The description of an OpenVINO operation that is a convolution."""
    if node.get_type_name() not in ("Convolution", "GroupConvolution"):
        return None
    kernel = list(node.input(1).get_shape())
    shape = list(node.output(0).get_partial_shape())[1:]  # the batch is of any size
    outputs, height, width = (side.get_length() for side in shape)
    inputs, *sides = kernel[-3:]
    groups = kernel[0] if len(kernel) == 5 else 1
    options = node.get_attributes()
    strides = (max(options["strides"]), max(options["dilations"]), groups)
    return json.dumps([height, width, inputs * groups, outputs, *sides, *strides])


def _seconds(run) -> float:
    start = time.perf_counter()
    run().numpy()
    return time.perf_counter() - start


def _saved_model(case: dict, folder: str, constants: bool):
    return _classes_by(_exported(_export_saved_model, case, folder, constants), case)


def _classes_by(path: str, case: dict):
    serve = load_saved_model(path).signatures["serve_images"]
    images = tf.constant(_image(case)[None])
    return lambda: serve(images=images)["classes"].numpy()


def _file(case: dict, folder: str, ending: str):
    path = _exported(_export_file, case, folder, ending)
    network, images = load_network(path), _image(case)[None]
    return lambda: network.classes(images)


def _exported(export, case: dict, folder: str, kind) -> str:
    """Exports in a process of its own: what that takes does not count as the row's."""
    folder = os.path.join(folder, f"{export.__name__}_{kind}")
    return in_a_process(export, case, folder, kind)


def _export_saved_model(case: dict, folder: str, constants: bool) -> str:
    model, optimized = _networks(case)
    path, _ = export_model(
        model,
        labels_for(case["num_classes"]),
        folder,
        optimized=optimized,
        precision=case["precision"],
        constants=constants,
        images=[_image(case)],
    )
    return path


def _export_file(case: dict, folder: str, ending: str) -> str:
    model, _ = _networks(case)
    os.makedirs(folder)
    path = os.path.join(folder, f"network{ending}")
    convert_model(
        model,
        labels_for(case["num_classes"]),
        path,
        precision=case["precision"],
        input_size=tuple(case["size"]),
    )
    return path


def _networks(case: dict):
    """The Keras model in float32, and the same weights in the case's precision."""
    config = case_of(case).config
    model = build_model(config)
    with precision_policy(case["precision"]):
        optimized = build_model(config)
    optimized.set_weights(model.get_weights())
    return model, optimized


def _image(case: dict) -> np.ndarray:
    """uint8 [h, w, 3]: a drawn one, as noise has no class that wins clearly."""
    return fit_image(example_images()[0], tuple(case["size"]))
