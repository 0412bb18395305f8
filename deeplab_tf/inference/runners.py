"""Runtimes that run a network from its files: LiteRT, ONNX Runtime, OpenVINO.

Under each a network has one input and one output:
  images: uint8 [1, height, width, 3], RGB -> classes: uint8 [1, height, width].
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from deeplab_tf.inference.signature_names import CLASSES, IMAGES


class RuntimeRefusal(ValueError):
    """A runtime does not take a file."""


class LiteRTRunner:
    """A .tflite file under LiteRT's interpreter.

    Args:
      content: of the file.

    Attributes:
      size: (height, width) of its images, None where any will do.

    Raises:
      RuntimeRefusal: not a .tflite file, or of operations that are not built in.
      ValueError: there is no LiteRT.
    """

    endings = (".tflite",)

    def __init__(self, content: bytes):
        # TensorFlow says that its own will go; where it has gone there is another.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make = _interpreter_class()
            try:
                self._interpreter = make(
                    model_content=content, num_threads=os.cpu_count()
                )
            except (ValueError, RuntimeError) as error:
                raise RuntimeRefusal(f"LiteRT does not take it: {error}") from error
        self._input = self._interpreter.get_input_details()[0]
        self.size = _fixed(self._input["shape_signature"][1:3])
        self._shape = None
        # The page's server answers several at once; an interpreter is for one thread.
        self._lock = threading.Lock()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 [1, height, width, 3] -> classes uint8 [1, height, width]."""
        with self._lock:
            if image.shape != self._shape:
                self._interpreter.resize_tensor_input(self._input["index"], image.shape)
                self._interpreter.allocate_tensors()
                self._shape = image.shape
            self._interpreter.set_tensor(self._input["index"], image)
            self._interpreter.invoke()
            output = self._interpreter.get_output_details()[0]["index"]
            return self._interpreter.get_tensor(output)


class ONNXRunner:
    """An .onnx file under ONNX Runtime, on the CPU.

    Args:
      content: of the file.

    Attributes:
      size: (height, width) of its images, None where any will do.

    Raises:
      RuntimeRefusal: not an .onnx file, or one that ONNX Runtime does not take.
      ValueError: there is no ONNX Runtime.
    """

    endings = (".onnx",)

    def __init__(self, content: bytes):
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(
                ".onnx files need ONNX Runtime. Run: pip install onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        # Threads that wait busily take the cores from whatever else runs: beside
        # TensorFlow's they halved the speed.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of classes without a common name of their own
            raise RuntimeRefusal(f"ONNX Runtime does not take it: {error}") from error
        # Sizes that are not fixed are names.
        self.size = _fixed(self._session.get_inputs()[0].shape[1:3])

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 [1, height, width, 3] -> classes uint8 [1, height, width]."""
        return self._session.run([CLASSES], {IMAGES: image})[0]


class OpenVINORunner:
    """OpenVINO's .xml and .bin, on the CPU.

    OpenVINO takes bfloat16 wherever the processor has it, and says nothing: here a file
    in float32 is computed in float32. Processors without bfloat16 compute the others in
    float32 too.

    Args:
      xml: content of the .xml file, the operations.
      weights: content of the .bin file.

    Attributes:
      size: (height, width) of its images, None where any will do.

    Raises:
      RuntimeRefusal: not such files, or OpenVINO does not take them.
      ValueError: there is no OpenVINO.
    """

    endings = (".xml", ".bin")

    def __init__(self, xml: bytes, weights: bytes):
        try:
            core = openvino_core()
        except ImportError as error:
            raise ValueError(
                ".xml files need OpenVINO. Run: pip install openvino"
            ) from error
        try:
            model = core.read_model(xml, weights)
            kind = "f32" if stored_precision(model) == "float32" else "bf16"
            hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": kind}
            self._compiled = core.compile_model(model, "CPU", hints)
        except Exception as error:
            raise RuntimeRefusal(f"OpenVINO does not take it: {error}") from error
        shape = model.input(IMAGES).partial_shape
        self.size = _fixed([-1 if n.is_dynamic else n.get_length() for n in shape][1:3])
        # A request is for one thread.
        self._requests = threading.local()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 [1, height, width, 3] -> classes uint8 [1, height, width]."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        return np.array(self._requests.own.infer({IMAGES: image})[CLASSES])


# Ending of the file that is named -> who runs it.
RUNNERS = {
    runner.endings[0]: runner for runner in (LiteRTRunner, ONNXRunner, OpenVINORunner)
}


@functools.cache
def openvino_core():
    """OpenVINO, once a process and to its end: see `signal_stack_kept`."""
    import openvino

    with signal_stack_kept():
        core = openvino.Core()
        core.get_property("CPU", "FULL_DEVICE_NAME")  # loads what runs on the CPU
    return core


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Within it Cores of OpenVINO may begin and end, in any order.

    Where a processor has AMX, a Core takes memory of its own as the thread's stack for
    signals, and at its end puts back the one that it found. That may be another Core's,
    which is freed by then: the next signal, Ctrl-C too, would kill the process.
    """
    if os.name != "posix":
        yield
        return
    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = ctypes.create_string_buffer(64)  # a stack_t has 24 bytes
    sigaltstack(None, before)
    try:
        yield
    finally:
        sigaltstack(before, None)


_PRECISION = ["deeplab_tf", "precision"]  # place in the .xml


def store_precision(model, precision: str) -> None:
    """Writes down in an OpenVINO model in which precision it is to be computed."""
    model.set_rt_info(precision, _PRECISION)


def stored_precision(model) -> str:
    """Returns what `store_precision` wrote; "float32" where it did not."""
    if not model.has_rt_info(_PRECISION):
        return "float32"
    return str(model.get_rt_info(_PRECISION).value)


def _interpreter_class():
    """LiteRT's interpreter, or the one that TensorFlow still carries."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        if not hasattr(tf, "lite"):
            raise ValueError(
                ".tflite files need LiteRT. Run: pip install ai-edge-litert"
            ) from error
        Interpreter = tf.lite.Interpreter
    return Interpreter


def _fixed(size) -> tuple[int, int] | None:
    """(height, width) where both are sizes, and not -1 or a name."""
    known = all(not isinstance(side, str) and side and side > 0 for side in size)
    return tuple(map(int, size)) if known else None
