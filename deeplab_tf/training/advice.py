"""Rows of a log in, sentences on what to change out: one rule a function.

A rule looks at the rows of `log.read_log` and the configuration, and says nothing where
nothing is wrong. It is no verdict: what it names is what helps most often.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence

from deeplab_tf.command_names import call_of
from deeplab_tf.config import TrainConfig, read_config
from deeplab_tf.training.log import CLASS_IOU, read_log
from deeplab_tf.workdir import LOG_FILE

Rows = Sequence[dict[str, float]]

MIN_NORMALIZED_IMAGES = 8  # in a batch, for BatchNorm's statistics to mean something
_NOTHING_IOU = 0.005
_FALL = 0.02  # of mean IoU: seeds of one run differ by about as much
_STANDING = 0.95  # of the first epoch's loss
_MOSTLY_VOID = 0.5
_SHOWN_NAMES = 10


def advice_on(workdir: str | os.PathLike) -> list[str]:
    """Reads the log of a run, and returns what to change in it.

    Raises:
      FileNotFoundError: not the workdir of a run, or no epoch has ended yet.
      ValueError: log.csv or config.json is damaged.
    """
    return advise(read_log(os.path.join(workdir, LOG_FILE)), read_config(workdir))


def advise(rows: Rows, config: TrainConfig) -> list[str]:
    """Returns one sentence or more for each rule that has something to say."""
    return [said for rule in RULES if (said := rule(rows, config))]


def format_advice(sentences: Sequence[str]) -> str:
    """Lays out sentences as a list of items under a title; "" where there are none."""
    items = [
        textwrap.fill(
            sentence,
            88,
            initial_indent="  - ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for sentence in sentences
    ]
    return "\n".join(["To try next:", *items]) if items else ""


# --- Rules ---------------------------------------------------------------------------


def standing_loss(rows: Rows, config: TrainConfig) -> str:
    """The labels' part of the loss is where it was after the first epoch."""
    losses = _column(rows, config.loss) or _column(rows, "loss")
    if len(losses) < 3 or min(losses[1:]) < _STANDING * losses[0]:
        return ""
    rate = config.learning_rate
    return (
        f"The loss does not fall: {losses[0]:.3g} in the first epoch, {losses[-1]:.3g} "
        f"in the last. Try --learning_rate={rate / 10:g}, then {rate * 10:g}, each in "
        "another --workdir, and see whether labels and images belong together: "
        f"{_look_at_data(config)}"
    )


def classes_at_zero(rows: Rows, config: TrainConfig) -> str:
    """Classes that occur, and that no validation has found any pixel of."""
    best = _best_iou_of_classes(rows, config)
    zeros = [name for name, iou in best.items() if iou < _NOTHING_IOU]
    if not zeros:
        return ""
    if len(best) > 2 and len(zeros) >= len(best) - 1:
        return (
            f"All classes but {len(best) - len(zeros)} are at IoU 0: the network says "
            "the same nearly everywhere. It needs more steps, another learning rate "
            f"than {config.learning_rate:g}, or trained weights to start from (--init)."
        )
    ways = []
    if not config.class_weights:
        ways.append("--set=class_weights=balanced")
    if not config.duplicate:
        ways.append(f"--set='duplicate=[[\"{zeros[0]}\",3]]'")
    ways.append("more steps, or more images that show them")
    return (
        f"IoU stays at 0 for {_listed(zeros)}. Are they labelled, and in both splits? "
        f"{_look_at_data(config)} Then try {'; '.join(ways)}."
    )


def unseen_classes(rows: Rows, config: TrainConfig) -> str:
    """Classes that the validation images do not have."""
    seen = _best_iou_of_classes(rows, config)
    absent = [name for name in config.class_names if name not in seen]
    if not seen or not absent:
        return ""
    return (
        f"No image of split {config.eval_split} shows {_listed(absent)}: the score "
        "says nothing about it. Move images that do into that split."
    )


def falling_validation(rows: Rows, config: TrainConfig) -> str:
    """Mean IoU of validation fell while the loss of training went on falling."""
    validated = [row for row in rows if "val_mean_iou" in row]
    best = max(validated, key=lambda row: row["val_mean_iou"], default=None)
    if best is None or len(validated) - 1 - validated.index(best) < 2:
        return ""
    last = validated[-1]
    fall = best["val_mean_iou"] - last["val_mean_iou"]
    if fall < _FALL or last.get("loss", 0.0) >= best.get("loss", 0.0):
        return ""
    stop = "" if config.patience else "--set=patience=3 ends a run by itself; "
    return (
        f"Validation fell from mean IoU {best['val_mean_iou']:.3f} in epoch "
        f"{int(best['epoch']) + 1} to {last['val_mean_iou']:.3f} while the loss of "
        "training went on falling: the network learns its images by heart. best.npz "
        f"has the weights of epoch {int(best['epoch']) + 1}. To do: {stop}more images, "
        "fewer steps, more augmentation (docs/augmentation.md)."
    )


def small_batches(rows: Rows, config: TrainConfig) -> str:
    """BatchNorm is trained on few images a step."""
    if config.batch_size >= MIN_NORMALIZED_IMAGES or config.frozen_batch_norm:
        return ""
    if config.backbone == "vgg16" and config.model in ("deeplab_v1", "deeplab_v2"):
        return ""  # which have no BatchNorm
    return (
        f"BatchNorm averaged over {config.batch_size} images a step, which are few: "
        f"take --batch_size={MIN_NORMALIZED_IMAGES} or more (a smaller --crop_size or "
        "--precision=bfloat16 makes room), or --set=frozen_batch_norm=backbone."
    )


RULES = (
    standing_loss,
    classes_at_zero,
    unseen_classes,
    falling_validation,
    small_batches,
)


def void_advice(void_share: float) -> list[str]:
    """Says where most pixels teach nothing; [] elsewhere.

    Args:
      void_share: of the training labels' pixels, 0 to 1.
    """
    if void_share <= _MOSTLY_VOID:
        return []
    return [
        f"{100 * void_share:.0f} per cent of the pixels of the training labels are "
        "void, and teach nothing: if they are the background, build the data set again "
        "with it as a class of its own, such as class 0 (no --ignore_label=0)."
    ]


# --- What rules look at --------------------------------------------------------------


def _column(rows: Rows, name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _best_iou_of_classes(rows: Rows, config: TrainConfig) -> dict[str, float]:
    """Class name -> its highest IoU; without classes that no validation has seen."""
    values = {name: _column(rows, CLASS_IOU + name) for name in config.class_names}
    return {name: max(column) for name, column in values.items() if column}


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    shown = ", ".join(names[:_SHOWN_NAMES])
    return f"{shown} and {more} more" if more > 0 else shown


def _look_at_data(config: TrainConfig) -> str:
    return f"{call_of('inspect')} {config.data_dir}."
