"""What happens to a gradient before an optimizer takes its step, and to weights after.

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
import re

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.devices.replicas import recording_finiteness
from deeplab_tf.networks.layers import is_keras3


def loss_scaled(optimizer):
    """Wraps an optimizer for float16: Keras' LossScaleOptimizer.

    Keras 3 asks the first replica alone whether its gradients are finite, and an
    overflow on another one would put NaN into the weights; here all are asked.
    """
    keras_own = keras.mixed_precision.LossScaleOptimizer
    if not is_keras3():
        return keras_own(optimizer)
    return recording_finiteness(_asking_all_replicas(keras_own))(optimizer)


@functools.cache
def _asking_all_replicas(keras_own: type) -> type:
    class LossScaleOptimizer(keras_own):
        def check_finite(self, grads):
            finite = tf.cast(super().check_finite(grads), tf.float32)
            replica = tf.distribute.get_replica_context()
            return replica.all_reduce(tf.distribute.ReduceOp.MEAN, finite) >= 1.0

    return LossScaleOptimizer


def variable_name(variable) -> str:
    """A variable's "<layer>/<weight>", the same in every Keras and on each replica."""
    name = getattr(variable, "path", variable.name)
    return re.sub(r"(/replica_\d+)?(:\d+)?$", "", name)


def clip_and_multiply(gradients_and_variables, clip_norm, multipliers):
    """Clips gradients to a global norm, then multiplies each by its factor.

    Args:
      gradients_and_variables: one or more pairs.
      clip_norm: largest global norm, or None.
      multipliers: gives a `variable_name` its factor; or None.

    Returns:
      Such pairs, in the same order.
    """
    gradients, variables = zip(*gradients_and_variables)
    if clip_norm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
    if multipliers is not None:
        factors = [float(multipliers(variable_name(v))) for v in variables]
        gradients = [g if f == 1.0 else g * f for g, f in zip(gradients, factors)]
    return list(zip(gradients, variables))


@functools.cache
def with_gradient_steps(base: type) -> type:
    """Returns a Keras optimizer class with further arguments, under the same name.

    Each update takes the gradient summed over replicas and averaged over batches,
    clips it, and gives it to `base`; then the average of the weights moves.

    Args:
      base: class of Keras' optimizers. The one returned takes its arguments and
        clip_norm: largest global norm of the gradient, None for any;
        multipliers: gives a `variable_name` the factor of its learning rate, which
        `base` uses for that variable, its decoupled decay included;
        accumulation_steps: batches to an update, 1 by default;
        average_momentum: of the moving average of the weights, None for no average.
    """
    steps = _Keras3Steps if is_keras3() else _Keras2Steps
    return type(base.__name__, (steps, base), {})


class _GradientSteps:
    """Mixed into a Keras optimizer: see `with_gradient_steps`."""

    _rate_factor = 1.0  # of the variables that are being updated

    def __init__(
        self,
        *args,
        clip_norm=None,
        multipliers=None,
        accumulation_steps=1,
        average_momentum=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self._prepare = functools.partial(
            clip_and_multiply, clip_norm=clip_norm, multipliers=None
        )
        self._multipliers = multipliers or (lambda name: 1.0)
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
            factors = [self._multipliers(variable_name(v)) for v in variables]
            # A function: Keras and TensorFlow would track a list as state.
            self._factor = lambda variable: float(factors[self._index(variable)])
        super().build(variables)

    @property
    def learning_rate(self):
        """That of `base`; times a variable's factor while it is being updated."""
        rate = super().learning_rate
        return rate if self._rate_factor == 1.0 else rate * self._rate_factor

    @learning_rate.setter
    def learning_rate(self, rate):
        super(_GradientSteps, type(self)).learning_rate.fset(self, rate)

    @contextlib.contextmanager
    def _rate_times(self, factor):
        self._rate_factor = factor
        try:
            yield
        finally:
            self._rate_factor = 1.0

    def _apply_weight_decay(self, variables):
        """Decoupled decay is a step too, of the size of the learning rate."""
        groups = {}
        for variable in variables:
            groups.setdefault(self._factor(variable), []).append(variable)
        for factor, group in groups.items():
            with self._rate_times(factor):
                super()._apply_weight_decay(group)

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
        return _tf_variable(slots[self._index(variable)])

    def _index(self, variable):
        if is_keras3():
            return self._get_variable_index(variable)
        return self._index_dict[self._var_key(variable)]


class _Keras2Steps(_GradientSteps):
    def update_step(self, gradient, variable):
        with self._rate_times(self._factor(variable)):
            super().update_step(gradient, variable)

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
    def update_step(self, gradient, variable, learning_rate):
        factor = self._factor(variable)
        rate = learning_rate if factor == 1.0 else learning_rate * factor
        super().update_step(gradient, variable, rate)

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
