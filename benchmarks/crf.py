"""Times the dense CRF against pydensecrf, scores it, and searches its parameters.

    python -m benchmarks.crf                                  on drawn scenes
    python -m benchmarks.crf --workdir=runs/voc --num_images=20
    python -m benchmarks.crf --workdir=runs/voc --search

The first two print one JSON line: seconds, agreement with pydensecrf where it is
installed, and intersection over union without and with the CRF. Both take turns on
every image, so that other work on the machine touches them alike; times and ratios are
medians. --crf_parameters is that of evaluate.py: 4,67,3,sigma_gamma=1.

--search finds w1, sigma_alpha and sigma_beta as DeepLabV2 did: coarse to fine on 100
images of a validation split, in the ranges of its paper or, with --paper=v1, those of
DeepLabV1; the smoothness kernel and the iterations are fixed, at 3, 3 and 10 or what
--crf_parameters=sigma_gamma=1 says. The network runs once for each image; the
probabilities are kept, some 16 MB an image of PASCAL VOC.

--tflite=FILE --data_dir=RECORDS takes the probabilities of a float .tflite network
(image in -1..1 in, logits out) instead of a run's.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags
from PIL import Image
from tqdm import tqdm

from datasets.sources.catalog import DATASETS
from datasets.sources.shapes import draw_scene
from deeplab_tf.data.reading.pipeline import make_eval_dataset
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.data.records.info import DatasetInfo, read_info
from deeplab_tf.evaluation import metrics
from deeplab_tf.inference.crf import CRFParameters, dense_crf, parse_crf
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.workdir import load_workdir

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of a run of train.py.")
flags.DEFINE_string("tflite", None, "Float network to take probabilities of, instead.")
flags.DEFINE_string("data_dir", None, "Records [those of the run].")
flags.DEFINE_string("split", "val", "Split of the records.")
flags.DEFINE_integer("num_images", None, "Images [5; with --search 100].")
flags.DEFINE_list(
    "crf_parameters", None, "w1,sigma_alpha,sigma_beta [4,67,3], and others by name."
)
flags.DEFINE_bool("search", False, "Search w1, sigma_alpha and sigma_beta.")
flags.DEFINE_enum("paper", "v2", ["v1", "v2"], "Paper whose ranges are searched.")
flags.DEFINE_integer("rounds", 3, "Rounds of the search; each halves the steps.")
flags.DEFINE_integer("threads", os.cpu_count(), "Images that the search has in work.")

# Paper -> parameter -> the range that it searches. DeepLabV1, section 5; DeepLabV2,
# section 4.1.3.
RANGES = {
    "v1": {
        "appearance_weight": (5.0, 10.0),
        "sigma_alpha": (50.0, 100.0),
        "sigma_beta": (3.0, 10.0),
    },
    "v2": {
        "appearance_weight": (3.0, 6.0),
        "sigma_alpha": (30.0, 100.0),
        "sigma_beta": (3.0, 6.0),
    },
}


class Sample(NamedTuple):
    """An image uint8, its label uint8 and the network's probabilities float32."""

    image: np.ndarray
    label: np.ndarray
    probabilities: np.ndarray


# --- Images --------------------------------------------------------------------------


def drawn_samples(count: int) -> Iterator[Sample]:
    """Drawn scenes of about 400 x 400, and labels blurred into probabilities.

    Every class is likely somewhere, so that the CRF can leave none out.
    """
    for index in range(count):
        image, label = draw_scene(0, "val", index)
        size = (int(2.4 * label.shape[1]), int(2.4 * label.shape[0]))
        image = np.array(Image.fromarray(image).resize(size, Image.BICUBIC))
        label = np.array(Image.fromarray(label).resize(size, Image.NEAREST))
        one_hot = np.eye(256, 8, dtype=np.float32)[label]
        small = tf.image.resize(one_hot, (48, 48), antialias=True)
        blurred = tf.image.resize(small, label.shape).numpy() + 0.02
        yield Sample(image, label, blurred / blurred.sum(-1, keepdims=True))


def record_samples(probabilities_of, data_dir, split, count) -> Iterator[Sample]:
    """The first images of a split, through uint8 [B, h, w, 3] -> [B, h, w, classes]."""
    dataset = make_eval_dataset(select_records(data_dir, split))
    for image, label in dataset.take(count):
        image, label = image.numpy(), label.numpy().astype(np.uint8)
        yield Sample(image[0], label[0], probabilities_of(image)[0])


def tflite_probabilities(path: str):
    """Softmax of the logits of a float .tflite network, at the size of the images."""
    interpreter = tf.lite.Interpreter(path)
    interpreter.allocate_tensors()
    (inputs,), (outputs,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )

    def probabilities_of(images):
        small = tf.image.resize(images, inputs["shape"][1:3]).numpy() / 127.5 - 1
        interpreter.set_tensor(inputs["index"], small)
        interpreter.invoke()
        logits = interpreter.get_tensor(outputs["index"])
        return tf.image.resize(tf.nn.softmax(logits), images.shape[1:3]).numpy()

    return probabilities_of


def choose_samples(count: int) -> tuple[Iterator[Sample], DatasetInfo]:
    """Samples and the classes of their labels, from the flags."""
    if FLAGS.tflite:
        if not FLAGS.data_dir:
            raise app.UsageError("--tflite needs --data_dir.")
        probabilities_of, data_dir = tflite_probabilities(FLAGS.tflite), FLAGS.data_dir
    elif FLAGS.workdir:
        model, config = load_workdir(FLAGS.workdir)
        probabilities_of = Segmenter(model).probabilities
        data_dir = FLAGS.data_dir or config.data_dir
    else:
        return drawn_samples(count), DATASETS["shapes"]
    samples = record_samples(probabilities_of, data_dir, FLAGS.split, count)
    return samples, read_info(data_dir)


# --- Time, agreement and score -------------------------------------------------------


def pydensecrf(
    image: np.ndarray, probabilities: np.ndarray, parameters: CRFParameters
) -> np.ndarray:
    """As `dense_crf`, by pydensecrf."""
    from pydensecrf.densecrf import DenseCRF2D

    height, width, classes = probabilities.shape
    crf = DenseCRF2D(width, height, classes)
    energy = -np.log(np.maximum(probabilities, 1e-5)).transpose(2, 0, 1)
    crf.setUnaryEnergy(np.ascontiguousarray(energy.reshape(classes, -1), np.float32))
    crf.addPairwiseGaussian(
        sxy=parameters.sigma_gamma, compat=parameters.smoothness_weight
    )
    crf.addPairwiseBilateral(
        sxy=parameters.sigma_alpha,
        srgb=parameters.sigma_beta,
        rgbim=image,
        compat=parameters.appearance_weight,
    )
    marginals = np.array(crf.inference(parameters.iterations))
    return marginals.reshape(classes, height, width).transpose(1, 2, 0)


def timed(function, *arguments):
    start = time.perf_counter()
    return function(*arguments), time.perf_counter() - start


def has_pydensecrf() -> bool:
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError:
        return False
    return True


def compare(
    samples: Iterator[Sample],
    info: DatasetInfo,
    count: int,
    parameters: CRFParameters,
) -> dict:
    """Runs both on each image; returns the figures."""
    reference = has_pydensecrf()
    seconds, rows = [], []
    before, after = np.zeros([2, info.num_classes, info.num_classes], np.int64)
    for image, label, probabilities in tqdm(samples, total=count, disable=None):
        arguments = (image, probabilities, parameters)
        if not seconds:
            dense_crf(*arguments)  # warms up
        marginals, ours = timed(dense_crf, *arguments)
        before += confusion(info, label, probabilities)
        after += confusion(info, label, marginals)
        seconds.append(ours)
        if reference:
            expected, theirs = timed(pydensecrf, *arguments)
            same = marginals.argmax(-1) == expected.argmax(-1)
            difference = np.abs(marginals - expected).mean()
            rows.append((theirs, ours / theirs, difference, same.mean()))
    result = {"images": len(seconds), "seconds": statistics.median(seconds)}
    if reference:
        theirs, ratios, differences, same = zip(*rows)
        result["pydensecrf_seconds"] = statistics.median(theirs)
        result["over_pydensecrf"] = statistics.median(ratios)
        result["over_pydensecrf_at_most"] = max(ratios)
        result["mean_absolute_difference_at_most"] = float(max(differences))
        result["argmax_agreement_at_least"] = float(min(same))
    return {**result, **scores(info, before, after)}


def confusion(info: DatasetInfo, label, probabilities) -> np.ndarray:
    return metrics.confusion_matrix(
        label, probabilities.argmax(-1), info.num_classes, info.ignore_label
    )


def scores(info: DatasetInfo, before, after) -> dict:
    """Mean IoU, and the IoU of the classes that the labels hold: [without, with]."""
    pairs = zip(metrics.per_class_iou(before), metrics.per_class_iou(after))
    occurs = before.sum(1) > 0
    return {
        "mean_iou": [metrics.mean_iou(before), metrics.mean_iou(after)],
        "pixel_accuracy": [
            metrics.pixel_accuracy(before),
            metrics.pixel_accuracy(after),
        ],
        "iou": {
            name: [round(float(iou), 4) for iou in pair]
            for name, pair, present in zip(info.class_names, pairs, occurs)
            if present
        },
    }


# --- Search --------------------------------------------------------------------------


def mean_iou(samples: list[Sample], info: DatasetInfo, parameters) -> float:
    """Mean IoU with the CRF, or without it for None."""

    def counts(sample):
        probabilities = sample.probabilities
        if parameters:
            probabilities = dense_crf(sample.image, probabilities, parameters)
        return confusion(info, sample.label, probabilities)

    with ThreadPoolExecutor(FLAGS.threads) as pool:
        return metrics.mean_iou(sum(pool.map(counts, samples)))


def neighborhood(
    ranges: dict[str, tuple[float, float]], center: CRFParameters, finer: int
) -> list[CRFParameters]:
    """All choices a step from the centre, inside the ranges: at most 3 x 3 x 3.

    Args:
      ranges: a row of `RANGES`.
      center: what is not in the ranges stays as it is there.
      finer: how often the first step, half of a range, is halved.
    """
    axes = []
    for name, (lowest, highest) in ranges.items():
        middle, step = getattr(center, name), (highest - lowest) / 2
        values = {middle + sign * step / 2**finer for sign in (-1, 0, 1)}
        axes.append(sorted(value for value in values if lowest <= value <= highest))
    return [
        dataclasses.replace(center, **dict(zip(ranges, values)))
        for values in itertools.product(*axes)
    ]


def middle_of(
    ranges: dict[str, tuple[float, float]], fixed: CRFParameters
) -> CRFParameters:
    """Where a search begins: the first round's choices span the ranges."""
    middles = {name: sum(bounds) / 2 for name, bounds in ranges.items()}
    return dataclasses.replace(fixed, **middles)


def search(
    samples: list[Sample],
    info: DatasetInfo,
    rounds: int,
    ranges: dict[str, tuple[float, float]],
    fixed: CRFParameters,
) -> dict:
    """Coarse to fine; prints every trial on stderr."""
    score = functools.lru_cache(None)(functools.partial(mean_iou, samples, info))
    best = middle_of(ranges, fixed)
    for finer in range(rounds):
        choices = neighborhood(ranges, best, finer)
        for choice in tqdm(choices, f"round {finer + 1}", disable=None):
            trial = [getattr(choice, name) for name in ranges]
            print(f"{score(choice):.4f} {trial}", file=sys.stderr)
        best = max(choices, key=score)
    return {
        "images": len(samples),
        "best": dataclasses.asdict(best),
        "mean_iou_without": score(None),
        "mean_iou_with_given": score(fixed),
        "mean_iou_with_best": score(best),
        "trials": score.cache_info().currsize,
    }


def main(argv):
    del argv
    count = FLAGS.num_images or (100 if FLAGS.search else 5)
    samples, info = choose_samples(count)
    parameters = parse_crf(True, FLAGS.crf_parameters)
    if FLAGS.search:
        ranges = RANGES[FLAGS.paper]
        result = search(list(samples), info, FLAGS.rounds, ranges, parameters)
    else:
        result = compare(samples, info, count, parameters)
    print(json.dumps({"benchmark": "crf", **result}))


if __name__ == "__main__":
    app.run(main)
