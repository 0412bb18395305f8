"""The weights that a run is judged by: an average of training's, with its BatchNorm.

What is validated and saved need not be what the next step starts from. Averaged weights
give other activations than those that BatchNorm's moving statistics were gathered from
(SWA, 1803.05407, section 3.2), and statistics of a short run lag behind its weights, so
both may be estimated anew by a pass over training batches ("precise BatchNorm",
2105.07576, section 3).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Puts the moving average of the weights into a compiled model for a while.

    For evaluating or saving: `with averaged_weights(model): model.evaluate(...)`.
    Nothing changes where the optimizer keeps no average or has made no update yet.
    BatchNorm's moving statistics are what training left, see `JudgedWeights`.
    """
    variables = model.trainable_variables
    averages = _weight_averages(_inner_optimizer(model), variables)
    if averages is None:
        yield
        return
    with _put_in(variables, averages):
        yield


class JudgedWeights:
    """Puts into a compiled model what its run is judged by; training goes on with its
    own.

    That is `averaged_weights`; and with BatchNorm statistics of these weights, where
    there are batches to estimate them from. They are estimated once for every state of
    training, so that what is saved is what was validated.

    Args:
      model: compiled.
      estimate: gives BatchNorm statistics of the weights that the model has, see
        `BatchNormEstimate`; None leaves what training left.
    """

    def __init__(self, model: keras.Model, estimate: BatchNormEstimate | None = None):
        self.model = model
        self._estimate = estimate
        self._updates, self._statistics = -1, []

    @contextlib.contextmanager
    def put_in(self) -> Iterator[None]:
        """For evaluating or saving; on several workers all must do it."""
        with averaged_weights(self.model):
            if self._estimate is None:
                yield
                return
            updates = int(_inner_optimizer(self.model).iterations.numpy())
            if updates != self._updates:
                self._updates, self._statistics = updates, self._estimate()
            with _put_in(self._estimate.variables, self._statistics):
                yield


class JudgedEvaluation(keras.callbacks.Callback):
    """Lets `fit` validate the weights that a run is judged by.

    Args:
      judged: of the run; None is `averaged_weights` of the model.
    """

    def __init__(self, judged: JudgedWeights | None = None):
        super().__init__()
        self._judged = judged
        self._swapped = contextlib.ExitStack()

    def on_test_begin(self, logs=None):
        judged = self._judged or JudgedWeights(self.model)
        self._swapped.enter_context(judged.put_in())

    def on_test_end(self, logs=None):
        self._swapped.close()


class BatchNormEstimate:
    """Estimates BatchNorm's statistics of the weights that a model has at a call.

    Batches pass forward as in training, dropout included. The estimate is the mean over
    the batches of each one's mean and Bessel-corrected variance, which a layer takes
    over all replicas. Nothing else of the model changes, frozen BatchNorm neither.

    Args:
      model: any with BatchNorm; it runs on the devices that it was made on.
      make_batches: gives (image, ...) batches of one size, the same ones each time; a
        dataset of them, which is dealt out to the replicas, or a distributed one.
      num_batches: how many of them, >= 1.

    Attributes:
      variables: the moving statistics that are estimated.
    """

    def __init__(
        self,
        model: keras.Model,
        make_batches: Callable[[], Iterable],
        num_batches: int,
    ):
        self._make_batches = make_batches
        self._num_batches = num_batches
        self._layers = [
            layer
            for layer in model.layers
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ]
        self.variables = [
            variable
            for layer in self._layers
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        self._strategy = model.distribute_strategy

        @tf.function
        def forward(images):
            self._strategy.run(lambda part: model(part, training=True), args=(images,))

        self._forward = forward

    def __call__(self) -> list[np.ndarray]:
        """The estimates, float64, in the order of `variables`.

        Raises:
          ValueError: there are fewer batches.
        """
        if not self.variables:
            return []
        left = [variable.numpy() for variable in self.variables]
        sums = [np.zeros(value.shape) for value in left]
        try:
            with _statistics_of_one_batch(self._layers):
                for images in self._images():
                    self._forward(images)
                    for total, variable in zip(sums, self.variables):
                        total += variable.numpy()
        finally:
            _assign(self.variables, left)
        return [total / self._num_batches for total in sums]

    def _images(self) -> Iterator:
        batches = self._make_batches()
        if isinstance(batches, tf.data.Dataset):
            batches = self._strategy.experimental_distribute_dataset(batches)
        iterator = iter(batches)
        for count in range(self._num_batches):
            batch = next(iterator, None)
            if batch is None:
                raise ValueError(
                    f"Expected {self._num_batches} batches to estimate BatchNorm's "
                    f"statistics from. Received: {count}"
                )
            yield batch[0]


@contextlib.contextmanager
def _statistics_of_one_batch(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Moving statistics become those of the last batch: their decay is 0.

    It is read where a function is traced. Statistics of the batch before stay in place,
    near those of this one, which sums of squares of several replicas are taken around.
    """
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum


@contextlib.contextmanager
def _put_in(variables, values) -> Iterator[None]:
    before = [variable.numpy() for variable in variables]
    _assign(variables, values)
    try:
        yield
    finally:
        _assign(variables, before)


def _assign(variables, values):
    for variable, value in zip(variables, values):
        variable.assign(value)


def _inner_optimizer(model: keras.Model):
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def _weight_averages(optimizer, variables):
    """One array per variable, or None."""
    if hasattr(optimizer, "weight_averages"):
        return optimizer.weight_averages()
    # tensorflow-addons' moving_average and swa
    if hasattr(optimizer, "assign_average_vars") and int(optimizer.iterations.numpy()):
        return [optimizer.get_slot(v, "average").numpy() for v in variables]
    return None
