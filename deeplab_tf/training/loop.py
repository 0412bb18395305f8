"""A run from its first weights to its last: `train`, told in the order it happens.

The loop itself is Keras'. What a run reads is handed to it (`Data`), what it keeps is
in `resuming`, what it shows in `watching`, and who else takes part in `strategies`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.config import TrainConfig
from deeplab_tf.devices.expected_time import PASSES, convolution_rate, warn_of_cpu
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.multiply_adds import multiply_adds
from deeplab_tf.networks.precision import precision_policy
from deeplab_tf.networks.recomputation import recompute_in_training
from deeplab_tf.recipes import RECIPES
from deeplab_tf.training import compiling, strategies, watching
from deeplab_tf.training.averaging import (
    BatchNormEstimate,
    JudgedEvaluation,
    JudgedWeights,
)
from deeplab_tf.training.checkpoints import list_checkpoints
from deeplab_tf.training.meter import RunMeter
from deeplab_tf.training.resuming import (
    EarlyStopping,
    ResumableRun,
    checkpoint_folder,
    earlier_scores,
    stop_on_signals,
    validation_score,
)
from deeplab_tf.training.teachers import Teacher, describe_teacher, load_teacher
from deeplab_tf.training.unheeded import unheeded_warnings
from deeplab_tf.workdir import LOG_FILE, TENSORBOARD_FOLDER


class Data(Protocol):
    """What a run reads: (image [B, h, w, 3], RGB in 0..255; label int32 [B, h, w]).

    `commands.run_data.RunData` reads records. A `share` says what part of every batch a
    process of several reads: num_replicas, num_workers and worker_index, of
    `strategies.distribute`; without one it reads all.

    Attributes:
      steps_per_epoch: batches in a pass over the training data.
      num_validation: images of a validation.
      num_skipped: records that are left out because they are bad.
    """

    steps_per_epoch: int
    num_validation: int
    num_skipped: int

    def train_batches(self, start_step: int = 0, **share: int) -> tf.data.Dataset:
        """The endless stream of training batches from a step on: batch k is the same
        wherever the stream is entered."""

    def validation_batches(self, batch_size: int = 1) -> tf.data.Dataset:
        """Each image once, at its own size; all batches are full."""

    def validation_share(self, **share: int) -> tf.data.Dataset:
        """A worker's part of the same, one by one; all workers get equally many."""

    def panels(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The (image uint8, label) pairs of validation that TensorBoard shows."""


def train(
    config: TrainConfig,
    data: Data,
    workdir: str,
    strategy: tf.distribute.Strategy,
    output: str | None = None,
) -> float | None:
    """Trains up to `config.steps`, resuming what the workdir holds.

    With `config.patience` it ends earlier where validation gets no better.

    Args:
      config: complete, with classes and steps.
      data: what it reads.
      workdir: folder of the run.
      strategy: made by `strategies.make_strategy`.
      output: folder to write to, the workdir unless given; see
        `strategies.output_folder`.

    Returns:
      The last validation mean IoU; None when all was done before.

    Raises:
      RunStopped: a signal stopped it; all is saved.
      NonFiniteLoss: the loss is NaN or infinite.
      OSError: the disk is full.
      ValueError: the replicas cannot share a batch, or the workers do not agree.
    """
    print(strategies.describe(strategy, config.batch_size))
    model = make_model(config, strategy)
    if not list_checkpoints(checkpoint_folder(workdir)):
        report = compiling.initialize(model, config)
        print(compiling.describe_start(report))
    judged = make_judged(config, data, model, strategy)
    run = begin_or_resume(config, model, workdir, strategy, output, judged)
    print(
        f"{config.model} on {config.backbone}, {model.count_params():,} parameters, "
        f"{config.steps} steps of {config.batch_size} images."
    )
    spans = epoch_spans(config.steps, data.steps_per_epoch, run.step)
    if spans and run.step % data.steps_per_epoch:
        print(
            f"The log's row of epoch {spans[0].first_epoch + 1} will be of its last "
            f"{spans[0].steps_per_epoch} steps: what was measured before is lost."
        )
    validation = make_validation(data, model, strategy)
    before = earlier_scores(workdir, run.epochs) if config.patience else ()
    stopping = EarlyStopping(config.patience, before)
    callbacks = [*make_callbacks(config, data, run), stopping]

    logs = {}
    with stop_on_signals(run):
        if is_not_validated(config, data, run):
            logs = end_epoch(config, model, validation, callbacks, run)
        for span in spans:
            if stopping.is_over:
                break
            history = fit(config, data, model, strategy, span, validation, callbacks)
            logs = {name: values[-1] for name, values in history.items()}
    strategies.wait_for_workers(strategy)
    if stopping.is_over and run.is_chief:
        print(stopping.describe())
    return validation_score(logs)


# --- Before the first step -----------------------------------------------------------


def make_model(config: TrainConfig, strategy: tf.distribute.Strategy) -> keras.Model:
    """Builds and compiles the model on every replica, with its random weights."""
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    with strategy.scope(), precision_policy(config.precision):
        replicas = strategy.num_replicas_in_sync
        model = build_model(config, synchronized=replicas > 1, auxiliary_outputs=True)
        if config.recompute:
            recompute_in_training(model)
        teacher = load_teacher(config)
        compiling.compile_model(model, config, teacher)
    if teacher is not None:
        print(describe_teacher(teacher, config))
    warnings = unheeded_warnings(config)
    warnings += compiling.batch_norm_warnings(model, config)
    devices = strategies.device_names(strategy)
    warnings += cpu_warnings(model, config, devices, teacher)
    for warning in warnings:
        print(f"Warning: {warning}")
    return model


def cpu_warnings(
    model: keras.Model,
    config: TrainConfig,
    devices: Sequence[str],
    teacher: Teacher | None = None,
) -> list[str]:
    """Says how long a recipe that needs a GPU takes without one; [] elsewhere."""
    recipe = RECIPES.get(config.recipe)
    if recipe is None or not recipe.needs_gpu:
        return []
    if not all(device.startswith("CPU") for device in devices):
        return []
    try:
        count = multiply_adds(model, *config.crop_size)
        if teacher is not None:  # which only passes forward
            count += multiply_adds(teacher.network, *config.crop_size) // PASSES
    except ValueError:  # layers that nobody counts
        return []
    rate = convolution_rate(config.precision)
    return [warn_of_cpu(config.recipe, config.steps, config.batch_size, count, rate)]


def make_judged(
    config: TrainConfig,
    data: Data,
    model: keras.Model,
    strategy: tf.distribute.Strategy,
) -> JudgedWeights:
    """What the run is judged by, BatchNorm estimated from its first batches.

    They are the same ones whenever it is asked, a resumed run's too.
    """
    if not config.batch_norm_batches:
        return JudgedWeights(model)
    make_batches = functools.partial(
        strategies.distribute, strategy, functools.partial(data.train_batches, 0)
    )
    estimate = BatchNormEstimate(model, make_batches, config.batch_norm_batches)
    return JudgedWeights(model, estimate)


def begin_or_resume(
    config: TrainConfig,
    model: keras.Model,
    workdir: str,
    strategy: tf.distribute.Strategy,
    output: str | None = None,
    judged: JudgedWeights | None = None,
) -> ResumableRun:
    """Restores the state that the workdir holds, where it holds one.

    Raises:
      ValueError: the workers have restored different steps.
    """
    with strategy.scope():
        run = ResumableRun(
            workdir,
            model,
            config.checkpoint_steps,
            output=output,
            agree=functools.partial(strategies.any_worker, strategy),
            devices=strategies.device_names(strategy),
            judged=judged,
        )
    restored = run.restore()
    strategies.check_same(
        strategy,
        run.step,
        "The workers have restored different steps: give a --workdir that all share.",
    )
    if restored:
        print(f"Resuming after step {run.step} of {config.steps}.")
    return run


class Validation(NamedTuple):
    """What `fit` and `evaluate` of a model take; steps None where Keras can tell."""

    data: tf.data.Dataset
    steps: int | None


def make_validation(
    data: Data, model: keras.Model, strategy: tf.distribute.Strategy
) -> Validation:
    """Each image at its own size, alone; on several replicas one image for each."""
    replicas = strategy.num_replicas_in_sync
    if strategies.workers_of(strategy).count > 1:
        share = data_for_fit(data.validation_share, model, strategy)
        return Validation(share, -(-data.num_validation // replicas))
    batches = data.validation_batches(replicas)
    return Validation(compiling.label_outputs(model, batches), None)


def data_for_fit(make_dataset, model: keras.Model, strategy: tf.distribute.Strategy):
    """A label for every output of the model; of several workers, this one's share."""
    return strategies.distribute(
        strategy,
        lambda **share: compiling.label_outputs(model, make_dataset(**share)),
    )


def make_callbacks(config: TrainConfig, data: Data, run: ResumableRun) -> list:
    """What happens at the end of an epoch, in order."""
    logs = os.path.join(run.output, TENSORBOARD_FOLDER)
    pictures = os.path.join(logs, "pictures")
    meter = RunMeter(config, run.step, validation_epochs(config))
    return [
        *([count_skipped(data)] if config.skip_bad_records else []),
        meter,
        watching.EpochLog(os.path.join(run.output, LOG_FILE)),
        run,
        JudgedEvaluation(run.judged),  # after the run, which saves those of training
        watching.Scalars(logs, meter),
        watching.ImagePanels(pictures, data.panels(), config, meter, run.judged),
        *([watching.Progress(meter)] if run.is_chief else []),
    ]


def count_skipped(data: Data) -> keras.callbacks.Callback:
    """Logs how many bad records are skipped."""

    def on_epoch_end(epoch, logs):
        logs["skipped_records"] = data.num_skipped

    return keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)


# --- Epochs --------------------------------------------------------------------------


class Span(NamedTuple):
    """Epochs of equally many steps: what one call of `fit` trains."""

    first_step: int
    first_epoch: int
    end_epoch: int  # after the last
    steps_per_epoch: int


def epoch_spans(total_steps: int, steps_per_epoch: int, step: int) -> list[Span]:
    """Splits what is left into the rest of an epoch, whole ones and a shorter last one.

    Args:
      total_steps: of the run.
      steps_per_epoch: of a whole epoch.
      step: steps done.
    """
    spans = []
    while step < total_steps:
        epoch, done = divmod(step, steps_per_epoch)
        steps = min(steps_per_epoch - done, total_steps - step)
        is_whole = steps == steps_per_epoch
        epochs = (total_steps - step) // steps_per_epoch if is_whole else 1
        spans.append(Span(step, epoch, epoch + epochs, steps))
        step += epochs * steps
    return spans


def validation_epochs(config: TrainConfig) -> list[int]:
    """Every `validate_every`-th epoch, counted from 1, and the last."""
    every = list(range(config.validate_every, config.epochs, config.validate_every))
    return every + [config.epochs]


def fit(
    config: TrainConfig,
    data: Data,
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    span: Span,
    validation: Validation,
    callbacks: list,
) -> dict[str, list[float]]:
    """Trains some epochs; returns the history of their logs.

    Batch k depends on the seed and k alone, so that a resumed run sees what it would
    have seen.
    """
    make_batches = functools.partial(data.train_batches, span.first_step)
    return model.fit(
        data_for_fit(make_batches, model, strategy),
        initial_epoch=span.first_epoch,
        epochs=span.end_epoch,
        steps_per_epoch=span.steps_per_epoch,
        shuffle=False,
        validation_data=validation.data,
        validation_steps=validation.steps,
        validation_freq=validation_epochs(config),
        callbacks=callbacks,
        verbose=0,  # watching.Progress prints
    ).history


def is_not_validated(config: TrainConfig, data: Data, run: ResumableRun) -> bool:
    """Whether the run was killed between the steps of an epoch and its end."""
    done = run.step == config.steps
    epochs = config.epochs if done else run.step // data.steps_per_epoch
    return run.epochs < epochs


def end_epoch(
    config: TrainConfig,
    model: keras.Model,
    validation: Validation,
    callbacks: list,
    run: ResumableRun,
) -> dict:
    """Ends an epoch whose steps were done when the run was killed; returns its logs."""
    epoch, logs = run.epochs, {}
    if epoch + 1 in validation_epochs(config):
        with run.judged.put_in():  # as JudgedEvaluation does inside fit
            scores = model.evaluate(
                validation.data, steps=validation.steps, return_dict=True, verbose=0
            )
        logs = {f"val_{name}": value for name, value in scores.items()}
    for callback in callbacks:
        callback.set_model(model)
        callback.on_epoch_end(epoch, logs)
    return logs
