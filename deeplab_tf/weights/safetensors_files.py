"""A .safetensors file in, arrays by their names out.

The format: eight bytes with the length of a JSON header, the header ({name: {"dtype",
"shape", "data_offsets"}}), and the bytes of the tensors, little-endian.
"""

from __future__ import annotations

import json
import math
import os

import numpy as np

ENDING = ".safetensors"
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "u1"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
}
_MOST_HEADER_BYTES = 10**8  # as its authors have it
_MOST_DIMENSIONS = 32


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads all tensors of a .safetensors file.

    Returns:
      Name -> read-only array, bfloat16 as float32.

    Raises:
      OSError: the file cannot be read.
      ValueError: not such a file, or one that is cut short or altered.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        header, data = _parts(content)
        return {
            name: _array(entry, data)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{os.fspath(path)} cannot be read: it is no .safetensors file, cut short "
            f"or damaged ({type(error).__name__}: {str(error)[:80]}). Download it "
            "again."
        ) from error


def _parts(content: bytes) -> tuple[dict, memoryview]:
    """The header, and the bytes after it."""
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(_MOST_HEADER_BYTES, len(content) - 8):
        raise ValueError(f"a header of {length} bytes in a file of {len(content)}")
    header = json.loads(content[8 : 8 + length], object_pairs_hook=_without_doubles)
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header, memoryview(content)[8 + length :]


def _without_doubles(pairs: list) -> dict:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _array(entry: dict, data: memoryview) -> np.ndarray:
    """Checks an entry of the header against the file before an array is made of it."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    numbers = (begin, end, *shape)
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"sizes that no tensor has: {numbers}")
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    if (
        len(shape) > _MOST_DIMENSIONS
        or not begin <= end <= len(data)
        or math.prod(shape) * dtype.itemsize != end - begin
    ):
        raise ValueError(f"a tensor of shape {shape} from byte {begin} to {end}")
    array = np.frombuffer(data[begin:end], dtype).reshape(shape)
    if entry["dtype"] == "BF16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array != 0 if entry["dtype"] == "BOOL" else array
