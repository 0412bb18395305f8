"""An .npz or .h5 file of weights in, arrays by their names out.

What a file says of itself is checked before an array exists: a few kilobytes may claim
gigabytes (by compression, by naming one array often, by never writing it), and an .h5
file may name other files of the machine to read from.
"""

from __future__ import annotations

import os
import zipfile

import h5py
import numpy as np

_BATCH_NORM_LEAVES = ("gamma", "beta", "moving_mean", "moving_variance")
# Trained weights hardly get smaller when they are packed; fresh ones do.
_MOST_EXPANSION, _FREE_BYTES = 8, 2**28
_MOST_NAMES = 100_000
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: str) -> dict[str, np.ndarray]:
    """Reads an .npz file of numbers.

    Raises:
      ValueError: it holds something else, or more than a file of its size can.
      zipfile.BadZipFile, OSError, EOFError: it is damaged.
    """
    budget = _Budget(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.filename.endswith(".weights.h5") for member in members):
            raise ValueError(
                f"{path} is a whole model, a .keras file, not a file of weights. Load "
                "it with keras.models.load_model, then write its weights: "
                "deeplab_tf.save_weights(model, 'weights.npz')"
            )
        for member in members:
            budget.add(member.filename, member.file_size)
            _check_npy(archive, member)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except ValueError as error:
        raise ValueError(f"{path} is not a weight file: {error}") from error


def read_h5(path: str) -> dict[str, np.ndarray]:
    """Reads a Keras .h5 or .weights.h5 file.

    Raises:
      ValueError: it holds no weights by layer names, more than a file of its size can,
        or what is in other files.
      OSError, RuntimeError, LookupError, TypeError, AttributeError: it is damaged.
    """
    with h5py.File(path, "r") as file:
        return _KerasFile(file, path).arrays()


def leaf_of(variable_name: str) -> str:
    """conv/kernel:0 -> kernel; Keras 2's depthwise_kernel is Keras 3's kernel."""
    leaf = variable_name.rpartition("/")[2].partition(":")[0]
    return leaf.replace("depthwise_kernel", "kernel")


class _Budget:
    """Counts the bytes that a file says it holds, up to what its size justifies."""

    def __init__(self, path: str):
        self._path, self._size = path, os.path.getsize(path)
        self._left = max(_FREE_BYTES, _MOST_EXPANSION * self._size)
        self._names = _MOST_NAMES

    def add(self, name: str, count: int) -> None:
        self._left -= count
        self._names -= 1
        if self._left < 0 or self._names < 0:
            raise ValueError(
                f"{self._path} of {self._size:,} bytes claims to hold far more than it "
                f"can: {name[:80]} alone {count:,}. It is damaged, or was made to fill "
                "the memory."
            )


def _check_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Compares what an array says of its size with what is there."""
    with archive.open(member) as file:
        try:
            read_header = _NPY_HEADERS[np.lib.format.read_magic(file)]
            shape, _, dtype = read_header(file)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{archive.filename} is not a weight file: {member.filename[:80]} in "
                f"it is no array of numbers ({error})"
            ) from error
        begin = file.tell()
    count = 1
    for side in shape:
        count *= side
    if not dtype.hasobject and begin + count * dtype.itemsize != member.file_size:
        raise ValueError(
            f"{archive.filename} is cut short or damaged: {member.filename[:80]} has "
            f"{member.file_size:,} bytes for the shape {shape}. Download it again."
        )


class _KerasFile:
    """An open .h5 file."""

    def __init__(self, file: h5py.File, path: str):
        self._file, self._path, self._budget = file, path, _Budget(path)

    def arrays(self) -> dict[str, np.ndarray]:
        root = self._file
        if "model_weights" in root:
            root = self._inside(root, "model_weights")
        arrays = {}
        if "layer_names" in root.attrs:
            self._read_legacy_layers(root, arrays)
        elif "layers" in root:
            self._read_keras3_layers(self._inside(root, "layers"), arrays)
        if not arrays:
            raise ValueError(
                f"{self._path} holds no weights under layer names. Expected a file of "
                "keras.applications, or of model.save_weights in a recent Keras 3."
            )
        return arrays

    def _read_legacy_layers(self, root, arrays) -> None:
        for layer in _decoded(root.attrs["layer_names"]):
            group = self._inside(root, layer)
            for name in _decoded(group.attrs["weight_names"]):
                arrays[f"{layer}/{leaf_of(name)}"] = self._array(group, name)

    def _read_keras3_layers(self, layers, arrays) -> None:
        """Keras 3 numbers a layer's variables; their names follow from the shapes.

        A layer may lie in another, as in Keras Hub's models; each keeps its own name.
        """
        waiting, seen = [layers], set()
        while waiting:
            group = waiting.pop()
            place = h5py.h5o.get_info(group.id).addr
            if place in seen:  # a group may hold itself
                continue
            seen.add(place)
            for part in group:
                self._budget.add(part, 0)
                below = self._inside(group, part)
                if not isinstance(below, h5py.Group):
                    continue
                if part == "vars":
                    self._read_keras3_variables(below, arrays)
                else:
                    waiting.append(below)

    def _read_keras3_variables(self, variables, arrays) -> None:
        if "name" not in variables.attrs:
            return
        values = [self._array(variables, str(i)) for i in range(len(variables))]
        is_batch_norm = len(values) == 4 and values[0].ndim == 1
        leaves = _BATCH_NORM_LEAVES if is_batch_norm else ("kernel", "bias")
        for leaf, value in zip(leaves, values):
            name = f"{variables.attrs['name']}/{leaf}"
            if not np.array_equal(arrays.setdefault(name, value), value):
                raise ValueError(
                    f"{self._path} holds two layers called {name.rpartition('/')[0]}, "
                    "so that nobody could tell them apart by their names."
                )

    def _inside(self, group, path: str):
        """What lies at a path below a group, and in this file.

        Raises:
          ValueError: the path leads through a link, which Keras writes none of.
        """
        for part in filter(None, path.split("/")):
            link = group.get(part, getlink=True)
            if link is not None and not isinstance(link, h5py.HardLink):
                raise ValueError(
                    f"{self._path} links {path[:80]} to another place or file, which "
                    "Keras never does. Nothing of that was read."
                )
            group = group[part]
        return group

    def _array(self, group, name: str) -> np.ndarray:
        """Reads numbers that are in this file.

        Raises:
          ValueError: they are not.
        """
        found = self._inside(group, name)
        if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiub":
            raise ValueError(f"{self._path} holds no numbers at {name[:80]}.")
        if found.external or found.is_virtual:
            raise ValueError(
                f"{self._path} takes {name[:80]} from another file, which Keras never "
                "does. Nothing of that was read."
            )
        self._budget.add(name, found.nbytes)
        if found.nbytes and not found.id.get_storage_size():
            raise ValueError(
                f"{self._path} has no content at {name[:80]}: it was never written. "
                "Was saving it cut short?"
            )
        return found[()]


def _decoded(names) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else name for name in names]
