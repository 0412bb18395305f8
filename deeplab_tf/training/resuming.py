"""What keeps a run: its workdir, checkpoints, best and last weights, stops."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.config import (
    EXECUTION_FIELDS,
    TrainConfig,
    config_path,
    describe_difference,
    read_config,
    write_config,
)
from deeplab_tf.devices.replicas import explain_not_finite, steps_since_bad
from deeplab_tf.networks.weight_files import save_weights
from deeplab_tf.training.averaging import JudgedWeights
from deeplab_tf.training.checkpoints import CheckpointFolder, list_checkpoints
from deeplab_tf.training.log import plain_names, read_log
from deeplab_tf.training.optimizers import build_optimizer
from deeplab_tf.training.schedules import current_learning_rate
from deeplab_tf.workdir import (
    BEST_WEIGHTS,
    CHECKPOINT_FOLDER,
    LAST_WEIGHTS,
    LOG_FILE,
)


def checkpoint_folder(workdir: str | os.PathLike) -> str:
    return os.path.join(workdir, CHECKPOINT_FOLDER)


def has_begun(workdir: str | os.PathLike) -> bool:
    """Whether a workdir holds more of a run than its configuration."""
    files = (LAST_WEIGHTS, BEST_WEIGHTS, LOG_FILE)
    return bool(list_checkpoints(checkpoint_folder(workdir))) or any(
        _holds(workdir, name) for name in files
    )


def claim_workdir(config: TrainConfig, workdir: str, is_chief: bool = True) -> None:
    """Writes config.json, or checks that it is the one of this run.

    A run that ended before it left anything else has no claim: its configuration is
    replaced.

    Raises:
      ValueError: the workdir belongs to another configuration, or holds weights of no
        run that can go on.
      FileNotFoundError: a worker does not see what the chief wrote.
    """
    if not os.path.exists(config_path(workdir)):
        if not is_chief:
            raise FileNotFoundError(
                f"{workdir} is not that of the chief: there is no config.json in it. "
                "Give a --workdir that all workers share."
            )
        write_config(config, workdir)
        return
    if is_chief and not has_begun(workdir):
        write_config(config, workdir)
        return
    claimed = read_config(workdir)
    kept = {name: getattr(claimed, name) for name in EXECUTION_FIELDS}
    config = dataclasses.replace(config, **kept)
    difference = describe_difference(claimed, config)
    if difference:
        raise ValueError(
            f"{workdir} belongs to a run of another configuration:\n{difference}\n"
            "Give another --workdir, or the flags of that run to resume it."
        )
    if _holds(workdir, BEST_WEIGHTS) and not (
        _holds(workdir, LOG_FILE) or list_checkpoints(checkpoint_folder(workdir))
    ):
        raise ValueError(
            f"{workdir} holds {BEST_WEIGHTS} and nothing else of a run, as after "
            "deeplab_tf.average: training there would replace these weights. Give "
            f"another --workdir, and --init={workdir} to begin with them."
        )


def _holds(workdir: str | os.PathLike, name: str) -> bool:
    return os.path.exists(os.path.join(workdir, name))


class RunStopped(Exception):
    """A signal asked the run to stop; its state is saved."""


class NonFiniteLoss(ArithmeticError):
    """The loss is NaN or infinite; the state of before is saved."""


class ResumableRun(keras.callbacks.Callback):
    """Saves the state of a run so that the same command goes on where it stopped.

    `<workdir>/checkpoints` holds model, optimizer, step and best score, the last three
    times: after every epoch, in front of its validation, every `checkpoint_steps` and
    when a stop is asked for. `last.npz` and, when the validation mean IoU rises,
    `best.npz` hold the weights that were validated by name, which any Keras reads.

    Args:
      workdir: folder of the run.
      model: compiled model, with its first weights: some optimizers start from them.
      checkpoint_steps: training steps between checkpoints.
      output: folder to write to, the workdir unless given. Of several workers the chief
        alone writes there; but all must save, as reading a variable may need them all.
      agree: makes of "stop here", said in each worker, one answer for all.
      devices: of the replicas in this process.
      judged: what is validated and saved as weights; None is `averaged_weights`.

    Attributes:
      judged: what is validated and saved as weights.
      step: training steps done.
      epochs: epochs done, their validation too.
      is_chief: whether it writes to the workdir itself.
    """

    def __init__(
        self,
        workdir: str,
        model: keras.Model,
        checkpoint_steps: int = 1000,
        *,
        output: str | None = None,
        agree: Callable[[bool], bool] = bool,
        devices: Sequence[str] = ("CPU:0",),
        judged: JudgedWeights | None = None,
    ):
        super().__init__()
        self.judged = judged or JudgedWeights(model)
        self.workdir = workdir
        self.output = output or workdir
        self._agree = agree
        self._devices = devices
        self.checkpoint_steps = checkpoint_steps
        self.step, self.epochs = 0, 0
        self._stop_reason = None
        self._saved_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._saved_epochs = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._best = tf.Variable(-1.0, dtype=tf.float64, trainable=False)
        build_optimizer(model.optimizer, model.trainable_variables)
        checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=model.optimizer,
            step=self._saved_step,
            epochs=self._saved_epochs,
            best=self._best,
        )
        self._source = CheckpointFolder(checkpoint_folder(workdir), checkpoint)
        self._folder = CheckpointFolder(checkpoint_folder(self.output), checkpoint)

    @property
    def is_chief(self) -> bool:
        return self.output == self.workdir

    def restore(self) -> bool:
        """Restores the latest state; says whether there was one."""
        restored = self._source.restore() is not None
        self.step = int(self._saved_step.numpy())
        self.epochs = int(self._saved_epochs.numpy())
        return restored

    def save(self) -> None:
        """Writes a checkpoint of the present state."""
        self._saved_step.assign(self.step)
        self._saved_epochs.assign(self.epochs)
        self._folder.save(self.step)

    def request_stop(self, reason: str) -> None:
        """Lets the run stop after the step it is at; safe in a signal handler."""
        self._stop_reason = reason

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"The loss became {loss} at step {self.step + 1}. {self.workdir} keeps "
                f"its state of step {int(self._saved_step.numpy())}. Try a lower "
                f"learning rate in another --workdir, such as --learning_rate="
                f"{current_learning_rate(self.model.optimizer) / 10:.1g}. "
                f"{explain_not_finite(self._bad_replicas(), self._devices)}".rstrip()
            )
        self.step += 1
        if self._agree(self._stop_reason is not None):
            self.save()
            self._stop()
        if self.step % self.checkpoint_steps == 0:
            self.save()

    def on_test_begin(self, logs=None):
        # A kill during validation shall not cost the epoch.
        if self.step != int(self._saved_step.numpy()):
            self.save()

    def on_test_batch_end(self, batch, logs=None):
        if self._agree(self._stop_reason is not None):
            self._stop()

    def on_epoch_end(self, epoch, logs=None):
        score = validation_score(logs)
        with self.judged.put_in():
            save_weights(self.model, os.path.join(self.output, LAST_WEIGHTS))
            if score is not None and score > float(self._best.numpy()):
                self._best.assign(score)
                save_weights(self.model, os.path.join(self.output, BEST_WEIGHTS))
        self.epochs = epoch + 1
        self.save()

    def _bad_replicas(self):
        return steps_since_bad(self.model.optimizer) if len(self._devices) > 1 else []

    def _stop(self):
        raise RunStopped(
            f"Stopped by {self._stop_reason or 'a signal to another worker'} after "
            f"step {self.step}. All of it is saved: the same command resumes."
        )


class EarlyStopping(keras.callbacks.Callback):
    """Ends a run after so many validations without a better mean IoU.

    All workers of a run have one, and see the same scores.

    Args:
      patience: such validations; 0 never ends a run.
      scores: validation mean IoU of the epochs that were done before, in their order.
    """

    def __init__(self, patience: int, scores: Sequence[float] = ()):
        super().__init__()
        self.patience = patience
        self._scores = list(scores)

    @property
    def is_over(self) -> bool:
        """Whether the run ends here, steps left or not."""
        return 0 < self.patience <= validations_since_best(self._scores)

    def on_epoch_end(self, epoch, logs=None):
        score = validation_score(logs)
        if score is not None:
            self._scores.append(score)
            if self.is_over:
                self.model.stop_training = True

    def describe(self) -> str:
        """Says of a run that is over why, and how it goes on."""
        return (
            f"Stopped early: none of the last {self.patience} validations was better "
            f"than that of before, mean IoU {max(self._scores):.4f}, whose weights are "
            f"{BEST_WEIGHTS}. With --set=patience=0 the same command goes on."
        )


def validations_since_best(scores: Sequence[float]) -> int:
    """[0.3, 0.5, 0.4, 0.5] -> 2: an equal score is no better one."""
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def earlier_scores(workdir: str | os.PathLike, epochs: int) -> list[float]:
    """Reads the validation mean IoU of the first `epochs` epochs off a run's log.

    Raises:
      ValueError: the log is damaged.
    """
    path = os.path.join(workdir, LOG_FILE)
    rows = read_log(path) if epochs and os.path.exists(path) else []
    scores = [row.get("val_mean_iou") for row in rows if row["epoch"] < epochs]
    return [score for score in scores if score is not None]


# Ask a run to stop. A terminal that is closed sends SIGHUP, which Windows has not.
STOP_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]
SAME_SIGNAL_SECONDS = 1.0


@contextlib.contextmanager
def stop_on_signals(run: ResumableRun) -> Iterator[None]:
    """Lets Ctrl-C, SIGTERM and SIGHUP save and stop a run; the second time they kill.

    What comes within a second of the first is the same wish: schedulers send a signal
    to a process and to its group. A signal that is ignored (nohup) stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only there can signals be handled
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    heeded = [n for n in STOP_SIGNALS if before[n] is not signal.SIG_IGN]
    first = None

    def handle(number, frame):
        nonlocal first
        now = time.monotonic()
        if first is not None and now - first < SAME_SIGNAL_SECONDS:
            return
        if first is not None:
            signal.signal(number, before[number])
            signal.raise_signal(number)
            return
        first = now
        run.request_stop(signal.Signals(number).name)
        _say_at_once(f"{signal.Signals(number).name}: stopping after this step ...")

    try:
        for number in heeded:
            signal.signal(number, handle)
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])


def _say_at_once(line: str) -> None:
    """Prints in a signal handler, which may have interrupted another print."""
    line_break = "\n" if sys.stdout.isatty() else ""  # after the progress
    # Not through Python's buffer: that raises where it is in the middle of a write.
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.stdout.fileno(), f"{line_break}{line}\n".encode())


def validation_score(logs: dict | None) -> float | None:
    """The validation mean IoU in the logs of an epoch; None where there was none."""
    return plain_names(logs or {}).get("val_mean_iou")
