"""Losses of how far classes overlap with their labels: Dice and Tversky."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.training.losses.comparison import LossOfPixels, membership
from deeplab_tf.training.losses.options import check_options
from deeplab_tf.training.losses.replicas import sum_over_replicas


@keras.utils.register_keras_serializable("deeplab_tf")
class TverskyLoss(LossOfPixels):
    """1 - true / (true + alpha * false + beta * missed), mean over the classes.

    Salehi et al., "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks" (1706.05721), of softmax's probabilities. A class has
    one sum each of true, false and missed pixels over all valid pixels of the global
    batch, on any number of replicas. Classes that none of its labels show do not count;
    where they are wrongly predicted, the others miss pixels. Nothing is added to either
    side of the fraction, as a class that counts has pixels. A batch without a valid
    pixel has loss 0.

    It has no class_weights: each class counts alike, however few its pixels. Weights of
    pixels count in the sums.

    Args:
      ignore_label: label value that is not counted, outside [0, num_classes).
      label_stride: compares labels and logits at every `label_stride`-th pixel only.
      tversky_alpha: weight of the pixels falsely given to the class, 0 or more.
      tversky_beta: weight of the class's pixels that were missed, 0 or more; more than
        alpha finds more of small classes. The default of both is the paper's best.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        ignore_label: int = IGNORE_LABEL,
        label_stride: int = 1,
        tversky_alpha: float = 0.3,
        tversky_beta: float = 0.7,
        name: str = "tversky_loss",
        **kwargs,
    ):
        super().__init__(ignore_label, label_stride, name, **kwargs)
        check_options(tversky_alpha=tversky_alpha, tversky_beta=tversky_beta)
        if tversky_alpha + tversky_beta == 0:
            raise ValueError(
                "tversky_alpha or tversky_beta must be more than 0. "
                f"Received: {tversky_alpha}, {tversky_beta}"
            )
        self.tversky_alpha = tversky_alpha
        self.tversky_beta = tversky_beta

    def of_images(self, class_of, logits, valid, pixel_weight):
        value = tversky_loss(
            class_of, logits, valid, pixel_weight, self.tversky_alpha, self.tversky_beta
        )
        return tf.fill(tf.shape(class_of)[:1], value)

    def get_config(self):
        return {
            **super().get_config(),
            "tversky_alpha": self.tversky_alpha,
            "tversky_beta": self.tversky_beta,
        }


@keras.utils.register_keras_serializable("deeplab_tf")
class DiceLoss(LossOfPixels):
    """1 - 2 * overlap / (predicted + labelled), mean over the classes.

    Milletari et al., "V-Net" (1606.04797), with plain sums below the fraction, as
    Tversky's with alpha = beta = 0.5; all that `TverskyLoss` says holds here.

    Args:
      ignore_label: label value that is not counted, outside [0, num_classes).
      label_stride: compares labels and logits at every `label_stride`-th pixel only.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        ignore_label: int = IGNORE_LABEL,
        label_stride: int = 1,
        name: str = "dice_loss",
        **kwargs,
    ):
        super().__init__(ignore_label, label_stride, name, **kwargs)

    def of_images(self, class_of, logits, valid, pixel_weight):
        value = tversky_loss(class_of, logits, valid, pixel_weight, 0.5, 0.5)
        return tf.fill(tf.shape(class_of)[:1], value)


def tversky_loss(class_of, logits, valid, pixel_weight, alpha, beta):
    """Returns the scalar of `TverskyLoss`; see `comparison.compared`."""
    member = membership(class_of, valid, logits)
    weight = tf.cast(valid, logits.dtype)
    if pixel_weight is not None:
        weight *= pixel_weight
    weight = weight[..., None]
    probabilities = tf.nn.softmax(logits) * weight
    sums = tf.stack(
        [
            tf.reduce_sum(probabilities * member, axis=[0, 1, 2]),
            tf.reduce_sum(probabilities, axis=[0, 1, 2]),
            tf.reduce_sum(member * weight, axis=[0, 1, 2]),
        ]
    )
    overlap, predicted, labelled = tf.unstack(sum_over_replicas(sums))
    below = overlap + alpha * (predicted - overlap) + beta * (labelled - overlap)
    losses = 1.0 - tf.math.divide_no_nan(overlap, below)
    # Not `> 0`, for which NaN would be an absent class.
    present = tf.cast(tf.not_equal(labelled, 0.0), losses.dtype)
    return tf.math.divide_no_nan(
        tf.reduce_sum(losses * present), tf.reduce_sum(present)
    )
