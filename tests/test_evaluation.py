"""The accumulator against single maps; evaluate.py from records to files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
import subprocess
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.commands import evaluate
from deeplab_tf.config import read_config, write_config
from deeplab_tf.data.reading.pipeline import make_eval_dataset
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.data.records.tfrecord import encode_example, shard_name
from deeplab_tf.evaluation import boundaries, intervals, metrics
from deeplab_tf.evaluation.class_order import label_table, same_ids
from deeplab_tf.evaluation.scores import (
    Evaluation,
    check_comparable,
    compare,
    comparison_table,
    read_summary,
    summarize,
    table,
    write_summary,
    write_table,
)
from deeplab_tf.files import InUse, sole_writer_in
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.weights import packing
from deeplab_tf.weights.packing import read_scores
from tests.support import run_script
from tests.support.small_files import files_up_to

pytestmark = pytest.mark.one_lane

NAMES = ("background", "cat", "dog", "horse")
LABELS = Labels(NAMES, ((0, 0, 0), (64, 0, 0), (64, 0, 128), (192, 0, 128)))
ROOT = Path(__file__).resolve().parent.parent
TIME = {"seconds", "prediction_seconds", "images_per_second"}


def random_images(count, seed=0, num_classes=3):
    """(name, label, classes): horse, the last class, never occurs."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        shape = (8 + 2 * index % 5, 12)
        label = np.kron(
            rng.integers(0, num_classes, (shape[0] // 2, 4)), np.ones((2, 3), int)
        )
        wrong = rng.random(label.shape) < 0.3
        classes = np.where(wrong, rng.integers(0, num_classes, label.shape), label)
        label[rng.random(label.shape) < 0.1] = 255
        yield f"image {index}", label, classes


def evaluated(images, **arguments):
    evaluation = Evaluation(NAMES, **arguments)
    for image in images:
        evaluation.add(*image)
    return evaluation


# --- The accumulator -----------------------------------------------------------------


def test_results_by_hand():
    """Two images of 6 pixels; void is not counted, horse occurs nowhere."""
    evaluation = Evaluation(NAMES, ignore_label=9, trimap_widths=(1, 2))
    label = np.array([[0, 0, 1], [0, 0, 9]])
    assert evaluation.add("b", label, np.array([[0, 0, 1], [0, 1, 1]])) == (
        pytest.approx((3 / 4 + 1 / 2) / 2)
    )
    assert evaluation.add("a", label * 0, label * 0) == 1.0
    results = evaluation.results(draws=10)
    assert results["per_class"]["background"] == {
        "iou": pytest.approx(9 / 10),
        "accuracy": pytest.approx(9 / 10),
        "pixels": 10,
        "predicted_pixels": 9,
        # The flat image has no boundary, so that the other one alone counts.
        "boundary_f": pytest.approx(
            boundaries.boundary_f_scores(label, [[0, 0, 1], [0, 1, 1]], 4, 9)[0]
        ),
    }
    undefined = dict.fromkeys(("iou", "accuracy", "boundary_f"))
    assert results["per_class"]["horse"] == {
        **undefined,
        "pixels": 0,
        "predicted_pixels": 0,
    }
    assert results["mean_iou"] == pytest.approx((9 / 10 + 1 / 2) / 2)
    assert results["mean_accuracy"] == pytest.approx((9 / 10 + 1) / 2)
    assert results["pixel_accuracy"] == pytest.approx(10 / 11)
    assert results["frequency_weighted_iou"] == pytest.approx((10 * 0.9 + 0.5) / 11)
    assert results["absent_classes"] == ["dog", "horse"]
    assert results["images"] == 2
    # On a boundary: the cat and the two pixels left of it and of void. Beside those:
    # the two of the first column. The flat image has no boundary.
    assert results["trimap"]["pixels"] == [3, 5]
    images = results["per_image"]
    assert images["names"] == ["a", "b"]
    assert images["intersection"] == [[6, 0, 0, 0], [3, 1, 0, 0]]
    assert images["label"] == [[6, 0, 0, 0], [4, 1, 0, 0]]
    assert images["prediction"] == [[6, 0, 0, 0], [3, 2, 0, 0]]
    assert images["mean_iou"] == [1.0, pytest.approx(0.625)]


def test_results_are_those_of_all_pixels_at_once():
    images = list(random_images(6))
    results = evaluated(images).results(draws=20, seed=5)
    label, classes = (
        np.concatenate([image[i].ravel() for image in images]) for i in (1, 2)
    )
    confusion = metrics.confusion_matrix(label, classes, 4)
    assert results["confusion_matrix"] == confusion.tolist()
    whole = summarize(confusion, NAMES)
    for key in ("mean_iou", "pixel_accuracy", "absent_classes"):
        assert results[key] == whole[key]
    scores = [boundaries.boundary_f_scores(*image[1:], 4) for image in images]
    expected = np.nanmean([s[:3] for s in scores], 0)
    found = [results["per_class"][name]["boundary_f"] for name in NAMES[:3]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert results["boundary_f"] == pytest.approx(expected.mean(), abs=1e-12)
    trimap = sum(boundaries.trimap_confusion(*image[1:], 4) for image in images)
    expected = [metrics.mean_iou(band) for band in trimap]
    np.testing.assert_allclose(results["trimap"]["mean_iou"], expected, atol=1e-12)
    counts = np.stack(
        [
            metrics.class_counts(metrics.confusion_matrix(*image[1:], 4))
            for image in images
        ]
    )
    interval = intervals.percentile_interval(
        intervals.bootstrap_mean_iou(counts, 20, 5)
    )
    assert results["mean_iou_interval"] == {
        "low": interval[0],
        "high": interval[1],
        "level": 0.95,
        "draws": 20,
        "seed": 5,
    }


def test_order_makes_no_difference_and_parts_add_up():
    images = list(random_images(7))
    whole = evaluated(images)
    results = whole.results()
    assert evaluated(reversed(images)).results() == results
    parts = [evaluated(images[::2]), evaluated(images[1::2])]
    np.testing.assert_array_equal(sum(p.confusion for p in parts), whole.confusion)
    np.testing.assert_array_equal(sum(p.trimap for p in parts), whole.trimap)
    rows = [
        (name, label)
        for part in parts
        for name, label in zip(
            part.results()["per_image"]["names"], part.results()["per_image"]["label"]
        )
    ]
    images = results["per_image"]
    assert sorted(rows) == list(zip(images["names"], images["label"]))


def test_void_and_nothing_are_undefined_not_zero(tmp_path):
    void = np.full((4, 4), 255)
    evaluation = Evaluation(NAMES)
    assert np.isnan(evaluation.add("void", void, void * 0))
    for each in (evaluation, Evaluation(NAMES)):
        results = each.results(draws=5)
        for key in ("mean_iou", "boundary_f", "mean_accuracy", "pixel_accuracy"):
            assert results[key] is None
        interval = results["mean_iou_interval"]
        assert interval["low"] is None and interval["high"] is None
        assert results["absent_classes"] == list(NAMES)
        write_summary(results, tmp_path / "void.json")  # NaN would be no JSON
        assert "mean IoU                    -" in table(results)


def test_labels_out_of_range_are_not_counted():
    evaluation = Evaluation(NAMES)
    with pytest.raises(ValueError, match=r"label must hold ids in \[0, 4\)"):
        evaluation.add("bad", np.array([[4]]), np.array([[0]]))
    assert not evaluation.confusion.any() and not evaluation.names


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="Received more than once: cat"):
        Evaluation(("cat", "dog", "cat"))


# --- Comparing -----------------------------------------------------------------------


def test_comparison_by_hand():
    """The second model misses more of the cat."""
    label = np.array([[0, 0, 1, 1]] * 2)
    worse = np.array([[0, 0, 0, 1]] * 2)
    results = evaluated([("a", label, label), ("b", label, label)]).results()
    other = evaluated([("a", label, worse), ("b", label, worse)]).results()
    comparison = compare(results, other)
    assert comparison["mean_iou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert comparison["difference"] == pytest.approx(5 / 12)
    assert comparison["interval"]["low"] == pytest.approx(5 / 12)  # images are alike
    assert comparison["interval"]["high"] == pytest.approx(5 / 12)
    assert comparison["per_class"]["cat"] == {
        "iou": pytest.approx(1 / 2),
        "difference": pytest.approx(1 / 2),
    }
    assert comparison["per_class"]["dog"] == {"iou": None, "difference": None}
    assert comparison["trimap"] == other["trimap"]
    rows = comparison_table(comparison).splitlines()
    assert rows[2].split() == ["cat", "50.00", "+50.00"]
    assert rows[3].split() == ["dog", "-", "-"]
    assert rows[-1] == (
        "mean IoU    58.33      +41.67  (95% interval +41.67 to +41.67)"
    )


def test_an_evaluation_compared_with_itself_differs_by_nothing():
    results = evaluated(random_images(5)).results()
    comparison = compare(results, results)
    interval = comparison["interval"]
    assert (comparison["difference"], interval["low"], interval["high"]) == (0, 0, 0)


def test_what_cannot_be_compared_is_refused():
    images = list(random_images(4))
    results = evaluated(images).results()
    fewer = evaluated(images[1:]).results()
    with pytest.raises(ValueError, match="same images.*4 and 3 images.*image 0$"):
        compare(results, fewer)
    twice = evaluated([images[0], *images]).results()
    with pytest.raises(ValueError, match="4 and 5 images; .* more than once"):
        compare(results, twice)
    name, label, classes = images[0]
    relabelled = evaluated([(name, np.full_like(label, 2), classes), *images[1:]])
    with pytest.raises(ValueError, match="against the same labels"):
        compare(results, relabelled.results())
    with pytest.raises(ValueError, match="same classes.*cat, dog and background, cat"):
        check_comparable(results, ("cat", "dog"))
    with pytest.raises(ValueError, match="It lacks: per_image, trimap. Evaluate"):
        check_comparable({"mean_iou": 0.5, "per_class": {}}, NAMES)


# --- Files ---------------------------------------------------------------------------


def test_json_is_read_back_and_keeps_rows_on_lines(tmp_path):
    images = [(f"[\n 1,\n 2\n] {name}", *maps) for name, *maps in random_images(3)]
    results = evaluated(images).results()
    path = tmp_path / "val.json"
    write_summary(results, path)
    assert read_summary(path) == results
    lines = path.read_text().splitlines()
    row = ", ".join(map(str, results["confusion_matrix"][0]))
    assert f"    [{row}]," in lines


def test_csv_has_a_row_for_each_class(tmp_path):
    results = evaluated(random_images(3)).results()
    write_table(results, tmp_path / "val.csv")
    with open(tmp_path / "val.csv", newline="", encoding="utf-8") as file:
        rows = {row.pop("class"): row for row in csv.DictReader(file)}
    assert list(rows) == list(NAMES)
    for name, row in rows.items():
        expected = results["per_class"][name]
        assert set(row) == set(expected)
        for key, value in expected.items():
            assert row[key] == ("" if value is None else str(value))


def test_a_file_that_is_no_evaluation_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.json is not there"):
        read_summary(tmp_path / "none.json")
    for text in ("{", "3", "[1]"):
        (tmp_path / "some.json").write_text(text)
        with pytest.raises(ValueError, match="some.json is not the JSON of an"):
            read_summary(tmp_path / "some.json")


# --- evaluate.py ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Folder of 7 images of two sizes, in two shards; void in each label."""
    folder = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(0)
    examples = []
    for index in range(7):
        height, width = (40, 48) if index % 3 else (48, 40)
        colors = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(colors).resize((width, height), 0).save(file, "PNG")
        label = np.kron(rng.integers(0, 4, (height // 8, width // 8)), np.ones((8, 8)))
        label[:3] = 255
        label = label.astype(np.uint8)
        examples.append(
            encode_example(file.getvalue(), label, f"n{index}", "png", height, width)
        )
    for shard in range(2):
        path = str(folder / shard_name("val", shard, 2))
        with tf.io.TFRecordWriter(path) as writer:
            for example in examples[shard::2]:
                writer.write(example)
    info = DatasetInfo("drawn", NAMES, splits={"val": 7})
    (folder / "info.json").write_text(info.to_json())
    return str(folder)


def by_redness():
    """Classes by the red of each pixel alone, whatever the batch."""

    def logits(images):
        level = images[..., :1] / 64
        return -tf.abs(level - tf.constant([0.5, 1.5, 2.5, 3.5]))

    return Segmenter(logits, labels=LABELS)


def run_evaluate(**arguments) -> None:
    """Runs evaluate.py in this process; raises as `evaluate_as` does."""
    defaults = {
        "scales": ["1"],
        "flip": False,
        "crf": False,
        "batch_size": 1,
        "report": False,
        "by_id": False,
    }
    values = dict.fromkeys(
        (
            *("workdir", "saved_model", "split", "data_dir", "output_stride"),
            *("window", "overlap", "crf_parameters", "part", "output", "compare"),
            *("hide", "pretrained", "pad_to"),
        )
    )
    evaluate.evaluate_as(types.SimpleNamespace(**{**values, **defaults, **arguments}))


def without_times(path) -> dict:
    return {k: v for k, v in json.loads(path.read_text()).items() if k not in TIME}


def test_parts_and_batches_change_nothing(records):
    segmenter = by_redness()

    def results_of(**arguments):
        evaluation, _ = evaluate.evaluate(
            segmenter, LABELS, records, "val", **arguments
        )
        return evaluation.results()

    whole = results_of()
    assert whole["images"] == 7
    assert results_of(batch_size=3) == whole
    for count in (2, 3):
        parts = [results_of(part=(k + 1, count), batch_size=2) for k in range(count)]
        total = sum(np.array(part["confusion_matrix"]) for part in parts)
        np.testing.assert_array_equal(total, whole["confusion_matrix"])
        pixels = sum(np.array(part["trimap"]["pixels"]) for part in parts)
        assert pixels.tolist() == whole["trimap"]["pixels"]
        names = sorted(name for part in parts for name in part["per_image"]["names"])
        assert names == whole["per_image"]["names"]
        sizes = [part["images"] for part in parts]
        assert max(sizes) - min(sizes) <= 1
    with pytest.raises(ValueError, match="Part 8/9 of split val holds no image."):
        results_of(part=(8, 9))


def test_batches_hold_images_of_one_size(records):
    seen = []

    class Watched(Segmenter):
        def predict_batch(self, images):
            seen.append(images.shape)
            return np.zeros(images.shape[:3], np.uint8)

    evaluate.evaluate(Watched(tf.identity), LABELS, records, "val", batch_size=3)
    assert sorted(seen) == [(1, 40, 48, 3), (3, 40, 48, 3), (3, 48, 40, 3)]


def test_another_number_of_classes_is_refused(records):
    labels = Labels(NAMES[:2], LABELS.colormap[:2])
    with pytest.raises(ValueError, match="The model knows 2 classes, .* have 4"):
        evaluate.evaluate(by_redness(), labels, records, "val")


def renamed(records, tmp_path, order=range(4), names=NAMES):
    """The records with the id order[i] for i, and called names[order[i]]."""
    folder = tmp_path / "renamed"
    folder.mkdir()
    old = np.arange(256)
    old[:4] = order
    for path in sorted(Path(records).glob("*.tfrecord")):
        with tf.io.TFRecordWriter(str(folder / path.name)) as writer:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                example = tf.train.Example.FromString(record)
                feature = example.features.feature
                png = feature["image/segmentation/class/encoded"].bytes_list
                label = np.array(Image.open(io.BytesIO(png.value[0])))
                file = io.BytesIO()
                Image.fromarray(np.argsort(old).astype(np.uint8)[label]).save(
                    file, "PNG"
                )
                png.value[0] = file.getvalue()
                writer.write(example.SerializeToString())
    names = tuple(names[index] for index in order)
    info = DatasetInfo("renamed", names, splits={"val": 7})
    (folder / "info.json").write_text(info.to_json())
    return str(folder)


@pytest.mark.parametrize(
    "ours, theirs",
    [("{}", "{}"), ("traffic {}", "Traffic_{}"), ("\u00e9{}", "e\u0301 {}")],
)
def test_classes_in_another_order_are_taken_by_name(
    records, tmp_path, capsys, ours, theirs
):
    other = renamed(records, tmp_path, (2, 0, 3, 1), [*map(theirs.format, NAMES)])
    labels = Labels(tuple(map(ours.format, NAMES)), LABELS.colormap)
    expected = evaluate.evaluate(by_redness(), LABELS, records, "val")[0]
    found = evaluate.evaluate(by_redness(), labels, other, "val")[0]
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    told = capsys.readouterr().out
    assert f"{theirs.format('dog')} (0 in the data, 2 in the model)" in told


def test_other_classes_are_refused_by_their_names(records, tmp_path):
    names = ("background", "cat", "sheep", "horse")
    other = renamed(records, tmp_path, names=names)
    sentence = "Only the model has dog; only the data have sheep.*--by_id"
    with pytest.raises(ValueError, match=sentence):
        evaluate.evaluate(by_redness(), LABELS, other, "val")
    by_id = evaluate.evaluate(by_redness(), LABELS, other, "val", by_id=True)[0]
    expected = evaluate.evaluate(by_redness(), LABELS, records, "val")[0]
    np.testing.assert_array_equal(by_id.confusion, expected.confusion)


@pytest.mark.parametrize("unnamed", ["class_{}", "class {}", "class{}"])
def test_classes_without_names_are_taken_by_id(unnamed):
    names = [unnamed.format(index) for index in range(4)]
    assert same_ids(NAMES, names).tolist() == [0, 1, 2, 3]
    assert same_ids(names, NAMES).tolist() == [0, 1, 2, 3]


def test_labels_of_no_class_stay_and_void_is_the_models():
    table = label_table(np.array([2, 0, 1]), ignore_label=9, model_ignore_label=255)
    assert table[[0, 1, 2, 3, 9, 254, 255]].tolist() == [2, 0, 1, 3, 255, 254, 255]


def test_an_image_that_is_too_small_is_named(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (20, 40)).save(file, "PNG")
    example = (file.getvalue(), np.zeros([40, 20], np.uint8), "small", "png", 40, 20)
    with tf.io.TFRecordWriter(str(tmp_path / shard_name("val", 0, 1))) as writer:
        writer.write(encode_example(*example))
    info = DatasetInfo("small", NAMES, splits={"val": 1})
    (tmp_path / "info.json").write_text(info.to_json())
    with pytest.raises(ValueError, match="^small is 40x20 .*at least 32 pixels"):
        evaluate.evaluate(by_redness(), LABELS, str(tmp_path), "val")


def test_evaluating_twice_gives_the_same_numbers(workdir, records, tmp_path, capsys):
    for name in "ab":
        run_evaluate(
            workdir=workdir,
            data_dir=records,
            split="val",
            output=str(tmp_path / name),
            flip=True,
            window=40,
            overlap=8,
            report=True,
        )
    results = without_times(tmp_path / "a" / "val.json")
    assert without_times(tmp_path / "b" / "val.json") == results
    first, second = (tmp_path / name / "val.csv" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert (results["flip"], results["window"], results["overlap"]) == (True, 40, 8)
    assert results["output_stride"] == 16 and results["crf"] is None
    assert (results["pad_to"], results["larger_than_pad_to"]) == (None, None)
    assert sum(np.ravel(results["confusion_matrix"])) == sum(
        np.ravel(results["per_image"]["label"])
    )
    printed = capsys.readouterr().out
    assert table(results) in printed
    assert f"{tmp_path / 'a' / 'val.html'}" in printed
    assert "7 images of val in" in printed


def test_an_exported_model_scores_as_its_run(workdir, exported, records, tmp_path):
    places = {"data_dir": records, "split": "val", "batch_size": 4}
    run_evaluate(workdir=workdir, output=str(tmp_path / "run"), **places)
    run_evaluate(
        saved_model=str(exported.parent),
        output=str(tmp_path / "exported"),
        compare=str(tmp_path / "run" / "val.json"),
        **places,
    )
    results = without_times(tmp_path / "exported" / "val.json")
    assert results["weights"] == str(exported)
    assert results["comparison"]["difference"] == pytest.approx(0, abs=1e-3)
    assert not (tmp_path / "exported" / "val.html").exists()


def test_padded_as_the_papers_evaluate(workdir, records, tmp_path, capsys):
    """Of the 7 images 3 are 48 rows high: one side is longer, the other is padded."""
    places = {"data_dir": records, "split": "val", "output": str(tmp_path)}
    run_evaluate(workdir=workdir, **places, pad_to=["40", "64"], report=True)
    results = without_times(tmp_path / "val.json")
    assert (results["pad_to"], results["larger_than_pad_to"]) == ([40, 64], 3)
    told = "3 images are larger than --pad_to=40x64 (height x width) and not cut"
    assert told in capsys.readouterr().out
    segmenter = Segmenter.from_workdir(workdir, pad_to=(40, 64))
    expected, _ = evaluate.evaluate(segmenter, LABELS, records, "val")
    assert results["confusion_matrix"] == expected.confusion.tolist()
    page = (tmp_path / "val.html").read_text()
    assert "<dt>Padded to</dt><dd>40x64</dd>" in page


@pytest.fixture
def two_runs(workdir, other_workdir, records, tmp_path):
    """Two workdirs of 4 classes in different orders, evaluated on the records."""
    for name, source, order in (
        ("a", workdir, (0, 1, 2, 3)),
        ("b", other_workdir, ORDER),
    ):
        shutil.copytree(source, tmp_path / name)
        config = dataclasses.replace(
            read_config(source), data_dir=records, class_names=[NAMES[i] for i in order]
        )
        write_config(config, tmp_path / name)
    return [str(tmp_path / name) for name in "ab"]


ORDER = (2, 0, 3, 1)


def test_several_workdirs_are_averaged(two_runs, records, capsys):
    """Each padded and mirrored; the second's classes in the order of the first."""
    run_evaluate(workdir=",".join(two_runs), pad_to=["64"], flip=True, report=True)
    folder = Path(two_runs[0], "evaluation", "ensemble")
    results = without_times(folder / "val.json")
    first, second = (
        Segmenter.from_workdir(run, pad_to=64, flip=True) for run in two_runs
    )
    confusion = 0
    for image, label in make_eval_dataset(select_records(records, "val")):
        probabilities = second.probabilities(image)[..., np.argsort(ORDER)]
        classes = (first.probabilities(image) + probabilities).argmax(-1)
        confusion += metrics.confusion_matrix(label.numpy(), classes, 4)
    assert results["confusion_matrix"] == confusion.tolist()
    assert results["weights"] == [str(Path(run, "best.npz")) for run in two_runs]
    assert results["output_stride"] == 16
    page = (folder / "val.html").read_text()
    assert all(weights in page for weights in results["weights"])
    told = capsys.readouterr().out
    assert f"Loading {', '.join(two_runs)} ..." in told
    assert f"Written: {folder}" in told and "7 images of val by 2 networks each" in told
    # A card of the first run does not take them for its own.
    assert read_scores(two_runs[0]) == []


def test_workdirs_that_are_no_ensemble_are_refused(two_runs, tmp_path):
    first, second = two_runs
    for workdir, message in (
        (f"{first},{first}/", "Expected each folder of --workdir once.* twice: .*a/"),
        (f"{first},{tmp_path}/none", "none"),
        (",", "Give either --workdir"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            run_evaluate(workdir=workdir)
    config = read_config(second)
    write_config(dataclasses.replace(config, data_dir="elsewhere"), second)
    with pytest.raises(ValueError, match="data_dir differ: .*'elsewhere' of .*b. Give"):
        run_evaluate(workdir=f"{first},{second}")
    names = ("background", "cat", "dog", "sheep")
    write_config(dataclasses.replace(config, class_names=names), second)
    with pytest.raises(ValueError, match="the same classes. Received: 4 of .*horse"):
        run_evaluate(workdir=f"{first},{second}")
    assert not Path(first, "evaluation", "ensemble", "val.json").exists()


def test_a_folder_whose_name_holds_a_comma_is_one(workdir, records, tmp_path):
    run = tmp_path / "a,b"
    shutil.copytree(workdir, run)
    run_evaluate(workdir=str(run), data_dir=records, split="val")
    results = without_times(run / "evaluation" / "val.json")
    assert results["weights"] == str(run / "best.npz")


def test_a_packed_network_is_compared_with_its_hashes_once(
    workdir, records, tmp_path, monkeypatch
):
    packing.pack(workdir, tmp_path / "packed", licence="mit", data="")
    hashed, digest = [], packing._digest
    monkeypatch.setattr(
        packing, "_digest", lambda path: hashed.append(path.name) or digest(path)
    )
    places = {"data_dir": records, "split": "val", "output": str(tmp_path)}
    run_evaluate(pretrained=str(tmp_path / "packed"), **places)
    assert "best.npz" in hashed and len(set(hashed)) == len(hashed)


def test_a_refused_comparison_keeps_the_evaluation(workdir, records, tmp_path):
    places = {"workdir": workdir, "data_dir": records, "split": "val"}
    run_evaluate(**places, part="1/2", output=str(tmp_path / "half"))
    half = tmp_path / "half" / "val-1-of-2.json"
    with pytest.raises(ValueError, match="Only evaluations of the same images"):
        run_evaluate(**places, output=str(tmp_path), compare=str(half))
    assert without_times(tmp_path / "val.json")["images"] == 7
    # Other classes, or another file, are known before anything is counted.
    other = json.loads(half.read_text())
    other["per_class"]["cow"] = other["per_class"].pop("cat")
    for text, message in (
        (json.dumps(other), "Only evaluations of the same classes"),
        ("{}", "Expected an evaluation to compare with"),
    ):
        half.write_text(text)
        with pytest.raises(ValueError, match=message):
            run_evaluate(**places, output=str(tmp_path / "no"), compare=str(half))
        assert not (tmp_path / "no").exists()


def test_arguments_that_contradict_each_other_are_refused(workdir, exported, records):
    for arguments, message in (
        ({}, "either --workdir or --saved_model"),
        ({"workdir": workdir, "saved_model": "x"}, "either --workdir or"),
        ({"saved_model": str(exported)}, "needs --data_dir.* and --output"),
        (
            {
                "saved_model": str(exported),
                "data_dir": records,
                "output": "x",
                "output_stride": 8,
            },
            "--output_stride needs --workdir",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run_evaluate(**arguments)


@pytest.mark.parametrize("part", ["3/2", "0/2", "1", "1/0", "a/b", "-1/2"])
def test_parts_that_are_not_there_are_refused(part):
    with pytest.raises(ValueError, match=f"Received: {part}"):
        evaluate.parse_part(part)


def test_the_script_says_what_is_wrong_and_exits_with_1(workdir, records, tmp_path):
    """The real command line, once through to the files and once refused."""
    flags = [f"--data_dir={records}", "--split=val", f"--output={tmp_path}"]
    command = run_script.command("evaluate.py", f"--workdir={workdir}", *flags)
    done = subprocess.run(
        [*command, "--part=2/2", "--batch_size=2", "--noreport"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["val-2-of-2.csv", "val-2-of-2.json"]
    done = subprocess.run(
        [*command, f"--compare={tmp_path / 'none.json'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"evaluate.py: {tmp_path / 'none.json'} is not there. Expected the JSON of an "
        "evaluation."
    )


def test_a_result_that_cannot_be_written_leaves_all_of_before(tmp_path, monkeypatch):
    """Of three files none is new while another is old."""
    results = evaluated(random_images(2)).results()
    monkeypatch.setattr(evaluate, "report_text", lambda *_: "a page")
    evaluate.write_all(results, LABELS, True, str(tmp_path), "val")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["val.csv", "val.html", "val.json"]
    monkeypatch.setattr(evaluate, "report_text", lambda *_: "x" * 200_000)
    sentence = "val.html cannot be written: File too large"
    with files_up_to(100_000), pytest.raises(OSError, match=sentence):
        evaluate.write_all({**results, "x": 1}, LABELS, True, str(tmp_path), "val")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    evaluate.write_all(results, LABELS, None, str(tmp_path), "val")
    assert sorted(os.listdir(tmp_path)) == ["val.csv", "val.json"]


def test_two_evaluations_into_one_place_do_not_meet(workdir, records, tmp_path):
    arguments = {"workdir": workdir, "data_dir": records, "output": str(tmp_path)}
    with sole_writer_in(tmp_path, "val"):
        with pytest.raises(
            InUse, match=f"val is being written by process {os.getpid()}"
        ):
            run_evaluate(**arguments)
        run_evaluate(**arguments, part="1/2")  # which is another place
    assert sorted(os.listdir(tmp_path)) == ["val-1-of-2.csv", "val-1-of-2.json"]
