"""Networks in files of other runtimes: .tflite, .onnx, and .xml with .bin.

`classes = load_network("deeplab_v3_int8.tflite").classes(images)`

`exports/runtime_files.py` writes them, `runners.py` runs them. Beside NAME.tflite lies
NAME.tflite.labels.json: class names and colours, what the file was made of, and the
SHA-256 of its content (of OpenVINO's two files, one after the other).
"""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import tensorflow as tf

from deeplab_tf.inference.network import Network, as_uint8
from deeplab_tf.inference.padding import mean_color_in
from deeplab_tf.inference.runners import RUNNERS
from deeplab_tf.labels import Labels

LABELS_ENDING = ".labels.json"
PREVIOUS = "previous"  # key of the labels of the file that is being replaced


class RuntimeNetwork(Network):
    """A network under its runtime, for images of any size; it tells classes alone.

    Where the file's size is fixed, other images are stretched to it, bilinearly, and
    the classes stretched back, each pixel taking that of the nearest.

    Args:
      runner: of `RUNNERS`.
      labels: what the classes are called.
      mean_color: see `Network`.
    """

    traceable = False

    def __init__(
        self,
        runner,
        labels: Labels,
        mean_color: tuple[float, float, float] | None = None,
    ):
        self.size = runner.size
        self.labels = labels
        self.mean_color = mean_color
        self._runner = runner

    def classes(self, images) -> np.ndarray:
        """Returns classes uint8 [B, h, w] of RGB images [B, h, w, 3] in 0..255.

        Raises:
          ValueError: a class that the labels do not name.
        """
        images = as_uint8(images)
        own = images.shape[1:3]
        fitted = [fit_image(image, self.size or own) for image in images]
        classes = np.concatenate([self._runner(image[None]) for image in fitted])
        self._check_named(classes)
        if self.size in (None, own):
            return classes
        return tf.image.resize(classes[..., None], own, "nearest").numpy()[..., 0]

    def _check_named(self, classes: np.ndarray) -> None:
        named = len(self.labels.class_names) if self.labels else 256
        if classes.max(initial=0) >= named:
            raise ValueError(
                f"The file finds class {classes.max()}, and the labels beside it name "
                f"{named} classes, from 0 on: they were edited, or are of another "
                "export. Export again."
            )

    def logits(self, images):
        self.check_probabilities()

    def check_probabilities(self):
        raise ValueError(
            "A .tflite, .onnx or .xml file answers with classes, and scales, flip, "
            "windows, the CRF and --save=probabilities need probabilities. Give a "
            "--workdir, or the folder of a SavedModel."
        )


def load_network(path: str | os.PathLike) -> RuntimeNetwork:
    """Loads a .tflite, .onnx or .xml file of export.py, and what lies beside it.

    Raises:
      FileNotFoundError: a file or its labels are not there.
      ValueError: damaged, not that of its labels, or there is no runtime for it.
    """
    path = os.fspath(path)
    contents, text = read_contents(path), _read(labels_path(path))
    try:
        described = _object(text)
        # While a file is exported anew there are labels of both.
        candidates = [described, described.get(PREVIOUS) or described]
        digest = sha256(*contents)
        fitting = [each for each in candidates if each.get("sha256") in (None, digest)]
        text = json.dumps((fitting or candidates)[0])
        labels = Labels.from_json(text)
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{labels_path(path)} is not the labels of an export: {error}. Copy or "
            "export all again."
        ) from error
    # Told before a runtime reads it: that of TensorFlow 2.15 ends the process.
    if not fitting:
        raise ValueError(
            f"{path} is not the file that {labels_path(path)} was written with: it is "
            "damaged, or another. Copy or export all again."
        )
    try:
        runner = RUNNERS[_ending(path)](*contents)
    except ValueError as error:
        raise ValueError(f"{path} cannot be run. {error}") from error
    return RuntimeNetwork(runner, labels, mean_color_in(text))


def read_described(path: str | os.PathLike) -> dict | None:
    """Returns what the labels beside a file tell of the file that is there.

    Returns:
      The fields of the labels' file; None where there is no such file, or no labels of
      it.
    """
    try:
        contents, described = read_contents(path), _object(_read(labels_path(path)))
    except (OSError, ValueError):
        return None
    for each in (described, described.pop(PREVIOUS, None)):
        if isinstance(each, dict) and each.get("sha256") in (None, sha256(*contents)):
            return each
    return None


def is_runtime_file(path: str | os.PathLike) -> bool:
    """Says whether a path is that of a file of a runtime, by its ending."""
    return _ending(path) in RUNNERS


def labels_path(path: str | os.PathLike) -> str:
    """Returns where the labels of a file of a runtime are."""
    return os.fspath(path) + LABELS_ENDING


def network_paths(path: str | os.PathLike) -> list[str]:
    """Returns the files in which a network is, the one that is named first."""
    stem = os.path.splitext(os.fspath(path))[0]
    return [os.fspath(path), *(stem + e for e in RUNNERS[_ending(path)].endings[1:])]


def read_contents(path: str | os.PathLike) -> list[bytes]:
    """Returns what `network_paths` hold.

    Raises:
      FileNotFoundError: one is not there.
    """
    return [_read(each) for each in network_paths(path)]


def sha256(*contents: bytes) -> str:
    """Returns the digest of contents, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def fit_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Stretches an image uint8 [h, w, 3] to (height, width), bilinearly."""
    if image.shape[:2] == tuple(size):
        return image
    # Without antialiasing a photograph made ten times smaller is noise.
    resized = tf.image.resize(image, size, antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8).numpy()


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
            f"{path} is missing: expected a file of export.py --format=tflite, onnx or "
            f"openvino, and beside it the same name with {LABELS_ENDING} after it."
        ) from error
