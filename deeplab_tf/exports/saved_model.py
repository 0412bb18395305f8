"""Exports for TF Serving: written beside, checked against the Keras model, renamed.

A server that polls the model's folder sees a version whole or not at all. BatchNorm is
folded into the convolutions. Weights are variables; as constants of the graph they are
5 to 15 % quicker, and take four times the memory and more: TensorFlow keeps many copies
(docs/serving.md has the figures).
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.exports.agreement import (
    Agreement,
    Bound,
    example_images,
    logits_function,
    share_of_best,
)
from deeplab_tf.exports.signatures import MAX_PIXELS, SIGNATURES, make_signatures
from deeplab_tf.exports.warmup import check_serving_api, write_warmup
from deeplab_tf.files import sole_writer_in
from deeplab_tf.inference.padding import MEAN_COLOR, mean_color_of
from deeplab_tf.inference.saved_models import (
    LABELS_FILE,
    load_saved_model,
    next_version,
)
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.networks.convolutions import graph_for_any_processor
from deeplab_tf.networks.folding import freeze, inference_graph

_TEMPORARY = ".export-"  # how names begin that TF Serving ignores
_UNWRITABLE = re.compile("No space left|File too large|Read-only|quota", re.I)


# Rounding is 1e-6 in float32 on CPUs; a GPU computes convolutions in TF32, which
# rounds at 1e-3. bfloat16 has 8 bits of precision, float16 has 11; trained networks
# differ less than those of random weights, which these bounds let pass too.
BOUNDS = {
    "float32": Bound(2e-3, 0.999),
    "float16": Bound(0.1, 0.99),
    "bfloat16": Bound(0.4, 0.97),
}


def export_model(
    model: keras.Model,
    labels: Labels,
    output_dir: str | os.PathLike,
    version: int | None = None,
    *,
    optimized: keras.Model | None = None,
    precision: str = "float32",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    constants: bool = False,
    max_pixels: int = MAX_PIXELS,
    images: Sequence[np.ndarray] = (),
    about: Mapping | None = None,
) -> tuple[str, Agreement]:
    """Writes `<output_dir>/<version>/`, checked against the Keras model.

    It is written beside, under a name that TF Serving ignores, reloaded, compared and
    renamed; after a failure nothing is left.

    Args:
      model: Keras model in float32: image float32 [B, h, w, 3] in 0..255 -> logits
        float32 [B, h, w, classes].
      labels: what the classes are called.
      output_dir: the model's folder for TF Serving; made where needed.
      version: positive integer; None is one more than the highest there.
      optimized: the same network in the precision to serve; None is `model`.
      precision: of `optimized`, a key of `BOUNDS`.
      scales: factors that the server runs each image at; see `Segmenter`.
      flip: whether it runs each mirrored, too.
      constants: whether weights are constants of the graph.
      max_pixels: larger images are refused by the graph.
      images: uint8 [height, width, 3] each, to compare on; the first one or two warm
        the server up. None given takes drawn ones.
      about: what the server's metadata tell of the model, for JSON.

    Returns:
      (path of the version's folder, what the comparison found).

    Raises:
      FileExistsError: the version exists.
      InUse: another process exports into the same folder.
      OSError: it cannot be written.
      ImportError: tensorflow-serving-api is not installed.
      ValueError: version is not positive, another precision, or labels that do not fit
        the model.
      RuntimeError: the reloaded model answers differently.
    """
    if precision not in BOUNDS:
        raise ValueError(
            f"precision must be one of {', '.join(BOUNDS)}. Received: {precision}"
        )
    check_labels(labels, model)
    check_serving_api()
    if version is not None and version < 1:
        raise ValueError(f"version must be a positive integer. Received: {version}")
    images = list(images) or example_images()
    with sole_writer_in(output_dir, "export"), _full_disk_named(output_dir):
        path = _free_path(output_dir, version)
        with _temporary_folder(output_dir) as temporary, graph_for_any_processor():
            served = model if optimized is None else optimized
            logits_of = freeze(served) if constants else inference_graph(served)
            segmenter = Segmenter(logits_of, scales, flip, labels=labels)
            about = {**(about or {}), "precision": precision}
            about.update(scales=segmenter.scales, flip=flip)
            described = {
                **dataclasses.asdict(labels),
                MEAN_COLOR: mean_color_of(model),
            }
            signatures = make_signatures(segmenter, about, max_pixels)
            _write(signatures, logits_of, described, temporary)
            # With constants each holds the weights several times, in cycles.
            del signatures
            gc.collect()
            agreement = compare_with_model(
                temporary, logits_of, model, images, BOUNDS[precision], scales, flip
            )
            write_warmup(temporary, images[:2])
            os.rename(temporary, path)
    return path, agreement


def _free_path(output_dir, version: int | None) -> str:
    """Returns the folder of a version that is not there yet."""
    version = next_version(output_dir) if version is None else version
    path = os.path.join(output_dir, str(version))
    if os.path.exists(path):
        raise FileExistsError(
            f"{path} exists. Give another --version, or none for the next free one."
        )
    return path


@contextlib.contextmanager
def _full_disk_named(output_dir) -> Iterator[None]:
    """Makes one sentence of what TensorFlow says where it cannot write.

    Raises:
      OSError: as above.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not _UNWRITABLE.search(error.message):
            raise
        reason = error.message.rpartition("; ")[2].splitlines()[0]
        raise OSError(
            f"The export cannot be written to {os.fspath(output_dir)}: {reason}. No "
            "version was added. Make room on the disk, then run again."
        ) from error


def compare_with_model(
    saved_model: str | os.PathLike,
    logits_of: Callable[[tf.Tensor], tf.Tensor],
    model: keras.Model,
    images: Sequence[np.ndarray],
    bound: Bound,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Agreement:
    """Asks all signatures of a SavedModel and compares them with the Keras model.

    Args:
      saved_model: folder written by `export_model`.
      logits_of: what it serves: image float32 [B, h, w, 3] -> logits.
      model: the Keras model in float32.
      images: uint8 [height, width, 3] each.
      bound: what is still rounding.
      scales, flip: of the export.

    Raises:
      RuntimeError: logits or classes differ by more.
    """
    signatures = load_saved_model(saved_model).signatures
    expected_logits = logits_function(model)
    reference = Segmenter(model, scales, flip)
    differences, shares = [], []
    for image in images:
        batch = tf.constant(image[None], tf.float32)
        expected = expected_logits(batch).numpy()
        difference = np.abs(logits_of(batch).numpy() - expected)
        differences.append(difference.max() / max(1, np.abs(expected).max()))
        if reference.averages:
            probabilities = reference.probabilities(batch)
        else:  # the model has already run
            probabilities = tf.nn.softmax(expected).numpy()
        for classes in _served_classes(signatures, image):
            shares.append(share_of_best(classes, probabilities[0]))
    logits, classes = float(np.max(differences)), float(np.min(shares))
    # Not `>`: that would let NaN pass.
    if not (logits <= bound.logits and classes >= bound.agreement):
        raise RuntimeError(
            "The reloaded model does not answer as the Keras model does: logits differ "
            f"by up to {logits:.2g} of the largest (bound {bound.logits:g}), and "
            f"{classes:.2%} of the pixels have its class (bound "
            f"{bound.agreement:.1%})."
        )
    return Agreement(logits, classes, len(images))


def _served_classes(signatures, image: np.ndarray) -> Iterator[np.ndarray]:
    """Classes [h, w] as each signature that takes images gives them."""
    for name, signature in SIGNATURES.items():
        if signature.read_classes:
            value = tf.convert_to_tensor(signature.request(image))
            answer = signatures[name](**{signature.input.name: value})
            yield signature.read_classes(answer)


def _write(signatures: Mapping, logits_of, described: dict, path: str) -> None:
    module = tf.Module()
    # The model itself is not attached: Keras 2 would save a function of every layer.
    module.variables_of_model = logits_of.get_concrete_function().variables
    with tempfile.TemporaryDirectory() as folder:
        labels_path = os.path.join(folder, LABELS_FILE)
        with open(labels_path, "w", encoding="utf-8") as file:
            file.write(json.dumps(described, indent=2) + "\n")
        module.labels = tf.saved_model.Asset(labels_path)
        # Gradients are of no use to a server, and ours hold space-to-batch.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, path, signatures=signatures, options=options)


@contextlib.contextmanager
def _temporary_folder(output_dir) -> Iterator[str]:
    """Gives a path inside output_dir, and removes what is left there.

    So does it with what exports left that were killed: this one is the only one.
    """
    for left in glob.glob(
        os.path.join(glob.escape(os.fspath(output_dir)), f"{_TEMPORARY}*")
    ):
        shutil.rmtree(left, ignore_errors=True)
    temporary = os.path.join(output_dir, f"{_TEMPORARY}{os.getpid()}")
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_labels(labels: Labels, model: keras.Model) -> None:
    """Refuses labels of another number of classes than a model's.

    Raises:
      ValueError: they do not fit.
    """
    output = model.output["logits"] if isinstance(model.output, dict) else model.output
    num_classes = output.shape[-1]
    counts = (len(labels.class_names), len(labels.colormap))
    if counts != (num_classes, num_classes):
        raise ValueError(
            f"The model has {num_classes} classes and needs a name and a colour for "
            f"each. Received: {counts[0]} names and {counts[1]} colours"
        )
