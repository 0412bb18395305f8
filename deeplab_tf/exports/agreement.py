"""What an export is held against: images, the Keras model's logits, and bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow import keras


@dataclasses.dataclass(frozen=True)
class Bound:
    """How far an export may be from the Keras model in float32.

    Attributes:
      logits: largest difference of a logit, as a share of the largest logit.
      agreement: smallest share of pixels with the same class, ties left out.
    """

    logits: float
    agreement: float


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What a comparison of an export with its Keras model found.

    Attributes:
      logits: largest difference of a logit, as a share of the largest logit; of a file
        that tells classes alone, how far the Keras model's logit of a chosen class is
        below its best.
      classes: share of pixels with the same class, of all signatures the smallest.
      images: how many were compared.
      tells_logits: which of the two `logits` is.
    """

    logits: float
    classes: float
    images: int
    tells_logits: bool = True

    def __str__(self) -> str:
        compared = (
            "logits differ by"
            if self.tells_logits
            else "the Keras model's logit of a chosen class is below its best by"
        )
        return (
            f"compared with the Keras model on {self.images} images: "
            f"{self.classes:.3%} of the pixels have the same class, {compared} at most "
            f"{self.logits:.1g} of the largest."
        )


def logits_function(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns image float32 [1, h, w, 3] -> logits, traced once for all sizes."""
    return tf.function(
        lambda image: model(image, training=False),
        input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32)],
    )


def example_images(seed: int = 0) -> list[np.ndarray]:
    """Makes smooth, coloured, noisy images uint8 [height, width, 3] of three sizes."""
    generator = np.random.default_rng(seed)
    images = []
    for height, width in ((97, 129), (129, 97), (65, 64)):
        coarse = generator.uniform(0, 255, [5, 7, 3])
        image = tf.image.resize(coarse, [height, width], "bicubic").numpy()
        image += generator.normal(0, 8, image.shape)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return images


def share_of_best(classes: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of pixels whose class has the largest probability; of ties either."""
    chosen = np.take_along_axis(probabilities, classes[..., None].astype(np.intp), -1)
    return float((probabilities.max(-1) - chosen[..., 0] <= 1e-5).mean())
