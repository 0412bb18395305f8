"""Training steps lower for a GPU where there is none, to programs that are sound."""

import re

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.gpu import kernels
from benchmarks.gpu.arguments import make_all, relative_difference
from benchmarks.gpu.programs import PROGRAMS, Program, checks
from deeplab_tf.networks.layers import is_keras3
from deeplab_tf.networks.models import MODELS
from tests.support.networks import narrow, small_config

pytestmark = pytest.mark.skipif(
    not is_keras3(), reason="Keras 2 has no stateless_call: a step keeps its variables"
)

# Options of the loss and of BatchNorm that change what a step is made of.
OPTIONS = {
    "loss": kernels.OPTIONS["loss"],
    "frozen": {"frozen_batch_norm": True, "resize": "half_pixel", "dropout_rate": 0.1},
}
# One of several equal parts is enough.
SHORTER = {
    "deeplab_v2": {"input_scales": (1.0, 0.5)},
    "deeplab_v3_cascade": {"cascade_blocks": 1},
}
ROWS = [
    *((model, "bfloat16", SHORTER.get(model, {})) for model in MODELS),
    ("deeplab_v3", "float16", {}),
    *(("deeplab_v3", "float32", options) for options in OPTIONS.values()),
]
# HLO takes these of one type, and a program of two as well where they are floats.
SAME_TYPES = "add subtract multiply divide maximum minimum select compare".split()


@pytest.fixture
def lowering():
    """Imported here: tf-keras has not all that it needs."""
    from benchmarks.gpu import lowering

    return lowering


def mixed_instructions(hlo: str) -> list[str]:
    """Lines of an HLO text whose operands are floats of more than one type.

    XLA allows them; StableHLO does not, so that no such program can be read.
    """
    types, mixed = {}, []
    for line in hlo.splitlines():
        found = re.match(r"\s*(?:ROOT )?%?(\S+) = (\w+)\[[^=]*? (\w+)\((.*)", line)
        if not found:
            continue
        name, dtype, operation, rest = found.groups()
        types[name] = dtype
        operands = re.findall(r"%([^\s,()]+)", rest.partition("metadata=")[0])
        floats = {types[o] for o in operands if types.get(o, "").strip("b")[:1] == "f"}
        if operation in SAME_TYPES and len(floats) > 1:
            mixed.append(line.strip())
    return mixed


def test_mixed_instructions_are_found():
    line = "  %{} = {}[2]{{0}} select(pred[2]{{0}} %c, f32[2]{{0}} %a, {}[2]{{0}} %b)"
    head = ["  %c = pred[2]{0} parameter(0)", "  %a = f32[2]{0} parameter(1)"]
    for dtype, count in (("bf16", 1), ("f32", 0)):
        operand = f"  %b = {dtype}[2]{{0}} parameter(2)"
        text = "\n".join([*head, operand, line.format("d", "f32", dtype)])
        assert len(mixed_instructions(text)) == count


@pytest.mark.parametrize("model, precision, options", ROWS)
def test_training_steps_lower_for_a_gpu(
    model, precision, options, lowering, monkeypatch
):
    narrow(monkeypatch)
    config = small_config(
        model, precision=precision, crop_size=(33, 33), batch_size=2, **options
    )
    program = Program(config)
    network = lowering.build(program)
    arguments = lowering.arguments_of(network, program, training=True, velocities=True)
    step = lowering.flat_function(lowering.training_step(network, config), arguments)
    flat = tf.nest.flatten(arguments)
    text, outputs = lowering.lower(step, flat, stage="hlo")
    assert mixed_instructions(text) == []
    # The loss, and all but image and label in the form in which they came.
    expected = [((), "float32"), *((each.shape, each.dtype) for each in flat[:-2])]
    assert outputs == expected


def test_a_lowered_program_gives_the_numbers_of_the_network(lowering):
    program = Program(
        small_config(crop_size=(65, 65), batch_size=2, precision="float32")
    )
    network = lowering.build(program)
    arguments = lowering.arguments_of(network, program, False, velocities=False)

    def probabilities(trainable, fixed, image):
        logits, _ = network.stateless_call(trainable, fixed, image, training=False)
        return tf.nn.softmax(logits)

    flat = tf.nest.flatten(arguments)
    function = lowering.flat_function(probabilities, arguments)
    artifact, ((shape, dtype),) = lowering.lower(function, flat)
    values = [tf.constant(value) for value in make_all(flat)]
    # The operation in which TensorFlow runs StableHLO that others exported.
    call_module = pytest.importorskip("tensorflow.compiler.tf2xla.python.xla")
    (result,) = call_module.call_module(
        values,
        version=9,
        module=artifact,
        Tout=[tf.as_dtype(dtype)],
        Sout=[shape],
        platforms=["CPU"],
    )
    (expected,) = function(*values)
    assert np.std(expected.numpy()) > 0.005
    assert relative_difference(result.numpy(), expected.numpy()) < 1e-5


def test_every_model_is_among_the_programs_and_the_checks():
    for programs in (PROGRAMS, checks()):
        assert {program.config.model for program in programs.values()} == set(MODELS)
    assert all(program.config.precision == "float32" for program in checks().values())
