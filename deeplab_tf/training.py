"""Strategy, optimizer and losses of the papers' training protocol."""

from __future__ import annotations

import os

import tensorflow as tf
from tensorflow import keras

from deeplab_tf import optimizers
from deeplab_tf.config import TrainConfig
from deeplab_tf.heads import is_classifier
from deeplab_tf.layers import is_keras3
from deeplab_tf.losses import SegmentationLoss
from deeplab_tf.metrics import MeanIoU
from deeplab_tf.models import load_backbone_weights
from deeplab_tf.optimizers import PolySchedule
from deeplab_tf.weight_files import load_weights
from deeplab_tf.workdir import workdir_weights

STRATEGIES = ("mirrored", "default", "multi_worker", "tpu")
# Keras 3 cannot run these (fit fails on their per-replica values); Keras 2 can.
KERAS2_STRATEGIES = ("multi_worker", "tpu")


def make_strategy(name: str, logical_cpus: int = 1) -> tf.distribute.Strategy:
    """Makes a distribution strategy; call it before anything touches a device.

    Args:
      name: "mirrored" takes every GPU, or the CPU where there is none; "default" one
        device; "multi_worker" reads TF_CONFIG; "tpu" the TPU at hand.
      logical_cpus: splits the CPU into that many devices, and mirrored uses them.

    Raises:
      ValueError: unknown name, or a strategy that the installed Keras cannot run.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {STRATEGIES}. Received: {name!r}")
    if name in KERAS2_STRATEGIES and is_keras3():
        raise ValueError(
            f"strategy {name} needs Keras 2, this is Keras {keras.__version__}. "
            "Install tf-keras and set TF_USE_LEGACY_KERAS=1."
        )
    if logical_cpus > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * logical_cpus
        )
    if name == "mirrored":
        # Named, because on CPUs alone MirroredStrategy would take only the first.
        kind = "CPU" if logical_cpus > 1 else "GPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return tf.distribute.MirroredStrategy(devices or ["CPU:0"])
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        return tf.distribute.TPUStrategy(resolver)
    return tf.distribute.get_strategy()


def poly_schedule(config: TrainConfig) -> PolySchedule:
    """learning_rate * (1 - update / updates) ** power, behind a linear warm-up."""
    return PolySchedule(
        config.learning_rate,
        -(-config.steps // config.accumulation_steps),
        config.poly_power,
        config.warmup_steps,
    )


def make_optimizer(config: TrainConfig):
    """The configuration's optimizer on the poly schedule.

    Raises:
      ImportError, ValueError: see `optimizers.make_optimizer`.
    """
    multipliers = None
    if (config.head_multiplier, config.head_bias_multiplier) != (1, 1):

        def multipliers(name):
            if not is_classifier(name):
                return 1.0
            is_bias = name.endswith("bias")
            return config.head_bias_multiplier if is_bias else config.head_multiplier

    optimizer = optimizers.make_optimizer(
        config.optimizer,
        poly_schedule(config),
        momentum=config.momentum,
        clip_norm=config.clip_norm,
        ema_momentum=config.ema_momentum,
        accumulation_steps=config.accumulation_steps,
        multipliers=multipliers,
    )
    if config.precision == "float16":
        return optimizers.loss_scaled(optimizer)
    return optimizer


def compile_model(model: keras.Model, config: TrainConfig) -> None:
    """The configuration's optimizer, ignore-aware loss, mean IoU.

    A model with auxiliary outputs has a loss on each, weighted by
    `config.auxiliary_weight` next to that of "logits".
    """
    optimizer = make_optimizer(config)

    def make_loss():
        return SegmentationLoss(
            config.ignore_label,
            class_weights=config.class_weights,
            label_stride=config.label_stride,
            hard_pixel_fraction=config.hard_pixel_fraction,
            hard_mining_steps=config.hard_mining_steps,
            step=optimizer.iterations,
        )

    loss = make_loss()
    metrics = [MeanIoU(config.num_classes, config.ignore_label)]
    loss_weights = None
    if isinstance(model.output, dict):
        loss_weights = {name: config.auxiliary_weight for name in model.output}
        loss_weights["logits"] = 1.0
        loss = {name: make_loss() for name in model.output}
        metrics = {"logits": metrics}
    model.compile(
        optimizer,
        loss=loss,
        loss_weights=loss_weights,
        metrics=metrics,
        jit_compile=False,  # XLA on CPU made a step 9 times slower
    )


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
        backbone, or a workdir or .npz file of the same network, whose classifiers are
        left out where its classes differ.

    Returns:
      A `weight_files.WeightReport`, or None for "".

    Raises:
      FileNotFoundError, ValueError: no such file, or one that does not fit.
    """
    if not config.init:
        return None
    path = config.init
    if os.path.isdir(path):
        path = workdir_weights(path)
    if not path.endswith(".npz"):
        return load_backbone_weights(model, config.backbone, path)
    # What only training needs may be absent from a file made for inference.
    replaceable = [
        layer.name
        for layer in model.layers
        if is_classifier(layer.name) or layer.name.startswith("auxiliary")
    ]
    return load_weights(model, path, allow_missing=replaceable)
