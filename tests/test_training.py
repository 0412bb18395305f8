"""Schedules, strategies, runs that resume, and what train.py says to bad input."""

import csv
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from datasets import build_shapes
from deeplab_tf import RECIPES, TrainConfig, load_workdir, recipe_config
from deeplab_tf.commands import evaluate, train
from deeplab_tf.config import (
    describe_difference,
    parse_changes,
    read_config,
    write_config,
)
from deeplab_tf.data.reading import selection
from deeplab_tf.data.records.info import INFO_FILE, read_info
from deeplab_tf.evaluation.scores import write_summary
from deeplab_tf.networks.layers import is_keras3
from deeplab_tf.networks.models import (
    ALWAYS_AUXILIARY,
    AUXILIARY_HEAD,
    build_model,
)
from deeplab_tf.networks.weight_files import load_weights, read_weights, save_weights
from deeplab_tf.training import compiling, loop, resuming, strategies
from deeplab_tf.training.log import read_log
from deeplab_tf.workdir import BEST_WEIGHTS, LAST_WEIGHTS, LOG_FILE
from tests.support import run_script
from tests.support.lanes import all_in_lane_a, installed_lanes, run_in_lane
from tests.support.networks import assert_same_arrays, randomize, small_config

ROOT = Path(__file__).resolve().parent.parent
TINY = dataclasses.replace(
    recipe_config("demo"),
    backbone="tiny",
    multi_grid=(1, 1, 1),
    # Neither the network nor its steps matter here: they are to be traced quickly.
    atrous_rates=(),
    optimizer="sgd",
    crop_size=(33, 33),
    batch_size=4,
    validate_every=1,
    steps=10,
    epochs=3,
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    build_shapes.build(folder, num_train=16, num_val=3, num_processes=1)
    return str(folder)


@pytest.fixture
def tiny_run(scenes, monkeypatch):
    """(config, data) of ten steps on 16 scenes."""
    config = dataclasses.replace(TINY, data_dir=scenes)
    recipe = dataclasses.replace(RECIPES["demo"], config=config)
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    return train.make_run("tiny", {})


@pytest.fixture
def tiny(tiny_run):
    return tiny_run[0]


@pytest.fixture
def data(tiny_run):
    return tiny_run[1]


@pytest.fixture(scope="module")
def replicas():
    """What became of the cases of `run_replicas` on one and on two logical CPUs."""
    return [run_script.answer_of("run_replicas", count) for count in (1, 2)]


def test_two_replicas_equal_one_device(replicas):
    one, two = (answer["training"] for answer in replicas)
    assert (one["replicas"], two["replicas"]) == (1, 2)
    np.testing.assert_allclose(two["history"], one["history"], atol=1e-5)
    np.testing.assert_allclose(two["weights"], one["weights"], atol=1e-5)
    assert two["score"] == pytest.approx(one["score"], abs=1e-6)


def test_two_replicas_have_the_moving_statistics_of_one_device(replicas):
    """In float32, with weights that stay: steps would part by rounding alone.

    Images of a channel differ much between replicas, and image pooling has one value
    each; without Bessel's correction its variance was 4 / 3 off.
    """
    one, two = (answer["standing"] for answer in replicas)
    assert any("aspp_pool" in name for name in one["statistics"])
    # An estimate is of single batches, which no average over steps has smoothed.
    for kind, tolerance in (("statistics", 1e-5), ("estimated", 1e-4)):
        assert two[kind].keys() == one[kind].keys()
        for name, expected in one[kind].items():
            np.testing.assert_allclose(
                two[kind][name],
                expected,
                rtol=tolerance,
                atol=tolerance,
                err_msg=name,
            )
    # The mean of the three batches that it was taken from; training saw all five.
    assert one["estimated"] != one["statistics"]


@pytest.mark.parametrize(
    "total_steps, step, expected",
    [
        (10, 0, [(0, 0, 2, 4), (8, 2, 3, 2)]),
        (10, 8, [(8, 2, 3, 2)]),
        (10, 9, [(9, 2, 3, 1)]),
        (10, 3, [(3, 0, 1, 1), (4, 1, 2, 4), (8, 2, 3, 2)]),
        (10, 10, []),
        (8, 4, [(4, 1, 2, 4)]),
        (3, 0, [(0, 0, 1, 3)]),
    ],
)
def test_steps_are_split_into_epochs(total_steps, step, expected):
    assert loop.epoch_spans(total_steps, 4, step) == expected


def test_validation_comes_regularly_and_at_the_end():
    config = TrainConfig(epochs=7, validate_every=3)
    assert loop.validation_epochs(config) == [3, 6, 7]
    assert loop.validation_epochs(TrainConfig(epochs=6, validate_every=3)) == [3, 6]


DRAWN = dataclasses.replace(
    TINY,
    num_classes=2,
    class_names=("dark", "bright"),
    colormap=((0, 0, 0), (255, 255, 255)),
)


class DrawnBatches:
    """Data that lies in no records: noise, one half of it dark and of another class."""

    steps_per_epoch, num_validation, num_skipped = 2, 3, 0

    def __init__(self):
        self.entered = []  # the steps at which training began to read

    def batch(self, size, seed):
        rng = np.random.default_rng(seed)
        label = np.zeros((size, 33, 33), np.int32)
        label[:, rng.integers(5, 28) :] = 1
        image = rng.uniform(0, 100, (size, 33, 33, 3)) + 150 * label[..., None]
        return image.astype(np.float32), label

    def train_batches(self, start_step=0):
        self.entered.append(start_step)
        batches = [self.batch(4, step) for step in range(4)]
        images, labels = (np.stack(part) for part in zip(*batches))
        data = tf.data.Dataset.from_tensor_slices((images, labels))
        return data.repeat().skip(start_step)

    def validation_batches(self, batch_size=1):
        return tf.data.Dataset.from_tensor_slices(self.batch(3, 99)).batch(batch_size)

    def panels(self):
        image, label = self.batch(1, 99)
        return [(image[0].astype(np.uint8), label[0])]


@pytest.mark.both_keras
def test_the_loop_trains_on_data_of_any_origin(tmp_path):
    """And reads on from the step at which it was stopped."""
    config = dataclasses.replace(DRAWN, steps=4, epochs=2)
    data, strategy = DrawnBatches(), strategies.make_strategy("default")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(resuming.RunStopped):
            loop.train(config, data, str(tmp_path), strategy)
    score = loop.train(config, data, str(tmp_path), strategy)
    assert data.entered == [0, 3]
    rows = list(csv.DictReader(Path(tmp_path, "log.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert float(rows[-1]["val_mean_iou"]) == score


JUDGED = dataclasses.replace(
    DRAWN,
    steps=4,
    epochs=2,
    learning_rate=0.05,
    ema_momentum=0.5,
    batch_norm_batches=3,
)


@pytest.fixture(scope="module")
def judged_run(tmp_path_factory):
    """(workdir, rows of the log) of a run with averaged weights and their BatchNorm."""
    workdir = tmp_path_factory.mktemp("judged")
    strategy = strategies.make_strategy("default")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resuming.ResumableRun, "on_test_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):  # in the first validation
            loop.train(JUDGED, DrawnBatches(), str(workdir), strategy)
    loop.train(JUDGED, DrawnBatches(), str(workdir), strategy)
    return workdir, list(csv.DictReader((workdir / "log.csv").open()))


@pytest.mark.both_keras
def test_saved_weights_are_those_that_were_validated(judged_run):
    workdir, rows = judged_run
    scores = [float(row["val_mean_iou"]) for row in rows]
    for name, score in ((LAST_WEIGHTS, scores[-1]), (BEST_WEIGHTS, max(scores))):
        model = build_model(JUDGED)
        compiling.compile_model(model, JUDGED)
        load_weights(model, workdir / name)
        batches = DrawnBatches().validation_batches()
        again = model.evaluate(batches, verbose=0, return_dict=True)
        assert again["mean_iou"] == pytest.approx(score, abs=1e-6)


@pytest.mark.both_keras
def test_batch_norm_is_that_of_the_averaged_weights_by_hand(judged_run):
    """The mean over batches of each one's mean and Bessel-corrected variance."""
    model = build_model(JUDGED)
    saved = read_weights(judged_run[0] / LAST_WEIGHTS)
    load_weights(model, judged_run[0] / LAST_WEIGHTS)
    stem = keras.Model(model.input, model.get_layer("tiny_stem_conv").output)
    features = [
        np.asarray(stem(image), np.float64).reshape(-1, 8)
        for image, _ in DrawnBatches().train_batches().take(3)
    ]
    for leaf, values in (
        ("moving_mean", [f.mean(0) for f in features]),
        ("moving_variance", [f.var(0, ddof=1) for f in features]),
    ):
        found = saved[f"tiny_stem_bn/{leaf}"]
        np.testing.assert_allclose(found, np.mean(values, 0), rtol=2e-4, atol=1e-5)


@pytest.mark.both_keras
def test_estimating_batch_norm_leaves_training_as_it_was(judged_run, tmp_path):
    """Its own statistics too, bit for bit: only what is saved differs."""
    plain = dataclasses.replace(JUDGED, batch_norm_batches=0)
    strategy = strategies.make_strategy("default")
    loop.train(plain, DrawnBatches(), str(tmp_path), strategy)
    states = []
    for workdir in (judged_run[0], tmp_path):
        model = build_model(JUDGED)
        compiling.compile_model(model, JUDGED)
        assert resuming.ResumableRun(str(workdir), model).restore()
        states.append(model.get_weights())
    for estimated, expected in zip(*states):
        np.testing.assert_array_equal(estimated, expected)
    ours, theirs = (
        read_weights(folder / LAST_WEIGHTS) for folder in (judged_run[0], tmp_path)
    )
    differ = {name for name in ours if (ours[name] != theirs[name]).any()}
    assert differ and all("/moving_" in name for name in differ)


@pytest.mark.both_keras
def test_averaged_weights_end_a_run_by_their_own_score(tmp_path):
    """Early stopping sees the validation of the average, which best.npz holds."""
    config = dataclasses.replace(
        STANDING,
        ema_momentum=0.5,
        frozen_batch_norm=False,
        batch_norm_batches=1,
        patience=1,
    )
    strategy = strategies.make_strategy("default")
    loop.train(config, standing_batches(), str(tmp_path), strategy)
    assert steps_of(tmp_path) == ["2", "4"]
    best, last = (read_weights(tmp_path / n) for n in (BEST_WEIGHTS, LAST_WEIGHTS))
    for name, value in best.items():  # nothing moves, BatchNorm's estimate neither
        np.testing.assert_allclose(last[name], value, atol=1e-6, err_msg=name)


STANDING = dataclasses.replace(  # no step changes what is predicted
    DRAWN,
    learning_rate=0.0,
    frozen_batch_norm=True,
    patience=2,
    steps=10,
    epochs=5,
)


def standing_batches():
    data = DrawnBatches()
    data.validation_batches = lambda size=1: DrawnBatches().validation_batches(3)
    return data


def steps_of(workdir):
    return [row["step"] for row in csv.DictReader((workdir / "log.csv").open())]


@pytest.mark.both_keras
def test_a_run_ends_when_validation_gets_no_better(tmp_path, capsys):
    """Two validations after the first; also where it was stopped in between."""
    data, strategy = standing_batches(), strategies.make_strategy("default")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(resuming.RunStopped):
            loop.train(STANDING, data, str(tmp_path), strategy)
    assert loop.train(STANDING, data, str(tmp_path), strategy) is not None
    assert steps_of(tmp_path) == ["2", "4", "6"]
    assert (tmp_path / BEST_WEIGHTS).exists()
    assert capsys.readouterr().out.count("none of the last 2 validations was") == 1
    assert loop.train(STANDING, data, str(tmp_path), strategy) is None
    assert "Stopped early: none of the last 2" in capsys.readouterr().out
    assert steps_of(tmp_path) == ["2", "4", "6"]


@pytest.mark.parametrize(
    "steps, sentence",
    [(6, "ended before, after 6 of 10 steps"), (10, "All 10 steps are done already")],
)
def test_the_end_of_a_run_that_was_over_says_how_far_it_came(
    steps, sentence, tmp_path, monkeypatch
):
    write_config(STANDING, tmp_path)
    monkeypatch.setattr(train, "last_step", lambda folder: steps)
    assert sentence in train.describe_end(None, str(tmp_path))


@pytest.mark.both_keras
def test_replicas_end_when_validation_gets_no_better(tmp_path):
    strategy = strategies.make_strategy("mirrored")
    loop.train(STANDING, standing_batches(), str(tmp_path), strategy)
    assert steps_of(tmp_path) == ["2", "4", "6"]


def test_a_resumed_run_may_have_another_patience(tiny, tmp_path):
    resuming.claim_workdir(tiny, str(tmp_path))
    (tmp_path / LAST_WEIGHTS).touch()
    resuming.claim_workdir(dataclasses.replace(tiny, patience=3), str(tmp_path))


@pytest.mark.parametrize(
    "scores, expected",
    [([], 0), ([0.1], 0), ([0.1, 0.1], 1), ([0.3, 0.5, 0.4, 0.5], 2), ([1, 2], 0)],
)
def test_validations_since_the_best_by_hand(scores, expected):
    assert resuming.validations_since_best(scores) == expected


def test_scores_of_before_leave_out_an_epoch_that_is_done_again(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,val_mean_iou\n0,0.5\n1,\n2,0.25\n3,0.75\n")
    assert resuming.earlier_scores(tmp_path, 3) == [0.5, 0.25]
    assert resuming.earlier_scores(tmp_path, 0) == []


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.both_keras
def test_a_stopped_run_ends_with_the_weights_of_an_uninterrupted_one(
    tiny, data, tmp_path, capsys
):
    """Bit for bit, with dropout; stopped inside an epoch and at the end of one."""
    strategy = strategies.make_strategy("mirrored")
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    config = dataclasses.replace(tiny, dropout_rate=0.5, optimizer="adam")
    loop.train(config, data, whole, strategy)
    for stop in (5, 8):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, stop)
            message = f"SIGTERM after step {stop}"
            with pytest.raises(resuming.RunStopped, match=message):
                loop.train(config, data, broken, strategy)
    loop.train(config, data, broken, strategy)
    printed = capsys.readouterr().out
    assert "Resuming after step 8 of 10." in printed
    assert printed.count("The log's row of epoch") == 1  # 8 is the end of an epoch
    assert "row of epoch 2 will be of its last 3 steps" in printed
    assert_same_arrays(
        *(read_weights(os.path.join(run, LAST_WEIGHTS)) for run in (broken, whole))
    )
    rows = Path(broken, "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2"]
    assert all(row.count(",") == rows[0].count(",") for row in rows)
    assert list(Path(whole, "logs").rglob("events*"))
    assert loop.train(config, data, broken, strategy) is None  # nothing is left to do


def stop_at(patch, step):
    """Sends this process SIGTERM as a step ends."""
    original = resuming.ResumableRun.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, batch, logs)

    patch.setattr(resuming.ResumableRun, "on_train_batch_end", on_train_batch_end)


@pytest.mark.both_keras
def test_a_run_killed_in_validation_validates_when_it_resumes(tiny, data, tmp_path):
    strategy = strategies.make_strategy("default")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resuming.ResumableRun, "on_test_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.train(tiny, data, str(tmp_path), strategy)
    assert not (tmp_path / BEST_WEIGHTS).exists()
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(resuming.RunStopped):
            loop.train(tiny, data, str(tmp_path), strategy)
    assert (tmp_path / BEST_WEIGHTS).exists()


@pytest.mark.both_keras
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_state(
    tiny, data, tmp_path
):
    config = dataclasses.replace(tiny, checkpoint_steps=2)
    original = resuming.ResumableRun.on_train_batch_end
    strategy = strategies.make_strategy("default")

    def on_train_batch_end(self, batch, logs=None):
        loss = float("nan") if self.step == 2 else logs["loss"]
        original(self, batch, {"loss": loss})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resuming.ResumableRun, "on_train_batch_end", on_train_batch_end)
        with pytest.raises(
            resuming.NonFiniteLoss, match="nan at step 3.*state of step 2.*learning"
        ):
            loop.train(config, data, str(tmp_path), strategy)
    (checkpoint,) = os.listdir(tmp_path / "checkpoints")
    assert checkpoint.endswith("-step-2")


def test_evaluation_counts_every_pixel_of_a_trained_workdir(tiny, tmp_path):
    write_config(tiny, tmp_path)
    save_weights(randomize(build_model(tiny)), tmp_path / BEST_WEIGHTS)
    segmenter = evaluate.Segmenter.from_workdir(tmp_path)
    labels = segmenter.labels
    evaluation, _ = evaluate.evaluate(segmenter, labels, tiny.data_dir, "val")
    info = read_info(tiny.data_dir)
    assert len(evaluation.names) == info.splits["val"]
    confusion = evaluation.confusion
    np.testing.assert_array_equal(confusion.sum(1), info.pixel_counts["val"])
    assert (confusion.sum(0) > 0).sum() > 1  # the random network sees several classes
    results = evaluation.results()
    write_summary(results, tmp_path / "val.json")
    assert evaluate.read_summary(tmp_path / "val.json") == results
    row = evaluate.table(results).splitlines()[1]
    first = results["per_class"][tiny.class_names[0]]
    assert row.split()[:2] == [tiny.class_names[0], f"{100 * first['iou']:.2f}"]


def test_weights_start_another_run_without_the_classifier(tiny, tmp_path):
    write_config(tiny, tmp_path)
    trained = randomize(build_model(tiny))
    save_weights(trained, tmp_path / LAST_WEIGHTS)
    config = dataclasses.replace(tiny, num_classes=3, init=str(tmp_path))
    model = build_model(config)
    classifier = model.get_layer("logits").get_weights()
    report = compiling.initialize(model, config)
    assert report.missing == ("logits/bias", "logits/kernel")
    np.testing.assert_array_equal(
        model.get_layer("logits").get_weights()[0], classifier[0]
    )
    name = "aspp_projection_conv"
    np.testing.assert_array_equal(
        model.get_layer(name).get_weights()[0], trained.get_layer(name).get_weights()[0]
    )


def test_run_from_a_workdir_continues_its_network(tiny, tmp_path):
    trained = dataclasses.replace(
        tiny,
        backbone="resnet18",
        output_stride=8,
        atrous_rates=(4, 8),
        image_pooling=False,
        resize="half_pixel",
    )
    write_config(trained, tmp_path)
    save_weights(randomize(build_model(trained)), tmp_path / LAST_WEIGHTS)
    config, _ = train.make_run("tiny", {"init": str(tmp_path)})
    assert (config.backbone, config.resize) == ("resnet18", "half_pixel")
    assert config.output_stride == tiny.output_stride == 16
    assert config.atrous_rates == (2, 4)  # the same pixels at twice the stride
    assert config.learning_rate == tiny.learning_rate
    report = compiling.initialize(build_model(config), config)
    assert not report.missing and not report.unused
    chosen = train.make_config(
        "tiny", {"init": str(tmp_path), "backbone": "mobilenet_v2_0.35"}
    )
    assert chosen.backbone == "mobilenet_v2_0.35"


# The head of all others is that of the last.
@pytest.mark.two_lanes
@pytest.mark.parametrize(
    "name", all_in_lane_a([*ALWAYS_AUXILIARY, "deeplab_v3plus"], ["deeplab_v2"])
)
def test_train_py_trains_models_with_auxiliary_outputs(name, tiny, data, tmp_path):
    """Losses of auxiliary outputs, checkpoints, the score under its longer name."""
    config = dataclasses.replace(
        tiny,
        model=name,
        backbone=small_config(name).backbone,
        auxiliary_head=name in AUXILIARY_HEAD,
        scale_losses="own",
        multi_grid=None,
        atrous_rates=None,
        learning_rate=1e-4,
        steps=1,
        epochs=1,
    )
    resuming.claim_workdir(config, str(tmp_path))
    strategy = strategies.make_strategy("default")
    score = loop.train(config, data, str(tmp_path), strategy)
    assert 0 <= score <= 1
    (row,) = read_log(tmp_path / LOG_FILE)
    extra = "scale_0.5_loss" if name == "deeplab_v2" else "auxiliary_loss"
    assert row[extra] > 0 and row[f"val_{extra}"] > 0
    assert {BEST_WEIGHTS, LAST_WEIGHTS} <= set(os.listdir(tmp_path))
    assert loop.train(config, data, str(tmp_path), strategy) is None
    model, _ = load_workdir(tmp_path)
    assert not isinstance(model.output, dict)


def test_any_field_can_be_set():
    changes = ["multi_grid=[1, 2, 1]", "separable=true", "init=imagenet", "steps=5"]
    assert parse_changes(changes) == {
        "multi_grid": (1, 2, 1),
        "separable": True,
        "init": "imagenet",
        "steps": 5,
    }
    for change in ("multi_grids=[1]", "steps"):
        with pytest.raises(ValueError, match=f"FIELD=VALUE.*{change[:5]}.*multi_grid"):
            parse_changes([change])


def test_weights_of_one_keras_load_in_the_others(tiny, tmp_path):
    """Writes here, loads in the other lanes that are installed, compares logits."""
    config = dataclasses.replace(tiny, backbone="mobilenet_v2_0.35")
    write_config(config, tmp_path)
    model = randomize(build_model(config))
    save_weights(model, tmp_path / BEST_WEIGHTS)
    image = np.random.default_rng(0).uniform(0, 255, (1, 65, 49, 3)).astype("float32")
    np.save(tmp_path / "image.npy", image)
    script = (
        "import numpy as np, deeplab_tf;"
        f"model, _ = deeplab_tf.load_workdir({str(tmp_path)!r});"
        f"image = np.load({str(tmp_path / 'image.npy')!r});"
        f"np.save({str(tmp_path / 'logits.npy')!r}, model(image))"
    )
    lanes = installed_lanes()
    if not lanes:
        pytest.skip("no other lane is installed: run make test and make test-tf215")
    for lane in lanes:
        run_in_lane(lane, "-c", script)
        logits = np.load(tmp_path / "logits.npy")
        np.testing.assert_allclose(logits, model(image), rtol=1e-3, atol=1e-3)


def test_damaged_weights_are_refused(tiny, tmp_path):
    model = build_model(tiny)
    save_weights(model, tmp_path / "w.npz")
    data = (tmp_path / "w.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut short"):
        load_weights(model, tmp_path / "short.npz")
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="not a weight file"):
        load_weights(model, tmp_path / "pickle.npz")


def test_workdir_of_another_configuration_is_refused(tiny, tmp_path):
    resuming.claim_workdir(tiny, str(tmp_path))
    (tmp_path / LAST_WEIGHTS).touch()
    other = dataclasses.replace(tiny, learning_rate=0.5)
    other = dataclasses.replace(other, seed=7)
    with pytest.raises(ValueError, match="of another configuration:\n") as caught:
        resuming.claim_workdir(other, str(tmp_path))
    assert str(caught.value).splitlines()[1:3] == [
        "  learning_rate: 0.002 -> 0.5",
        "  seed: 0 -> 7",
    ]
    assert "--workdir" in str(caught.value).splitlines()[3]
    assert read_config(tmp_path) == tiny
    assert describe_difference(tiny, tiny) == ""


def test_a_run_whose_records_have_got_other_colours_is_resumed(tiny, tmp_path):
    resuming.claim_workdir(tiny, str(tmp_path))
    (tmp_path / LAST_WEIGHTS).touch()
    colormap = tuple((index, 0, 0) for index in range(tiny.num_classes))
    assert colormap != tiny.colormap
    other = dataclasses.replace(tiny, colormap=colormap)
    resuming.claim_workdir(other, str(tmp_path))
    assert read_config(tmp_path) == tiny


def test_folder_without_a_run_says_so(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="not a workdir.*train.py"):
        load_workdir(tmp_path)
    write_config(tiny, tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights yet"):
        load_workdir(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"crop_size": ["31"]}, "at least 32 pixels.*31"),
        ({"crop_size": ["a"]}, "SIZE or HEIGHT,WIDTH, such as.*Received: a"),
        ({"crop_size": ["1", "2", "3"]}, "or HEIGHT,WIDTH, such as.*Received: 1,2,3"),
        ({"data_dir": "nowhere"}, "No info.json in nowhere.*build_"),
        ({"init": "nowhere"}, "no nowhere to start from.*weight file"),
        ({"init": "runs/x/camvid_stage1"}, "Run first.*--recipe=camvid_stage1"),
    ],
)
def test_bad_flags_say_what_was_expected(tiny, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train.make_run("tiny", changes)


def test_flags_change_a_recipe(tiny):
    config, _ = train.make_run("tiny", {"epochs": 3, "crop_size": ["65", "97"]})
    assert config.steps == 12  # the recipe's steps give way to the epochs asked for
    assert config.crop_size == (65, 97)
    assert train.make_run("tiny", {"steps": 5})[0].epochs == 2
    assert config.num_classes == len(config.class_names) == len(config.colormap)


@pytest.mark.both_keras
def test_hard_classes_lengthen_the_epoch(tiny, monkeypatch, tmp_path, capsys):
    counted = []
    count_pixels = selection.count_pixels
    monkeypatch.setattr(
        selection,
        "count_pixels",
        lambda *split: counted.append(split) or count_pixels(*split),
    )
    info = read_info(tiny.data_dir)
    name = info.class_names[1]
    config, data = train.make_run("tiny", {"duplicate": ((name, 3),), "epochs": 2})
    records = data.training
    assert set(records.repeats) == {1, 3}
    assert records.num_examples == records.repeats.sum()
    assert config.steps == 2 * (records.num_examples // config.batch_size)
    images, _ = next(iter(data.train_batches(start_step=1)))
    assert images.shape == (4, 33, 33, 3)
    loop.train(config, data, str(tmp_path), strategies.make_strategy("default"))
    assert len(counted) == 1  # every label is decoded once a run
    assert capsys.readouterr().out.count(f"{records.num_examples} examples an") == 1
    with pytest.raises(ValueError, match="sofa"):
        train.make_run("tiny", {"duplicate": (("sofa", 2),), "epochs": 2})


def test_every_configuration_flag_is_a_field():
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert set(train.CONFIG_FLAGS) <= fields


def test_unknown_strategy_names_the_choices():
    with pytest.raises(ValueError, match="mirrored.*Received: 'two'"):
        strategies.make_strategy("two")


@pytest.mark.skipif(not is_keras3(), reason="Keras 2 can run it")
def test_strategy_that_this_keras_cannot_run_says_what_can():
    with pytest.raises(ValueError, match="needs Keras 2.*TF_USE_LEGACY_KERAS=1"):
        strategies.make_strategy("multi_worker")


@pytest.mark.skipif(not importlib.util.find_spec("tf_keras"), reason="has Keras 2")
@pytest.mark.parametrize(
    "arguments, chosen",
    [
        (["train.py", "--strategy=multi_worker"], "1"),
        (["deeplab-tf train", "--strategy", "tpu"], "1"),
        (["train.py", "--strategy=mirrored"], "None"),
    ],
)
def test_keras_2_is_chosen_before_tensorflow_is_imported(arguments, chosen):
    code = f"""
import os, sys
sys.argv, sys.modules["tensorflow"] = {arguments}, None
try:
    import deeplab_tf.commands.train
except ImportError:
    print(os.environ.get("TF_USE_LEGACY_KERAS"))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == chosen, done.stderr


def test_train_py_ends_with_one_sentence():
    done = subprocess.run(
        [sys.executable, "train.py", "--data_dir=nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("train.py: No info.json in nowhere")


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"class_weights": (1.0, 2.0)}, r"class_weights needs .* Received: 2"),
        ({"class_weights": (1.0,) * 9}, r"class_weights needs .* Received: 9"),
        ({"num_classes": 2}, r"num_classes is that of the records.*Received: 2"),
        ({"class_names": ("a", "b")}, r"class_names is that of the records"),
    ],
)
def test_fields_that_contradict_the_records_are_refused(tiny_run, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train.make_run("tiny", changes)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_labelled_pixel_is_refused(split, tiny, tmp_path):
    """It would learn nothing, or be validated on nothing, without a word."""
    info = read_info(tiny.data_dir)
    counts = {**info.pixel_counts, split: [0] * info.num_classes}
    info = dataclasses.replace(info, pixel_counts=counts)
    (tmp_path / INFO_FILE).write_text(info.to_json())
    with pytest.raises(ValueError, match=f"no labelled pixel in split '{split}'"):
        train.make_run("tiny", {"data_dir": str(tmp_path)})
