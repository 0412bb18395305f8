"""Writes files of torch.save, instruction by instruction: the tests need no PyTorch."""

from __future__ import annotations

import math
import struct
import zipfile
from collections import OrderedDict

import numpy as np


class Storage:
    """A storage in the file; `count`, `key` and `view` may be set to lies."""

    def __init__(self, array, name="FloatStorage", module="torch"):
        self.array, self.name, self.module = np.ascontiguousarray(array), name, module
        self.count = self.array.size
        self.key = None
        self.view = None


class Tensor:
    """A view of a storage, or of an array's own; of the whole unless it says else."""

    def __init__(self, storage, shape=None, strides=None, offset=0):
        if not isinstance(storage, Storage):
            storage = Storage(storage)
        self.storage, self.offset = storage, offset
        self.shape = storage.array.shape if shape is None else shape
        self.strides = strides
        if strides is None:
            sizes = (*self.shape[1:], 1)
            self.strides = tuple(math.prod(sizes[i:]) for i in range(len(self.shape)))


class Raw(bytes):
    """Instructions as they are."""


class Call:
    """A call of a function by its full name."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class Pickle:
    """One pickle of protocol 2, and the storages that it mentions."""

    def __init__(self, legacy=False):
        self.legacy, self.storages = legacy, []

    def dumps(self, value) -> bytes:
        return b"\x80\x02" + self.item(value) + b"."

    def item(self, value) -> bytes:
        if isinstance(value, Raw):
            return bytes(value)
        if value is None:
            return b"N"
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            return b"\x8a\x0b" + value.to_bytes(11, "little", signed=True)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.item, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.item, value)) + b"e"
        if isinstance(value, OrderedDict):
            return b"ccollections\nOrderedDict\n)R" + self.items(value)
        if isinstance(value, dict):
            return b"}" + self.items(value)
        if isinstance(value, Tensor):
            value = rebuild(value, "_rebuild_tensor_v2", False, OrderedDict())
        if isinstance(value, Call):
            module, _, name = value.name.rpartition(".")
            named = f"c{module}\n{name}\n".encode()
            return named + self.item(value.arguments) + b"R"
        return self.storage(value)

    def items(self, value) -> bytes:
        pairs = (self.item(key) + self.item(item) for key, item in value.items())
        return b"(" + b"".join(pairs) + b"u"

    def storage(self, storage) -> bytes:
        if storage not in self.storages:
            self.storages.append(storage)
        storage.key = storage.key or str(self.storages.index(storage))
        kind = Raw(f"c{storage.module}\n{storage.name}\n".encode())
        identifier = ("storage", kind, storage.key, "cpu", storage.count)
        return self.item(identifier + ((storage.view,) if self.legacy else ())) + b"Q"


def instructions(value) -> bytes:
    """What puts a value on the stack, without the frame of a pickle."""
    return Pickle().item(value)


def rebuild(tensor, function, *more) -> Call:
    """The call that PyTorch pickles a tensor as."""
    return Call(
        f"torch._utils.{function}",
        *(tensor.storage, tensor.offset, tensor.shape, tensor.strides, *more),
    )


def write_zip(
    path, value, order="little", folder="archive", compression=zipfile.ZIP_STORED
):
    """Writes a file of PyTorch 1.6 and later, of the same bytes every day."""
    writer = Pickle()
    members = {"data.pkl": writer.dumps(value), "byteorder": order}
    for storage in writer.storages:
        members[f"data/{storage.key}"] = storage.array.tobytes()
    members["version"] = "3\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(f"{folder}/{name}", (2020, 1, 1, 0, 0, 0))
            archive.writestr(member, content, compression)
    return path


def write_legacy(path, value, protocol=1001, more_keys=()):
    """Writes a file as PyTorch did before 1.6."""
    writer, plain = Pickle(legacy=True), Pickle()
    information = {"protocol_version": 1001, "little_endian": True}
    content = [plain.dumps(0x1950A86A20F9469CFC6C), plain.dumps(protocol)]
    content += [plain.dumps(information), writer.dumps(value)]
    keys = [storage.key for storage in writer.storages]
    content.append(plain.dumps([*keys, *more_keys]))
    for storage in writer.storages:
        content.append(struct.pack("<q", storage.array.size))
        content.append(storage.array.tobytes())
    path.write_bytes(b"".join(content))
    return path


def payloads(command, expression) -> dict[str, bytes]:
    """Pickles that run a shell command, or evaluate an expression, when loaded."""
    arguments = b"(" + instructions(command) + b"t"
    name = b"\x8c\x02os\x8c\x06system\x93"
    return {
        "os.system": b"cos\nsystem\n" + arguments + b"R",
        "builtins.eval": b"cbuiltins\neval\n(" + instructions(expression) + b"tR",
        "STACK_GLOBAL": name + arguments + b"R",
        "INST": b"(" + instructions(command) + b"ios\nsystem\n",
        "OBJ": b"(cos\nsystem\n" + instructions(command) + b"o",
        "NEWOBJ": b"csubprocess\nPopen\n(" + instructions(command) + b"Nt\x81",
    }
