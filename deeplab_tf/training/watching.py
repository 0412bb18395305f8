"""What a run shows of itself while it trains: log.csv, TensorBoard, one line.

These callbacks write what a `RunMeter`, a callback before them, has measured. Where
there are several workers they belong on the chief alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.config import TrainConfig
from deeplab_tf.pictures.visualize import above, legend, panel
from deeplab_tf.training.averaging import JudgedWeights
from deeplab_tf.training.log import (
    VALIDATION,
    format_duration,
    plain_names,
    write_epoch,
)
from deeplab_tf.training.meter import RunMeter
from deeplab_tf.training.resuming import validation_score
from deeplab_tf.training.schedules import current_learning_rate

REDRAW_SECONDS = 0.5
# What a line of progress tells of the logs.
_SHOWN = {
    "loss": "loss",
    "mean_iou": "mean IoU",
    "val_loss": "validation loss",
    "val_mean_iou": "validation mean IoU",
}


class EpochLog(keras.callbacks.Callback):
    """Writes the row of each epoch into log.csv, see `log.write_epoch`.

    Args:
      path: of the file.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.path = os.fspath(path)

    def on_epoch_end(self, epoch, logs=None):
        write_epoch(self.path, epoch, logs or {})


class Scalars(keras.callbacks.Callback):
    """Writes a run's numbers to TensorBoard, over the training step.

    Three curves under the same names, so that each chart shows them together: "train"
    every 100 steps, "train_epochs" and "validation" at the end of epochs.

    Args:
      log_dir: TensorBoard folder.
      meter: of the same run, a callback before this one.
    """

    def __init__(self, log_dir: str | os.PathLike, meter: RunMeter):
        super().__init__()
        self.log_dir = log_dir
        self.meter = meter
        self._first_step = meter.step + 1
        self._writers = {}

    def on_train_batch_end(self, batch, logs=None):
        if self.meter.window is not None:
            self._write("train", self.meter.window)

    def on_epoch_end(self, epoch, logs=None):
        training, validation = {}, {}
        for name, value in (logs or {}).items():
            if name.startswith(VALIDATION):
                validation[name[len(VALIDATION) :]] = value
            elif name != "step":
                training[name] = value
        if "loss" in training:
            self._write("train_epochs", training)
        self._write("validation", validation)

    def _write(self, curve, values):
        if not values:
            return
        if curve not in self._writers:
            folder = os.path.join(self.log_dir, curve)
            self._writers[curve] = event_writer(folder, self._first_step)
        with self._writers[curve].as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=self.meter.step)
        self._writers[curve].flush()


def event_writer(folder: str | os.PathLike, first_step: int):
    """Makes a writer of TensorBoard events, from a step on.

    Events of that step and later ones, which a run wrote before it was killed and
    resumed, are not shown any more.
    """
    # A start makes TensorBoard forget, if it is not the first in the folder. TensorFlow
    # 2 has no function of its own for it.
    start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    with tf.Graph().as_default():
        writer = tf.compat.v1.summary.FileWriter(os.fspath(folder))
    writer.add_session_log(start, first_step)
    writer.close()
    return tf.summary.create_file_writer(os.fspath(folder))


class ImagePanels(keras.callbacks.Callback):
    """Writes image | label | prediction panels to TensorBoard after each validation.

    Under each is a legend of the classes that its label or its prediction shows. They
    show the weights that were validated, see `averaging.JudgedWeights`.

    Args:
      log_dir: TensorBoard folder.
      examples: (image uint8 [h, w, 3], label int [h, w]) pairs to draw.
      config: names and colours of the classes, and the ignore label.
      meter: of the same run, a callback before this one.
      judged: weights of the same run; None is `averaged_weights`.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        examples: Sequence[tuple[np.ndarray, np.ndarray]],
        config: TrainConfig,
        meter: RunMeter,
        judged: JudgedWeights | None = None,
    ):
        super().__init__()
        self.log_dir = log_dir
        self.examples = examples
        self.config = config
        self.meter = meter
        self._judged = judged
        self._first_step = meter.step + 1
        self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        if validation_score(logs) is None:
            return
        if self._writer is None:
            self._writer = event_writer(self.log_dir, self._first_step)
        judged = self._judged or JudgedWeights(self.model)
        with self._writer.as_default(), judged.put_in():
            for index, (image, label) in enumerate(self.examples):
                drawn = self._draw(image, label)
                name = f"image, label, prediction/{index}"
                tf.summary.image(name, drawn[None], step=self.meter.step)
        self._writer.flush()

    def _draw(self, image, label):
        outputs = self.model(image[None].astype("float32"), training=False)
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        prediction = np.argmax(logits[0], -1).astype(np.uint8)
        colors, ignore = self.config.colormap, self.config.ignore_label
        drawn = panel(image, label, prediction, colors, ignore)
        present = sorted({*np.unique(label), *np.unique(prediction)} - {ignore})
        names = [self.config.class_names[i] for i in present]
        strip = legend([colors[i] for i in present], names, drawn.shape[1])
        return above(drawn, strip)


class Progress(keras.callbacks.Callback):
    """A line that is rewritten in place on a terminal; elsewhere a line an epoch.

    Both tell how long the rest of the run will take.

    Args:
      meter: of the same run, a callback before this one.
      stream: where to print, sys.stdout by default.
    """

    def __init__(self, meter: RunMeter, stream=None):
        super().__init__()
        self.meter = meter
        self._stream = stream or sys.stdout
        self._on_terminal = self._stream.isatty()
        self._next_time = 0.0

    def on_train_batch_end(self, batch, logs=None):
        if self._is_due():
            self._rewrite(self._line(self.meter.epochs, plain_names(logs)))

    def on_test_batch_end(self, batch, logs=None):
        if self._is_due():
            self._rewrite(
                f"{self._position(self.meter.epochs)}  validation {batch + 1}"
            )

    def on_epoch_end(self, epoch, logs=None):
        line = self._line(epoch, logs or {})
        # It replaces the line that was rewritten, and stays.
        self._stream.write(f"\r\x1b[K{line}\n" if self._on_terminal else f"{line}\n")
        self._stream.flush()

    def _is_due(self):
        """On a terminal, and so rarely that it costs nothing."""
        return self._on_terminal and self.meter.pace.clock() >= self._next_time

    def _rewrite(self, line):
        width = shutil.get_terminal_size().columns - 1  # a wrapped line would stay
        self._stream.write(f"\r\x1b[K{line[:width]}")
        self._stream.flush()
        self._next_time = self.meter.pace.clock() + REDRAW_SECONDS

    def _position(self, epoch):
        config = self.meter.config
        return (
            f"epoch {epoch + 1}/{config.epochs}  step {self.meter.step}/{config.steps}"
        )

    def _line(self, epoch, logs):
        parts = [self._position(epoch)]
        left, speed = self.meter.seconds_left(), self.meter.images_per_second()
        if left is not None:
            parts.append(f"ETA {format_duration(left)}")
        if speed is not None:
            parts.append(f"{speed:.1f} images/s")
        for name, label in _SHOWN.items():
            if name in logs:
                parts.append(f"{label} {logs[name]:.4f}")
        rate = logs.get("learning_rate")
        if rate is None:
            rate = current_learning_rate(self.model.optimizer)
        parts.append(f"learning rate {rate:.3g}")
        return "  ".join(parts)
