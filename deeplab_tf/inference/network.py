"""What predicts: networks of several kinds, with the same methods.

Here are those of this process, a Keras model and a plain function; `saved_models.py`
and `runtimes.py` have those of files. A `Segmenter` runs any of them at scales,
mirrored and in windows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.labels import Labels
from deeplab_tf.networks.models import inference_model


class Network:
    """RGB images of any size in, classes at the same size out.

    Attributes:
      labels: what the classes are called; None where nobody said.
      traceable: whether `tf.function` can trace it.
    """

    labels: Labels | None = None
    traceable = True

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Returns scores whose softmax are the probabilities.

        Not these, since at another scale it is the scores that are resized.

        Args:
          images: float32 [B, h, w, 3], RGB in 0..255.

        Returns:
          float32 [B, h, w, num_classes].

        Raises:
          ValueError: it tells classes alone.
        """
        raise NotImplementedError

    def classes(self, images: tf.Tensor):
        """Returns the class of every pixel of such images, integers [B, h, w]."""
        return tf.argmax(self.logits(images), -1, output_type=tf.int32)

    def check_probabilities(self) -> None:
        """Refuses to give probabilities.

        Raises:
          ValueError: it tells classes alone.
        """


class KerasNetwork(Network):
    """A Keras model of this package, without the heads that only training reads."""

    def __init__(self, model: keras.Model):
        self._model = inference_model(model)

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        return self._model(images, training=False)


class FunctionNetwork(Network):
    """A function: image float32 [B, h, w, 3] in 0..255 -> logits [B, h, w, classes]."""

    def __init__(self, function: Callable[[tf.Tensor], tf.Tensor]):
        self._function = function

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        return self._function(images)


def as_network(model: Network | keras.Model | Callable) -> Network:
    """Returns a network as it is, and a Keras model or a function as one."""
    if isinstance(model, Network):
        return model
    if isinstance(model, keras.Model):
        return KerasNetwork(model)
    return FunctionNetwork(model)


def as_uint8(images) -> np.ndarray:
    """Rounds RGB in 0..255 to whole numbers, which some networks and the CRF take."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)
