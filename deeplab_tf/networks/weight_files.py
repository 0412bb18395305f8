"""Weights on disk: name -> array, the same file in every Keras.

A weight is called `<layer>/<leaf>`: conv1_conv/kernel, conv1_bn/moving_mean. Models are
flat and their layers have fixed names, so copying by name works between output strides,
between Keras 2 and 3, and from keras.applications.
"""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
import zlib

import h5py
import numpy as np
from tensorflow import keras

from deeplab_tf.files import atomic_write
from deeplab_tf.networks.array_files import leaf_of, read_h5, read_npz
from deeplab_tf.networks.blocks import is_of_head

# What HDF5, h5py, zipfile and NumPy make of a damaged file.
_DAMAGE = (
    *(OSError, RuntimeError, LookupError, TypeError, AttributeError, EOFError),
    *(zipfile.BadZipFile, zlib.error, MemoryError, OverflowError),
)


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """What a copy of weights did.

    Attributes:
      source: where the arrays came from.
      copied: names that were assigned.
      missing: names in the model that the source does not hold.
      unused: names in the source that the model does not have.
    """

    source: str
    copied: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self):
        said = f"{self.source}: {len(self.copied)} weights copied"
        if self.missing:
            said += f", {len(self.missing)} new {self._new_part()}"
        if self.unused:
            names = abbreviate(self.unused)
            said += f"\n  {len(self.unused)} of the file left out: {names}"
        return said

    def _new_part(self) -> str:
        """What the source did not give; expected where it is a head."""
        layers = {name.split("/")[0] for name in self.missing}
        if all(layer.startswith("logits") for layer in layers):
            return "(the classifier), as expected of other classes"
        if all(map(is_of_head, layers)):
            return "(the head), as expected"
        return f"({abbreviate(self.missing)})"


def named_weights(model) -> dict:
    """Returns {"<layer>/<leaf>": variable} of a flat model."""
    return {
        f"{layer.name}/{leaf_of(variable.name)}": variable
        for layer in model.layers
        for variable in layer.weights
    }


def save_weights(model, path: str | os.PathLike) -> None:
    """Writes every weight of a model to an .npz file, atomically."""
    arrays = {name: np.asarray(value) for name, value in named_weights(model).items()}
    buffer = io.BytesIO()  # on a full disk NumPy 1 would leave a zip file half open
    np.savez(buffer, **arrays)
    with atomic_write(path, "wb") as file:
        file.write(buffer.getbuffer())


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads an .npz file of `save_weights`, or a Keras .h5 or .weights.h5 file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a file of weights by name, a damaged one, or one that asks for
        other files or for more memory than its size justifies.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No weights at {path}. Give the path of a file.")
    try:
        if zipfile.is_zipfile(path):
            return read_npz(path)
        if h5py.is_hdf5(path):
            return read_h5(path)
    except _DAMAGE as error:
        raise ValueError(
            f"{path} cannot be read: it is cut short or damaged ({error}). "
            "Download it again."
        ) from error
    raise ValueError(
        f"{path} is neither an .npz nor an .h5 file of weights, or it is cut short. "
        "Expected a file of save_weights or of keras.applications."
    )


def copy_weights(
    model, arrays: dict[str, np.ndarray], source: str, *, allow_missing=()
) -> WeightReport:
    """Assigns arrays to the weights of a model by name.

    Args:
      model: flat Keras model.
      arrays: name -> array; see `named_weights`.
      source: named in the report and in errors.
      allow_missing: layers that may keep their present weights, because the source
        lacks them or holds them in another shape (a classifier of other classes).

    Raises:
      ValueError: a weight of another layer is missing or has another shape. The model
        is unchanged then.
    """
    variables = named_weights(model)
    missing = {name for name in variables if name not in arrays}
    misshapen = {
        name
        for name in variables.keys() - missing
        if tuple(arrays[name].shape) != tuple(variables[name].shape)
    }
    kept = {name for name in missing | misshapen if name.split("/")[0] in allow_missing}
    for name in sorted(misshapen - kept):
        raise ValueError(
            f"{source} holds {name} as {arrays[name].shape}, the model needs "
            f"{tuple(variables[name].shape)}. Was it made with another backbone, width "
            "or number of classes?"
        )
    if missing - kept:
        raise ValueError(
            f"{source} lacks {len(missing - kept)} of the model's {len(variables)} "
            f"weights: {abbreviate(sorted(missing - kept))}. Was it made with another "
            "backbone or model?"
        )
    copied = [name for name in variables if name not in kept]
    for name in copied:
        variables[name].assign(arrays[name])
    unused = sorted(arrays.keys() - set(copied))
    return WeightReport(source, tuple(copied), tuple(sorted(kept)), tuple(unused))


def load_weights(model, path: str | os.PathLike, *, allow_missing=()) -> WeightReport:
    """Reads a weight file into a model; see `read_weights` and `copy_weights`."""
    return copy_weights(
        model, read_weights(path), os.fspath(path), allow_missing=allow_missing
    )


def read_imagenet_weights(backbone, weights: str) -> tuple[dict, str]:
    """Reads a classification network of keras.applications.

    Args:
      backbone: its row of `backbones.BACKBONES`.
      weights: "imagenet" downloads Keras' file (to ~/.keras/models); anything else is
        the path of such a file.

    Returns:
      (arrays by the names of our layers, path of the file).

    Raises:
      OSError: it cannot be downloaded.
      ValueError: "imagenet" for a backbone Keras has no file of, or not such a file.
    """
    path = weights
    if weights == "imagenet":
        if backbone.imagenet_url is None:
            raise ValueError(
                "keras.applications has no ImageNet weights of this backbone. Use "
                "weights=None, the path of a file, or another backbone."
            )
        path = _download(backbone.imagenet_url, backbone.imagenet_hash)
    return backbone.adapt(read_weights(path)), os.fspath(path)


def _download(url: str, file_hash: str) -> str:
    """Downloads a file to Keras' cache, where it is not there.

    Raises:
      OSError: it cannot be had; says how to do without a network.
    """
    name = url.rpartition("/")[2]
    try:
        return keras.utils.get_file(
            name, origin=url, file_hash=file_hash, cache_subdir="models"
        )
    except Exception as error:  # Keras raises plain ones
        reason = str(error).splitlines()[0][:300] if str(error) else repr(error)
    home = os.environ.get("KERAS_HOME", os.path.join(os.path.expanduser("~"), ".keras"))
    raise OSError(
        f"ImageNet weights cannot be downloaded: {reason}. Without a network, put "
        f"{name} from elsewhere into {os.path.join(home, 'models')}, or give the path "
        "of a file of keras.applications (train.py: --init=FILE), or none, to begin "
        'with random weights (--init="").'
    )


def fold_convolution_biases(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes biases in front of BatchNorm by moving them into its moving mean.

    `bn(conv(x) + bias)` equals `bn'(conv(x))` with moving_mean' = moving_mean - bias.
    keras.applications' ResNets have such biases; the papers' networks do not.
    """
    folded = dict(arrays)
    for name, bias in arrays.items():
        layer, _, leaf = name.rpartition("/")
        mean = f"{layer[: -len('conv')]}bn/moving_mean"
        if leaf == "bias" and layer.endswith("_conv") and mean in folded:
            folded[mean] = folded[mean] - bias
            del folded[name]
    return folded


def abbreviate(names, most: int = 6) -> str:
    """Joins names for a message, the first few of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
