"""Asks a SavedModel through TensorFlow's C library, with no Python of TensorFlow.

    python c_loader.py SAVED_MODEL INPUT_TENSOR OUTPUT_TENSOR IMAGE RESULT_PNG

`TF_LoadSessionFromSavedModel` is the loader TF Serving uses. Only the standard library
is imported: what this process answers, any C program can.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys

TF_STRING = 7


class TStringBytes(ctypes.Structure):
    """TF_TString, opaque: 24 bytes."""

    _fields_ = [("raw", ctypes.c_uint64 * 3)]


class Output(ctypes.Structure):
    """TF_Output: an operation and the number of its output."""

    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def load_library():
    """Loads libtensorflow_cc from the installed package, which is not imported."""
    folder = importlib.util.find_spec("tensorflow").submodule_search_locations[0]
    for name in ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib"):
        if os.path.isfile(os.path.join(folder, name)):
            library = ctypes.CDLL(os.path.join(folder, name))
            break
    else:
        sys.exit(f"No libtensorflow_cc in {folder}.")
    for name in (
        "TF_NewStatus TF_NewGraph TF_NewSessionOptions TF_LoadSessionFromSavedModel "
        "TF_GraphOperationByName TF_AllocateTensor TF_TensorData "
        "TF_StringGetDataPointer"
    ).split():
        getattr(library, name).restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    library.TF_StringGetSize.restype = ctypes.c_size_t
    return library


class Session:
    """A loaded SavedModel."""

    def __init__(self, library, path: str):
        self.library = library
        self.status = ctypes.c_void_p(library.TF_NewStatus())
        self.graph = ctypes.c_void_p(library.TF_NewGraph())
        tags = (ctypes.c_char_p * 1)(b"serve")
        self.session = ctypes.c_void_p(
            library.TF_LoadSessionFromSavedModel(
                ctypes.c_void_p(library.TF_NewSessionOptions()),
                None,
                path.encode(),
                tags,
                1,
                self.graph,
                None,
                self.status,
            )
        )
        self.check()

    def check(self):
        if self.library.TF_GetCode(self.status) != 0:
            sys.exit(self.library.TF_Message(self.status).decode())

    def output(self, tensor_name: str) -> Output:
        """name:index -> TF_Output."""
        name, _, index = tensor_name.partition(":")
        operation = self.library.TF_GraphOperationByName(self.graph, name.encode())
        if not operation:
            sys.exit(f"The graph has no operation {name}.")
        return Output(operation, int(index))

    def run(self, input_name: str, value: bytes, output_name: str) -> bytes:
        """Feeds a string tensor [1] and fetches another."""
        feed, fetch = self.output(input_name), self.output(output_name)
        feeds = (ctypes.c_void_p * 1)(self.string_tensor(value))
        fetched = (ctypes.c_void_p * 1)()
        self.library.TF_SessionRun(
            self.session,
            None,
            *(ctypes.byref(feed), feeds, 1),
            *(ctypes.byref(fetch), fetched, 1),
            *(None, 0, None),
            self.status,
        )
        self.check()
        data = self.library.TF_TensorData(ctypes.c_void_p(fetched[0]))
        string = ctypes.c_void_p(data)
        return ctypes.string_at(
            self.library.TF_StringGetDataPointer(string),
            self.library.TF_StringGetSize(string),
        )

    def string_tensor(self, value: bytes) -> int:
        shape = (ctypes.c_int64 * 1)(1)
        tensor = self.library.TF_AllocateTensor(
            TF_STRING, shape, 1, ctypes.c_size_t(ctypes.sizeof(TStringBytes))
        )
        string = ctypes.c_void_p(self.library.TF_TensorData(ctypes.c_void_p(tensor)))
        self.library.TF_StringInit(string)
        self.library.TF_StringCopy(string, value, ctypes.c_size_t(len(value)))
        return tensor


def main(saved_model, input_name, output_name, image, result):
    session = Session(load_library(), saved_model)
    with open(image, "rb") as file:
        answer = session.run(input_name, file.read(), output_name)
    with open(result, "wb") as file:
        file.write(answer)
    foreign = {"tensorflow", "keras", "tf_keras", "deeplab_tf"} & sys.modules.keys()
    if foreign:
        sys.exit(f"Imported, and must not be: {sorted(foreign)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
