"""An evaluation as one HTML page: no scripts, nothing fetched, in light and dark.

How it looks is in `report_files`; here is what it says.
"""

from __future__ import annotations

import os
from collections.abc import Collection

import jinja2
import numpy as np

from deeplab_tf.colors import IGNORE_COLOR
from deeplab_tf.evaluation import charts
from deeplab_tf.evaluation.best_and_worst import ERROR_COLOR, BestAndWorst, Picture
from deeplab_tf.evaluation.scores import interval_text, percent
from deeplab_tf.files import atomic_write
from deeplab_tf.labels import Labels
from deeplab_tf.pictures.visualize import overlay

_FILES = os.path.join(os.path.dirname(__file__), "report_files")
_MOST_CONFUSIONS = 10
_OPACITY = 0.7  # of the classes over the photo, which stands beside them


def write_report(
    results: dict,
    labels: Labels,
    pictures: BestAndWorst,
    path: str | os.PathLike,
    hidden: Collection[int] = (),
) -> None:
    """Writes `report_text`, whole or not at all.

    Args:
      results, labels, pictures, hidden: as of `report_text`.
      path: file to write.

    Raises:
      OSError: it cannot be written.
    """
    with atomic_write(path) as file:
        file.write(report_text(results, labels, pictures, hidden))


def report_text(
    results: dict,
    labels: Labels,
    pictures: BestAndWorst,
    hidden: Collection[int] = (),
) -> str:
    """Returns the page.

    Args:
      results: of `Evaluation.results`; "comparison", of `compare`, with the path of
        the other as "with", and how the results were made, as evaluate.py writes it,
        may be in them.
      labels: names and colours of the classes.
      pictures: images to show.
      hidden: class ids that the pictures leave clear.
    """
    shares = _row_shares(np.array(results["confusion_matrix"]))
    trimap_scores = _trimap_scores(results)
    return _template().render(
        results=results,
        comparison=results.get("comparison"),
        class_names=labels.class_names,
        colormap=labels.colormap,
        pixels=sum(row["pixels"] for row in results["per_class"].values()),
        headline=_headline(results),
        made=_made(results),
        matrix=charts.confusion_matrix(shares, labels.class_names),
        confused=_most_confused(np.array(results["confusion_matrix"]), shares),
        trimap_scores=trimap_scores,
        chart=charts.curves(results["trimap"]["widths"], trimap_scores),
        best=[_figure(picture, labels, hidden) for picture in pictures.best()],
        worst=[_figure(picture, labels, hidden) for picture in pictures.worst()],
    )


def _template() -> jinja2.Template:
    """The page; whatever is put into it becomes text, never HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FILES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=lambda share, sign="": percent(share, sign).strip(),
        interval=interval_text,
        thousands="{:,}".format,
    )
    return environment.get_template("report.html")


def _headline(results: dict) -> dict[str, float | None]:
    trimap = dict(zip(results["trimap"]["widths"], results["trimap"]["mean_iou"]))
    narrow = min(trimap)
    near = f"{narrow} pixel{'s' if narrow > 1 else ''}"
    return {
        "mean IoU": results["mean_iou"],
        "pixel accuracy": results["pixel_accuracy"],
        "mean accuracy": results["mean_accuracy"],
        "frequency-weighted IoU": results["frequency_weighted_iou"],
        "boundary F-score": results["boundary_f"],
        f"mean IoU within {near} of boundaries": trimap[narrow],
    }


def _made(results: dict) -> dict[str, str]:
    """How the results were made, as far as they say it; name -> value."""
    crf = results.get("crf") or {}
    speed = results.get("images_per_second")
    weights, padded = results.get("weights"), results.get("pad_to")
    strides = results.get("output_stride")
    values = {
        "Networks, averaged": _text(weights) if isinstance(weights, list) else None,
        "Records": results.get("data_dir"),
        "Split": results.get("split"),
        "Part": str(results.get("part", "")).replace("1/1", ""),
        "Output stride": _text(strides),
        "Scales": ", ".join(f"{scale:g}" for scale in results.get("scales", ())),
        "Flip": {True: "yes", False: "no"}.get(results.get("flip")),
        "Window": results.get("window"),
        "Padded to": "x".join(map(str, padded)) if padded else None,
        "Larger than that": results.get("larger_than_pad_to") or None,
        "Dense CRF": ", ".join(f"{name} {value:g}" for name, value in crf.items()),
        "Batch size": results.get("batch_size"),
        "Images a second": None if speed is None else f"{speed:.2f}",
    }
    return {name: value for name, value in values.items() if value not in (None, "")}


def _text(value):
    """A list as words between commas, anything else as it is."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _row_shares(confusion: np.ndarray) -> np.ndarray:
    """Divides each row by its sum; float64 in 0..1, zeros where a row is empty."""
    pixels = confusion.sum(1, keepdims=True)
    return np.divide(confusion, pixels, np.zeros(confusion.shape), where=pixels > 0)


def _most_confused(confusion: np.ndarray, shares: np.ndarray) -> list[tuple]:
    """(label, predicted class, share of the label, pixels), most pixels first."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=np.int64))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    return [
        (i, j, shares[i, j], wrong[i, j])
        for i, j in zip(*np.unravel_index(largest, wrong.shape))
        if wrong[i, j]
    ]


def _trimap_scores(results: dict) -> dict[str, list[float | None]]:
    scores = {"this": results["trimap"]["mean_iou"]}
    comparison = results.get("comparison")
    # Bands of other widths would be other points.
    if comparison and comparison["trimap"]["widths"] == results["trimap"]["widths"]:
        scores["other"] = comparison["trimap"]["mean_iou"]
    return scores


def _figure(picture: Picture, labels: Labels, hidden: Collection[int]) -> dict:
    """What the page shows of a picture; "legend" are names and colours."""
    colormap, ignore_label = labels.colormap, labels.ignore_label
    label = draw(picture, picture.label, labels, hidden)
    prediction = draw(picture, picture.classes, labels, hidden)
    legend = [
        (labels.class_names[index], colormap[index])
        for index in np.union1d(picture.label, picture.classes)
        if index not in (*hidden, ignore_label)
    ]
    if ignore_label in picture.label:
        legend.append(("void", IGNORE_COLOR))
    return {
        "name": picture.name,
        "score": picture.score,
        "pictures": {
            "image": charts.data_uri(picture.image, "JPEG"),
            "label": charts.data_uri(label, "JPEG"),
            "prediction": charts.data_uri(prediction, "JPEG"),
            "errors": charts.data_uri(picture.errors(ignore_label), "JPEG"),
        },
        "legend": [*legend, ("wrong", ERROR_COLOR)],
    }


def draw(
    picture: Picture, classes: np.ndarray, labels: Labels, hidden: Collection[int]
) -> np.ndarray:
    """Draws classes over the photo, strongly; void is painted, the hidden are clear.

    Args:
      picture: whose photo it is.
      classes: integers [height, width], its label or its prediction.
      labels: colours of the classes.
      hidden: class ids that show the photo.

    Returns:
      uint8 [height, width, 3].
    """
    drawn = overlay(
        *(picture.image, classes, labels.colormap, _OPACITY, labels.ignore_label),
        hidden=hidden,
    )
    drawn[classes == labels.ignore_label] = IGNORE_COLOR
    return drawn
