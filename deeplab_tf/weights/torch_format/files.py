"""PyTorch checkpoint files as NumPy arrays: no PyTorch, and no code from the file.

A checkpoint is a pickle beside raw bytes. `containers` takes the file apart,
`pickles` carries out the pickle, `tensors` is all that a pickle may ask
for; here its tensors become arrays.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import struct
import zipfile

import numpy as np

from deeplab_tf.weights.safetensors_files import ENDING, read_safetensors
from deeplab_tf.weights.torch_format.containers import Contents, open_container
from deeplab_tf.weights.torch_format.tensors import (
    DTYPES,
    Skipped,
    Tensor,
    described,
    refusal,
    shortened,
)

# Eight decimal digits alone may be a date.
_HASH_IN_NAME = re.compile(r"-(?!\d{8}\.)([0-9a-fA-F]{8,64})\.pth$")
# Of DistributedDataParallel and averages, of compiled models, of Lightning's modules.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_MOST_PREFIXES = 8
_NUM_AVERAGED = "n_averaged"  # beside the weights of torch.optim.swa_utils
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net")

# What a damaged file may lead to in zipfile, or in a function that it names.
_DAMAGE = (
    *(zipfile.BadZipFile, OSError, EOFError, RuntimeError, struct.error),
    *(LookupError, TypeError, AttributeError, OverflowError),
)


def read_torch_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the state_dict of a .pth file: name -> array, in the file's order.

    A wrapper such as {"state_dict": ..., "epoch": ...} is opened, and what stands
    beside the state_dict is left out. Prefixes of `PREFIXES` are taken off when nearly
    all names have them.

    Args:
      path: file of `torch.save`, of the zip format or the one before it, or a
        .safetensors file.

    Returns:
      Read-only arrays of the tensors' shapes and dtypes, bfloat16 as float32. Tensors
      that share memory in PyTorch share it here.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not such a file, one that is cut short or altered, or one that asks
        for anything but tensors. Nothing of it has been executed.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No weights at {path}. Give the path of a file.")
    check_hash_in_name(path)
    if path.endswith(ENDING):
        return without_prefixes(read_safetensors(path))
    with open(path, "rb") as file:
        head = file.read(512)
    try:
        with open_container(path, head) as contents:
            return _arrays(_state_dict(contents.value), contents)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except _DAMAGE as error:
        raise ValueError(
            f"{path} cannot be read: it is cut short or damaged "
            f"({type(error).__name__}: {shortened(str(error))}). Download it again."
        ) from error


def check_hash_in_name(path: str | os.PathLike) -> None:
    """Checks a file against the hash in its name, as in resnet50-0676ba61.pth.

    torch.hub's convention: 8 to 64 hexadecimal digits, the first of the file's SHA-256.
    A file without such an ending passes, and one with what may be a date.

    Raises:
      ValueError: the file has another hash.
    """
    path = os.fspath(path)
    found = _HASH_IN_NAME.search(os.path.basename(path))
    if not found:
        return
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(2**20), b""):
            digest.update(chunk)
    expected = found[1].lower()
    if not digest.hexdigest().startswith(expected):
        raise ValueError(
            f"{path} is cut short or altered: its name promises a SHA-256 that begins "
            f"with {expected}, its content has {digest.hexdigest()[:16]}. Download it "
            "again; if these digits are no hash, rename the file."
        )


def _state_dict(value) -> dict[str, Tensor]:
    """Unwraps what was pickled down to the dictionary of tensors."""
    for _ in range(2):  # a dictionary may hold itself, and no wrapper is deeper
        inner = [
            key
            for key in _WRAPPERS
            if isinstance(value, dict) and isinstance(value.get(key), dict)
        ]
        if len(inner) > 1:
            raise ValueError(f"it holds several state_dicts: {', '.join(inner)}.")
        if inner:
            value = value[inner[0]]
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f"expected a state_dict, got {described(value)}. Save model.state_dict()."
        )
    tensors = {}
    for name, tensor in value.items():
        if isinstance(tensor, Skipped):
            raise ValueError(refusal(shortened(tensor.text)))
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(
                f"expected a state_dict of names and tensors, got {described(tensor)} "
                f"under {shortened(name)}. Save model.state_dict(), alone or under "
                f"one of the keys {', '.join(_WRAPPERS)}."
            )
        if name != _NUM_AVERAGED:
            tensors[name] = tensor
    return without_prefixes(tensors)


def without_prefixes(tensors: dict) -> dict:
    """Takes off what wrappers around a model write before the names of its tensors.

    A few names may lack the prefix (the loss of a Lightning module has weights too):
    they stay as they are.

    Args:
      tensors: by their names.

    Returns:
      The same tensors, by shorter names.
    """
    for _ in range(_MOST_PREFIXES):
        for prefix in PREFIXES:
            count = sum(name.startswith(prefix) for name in tensors)
            shorter = [_without(prefix, name) for name in tensors]
            if (
                count
                and count >= 0.9 * len(tensors)
                and len(set(shorter)) == len(shorter)
            ):
                tensors = dict(zip(shorter, tensors.values()))
                break
        else:
            return tensors
    return tensors


def _without(prefix: str, name: str) -> str:
    return name[len(prefix) :] if name.startswith(prefix) else name


def _arrays(tensors: dict[str, Tensor], contents: Contents) -> dict[str, np.ndarray]:
    """Makes views of the storages, each of which is read once.

    Views instead of copies, so that a small file cannot ask for much memory.
    """

    @functools.cache
    def storage_elements(key, dtype):
        return _decode(contents.read_storage(key), dtype, contents.byte_order)

    arrays = {}
    for name, tensor in tensors.items():
        storage = tensor.storage
        if 0 in tensor.shape:
            arrays[name] = _decode(b"", storage.dtype, "<").reshape(tensor.shape)
            continue
        elements = storage_elements(storage.key, storage.dtype)
        end = storage.first + storage.count
        if end > elements.size:
            raise ValueError(
                f"{shortened(name)} needs {end} elements of storage "
                f"{shortened(storage.key)}, which has {elements.size}."
            )
        arrays[name] = _view(elements[storage.first : end], tensor)
    return arrays


def _view(elements: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Strided view; np.ndarray, unlike as_strided, refuses to leave the buffer."""
    return np.ndarray(
        tensor.shape,
        elements.dtype,
        buffer=elements,
        offset=tensor.offset * elements.itemsize,
        strides=[stride * elements.itemsize for stride in tensor.strides],
    )


def _decode(data: bytes, dtype: str, byte_order: str) -> np.ndarray:
    """Bytes of a storage -> 1-D read-only array in the machine's byte order."""
    stored = np.dtype(byte_order + DTYPES[dtype])
    elements = np.frombuffer(data, stored, count=len(data) // stored.itemsize)
    elements = elements.astype(stored.newbyteorder("="), copy=False)
    if dtype == "bfloat16":  # the upper half of a float32
        elements = (elements.astype(np.uint32) << 16).view(np.float32)
    elif dtype == "bool":
        elements = elements != 0
    elements.flags.writeable = False
    return elements
