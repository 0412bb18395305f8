"""Optimizers by name: Keras' and those of tensorflow-addons."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence

from tensorflow import keras

from deeplab_tf.command_names import did_you_mean
from deeplab_tf.devices.replicas import recording_finiteness
from deeplab_tf.training.gradient_steps import (
    clip_and_multiply,
    variable_name,
    with_gradient_steps,
)
from deeplab_tf.training.schedules import ScaledSchedule

# Name here -> class in tensorflow_addons.optimizers.
ADDONS = {
    "sgdw": "SGDW",
    "adamw": "AdamW",
    "lamb": "LAMB",
    "lookahead": "Lookahead",
    "moving_average": "MovingAverage",
    "swa": "SWA",
}
# Those of them that divide a gradient by its size: a factor of it changes nothing.
_CANCEL_FACTORS = ("adamw", "lamb")
# In keras.optimizers, and no optimizer that a name and a learning rate make.
_NOT_BY_NAME = {"optimizer", "lossscaleoptimizer", "multioptimizer", "optimizermap"}


def make_optimizer(
    name: str,
    learning_rate,
    *,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    ema_momentum: float | None = None,
    accumulation_steps: int = 1,
    multipliers: Callable[[str], float] | None = None,
    weight_decay: float = 0.0,
    undecayed: Sequence = (),
):
    """Makes an optimizer by name; call it in the strategy's scope.

    Each update takes the gradient summed over replicas and averaged over
    `accumulation_steps` batches, clips it, and gives it to the optimizer of that name.
    `iterations`, and with it the learning rate, counts updates.

    Args:
      name: of a class in keras.optimizers, in any case: "sgd", "adam", "adamw"; or of
        one in tensorflow-addons (`ADDONS`), also as "addons_<name>" where Keras has
        one of that name. Lookahead, moving_average and swa wrap SGD.
      learning_rate: float or schedule.
      momentum: of the optimizers that take one (sgd, sgdw, rmsprop, the wrapped SGD).
      clip_norm: largest global norm of the gradient, or None.
      ema_momentum: of an exponential moving average of the trainable weights, in [0, 1)
        (0.999: about the last 1,000 updates), or None. See `averaging`.
      accumulation_steps: batches to an update, >= 1.
      multipliers: gives "<layer>/<weight>", such as "logits/bias", the factor of its
        learning rate: what it does is what an optimizer of that rate would, decoupled
        decay included, whichever it is.
      weight_decay: decoupled decay (AdamW, SGDW), `learning_rate * weight_decay *
        weight` a step. The papers' decay is part of the model's loss instead.
      undecayed: variables without that decay, see `undecayed_variables`.

    Returns:
      An optimizer to compile a model with; for float16 in `loss_scaled`. Its state goes
      into a tf.train.Checkpoint; its options are not in its config. Build it after the
      model has its first weights: lookahead and moving_average start from them.

    Raises:
      ValueError: unknown name, or an option that this optimizer does not have.
      ImportError: the name needs tensorflow-addons, which is not installed.
    """
    if accumulation_steps < 1:
        raise ValueError(
            f"accumulation_steps must be >= 1. Received: {accumulation_steps}"
        )
    check_optimizer(name)
    make = _keras_optimizers().get(name.lower())
    if make is None:
        if ema_momentum or accumulation_steps > 1:
            raise ValueError(
                "Optimizers of tensorflow-addons take neither ema_momentum (use "
                "moving_average) nor accumulation_steps: use one of Keras'. Received: "
                f"{name!r}"
            )
        prepare = functools.partial(
            clip_and_multiply, clip_norm=clip_norm or None, multipliers=multipliers
        )
        name = _addons_name(name)
        if multipliers and name in _CANCEL_FACTORS:
            raise ValueError(
                "tensorflow-addons' adamw and lamb cancel multipliers of the learning "
                "rate: use one of Keras' optimizers, such as adamw. Received: "
                f"{name!r} with multipliers"
            )
        return _addons_optimizer(
            name, learning_rate, momentum, weight_decay, undecayed, prepare
        )
    options = _options(make, momentum, weight_decay)
    if clip_norm or multipliers or ema_momentum or accumulation_steps > 1:
        make = functools.partial(
            recording_finiteness(with_gradient_steps(make)),
            clip_norm=clip_norm or None,
            multipliers=multipliers,
            accumulation_steps=accumulation_steps,
            average_momentum=ema_momentum or None,
        )
    else:
        make = recording_finiteness(make)
    optimizer = make(learning_rate, **options)
    if weight_decay and undecayed:
        optimizer.exclude_from_weight_decay(var_list=list(undecayed))
    return optimizer


def check_optimizer(name: str) -> None:
    """Returns where `make_optimizer` can make an optimizer of that name.

    Raises:
      ValueError: unknown name.
      ImportError: the name needs tensorflow-addons, which is not installed.
    """
    if name.lower() in _keras_optimizers():
        return
    if _addons_name(name) not in ADDONS:
        raise ValueError(
            f"optimizer must be one of {sorted(_keras_optimizers())} or of "
            f"tensorflow-addons' {sorted(ADDONS)}. Received: {name!r}."
            f"{did_you_mean(name, [*_keras_optimizers(), *ADDONS])}"
        )
    try:
        import tensorflow_addons  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"optimizer {name!r} is in tensorflow-addons, which runs on TensorFlow "
            "2.15 alone. Run: pip install -r requirements-tf215.txt, or choose one of "
            f"{sorted(_keras_optimizers())}."
        ) from error


def undecayed_variables(model: keras.Model) -> list:
    """The trainable variables that the papers do not decay.

    Those are the parameters of BatchNorm, biases and depthwise kernels; what remains
    are kernels of convolutions.
    """
    return [
        variable
        for layer in model.layers
        for variable in layer.trainable_variables
        if isinstance(layer, keras.layers.DepthwiseConv2D)
        or not variable_name(variable).endswith("kernel")
    ]


def build_optimizer(optimizer, variables: Sequence) -> None:
    """Creates an optimizer's variables, which a checkpoint restores."""
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
    else:  # tensorflow-addons
        optimizer._create_all_weights(variables)


def _options(function, momentum, weight_decay) -> dict:
    """Those of the two that a constructor takes; a decay that it lacks is an error."""
    known = inspect.signature(function).parameters
    if weight_decay and "weight_decay" not in known:
        raise ValueError(
            f"{function.__name__} has no weight_decay of its own: use adamw, or the "
            "model's weight_decay."
        )
    options = {"momentum": momentum} if "momentum" in known else {}
    # AdamW takes a number alone, and its default decays; None spares others the work.
    if weight_decay or getattr(known.get("weight_decay"), "default", None) is not None:
        options["weight_decay"] = weight_decay
    return options


@functools.cache
def _keras_optimizers() -> dict[str, type]:
    """{"sgd": keras.optimizers.SGD, ...}: all that the installed Keras has."""
    module = keras.optimizers
    classes = {name.lower(): getattr(module, name) for name in dir(module)}
    return {
        name: value
        for name, value in classes.items()
        if inspect.isclass(value) and name not in _NOT_BY_NAME
    }


def _addons_name(name: str) -> str:
    """addons_AdamW -> adamw, the key of `ADDONS` where there is such an optimizer."""
    plain = name.lower().removeprefix("addons_")
    return "moving_average" if plain == "movingaverage" else plain


def _addons_optimizer(name, learning_rate, momentum, weight_decay, undecayed, prepare):
    import tensorflow_addons

    make = recording_finiteness(getattr(tensorflow_addons.optimizers, ADDONS[name]))
    if name in ("lookahead", "moving_average", "swa"):
        if weight_decay:
            raise ValueError(
                f"{name} has no weight_decay of its own: use the model's weight_decay."
            )
        sgd = keras.optimizers.legacy.SGD(learning_rate, momentum=momentum)
        return make(sgd, gradient_transformers=[prepare])
    options = {"momentum": momentum} if name == "sgdw" else {}
    if name != "lamb":
        # Addons decays by weight_decay alone; the learning rate makes it Keras' decay.
        if callable(learning_rate):
            weight_decay = ScaledSchedule(learning_rate, weight_decay)
        else:
            weight_decay = learning_rate * weight_decay
    return make(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        exclude_from_weight_decay=[
            f"^{re.escape(variable_name(variable))}(:|/|$)" for variable in undecayed
        ],
        gradient_transformers=[prepare],
        **options,
    )
