"""Evaluates a run: mean IoU by one confusion matrix, each image at its own size.

    python evaluate.py --workdir=runs/demo
    python evaluate.py --workdir=runs/demo --output_stride=8 --flip \\
        --scales=0.5,0.75,1,1.25,1.5,1.75
    python evaluate.py --workdir=runs/demo --crf --crf_parameters=4,67,3

Prints a table per class and writes <workdir>/evaluation/<split>.json.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from absl import app, flags
from tqdm import tqdm

from datasets.bad_records import DATA_ERRORS, bad_records_named
from datasets.info import read_info
from datasets.pipeline import make_eval_dataset
from deeplab_tf import metrics
from deeplab_tf.config import TrainConfig
from deeplab_tf.crf import CRFParameters, dense_crf, parse_crf
from deeplab_tf.files import atomic_write
from deeplab_tf.inference import Segmenter
from deeplab_tf.workdir import load_workdir, workdir_weights

FLAGS = flags.FLAGS


def define_flags():
    """Called by the script alone, so that tests can import several scripts."""
    flags.DEFINE_string("workdir", None, "Folder of a run of train.py.", required=True)
    flags.DEFINE_string("split", None, "Split to evaluate [the run's eval_split].")
    flags.DEFINE_string("data_dir", None, "Records [those of the run].")
    flags.DEFINE_integer("output_stride", None, "8, 16 or 32 [the run's].")
    flags.DEFINE_list("scales", ["1"], "Image scales to average over.")
    flags.DEFINE_bool("flip", False, "Average with the mirrored image.")
    flags.DEFINE_bool("crf", False, "Sharpen with the dense CRF of DeepLabV1 and V2.")
    flags.DEFINE_list("crf_parameters", None, "Its w1,sigma_alpha,sigma_beta [4,67,3].")


def evaluate(
    segmenter: Segmenter,
    config: TrainConfig,
    data_dir: str,
    split: str,
    crf: CRFParameters | None = None,
) -> tuple[np.ndarray, int]:
    """Counts a whole split, after the dense CRF where its parameters are given.

    Returns:
      (confusion matrix int64 [num_classes, num_classes], number of images).

    Raises:
      FileNotFoundError: no such records, or shards are missing.
      ValueError: records of another number of classes, or bad ones, which it names.
    """
    info = read_info(data_dir)
    if info.num_classes != config.num_classes:
        raise ValueError(
            f"The model knows {config.num_classes} classes, {data_dir} has "
            f"{info.num_classes}. Give the --data_dir it was trained for."
        )
    confusion = np.zeros((config.num_classes, config.num_classes), np.int64)
    images = 0
    dataset = make_eval_dataset(data_dir, split)
    # A ValueError is what confusion_matrix makes of labels out of range.
    with bad_records_named(data_dir, [split], errors=(*DATA_ERRORS, ValueError)):
        for image, label in tqdm(dataset, total=info.splits.get(split), disable=None):
            classes = predict_classes(segmenter, image.numpy(), crf)
            confusion += metrics.confusion_matrix(
                label, classes, config.num_classes, config.ignore_label
            )
            images += len(label)
    return confusion, images


def predict_classes(
    segmenter: Segmenter, images: np.ndarray, crf: CRFParameters | None
) -> np.ndarray:
    """Returns uint8 [B, height, width] for images uint8 [B, height, width, 3]."""
    if crf is None:
        return segmenter.predict_batch(images)
    pairs = zip(images, segmenter.probabilities(images))
    refined = [dense_crf(image, probabilities, crf) for image, probabilities in pairs]
    return np.argmax(refined, -1).astype(np.uint8)


def summarize(confusion: np.ndarray, class_names) -> dict:
    """Returns a confusion matrix' scores as plain numbers; None where undefined."""
    iou = metrics.per_class_iou(confusion)
    accuracy = metrics.per_class_accuracy(confusion)
    return {
        "mean_iou": _number(metrics.mean_iou(confusion)),
        "pixel_accuracy": _number(metrics.pixel_accuracy(confusion)),
        "per_class": {
            name: {
                "iou": _number(iou[index]),
                "accuracy": _number(accuracy[index]),
                "pixels": int(confusion[index].sum()),
            }
            for index, name in enumerate(class_names)
        },
    }


def table(summary: dict) -> str:
    """Formats the scores for a terminal, in per cent."""
    width = max(map(len, [*summary["per_class"], "pixel accuracy"]))
    lines = [f"{'class':{width}}    IoU  accuracy       pixels"]
    for name, row in summary["per_class"].items():
        lines.append(
            f"{name:{width}} {_percent(row['iou'])} {_percent(row['accuracy']):>9}"
            f" {row['pixels']:>12,}"
        )
    lines.append(f"{'mean IoU':{width}} {_percent(summary['mean_iou'])}")
    lines.append(f"{'pixel accuracy':{width}} {_percent(summary['pixel_accuracy'])}")
    absent = [n for n, row in summary["per_class"].items() if row["iou"] is None]
    if absent:
        lines.append(f"Left out of the mean, as they never occur: {', '.join(absent)}")
    return "\n".join(lines)


def write_summary(summary: dict, workdir: str, split: str) -> str:
    """Writes <workdir>/evaluation/<split>.json atomically; returns its path."""
    path = os.path.join(workdir, "evaluation", f"{split}.json")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with atomic_write(path) as file:
        json.dump(summary, file, indent=2)
        file.write("\n")
    return path


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _percent(value: float | None) -> str:
    return "     -" if value is None else f"{100 * value:6.2f}"


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        scales = [float(scale) for scale in FLAGS.scales]
        crf = parse_crf(FLAGS.crf, FLAGS.crf_parameters)
        model, config = load_workdir(FLAGS.workdir, FLAGS.output_stride)
        data_dir = FLAGS.data_dir or config.data_dir
        split = FLAGS.split or config.eval_split
        segmenter = Segmenter(model, scales, FLAGS.flip)
        start = time.perf_counter()
        confusion, images = evaluate(segmenter, config, data_dir, split, crf)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"evaluate.py: {error}")
    seconds = time.perf_counter() - start
    summary = {
        **summarize(confusion, config.class_names),
        "images": images,
        "images_per_second": images / seconds,
        "weights": workdir_weights(FLAGS.workdir),
        "data_dir": data_dir,
        "split": split,
        "output_stride": FLAGS.output_stride or config.output_stride,
        "scales": scales,
        "flip": FLAGS.flip,
        "crf": dataclasses.asdict(crf) if crf else None,
        "confusion_matrix": confusion.tolist(),
    }
    print(table(summary))
    print(f"{images} images of {split} in {seconds:.0f} s.")
    try:
        print(f"Written: {write_summary(summary, FLAGS.workdir, split)}")
    except OSError as error:
        sys.exit(f"evaluate.py: {error}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
