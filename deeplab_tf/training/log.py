"""What a run has done: its log.csv, and the summary and the curves made of it.

Only log.csv and config.json are read, so the run may still be going on. Epochs are
counted from 0 in log.csv and from 1 everywhere else.
"""

from __future__ import annotations

import csv
import os
import re
import statistics
from collections.abc import Sequence

from deeplab_tf.config import TrainConfig, read_config
from deeplab_tf.files import atomic_write
from deeplab_tf.workdir import CURVES_FILE, LOG_FILE, SUMMARY_FILE

# --- Columns -------------------------------------------------------------------------

# Those of training, in their order in log.csv; the losses of auxiliary outputs follow.
# `meter.RunMeter` measures them.
COLUMNS = (
    "epoch",  # counted from 0
    "step",  # training steps done
    "seconds",  # since the epoch before, or the start
    "images_per_second",  # of training, validation apart
    "learning_rate",  # at the end of the epoch
    "loss",  # mean over the epoch, of which the next two are parts
    "cross_entropy",  # or another row of `losses.LOSSES`: what the labels say
    "weight_decay",
)
VALIDATION = "val_"  # begins the columns of a validation: "val_loss", "val_mean_iou"
CLASS_IOU = "val_iou/"  # and the name of a class

_MISSING = {"", "NA", "nan"}
# Where a model has several outputs, Keras 3 begins the names of their scores with that
# of the output, Keras 2 with that of its layer.
_LOGITS = ("logits_", "upsample_")
_LAYERS = re.compile("^(upsample|own)_")


def plain_names(values: dict, loss: str = "cross_entropy") -> dict:
    """Names scores as those of a model with one output, in any Keras.

    "val_upsample_mean_iou" -> "val_mean_iou", "upsample_auxiliary_loss" ->
    "auxiliary_loss", "logits_loss" -> "cross_entropy".

    Args:
      values: name -> score.
      loss: the row of `losses.LOSSES` that the run has.
    """
    plain = {f"{output}loss": loss for output in _LOGITS}
    plain.update({f"{output}mean_iou": "mean_iou" for output in _LOGITS})
    named = {}
    for name, value in values.items():
        prefix = VALIDATION if name.startswith(VALIDATION) else ""
        rest = name[len(prefix) :]
        named[prefix + plain.get(rest, _LAYERS.sub("", rest))] = value
    return named


def _order(names) -> list[str]:
    """Columns once each: `COLUMNS`, the rest of training, validation, its classes."""

    def place(name):
        known = COLUMNS.index(name) if name in COLUMNS else len(COLUMNS)
        return known, name.startswith(VALIDATION), name.startswith(CLASS_IOU)

    return sorted(dict.fromkeys(names), key=place)


# --- Writing and reading -------------------------------------------------------------


def write_epoch(path: str | os.PathLike, epoch: int, values: dict) -> None:
    """Puts the row of an epoch into a log; the file is written anew, atomically.

    Rows of epochs that a resumed run repeats are replaced, and columns that only some
    epochs have (validation) are there for all.

    Args:
      path: of the log, which need not exist.
      epoch: from 0.
      values: column -> number. Without "loss" they complete the row that is there.

    Raises:
      OSError: the disk is full or cannot be written.
    """
    rows = []
    if os.path.exists(path):
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    row = {"epoch": epoch, **values}
    if "loss" not in row:  # a killed run may have written the rest of it before
        same = [old for old in rows if int(old["epoch"]) == epoch]
        row = {**(same[0] if same else {}), **row}
    rows = [old for old in rows if int(old["epoch"]) < epoch] + [row]
    with atomic_write(path, newline="") as file:
        writer = csv.DictWriter(file, _order([name for r in rows for name in r]))
        writer.writeheader()
        writer.writerows(rows)


def read_log(path: str | os.PathLike) -> list[dict[str, float]]:
    """Reads the log.csv of a run; a row lacks what was not measured in its epoch.

    Raises:
      FileNotFoundError: no epoch has ended yet.
      ValueError: the file holds something else.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{os.fspath(path)} is not there. It appears after the first epoch of "
            "train.py."
        )
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [_numbers(row) for row in csv.DictReader(file)]
    except ValueError as error:
        raise ValueError(f"{path} is not the log of a run: {error}") from error
    if not rows or not all("epoch" in row for row in rows):
        raise ValueError(f"{path} is not the log of a run: it has no epochs.")
    return rows


def _numbers(row: dict[str, str]) -> dict[str, float]:
    if None in row or None in row.values():
        raise ValueError(
            f"the row of epoch {row.get('epoch')} has not one value for each column"
        )
    return plain_names({k: float(v) for k, v in row.items() if v not in _MISSING})


# --- Summary -------------------------------------------------------------------------


def summarize(rows: Sequence[dict[str, float]], config: TrainConfig) -> dict:
    """Returns the figures of a run; None where the log does not hold one.

    Args:
      rows: of `read_log`, one or more.
      config: of the run.

    Returns:
      "epochs", "steps" (done, int), "seconds" (of all epochs), "images_per_second"
      (median of the epochs), "best_epoch" (from 1, the first one of the highest mean
      IoU), "best_mean_iou", "last_epoch" (validated last), "last_mean_iou",
      "class_iou" (class name -> IoU of the best epoch).
    """
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    validated = [row for row in rows if "val_mean_iou" in row]
    best = max(validated, key=lambda row: row["val_mean_iou"], default={})
    last = validated[-1] if validated else {}
    return {
        "epochs": int(rows[-1]["epoch"]) + 1,
        "steps": int(rows[-1]["step"]) if "step" in rows[-1] else None,
        "seconds": sum(seconds) if seconds else None,
        "images_per_second": statistics.median(rates) if rates else None,
        "best_epoch": int(best["epoch"]) + 1 if best else None,
        "best_mean_iou": best.get("val_mean_iou"),
        "last_epoch": int(last["epoch"]) + 1 if last else None,
        "last_mean_iou": last.get("val_mean_iou"),
        "class_iou": {n: best.get(CLASS_IOU + n) for n in config.class_names},
    }


def format_summary(summary: dict, config: TrainConfig) -> str:
    """Lays out `summarize` for people, IoU in per cent; leaves out what is unknown."""
    epochs = f"{summary['epochs']} of {config.epochs}"
    if summary["steps"] is not None:
        epochs += f", {summary['steps']:,} of {config.steps:,} steps"
    lines = [
        f"run         {config.recipe}: {config.model} on {config.backbone}",
        f"epochs      {epochs}",
    ]
    if summary["seconds"] is not None:
        lines.append(f"time        {format_duration(summary['seconds'])}")
    if summary["images_per_second"] is not None:
        lines.append(f"images/s    {summary['images_per_second']:.1f}")
    if summary["best_epoch"] is None:
        return "\n".join([*lines, "validation  none yet"])
    for which in ("best", "last"):
        lines.append(
            f"{which} epoch  {summary[f'{which}_epoch']}, validation mean IoU "
            f"{100 * summary[f'{which}_mean_iou']:.2f}"
        )
    return "\n".join(lines + _class_table(summary["class_iou"]))


def _class_table(class_iou: dict) -> list[str]:
    if all(iou is None for iou in class_iou.values()):
        return []
    width = max(len("class"), *map(len, class_iou))
    lines = ["", f"{'class':{width}}     IoU  (validation, best epoch)"]
    for name, iou in class_iou.items():
        percent = "-" if iou is None else f"{100 * iou:.2f}"
        lines.append(f"{name:{width}}  {percent:>6}")
    return lines


def format_duration(seconds: float) -> str:
    """5025.4 -> "1:23:45", hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


# --- Curves --------------------------------------------------------------------------

# Title of a chart -> column -> what the legend calls it.
_CHARTS = {
    "Loss": {"loss": "training", "val_loss": "validation"},
    "Mean IoU": {"mean_iou": "training", "val_mean_iou": "validation"},
    "Learning rate": {"learning_rate": "learning rate"},
    "Images per second": {"images_per_second": "images per second"},
}
NO_MATPLOTLIB = (
    f"No {CURVES_FILE}: matplotlib is not installed. Run: pip install matplotlib"
)


def draw_curves(
    rows: Sequence[dict[str, float]], config: TrainConfig, path: str | os.PathLike
) -> None:
    """Draws loss and its parts, mean IoU, learning rate and speed as a PNG.

    Over the step, or over the epoch where a log does not hold the step. A chart of
    which the log holds nothing is left out.

    Args:
      rows: of `read_log`, one or more.
      config: of the run.
      path: of the PNG.

    Raises:
      ImportError: matplotlib is not installed; the message is `NO_MATPLOTLIB`.
      ValueError: no column to draw.
    """
    try:
        from matplotlib.figure import Figure  # draws by Agg: it needs no display
    except ImportError as error:
        raise ImportError(NO_MATPLOTLIB) from error

    charts = _charts(rows, config.loss)
    if not charts:
        raise ValueError(f"Nothing in the log can be drawn. It has: {sorted(rows[-1])}")
    columns = min(2, len(charts))
    lines = -(-len(charts) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.4 * lines), dpi=100, layout="constrained")
    figure.suptitle(f"{config.recipe}: {config.model} on {config.backbone}")
    for index, (title, curves) in enumerate(charts.items()):
        axes = figure.add_subplot(lines, columns, index + 1)
        _draw_chart(axes, title, curves, rows)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _charts(rows, loss: str) -> dict[str, dict[str, str]]:
    """`_CHARTS` with the parts of the training's loss, without what the log lacks."""
    present = list(dict.fromkeys(name for row in rows for name in row))
    parts = {
        loss: f"training: {loss.replace('_', '-')}",
        "weight_decay": "training: weight decay",
    }
    for name in present:
        if name.endswith("_loss") and not name.startswith(VALIDATION):
            parts[name] = f"training: {name[: -len('_loss')]}"
    charts = {}
    for title, curves in {**_CHARTS, "Loss": {**_CHARTS["Loss"], **parts}}.items():
        curves = {name: label for name, label in curves.items() if name in present}
        if curves:
            charts[title] = curves
    return charts


def _draw_chart(axes, title, curves, rows):
    by_step = all("step" in row for row in rows)
    for name, label in curves.items():
        points = [
            (row["step"] if by_step else row["epoch"] + 1, row[name])
            for row in rows
            if name in row
        ]
        # Validations are few; a line alone would hide where they are, or a single one.
        marker = "o" if name.startswith(VALIDATION) or len(points) < 3 else None
        axes.plot(*zip(*points), label=label, marker=marker, markersize=4)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("step" if by_step else "epoch")
    axes.locator_params(axis="x", integer=True)
    top = max((row[name] for row in rows for name in curves if name in row), default=0)
    axes.set_ylim(0, 1.05 * top if top > 0 else 1)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(fontsize=9)


# --- Both ----------------------------------------------------------------------------


def write_report(workdir: str | os.PathLike) -> str:
    """Writes summary.txt and curves.png of a run as far as it went.

    Returns:
      The summary, with `NO_MATPLOTLIB` below it where that is why there are no curves.

    Raises:
      FileNotFoundError: not the workdir of a run, or no epoch has ended yet.
      OSError: the disk is full or cannot be written.
      ValueError: log.csv or config.json is damaged.
    """
    config = read_config(workdir)
    rows = read_log(os.path.join(workdir, LOG_FILE))
    summary = format_summary(summarize(rows, config), config)
    with atomic_write(os.path.join(workdir, SUMMARY_FILE)) as file:
        file.write(summary + "\n")
    try:
        draw_curves(rows, config, os.path.join(workdir, CURVES_FILE))
    except ImportError as error:
        return f"{summary}\n\n{error}"
    return summary
