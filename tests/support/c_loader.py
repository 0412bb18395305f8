"""Asks a SavedModel through TensorFlow's C library, with no Python of TensorFlow.

    python tests/support/c_loader.py SAVED_MODEL INPUT_TENSOR OUTPUT_TENSOR IMAGE PNG

`TF_LoadSessionFromSavedModel` is the loader TF Serving uses. Only the standard library
is imported: what this process answers, any C program can. `serving_stand_in.py` puts a
network interface around it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import sys
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import NamedTuple

TF_STRING = 7
ELEMENT_BYTES = {1: 4, 3: 4, 4: 1}  # float32, int32, uint8, by tensorflow.DataType
_STRING_BYTES = 24  # of a TF_TString


class Tensor(NamedTuple):
    """A tensor outside the library.

    Attributes:
      dtype: number of tensorflow.DataType.
      shape: one whole number per dimension.
      content: its values row by row: bytes as they lie in memory; of strings a list.
    """

    dtype: int
    shape: Sequence[int]
    content: bytes | list[bytes]


class CallError(Exception):
    """The library refused: its number, which is also gRPC's, and its words."""

    def __init__(self, code: int, words: str):
        super().__init__(words)
        self.code = code


class Output(ctypes.Structure):
    """TF_Output: an operation and the number of its output."""

    _fields_ = [("operation", c_void_p), ("index", c_int)]


# Function -> (result, arguments).
_FUNCTIONS = {
    "TF_NewStatus": (c_void_p, []),
    "TF_DeleteStatus": (None, [c_void_p]),
    "TF_GetCode": (c_int, [c_void_p]),
    "TF_Message": (c_char_p, [c_void_p]),
    "TF_NewGraph": (c_void_p, []),
    "TF_DeleteGraph": (None, [c_void_p]),
    "TF_NewSessionOptions": (c_void_p, []),
    "TF_DeleteSessionOptions": (None, [c_void_p]),
    "TF_SetConfig": (None, [c_void_p, c_char_p, c_size_t, c_void_p]),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        [c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int]
        + [c_void_p, c_void_p, c_void_p],
    ),
    "TF_CloseSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteSession": (None, [c_void_p, c_void_p]),
    "TF_GraphOperationByName": (c_void_p, [c_void_p, c_char_p]),
    "TF_SessionRun": (
        None,
        [c_void_p, c_void_p]
        + [POINTER(Output), POINTER(c_void_p), c_int] * 2
        + [c_void_p, c_int, c_void_p, c_void_p],
    ),
    "TF_AllocateTensor": (c_void_p, [c_int, POINTER(c_int64), c_int, c_size_t]),
    "TF_DeleteTensor": (None, [c_void_p]),
    "TF_TensorType": (c_int, [c_void_p]),
    "TF_NumDims": (c_int, [c_void_p]),
    "TF_Dim": (c_int64, [c_void_p, c_int]),
    "TF_TensorByteSize": (c_size_t, [c_void_p]),
    "TF_TensorData": (c_void_p, [c_void_p]),
    "TF_StringInit": (None, [c_void_p]),
    "TF_StringCopy": (None, [c_void_p, c_char_p, c_size_t]),
    "TF_StringDealloc": (None, [c_void_p]),
    "TF_StringGetDataPointer": (c_void_p, [c_void_p]),
    "TF_StringGetSize": (c_size_t, [c_void_p]),
}


def load_library():
    """Loads libtensorflow_cc from the installed package, which is not imported."""
    folder = importlib.util.find_spec("tensorflow").submodule_search_locations[0]
    for name in ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib"):
        if os.path.isfile(os.path.join(folder, name)):
            library = ctypes.CDLL(os.path.join(folder, name))
            break
    else:
        sys.exit(f"No libtensorflow_cc in {folder}.")
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Session:
    """A loaded SavedModel. Several threads may run it at once.

    Args:
      library: of `load_library`.
      path: the folder of a version.
      config: a serialized tensorflow.ConfigProto.

    Raises:
      CallError: the folder cannot be loaded.
    """

    def __init__(self, library, path: str, config: bytes = b""):
        self.library = library
        self.graph = library.TF_NewGraph()
        tags = (c_char_p * 1)(b"serve")
        options = library.TF_NewSessionOptions()
        try:
            self._checked(library.TF_SetConfig, options, config, len(config))
            self.session = self._checked(
                library.TF_LoadSessionFromSavedModel,
                *(options, None, os.fsencode(path), tags, 1, self.graph, None),
            )
        except CallError:
            library.TF_DeleteGraph(self.graph)
            raise
        finally:
            library.TF_DeleteSessionOptions(options)

    def close(self) -> None:
        """Frees the model. No thread may be inside `run`."""
        self._checked(self.library.TF_CloseSession, self.session)
        self._checked(self.library.TF_DeleteSession, self.session)
        self.library.TF_DeleteGraph(self.graph)

    def run(self, feeds: Mapping[str, Tensor], fetches: Sequence[str]) -> list[Tensor]:
        """Feeds tensors and fetches others, both by name:index.

        Raises:
          CallError: the graph has no such tensor, or its operations refuse.
        """
        inputs = (Output * len(feeds))(*map(self._output, feeds))
        outputs = (Output * len(fetches))(*map(self._output, fetches))
        fed, fetched = (c_void_p * len(feeds))(), (c_void_p * len(fetches))()
        try:
            for index, tensor in enumerate(feeds.values()):
                fed[index] = self._allocate(tensor)
            self._checked(
                self.library.TF_SessionRun,
                *(self.session, None),
                *(inputs, fed, len(feeds), outputs, fetched, len(fetches)),
                *(None, 0, None),
            )
            return [self._read(tensor) for tensor in fetched]
        finally:
            for tensor in fetched:
                self.library.TF_DeleteTensor(tensor)
            # The library frees the strings of its own tensors, of ours it does not.
            for tensor in fed:
                self._free(tensor)

    def _checked(self, function, *arguments):
        """Calls a function whose last argument is a status."""
        status = self.library.TF_NewStatus()
        try:
            result = function(*arguments, status)
            code = self.library.TF_GetCode(status)
            if code:
                words = self.library.TF_Message(status).decode(errors="replace")
                raise CallError(code, words)
            return result
        finally:
            self.library.TF_DeleteStatus(status)

    def _output(self, tensor_name: str) -> Output:
        name, _, index = tensor_name.partition(":")
        operation = self.library.TF_GraphOperationByName(self.graph, name.encode())
        if not operation:
            raise CallError(5, f"The graph has no operation {name}.")
        return Output(operation, int(index))

    def _allocate(self, tensor: Tensor) -> int:
        shape = (c_int64 * len(tensor.shape))(*tensor.shape)
        elements = math.prod(tensor.shape)
        size = elements * ELEMENT_BYTES.get(tensor.dtype, _STRING_BYTES)
        if len(tensor.content) != (elements if tensor.dtype == TF_STRING else size):
            raise ValueError(f"Expected {elements} values for the shape {shape[:]}.")
        pointer = self.library.TF_AllocateTensor(tensor.dtype, shape, len(shape), size)
        data = self.library.TF_TensorData(pointer)
        if tensor.dtype != TF_STRING:
            ctypes.memmove(data, tensor.content, size)
            return pointer
        for index, value in enumerate(tensor.content):
            string = data + index * _STRING_BYTES
            self.library.TF_StringInit(string)
            self.library.TF_StringCopy(string, value, len(value))
        return pointer

    def _free(self, pointer: int | None) -> None:
        if pointer and self.library.TF_TensorType(pointer) == TF_STRING:
            for string in self._strings(pointer):
                self.library.TF_StringDealloc(string)
        self.library.TF_DeleteTensor(pointer)

    def _read(self, pointer: int) -> Tensor:
        dtype = self.library.TF_TensorType(pointer)
        dimensions = range(self.library.TF_NumDims(pointer))
        shape = [self.library.TF_Dim(pointer, index) for index in dimensions]
        if dtype != TF_STRING:
            size = self.library.TF_TensorByteSize(pointer)
            data = self.library.TF_TensorData(pointer)
            return Tensor(dtype, shape, ctypes.string_at(data, size) if size else b"")
        content = [
            ctypes.string_at(
                self.library.TF_StringGetDataPointer(string),
                self.library.TF_StringGetSize(string),
            )
            for string in self._strings(pointer)
        ]
        return Tensor(dtype, shape, content)

    def _strings(self, pointer: int) -> range:
        """Addresses of the strings of a tensor."""
        start = self.library.TF_TensorData(pointer) or 0
        size = self.library.TF_TensorByteSize(pointer)
        return range(start, start + size, _STRING_BYTES)


def main(saved_model, input_name, output_name, image, result):
    with open(image, "rb") as file:
        image_bytes = Tensor(TF_STRING, [1], [file.read()])
    try:
        session = Session(load_library(), saved_model)
        (answer,) = session.run({input_name: image_bytes}, [output_name])
    except CallError as error:
        sys.exit(str(error))
    with open(result, "wb") as file:
        file.write(answer.content[0])
    foreign = {"tensorflow", "keras", "tf_keras", "deeplab_tf"} & sys.modules.keys()
    if foreign:
        sys.exit(f"Imported, and must not be: {sorted(foreign)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
