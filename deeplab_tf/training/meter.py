"""What a run measures of itself while it trains: speed, parts of the loss, IoU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.config import TrainConfig
from deeplab_tf.evaluation.metrics import MeanIoU, per_class_iou
from deeplab_tf.training.averaging import averaged_weights
from deeplab_tf.training.log import CLASS_IOU, VALIDATION, plain_names
from deeplab_tf.training.resuming import validation_score
from deeplab_tf.training.schedules import current_learning_rate

LOG_STEPS = 100  # training steps in the window that TensorBoard's curves average


class Pace:
    """Speed of training, validation apart, and the time a run still needs.

    Args:
      clock: returns seconds.

    Attributes:
      steps, seconds: training steps that were timed, and how long they took.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self.steps, self.seconds = 0, 0.0
        self._validations, self._validation_seconds = 0, 0.0
        self._step_start = self._validation_start = None

    def begin_fit(self) -> None:
        """Leaves out the next step: it builds the graph and fills the pipeline."""
        self._step_start = None

    def begin_epoch(self) -> None:
        """Leaves out what happened since the last step."""
        if self._step_start is not None:
            self._step_start = self.clock()

    def end_step(self) -> None:
        now = self.clock()
        if self._step_start is not None:
            self.steps += 1
            self.seconds += now - self._step_start
        self._step_start = now

    def begin_validation(self) -> None:
        self._validation_start = self.clock()

    def end_validation(self) -> None:
        self._validations += 1
        self._validation_seconds += self.clock() - self._validation_start

    def rate(self, earlier: tuple[int, float] = (0, 0.0)) -> float | None:
        """Steps a second since (`steps`, `seconds`) was `earlier`; None without any."""
        steps, seconds = self.steps - earlier[0], self.seconds - earlier[1]
        return steps / seconds if steps and seconds else None

    def seconds_left(self, steps: int, validations: int) -> float | None:
        """Time for so many more steps and validations; None before a step was timed.

        A validation counts for nothing until one has been timed.
        """
        if steps and not self.steps:
            return None
        left = steps * self.seconds / self.steps if steps else 0.0
        if self._validations:
            left += validations * self._validation_seconds / self._validations
        return left


class RunMeter(keras.callbacks.Callback):
    """Measures a run: it goes first, and the callbacks of watching.py read it off.

    Every worker of a run needs it, as it reads variables that all of them share.

    It completes the logs of each epoch by the columns of log.csv (`log.COLUMNS`), and
    after a validation by "val_cross_entropy", or what the loss is called, and per class
    by "val_iou/<name>", without classes that occur neither in labels nor in
    predictions.

    Args:
      config: of the run.
      step: training steps done before.
      validations: the epochs, counted from 1, that end with a validation.
      clock: returns seconds.

    Attributes:
      step: training steps done.
      epochs: epochs done.
      pace: a `Pace`.
      window: after every `LOG_STEPS`-th step the means since the one before, or since
        the epoch began; None after other steps.
    """

    def __init__(
        self,
        config: TrainConfig,
        step: int = 0,
        validations: Sequence[int] = (),
        clock: Callable[[], float] = time.perf_counter,
    ):
        super().__init__()
        self.config = config
        self.step, self.epochs = step, 0
        self.pace = Pace(clock)
        self.window = None
        self._validations = validations
        self._row_start = None
        self._epoch_pace = (0, 0.0)

    def images_per_second(self) -> float | None:
        """Of training in this epoch; None before its first step was timed."""
        return self._speed(self._epoch_pace).get("images_per_second")

    def seconds_left(self) -> float | None:
        """Of the whole run; None before a step of this start was timed."""
        return self.pace.seconds_left(
            self.config.steps - self.step,
            sum(epoch > self.epochs for epoch in self._validations),
        )

    def on_train_begin(self, logs=None):
        self.pace.begin_fit()
        if self._row_start is None:
            self._row_start = self.pace.clock()

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs = epoch
        self._batches, self._decay_sum = 0, 0.0
        self._last_decay = (0, weight_decay(self.model))
        self._window_start = (0, {})
        self.pace.begin_epoch()
        self._window_pace = self._epoch_pace = (self.pace.steps, self.pace.seconds)

    def on_train_batch_end(self, batch, logs=None):
        self.pace.end_step()
        self.step += 1
        self._batches += 1
        self.window = None
        if self.step % LOG_STEPS == 0:
            self.window = self._measure_window(logs)

    def on_test_begin(self, logs=None):
        self.pace.begin_validation()

    def on_test_end(self, logs=None):
        self.pace.end_validation()

    def on_epoch_end(self, epoch, logs=None):
        if logs is None:
            return
        values = {
            **plain_names(logs, self.config.loss),
            "step": self.step,
            "learning_rate": current_learning_rate(self.model.optimizer),
        }
        if "loss" in values:  # not where a killed epoch only has its validation left
            values.update(self._measure_epoch(values))
        if validation_score(values) is not None:
            values.update(self._measure_validation(values))
        self.epochs = epoch + 1
        logs.clear()
        logs.update(values)

    def _measure_epoch(self, values) -> dict:
        self._sample_decay()
        decay = self._decay_sum / self._batches
        now = self.pace.clock()
        seconds, self._row_start = now - self._row_start, now
        return {
            "seconds": seconds,
            self.config.loss: self._label_loss(values, decay),
            "weight_decay": decay,
            **self._speed(self._epoch_pace),
        }

    def _measure_validation(self, values) -> dict:
        with averaged_weights(self.model):  # where there is such an average
            decay = weight_decay(self.model)
        named = zip(self.config.class_names, class_iou(self.model))
        return {
            VALIDATION + self.config.loss: self._label_loss(values, decay, VALIDATION),
            **{CLASS_IOU + n: float(iou) for n, iou in named if not np.isnan(iou)},
        }

    def _measure_window(self, logs) -> dict:
        self._sample_decay()
        values = plain_names(logs, self.config.loss)
        values["weight_decay"] = self._decay_sum / self._batches
        values.update(self._window_means(values))
        values[self.config.loss] = self._label_loss(values, values["weight_decay"])
        values["learning_rate"] = current_learning_rate(self.model.optimizer)
        values.update(self._speed(self._window_pace))
        self._window_pace = (self.pace.steps, self.pace.seconds)
        return values

    def _window_means(self, values) -> dict:
        """Means of losses over the window, out of those since the epoch began."""
        sums = {
            name: mean * self._batches
            for name, mean in values.items()
            if name.endswith("loss") or name in (self.config.loss, "weight_decay")
        }
        batches, before = self._window_start
        self._window_start = (self._batches, sums)
        return {
            name: (total - before.get(name, 0.0)) / (self._batches - batches)
            for name, total in sums.items()
        }

    def _speed(self, earlier) -> dict:
        rate = self.pace.rate(earlier)
        return {"images_per_second": rate * self.config.batch_size} if rate else {}

    def _label_loss(self, values, decay, prefix="") -> float:
        """The loss of the logits alone, by default their cross-entropy.

        With auxiliary outputs it is among the values; otherwise it is what the whole
        loss is without the weight decay.
        """
        rest = values[f"{prefix}loss"] - decay
        return values.get(prefix + self.config.loss, rest)

    def _sample_decay(self):
        """Adds to the sum over the epoch's steps, by the trapezoid rule.

        The term changes slowly, and computing it at every step would cost time.
        """
        batches, decay = self._last_decay
        now = weight_decay(self.model)
        self._decay_sum += (self._batches - batches) * (decay + now) / 2
        self._last_decay = (self._batches, now)


def weight_decay(model: keras.Model) -> float:
    """The term that the model's regularizers add to its loss at present."""
    return float(sum(model.losses))


def class_iou(model: keras.Model) -> np.ndarray:
    """IoU of each class in what a compiled model's `MeanIoU` has seen; NaN: nothing.

    Returns:
      float64 [num_classes].
    """
    for metric in model.metrics:
        for part in getattr(metric, "metrics", None) or [metric]:  # Keras 3 nests them
            if isinstance(part, MeanIoU):
                return per_class_iou(np.asarray(tf.convert_to_tensor(part.confusion)))
    raise ValueError(
        "The model is not compiled with deeplab_tf.MeanIoU, or has seen nothing yet. "
        f"Received metrics: {[metric.name for metric in model.metrics]}"
    )
