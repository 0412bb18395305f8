"""Focal loss: cross-entropy that fades as a pixel becomes right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.training.losses.options import check_options
from deeplab_tf.training.losses.pixel_mean import PixelMean, cross_entropies


@keras.utils.register_keras_serializable("deeplab_tf")
class FocalLoss(PixelMean):
    """-(1 - p) ** gamma * log(p), mean over the valid pixels of the global batch.

    Lin et al., "Focal loss for dense object detection" (1708.02002), equation 4, where
    p is softmax's probability of the pixel's class. The paper's alpha is here
    class_weights. As `PixelMean` on replicas, void pixels and weights.

    Args:
      ignore_label, class_weights, label_stride: see `SegmentationLoss`.
      focal_gamma: 0 or more; 0 is cross-entropy, 2 the paper's best.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        ignore_label: int = IGNORE_LABEL,
        class_weights: Sequence[float] | Mapping[int, float] | None = None,
        label_stride: int = 1,
        focal_gamma: float = 2.0,
        name: str = "focal_loss",
        **kwargs,
    ):
        super().__init__(ignore_label, class_weights, label_stride, name, **kwargs)
        check_options(focal_gamma=focal_gamma)
        self.focal_gamma = focal_gamma

    def pixel_losses(self, class_of, logits):
        losses = cross_entropies(class_of, logits)
        # 1 - p without the digits that a p near 1 loses. The power of 0 has no finite
        # gradient where gamma is below 1; its factor, the cross-entropy, is 0 there.
        wrong = tf.maximum(-tf.math.expm1(-losses), 1e-12)
        return wrong**self.focal_gamma * losses

    def get_config(self):
        return {**super().get_config(), "focal_gamma": self.focal_gamma}
