"""All scores of a split: images go in one by one, plain numbers come out.

evaluation = Evaluation(class_names)
for name, label, classes in ...:
    evaluation.add(name, label, classes)
results = evaluation.results()
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Sequence

import numpy as np

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.evaluation import boundaries, intervals, metrics
from deeplab_tf.files import atomic_write
from deeplab_tf.strangers_words import table_cell

MEAN_RULE = (
    "Classes that occur neither in the labels nor in the predictions are left out of "
    "the mean IoU and of the mean over boundaries; a class that is only predicted "
    "counts with an IoU of 0. The mean accuracy is over the classes of the labels."
)
INTERVAL_LEVEL = 0.95


class Evaluation:
    """Scores over images, each at its own size.

    Of an image only counts per class are kept.

    Args:
      class_names: one name per class, all different.
      ignore_label: id of label pixels that are not counted.
      trimap_widths: see `boundaries.trimap_confusion`.
      boundary_tolerance: see `boundaries.boundary_f_scores`.

    Attributes:
      confusion: int64 [num_classes, num_classes] over all images; rows are labels.
      trimap: int64 [widths, num_classes, num_classes], the same in each band.
      names: of the images, in the order they came in.

    Raises:
      ValueError: two classes of one name.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        ignore_label: int = IGNORE_LABEL,
        trimap_widths: Sequence[int] = boundaries.TRIMAP_WIDTHS,
        boundary_tolerance: float = boundaries.BOUNDARY_TOLERANCE,
    ):
        self.class_names = tuple(class_names)
        twice = {name for name in class_names if self.class_names.count(name) > 1}
        if twice:
            raise ValueError(
                "Expected a name of its own for each class. "
                f"Received more than once: {', '.join(sorted(twice))}"
            )
        self.ignore_label = ignore_label
        self.trimap_widths = tuple(trimap_widths)
        self.boundary_tolerance = boundary_tolerance
        num_classes = len(self.class_names)
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.trimap = np.zeros((len(self.trimap_widths), *self.confusion.shape), int)
        self.names: list[str] = []
        self._counts: list[np.ndarray] = []
        self._boundary_f: list[np.ndarray] = []

    def add(self, name: str, label: np.ndarray, classes: np.ndarray) -> float:
        """Counts one image.

        Args:
          name: of the image; `compare` finds it by this.
          label: integers [height, width], in [0, num_classes) or the ignore label.
          classes: integers of the same shape, in [0, num_classes): the prediction.

        Returns:
          Mean IoU of this image over the classes that it holds or is predicted to
          hold; NaN where all of it is void.

        Raises:
          ValueError: shapes differ, or an id is out of range. Nothing is counted then.
        """
        arguments = (label, classes, len(self.class_names), self.ignore_label)
        confusion = metrics.confusion_matrix(*arguments)
        self.confusion += confusion
        self.trimap += boundaries.trimap_confusion(*arguments, self.trimap_widths)
        boundary_f = boundaries.boundary_f_scores(*arguments, self.boundary_tolerance)
        counts = metrics.class_counts(confusion)
        self.names.append(name)
        self._counts.append(counts)
        self._boundary_f.append(boundary_f)
        return float(metrics.mean_iou_of_counts(counts))

    def results(self, draws: int = 1000, seed: int = 0) -> dict:
        """Returns all scores as plain numbers for JSON, None where undefined.

        The order of the images makes no difference: they are sorted by name.

        Args:
          draws: of the bootstrap.
          seed: of the bootstrap.

        Returns:
          `summarize`'s scores, and
          "images": how many.
          "mean_iou_interval": "low", "high" of the bootstrap's middle "level" over the
            images, its "draws" and "seed".
          "boundary_f": mean over the classes of "boundary_f" of each in "per_class",
            which is the mean over the images where it is defined; "boundary_tolerance".
          "trimap": "widths" of the bands, "mean_iou" and "pixels" (counted) of each.
          "confusion_matrix": `[num_classes][num_classes]`, rows are labels.
          "per_image": "names", "mean_iou" of each, and its pixels per class:
            "intersection", "label", "prediction" `[images][num_classes]`.
        """
        num_classes = len(self.class_names)
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        counts = np.reshape(self._counts, (-1, 3, num_classes))[order]
        boundary_f = np.reshape(self._boundary_f, (-1, num_classes))[order]
        class_boundary_f = metrics.mean_of_defined(boundary_f.T)
        results = summarize(self.confusion, self.class_names)
        for name, score in zip(self.class_names, class_boundary_f):
            results["per_class"][name]["boundary_f"] = _number(score)
        return {
            **results,
            "images": len(self.names),
            "mean_iou_interval": _interval(_scores(counts, draws, seed), draws, seed),
            "boundary_f": _number(metrics.mean_of_defined(class_boundary_f)),
            "boundary_tolerance": self.boundary_tolerance,
            "trimap": {
                "widths": list(self.trimap_widths),
                "mean_iou": [_number(metrics.mean_iou(band)) for band in self.trimap],
                "pixels": self.trimap.sum((1, 2)).tolist(),
            },
            "confusion_matrix": self.confusion.tolist(),
            "per_image": {
                "names": [self.names[index] for index in order],
                "mean_iou": [*map(_number, metrics.mean_iou_of_counts(counts))],
                "intersection": counts[:, 0].tolist(),
                "label": counts[:, 1].tolist(),
                "prediction": counts[:, 2].tolist(),
            },
        }


def summarize(confusion: np.ndarray, class_names: Sequence[str]) -> dict:
    """Returns a confusion matrix' scores as plain numbers; None where undefined.

    Args:
      confusion: int64 [num_classes, num_classes]; rows are labels.
      class_names: one name per class, all different.

    Returns:
      "mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou" in 0..1;
      "per_class": name -> "iou", "accuracy", "pixels" (of the labels) and
      "predicted_pixels"; "absent_classes", and "mean_rule": what the means do to them.
    """
    iou = metrics.per_class_iou(confusion)
    accuracy = metrics.per_class_accuracy(confusion)
    return {
        "mean_iou": _number(metrics.mean_iou(confusion)),
        "pixel_accuracy": _number(metrics.pixel_accuracy(confusion)),
        "mean_accuracy": _number(metrics.mean_accuracy(confusion)),
        "frequency_weighted_iou": _number(metrics.frequency_weighted_iou(confusion)),
        "per_class": {
            name: {
                "iou": _number(iou[index]),
                "accuracy": _number(accuracy[index]),
                "pixels": int(confusion[index].sum()),
                "predicted_pixels": int(confusion[:, index].sum()),
            }
            for index, name in enumerate(class_names)
        },
        "absent_classes": [n for n, score in zip(class_names, iou) if np.isnan(score)],
        "mean_rule": MEAN_RULE,
    }


def compare(results: dict, other: dict, draws: int = 1000, seed: int = 0) -> dict:
    """Compares two evaluations of the same images; both as `Evaluation.results`.

    The interval is that of the paired bootstrap: both are drawn the same images, so
    that what makes an image hard for both cancels out.

    Returns:
      "mean_iou" (of `other`), "difference" (of results to it), its "interval" as
      "mean_iou_interval"; "per_class": name -> "iou" (of `other`) and "difference";
      "trimap" of `other`.

    Raises:
      ValueError: `other` is something else, or has other images or classes.
    """
    check_comparable(other, list(results["per_class"]))
    _check_same_images(results, other)
    scores = _scores(_counts_of(results), draws, seed)
    scores = scores - _scores(_counts_of(other), draws, seed)
    classes = {name: row["iou"] for name, row in other["per_class"].items()}
    return {
        "mean_iou": other["mean_iou"],
        "difference": _difference(results["mean_iou"], other["mean_iou"]),
        "interval": _interval(scores, draws, seed),
        "per_class": {
            name: {
                "iou": iou,
                "difference": _difference(results["per_class"][name]["iou"], iou),
            }
            for name, iou in classes.items()
        },
        "trimap": other["trimap"],
    }


def check_comparable(other: dict, class_names: Sequence[str]) -> None:
    """Refuses what is no evaluation of these classes; `compare` also sees the images.

    Raises:
      ValueError: `other` is something else, or has other classes.
    """
    missing = {"per_class", "per_image", "mean_iou", "trimap"} - set(other)
    if missing:
        raise ValueError(
            "Expected an evaluation to compare with, as evaluate.py writes it. It "
            f"lacks: {', '.join(sorted(missing))}. Evaluate that model again."
        )
    if list(other["per_class"]) != list(class_names):
        raise ValueError(
            "Only evaluations of the same classes can be compared. Received: "
            f"{', '.join(class_names)} and {', '.join(other['per_class'])}"
        )


def _check_same_images(results: dict, other: dict) -> None:
    names, others = results["per_image"]["names"], other["per_image"]["names"]
    if names != others:
        only = sorted(set(names) ^ set(others)) or ["some more than once"]
        raise ValueError(
            "Only evaluations of the same images can be compared. Received: "
            f"{len(names)} and {len(others)} images; {len(only)} in one only, such as "
            f"{only[0]}"
        )
    if results["per_image"]["label"] != other["per_image"]["label"]:
        raise ValueError(
            "Only evaluations against the same labels can be compared. The images' "
            "names are the same, the pixels of their classes are not."
        )


def _counts_of(results: dict) -> np.ndarray:
    """int64 [images, 3, num_classes]."""
    images = results["per_image"]
    parts = (images["intersection"], images["label"], images["prediction"])
    return np.reshape(parts, (3, -1, len(results["per_class"]))).swapaxes(0, 1)


def _scores(counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    if not len(counts):
        return np.empty(0)
    return intervals.bootstrap_mean_iou(counts, draws, seed)


def _interval(scores: np.ndarray, draws: int, seed: int) -> dict:
    low, high = intervals.percentile_interval(scores, INTERVAL_LEVEL)
    return {
        "low": _number(low),
        "high": _number(high),
        "level": INTERVAL_LEVEL,
        "draws": draws,
        "seed": seed,
    }


def _difference(score: float | None, other: float | None) -> float | None:
    return None if score is None or other is None else score - other


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def table(results: dict) -> str:
    """Formats the scores for a terminal, in per cent."""
    means = {
        "mean IoU": results["mean_iou"],
        "boundary F": results["boundary_f"],
        "pixel accuracy": results["pixel_accuracy"],
        "mean accuracy": results["mean_accuracy"],
        "frequency-weighted IoU": results["frequency_weighted_iou"],
    }
    width = max(map(len, [*results["per_class"], *means]))
    lines = [f"{'class':{width}}    IoU  accuracy  boundary F        pixels"]
    for name, row in results["per_class"].items():
        lines.append(
            f"{name:{width}} {percent(row['iou'])} {percent(row['accuracy']):>9}"
            f" {percent(row['boundary_f']):>11} {row['pixels']:>13,}"
        )
    lines += [f"{name:{width}} {percent(score)}" for name, score in means.items()]
    lines[-len(means)] += f"  ({interval_text(results['mean_iou_interval'])})"
    trimap = results["trimap"]
    lines.append("mean IoU near boundaries, by pixels of the band:")
    lines.append("  " + " ".join(f"{each:6}" for each in trimap["widths"]))
    lines.append("  " + " ".join(map(percent, trimap["mean_iou"])))
    absent = results["absent_classes"]
    if absent:
        lines.append(f"Absent: {', '.join(absent)}. {results['mean_rule']}")
    return "\n".join(lines)


def comparison_table(comparison: dict) -> str:
    """Formats what `compare` found for a terminal, in per cent."""
    mean = {"iou": comparison["mean_iou"], "difference": comparison["difference"]}
    rows = {**comparison["per_class"], "mean IoU": mean}
    width = max(map(len, rows))
    lines = [f"{'compared':{width}}  other  difference"]
    for name, row in rows.items():
        difference = percent(row["difference"], "+")
        lines.append(f"{name:{width}} {percent(row['iou'])} {difference:>11}")
    lines[-1] += f"  ({interval_text(comparison['interval'], '+')})"
    return "\n".join(lines)


def percent(value: float | None, sign: str = "") -> str:
    """Formats a share of one in per cent, 6 characters wide; None as a dash."""
    return f"{'-' if value is None else f'{100 * value:{sign}.2f}':>6}"


def interval_text(interval: dict, sign: str = "") -> str:
    """Says in words what `Evaluation.results` calls an interval."""
    low, high = (percent(interval[end], sign).strip() for end in ("low", "high"))
    return f"{interval['level']:.0%} interval {low} to {high}"


def write_summary(results: dict, path: str | os.PathLike) -> None:
    """Writes `summary_text`, whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    with atomic_write(path) as file:
        file.write(summary_text(results))


def summary_text(results: dict) -> str:
    """Returns results as JSON, lists of numbers on one line each."""
    text = json.dumps(results, indent=2, allow_nan=False)
    # JSON breaks lines between values only, so no name can match.
    return re.sub(r'\[\n([^][{}"]*)\n *\]', _on_one_line, text) + "\n"


def _on_one_line(match: re.Match) -> str:
    return f"[{' '.join(match[1].split())}]"


def write_table(results: dict, path: str | os.PathLike) -> None:
    """Writes `table_text`, whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    with atomic_write(path, newline="") as file:
        file.write(table_text(results))


def table_text(results: dict) -> str:
    """Returns the scores of the classes as CSV; empty is undefined."""
    columns = ("class", "iou", "accuracy", "boundary_f", "pixels", "predicted_pixels")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for name, row in results["per_class"].items():
        writer.writerow({"class": table_cell(name), **row})
    return text.getvalue()


def read_summary(path: str | os.PathLike) -> dict:
    """Reads what `write_summary` wrote.

    Raises:
      FileNotFoundError: there is nothing.
      ValueError: it is something else.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{os.fspath(path)} is not there. Expected the JSON of an evaluation."
        )
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(path)} is not the JSON of an evaluation: {error}"
        ) from error
