"""Prediction at the image's own size: scales, left-right flip, arg max."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.models import MIN_IMAGE_SIZE, inference_model
from deeplab_tf.workdir import load_workdir

PAPER_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


class Segmenter:
    """Any-size images in, classes or probabilities at the same size out.

    `Segmenter.from_workdir("runs/demo").predict(image)`

    Args:
      model: image float32 [B, h, w, 3] in 0..255 -> logits float32 [B, h, w, classes].
      scales: the image is also run at these factors; probabilities are averaged
        (DeepLabV3, section 4.1: `PAPER_SCALES`).
      flip: also run each scale mirrored left-right.

    Raises:
      ValueError: no scale, or one that is not positive.
    """

    def __init__(self, model, scales: Sequence[float] = (1.0,), flip: bool = False):
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive. Received: {tuple(scales)}")
        self.model = inference_model(model)
        self.scales = tuple(scales)
        self.flip = flip
        # One trace for every size and batch.
        images = tf.TensorSpec([None, None, None, 3], tf.float32)
        self._probabilities = tf.function(self._probabilities, input_signature=[images])
        self._classes = tf.function(self._classes, input_signature=[images])

    @classmethod
    def from_workdir(
        cls,
        path: str | os.PathLike,
        output_stride: int | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> Segmenter:
        """Loads the best weights of a run; see `load_workdir`."""
        return cls(load_workdir(path, output_stride)[0], scales, flip)

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Returns the class of every pixel of one image.

        Args:
          image: RGB in 0..255, uint8 or float [height, width, 3].

        Returns:
          uint8 [height, width] in [0, num_classes).

        Raises:
          ValueError: another shape, or a side under 32 pixels.
        """
        return self.predict_batch(np.asarray(image)[None])[0]

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        """As `predict`, on [B, height, width, 3]."""
        return self._classes(_checked(images)).numpy()

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 [B, height, width, num_classes] that sum to one."""
        return self._probabilities(_checked(images)).numpy()

    def _classes(self, images):
        if self.scales == (1.0,) and not self.flip:
            scores = self.model(images, training=False)
        else:
            scores = self._probabilities(images)
        return tf.cast(tf.argmax(scores, -1, output_type=tf.int32), tf.uint8)

    def _probabilities(self, images):
        """Mean of the softmax over scales and flips."""
        size = tf.shape(images)[1:3]
        total, runs = 0.0, 0
        for scale in self.scales:
            scaled = images
            if scale != 1.0:
                scaled_size = tf.round(tf.cast(size, tf.float32) * scale)
                scaled = tf.image.resize(images, tf.cast(scaled_size, tf.int32))
            for mirrored in (False, True)[: 1 + self.flip]:
                logits = self.model(
                    scaled[:, :, ::-1] if mirrored else scaled, training=False
                )
                logits = logits[:, :, ::-1] if mirrored else logits
                if scale != 1.0:
                    logits = tf.image.resize(logits, size)
                total += tf.nn.softmax(logits)
                runs += 1
        return total / runs


def _checked(images) -> tf.Tensor:
    images = tf.convert_to_tensor(images)
    if images.shape.rank != 4 or images.shape[-1] != 3:
        raise ValueError(
            "Expected RGB images [B, height, width, 3]. "
            f"Received: shape {tuple(images.shape)}"
        )
    if min(images.shape[1:3]) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"Images must be at least {MIN_IMAGE_SIZE} pixels a side. "
            f"Received: {images.shape[1]}x{images.shape[2]} (height x width)"
        )
    return tf.cast(images, tf.float32)
