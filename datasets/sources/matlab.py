"""Reads annotations that are MATLAB files: variables, structs, text and masks.

MATLAB knows no scalars and no lists: a struct, a struct array, a cell array and a text
all arrive as arrays, of a shape that depends on who wrote the file and on the options
of `scipy.io.loadmat`. The functions here give the same for all of these shapes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import numpy as np


def read_variable(path: str | os.PathLike, name: str) -> np.ndarray:
    """Returns one variable of a .mat file (MATLAB 5 to 7.2), as loadmat gives it.

    Raises:
      ValueError: the file is absent, damaged or of version 7.3, or has no such
        variable.
    """
    import scipy.io

    try:
        variables = scipy.io.loadmat(os.fspath(path), variable_names=[name])
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except NotImplementedError as error:
        raise ValueError(
            f"{path} is a MATLAB 7.3 file; expected an older version, as published "
            "(in MATLAB: save with -v7)"
        ) from error
    # Damaged files make SciPy raise OSError, IndexError, TypeError and others.
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a .mat file ({error})") from error
    if name not in variables:
        raise ValueError(f"{path} has no variable {name}; expected the published file")
    return variables[name]


@contextlib.contextmanager
def errors_about(path: str | os.PathLike) -> Iterator[None]:
    """Puts the file's path before the ValueErrors of the functions below."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def structs(value: np.ndarray) -> list[np.void]:
    """Returns the structs of a struct array, or of a cell array of structs, in order.

    Args:
      value: any shape; an empty array, as MATLAB writes "none", gives no structs.

    Raises:
      ValueError: it holds something else.
    """
    # A sparse array, a text or None is no array, and would become one that holds it.
    if not isinstance(value, (np.ndarray, np.void)):
        raise ValueError(f"expected MATLAB structs, received a {type(value).__name__}")
    value = np.asarray(value)
    if value.dtype.names:
        return list(value.ravel())
    if value.dtype == object:
        return [struct for cell in value.ravel() for struct in structs(cell)]
    if value.size:
        raise ValueError(f"expected MATLAB structs, received values of {value.dtype}")
    return []


def field(struct: np.void, name: str) -> np.ndarray:
    """Returns a field of a struct.

    Raises:
      ValueError: the struct has no such field.
    """
    if name not in struct.dtype.names:
        raise ValueError(
            f"expected a MATLAB struct with the field {name}, received the fields "
            f"{', '.join(struct.dtype.names)}"
        )
    return np.asarray(struct[name])


def text(value: np.ndarray) -> str:
    """Returns a char array of one line as str; an empty one gives ""."""
    value = np.asarray(value)
    return str(value.ravel()[0]) if value.size else ""


def label_map(value: np.ndarray) -> np.ndarray:
    """Returns an array of ids or of truth values as integers [height, width].

    Ids that MATLAB stored as double become integers too.

    Raises:
      ValueError: not two-dimensional, or not whole numbers of 0 or more.
    """
    value = np.asarray(value)
    if value.ndim != 2 or value.dtype.kind not in "biuf":
        raise ValueError(
            "expected an array of ids with two dimensions, received "
            f"{value.dtype} of shape {value.shape}"
        )
    if value.dtype.kind in "if" and not np.all((value >= 0) & (value % 1 == 0)):
        raise ValueError("expected ids of 0 or more, received other numbers")
    if value.dtype.kind in "iu":
        return value
    return value.astype(np.uint8 if value.dtype.kind == "b" else np.int64)
