"""What all networks share: their input, their outputs, and the Keras model of both."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.networks.blocks import resize_like
from deeplab_tf.networks.convolutions import refuse_frozen_weights
from deeplab_tf.networks.layers import is_keras3
from deeplab_tf.networks.pixel_range import (
    pixel_range,
    why_impossible,
    why_unlikely,
)

# Every pixel of a batch is looked at only where these of it are suspect.
_EVERY = 8
MIN_IMAGE_SIZE = 32  # pixels a side; under it the last feature map is a single cell
_OWN = "own_"  # begins the names of layers of scores that keep their resolution


# --- Input and outputs ---------------------------------------------------------------


def image_input(input_shape, num_classes):
    """Makes the input of a network, float32 RGB in 0..255.

    Raises:
      ValueError: an argument that no network can have, or a process that must have no
        Keras model, see `refuse_frozen_weights`.
    """
    refuse_frozen_weights()
    if num_classes < 2:
        raise ValueError(
            "num_classes must be at least 2 (background is a class). "
            f"Received: {num_classes}"
        )
    sizes = [size for size in input_shape[:2] if size is not None]
    if len(input_shape) != 3 or input_shape[2] != 3:
        raise ValueError(
            f"input_shape must be (height, width, 3). Received: {input_shape}"
        )
    if sizes and min(sizes) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"input_shape must be at least {MIN_IMAGE_SIZE} pixels a side. "
            f"Received: {input_shape}"
        )
    return keras.Input(input_shape, name="image")


def image_outputs(image, scores: dict):
    """Brings scores to the size of the image, unless they stay at their own.

    Args:
      image: input of the network [B, height, width, 3].
      scores: name -> (logits [B, h, w, num_classes], their stride in pixels of the
        image, whether they are brought to its size); "logits" and what only training
        needs.

    Returns:
      Name -> output, float32; of "logits" alone the output itself.
    """
    outputs = {}
    for name, (logits, stride, is_upsampled) in scores.items():
        if is_upsampled:
            layer = "upsample" if name == "logits" else f"upsample_{name}"
            outputs[name] = resize_like(
                logits, image, stride=stride, dtype="float32", name=layer
            )
        else:
            outputs[name] = FeatureOutput(stride, name=f"{_OWN}{name}")(logits)
    return outputs if len(outputs) > 1 else outputs["logits"]


@keras.utils.register_keras_serializable("deeplab_tf")
class FeatureOutput(keras.layers.Layer):
    """Scores at their own resolution as an output of a network, in float32.

    Args:
      stride: pixels of the image per feature, as `ResizeLike`'s: what a loss needs to
        know which pixels of the label they are for, see `labels_of_features`.
    """

    def __init__(self, stride: float | None, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.stride = stride

    def call(self, scores):
        return tf.identity(scores)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "stride": self.stride}


def labels_of_features(label, features, stride: float | None):
    """Takes the pixels of a label at which features lie, each the nearest one.

    Args:
      label: [B, height, width], or more dimensions after them.
      features: [B, h, w, channels].
      stride: of `FeatureOutput`. Feature j lies at pixel j * stride; None is the middle
        of the j-th of h equal parts, as `Image.resize` of Pillow with NEAREST takes it.

    Returns:
      [B, h, w] and the label's other dimensions, in its dtype.
    """
    for axis in (1, 2):
        size, count = tf.shape(label)[axis], tf.shape(features)[axis]
        index = tf.range(tf.cast(count, tf.float32))
        if stride is None:
            share = tf.cast(size, tf.float32) / tf.cast(count, tf.float32)
            pixels = (index + 0.5) * share
        else:
            pixels = index * stride + 0.5
        pixels = tf.minimum(tf.cast(pixels, tf.int32), size - 1)
        label = tf.gather(label, pixels, axis=axis)
    return label


def own_strides(model) -> dict[str, float | None]:
    """Outputs of a model that stay at their own resolution -> their `FeatureOutput`'s.

    All others have the size of the image.
    """
    return {
        layer.name.removeprefix(_OWN): layer.stride
        for layer in model.layers
        if isinstance(layer, FeatureOutput)
    }


# --- The model -----------------------------------------------------------------------


@keras.utils.register_keras_serializable("deeplab_tf")
class SegmentationModel(keras.Model):
    """`keras.Model` of the networks; takes and gives what theirs does.

    `fit`, `evaluate` and `predict` warn once of the first batch whose values cannot be
    RGB in 0..255: a network normalizes its images, and one that was normalized before
    is black to it. The look is a stage of tf.data, outside of what XLA compiles and of
    what GPUs run. Data that is distributed already is not looked at.
    """

    def fit(self, x=None, *args, **kwargs):
        if getattr(self, "optimizer", None) is not None:  # else Keras says what to do
            with self.distribute_strategy.scope():
                self._build_optimizer()
                self._build_losses(x)
        return super().fit(self._looked_at(x), *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        return super().evaluate(self._looked_at(x), *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        return super().predict(self._looked_at(x), *args, **kwargs)

    def _build_optimizer(self):
        """Makes the optimizer's variables, as `fit` would in its first step.

        TensorFlow traces a step that makes variables twice, and tracing takes as long
        as hundreds of steps of a small network.
        """
        is_built = getattr(
            self.optimizer, "built", getattr(self.optimizer, "_built", False)
        )
        if hasattr(self.optimizer, "build") and not is_built:
            self.optimizer.build(self.trainable_variables)

    def _build_losses(self, x):
        """Makes the variables that sum the loss of each output of several, likewise."""
        if not isinstance(self.output, dict):
            return
        if not is_keras3():
            if not self.compiled_loss.built:
                self.compiled_loss.build(self.output)
            return
        batch = getattr(x, "element_spec", None)
        has_labels = isinstance(batch, tuple) and len(batch) > 1
        is_built = any(metric.name == "logits_loss" for metric in self.metrics)
        # In the scope of a strategy Keras 3 makes them by itself.
        if has_labels and not is_built and not tf.distribute.has_strategy():
            scores = {
                name: tf.TensorSpec(output.shape, output.dtype)
                for name, output in self.output.items()
            }
            loss = tf.function(lambda y, y_pred: self.compute_loss(y=y, y_pred=y_pred))
            loss.get_concrete_function(batch[1], scores)

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
                lambda: tf.numpy_function(_weakly(self._warn_of), [image], tf.bool),
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


def _weakly(method):
    """A method that gives False once its object is gone.

    TensorFlow keeps what `numpy_function` calls until the process ends, and with it
    would every model that was ever fitted.
    """
    reference = weakref.WeakMethod(method)

    def call(*arguments):
        bound = reference()
        return bound(*arguments) if bound else False

    return call


def _image_of(batch):
    """The image of a batch: (image, label), (image, label, weight) or the image."""
    while isinstance(batch, (tuple, list, Mapping)):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return batch
