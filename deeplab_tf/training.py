"""Strategy, optimizer and callbacks of the papers' training protocol."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.config import TrainConfig
from deeplab_tf.heads import is_classifier
from deeplab_tf.layers import is_keras3
from deeplab_tf.losses import SegmentationLoss
from deeplab_tf.metrics import MeanIoU
from deeplab_tf.models import load_backbone_weights
from deeplab_tf.visualize import panel
from deeplab_tf.weight_files import load_weights, save_weights
from deeplab_tf.workdir import BEST_WEIGHTS, LAST_WEIGHTS, workdir_weights

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


def poly_schedule(config: TrainConfig):
    """learning_rate * (1 - step / steps) ** power (DeepLabV3, section 4.1)."""
    return keras.optimizers.schedules.PolynomialDecay(
        config.learning_rate,
        config.steps,
        end_learning_rate=0.0,
        power=config.poly_power,
    )


def make_optimizer(config: TrainConfig):
    """SGD with momentum as in the papers, or Adam, on the poly schedule.

    Raises:
      ValueError: another optimizer.
    """
    schedule = poly_schedule(config)
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(schedule, momentum=config.momentum)
    if config.optimizer == "adam":
        return keras.optimizers.Adam(schedule)
    raise ValueError(
        f"optimizer must be 'sgd' or 'adam'. Received: {config.optimizer!r}"
    )


def compile_model(model: keras.Model, config: TrainConfig) -> None:
    """The configuration's optimizer, ignore-aware loss, mean IoU.

    A model with auxiliary outputs has a loss on each, weighted by
    `config.auxiliary_weight` next to that of "logits".
    """
    optimizer = make_optimizer(config)
    if config.precision == "float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    loss = SegmentationLoss(config.ignore_label)
    metrics = [MeanIoU(config.num_classes, config.ignore_label)]
    loss_weights = None
    if isinstance(model.output, dict):
        loss_weights = {name: config.auxiliary_weight for name in model.output}
        loss_weights["logits"] = 1.0
        loss = {name: SegmentationLoss(config.ignore_label) for name in model.output}
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


def validation_score(logs: dict | None) -> float | None:
    """The validation mean IoU in the logs of an epoch; None where there was none.

    Keras calls it val_mean_iou, or with a prefix where a model has several outputs.
    """
    for name, value in (logs or {}).items():
        if name.startswith("val_") and name.endswith("mean_iou"):
            return value
    return None


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


class ResumableRun(keras.callbacks.Callback):
    """Checkpoints after every epoch; keeps the best and the last weights.

    `<workdir>/checkpoints` holds model, optimizer, epoch and best score, the last three
    times. `last.npz` and, when the validation mean IoU rises, `best.npz` hold weights
    by name, which any Keras reads.

    Args:
      workdir: folder of the run.
      model: compiled model.
    """

    def __init__(self, workdir: str, model: keras.Model):
        super().__init__()
        self.workdir = workdir
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best = tf.Variable(-1.0, dtype=tf.float64, trainable=False)
        model.optimizer.build(model.trainable_variables)
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(
                model=model,
                optimizer=model.optimizer,
                epoch=self.epoch,
                best=self.best,
            ),
            os.path.join(workdir, "checkpoints"),
            max_to_keep=3,
        )

    def restore(self) -> int:
        """Restores the latest checkpoint; returns how many epochs are done."""
        if self._manager.latest_checkpoint:
            self._manager.checkpoint.restore(
                self._manager.latest_checkpoint
            ).assert_existing_objects_matched()
        return int(self.epoch.numpy())

    def on_epoch_end(self, epoch, logs=None):
        score = validation_score(logs)
        save_weights(self.model, os.path.join(self.workdir, LAST_WEIGHTS))
        if score is not None and score > float(self.best.numpy()):
            self.best.assign(score)
            save_weights(self.model, os.path.join(self.workdir, BEST_WEIGHTS))
        self.epoch.assign(epoch + 1)
        self._manager.save()


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
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if logs is not None:
            logs["learning_rate"] = float(tf.convert_to_tensor(optimizer.learning_rate))
