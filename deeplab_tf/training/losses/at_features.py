"""A loss at the resolution of the features that logits are of."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.networks.segmentation_model import labels_of_features


@keras.utils.register_keras_serializable("deeplab_tf")
class AtFeatures(keras.losses.Loss):
    """A loss of logits that have not been brought to the size of the label.

    The label is taken at the pixels where the features lie, as in the authors' Caffe
    and in kazuto1011's PyTorch: each scale of DeepLabV2 has a loss at its own
    resolution. What the loss says of ignored pixels and of replicas holds here too.

    Args:
      loss: of labels [B, h, w] and logits [B, h, w, num_classes].
      stride: pixels of the label per feature, or None, see `labels_of_features`.
    """

    def __init__(
        self,
        loss: keras.losses.Loss,
        stride: float | None,
        name: str = "at_features",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.loss = loss
        self.stride = stride

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The loss, a scalar.

        Args:
          y_true: integer labels [B, height, width] or [B, height, width, 1].
          y_pred: logits [B, h, w, num_classes].
          sample_weight: None, or one value an image [B] or a pixel [B, height, width].
        """
        y_true = labels_of_features(tf.convert_to_tensor(y_true), y_pred, self.stride)
        if sample_weight is not None:
            sample_weight = tf.convert_to_tensor(sample_weight)
            if sample_weight.shape.rank > 1:
                sample_weight = labels_of_features(sample_weight, y_pred, self.stride)
        return self.loss(y_true, y_pred, sample_weight)

    def get_config(self):
        loss = keras.losses.serialize(self.loss)
        return {**super().get_config(), "loss": loss, "stride": self.stride}

    @classmethod
    def from_config(cls, config):
        loss = keras.losses.deserialize(config["loss"])
        return cls(**{**config, "loss": loss})
