"""Evaluates a model: mean IoU by one confusion matrix, each image at its own size.

    python evaluate.py --workdir=runs/demo
    python evaluate.py --workdir=runs/demo --output_stride=8 --flip \\
        --scales=0.5,0.75,1,1.25,1.5,1.75
    python evaluate.py --workdir=runs/demo --crf --crf_parameters=4,67,3
    python evaluate.py --workdir=runs/new --compare=runs/demo/evaluation/val.json
    python evaluate.py --saved_model=exported --data_dir=runs/data/voc --output=scores
    python evaluate.py --pretrained=mobilenet_v2_voc_trainaug \\
        --data_dir=runs/data/voc --output=scores

Prints a table per class and writes into <workdir>/evaluation, or --output:
    <split>.json   all scores, also for each image, and how they were made
    <split>.csv    those of the classes
    <split>.html   a page with both, the confusion matrix, and the best and worst images
docs/evaluation.md says what each number is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import time
from collections.abc import Collection, Iterable, Iterator

import numpy as np
from absl import flags
from tqdm import tqdm

from deeplab_tf.command_names import as_typed, name_of, refuse_arguments, run_with_flags
from deeplab_tf.commands.segmenter_flags import (
    begin_segmenter,
    define_hide_flag,
    define_segmenter_flags,
    hidden_names,
    out_of_memory_advised,
    segmenter_of,
    workdir_of,
)
from deeplab_tf.commands.steady_output import steady_output
from deeplab_tf.config import read_config
from deeplab_tf.data.reading.bad_records import DATA_ERRORS, bad_records_named
from deeplab_tf.data.reading.pipeline import make_eval_dataset
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.data.records.info import DatasetInfo, read_info
from deeplab_tf.datasets.build_tfds import resolve_data_dir
from deeplab_tf.devices.memory import OutOfMemory
from deeplab_tf.evaluation.best_and_worst import BestAndWorst
from deeplab_tf.evaluation.class_order import describe_order, label_table, same_ids
from deeplab_tf.evaluation.html_report import report_text
from deeplab_tf.evaluation.scores import (
    Evaluation,
    check_comparable,
    compare,
    comparison_table,
    read_summary,
    summary_text,
    table,
    table_text,
)
from deeplab_tf.files import InUse, sole_writer_in, write_together
from deeplab_tf.inference.runtimes import is_runtime_file
from deeplab_tf.inference.saved_models import find_version
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.labels import Labels, hidden_classes
from deeplab_tf.networks.models import MIN_IMAGE_SIZE
from deeplab_tf.strangers_words import printable
from deeplab_tf.workdir import EVALUATION_FOLDER, workdir_weights

FLAGS = flags.FLAGS
WHOLE = (1, 1)  # the first part of one


def define_flags() -> None:
    define_segmenter_flags()
    flags.DEFINE_string("split", None, "Split to evaluate [the run's, or val].")
    flags.DEFINE_string(
        "data_dir", None, "Folder of records, or tfds:NAME [those of the run]."
    )
    flags.DEFINE_integer("batch_size", 1, "Images of equal size run together.", 1)
    flags.DEFINE_string(
        "part", None, "Part of the images: 1/2 is the first of every two [all]."
    )
    flags.DEFINE_string("output", None, "Folder to write to [<workdir>/evaluation].")
    flags.DEFINE_string("compare", None, "JSON of another evaluation of these images.")
    flags.DEFINE_bool("by_id", False, "Take ids as they are, whatever their names.")
    define_hide_flag()
    flags.DEFINE_bool("report", True, "Write the HTML page.")


def main(argv: list[str]) -> None:
    """Evaluates as FLAGS say.

    Raises:
      app.UsageError: there are arguments that are no flags.
      SystemExit: with one sentence on what a user can mend.
    """
    refuse_arguments(argv)
    try:
        begin_segmenter(FLAGS)
        with out_of_memory_advised(FLAGS):
            evaluate_as(FLAGS)
    except (OSError, ValueError, ImportError, InUse, OutOfMemory) as error:
        sys.exit(f"{name_of('evaluate')}: {as_typed(printable(str(error)))}")


def evaluate_as(values: flags.FlagValues) -> None:
    """Evaluates as flags say, prints the scores and writes them.

    Args:
      values: of `define_flags`.

    Raises:
      InUse: another process evaluates into the same place.
      OSError: there is no model or no data, or a result cannot be written.
      ValueError: flags that contradict each other, or data that are bad.
    """
    part = parse_part(values.part)
    places = find_places(
        *(workdir_of(values), values.saved_model),
        *(values.data_dir, values.split, values.output),
        is_run=not values.pretrained,
    )
    name = places.split if part == WHOLE else f"{places.split}-{part[0]}-of-{part[1]}"
    with sole_writer_in(places.output, name):
        _evaluate_into(values, part, places, name)


def _evaluate_into(
    values: flags.FlagValues, part: tuple[int, int], places: Places, name: str
) -> None:
    other = None if values.compare is None else read_summary(values.compare)
    segmenter = segmenter_of(values)
    labels = segmenter.labels
    hidden = hidden_classes(labels.class_names, hidden_names(values))
    if other is not None:
        check_comparable(other, labels.class_names)
    pictures = BestAndWorst() if values.report else None
    data = (places.data_dir, places.split, part, values.batch_size)
    evaluation, times = evaluate(segmenter, labels, *data, pictures, values.by_id)
    results = {
        **evaluation.results(),
        "weights": places.weights,
        "data_dir": places.data_dir,
        "split": places.split,
        "part": "{}/{}".format(*part),
        "batch_size": values.batch_size,
        "output_stride": values.output_stride or places.output_stride,
        **describe(segmenter),
        **times,
    }
    print(table(results))
    print(speed(results))
    try:
        if other is not None:
            results["comparison"] = {**compare(results, other), "with": values.compare}
            print(comparison_table(results["comparison"]))
    finally:  # an evaluation that cannot be compared is still one
        write_all(results, labels, pictures, places.output, name, hidden)


def parse_part(text: str | None) -> tuple[int, int]:
    """Reads --part: "2/3" -> (2, 3), the second of every three images.

    Raises:
      ValueError: something else, or a part that is not there.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    part = tuple(map(int, match.groups())) if match else (0, 0)
    if not 1 <= part[0] <= part[1]:
        raise ValueError(f"Expected --part=1/2 or 2/2, for example. Received: {text}")
    return part


def evaluate(
    segmenter: Segmenter,
    labels: Labels,
    data_dir: str,
    split: str,
    part: tuple[int, int] = WHOLE,
    batch_size: int = 1,
    pictures: BestAndWorst | None = None,
    by_id: bool = False,
) -> tuple[Evaluation, dict[str, float]]:
    """Evaluates a split, or every n-th of its images.

    Args:
      segmenter: predicts the classes.
      labels: what its classes are called, and the label that is not counted.
      data_dir: folder of the records.
      split: name of the split, such as "val".
      part: (k, n) takes the k-th of every n images, in the order of the records.
      batch_size: largest number of images of equal size that are run together.
      pictures: is given each image, if not None.
      by_id: whether ids mean the same in the model and in the records whatever the
        classes are called; else they are taken by their names, which is printed where
        it makes a difference.

    Returns:
      (the evaluation; "seconds", "prediction_seconds" of them, "images_per_second").

    Raises:
      FileNotFoundError: no such records, or shards are missing.
      ValueError: records of other classes, or bad ones, which it names.
    """
    info = read_info(data_dir)
    to_model = _labels_of_model(labels, info, by_id)
    evaluation = Evaluation(labels.class_names, labels.ignore_label)
    index, parts = part
    examples = make_eval_dataset(select_records(data_dir, split), with_filename=True)
    examples = examples.shard(parts, index - 1).as_numpy_iterator()
    total = len(range(index - 1, info.splits.get(split, 0), parts)) or None
    begin, predicting = time.perf_counter(), 0.0
    # A ValueError is what `add` makes of labels out of range.
    with bad_records_named(data_dir, [split], errors=(*DATA_ERRORS, ValueError)):
        with tqdm(total=total, unit="image", disable=None) as progress:
            for batch in same_size_batches(examples, batch_size):
                _check_size(batch)
                start = time.perf_counter()
                predictions = segmenter.predict_batch(np.stack([b[0] for b in batch]))
                predicting += time.perf_counter() - start
                for (image, label, name), classes in zip(batch, predictions):
                    label = to_model[label]
                    score = evaluation.add(name, label, classes)
                    if pictures:
                        pictures.add(score, name, image, label, classes)
                progress.update(len(batch))
    if not evaluation.names:
        raise ValueError(f"Part {index}/{parts} of split {split} holds no image.")
    seconds = time.perf_counter() - begin
    return evaluation, {
        "seconds": seconds,
        "prediction_seconds": predicting,
        "images_per_second": len(evaluation.names) / seconds,
    }


def _check_size(batch: list[tuple]) -> None:
    """Names an image that is too small for a network; a batch has one size."""
    image, _, name = batch[0]
    if min(image.shape[:2]) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"{name} is {image.shape[0]}x{image.shape[1]} (height x width), and a "
            f"network takes at least {MIN_IMAGE_SIZE} pixels a side. Build the data "
            "set again without it, or with that image enlarged."
        )


def _labels_of_model(labels: Labels, info: DatasetInfo, by_id: bool) -> np.ndarray:
    """Returns the table from labels of records to those of a model, uint8 [256]."""
    ids = same_ids(labels.class_names, info.class_names, by_id)
    order = describe_order(ids, info.class_names)
    if order:
        print(order)
    return label_table(ids, info.ignore_label, labels.ignore_label)


def same_size_batches(examples: Iterable, batch_size: int) -> Iterator[list[tuple]]:
    """Collects images of equal size; what is left over comes last.

    Here and not in the pipeline, so that --part takes the same images at any batch.

    Args:
      examples: (image [1, h, w, 3], label [1, h, w], filename bytes [1]).
      batch_size: largest batch.

    Yields:
      Batches: (image [h, w, 3], label [h, w], name str) each.
    """
    waiting = {}
    for image, label, filename in examples:
        size = label.shape
        batch = waiting.setdefault(size, [])
        name = printable(filename[0].decode("utf-8", "replace"))
        batch.append((image[0], label[0], name))
        if len(batch) == batch_size:
            yield waiting.pop(size)
    yield from waiting.values()


@dataclasses.dataclass(frozen=True)
class Places:
    """Where an evaluation reads and writes.

    Attributes:
      data_dir, split: of the records.
      output: folder to write to.
      weights: path of the run's weights, or of the exported model's version.
      output_stride: of the run; None for an exported model, which does not tell.
    """

    data_dir: str
    split: str
    output: str
    weights: str
    output_stride: int | None


def find_places(
    workdir: str | None,
    saved_model: str | None,
    data_dir: str | None,
    split: str | None,
    output: str | None,
    is_run: bool = True,
) -> Places:
    """Completes what the command line says by what the run says.

    Args:
      is_run: whether the workdir is a run's, with data of its own, rather than one of
        a published network.

    Raises:
      FileNotFoundError: no run there, or one without weights, or no exported model.
      ValueError: arguments that contradict each other, or too few.
    """
    if bool(workdir) == bool(saved_model):
        raise ValueError("Give either --workdir or --saved_model, or --pretrained.")
    data_dir = resolve_data_dir(data_dir) if data_dir else None
    if not (is_run or (data_dir and output)):
        raise ValueError(
            "--pretrained needs --data_dir, the folder of the records, and --output, "
            "the folder to write to."
        )
    if workdir:
        config = read_config(workdir)
        return Places(
            data_dir or config.data_dir,
            split or config.eval_split,
            output or os.path.join(workdir, EVALUATION_FOLDER),
            workdir_weights(workdir),
            config.output_stride,
        )
    if not data_dir or not output:
        raise ValueError(
            "--saved_model needs --data_dir, the folder of the records, and --output, "
            "the folder to write to."
        )
    path = saved_model if is_runtime_file(saved_model) else find_version(saved_model)
    return Places(data_dir, split or "val", output, path, None)


def describe(segmenter: Segmenter) -> dict:
    """Returns how a segmenter predicts, for JSON."""
    return {
        "scales": segmenter.scales,
        "flip": segmenter.flip,
        "window": segmenter.window,
        "overlap": segmenter.overlap,
        "crf": dataclasses.asdict(segmenter.crf) if segmenter.crf else None,
    }


def speed(results: dict) -> str:
    """Says how long an evaluation took."""
    predicting = results["images"] / results["prediction_seconds"]
    return (
        f"{results['images']} images of {results['split']} in "
        f"{results['seconds']:.0f} s, {results['images_per_second']:.2f} a second; "
        f"prediction alone {predicting:.2f} a second."
    )


def write_all(
    results: dict,
    labels: Labels,
    pictures: BestAndWorst | None,
    folder: str,
    name: str,
    hidden: Collection[int] = (),
) -> None:
    """Writes <folder>/<name>.json, .csv and, with pictures, .html; prints their paths.

    After a failure all are those of before. Without pictures a page of before is
    removed: it is of other numbers.

    Raises:
      OSError: one cannot be written.
    """
    base = os.path.join(folder, name)
    texts = {".json": summary_text(results), ".csv": table_text(results)}
    if pictures:
        texts[".html"] = report_text(results, labels, pictures, hidden)
    written = {base + ending: text.encode() for ending, text in texts.items()}
    write_together(written)
    if not pictures:
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{base}.html")
    print(f"Written: {', '.join(written)}")


def run() -> None:
    """Runs the command with the flags of the command line."""
    with steady_output():
        run_with_flags(define_flags, main)
