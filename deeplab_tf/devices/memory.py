"""Memory of GPUs: how much a process takes, and one sentence where it is too little."""

from __future__ import annotations

import contextlib
import errno
import math
import re
from collections.abc import Callable, Iterator

# What runs out of something else says so: a full disk and too many open files arrive as
# TensorFlow's ResourceExhaustedError too.
_MEMORY_WORDS = re.compile(
    r"\bOOM\b|out of memory|(failed|unable) to allocate|cannot allocate memory"
    r"|CUDA_ERROR_OUT_OF_MEMORY|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_TENSOR = re.compile(r"allocating tensor with shape\[([\d,]*)\] and type (\w+)")
_ARRAY = re.compile(r"array with shape \(([\d, ]*)\) and data type (\w+)")
_AMOUNT = re.compile(
    r"allocat(?:e|ing)(?: request for)? ([\d.]+) ?(bytes|[KMGT]i?B|B)\b", re.IGNORECASE
)
_DEVICE = re.compile(r"device:(\w+:\d+)")
_GPU_ORDINAL = re.compile(r"on device ordinal (\d+)")
# TensorFlow's names of types in its message, where they are not those of the rest.
_TYPES = {"float": "float32", "half": "float16", "double": "float64"}
_UNITS = {"b": 1, "bytes": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class OutOfMemory(MemoryError):
    """The memory of a device does not suffice; the message says what to lower."""


def set_memory(limit_megabytes: int | None = None) -> None:
    """Lets TensorFlow take GPU memory as it needs it, up to a limit.

    Without this it takes all of it at once, and a second process finds none. Call it
    before anything touches a device.

    Args:
      limit_megabytes: of each GPU; None is all there is.
    """
    import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU"):
        if limit_megabytes is None:
            tf.config.experimental.set_memory_growth(device, True)
        else:  # a device with a limit grows by itself
            limit = tf.config.LogicalDeviceConfiguration(memory_limit=limit_megabytes)
            tf.config.set_logical_device_configuration(device, [limit])


@contextlib.contextmanager
def out_of_memory_named(advise: Callable[[], str]) -> Iterator[None]:
    """Says in a sentence what TensorFlow, XLA or numpy make of too little memory.

    Args:
      advise: gives the sentences on what to lower.

    Raises:
      OutOfMemory: it was too little. Other errors pass.
    """
    import tensorflow as tf

    # XLA's are of any kind of OpError, ONNX Runtime's a RuntimeError.
    try:
        yield
    except (tf.errors.OpError, MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, OutOfMemory) or not means_memory(error):
            raise
        where = device_of(str(error))
        what = asked_for(str(error))
        what = f": {what} did not fit" if what else ""
        raise OutOfMemory(f"Out of memory {where}{what}. {advise()}") from error


def means_memory(error: Exception) -> bool:
    """Whether it is the memory of a device, or the machine, that an error is about."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return "No space left" not in str(error) and bool(_MEMORY_WORDS.search(str(error)))


def device_of(message: str) -> str:
    """ "on GPU:0", or "on this machine" where it is the CPU's or nobody tells."""
    ordinal = _GPU_ORDINAL.search(message)
    device = _DEVICE.search(message)
    name = f"GPU:{ordinal[1]}" if ordinal else device[1] if device else "CPU:0"
    return "on this machine" if name.startswith("CPU") else f"on {name}"


def asked_for(message: str) -> str:
    """What an allocator was asked for, in units to read; "" where nothing tells."""
    array = _TENSOR.search(message) or _ARRAY.search(message)
    amount = _AMOUNT.search(message)
    if array:
        shape = [int(size) for size in re.findall(r"\d+", array[1])]
        name = _TYPES.get(array[2], array[2])
        text = f"a tensor {name} {shape}"
        size = _bytes_of(name)
        return f"{text}, {readable(size * math.prod(shape))}," if size else text
    if amount:
        unit = amount[2].lower()
        return readable(float(amount[1]) * _UNITS[unit if unit in _UNITS else unit[0]])
    return ""


def _bytes_of(dtype: str) -> int | None:
    """Of one value of a type by its name: the bits in it, or a byte."""
    bits = re.search(r"\d+$", dtype)
    if bits:
        return int(bits[0]) // 8
    return 1 if dtype == "bool" else None


def readable(size: float) -> str:
    """4311744512 -> "4.0 GB", of 1024 MB as graphics cards count."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"
