"""How strong class weights should be, asked of a run that was trained with them.

    python -m benchmarks.class_weights --workdir=runs/mine

A network trained with class weights w gives probabilities that are w times too large,
class by class. Divided by w ** power they are nearly those of a run with the weights
w ** (1 - power): mean IoU on the run's evaluation split tells which run is worth the
time. The choice is that split's, so take one that is not reported on.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from deeplab_tf import Segmenter
from deeplab_tf.commands.run_images import labelled_images
from deeplab_tf.config import read_config
from deeplab_tf.evaluation.metrics import (
    class_counts,
    confusion_matrix,
    iou_of_counts,
    mean_iou_of_counts,
)

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True, help="trained with class_weights.")
    workdir = parser.parse_args().workdir
    config, segmenter = read_config(workdir), Segmenter.from_workdir(workdir)
    if not config.class_weights:
        parser.error(f"{workdir} was trained without class_weights.")
    weights = np.array(config.class_weights)
    count = len(weights)
    confusions = {power: np.zeros([count, count], np.int64) for power in POWERS}
    for image, label in labelled_images(config, -1):
        probabilities = segmenter.probabilities(image[None])[0]
        for power, confusion in confusions.items():
            classes = (probabilities / weights**power).argmax(-1)
            confusion += confusion_matrix(label, classes, count, config.ignore_label)
    names = " | ".join(config.class_names)
    print(f"| divided by w to the power of | mean IoU | {names} |")
    print("|---" * (count + 2) + "|")
    for power, confusion in confusions.items():
        counts = class_counts(confusion)
        scores = [mean_iou_of_counts(counts), *iou_of_counts(counts)]
        cells = " | ".join(f"{100 * score:.1f}" for score in scores)
        print(f"| {power} | {cells} |")


if __name__ == "__main__":
    main()
