"""What a larger network says of the same crops, as a term of a loss."""

from __future__ import annotations

import tensorflow as tf

from deeplab_tf.training.losses.comparison import compared
from deeplab_tf.training.losses.replicas import mean_over_replicas


def distillation_loss(
    y_true,
    y_pred,
    teacher_logits,
    temperature: float,
    ignore_label: int,
    label_stride: int = 1,
):
    """T^2 * KL(teacher || student) at temperature T, mean over the valid pixels.

    Hinton et al., "Distilling the Knowledge in a Neural Network" (1503.02531), section
    2: both softmaxes are of logits / T, and T^2 keeps the size of the gradient. The
    valid pixels are those of the batches of all replicas. No gradient goes to the
    teacher.

    Args:
      y_true: integer labels [B, height, width], in [0, num_classes) or ignore_label.
      y_pred, teacher_logits: [B, height, width, num_classes], of the same classes.
      temperature: T, > 0.
      ignore_label: of pixels that do not count.
      label_stride: compares every `label_stride`-th pixel only.

    Returns:
      A scalar, float32 (float64 of such logits), whose mean over replicas is the loss;
      0 without a valid pixel.
    """
    _, student, valid = compared(y_true, y_pred, ignore_label, label_stride)
    _, teacher, _ = compared(y_true, teacher_logits, ignore_label, label_stride)
    student = tf.nn.log_softmax(student / temperature)
    teacher = tf.cast(tf.stop_gradient(teacher), student.dtype)
    teacher = tf.nn.log_softmax(teacher / temperature)
    divergence = tf.reduce_sum(tf.exp(teacher) * (teacher - student), -1)
    total = tf.reduce_sum(tf.where(valid, divergence, 0.0))
    count = mean_over_replicas(tf.reduce_sum(tf.cast(valid, student.dtype)))
    return temperature**2 * tf.math.divide_no_nan(total, count)
