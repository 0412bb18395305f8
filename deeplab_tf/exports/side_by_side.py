"""Exports of a run side by side: what each weighs, how long it takes, what it keeps."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from deeplab_tf.evaluation.metrics import (
    class_counts,
    confusion_matrix,
    mean_iou_of_counts,
)
from deeplab_tf.inference.runtimes import load_network, network_paths
from deeplab_tf.inference.saved_models import load_saved_model
from deeplab_tf.labels import Labels

KERAS = "Keras"
BASE = "SavedModel float32"
LOST_MEAN_IOU = 0.01  # that an export may lose and still be advised
LOST_PIXELS = 0.02  # where there are no labels
_WARM_UP = 3


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an export does on this machine.

    Attributes:
      path: of the export; "" is the Keras model.
      megabytes: of its files; NaN for the Keras model.
      seconds: of each image.
      same_class: share of the pixels that have the Keras model's class.
      mean_iou: over the images' labels; NaN where there are none.
    """

    path: str
    megabytes: float
    seconds: Sequence[float]
    same_class: float
    mean_iou: float = math.nan


def measure_all(
    paths: Mapping[str, str],
    examples: Sequence[tuple[np.ndarray, np.ndarray | None]],
    predict: Callable[[np.ndarray], np.ndarray],
    labels: Labels,
) -> dict[str, Measured]:
    """Runs each image through all exports before the next.

    Other work on the machine touches all of them alike, so that ratios hold.

    Args:
      paths: title -> path of an export, `BASE` among them.
      examples: image uint8 [h, w, 3], and its label, int [h, w] or None.
      predict: the Keras model's: image -> classes uint8 [h, w].
      labels: of the run.

    Returns:
      title -> what was found; the Keras model is the first.
    """
    runs = {KERAS: predict, **{title: runner(path) for title, path in paths.items()}}
    seconds = {title: [] for title in runs}
    same = {title: [] for title in runs}
    count = len(labels.class_names)
    confusions = {title: np.zeros([count, count], np.int64) for title in runs}
    for run in runs.values():
        for _ in range(_WARM_UP):
            run(examples[0][0])
    for image, label in tqdm(examples, disable=None):
        classes = {}
        for title, run in runs.items():
            start = time.perf_counter()
            classes[title] = run(image)
            seconds[title].append(time.perf_counter() - start)
        for title, found in classes.items():
            same[title].append((found == classes[KERAS]).mean())
            if label is not None:
                confusions[title] += confusion_matrix(
                    label, found, count, labels.ignore_label
                )
    return {
        title: Measured(
            paths.get(title, ""),
            megabytes(paths[title]) if title in paths else math.nan,
            seconds[title],
            float(np.mean(same[title])),
            float(mean_iou_of_counts(class_counts(confusions[title]))),
        )
        for title in runs
    }


def runner(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Loads an export: image uint8 [h, w, 3] -> classes uint8 [h, w]."""
    if not os.path.isdir(path):
        network = load_network(path)
        return lambda image: network.classes(image[None])[0]
    loaded = load_saved_model(path)  # its variables live as long as it does

    def segment(image):
        signature = loaded.signatures["serve_images"]
        return signature(images=tf.constant(image[None]))["classes"].numpy()[0]

    return segment


def megabytes(path: str) -> float:
    """Of a network's files, or of all files in a SavedModel's folder."""
    if os.path.isdir(path):
        walked = os.walk(path)
        files = [os.path.join(inside, name) for inside, _, ns in walked for name in ns]
    else:
        files = network_paths(path)
    return sum(map(os.path.getsize, files)) / 1e6


def as_table(measured: Mapping[str, Measured]) -> str:
    """Returns a Markdown table; times quicker are medians of the images' ratios."""
    lines = [
        "| | MB | ms | times quicker | same class | mean IoU |",
        "|---|---|---|---|---|---|",
    ]
    for title, each in measured.items():
        size = "" if math.isnan(each.megabytes) else f"{each.megabytes:.1f}"
        score = "" if math.isnan(each.mean_iou) else f"{100 * each.mean_iou:.2f}"
        lines.append(
            f"| {title} | {size} | {1e3 * statistics.median(each.seconds):.1f} | "
            f"{times_quicker(measured[BASE], each):.2f} | {each.same_class:.3%} | "
            f"{score} |"
        )
    return "\n".join(lines)


def times_quicker(base: Measured, other: Measured) -> float:
    return statistics.median(a / b for a, b in zip(base.seconds, other.seconds))


def advice(measured: Mapping[str, Measured]) -> str:
    """Names the quickest that keeps the scores: of all, and for TF Serving."""
    kept = {title: each for title, each in measured.items() if _keeps(each, measured)}
    lines = []
    for purpose, wanted in (
        ("Take this one", lambda each: each.path),
        ("For TF Serving", lambda each: os.path.isdir(each.path)),
    ):
        fit = {title: each for title, each in kept.items() if wanted(each)}
        title = max(fit, key=lambda title: times_quicker(measured[BASE], fit[title]))
        quicker = times_quicker(measured[BASE], fit[title])
        lines.append(
            f"{purpose}: {title}, {quicker:.2f} times as quick as {BASE}: "
            f"{fit[title].path}"
        )
    return "\n".join(lines)


def _keeps(each: Measured, measured: Mapping[str, Measured]) -> bool:
    if math.isnan(each.mean_iou):
        return each.same_class >= 1 - LOST_PIXELS
    return each.mean_iou >= measured[KERAS].mean_iou - LOST_MEAN_IOU
