"""The workdir of a trained network in, a further term of a student's loss out.

The student keeps its own loss on the labels, and is drawn towards what the teacher says
of the same crops (1503.02531). Nothing of the teacher is in the student's checkpoints
and weights: a run names it in its config.json, with a sum of its weights.
"""

from __future__ import annotations

import contextvars
import dataclasses
import hashlib
import os

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.config import TrainConfig, config_path, read_config
from deeplab_tf.evaluation.class_order import same_ids
from deeplab_tf.networks.layers import is_keras3
from deeplab_tf.training.losses.distillation import distillation_loss
from deeplab_tf.workdir import load_workdir, workdir_weights

_in_training = contextvars.ContextVar("in_training", default=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A network that says what a student shall say.

    Attributes:
      network: image in, logits out; it is called in inference mode and never trained.
      ids: at the student's id of a class the teacher's, int [num_classes].
    """

    network: keras.Model
    ids: np.ndarray

    def logits(self, image):
        """What it says of a batch, [B, height, width, num_classes], student's ids."""
        logits = self.network(image, training=False)
        in_order = np.array_equal(self.ids, np.arange(len(self.ids)))
        return logits if in_order else tf.gather(logits, self.ids, axis=-1)

    def teach(self, student: keras.Model, config: TrainConfig) -> None:
        """Adds `teacher_weight` times the distance to the loss of training steps.

        Validation has the loss on the labels alone.

        Args:
          student: compiled; its first or its "logits" output is taught.
          config: of its run.
        """
        plain_step, plain_loss = student.train_step, student.compute_loss

        def distance(x, y, y_pred):
            return config.teacher_weight * distillation_loss(
                _of_logits(y),
                _of_logits(y_pred),
                self.logits(x),
                config.teacher_temperature,
                config.ignore_label,
                config.label_stride,
            )

        @tf.autograph.experimental.do_not_convert
        def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, **options):
            if not _in_training.get():
                return plain_loss(x, y, y_pred, sample_weight, **options)
            term = distance(x, y, y_pred)
            if not is_keras3():  # its log counts what it adds up itself
                return student.compiled_loss(
                    y,
                    y_pred,
                    sample_weight,
                    regularization_losses=[*student.losses, term],
                )
            replicas = student.distribute_strategy.num_replicas_in_sync
            loss = plain_loss(x, y, y_pred, sample_weight, **options)
            return loss + tf.cast(term, loss.dtype) / replicas

        @tf.autograph.experimental.do_not_convert
        def train_step(data):
            token = _in_training.set(True)  # each replica's thread has its own
            try:
                return plain_step(data)
            finally:
                _in_training.reset(token)

        student.compute_loss, student.train_step = compute_loss, train_step


def _of_logits(value):
    return value["logits"] if isinstance(value, dict) else value


def load_teacher(config: TrainConfig) -> Teacher | None:
    """Loads the teacher of a run, at the output stride of its own; None without one.

    Call it in the strategy's scope, after the student is built, whose first weights
    depend on what was drawn before.

    Raises:
      FileNotFoundError, ValueError: see `check_teacher`.
    """
    if not config.teacher:
        return None
    check_teacher(config)
    network, known = load_workdir(config.teacher, precision=config.precision)
    network.trainable = False
    return Teacher(network, same_ids(known.class_names, config.class_names))


def check_teacher(config: TrainConfig) -> TrainConfig:
    """Completes a configuration by the sum of its teacher's weights.

    Args:
      config: of a run, its classes known.

    Returns:
      The same with `teacher_sha256`, which is "" without a teacher.

    Raises:
      FileNotFoundError: there is no such workdir, or no weights in it.
      ValueError: it knows other classes, or has other weights than the run began with.
    """
    if not config.teacher:
        return config
    if not os.path.isfile(config_path(config.teacher)):
        raise FileNotFoundError(
            f"There is no workdir of a teacher at {config.teacher}. The run needs it "
            "until its last step: put it back, or give another by --set=teacher="
            "WORKDIR with another --workdir."
        )
    known = read_config(config.teacher)
    try:
        same_ids(known.class_names, config.class_names)
    except ValueError:
        raise ValueError(
            f"Expected a teacher of the classes {', '.join(config.class_names)}. "
            f"{config.teacher} knows {', '.join(known.class_names)}"
        ) from None
    found = _sha256(workdir_weights(config.teacher))
    if config.teacher_sha256 not in ("", found):
        raise ValueError(
            f"The weights of the teacher {config.teacher} are not those that this run "
            f"began with: expected the SHA-256 {config.teacher_sha256}. Received: "
            f"{found}. Put them back, or start again in another --workdir."
        )
    return dataclasses.replace(config, teacher_sha256=found)


def describe_teacher(teacher: Teacher, config: TrainConfig) -> str:
    """Says in a line by what a run is taught."""
    known = read_config(config.teacher)
    return (
        f"Taught by {config.teacher}: {known.model} on {known.backbone}, "
        f"{teacher.network.count_params():,} parameters, weight "
        f"{config.teacher_weight:g}, temperature {config.teacher_temperature:g}."
    )


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
