"""PyTorch checkpoint files as NumPy arrays: no PyTorch, and no code from the file.

A checkpoint is a pickle beside raw bytes, and a pickle may call any function of Python.
This module therefore never calls `pickle`. The standard library's `pickletools` splits
the stream into instructions; the few that `torch.save` writes for tensors are carried
out here, and each name in the stream is looked up in a fixed table of functions that
make plain records. Any other name or instruction stops the reading.

Formats as in torch/serialization.py: the zip files of PyTorch 1.6 and later, and the
older sequence of pickles and storages (`_legacy_save`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import math
import mmap
import os
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable

import numpy as np

# Eight decimal digits alone may be a date.
_HASH_IN_NAME = re.compile(r"-(?!\d{8}\.)([0-9a-fA-F]{8,64})\.pth$")
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net")

_TORCHSCRIPT = ("constants.pkl", "code/")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_MAGIC_BYTES = _LEGACY_MAGIC.to_bytes(10, "little")
_LEGACY_PROTOCOL = 1001

# What a damaged file may lead to in zipfile, or in a function of the tables below.
_DAMAGE = (
    *(zipfile.BadZipFile, OSError, EOFError, RuntimeError, struct.error),
    *(LookupError, TypeError, AttributeError, OverflowError),
)

# Stride 0 repeats elements, so that 4 bytes in the file may stand for any size.
_MOST_REPEATED_BYTES = 2**30
_MOST_DIMENSIONS = 32

# PyTorch's name -> NumPy's type on disk. NumPy has no bfloat16: see `_decode`.
_DTYPES = {
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


def read_torch_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the state_dict of a .pth file: name -> array, in the file's order.

    A wrapper such as {"state_dict": ..., "epoch": ...} is opened, and what stands
    beside the state_dict is left out. The prefix "module." of DistributedDataParallel
    is taken off when all names have it.

    Args:
      path: file of `torch.save`, of the zip format or the one before it.

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
    with open(path, "rb") as file:
        head = file.read(512)
    try:
        return _reader_for(head)(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except _DAMAGE as error:
        raise ValueError(
            f"{path} cannot be read: it is cut short or damaged "
            f"({type(error).__name__}: {_shortened(str(error))}). Download it again."
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


def _reader_for(head: bytes) -> Callable:
    """Tells the format by the first 512 bytes of a file."""
    if head.startswith(b"PK\x03\x04"):
        return _read_zip
    if _LEGACY_MAGIC_BYTES in head[:32]:
        return _read_legacy
    if not head:
        raise ValueError("the file is empty. Download it again.")
    if head[257:262] == b"ustar":
        raise ValueError(
            "it is a tar file, as the first versions of PyTorch wrote them. Load it "
            "with PyTorch and save it again."
        )
    raise ValueError(
        f"it is no file of torch.save; it begins with {head[:16]!r}. Expected a .pth "
        "file with a state_dict."
    )


# ---- The zip format: <name>/data.pkl, <name>/byteorder, <name>/data/<storage key> --


def _read_zip(path: str) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        folder = _archive_folder(archive.namelist())
        _check_sizes(archive.infolist(), os.path.getsize(path))
        byte_order = "<"
        if f"{folder}byteorder" in archive.namelist():
            order = archive.read(f"{folder}byteorder")
            byte_order = {b"little": "<", b"big": ">"}[order]
        stream = io.BytesIO(archive.read(f"{folder}data.pkl"))
        return _arrays(
            _state_dict(_Unpickler().load(stream)),
            lambda key: archive.read(f"{folder}data/{key}"),
            byte_order,
        )


def _archive_folder(names: list[str]) -> str:
    """Returns the folder of data.pkl, `<name>/`."""
    folders = {name.partition("/")[0] + "/" for name in names}
    programs = tuple(folder + part for folder in folders for part in _TORCHSCRIPT)
    if any(name.startswith(programs) for name in names):
        raise ValueError(
            "it is a TorchScript archive: a program with its weights. Expected the "
            "file of torch.save(model.state_dict(), ...)."
        )
    found = [folder for folder in folders if f"{folder}data.pkl" in names]
    if len(found) != 1:
        raise ValueError(
            "it is a zip file, but not of torch.save: expected one <name>/data.pkl, "
            f"found {len(found)}."
        )
    return found[0]


def _check_sizes(members: list[zipfile.ZipInfo], file_size: int) -> None:
    """Refuses an archive that would unpack to more than the file."""
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ValueError(
                f"{_shortened(member.filename)} in it is compressed or encrypted; "
                "torch.save stores plain bytes. Was it packed by another program?"
            )
    total = sum(member.file_size for member in members)
    if total > file_size:
        raise ValueError(
            f"its contents claim {total} bytes, the whole file has {file_size}."
        )


# ---- The legacy format: five pickles, then the storages one after the other --------


def _read_legacy(path: str) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with content:
        magic, protocol, _ = (_Unpickler().load(content) for _ in range(3))
        if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
            raise ValueError(
                f"expected protocol {_LEGACY_PROTOCOL} of torch.save. Is it newer?"
            )
        unpickler = _Unpickler()
        tensors = _state_dict(unpickler.load(content))
        keys = _Unpickler().load(content)
        places = _storage_places(content, keys, unpickler.storages)
        return _arrays(tensors, lambda key: content[places[key]], "<")


def _storage_places(content: mmap.mmap, keys: list, storages: dict) -> dict[str, slice]:
    """Finds each storage: an int64 count of elements, then little-endian bytes."""
    places = {}
    position = content.tell()
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise ValueError(f"no tensor uses the storage {_shortened(key)}.")
        storage = storages[key]
        start = position + 8
        position = start + storage.count * _item_size(storage.dtype)
        if position > len(content):
            raise ValueError(
                f"it is cut short: storage {_shortened(key)} ends at byte {position}, "
                f"the file at {len(content)}. Download it again."
            )
        (count,) = struct.unpack_from("<q", content, start - 8)
        if count != storage.count:
            raise ValueError(
                f"storage {_shortened(key)} has {count} elements where its tensors "
                f"expect {storage.count}. Download it again."
            )
        places[key] = slice(start, position)
    return places


# ---- Records to arrays -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A row of elements in the file: `count` from element `first` of storage `key`."""

    key: str
    dtype: str
    first: int
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _state_dict(value) -> dict[str, _Tensor]:
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
            f"expected a state_dict, got {_described(value)}. Save model.state_dict()."
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ValueError(
                f"expected a state_dict of names and tensors, got {_described(tensor)} "
                f"under {_shortened(name)}. Save model.state_dict(), alone or under "
                f"one of the keys {', '.join(_WRAPPERS)}."
            )
    if all(name.startswith("module.") for name in value):
        return {name[len("module.") :]: tensor for name, tensor in value.items()}
    return value


def _arrays(
    tensors: dict[str, _Tensor], read_storage: Callable, byte_order: str
) -> dict[str, np.ndarray]:
    """Makes views of the storages, each of which is read once.

    Views instead of copies, so that a small file cannot ask for much memory.
    """

    @functools.cache
    def storage_elements(key, dtype):
        return _decode(read_storage(key), dtype, byte_order)

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
                f"{_shortened(name)} needs {end} elements of storage "
                f"{_shortened(storage.key)}, which has {elements.size}."
            )
        arrays[name] = _view(elements[storage.first : end], tensor)
    return arrays


def _view(elements: np.ndarray, tensor: _Tensor) -> np.ndarray:
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
    stored = np.dtype(byte_order + _DTYPES[dtype])
    elements = np.frombuffer(data, stored, count=len(data) // stored.itemsize)
    elements = elements.astype(stored.newbyteorder("="), copy=False)
    if dtype == "bfloat16":  # the upper half of a float32
        elements = (elements.astype(np.uint32) << 16).view(np.float32)
    elif dtype == "bool":
        elements = elements != 0
    elements.flags.writeable = False
    return elements


def _item_size(dtype: str) -> int:
    return np.dtype(_DTYPES[dtype]).itemsize


# ---- The functions that a file may name --------------------------------------------


def _rebuild_tensor(storage, offset, shape, strides) -> _Tensor:
    """Checks that a tensor stays within its storage. No element exists yet."""
    if not isinstance(storage, _Storage):
        raise ValueError(
            f"expected the storage of a tensor, got {_described(storage)}."
        )
    sizes = (offset, *shape, *strides)
    if (
        not all(type(size) is int and 0 <= size < 2**63 for size in sizes)
        or len(shape) != len(strides)
        or len(shape) > _MOST_DIMENSIONS
    ):
        raise ValueError("a tensor has a shape or strides that no tensor can have.")
    tensor = _Tensor(storage, offset, tuple(shape), tuple(strides))
    if 0 in shape:
        return tensor
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides))
    if last >= storage.count:
        raise ValueError(
            f"a tensor of shape {tensor.shape} and strides {tensor.strides} reaches "
            f"element {last} of a storage of {storage.count}."
        )
    count = math.prod(shape)
    most = _MOST_REPEATED_BYTES // _item_size(storage.dtype)
    if count > max(storage.count, most):
        raise ValueError(
            f"a tensor of shape {tensor.shape} repeats the {storage.count} elements of "
            f"its storage; expected at most {most} elements."
        )
    return tensor


def _rebuild_tensor_v2(
    storage, offset, shape, strides, requires_grad, hooks, metadata=None
) -> _Tensor:
    if metadata:
        raise ValueError("a tensor is a lazy conjugate or negative; resolve it first.")
    return _rebuild_tensor(storage, offset, shape, strides)


def _rebuild_tensor_v3(
    storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None
) -> _Tensor:
    """As above, on a storage of plain bytes, with the dtype beside it."""
    if not isinstance(dtype, _Name) or dtype.text not in _NAMED_DTYPES:
        raise ValueError(f"expected the dtype of a tensor, got {_described(dtype)}.")
    name = _NAMED_DTYPES[dtype.text]
    if storage.dtype != "uint8" or storage.first:
        raise ValueError("expected a storage of bytes under a tensor with a dtype.")
    storage = dataclasses.replace(
        storage, dtype=name, count=storage.count // _item_size(name)
    )
    return _rebuild_tensor_v2(
        storage, offset, shape, strides, requires_grad, hooks, metadata
    )


def _rebuild_parameter(data, requires_grad, hooks, state=None) -> _Tensor:
    return data


def _dictionary(items=()) -> dict:
    """OrderedDict(), Counter(dict), or OrderedDict(pairs) as Python 2 wrote it."""
    if isinstance(items, dict):
        return items
    made = {_checked_key(key): value for key, value in items}
    if made:
        items.clear()  # moved, so that naming one list often cannot fill the memory
    return made


def _size(sizes) -> tuple:
    return sizes


def _device(*names) -> None:
    """A device says nothing about weights."""


_FUNCTIONS = {
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
_STORAGES = {
    "torch.storage.UntypedStorage": "uint8",
    "torch.UntypedStorage": "uint8",
    **{f"torch.{name}": dtype for name, dtype in _STORAGE_DTYPES.items()},
    **{f"torch.cuda.{name}": dtype for name, dtype in _STORAGE_DTYPES.items()},
}
_NAMED_DTYPES = {f"torch.{name}": name for name in _DTYPES}
_KNOWN_NAMES = {*_FUNCTIONS, *_STORAGES, *_NAMED_DTYPES}


# ---- The pickle --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Name:
    """A name in the pickle. It stands for itself: only `_call` looks behind it."""

    text: str


def _instructions(stream):
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            yield opcode, argument
    except ValueError as error:
        raise ValueError(
            "its pickle is cut short or damaged "
            f"({_shortened(str(error))}). Download it again."
        ) from error


class _Unpickler:
    """Carries out the instructions that `torch.save` writes for tensors.

    Attributes:
      storages: storage key -> whole storage, of all that the pickle mentions.
    """

    def __init__(self):
        self.storages: dict[str, _Storage] = {}
        self._stack: list = []
        self._marks: list[int] = []
        self._memo: dict = {}

    def load(self, stream):
        """Runs one pickle and leaves the stream behind its end.

        Args:
          stream: BytesIO or mmap, whose read(n) never allocates more than is there.

        Raises:
          ValueError: an instruction or name that no file of tensors needs, or a damaged
            stream (then also LookupError or TypeError).
        """
        for opcode, argument in _instructions(stream):
            if opcode.name in _VALUES:
                self._stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name])
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            elif opcode.name not in _WITHOUT_EFFECT:
                wanted = f"the instruction {opcode.name}"
                if isinstance(argument, str):  # INST names a module and a function
                    wanted += f" of {_shortened(argument).replace(' ', '.')}"
                raise ValueError(_refusal(wanted))
        return self._stack.pop()

    def _make(self, kind):
        self._stack.append(kind())

    def _mark(self):
        self._marks.append(len(self._stack))

    def _above_mark(self) -> list:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _top_two(self) -> list:
        second = self._stack.pop()
        return [self._stack.pop(), second]

    def _tuple(self, count):
        items = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _tuple_above_mark(self):
        self._stack.append(tuple(self._above_mark()))

    def _extend(self, items):
        if not isinstance(self._stack[-1], list):
            raise ValueError(f"it appends to {_described(self._stack[-1])}.")
        self._stack[-1].extend(items)

    def _set_items(self, items):
        if not isinstance(self._stack[-1], dict):
            raise ValueError(f"it sets items of {_described(self._stack[-1])}.")
        for key, value in zip(items[::2], items[1::2]):
            self._stack[-1][_checked_key(key)] = value

    def _remember(self, index):
        self._memo[index] = self._stack[-1]

    def _recall(self, index):
        self._stack.append(self._memo[index])

    def _name(self, parts):
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(_refusal("a name that is no text"))
        text = ".".join(parts)
        if text not in _KNOWN_NAMES:
            raise ValueError(_refusal(_shortened(text)))
        self._stack.append(_Name(text))

    def _call(self, arguments):
        """REDUCE: a function of the table, on a tuple of arguments."""
        name = self._stack.pop()
        if not isinstance(name, _Name) or name.text not in _FUNCTIONS:
            called = name.text if isinstance(name, _Name) else _described(name)
            raise ValueError(_refusal(f"a call of {called}"))
        self._stack.append(_FUNCTIONS[name.text](*arguments))

    def _build(self, state):
        """BUILD: an OrderedDict's attributes, `_metadata` of a state_dict. Dropped."""
        if not isinstance(self._stack[-1], dict):
            raise ValueError(_refusal(f"the state of {_described(self._stack[-1])}"))

    def _persistent_load(self, identifier):
        """("storage", type, key, device, count), in legacy files a view behind them.

        The view is None or, in old files, (its key, first element, count).
        """
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
            raise ValueError(_refusal("an object that is no storage"))
        kind, storage_type, key, _, count = identifier[:5]
        if (
            kind != "storage"
            or not isinstance(storage_type, _Name)
            or storage_type.text not in _STORAGES
            or not isinstance(key, str)
            or type(count) is not int
            or not 0 <= count < 2**63
        ):
            raise ValueError(_refusal("an object that is no storage"))
        storage = _Storage(key, _STORAGES[storage_type.text], 0, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {_shortened(key)} has two types or sizes.")
        view = identifier[5] if len(identifier) == 6 else None
        self._stack.append(_part(storage, *view[1:]) if view else storage)


def _part(storage: _Storage, first, count) -> _Storage:
    if not (type(first) is type(count) is int and 0 <= first <= first + count):
        raise ValueError("a view of a storage has no sensible size.")
    if first + count > storage.count:
        raise ValueError(
            f"a view reaches element {first + count} of a storage of {storage.count}."
        )
    return dataclasses.replace(storage, first=first, count=count)


# Instruction -> what it does to the unpickler, given the instruction's own argument.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_WITHOUT_EFFECT = {"PROTO", "FRAME", "STOP"}
_STEPS = {
    "EMPTY_LIST": lambda self, _: self._make(list),
    "EMPTY_DICT": lambda self, _: self._make(dict),
    "MARK": lambda self, _: self._mark(),
    "TUPLE": lambda self, _: self._tuple_above_mark(),
    "TUPLE1": lambda self, _: self._tuple(1),
    "TUPLE2": lambda self, _: self._tuple(2),
    "TUPLE3": lambda self, _: self._tuple(3),
    "APPEND": lambda self, _: self._extend([self._stack.pop()]),
    "APPENDS": lambda self, _: self._extend(self._above_mark()),
    "SETITEM": lambda self, _: self._set_items(self._top_two()),
    "SETITEMS": lambda self, _: self._set_items(self._above_mark()),
    "BINPUT": lambda self, index: self._remember(index),
    "LONG_BINPUT": lambda self, index: self._remember(index),
    "MEMOIZE": lambda self, _: self._remember(len(self._memo)),
    "BINGET": lambda self, index: self._recall(index),
    "LONG_BINGET": lambda self, index: self._recall(index),
    "GLOBAL": lambda self, names: self._name(names.split(" ", 1)),
    "STACK_GLOBAL": lambda self, _: self._name(self._top_two()),
    "REDUCE": lambda self, _: self._call(self._stack.pop()),
    "BUILD": lambda self, _: self._build(self._stack.pop()),
    "BINPERSID": lambda self, _: self._persistent_load(self._stack.pop()),
}


def _checked_key(key):
    """Refuses nested tuples: hashing them can take for ever."""
    if key is not None and not isinstance(key, (str, bytes, int, float)):
        raise ValueError(f"it has {_described(key)} as the key of a dictionary.")
    return key


def _refusal(wanted: str) -> str:
    return (
        f"its pickle asks for {wanted}, which no state_dict needs. Nothing was "
        "executed. If you trust the file, load it with PyTorch and save "
        "model.state_dict() alone."
    )


def _described(value) -> str:
    """The type of a value in words; never its content, which may be endless."""
    names = {_Tensor: "a tensor", _Storage: "a storage", _Name: "a function or type"}
    if isinstance(value, (dict, list, tuple)) and not value:
        return f"an empty {type(value).__name__}"
    return names.get(type(value), f"a value of type {type(value).__name__}")


def _shortened(value, most: int = 80) -> str:
    text = value if isinstance(value, str) else _described(value)
    return text if len(text) <= most else text[:most] + "..."
