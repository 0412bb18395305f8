"""What each export of a run weighs, how quick it is, and what mean IoU it keeps.

    python -m benchmarks.runtimes_table --workdir=runs/camvid
    python -m benchmarks.runtimes_table --backbone=resnet18 --input_size=257,257

Exports a run, or a DeepLabV3 of random weights on a backbone, as SavedModel, LiteRT and
ONNX files of one fixed size, and prints a Markdown table: megabytes, milliseconds an
image (median), how many times quicker than the float32 SavedModel (median of the
ratios), and for a run the share of pixels with the Keras model's class and the mean
IoU. Each image goes through all of them before the next, so that other work on the
machine touches them alike. int8 is calibrated on 100 training images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from benchmarks.timing import cpu_description, ratio
from deeplab_tf import Segmenter, TrainConfig, build_model
from deeplab_tf.commands.export import convert_workdir, export_workdir
from deeplab_tf.config import write_config
from deeplab_tf.data.reading.pipeline import make_eval_dataset
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.evaluation.scores import Evaluation
from deeplab_tf.exports.saved_model import example_images
from deeplab_tf.inference.runtimes import fit_image, load_network
from deeplab_tf.inference.saved_models import load_saved_model
from deeplab_tf.labels import labels_for
from deeplab_tf.networks.weight_files import save_weights
from deeplab_tf.workdir import BEST_WEIGHTS, load_workdir

BASE = "SavedModel float32"
FILES = {
    "LiteRT float32": ("tflite", "float32"),
    "LiteRT float16": ("tflite", "float16"),
    "LiteRT dynamic": ("tflite", "dynamic"),
    "LiteRT int8": ("tflite", "int8"),
    "ONNX float32": ("onnx", "float32"),
}
RANDOM_IMAGES = 50


def random_run(backbone: str, folder: str) -> str:
    """Writes the workdir of a DeepLabV3 that nobody trained, for speed alone."""
    labels = labels_for(21)
    config = TrainConfig(
        backbone=backbone,
        num_classes=len(labels.class_names),
        class_names=labels.class_names,
        colormap=labels.colormap,
        data_dir=os.path.join(folder, "no records"),
    )
    os.makedirs(folder)
    write_config(config, folder)
    save_weights(build_model(config), os.path.join(folder, BEST_WEIGHTS))
    return folder


def export_all(workdir: str, size, folder: str, images) -> dict[str, str]:
    """Returns {row: path of the export}; images None takes those of the run."""
    paths = {}
    for row, options in {
        BASE: {},
        "SavedModel float32, constants": {"constants": True},
        "SavedModel bfloat16, constants": {"constants": True, "precision": "bfloat16"},
    }.items():
        output_dir = os.path.join(folder, row)
        paths[row], _ = export_workdir(workdir, output_dir, images=images, **options)
    for row, (format_, precision) in FILES.items():
        paths[row], _ = convert_workdir(
            workdir, folder, format_, precision, size, images=images
        )
    return paths


def runner(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Loads an export: image uint8 [h, w, 3] -> classes uint8 [h, w]."""
    if not os.path.isdir(path):
        network = load_network(path)
        return lambda image: network.classes(image[None])[0]
    loaded = load_saved_model(path)

    def segment(image):
        signature = loaded.signatures["serve_images"]
        return signature(images=tf.constant(image[None]))["classes"].numpy()[0]

    return segment


def megabytes(path: str) -> float:
    """Of a file, or of all files in a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path) / 1e6
    return sum(
        os.path.getsize(os.path.join(inside, name)) / 1e6
        for inside, _, names in os.walk(path)
        for name in names
    )


def labelled_images(config: TrainConfig, num_images: int | None):
    """Yields (image uint8 [h, w, 3], label int32 [h, w], name) of the run's split."""
    selection = select_records(config.data_dir, config.eval_split)
    dataset = make_eval_dataset(selection, with_filename=True)
    for image, label, name in dataset.take(num_images or -1).as_numpy_iterator():
        yield image[0], label[0], name[0].decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", help="folder of a run of train.py")
    model.add_argument("--backbone", help="of a DeepLabV3 of random weights instead")
    parser.add_argument("--input_size", help="height,width [of the first image]")
    parser.add_argument("--num_images", type=int, help="first so many [all]")
    args = parser.parse_args()
    size = args.input_size and tuple(int(side) for side in args.input_size.split(","))
    with tempfile.TemporaryDirectory() as folder:
        if args.workdir:
            workdir, drawn = args.workdir, None
        else:
            workdir = random_run(args.backbone, os.path.join(folder, "run"))
            drawn = [fit_image(image, size) for image in example_images()]
        config = load_workdir(workdir)[1]
        if drawn:
            count = args.num_images or RANDOM_IMAGES
            examples = [(drawn[n % len(drawn)], None, str(n)) for n in range(count)]
        else:
            examples = list(labelled_images(config, args.num_images))
        size = size or examples[0][0].shape[:2]
        paths = export_all(workdir, size, folder, drawn)
        runners = {"Keras": Segmenter.from_workdir(workdir).predict}
        runners.update({row: runner(path) for row, path in paths.items()})
        sizes = {row: megabytes(path) for row, path in paths.items()}
        print_table(size, sizes, *measure_all(runners, examples, size, config))


def measure_all(runners: dict, examples: list, size, config: TrainConfig):
    """Runs all on each image: ({row: seconds}, {row: agreement}, {row: mean IoU})."""
    seconds = {row: [] for row in runners}
    agreement = {row: [] for row in runners}
    evaluations = {
        row: Evaluation(config.class_names, config.ignore_label) for row in runners
    }
    warm = fit_image(examples[0][0], size)
    for run in runners.values():
        for _ in range(3):
            run(warm)
    for image, label, name in tqdm(examples, disable=None):
        classes = {}
        for row, run in runners.items():
            start = time.perf_counter()
            classes[row] = run(image)
            seconds[row].append(time.perf_counter() - start)
        for row in runners:
            agreement[row].append((classes[row] == classes["Keras"]).mean())
            if label is not None:
                evaluations[row].add(name, label, classes[row])
    scores = {
        row: evaluation.results()["mean_iou"] if evaluation.names else None
        for row, evaluation in evaluations.items()
    }
    return seconds, {row: np.mean(each) for row, each in agreement.items()}, scores


def print_table(size, sizes: dict, seconds: dict, agreement: dict, scores: dict):
    images = len(seconds[BASE])
    print(f"{images} images, files of {size[0]}x{size[1]}. {cpu_description()}\n")
    print("| | MB | ms | times quicker | same class | mean IoU |")
    print("|---|---|---|---|---|---|")
    for row, times in seconds.items():
        weight = f"{sizes[row]:.1f}" if row in sizes else ""
        score = "" if scores[row] is None else f"{100 * scores[row]:.2f}"
        same = "" if scores[row] is None else f"{agreement[row]:.3%}"
        print(
            f"| {row} | {weight} | {1e3 * statistics.median(times):.1f} | "
            f"{ratio(seconds[BASE], times):.2f} | {same} | {score} |"
        )


if __name__ == "__main__":
    main()
