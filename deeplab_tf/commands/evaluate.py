"""Evaluates a model: mean IoU by one confusion matrix, each image at its own size.

    python evaluate.py --workdir=runs/demo
    python evaluate.py --workdir=runs/demo --output_stride=8 --flip \\
        --scales=0.5,0.75,1,1.25,1.5,1.75
    python evaluate.py --workdir=runs/demo --pad_to=513
    python evaluate.py --workdir=runs/demo --crf --crf_parameters=4,67,3
    python evaluate.py --workdir=runs/seed0,runs/seed1,runs/seed2
    python evaluate.py --workdir=runs/new --compare=runs/demo/evaluation/val.json
    python evaluate.py --saved_model=exported --data_dir=runs/data/voc --output=scores
    python evaluate.py --pretrained=mobilenet_v2_voc_trainaug \\
        --data_dir=runs/data/voc --output=scores

Prints a table per class and writes into <workdir>/evaluation, of several workdirs into
<the first>/evaluation/ensemble, or --output:
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
from deeplab_tf.commands.evaluation_places import Places, find_places
from deeplab_tf.commands.segmenter_flags import (
    begin_segmenter,
    define_hide_flag,
    define_segmenter_flags,
    hidden_names,
    out_of_memory_advised,
    segmenter_of,
    workdirs_of,
)
from deeplab_tf.commands.steady_output import steady_output
from deeplab_tf.data.reading.bad_records import DATA_ERRORS, bad_records_named
from deeplab_tf.data.reading.pipeline import make_eval_dataset
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.data.records.info import DatasetInfo, read_info
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
from deeplab_tf.inference.padding import describe_outgrown
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.labels import Labels, hidden_classes
from deeplab_tf.networks.models import MIN_IMAGE_SIZE
from deeplab_tf.strangers_words import printable

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
    flags.DEFINE_string(
        "output",
        None,
        "Folder to write to [<workdir>/evaluation, of several <the first "
        "workdir>/evaluation/ensemble].",
    )
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
    workdirs = workdirs_of(values)
    places = find_places(
        *(workdirs, values.saved_model),
        *(values.data_dir, values.split, values.output),
        is_run=not values.pretrained,
    )
    name = places.split if part == WHOLE else f"{places.split}-{part[0]}-of-{part[1]}"
    with sole_writer_in(places.output, name):
        _evaluate_into(values, workdirs, part, places, name)


def _evaluate_into(
    values: flags.FlagValues,
    workdirs: list[str],
    part: tuple[int, int],
    places: Places,
    name: str,
) -> None:
    other = None if values.compare is None else read_summary(values.compare)
    segmenter = segmenter_of(values, workdirs)
    labels = segmenter.labels
    hidden = hidden_classes(labels.class_names, hidden_names(values))
    if other is not None:
        check_comparable(other, labels.class_names)
    pictures = BestAndWorst() if values.report else None
    data = (places.data_dir, places.split, part, values.batch_size)
    evaluation, measured = evaluate(segmenter, labels, *data, pictures, values.by_id)
    results = {
        **evaluation.results(),
        "weights": places.weights,
        "data_dir": places.data_dir,
        "split": places.split,
        "part": "{}/{}".format(*part),
        "batch_size": values.batch_size,
        "output_stride": values.output_stride or places.output_stride,
        **describe(segmenter),
        **measured,
    }
    print(table(results))
    print(speed(results))
    if results["larger_than_pad_to"]:
        print(describe_outgrown(results["larger_than_pad_to"], segmenter.pad_to))
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
) -> tuple[Evaluation, dict[str, float | None]]:
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
      (the evaluation; "seconds", "prediction_seconds" of them, "images_per_second",
      and "larger_than_pad_to", the images that are so).

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
    begin, predicting, outgrown = time.perf_counter(), 0.0, 0
    # A ValueError is what `add` makes of labels out of range.
    with bad_records_named(data_dir, [split], errors=(*DATA_ERRORS, ValueError)):
        with tqdm(total=total, unit="image", disable=None) as progress:
            for batch in same_size_batches(examples, batch_size):
                _check_size(batch)
                start = time.perf_counter()
                predictions = segmenter.predict_batch(np.stack([b[0] for b in batch]))
                predicting += time.perf_counter() - start
                outgrown += len(batch) * segmenter.outgrows_padding(batch[0][1].shape)
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
        "larger_than_pad_to": outgrown if segmenter.pad_to else None,
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


def describe(segmenter: Segmenter) -> dict:
    """Returns how a segmenter predicts, for JSON."""
    return {
        "scales": segmenter.scales,
        "flip": segmenter.flip,
        "window": segmenter.window,
        "overlap": segmenter.overlap,
        "pad_to": segmenter.pad_to,
        "crf": dataclasses.asdict(segmenter.crf) if segmenter.crf else None,
    }


def speed(results: dict) -> str:
    """Says how long an evaluation took."""
    predicting = results["images"] / results["prediction_seconds"]
    weights = results["weights"]
    each = f" by {len(weights)} networks each" if isinstance(weights, list) else ""
    return (
        f"{results['images']} images of {results['split']}{each} in "
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
