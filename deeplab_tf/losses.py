"""Losses that know the ignore label."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras


@keras.utils.register_keras_serializable("deeplab_tf")
class SegmentationLoss(keras.losses.Loss):
    """Softmax cross-entropy, mean over the valid pixels of the global batch.

    Under a strategy the valid pixels of all replicas are counted, so that any number of
    replicas gives the loss and the gradient of one device. A batch without a valid
    pixel has loss 0.

    Args:
      ignore_label: label value that is not counted, outside [0, num_classes).
    """

    def __init__(
        self, ignore_label: int = 255, name: str = "segmentation_loss", **kwargs
    ):
        super().__init__(name=name, **kwargs)
        self.ignore_label = ignore_label

    def call(self, y_true, y_pred):
        """Returns float32 [B], whose mean over the batch is the loss.

        Args:
          y_true: integer labels [B, height, width] in [0, num_classes) or ignore_label.
          y_pred: logits [B, height, width, num_classes].
        """
        label = tf.cast(y_true, tf.int32)
        valid = tf.not_equal(label, self.ignore_label)
        pixel_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=tf.where(valid, label, 0), logits=tf.cast(y_pred, tf.float32)
        )
        image_losses = tf.reduce_sum(tf.where(valid, pixel_losses, 0.0), axis=[1, 2])
        num_valid = tf.reduce_sum(tf.cast(valid, tf.float32))
        # Keras averages over this replica's images and then over replicas.
        images = tf.cast(tf.shape(label)[0], tf.float32)
        return tf.math.divide_no_nan(
            image_losses * images, _mean_over_replicas(num_valid)
        )

    def get_config(self):
        return {**super().get_config(), "ignore_label": self.ignore_label}


def _mean_over_replicas(value):
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return value
    return replica.all_reduce(tf.distribute.ReduceOp.MEAN, value)
