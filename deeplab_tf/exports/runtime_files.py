"""A Keras model as files of another runtime: converted, compared, then named.

`converters.py` makes their content, `inference/runtimes.py` runs them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.exports.agreement import (
    Agreement,
    Bound,
    example_images,
    logits_function,
)
from deeplab_tf.exports.calibration import others
from deeplab_tf.exports.converters import (
    CONVERTERS,
    FORMAT_OF,
    ConversionError,
    Examples,
    convert,
    input_shape,
)
from deeplab_tf.exports.saved_model import check_labels
from deeplab_tf.files import sole_writer_in, write_together
from deeplab_tf.inference.padding import MEAN_COLOR, mean_color_of
from deeplab_tf.inference.runners import RUNNERS, RuntimeRefusal
from deeplab_tf.inference.runtimes import (
    PREVIOUS,
    RuntimeNetwork,
    fit_image,
    labels_path,
    network_paths,
    read_contents,
    read_described,
    sha256,
)
from deeplab_tf.labels import Labels
from deeplab_tf.networks.folding import inference_graph


def convert_model(
    model: keras.Model,
    labels: Labels,
    path: str | os.PathLike,
    precision: str = "float32",
    input_size: tuple[int, int] | None = None,
    *,
    calibration: Sequence[np.ndarray] = (),
    images: Sequence[np.ndarray] = (),
    about: Mapping | None = None,
) -> Agreement:
    """Writes a network's files and their labels, checked against the Keras model.

    Args:
      model: Keras model in float32: image float32 [B, h, w, 3] in 0..255 -> logits
        float32 [B, h, w, classes].
      labels: what the classes are called.
      path: its ending is that of a format of `CONVERTERS`; what is there is replaced
        when all is done, the files and their labels as one.
      precision: a key of the format's bounds.
      input_size: (height, width) of the images that the file takes; None is any, of
        which "int8" knows none.
      calibration: uint8 [h, w, 3] each, for "int8": the ranges of the activations are
        those on these images.
      images: uint8 [h, w, 3] each, to compare on. None given takes drawn ones, and so
        do those of the calibration alone.
      about: what the labels' file tells of the model, for JSON.

    Returns:
      What the comparison found.

    Raises:
      ImportError: a package that the format needs is not installed.
      InUse: another process writes the same file.
      OSError: it cannot be written.
      ValueError: a precision that the format has not, int8 without size or images, or
        labels that do not fit the model.
      RuntimeError: it cannot be converted, or answers differently.
    """
    path = os.fspath(path)
    ending = os.path.splitext(path)[1]
    format_ = FORMAT_OF.get(ending, ending[1:])
    check_converter(format_, precision)
    _check_calibration(precision, input_size, calibration)
    check_labels(labels, model)
    images = others(images, calibration) or example_images()
    examples = Examples()
    if precision == "int8":
        fitted = [
            [fit_image(image, input_size) for image in each]
            for each in (calibration, images)
        ]
        examples = Examples(*fitted)
    logits = inference_graph(model, input_shape(format_, input_size))
    try:
        contents = convert(logits, format_, precision, input_size, examples)
        network = RuntimeNetwork(RUNNERS[ending](*contents), labels)
    except (ConversionError, RuntimeRefusal) as error:
        raise RuntimeError(
            f"{model.name} cannot be converted to {format_} in {precision} for "
            f"images of {input_size or 'any size'}: {error}. Give another --input_size "
            "or none, another --precision, or export a SavedModel."
        ) from error
    bound = CONVERTERS[format_].bounds[precision]
    agreement = compare_with_model(network, model, images, bound)
    described = {
        **dataclasses.asdict(labels),
        MEAN_COLOR: mean_color_of(model),
        "model": {**(about or {}), "precision": precision, "input_size": input_size},
        "sha256": sha256(*contents),
    }
    folder, name = os.path.split(os.path.abspath(path))
    with sole_writer_in(folder, name):
        _write_files(path, contents, described)
    return agreement


def _write_files(path: str, contents: Sequence[bytes], described: dict) -> None:
    """Writes a network's files and their labels, which change as one.

    No system renames two files at once: in between the labels describe both the network
    that is there and the one that comes, and whoever reads them takes those of the one
    that is there (`runtimes.load_network`). Of OpenVINO's two files a mixture, which
    only a killed process leaves, fits neither and is refused.
    """
    before = read_described(path)
    paths = network_paths(path)
    contents_before = read_contents(path) if before else ()
    texts = [
        (json.dumps(each, indent=2) + "\n").encode()
        for each in ({**described, PREVIOUS: before}, before, described)
    ]
    both, old, new = texts
    labels = labels_path(path)
    write_together({labels: both if before else new})
    try:
        write_together(dict(zip(paths, contents)))
    except BaseException:
        if before:
            write_together({**dict(zip(paths, contents_before)), labels: old})
        else:
            for each in (*paths, labels):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(each)
        raise
    with contextlib.suppress(OSError):  # those of both are right as well
        write_together({labels: new})


def compare_with_model(
    network: RuntimeNetwork,
    model: keras.Model,
    images: Sequence[np.ndarray],
    bound: Bound,
) -> Agreement:
    """Compares the classes of a network under its runtime with the Keras model's.

    Args:
      network: of the file.
      model: the Keras model in float32.
      images: uint8 [h, w, 3] each; stretched to the network's size where it has one.
      bound: what is still rounding.

    Returns:
      The comparison; its `logits` is as in `Converter.bounds`, and pixels whose logits
      tie within 1e-4 of the largest count as of the same class.

    Raises:
      RuntimeError: they differ by more than bound.
    """
    logits_of = logits_function(model)
    worst, shares = 0.0, []
    for image in images:
        image = fit_image(image, network.size) if network.size else image
        logits = logits_of(tf.constant(image[None], tf.float32)).numpy()[0]
        chosen = network.classes(image[None])[0, ..., None].astype(np.intp)
        below = logits.max(-1) - np.take_along_axis(logits, chosen, -1)[..., 0]
        below = below / max(1.0, np.abs(logits).max())
        worst = max(worst, float(below.max()))
        shares.append(float((below <= 1e-4).mean()))
    agreement = Agreement(worst, min(shares), len(images), tells_logits=False)
    # Not `>`: that would let NaN pass.
    if not (worst <= bound.logits and agreement.classes >= bound.agreement):
        raise RuntimeError(
            "The converted model does not answer as the Keras model does: "
            f"{agreement.classes:.2%} of the pixels have its class (bound "
            f"{bound.agreement:.1%}), and its logit of a chosen class is up to "
            f"{worst:.2g} of the largest below its best (bound {bound.logits:g})."
        )
    return agreement


def check_converter(format_: str, precision: str) -> None:
    """Says before a conversion begins what cannot be, or what it lacks.

    Args:
      format_: a key of `CONVERTERS`.
      precision: a key of its bounds.

    Raises:
      ImportError: a package is not installed.
      ValueError: no such format, or a precision that it has not.
    """
    if format_ not in CONVERTERS or precision not in CONVERTERS[format_].bounds:
        known = ", ".join(
            f"{name} in {', '.join(each.bounds)}" for name, each in CONVERTERS.items()
        )
        raise ValueError(f"Expected {known}. Received: {format_} in {precision}")
    packages = CONVERTERS[format_].needed_packages(precision)
    if not all(map(importlib.util.find_spec, packages)):
        raise ImportError(
            f"--format={format_} needs {' and '.join(packages)}, and they are not all "
            f"installed. Run: pip install {' '.join(packages)}"
        )


def _check_calibration(precision, input_size, calibration) -> None:
    if precision == "int8" and not (input_size and calibration):
        raise ValueError(
            "int8 needs a fixed input size, and images to take the ranges of the "
            f"activations from. Received: size {input_size}, {len(calibration)} images"
        )
