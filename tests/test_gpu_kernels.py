"""Every operation of the networks has a kernel for a GPU, and for XLA on one."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import (
    disable_op_determinism,
    is_op_determinism_enabled,
)

from benchmarks.gpu import kernels
from deeplab_tf.evaluation.metrics import MeanIoU
from deeplab_tf.networks.models import MODELS
from deeplab_tf.training import compiling, loop
from deeplab_tf.training.losses import SegmentationLoss
from tests.support.lanes import all_in_lane_a
from tests.support.networks import image_batch, narrow, small_config

pytestmark = [
    pytest.mark.two_lanes,
    pytest.mark.skipif(
        not tf.test.is_built_with_cuda(),
        reason="needs a CUDA build, whose registry has a GPU's kernels",
    ),
]

# One of several equal parts is enough.
SHORTER = {
    "deeplab_v2": {"input_scales": (1.0, 0.5), "auxiliary_weight": 1.0},
    "deeplab_v3_cascade": {"cascade_blocks": 1},
}
# In one run: what an operation is made of is looked up, not what it computes.
ALL_OPTIONS = {
    name: value for row in kernels.OPTIONS.values() for name, value in row.items()
}


@pytest.fixture
def graphs(monkeypatch):
    """(model, precision, options) -> the graphs of a small run."""
    narrow(monkeypatch)

    def make(model="deeplab_v3", precision="float32", **changes):
        changes = {**SHORTER.get(model, {}), **changes}
        config = small_config(
            model, precision=precision, crop_size=(65, 65), steps=10, **changes
        )
        return kernels.training_graphs(config)

    return make


def assert_all_have_kernels(training, evaluation):
    training = kernels.operations(training)
    everything = training | kernels.operations(evaluation)
    assert kernels.without_kernel(everything, kernels.GPU) == []
    assert kernels.without_kernel(training, kernels.XLA_GPU) == []
    return {operation.name for operation in training}


# Of another TensorFlow one is enough, with what `ALL_OPTIONS` have below.
@pytest.mark.parametrize("model", all_in_lane_a(MODELS, ["deeplab_v2"]))
def test_training_and_evaluation_have_kernels(model, graphs):
    names = assert_all_have_kernels(**graphs(model, "bfloat16"))
    # Features, their gradient and the metric were walked through.
    assert {"Conv2D", "Conv2DBackpropFilter", "DenseBincount"} <= names


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_options_have_kernels(precision, graphs):
    assert_all_have_kernels(**graphs("deeplab_v3", precision, **ALL_OPTIONS))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_signatures_have_kernels(precision):
    config = small_config(precision=precision)
    excused = set()
    for graph in kernels.signature_graphs(config).values():
        found = kernels.operations(graph)
        assert kernels.without_kernel(found, kernels.GPU) == []
        excused |= {each.name for each in found} & set(kernels.CPU_BY_DESIGN)
    # The list is short, and has nothing that is not needed.
    assert excused == set(kernels.CPU_BY_DESIGN)


def test_an_operation_without_a_kernel_is_found():
    @tf.function
    def inner(image):
        return tf.image.resize(image, [5, 5], antialias=True)

    function = tf.function(lambda image: inner(image) + 1.0).get_concrete_function(
        tf.TensorSpec([1, 9, 9, 3], tf.float32)
    )
    found = kernels.operations(function)
    missing = kernels.without_kernel(found, kernels.GPU)
    assert [operation.name for operation in missing] == ["ScaleAndTranslate"]


def test_types_count():
    convolution = kernels.Operation("Conv2D", (("T", "bfloat16"),))
    assert kernels.has_kernel(convolution, kernels.GPU)
    of_bytes = kernels.Operation("Conv2D", (("T", "int8"),))
    assert not kernels.has_kernel(of_bytes, kernels.XLA_GPU)


def test_labels_stay_on_the_gpu():
    """Kernels of int32 for a GPU mostly compute on the CPU: they are for sizes."""
    loss, metric = SegmentationLoss(class_weights=[1.0, 2.0, 3.0]), MeanIoU(3)

    @tf.function
    def function(label, logits):
        metric.update_state(label, logits)
        return loss(label, logits)

    graph = function.get_concrete_function(
        tf.TensorSpec([2, 9, 9], tf.int32), tf.TensorSpec([2, 9, 9, 3])
    ).graph
    of_pixels = [
        operation.type
        for operation in graph.get_operations()
        for tensor in operation.outputs
        if tensor.dtype == tf.int32 and (tensor.shape.num_elements() or 0) >= 2 * 9 * 9
    ]
    assert set(of_pixels) <= {"Placeholder", "Cast"}, of_pixels


# --- Determinism ---------------------------------------------------------------------


@pytest.fixture
def determinism():
    tf.config.experimental.enable_op_determinism()
    yield
    disable_op_determinism()


def test_nothing_raises_in_a_deterministic_run(graphs, determinism):
    for graph in graphs(**ALL_OPTIONS).values():
        assert kernels.raising_under_determinism(graph) == set()


def test_what_raises_is_found():
    @tf.function
    def function(image, scale, classes):
        with tf.GradientTape() as tape:
            tape.watch(scale)
            normal = tf.compat.v1.nn.fused_batch_norm(
                image, scale, scale, scale, scale, is_training=False
            )[0]
        tf.nn.sparse_softmax_cross_entropy_with_logits(classes, tf.ones([4, 3]))
        with tf.device("CPU"):
            tf.math.bincount(classes)
        return tape.gradient(normal, scale)

    graph = function.get_concrete_function(
        tf.TensorSpec([1, 2, 2, 3]),
        tf.TensorSpec([3]),
        tf.TensorSpec([4], tf.int32),
    )
    assert kernels.raising_under_determinism(graph) == {
        "FusedBatchNormGradV3",
        "SparseSoftmaxCrossEntropyWithLogits",
    }


def test_a_deterministic_run_asks_for_determinism_and_trains():
    config = small_config(
        crop_size=(33, 33), batch_size=2, steps=2, deterministic=True, weight_decay=0.0
    )
    label = np.tile(np.arange(33) % 5, (2, 33, 1))
    assert not is_op_determinism_enabled()
    try:
        model = loop.make_model(config, tf.distribute.get_strategy())
        assert is_op_determinism_enabled()
        assert not compiling.is_jit_compiled(config)
        image = image_batch(33, 33, 2)
        losses = [model.train_on_batch(image, label)[0] for _ in range(3)]
    finally:
        disable_op_determinism()
    assert losses[2] < losses[0]
