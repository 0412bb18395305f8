"""Online hard example mining by a threshold of probability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.training.losses.cross_entropy import kth_largest
from deeplab_tf.training.losses.options import check_options
from deeplab_tf.training.losses.pixel_mean import PixelMean, cross_entropies
from deeplab_tf.training.losses.replicas import concat_over_replicas, sum_over_replicas


@keras.utils.register_keras_serializable("deeplab_tf")
class OhemLoss(PixelMean):
    """Cross-entropy of the pixels whose class has too small a probability.

    A valid pixel counts where softmax gives its class less than `ohem_threshold`; where
    fewer do than `ohem_min_kept` an image, as many of smallest probability count, and
    those that tie with the last. That is the rule of mmsegmentation's OHEMPixelSampler
    and PaddleSeg's OhemCrossEntropyLoss, over the global batch on any number of
    replicas. min_kept is an image's, as in mmsegmentation; the mean is over the pixels
    that count, as in PaddleSeg, whose default of 10,000 is a batch's. Class weights
    choose no pixel: they weight those that were chosen. A batch without a valid pixel
    has loss 0.

    Args:
      ignore_label, class_weights, label_stride: see `SegmentationLoss`.
      ohem_threshold: in (0, 1]; 1 leaves those out that are certainly right.
      ohem_min_kept: pixels an image, 0 or more, of those that are compared.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        ignore_label: int = IGNORE_LABEL,
        class_weights: Sequence[float] | Mapping[int, float] | None = None,
        label_stride: int = 1,
        ohem_threshold: float = 0.7,
        ohem_min_kept: int = 10_000,
        name: str = "ohem_loss",
        **kwargs,
    ):
        super().__init__(ignore_label, class_weights, label_stride, name, **kwargs)
        check_options(ohem_threshold=ohem_threshold, ohem_min_kept=ohem_min_kept)
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept

    def pixel_losses(self, class_of, logits):
        return cross_entropies(class_of, logits)

    def chosen(self, class_of, losses, weight, valid):
        # -1 is below every loss: pixels to ignore are never among the largest.
        ranked = tf.stop_gradient(tf.where(valid, losses, -1.0))
        # What is not "easy" counts, so that NaN does.
        easy = ranked <= -math.log(self.ohem_threshold)
        if self.ohem_min_kept:
            images = sum_over_replicas(tf.cast(tf.shape(class_of)[0], ranked.dtype))
            k = tf.cast(images, tf.int64) * self.ohem_min_kept
            everywhere = concat_over_replicas(tf.reshape(ranked, [-1]))
            easy &= ranked < kth_largest(everywhere, tf.maximum(k, 1))
        return tf.cast(~easy, losses.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "ohem_threshold": self.ohem_threshold,
            "ohem_min_kept": self.ohem_min_kept,
        }
