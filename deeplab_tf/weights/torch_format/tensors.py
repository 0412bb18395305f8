"""What the pickle of a .pth file may ask for: records of tensors, without elements.

`FUNCTIONS` are all that a file can call. They get what the file gives them, so each
checks what it needs, and a record that exists is one that stays within the file.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

# Stride 0 repeats elements, so that 4 bytes in the file may stand for any size.
_MOST_REPEATED_BYTES = 2**30
_MOST_DIMENSIONS = 32

# PyTorch's name -> NumPy's type on disk. NumPy has no bfloat16: `files`
# reads its two bytes as the upper half of a float32.
DTYPES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "u1",
    "complex128": "c16",
    "complex64": "c8",
}
_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """A row of elements in the file: `count` from element `first` of storage `key`.

    Its dtype is a name of `DTYPES`.
    """

    key: str
    dtype: str
    first: int
    count: int

    def part(self, first, count) -> Storage:
        """`count` elements from `first`, as a file gives the two.

        Raises:
          ValueError: they are no integers, or leave the storage.
        """
        if not (type(first) is type(count) is int and 0 <= first <= first + count):
            raise ValueError("a view of a storage has no sensible size.")
        if first + count > self.count:
            raise ValueError(
                f"a view reaches element {first + count} of a storage of {self.count}."
            )
        return dataclasses.replace(self, first=first, count=count)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Name:
    """A name in the pickle. It stands for itself until it is called."""

    text: str


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Stands for an object of a type or function that is not known here.

    It is neither looked up nor called, and what it is made of is dropped: checkpoints
    hold arguments of a command line, numbers of NumPy and so on beside the weights.
    """

    text: str


def item_size(dtype: str) -> int:
    """Bytes of one element."""
    return np.dtype(DTYPES[dtype]).itemsize


# --- The functions that a file may name ----------------------------------------------


def _rebuild_tensor(storage, offset, shape, strides) -> Tensor:
    """Checks that a tensor stays within its storage. No element exists yet."""
    if not isinstance(storage, Storage):
        raise ValueError(f"expected the storage of a tensor, got {described(storage)}.")
    sizes = (offset, *shape, *strides)
    if (
        not all(type(size) is int and 0 <= size < 2**63 for size in sizes)
        or len(shape) != len(strides)
        or len(shape) > _MOST_DIMENSIONS
    ):
        raise ValueError("a tensor has a shape or strides that no tensor can have.")
    tensor = Tensor(storage, offset, tuple(shape), tuple(strides))
    if 0 in shape:
        return tensor
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides))
    if last >= storage.count:
        raise ValueError(
            f"a tensor of shape {tensor.shape} and strides {tensor.strides} reaches "
            f"element {last} of a storage of {storage.count}."
        )
    count = math.prod(shape)
    most = _MOST_REPEATED_BYTES // item_size(storage.dtype)
    if count > max(storage.count, most):
        raise ValueError(
            f"a tensor of shape {tensor.shape} repeats the {storage.count} elements of "
            f"its storage; expected at most {most} elements."
        )
    return tensor


def _rebuild_tensor_v2(
    storage, offset, shape, strides, requires_grad, hooks, metadata=None
) -> Tensor:
    if metadata:
        raise ValueError("a tensor is a lazy conjugate or negative; resolve it first.")
    return _rebuild_tensor(storage, offset, shape, strides)


def _rebuild_tensor_v3(
    storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None
) -> Tensor:
    """As above, on a storage of plain bytes, with the dtype beside it."""
    if not isinstance(dtype, Name) or dtype.text not in _NAMED_DTYPES:
        raise ValueError(f"expected the dtype of a tensor, got {described(dtype)}.")
    name = _NAMED_DTYPES[dtype.text]
    if storage.dtype != "uint8" or storage.first:
        raise ValueError("expected a storage of bytes under a tensor with a dtype.")
    storage = dataclasses.replace(
        storage, dtype=name, count=storage.count // item_size(name)
    )
    return _rebuild_tensor_v2(
        storage, offset, shape, strides, requires_grad, hooks, metadata
    )


def _rebuild_parameter(data, requires_grad, hooks, state=None) -> Tensor:
    return data


def checked_key(key):
    """Refuses nested tuples as keys of a dictionary: hashing them can take for ever."""
    if key is not None and not isinstance(key, (str, bytes, int, float, Skipped)):
        raise ValueError(f"it has {described(key)} as the key of a dictionary.")
    return key


def _dictionary(items=()) -> dict:
    """OrderedDict(), Counter(dict), or OrderedDict(pairs) as Python 2 wrote it."""
    if isinstance(items, dict):
        return items
    made = {checked_key(key): value for key, value in items}
    if made:
        items.clear()  # moved, so that naming one list often cannot fill the memory
    return made


def _size(sizes) -> tuple:
    return sizes


def _device(*names) -> None:
    """A device says nothing about weights."""


# Name -> what stands for it here.
FUNCTIONS = {
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,  # in the state of learning rate schedules
    "torch.Size": _size,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}
# Name of a type of storage -> dtype of its elements.
STORAGES = {
    "torch.storage.UntypedStorage": "uint8",
    "torch.UntypedStorage": "uint8",
    **{f"torch.{name}": dtype for name, dtype in _STORAGE_DTYPES.items()},
    **{f"torch.cuda.{name}": dtype for name, dtype in _STORAGE_DTYPES.items()},
}
_NAMED_DTYPES = {f"torch.{name}": name for name in DTYPES}
KNOWN_NAMES = {*FUNCTIONS, *STORAGES, *_NAMED_DTYPES}


# --- Words ---------------------------------------------------------------------------


def described(value) -> str:
    """The type of a value in words; never its content, which may be endless."""
    names = {Tensor: "a tensor", Storage: "a storage", Name: "a function or type"}
    if isinstance(value, Skipped):
        return f"an object of {shortened(value.text)}"
    if isinstance(value, (dict, list, tuple)) and not value:
        return f"an empty {type(value).__name__}"
    return names.get(type(value), f"a value of type {type(value).__name__}")


def shortened(value, most: int = 80) -> str:
    """A text of the file for a message, at most so long; other values `described`."""
    text = value if isinstance(value, str) else described(value)
    return text if len(text) <= most else text[:most] + "..."


def refusal(wanted: str) -> str:
    """The sentence on what a pickle asks for in place of a tensor."""
    return (
        f"its pickle asks for {wanted}, which no state_dict needs. Nothing was "
        "executed. If you trust the file, load it with PyTorch and save "
        "model.state_dict() alone."
    )
