"""Makes pure functions of networks and lowers them for a GPU that is not at hand.

TensorFlow's own bridge turns a step into StableHLO for the platform GPU on a machine
without one. It takes no variables there, so that weights are arguments of the step.
Needs Keras 3, whose networks have a `stateless_call`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import tensorflow as tf

from benchmarks.gpu.arguments import Argument, differences, make_all, perturbed
from benchmarks.gpu.programs import Program
from deeplab_tf.networks.convolutions import graph_for_gpu
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.precision import precision_policy
from deeplab_tf.networks.recomputation import recompute_in_training
from deeplab_tf.training.losses import make_loss

SAMPLES = 256  # elements of a gradient that a check compares
LOGITS_STRIDE = 4  # pixels between the logits that a check compares
PERTURBATION = 1e-6  # relative, of the arguments: ten times float32's rounding
NEAR_ONE = ("gamma", "moving_variance")


def build(program: Program):
    """Builds the network of a program as `train` or `predict` builds it."""
    config = program.config
    with precision_policy(config.precision):
        model = build_model(config, auxiliary_outputs=program.training)
    if config.recompute:
        recompute_in_training(model)
    return model


# --- Pure functions of lists of tensors ----------------------------------------------


def loss_and_gradients(model, config) -> Callable:
    """Returns f(trainable, fixed, image, label) -> (loss, gradients, new fixed).

    The loss is that of `compiling.compile_model`, with weight decay.

    Args:
      model: see `build`.
      config: its TrainConfig; hard mining is at its last step.
    """
    loss_of = make_loss(config, tf.constant(config.hard_mining_steps))

    def function(trainable, fixed, image, label):
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            outputs, new_fixed, penalties = model.stateless_call(
                trainable, fixed, image, training=True, return_losses=True
            )
            if not isinstance(outputs, dict):
                outputs = {"logits": outputs}
            weights = {name: config.auxiliary_weight for name in outputs}
            weights["logits"] = 1.0
            losses = [weights[name] * loss_of(label, outputs[name]) for name in outputs]
            loss = tf.add_n([*losses, *penalties])
        return loss, tape.gradient(loss, trainable), new_fixed

    return function


def training_step(model, config) -> Callable:
    """Returns a step of SGD with momentum, weights in and weights out.

    f(trainable, fixed, velocities, image, label) -> (loss, trainable, fixed,
    velocities).
    """
    differentiate = loss_and_gradients(model, config)

    def function(trainable, fixed, velocities, image, label):
        loss, gradients, fixed = differentiate(trainable, fixed, image, label)
        velocities = [
            config.momentum * velocity - config.learning_rate * gradient
            for velocity, gradient in zip(velocities, gradients)
        ]
        trainable = [
            weight + velocity for weight, velocity in zip(trainable, velocities)
        ]
        return loss, trainable, fixed, velocities

    return function


def forward_pass(model) -> Callable:
    """Returns f(trainable, fixed, image) -> class ids, int32 [B, height, width]."""

    def function(trainable, fixed, image):
        logits, _ = model.stateless_call(trainable, fixed, image, training=False)
        return tf.argmax(logits, axis=-1, output_type=tf.int32)

    return function


def check(model, config) -> Callable:
    """Returns f(trainable, fixed, image, label) -> what a check compares, a dict.

    "loss"; "logits" of inference; "statistics", the moving ones after the step, one
    vector; "norms" of the gradients; and of each gradient up to `SAMPLES` elements.
    """
    differentiate = loss_and_gradients(model, config)

    def function(trainable, fixed, image, label):
        loss, gradients, new_fixed = differentiate(trainable, fixed, image, label)
        outputs, _ = model.stateless_call(trainable, fixed, image, training=False)
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        compared = {
            "loss": loss,
            "logits": logits[:, ::LOGITS_STRIDE, ::LOGITS_STRIDE],
            "norms": tf.stack([tf.norm(gradient) for gradient in gradients]),
        }
        if new_fixed:
            statistics = [tf.reshape(value, [-1]) for value in new_fixed]
            compared["statistics"] = tf.concat(statistics, axis=0)
        for variable, gradient in zip(model.trainable_variables, gradients):
            compared[f"gradient {variable.path}"] = _samples(gradient)
        return compared

    return function


def _samples(tensor):
    """Up to `SAMPLES` elements, evenly spread."""
    flat = tf.reshape(tensor, [-1])
    return flat[:: max(1, flat.shape[0] // SAMPLES)][:SAMPLES]


# --- Their arguments, and lowering ---------------------------------------------------


def arguments_of(model, program: Program, training: bool, velocities: bool):
    """The arguments of a function above, nested as it takes them.

    Args:
      model: see `build`.
      program: says batch, size and classes.
      training: whether the function takes a label.
      velocities: whether it takes them.
    """
    config = program.config
    image_shape = (config.batch_size, *config.crop_size)
    trainable = [_weight(variable) for variable in model.trainable_variables]
    arguments = [trainable, [_weight(v) for v in model.non_trainable_variables]]
    if velocities:
        arguments.append([Argument(w.shape, "float32", "zeros") for w in trainable])
    arguments.append(Argument((*image_shape, 3), "float32", "image"))
    if training:
        arguments.append(Argument(image_shape, "int32", "label", config.num_classes))
    return arguments


def _weight(variable) -> Argument:
    """A weight's rule: kernels as they are initialized, nothing else a constant."""
    shape, dtype = tuple(variable.shape), variable.dtype
    if variable.path.endswith(NEAR_ONE):
        return Argument(shape, dtype, "near_one")
    if len(shape) == 1:
        return Argument(shape, dtype, "normal", 0.05)
    deviation = float(tf.math.reduce_std(tf.convert_to_tensor(variable)))
    return Argument(shape, dtype, "normal", deviation)


def flat_function(function: Callable, arguments) -> Callable:
    """The same function of one flat list of tensors, with a flat list of results."""

    def flat(*tensors):
        nested = tf.nest.pack_sequence_as(arguments, list(tensors))
        return tf.nest.flatten(function(*nested))

    return flat


def lower(
    function: Callable,
    arguments: Sequence[Argument],
    stage: str = "stablehlo_serialized",
) -> tuple[bytes | str, list]:
    """Lowers a flat function for the platform GPU.

    Args:
      function: see `flat_function`.
      arguments: flat.
      stage: "stablehlo_serialized", a portable artifact; or "hlo", text to read.

    Returns:
      (The program, (shape, dtype) of each result).
    """
    specs = [tf.TensorSpec(argument.shape, argument.dtype) for argument in arguments]
    compiled = tf.function(function, jit_compile=True)
    with graph_for_gpu():
        results = compiled.get_concrete_function(*specs).structured_outputs
        program = compiled.experimental_get_compiler_ir(*specs)(
            stage=stage, platform_name="GPU"
        )
    return program, [(tuple(value.shape), value.dtype.name) for value in results]


@contextlib.contextmanager
def full_float32():
    """Lowers float32 as float32: every product then asks XLA for precision "highest".

    Without it a GPU computes float32 convolutions in TensorFloat-32, of 10 bits.
    """
    settings = tf.config.experimental
    before = settings.tensor_float_32_execution_enabled()
    settings.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        settings.enable_tensor_float_32_execution(before)


def references(function: Callable, arguments) -> tuple[dict, dict]:
    """Runs `check` here, by the CPU's own kernels without XLA.

    Args:
      function: made by `check`.
      arguments: nested as it takes them.

    Returns:
      (name -> array, name -> relative difference that `PERTURBATION` makes).
    """
    run = tf.function(function)
    values = make_all(tf.nest.flatten(arguments))
    results = []
    for given in (values, perturbed(values, PERTURBATION)):
        tensors = [tf.constant(value) for value in given]
        found = run(*tf.nest.pack_sequence_as(arguments, tensors))
        results.append({name: value.numpy() for name, value in found.items()})
    return results[0], differences(results[1], results[0])
