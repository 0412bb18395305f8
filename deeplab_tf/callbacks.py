"""What happens while a network trains: checkpoints, logs, pictures."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.checkpoints import CheckpointFolder
from deeplab_tf.config import TrainConfig
from deeplab_tf.optimizers import (
    averaged_weights,
    build_optimizer,
    current_learning_rate,
)
from deeplab_tf.visualize import panel
from deeplab_tf.weight_files import save_weights
from deeplab_tf.workdir import BEST_WEIGHTS, LAST_WEIGHTS


def checkpoint_folder(workdir: str | os.PathLike) -> str:
    return os.path.join(workdir, "checkpoints")


class RunStopped(Exception):
    """A signal asked the run to stop; its state is saved."""


class NonFiniteLoss(ArithmeticError):
    """The loss is NaN or infinite; the state of before is saved."""


class ResumableRun(keras.callbacks.Callback):
    """Saves the state of a run so that the same command goes on where it stopped.

    `<workdir>/checkpoints` holds model, optimizer, step and best score, the last three
    times: after every epoch, in front of its validation, every `checkpoint_steps` and
    when a stop is asked for. `last.npz` and, when the validation mean IoU rises,
    `best.npz` hold weights by name, which any Keras reads.

    Args:
      workdir: folder of the run.
      model: compiled model, with its first weights: some optimizers start from them.
      checkpoint_steps: training steps between checkpoints.

    Attributes:
      step: training steps done.
      epochs: epochs done, their validation too.
    """

    def __init__(self, workdir: str, model: keras.Model, checkpoint_steps: int = 1000):
        super().__init__()
        self.workdir = workdir
        self.checkpoint_steps = checkpoint_steps
        self.step, self.epochs = 0, 0
        self._stop_reason = None
        self._saved_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._saved_epochs = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._best = tf.Variable(-1.0, dtype=tf.float64, trainable=False)
        build_optimizer(model.optimizer, model.trainable_variables)
        self._folder = CheckpointFolder(
            checkpoint_folder(workdir),
            tf.train.Checkpoint(
                model=model,
                optimizer=model.optimizer,
                step=self._saved_step,
                epochs=self._saved_epochs,
                best=self._best,
            ),
        )

    def restore(self) -> bool:
        """Restores the latest state; says whether there was one."""
        restored = self._folder.restore() is not None
        self.step = int(self._saved_step.numpy())
        self.epochs = int(self._saved_epochs.numpy())
        return restored

    def save(self) -> None:
        """Writes a checkpoint of the present state."""
        self._saved_step.assign(self.step)
        self._saved_epochs.assign(self.epochs)
        self._folder.save(self.step)

    def request_stop(self, reason: str) -> None:
        """Lets the run stop behind the step it is at; safe in a signal handler."""
        self._stop_reason = reason

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"The loss became {loss} at step {self.step + 1}. {self.workdir} keeps "
                f"its state of step {int(self._saved_step.numpy())}. Try a lower "
                "learning rate in another --workdir."
            )
        self.step += 1
        if self._stop_reason:
            self.save()
            self._stop()
        if self.step % self.checkpoint_steps == 0:
            self.save()

    def on_test_begin(self, logs=None):
        # A kill during validation shall not cost the epoch.
        if self.step != int(self._saved_step.numpy()):
            self.save()

    def on_test_batch_end(self, batch, logs=None):
        if self._stop_reason:
            self._stop()

    def on_epoch_end(self, epoch, logs=None):
        score = validation_score(logs)
        with averaged_weights(self.model):  # where there is such an average
            save_weights(self.model, os.path.join(self.workdir, LAST_WEIGHTS))
            if score is not None and score > float(self._best.numpy()):
                self._best.assign(score)
                save_weights(self.model, os.path.join(self.workdir, BEST_WEIGHTS))
        self.epochs = epoch + 1
        self.save()

    def _stop(self):
        raise RunStopped(
            f"Stopped by {self._stop_reason} after step {self.step}. All of it is "
            "saved: the same command resumes."
        )


def validation_score(logs: dict | None) -> float | None:
    """The validation mean IoU in the logs of an epoch; None where there was none.

    Keras calls it val_mean_iou, or with a prefix where a model has several outputs.
    """
    for name, value in (logs or {}).items():
        if name.startswith("val_") and name.endswith("mean_iou"):
            return value
    return None


class EpochLog(keras.callbacks.Callback):
    """One row an epoch in a CSV file, written anew each time, atomically.

    Rows of epochs that a resumed run repeats are replaced, and columns that only some
    epochs have (validation) are there for all.

    Args:
      path: of the file.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.path = os.fspath(path)

    def on_epoch_end(self, epoch, logs=None):
        rows = []
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8", newline="") as file:
                rows = [
                    row for row in csv.DictReader(file) if int(row["epoch"]) < epoch
                ]
        rows.append({"epoch": epoch, **(logs or {})})
        columns = list(dict.fromkeys(name for row in rows for name in row))
        temporary = f"{self.path}.tmp"
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.path)


class ImagePanels(keras.callbacks.Callback):
    """Writes image | label | prediction panels to TensorBoard after each validation.

    Args:
      log_dir: TensorBoard folder.
      examples: (image uint8 [h, w, 3], label int [h, w]) pairs to draw.
      config: colormap and ignore label.
    """

    def __init__(
        self,
        log_dir: str,
        examples: Sequence[tuple[np.ndarray, np.ndarray]],
        config: TrainConfig,
    ):
        super().__init__()
        self.examples = examples
        self.config = config
        self._writer = tf.summary.create_file_writer(log_dir)

    def on_epoch_end(self, epoch, logs=None):
        if validation_score(logs) is None:
            return
        with self._writer.as_default():
            for index, (image, label) in enumerate(self.examples):
                outputs = self.model(image[None].astype("float32"), training=False)
                logits = outputs["logits"] if isinstance(outputs, dict) else outputs
                prediction = np.argmax(logits[0], -1).astype(np.uint8)
                drawn = panel(
                    image,
                    label,
                    prediction,
                    self.config.colormap,
                    self.config.ignore_label,
                )
                tf.summary.image(f"validation/{index}", drawn[None], step=epoch)
        self._writer.flush()


class LearningRate(keras.callbacks.Callback):
    """Adds the learning rate to the logs of each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["learning_rate"] = current_learning_rate(self.model.optimizer)
