"""A functional Keras model that looks at the images it is given."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.networks.pixel_range import (
    pixel_range,
    why_impossible,
    why_unlikely,
)

# Every pixel of a batch is looked at only where these of it are suspect.
_EVERY = 8


@keras.utils.register_keras_serializable("deeplab_tf")
class SegmentationModel(keras.Model):
    """`keras.Model` of the networks; takes and gives what theirs does.

    `fit`, `evaluate` and `predict` warn once of the first batch whose values cannot be
    RGB in 0..255: a network normalizes its images, and one that was normalized before
    is black to it. The look is a stage of tf.data, outside of what XLA compiles and of
    what GPUs run. Data that is distributed already is not looked at.
    """

    def fit(self, x=None, *args, **kwargs):
        return super().fit(self._looked_at(x), *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        return super().evaluate(self._looked_at(x), *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        return super().predict(self._looked_at(x), *args, **kwargs)

    def _looked_at(self, x):
        """The data, each of whose batches is looked at when it is read."""
        if getattr(self, "_has_warned", False):
            return x
        if isinstance(x, tf.data.Dataset):
            return x.map(self._look_at_batch)
        if inspect.isgenerator(x):
            return self._look_at_each(x)
        if isinstance(x, keras.utils.Sequence):
            self._warn_of(np.asarray(_image_of(x[0])))
        elif x is not None and hasattr(_image_of(x), "shape"):
            image = _image_of(x)
            self._warn_of(np.asarray(image[:: max(1, len(image) // 32)]))
        return x

    def _look_at_each(self, batches):
        for batch in batches:
            self._warn_of(np.asarray(_image_of(batch)))
            yield batch

    def _look_at_batch(self, *batch):
        batch = batch if len(batch) > 1 else batch[0]
        image = _image_of(batch)
        if isinstance(image, tf.Tensor) and image.shape.rank == 4:
            some = tf.cast(image[:, ::_EVERY, ::_EVERY], tf.float32)
            low, high = tf.reduce_min(some), tf.reduce_max(some)
            tf.cond(
                (low >= 0) & (high > 1) & (high <= 255),
                lambda: tf.constant(False),
                lambda: tf.numpy_function(self._warn_of, [image], tf.bool),
            )
        return batch

    def _warn_of(self, images: np.ndarray) -> bool:
        """Warns of the first of images [B, height, width, 3] that cannot be right."""
        if getattr(self, "_has_warned", False) or images.ndim != 4:
            return False
        for image in images if images.size else ():
            pixels = pixel_range(image)
            sentence = why_impossible(pixels) or why_unlikely(pixels)
            if sentence:
                self._has_warned = True
                warnings.warn(sentence, stacklevel=2)
                break
        return False


def _image_of(batch):
    """The image of a batch: (image, label), (image, label, weight) or the image."""
    while isinstance(batch, (tuple, list, Mapping)):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return batch
