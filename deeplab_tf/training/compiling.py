"""From a configuration to a compiled model with its first weights."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.config import TrainConfig, read_config
from deeplab_tf.evaluation.class_order import same_ids
from deeplab_tf.evaluation.metrics import MeanIoU
from deeplab_tf.networks.blocks import is_of_head
from deeplab_tf.networks.heads import is_classifier
from deeplab_tf.networks.models import load_backbone_weights
from deeplab_tf.networks.segmentation_model import own_strides
from deeplab_tf.networks.weight_files import (
    WeightReport,
    copy_weights,
    read_weights,
)
from deeplab_tf.training import gradient_steps, optimizers
from deeplab_tf.training.advice import MIN_NORMALIZED_IMAGES
from deeplab_tf.training.losses import check_loss, make_loss
from deeplab_tf.training.losses.at_features import AtFeatures
from deeplab_tf.training.schedules import check_schedule, make_schedule
from deeplab_tf.training.teachers import Teacher
from deeplab_tf.workdir import workdir_weights

# Of the moving statistics: after three, 5 per cent of what they were is left.
TIME_CONSTANTS = 3


def check_packages(config: TrainConfig) -> None:
    """Says before a run begins what it would miss after its first epoch.

    Call it before a workdir is claimed. Augmentation asks for its own (keras-cv for
    policy "strong", see `data.reading.policies.make_augmenter`). Without matplotlib a
    run has no curves.png, and `log.write_report` says so.

    Args:
      config: of the run; it need not be complete.

    Raises:
      ImportError: a package is not installed; the message says how to install it.
      ValueError: there is no such optimizer, schedule or loss.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "A run writes its curves for TensorBoard, and tensorboard is not "
            "installed. Run: pip install tensorboard"
        )
    optimizers.check_optimizer(config.optimizer)
    check_schedule(config)
    check_loss(config)


def make_optimizer(config: TrainConfig, undecayed: Sequence = ()):
    """The configuration's optimizer on its schedule.

    Args:
      config: of the run.
      undecayed: variables without decoupled weight decay.

    Raises:
      ImportError, ValueError: see `optimizers.make_optimizer`.
    """
    optimizer = optimizers.make_optimizer(
        config.optimizer,
        make_schedule(config),
        momentum=config.momentum,
        clip_norm=config.clip_norm,
        ema_momentum=config.ema_momentum,
        accumulation_steps=config.accumulation_steps,
        multipliers=_multipliers(config),
        weight_decay=config.decoupled_weight_decay,
        undecayed=undecayed,
    )
    if config.precision == "float16":
        return gradient_steps.loss_scaled(optimizer)
    return optimizer


def _multipliers(config: TrainConfig) -> Callable[[str], float] | None:
    """The factor of a weight's learning rate by its name; None where all are 1."""
    of_head = (config.head_multiplier, config.head_bias_multiplier)
    if (*of_head, config.backbone_multiplier) == (1, 1, 1):
        return None
    is_multiplied = is_of_head if config.head_layers == "head" else is_classifier

    def multiplier(name):
        if is_multiplied(name):
            return of_head[name.endswith("bias")]
        return 1.0 if is_of_head(name) else config.backbone_multiplier

    return multiplier


def compile_model(
    model: keras.Model, config: TrainConfig, teacher: Teacher | None = None
) -> None:
    """Gives a model the configuration's optimizer and loss, and mean IoU.

    A model with auxiliary outputs has a loss on each, weighted by
    `config.auxiliary_weight` next to that of "logits".

    Args:
      model: made by `models.build_model`, in the strategy's scope.
      config: of the run.
      teacher: adds its term to the loss of training.

    Raises:
      ImportError, ValueError: see `make_optimizer` and `losses.make_loss`.
    """
    optimizer = make_optimizer(config, optimizers.undecayed_variables(model))
    loss = make_loss(config, optimizer.iterations)
    metrics = [MeanIoU(config.num_classes, config.ignore_label)]
    loss_weights = None
    if isinstance(model.output, dict):
        loss_weights = {name: config.auxiliary_weight for name in model.output}
        loss_weights["logits"] = 1.0
        loss = _loss_of_each_output(model, config, optimizer.iterations)
        metrics = {"logits": metrics}
    model.compile(
        optimizer,
        loss=loss,
        loss_weights=loss_weights,
        metrics=metrics,
        jit_compile=False,  # of validation too, which has images of any size
    )
    if teacher is not None:
        teacher.teach(model, config)
    if is_jit_compiled(config):
        jit_compile_training(model)


def _loss_of_each_output(model, config, step) -> dict:
    """Output of a model -> its loss, of the label's pixels that it is for."""
    losses = {name: make_loss(config, step) for name in model.output}
    at_every_pixel = dataclasses.replace(config, label_stride=1)
    for name, stride in own_strides(model).items():
        losses[name] = AtFeatures(make_loss(at_every_pixel, step), stride)
    return losses


def is_jit_compiled(config: TrainConfig) -> bool:
    """Whether XLA compiles the training step; call it in the strategy's scope.

    By itself on one GPU. On a CPU it made a step 9 times slower, and what several
    replicas add up TensorFlow cannot compile: its `merge_call` must stand outside. For
    a GPU XLA has no deterministic gradient of max-pooling.

    Raises:
      ValueError: XLA is asked for on several replicas, or on a CPU for a network that
        resizes by half pixels.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    has_gpu = bool(tf.config.list_logical_devices("GPU"))
    if config.jit_compile == "auto":
        return replicas == 1 and has_gpu and not config.deterministic
    if config.jit_compile and replicas > 1:
        raise ValueError(
            "XLA compiles a training step on one device alone: TensorFlow cannot "
            "compile what several replicas add up. Leave jit_compile at auto or false. "
            f"Received: jit_compile=true on {replicas} replicas"
        )
    if config.jit_compile and not has_gpu and _resizes_by_half_pixels(config):
        raise ValueError(
            "On a CPU XLA resizes by half pixels wrongly between some sizes (of 5 to "
            "65 pixels by up to the whole range). Leave jit_compile at auto or false, "
            "or take resize=aligned and scale_resize=aligned where the weights allow "
            "it. Received: jit_compile=true"
        )
    return config.jit_compile


def _resizes_by_half_pixels(config: TrainConfig) -> bool:
    """On an H200 the same program was right: docs/benchmarks.md, "On a GPU"."""
    fuses_scales = config.model == "deeplab_v2" and config.input_scales != (1.0,)
    return config.resize == "half_pixel" or (
        fuses_scales and config.scale_resize == "half_pixel"
    )


def jit_compile_training(model: keras.Model) -> None:
    """Has XLA compile the training step of a compiled model, and nothing else.

    `compile(jit_compile=True)` of Keras, which is its default on a GPU, compiles
    validation too: once for every size of image, which takes longer than it saves.

    Args:
      model: its batches should have one size; a step is compiled again for another.
    """
    step = tf.function(model.train_step, jit_compile=True)
    # Not the function itself: Keras 2 would track it as a part of the model.
    model.train_step = lambda data: step(data)


def batch_norm_warnings(model: keras.Model, config: TrainConfig) -> list[str]:
    """Says where BatchNorm will not do what a run expects of it; [] where all is well.

    Frozen BatchNorm and networks without it have nothing to warn of.
    """
    momenta = [
        layer.momentum
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    warnings = []
    lags = momenta and not config.batch_norm_batches
    if lags and config.steps * (1 - max(momenta)) < TIME_CONSTANTS:
        momentum = 1 - TIME_CONSTANTS / config.steps
        lower = f"batch_norm_momentum to {momentum:.4f} or less, or "
        warnings.append(
            f"BatchNorm's moving statistics of momentum {max(momenta)} average over "
            f"{1 / (1 - max(momenta)):,.0f} steps, and this run has {config.steps:,}: "
            "they will lag behind the weights, and evaluation uses them. Set "
            f"{lower if momentum > 0 else ''}batch_norm_batches to 100, which "
            "estimates them anew, or frozen_batch_norm=backbone (true from a trained "
            "workdir)."
        )
    is_small = config.batch_size < MIN_NORMALIZED_IMAGES
    if momenta and is_small and config.frozen_batch_norm != "backbone":
        warnings.append(
            f"BatchNorm computes its statistics over {config.batch_size} images; "
            "DeepLabV3 fell from 77.2 to 64.4 mean IoU between batches of 16 and of 4 "
            f"(1706.05587, appendix A). Take batch_size={MIN_NORMALIZED_IMAGES} or "
            "more, or frozen_batch_norm=backbone (true from a trained workdir); "
            "accumulation_steps does not help here."
        )
    if config.frozen_batch_norm is True and not _begins_with_trained_head(config):
        warnings.append(
            "The head's BatchNorm is frozen too, and nothing has trained it: it "
            "normalises nothing, and the loss may become NaN within a few steps. Set "
            "frozen_batch_norm=backbone, or start from a workdir."
        )
    return warnings


def _begins_with_trained_head(config: TrainConfig) -> bool:
    if os.path.isdir(config.init):
        return has_trained_head(config.init)
    return config.init.endswith(".npz")


def has_trained_head(workdir: str | os.PathLike) -> bool:
    """Says whether more than the backbone of a workdir's network was trained.

    What was made of an ImageNet checkpoint has a head too, of random weights, so that
    it is a network; the head's BatchNorm has never seen an image.

    Raises:
      FileNotFoundError, ValueError: it is no workdir, or a damaged one.
    """
    if not read_config(workdir).is_imported:
        return True
    return _has_seen_images(read_weights(workdir_weights(workdir)))


def _has_seen_images(arrays: dict) -> bool:
    """Whether the head's BatchNorm has, by its statistics; True of a head without."""
    variances = [
        array
        for name, array in arrays.items()
        if is_of_head(name) and name.endswith("/moving_variance")
    ]
    return not variances or any((array != 1).any() for array in variances)


def label_outputs(model: keras.Model, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Gives the label to every output of a model: what `model.fit` then expects."""
    if not isinstance(model.output, dict):
        return dataset
    names = list(model.output)
    return dataset.map(lambda image, label: (image, {name: label for name in names}))


def initialize(model: keras.Model, config: TrainConfig):
    """Puts the weights of `config.init` into a new model.

    Args:
      model: made by `models.build_model`.
      config: `init` is "" (nothing), "imagenet", a keras.applications file for the
        backbone, or a workdir or .npz file of the same network. Its classifiers are
        left out where their number of classes differs; a workdir's are put into the
        order of this run's class names, and left out where the names are others. Of
        a workdir whose head nothing has trained the backbone is taken.

    Returns:
      A `weight_files.WeightReport`, or None for "".

    Raises:
      FileNotFoundError, ValueError: no such file, or one that does not fit.
    """
    if not config.init:
        return None
    path = config.init
    is_workdir = os.path.isdir(path)
    if is_workdir:
        path = workdir_weights(path)
    if not path.endswith(".npz"):
        return load_backbone_weights(model, config.backbone, path)
    arrays, is_replaceable = read_weights(path), _is_left_to_training
    if is_workdir:
        source = read_config(config.init)
        if source.is_imported and not _has_seen_images(arrays):
            arrays = {name: a for name, a in arrays.items() if not is_of_head(name)}
            is_replaceable = is_of_head
        arrays = _by_class_names(arrays, source, config)
    replaceable = [layer.name for layer in model.layers if is_replaceable(layer.name)]
    return copy_weights(model, arrays, path, allow_missing=replaceable)


def _is_left_to_training(name: str) -> bool:
    """What only training needs may be absent from a file made for inference."""
    return is_classifier(name) or name.startswith("auxiliary")


def describe_start(report: WeightReport | None) -> str:
    """Says what a run begins from: a line where all is as expected.

    Args:
      report: of `initialize`.
    """
    if report is None:
        return "Training from scratch."
    # The top of a classification network is left over; of a network of ours nothing is.
    if not report.source.endswith(".npz"):
        report = dataclasses.replace(report, unused=())
    return str(report)


def _by_class_names(arrays: dict, source: TrainConfig, config: TrainConfig) -> dict:
    """Weights of another run, its classifiers by the names of this one's classes."""
    names, wanted = source.class_names, config.class_names
    if not names or len(names) != len(wanted):
        return arrays
    try:
        ids = same_ids(names, wanted)
    except ValueError:  # other classes: nothing of a classifier is known of them
        return {name: a for name, a in arrays.items() if not is_classifier(name)}
    return in_class_order(arrays, ids)


def in_class_order(arrays: dict, ids: np.ndarray) -> dict:
    """Weights whose classifiers are put into another order of the classes.

    Args:
      arrays: name -> array.
      ids: of `class_order.same_ids`: at each new id the old one.
    """
    return {
        name: array[..., ids] if is_classifier(name) else array
        for name, array in arrays.items()
    }
