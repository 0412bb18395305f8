"""Networks in files of other runtimes: .tflite under LiteRT, .onnx under ONNX Runtime.

`classes = load_network("deeplab_v3_int8.tflite").classes(images)`

`runtime_files.py` writes them. Under both a network has one input and one output:
  images: uint8 [1, height, width, 3], RGB -> classes: uint8 [1, height, width].
Beside NAME.tflite lies NAME.tflite.labels.json: class names and colours, what the file
was made of, and its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings

import numpy as np
import tensorflow as tf

from deeplab_tf.inference.network import Network, as_uint8
from deeplab_tf.inference.signature_names import CLASSES, IMAGES
from deeplab_tf.labels import Labels

LABELS_ENDING = ".labels.json"
PREVIOUS = "previous"  # key of the labels of the file that is being replaced


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

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [B, height, width, 3] -> classes uint8 [B, height, width]."""
        with self._lock:
            return np.concatenate([self._run(image[None]) for image in images])

    def _run(self, image: np.ndarray) -> np.ndarray:
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

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [B, height, width, 3] -> classes uint8 [B, height, width]."""
        classes = [self._session.run([CLASSES], {IMAGES: i[None]})[0] for i in images]
        return np.concatenate(classes)


# Ending of the file -> who runs it.
RUNTIMES = {".tflite": LiteRTRunner, ".onnx": ONNXRunner}


class RuntimeNetwork(Network):
    """A network under its runtime, for images of any size; it tells classes alone.

    Where the file's size is fixed, other images are stretched to it, bilinearly, and
    the classes stretched back, each pixel taking that of the nearest.

    Args:
      runner: uint8 [B, h, w, 3] -> classes uint8 [B, h, w]; it has a `size`.
      labels: what the classes are called.
    """

    traceable = False

    def __init__(self, runner: LiteRTRunner | ONNXRunner, labels: Labels):
        self.size = runner.size
        self.labels = labels
        self._runner = runner

    def classes(self, images) -> np.ndarray:
        """Returns classes uint8 [B, h, w] of RGB images [B, h, w, 3] in 0..255."""
        images = as_uint8(images)
        own = images.shape[1:3]
        if self.size in (None, own):
            return self._runner(images)
        fitted = np.stack([fit_image(image, self.size) for image in images])
        classes = self._runner(fitted)[..., None]
        return tf.image.resize(classes, own, "nearest").numpy()[..., 0]

    def logits(self, images):
        self.check_probabilities()

    def check_probabilities(self):
        raise ValueError(
            "A .tflite or .onnx file answers with classes, and scales, flip, windows, "
            "the CRF and --save=probabilities need probabilities. Give a --workdir, or "
            "the folder of a SavedModel."
        )


def load_network(path: str | os.PathLike) -> RuntimeNetwork:
    """Loads a .tflite or .onnx file of export.py, and the labels beside it.

    Raises:
      FileNotFoundError: the file or its labels are not there.
      ValueError: damaged, not that of its labels, or there is no runtime for it.
    """
    path = os.fspath(path)
    content, text = _read(path), _read(labels_path(path))
    try:
        described = _object(text)
        # While a file is exported anew there are labels of both.
        candidates = [described, described.get(PREVIOUS) or described]
        digest = sha256(content)
        fitting = [each for each in candidates if each.get("sha256") in (None, digest)]
        labels = Labels.from_json(json.dumps((fitting or candidates)[0]))
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{labels_path(path)} is not the labels of an export: {error}. Copy or "
            "export both again."
        ) from error
    # Told before a runtime reads it: that of TensorFlow 2.15 ends the process.
    if not fitting:
        raise ValueError(
            f"{path} is not the file that {labels_path(path)} was written with: it is "
            "damaged, or another. Copy or export both again."
        )
    try:
        runner = RUNTIMES[_ending(path)](content)
    except ValueError as error:
        raise ValueError(f"{path} cannot be run. {error}") from error
    return RuntimeNetwork(runner, labels)


def read_described(path: str | os.PathLike) -> dict | None:
    """Returns what the labels beside a file tell of the file that is there.

    Returns:
      The fields of the labels' file; None where there is no such file, or no labels of
      it.
    """
    try:
        content, described = _read(path), _object(_read(labels_path(path)))
    except (OSError, ValueError):
        return None
    for each in (described, described.pop(PREVIOUS, None)):
        if isinstance(each, dict) and each.get("sha256") in (None, sha256(content)):
            return each
    return None


def is_runtime_file(path: str | os.PathLike) -> bool:
    """Says whether a path is that of a file of a runtime, by its ending."""
    return _ending(path) in RUNTIMES


def labels_path(path: str | os.PathLike) -> str:
    """Returns where the labels of a file of a runtime are."""
    return os.fspath(path) + LABELS_ENDING


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fit_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Stretches an image uint8 [h, w, 3] to (height, width), bilinearly."""
    if image.shape[:2] == tuple(size):
        return image
    # Without antialiasing a photograph made ten times smaller is noise.
    resized = tf.image.resize(image, size, antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8).numpy()


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


def _object(text: bytes) -> dict:
    """JSON of an object.

    Raises:
      ValueError: it is none.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("its lists are nested without end") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected names and values. Received: {text[:40]!r}")
    return value


def _ending(path) -> str:
    return os.path.splitext(os.fspath(path))[1].lower()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing: expected a file of export.py --format=tflite or onnx, "
            f"and beside it the same name with {LABELS_ENDING} after it."
        ) from error
