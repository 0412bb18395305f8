"""The two containers of `torch.save`: a file in, what was pickled and its bytes out.

Formats as in torch/serialization.py: the zip files of PyTorch 1.6 and later, and the
older sequence of pickles and storages (`_legacy_save`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Iterator

from deeplab_tf.weights.torch_format.pickles import Unpickler
from deeplab_tf.weights.torch_format.tensors import item_size, shortened

_TORCHSCRIPT = ("constants.pkl", "code/")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_MAGIC_BYTES = _LEGACY_MAGIC.to_bytes(10, "little")
_LEGACY_PROTOCOL = 1001


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds, as long as it is open.

    Attributes:
      value: what was pickled, with records of `tensors` for tensors.
      read_storage: key of a storage -> its bytes.
      byte_order: of those, "<" or ">" as NumPy has it.
    """

    value: object
    read_storage: Callable[[str], bytes]
    byte_order: str


def open_container(
    path: str, head: bytes
) -> contextlib.AbstractContextManager[Contents]:
    """Opens a file of `torch.save`.

    Args:
      path: the file.
      head: its first 512 bytes, which tell the format.

    Raises:
      ValueError: not such a file, or one that is cut short or altered; `files`
        has the list of what else a damaged file may lead to.
    """
    if head.startswith(b"PK\x03\x04"):
        return _open_zip(path)
    if _LEGACY_MAGIC_BYTES in head[:32]:
        return _open_legacy(path)
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


# --- The zip format: <name>/data.pkl, <name>/byteorder, <name>/data/<storage key> ----


@contextlib.contextmanager
def _open_zip(path: str) -> Iterator[Contents]:
    with zipfile.ZipFile(path) as archive:
        folder = _archive_folder(archive.namelist())
        _check_sizes(archive.infolist(), os.path.getsize(path))
        byte_order = "<"
        if f"{folder}byteorder" in archive.namelist():
            order = archive.read(f"{folder}byteorder")
            byte_order = {b"little": "<", b"big": ">"}[order]
        stream = io.BytesIO(archive.read(f"{folder}data.pkl"))
        yield Contents(
            Unpickler().load(stream),
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
                f"{shortened(member.filename)} in it is compressed or encrypted; "
                "torch.save stores plain bytes. Was it packed by another program?"
            )
    total = sum(member.file_size for member in members)
    if total > file_size:
        raise ValueError(
            f"its contents claim {total} bytes, the whole file has {file_size}."
        )


# --- The legacy format: five pickles, then the storages one after the other ----------


@contextlib.contextmanager
def _open_legacy(path: str) -> Iterator[Contents]:
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with content:
        magic, protocol, _ = (Unpickler().load(content) for _ in range(3))
        if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
            raise ValueError(
                f"expected protocol {_LEGACY_PROTOCOL} of torch.save. Is it newer?"
            )
        unpickler = Unpickler()
        value = unpickler.load(content)
        keys = Unpickler().load(content)
        places = _storage_places(content, keys, unpickler.storages)
        yield Contents(value, lambda key: content[places[key]], "<")


def _storage_places(content: mmap.mmap, keys: list, storages: dict) -> dict[str, slice]:
    """Finds each storage: an int64 count of elements, then little-endian bytes."""
    places = {}
    position = content.tell()
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise ValueError(f"no tensor uses the storage {shortened(key)}.")
        storage = storages[key]
        start = position + 8
        position = start + storage.count * item_size(storage.dtype)
        if position > len(content):
            raise ValueError(
                f"it is cut short: storage {shortened(key)} ends at byte {position}, "
                f"the file at {len(content)}. Download it again."
            )
        (count,) = struct.unpack_from("<q", content, start - 8)
        if count != storage.count:
            raise ValueError(
                f"storage {shortened(key)} has {count} elements where its tensors "
                f"expect {storage.count}. Download it again."
            )
        places[key] = slice(start, position)
    return places
