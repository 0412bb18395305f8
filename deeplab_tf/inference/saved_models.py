"""SavedModels on disk: the version TF Serving would take, its labels, loading it."""

from __future__ import annotations

import logging
import os

import tensorflow as tf
from absl import logging as absl_logging
from tensorflow.core.protobuf import saved_model_pb2

from deeplab_tf.command_names import call_of
from deeplab_tf.inference.network import Network, logits_of
from deeplab_tf.inference.padding import mean_color_in
from deeplab_tf.inference.signature_names import (
    IMAGES,
    SERVE_IMAGES,
    SERVE_PROBABILITIES,
)
from deeplab_tf.labels import Labels
from deeplab_tf.networks.convolutions import has_native_gradient

LABELS_FILE = "labels.json"


class SavedModelNetwork(Network):
    """A SavedModel of `export_model`, loaded.

    It takes whole numbers: an image scaled to another size is rounded to them.

    Args:
      path: a version's folder, or the one above it.

    Raises:
      FileNotFoundError: there is no exported model.
      ValueError: its labels are damaged, or of another number of classes.
    """

    def __init__(self, path: str | os.PathLike):
        path = find_version(path)
        self.labels = read_labels(path)
        self.mean_color = mean_color_in(_labels_text(path))
        self._loaded = load_saved_model(path)  # owns the variables
        self._check_labels(path)

    def _check_labels(self, path: str) -> None:
        outputs = self._loaded.signatures[SERVE_PROBABILITIES].structured_outputs
        (count,) = {output.shape[-1] for output in outputs.values()}
        named = len(self.labels.class_names)
        if count not in (None, named):
            raise ValueError(
                f"{_labels_path(path)} names {named} classes, and the network has "
                f"{count}: it was edited, or is of another export. Export again."
            )

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        return logits_of(self._ask(SERVE_PROBABILITIES, images))

    def classes(self, images: tf.Tensor) -> tf.Tensor:
        # Its own arg max: rounded probabilities may tie where logits do not.
        return self._ask(SERVE_IMAGES, images)

    def _ask(self, signature: str, images: tf.Tensor) -> tf.Tensor:
        rounded = tf.saturate_cast(tf.round(images), tf.uint8)
        answer = self._loaded.signatures[signature](**{IMAGES: rounded})
        (output,) = answer.values()
        return output


def next_version(output_dir: str | os.PathLike) -> int:
    """Returns one more than the highest version in a folder; 1 where there is none."""
    return max(_versions(output_dir), default=0) + 1


def find_version(path: str | os.PathLike) -> str:
    """Returns the folder of a SavedModel: `path` or the highest version inside it.

    Raises:
      FileNotFoundError: there is no SavedModel.
    """
    path = os.fspath(path)
    versions = [os.path.join(path, str(number)) for number in _versions(path)]
    for folder in [path, *reversed(versions)]:
        if os.path.isfile(os.path.join(folder, "saved_model.pb")):
            return folder
    raise FileNotFoundError(
        f"{path} holds no exported model. "
        f"Run: {call_of('export')} --workdir=... --output_dir=..."
    )


def read_labels(saved_model: str | os.PathLike) -> Labels:
    """Reads the labels out of the folder of a SavedModel of `export_model`.

    Raises:
      FileNotFoundError: the SavedModel was not written by `export_model`.
      ValueError: its labels are damaged.
    """
    try:
        return Labels.from_json(_labels_text(saved_model))
    except ValueError as error:
        raise ValueError(
            f"{_labels_path(saved_model)} is not the labels of an export: {error}. "
            "Export again."
        ) from error


def _labels_path(saved_model: str | os.PathLike) -> str:
    return os.path.join(saved_model, "assets", LABELS_FILE)


def _labels_text(saved_model: str | os.PathLike) -> str:
    path = _labels_path(saved_model)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path} is missing: expected a SavedModel written by export.py."
        )
    with open(path, encoding="utf-8") as file:
        return file.read()


def load_saved_model(path: str | os.PathLike):
    """`tf.saved_model.load`, without its warning that there are no gradients.

    Exports of earlier versions may have grouped convolutions, which TensorFlow without
    oneDNN cannot run once its optimizer has fused them: it is told not to, with a
    warning, as that is slow.
    """
    if not has_native_gradient() and _has_grouped_convolutions(path):
        logging.getLogger(__name__).warning(
            "%s was exported by an earlier version, where TensorFlow used oneDNN. Here "
            "it does not, and the export runs slowly. Export it again, or set "
            "TF_ENABLE_ONEDNN_OPTS=1.",
            os.fspath(path),
        )
        tf.config.optimizer.set_experimental_options({"remapping": False})
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        return tf.saved_model.load(os.fspath(path))
    finally:
        absl_logging.set_verbosity(verbosity)


def _has_grouped_convolutions(path: str | os.PathLike) -> bool:
    """Says whether a SavedModel runs depthwise kernels, reshaped, by `Conv2D`."""
    saved_model = saved_model_pb2.SavedModel()
    with open(os.path.join(path, "saved_model.pb"), "rb") as file:
        saved_model.ParseFromString(file.read())
    for function in saved_model.meta_graphs[0].graph_def.library.function:
        operations = {node.name: node.op for node in function.node_def}
        for node in function.node_def:
            if node.op == "Conv2D":
                kernel, _, _ = node.input[1].partition(":")
                if operations.get(kernel) == "Reshape":
                    return True
    return False


def _versions(folder: str | os.PathLike) -> list[int]:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(name) for name in names if name.isdecimal())
