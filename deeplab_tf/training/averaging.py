"""The moving average of the weights, put in for evaluating and saving."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tensorflow import keras


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
