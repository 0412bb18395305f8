"""Optimizers by name, and what the papers' protocol adds to them.

Keras applies gradients in three ways (Keras 3, Keras 2, and the legacy optimizers that
tensorflow-addons builds on). Clipping, learning-rate multipliers, accumulation and the
average of weights are written once here and act on the gradient summed over replicas,
so that any number of replicas takes the step of one device. Keras' own options do not:
Keras 3 clips each replica's gradient, cannot accumulate under MirroredStrategy on CPUs,
and `use_ema` overwrites the trained weights with the average whenever `fit` ends.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.networks.layers import is_keras3

# Name here -> class in tensorflow_addons.optimizers.
ADDONS = {
    "sgdw": "SGDW",
    "adamw": "AdamW",
    "lamb": "LAMB",
    "lookahead": "Lookahead",
    "moving_average": "MovingAverage",
    "swa": "SWA",
}
# In keras.optimizers, and no optimizer that a name and a learning rate make.
_NOT_BY_NAME = {"optimizer", "lossscaleoptimizer", "multioptimizer", "optimizermap"}


@keras.utils.register_keras_serializable("deeplab_tf")
class PolySchedule(keras.optimizers.schedules.LearningRateSchedule):
    """learning_rate * (1 - step / steps) ** power (DeepLabV3, section 4.1).

    During the first `warmup_steps` that is multiplied by a factor that rises linearly
    from `warmup_fraction` to 1, so the warm-up joins the curve without a jump.

    Args:
      learning_rate: base rate, > 0.
      steps: steps until the rate is 0, >= 1; it stays 0 from there on.
      power: exponent, 0.9 in the papers.
      warmup_steps: steps of the warm-up; 0 for none.
      warmup_fraction: factor at step 0, in [0, 1].
    """

    def __init__(
        self,
        learning_rate: float,
        steps: int,
        power: float = 0.9,
        warmup_steps: int = 0,
        warmup_fraction: float = 0.0,
    ):
        super().__init__()
        if steps < 1 or not 0 <= warmup_steps <= steps:
            raise ValueError(
                "steps must be >= 1 and warmup_steps in [0, steps]. Received: "
                f"steps={steps}, warmup_steps={warmup_steps}"
            )
        self.learning_rate = learning_rate
        self.steps = steps
        self.power = power
        self.warmup_steps = warmup_steps
        self.warmup_fraction = warmup_fraction

    def __call__(self, step):
        step = tf.cast(tf.convert_to_tensor(step), keras.backend.floatx())
        rate = self.learning_rate * (
            tf.pow(tf.maximum(1.0 - step / self.steps, 0.0), self.power)
        )
        if not self.warmup_steps:
            return rate
        done = tf.minimum(step / self.warmup_steps, 1.0)
        return rate * (self.warmup_fraction + (1.0 - self.warmup_fraction) * done)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "power": self.power,
            "warmup_steps": self.warmup_steps,
            "warmup_fraction": self.warmup_fraction,
        }


class _ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times a factor."""

    def __init__(self, schedule, factor: float):
        super().__init__()
        self.schedule = schedule
        self.factor = factor

    def __call__(self, step):
        return self.factor * self.schedule(step)

    def get_config(self):
        return {"schedule": self.schedule, "factor": self.factor}


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
    `accumulation_steps` batches, clips it, multiplies it, and gives it to the optimizer
    of that name. `iterations`, and with it the learning rate, counts updates.

    Args:
      name: of a class in keras.optimizers, in any case: "sgd", "adam", "adamw"; or of
        one in tensorflow-addons (`ADDONS`), also as "addons_<name>" where Keras has
        one of that name. Lookahead, moving_average and swa wrap SGD.
      learning_rate: float or schedule.
      momentum: of the optimizers that take one (sgd, sgdw, rmsprop, the wrapped SGD).
      clip_norm: largest global norm of the gradient, or None.
      ema_momentum: of an exponential moving average of the trainable weights, in [0, 1)
        (0.999: about the last 1,000 updates), or None. See `averaged_weights`.
      accumulation_steps: batches to an update, >= 1.
      multipliers: gives "<layer>/<weight>", such as "logits/bias", its factor. With SGD
        this is exactly a learning rate of its own; the factor is applied after
        clipping, and Adam and its kin cancel it.
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
    prepare = functools.partial(
        _prepare, clip_norm=clip_norm or None, multipliers=multipliers
    )
    plain = name.lower()
    if plain in _keras_optimizers():
        make = _keras_optimizers()[plain]
        options = _options(make, momentum, weight_decay)
        if clip_norm or multipliers or ema_momentum or accumulation_steps > 1:
            make = functools.partial(
                _with_steps(make),
                prepare=prepare,
                accumulation_steps=accumulation_steps,
                average_momentum=ema_momentum or None,
            )
        optimizer = make(learning_rate, **options)
        if weight_decay and undecayed:
            optimizer.exclude_from_weight_decay(var_list=list(undecayed))
        return optimizer
    addons_name = _addons_name(name)
    if ema_momentum or accumulation_steps > 1:
        raise ValueError(
            "Optimizers of tensorflow-addons take neither ema_momentum (use "
            "moving_average) nor accumulation_steps: use one of Keras'. Received: "
            f"{name!r}"
        )
    return _addons_optimizer(
        addons_name, learning_rate, momentum, weight_decay, undecayed, prepare
    )


def loss_scaled(optimizer):
    """Wraps an optimizer for float16: Keras' LossScaleOptimizer.

    Keras 3 asks the first replica alone whether its gradients are finite, and an
    overflow on another one would put NaN into the weights; here all are asked.
    """
    keras_own = keras.mixed_precision.LossScaleOptimizer
    if not is_keras3():
        return keras_own(optimizer)

    class LossScaleOptimizer(keras_own):
        def check_finite(self, grads):
            finite = tf.cast(super().check_finite(grads), tf.float32)
            replica = tf.distribute.get_replica_context()
            return replica.all_reduce(tf.distribute.ReduceOp.MEAN, finite) >= 1.0

    return LossScaleOptimizer(optimizer)


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


def variable_name(variable) -> str:
    """A variable's "<layer>/<weight>", the same in every Keras and on each replica."""
    name = getattr(variable, "path", variable.name)
    return re.sub(r"(/replica_\d+)?(:\d+)?$", "", name)


def build_optimizer(optimizer, variables: Sequence) -> None:
    """Creates an optimizer's variables, which a checkpoint restores."""
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
    else:  # tensorflow-addons
        optimizer._create_all_weights(variables)


def current_learning_rate(optimizer) -> float:
    """The learning rate of an optimizer's next update, or in Keras 2 of its last."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    rate = optimizer.learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(optimizer.iterations)
    return float(tf.convert_to_tensor(rate))


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Puts the moving average of the weights into a compiled model for a while.

    For evaluating or saving: `with averaged_weights(model): model.evaluate(...)`.
    Nothing changes where the optimizer keeps no average or has made no update yet.
    BatchNorm's moving statistics are what training left.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    variables = model.trainable_variables
    averages = _weight_averages(optimizer, variables)
    if averages is None:
        yield
        return
    trained = [variable.numpy() for variable in variables]
    _assign(variables, averages)
    try:
        yield
    finally:
        _assign(variables, trained)


class AveragedEvaluation(keras.callbacks.Callback):
    """Lets `fit` validate with `averaged_weights`; training goes on with its own."""

    def __init__(self):
        super().__init__()
        self._swapped = contextlib.ExitStack()

    def on_test_begin(self, logs=None):
        self._swapped.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs=None):
        self._swapped.close()


def _weight_averages(optimizer, variables):
    """One array per variable, or None."""
    if hasattr(optimizer, "weight_averages"):
        return optimizer.weight_averages()
    # tensorflow-addons' moving_average and swa
    if hasattr(optimizer, "assign_average_vars") and int(optimizer.iterations.numpy()):
        return [optimizer.get_slot(v, "average").numpy() for v in variables]
    return None


def _assign(variables, values):
    for variable, value in zip(variables, values):
        variable.assign(value)


def _prepare(gradients_and_variables, clip_norm, multipliers):
    """Clips the gradients to a global norm, then multiplies each by its factor."""
    gradients, variables = zip(*gradients_and_variables)
    if clip_norm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
    if multipliers is not None:
        factors = [float(multipliers(variable_name(v))) for v in variables]
        gradients = [g if f == 1.0 else g * f for g, f in zip(gradients, factors)]
    return list(zip(gradients, variables))


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


class _GradientSteps:
    """Mixed into a Keras optimizer: see `make_optimizer` for what it does."""

    def __init__(
        self, *args, prepare, accumulation_steps=1, average_momentum=None, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self._prepare = prepare
        self._accumulation_steps = accumulation_steps
        self._average_momentum = average_momentum
        self._sums = []
        self._averages = []

    def build(self, variables):
        """Creates the optimizer's variables, once."""
        if not getattr(self, "built", getattr(self, "_built", False)):
            if self._accumulation_steps > 1:
                self._batches = self._counter("batches")
                self._sums = [self._like(v, "gradient_sum") for v in variables]
            if self._average_momentum:
                self._num_averaged = self._counter("num_averaged")
                self._averages = [self._like(v, "weight_average") for v in variables]
        super().build(variables)

    def weight_averages(self):
        """Float32 arrays in the order of the built variables, or None before any."""
        if not self._averages or int(self._num_averaged.numpy()) == 0:
            return None
        return [average.numpy() for average in self._averages]

    def _counter(self, name):
        return self.add_variable(
            shape=(), dtype="int64", initializer="zeros", name=name
        )

    def _like(self, variable, name):
        return self.add_variable_from_reference(variable, name)

    def _take(self, gradients_and_variables, update):
        """One batch: gradients already summed over replicas, in replica context."""
        if self._accumulation_steps > 1:
            self._accumulate(gradients_and_variables, update)
        else:
            self._update(gradients_and_variables, update)

    def _update(self, gradients_and_variables, update):
        update(self._prepare(gradients_and_variables))
        if self._averages:
            _, variables = zip(*gradients_and_variables)
            _everywhere(functools.partial(self._average, variables=variables))

    def _accumulate(self, gradients_and_variables, update):
        gradients, variables = zip(*gradients_and_variables)
        sums = [self._slot(self._sums, variable) for variable in variables]

        def update_by_mean():
            means = [total / self._accumulation_steps for total in sums]
            self._update(list(zip(means, variables)), update)

        def update_all(strategy):
            # A conditional must not hold a merge_call, so it stands outside the
            # replicas and sends them to work, as Keras' LossScaleOptimizer does.
            if tf.distribute.in_cross_replica_context():
                strategy.extended.call_for_each_replica(update_by_mean)
            else:
                update_by_mean()
            for total in sums:
                strategy.extended.update(
                    total, lambda t: t.assign(tf.zeros_like(t)), group=False
                )

        def add(strategy, gradients):
            for total, gradient in zip(sums, gradients):
                strategy.extended.update(
                    total, lambda t, g: t.assign_add(g), args=(gradient,), group=False
                )
            batches = _count(strategy, _tf_variable(self._batches))
            tf.cond(
                tf.equal(batches % self._accumulation_steps, 0),
                lambda: update_all(strategy),
                lambda: None,
            )

        _everywhere(add, gradients)

    def _average(self, strategy, variables):
        """average <- momentum * average + (1 - momentum) * weight; first the weight."""
        num_averaged = _count(strategy, _tf_variable(self._num_averaged))
        momentum = tf.where(num_averaged > 1, self._average_momentum, 0.0)

        def move(average, variable):
            keep = tf.cast(momentum, average.dtype)
            average.assign(keep * average + (1 - keep) * variable)

        for variable in variables:
            strategy.extended.update(
                self._slot(self._averages, variable),
                move,
                args=(_tf_variable(variable),),
                group=False,
            )

    def _slot(self, slots, variable):
        if is_keras3():
            return _tf_variable(slots[self._get_variable_index(variable)])
        return slots[self._index_dict[self._var_key(variable)]]


class _Keras2Steps(_GradientSteps):
    def apply_gradients(
        self, grads_and_vars, name=None, skip_gradients_aggregation=False, **kwargs
    ):
        grads_and_vars = list(grads_and_vars)
        with tf.init_scope():
            self.build([variable for _, variable in grads_and_vars])
        pairs = [pair for pair in grads_and_vars if pair[0] is not None]
        if not skip_gradients_aggregation:
            pairs = self.aggregate_gradients(pairs)
        update = functools.partial(
            super().apply_gradients, name=name, skip_gradients_aggregation=True
        )
        self._take(pairs, update)
        return self.iterations


class _Keras3Steps(_GradientSteps):
    def apply(self, grads, trainable_variables=None):
        variables = list(trainable_variables or self._trainable_variables)
        if not self.built:
            self.build(variables)
        pairs = [(g, v) for g, v in zip(grads, variables) if g is not None]
        apply = super().apply
        self._take(
            super()._all_reduce_sum_gradients(pairs),
            lambda prepared: apply(*map(list, zip(*prepared))),
        )

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars  # `apply` has summed them


@functools.cache
def _with_steps(base: type) -> type:
    """A Keras optimizer class with `_GradientSteps` mixed in, under the same name."""
    steps = _Keras3Steps if is_keras3() else _Keras2Steps
    return type(base.__name__, (steps, base), {})


def _tf_variable(variable):
    return variable.value if is_keras3() and hasattr(variable, "path") else variable


def _everywhere(function, *args):
    """Calls function(strategy, *args) once for all replicas, from one of them."""
    return tf.__internal__.distribute.interim.maybe_merge_call(
        function, tf.distribute.get_strategy(), *args
    )


def _count(strategy, counter):
    strategy.extended.update(counter, lambda c: c.assign_add(1), group=False)
    return tf.convert_to_tensor(counter)


def _addons_name(name: str) -> str:
    """The key of `ADDONS` for a name that Keras does not have.

    Raises:
      ValueError: no such name there either.
      ImportError: tensorflow-addons is not installed.
    """
    plain = name.lower().removeprefix("addons_")
    plain = {"movingaverage": "moving_average"}.get(plain, plain)
    if plain not in ADDONS:
        raise ValueError(
            f"optimizer must be one of {sorted(_keras_optimizers())} or of "
            f"tensorflow-addons' {sorted(ADDONS)}. Received: {name!r}"
        )
    try:
        import tensorflow_addons  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"optimizer {name!r} is in tensorflow-addons, which runs on TensorFlow "
            "2.15 alone: install requirements-tf215.txt, or choose one of "
            f"{sorted(_keras_optimizers())}."
        ) from error
    return plain


def _addons_optimizer(name, learning_rate, momentum, weight_decay, undecayed, prepare):
    import tensorflow_addons

    make = getattr(tensorflow_addons.optimizers, ADDONS[name])
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
            weight_decay = _ScaledSchedule(learning_rate, weight_decay)
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
