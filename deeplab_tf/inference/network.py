"""What predicts: networks of several kinds, with the same methods.

Here are those of this process, a Keras model and a plain function; `saved_models.py`
and `runtimes.py` have those of files. An `Ensemble` is several of them. A `Segmenter`
runs any of them at scales, mirrored, padded and in windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.command_names import call_of
from deeplab_tf.evaluation.class_order import ids_by_name, missing_names
from deeplab_tf.inference.padding import mean_color_of
from deeplab_tf.labels import Labels
from deeplab_tf.networks.models import inference_model


class Network:
    """RGB images of any size in, classes at the same size out.

    Attributes:
      labels: what the classes are called; None where nobody said.
      traceable: whether `tf.function` can trace it.
      mean_color: RGB in 0..255 that its normalization makes zero, to pad images with;
        None where nobody said.
    """

    labels: Labels | None = None
    traceable = True
    mean_color: tuple[float, float, float] | None = None

    @property
    def members(self) -> tuple[Network, ...]:
        """The networks whose probabilities are averaged: of most, itself."""
        return (self,)

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

    def __init__(self, model: keras.Model, labels: Labels | None = None):
        self._model = inference_model(model)
        self.labels = labels
        self.mean_color = mean_color_of(self._model)

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        return self._model(images, training=False)


class FunctionNetwork(Network):
    """A function: image float32 [B, h, w, 3] in 0..255 -> logits [B, h, w, classes]."""

    def __init__(self, function: Callable[[tf.Tensor], tf.Tensor]):
        self._function = function

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        return self._function(images)


class Ensemble(Network):
    """Several networks of the same classes: the mean of their probabilities.

    Classes are taken by their names, in the order of the first network's; by their ids
    where it or the other has none. It costs the sum of their times, and memory for all
    their weights. At scales, mirrored and padded, each member is run so, and each with
    its own mean colour.

    Args:
      models: networks, Keras models or functions, as `Segmenter` takes them; of an
        ensemble each of its members.
      names: what a sentence calls them, such as the paths of their workdirs.

    Raises:
      ValueError: none, or networks of other classes.
    """

    def __init__(
        self,
        models: Sequence[Network | keras.Model | Callable],
        names: Sequence[str] | None = None,
    ):
        if not models:
            raise ValueError("An ensemble needs networks. Received: none")
        networks = [as_network(model) for model in models]
        names = names or [f"network {index + 1}" for index in range(len(networks))]
        first = networks[0]
        self.labels = first.labels
        ordered = [
            _in_order(network, first, name, names[0])
            for network, name in zip(networks, names)
        ]
        self._members = tuple(
            member for network in ordered for member in network.members
        )
        self.traceable = all(member.traceable for member in self._members)

    @property
    def members(self) -> tuple[Network, ...]:
        return self._members

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        scores = [tf.nn.softmax(member.logits(images)) for member in self._members]
        return logits_of(tf.add_n(scores) / len(scores))

    def check_probabilities(self) -> None:
        for member in self._members:
            member.check_probabilities()


def logits_of(probabilities: tf.Tensor) -> tf.Tensor:
    """Returns the logarithm, whose softmax they are; that of 0 is finite.

    Infinite logits would be NaN wherever they are resized.
    """
    tiny = np.finfo(probabilities.dtype.as_numpy_dtype).tiny
    return tf.math.log(tf.maximum(probabilities, tiny))


class _Reordered(Network):
    """A network whose classes come in another order.

    Args:
      network: one network.
      ids: its id of each class, in the order wanted.
    """

    def __init__(self, network: Network, ids: np.ndarray):
        self._network, self._ids = network, ids.tolist()
        self.traceable, self.mean_color = network.traceable, network.mean_color

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._network.logits(images), self._ids, axis=-1)

    def check_probabilities(self) -> None:
        self._network.check_probabilities()


def _in_order(network: Network, first: Network, name: str, first_name: str) -> Network:
    """Returns a network with the classes of the first, in their order.

    Raises:
      ValueError: it has other ones.
    """
    if network.labels is None or first.labels is None:
        return network
    names, wanted = network.labels.class_names, first.labels.class_names
    ids = ids_by_name(names, wanted)
    if ids is None:
        raise ValueError(
            "Networks that are averaged must have the same classes. Received: "
            f"{len(wanted)} of {first_name} (only there: "
            f"{missing_names(wanted, names)}) and {len(names)} of {name} (only there: "
            f"{missing_names(names, wanted)}). Leave one out, or rename classes that "
            f"are the same: {call_of('rename')} WORKDIR --class_names=..."
        )
    if ids.tolist() == list(range(len(ids))):
        return network
    return Ensemble([_Reordered(member, ids) for member in network.members])


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
