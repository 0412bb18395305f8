"""What a run shows of itself: log.csv, TensorBoard, progress, summary and curves."""

import contextlib
import csv
import dataclasses
import io
import os
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow import keras

from datasets import build_shapes
from deeplab_tf import TrainConfig, report, workdir
from deeplab_tf.commands import evaluate, train
from deeplab_tf.evaluation.metrics import MeanIoU, per_class_iou
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.pictures.visualize import panel
from deeplab_tf.recipes import RECIPES
from deeplab_tf.training import compiling, log, loop, meter, resuming, watching
from deeplab_tf.training.losses import LOSSES, SegmentationLoss
from tests.support.networks import randomize

pytestmark = pytest.mark.two_lanes

ROOT = Path(__file__).resolve().parent.parent
LOG = """\
epoch,step,seconds,images_per_second,learning_rate,loss,val_mean_iou,val_iou/sky
0,4,3000,10,0.1,2.5,,
1,8,2000,30,0.05,1.5,0.5,0.75
2,12,25.4,20,0.0,1.25,0.5,0.125
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, config, what was printed) of two epochs of four steps."""
    folder = tmp_path_factory.mktemp("watched")
    data_dir, workdir = str(folder / "shapes"), str(folder / "run")
    build_shapes.build(data_dir, num_train=16, num_val=3, num_processes=1)
    tiny = dataclasses.replace(
        RECIPES["demo"].config,
        data_dir=data_dir,
        backbone="tiny",
        multi_grid=(1, 1, 1),
        atrous_rates=(),
        optimizer="sgd",
        crop_size=(33, 33),
        batch_size=4,
        steps=8,
        validate_every=2,
        learning_rate=1e-5,
        frozen_batch_norm=True,
    )
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        recipe = dataclasses.replace(RECIPES["demo"], config=tiny)
        patch.setitem(RECIPES, "demo", recipe)
        patch.setattr(meter, "LOG_STEPS", 2)
        # Such weights see several classes, as long as little moves.
        patch.setattr(compiling, "initialize", lambda model, _: print(randomize(model)))
        config, data = train.make_run("demo", {"data_dir": data_dir})
        resuming.claim_workdir(config, workdir)
        loop.train(config, data, workdir, tf.distribute.get_strategy())
    return workdir, config, printed.getvalue()


def read_events(folder, name):
    """[(step, value)] of a scalar or image, as TensorBoard reads them."""
    from tensorboard.backend.event_processing import plugin_event_accumulator

    events = plugin_event_accumulator.EventAccumulator(
        str(folder), tensor_size_guidance={"scalars": 0, "images": 0}
    )
    events.Reload()
    return [
        (event.step, tf.make_ndarray(event.tensor_proto))
        for event in events.Tensors(name)
    ]


def test_time_left_and_speed_by_hand():
    now = 0.0
    pace = meter.Pace(lambda: now)
    pace.begin_fit()
    assert pace.seconds_left(1, 0) is None
    for moment in (100.0, 102.0, 104.0):  # the first step is not timed
        now = moment
        pace.end_step()
    assert pace.seconds_left(10, 2) == 20.0
    pace.begin_validation()
    now = 110.0
    pace.end_validation()
    now = 130.0
    pace.begin_epoch()
    now = 133.0
    pace.end_step()
    assert (pace.steps, pace.seconds) == (3, 7.0)
    assert pace.seconds_left(6, 2) == pytest.approx(6 * 7 / 3 + 2 * 6)
    assert pace.rate() == pytest.approx(3 / 7)
    assert pace.rate((2, 4.0)) == pytest.approx(1 / 3)
    assert pace.seconds_left(0, 0) == 0.0


def test_summary_by_hand(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    config = TrainConfig(steps=20, epochs=5, class_names=("road", "sky"))
    summary = log.summarize(log.read_log(tmp_path / "log.csv"), config)
    assert summary == {
        "epochs": 3,
        "steps": 12,
        "seconds": 5025.4,
        "images_per_second": 20.0,
        "best_epoch": 2,  # the first of two equal ones
        "best_mean_iou": 0.5,
        "last_epoch": 3,
        "last_mean_iou": 0.5,
        "class_iou": {"road": None, "sky": 0.75},
    }
    assert log.format_summary(summary, config).splitlines()[1:] == [
        "epochs      3 of 5, 12 of 20 steps",
        "time        1:23:45",
        "images/s    20.0",
        "best epoch  2, validation mean IoU 50.00",
        "last epoch  3, validation mean IoU 50.00",
        "",
        "class     IoU  (validation, best epoch)",
        "road        -",
        "sky     75.00",
    ]


def test_logs_of_old_runs_can_be_summarized(tmp_path):
    """Without seconds, steps and classes; validation under its longer name or none."""
    config = TrainConfig(epochs=2, class_names=("road",))
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss,val_logits_mean_iou\n0,2.0,NA\n1,1.0,0.25\n")
    rows = log.read_log(path)
    text = log.format_summary(log.summarize(rows, config), config)
    assert text.splitlines()[1:3] == [
        "epochs      2 of 2",
        "best epoch  2, validation mean IoU 25.00",
    ]
    text = log.format_summary(log.summarize(rows[:1], config), config)
    assert text.splitlines()[-1] == "validation  none yet"
    log.draw_curves(rows, config, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (1100, 340)  # two charts


@pytest.mark.parametrize(
    "text, message",
    [
        ("epoch,loss\n0,high\n", "not the log of a run.*high"),
        ("epoch,loss\n0,2.0\n1\n", "not the log of a run.*not one value for each"),
        ("loss\n", "not the log of a run.*no epochs"),
    ],
)
def test_damaged_logs_are_refused(text, message, tmp_path):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        log.read_log(tmp_path / "log.csv")


def test_a_run_leaves_the_files_that_workdir_py_names(run):
    expected = {
        workdir.BEST_WEIGHTS,
        workdir.LAST_WEIGHTS,
        workdir.CHECKPOINT_FOLDER,
        workdir.LOG_FILE,
        workdir.TENSORBOARD_FOLDER,
    }
    folder, _, _ = run
    report = {workdir.SUMMARY_FILE, workdir.CURVES_FILE}  # by a test of this module
    assert set(os.listdir(folder)) - report == {"config.json", *expected}
    for name in ["config.json", *expected, *report, workdir.EVALUATION_FOLDER]:
        assert f"    {name}" in workdir.__doc__


def test_names_of_a_workdir_need_no_tensorflow():
    code = "import sys, deeplab_tf.workdir; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.stdout.strip() == b"False", done.stderr


def test_report_of_no_run_ends_with_one_sentence(run, tmp_path):
    with pytest.raises(SystemExit, match="deeplab_tf.report: .*not a workdir"):
        report.main(["--workdir", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="after the first epoch"):
        log.read_log(tmp_path / "log.csv")


def test_report_writes_summary_and_curves_that_show_something(run, capsys):
    folder, config, _ = run
    report.main(["--workdir", folder])
    with open(os.path.join(folder, "summary.txt"), encoding="utf-8") as file:
        summary = file.read()
    assert capsys.readouterr().out.startswith(summary)
    assert "epochs      2 of 2, 8 of 8 steps" in summary
    image = Image.open(os.path.join(folder, "curves.png")).convert("RGB")
    assert image.size == (1100, 680)  # two by two charts
    pixels = np.asarray(image).reshape(2, 340, 2, 550, 3)
    for chart in pixels.transpose(0, 2, 1, 3, 4).reshape(4, -1, 3):
        # The first two colours of lines: in the lower charts there is one line.
        assert (chart == [31, 119, 180]).all(1).sum() > 50


def test_without_matplotlib_the_curves_are_left_out_with_a_sentence(
    run, tmp_path, monkeypatch, capsys
):
    folder, _, _ = run
    for name in ("config.json", "log.csv"):
        shutil.copy(os.path.join(folder, name), tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report.main(["--workdir", str(tmp_path)])
    lines = capsys.readouterr().out.partition("\nTo try next")[0].splitlines()
    assert lines[-2].startswith("No curves.png: matplotlib is not installed. Run: pip")
    assert lines[-1] == f"Written: {tmp_path / 'summary.txt'}"
    summary = (tmp_path / "summary.txt").read_text().splitlines()
    assert lines[:-3] == summary
    assert not (tmp_path / "curves.png").exists()


def test_log_holds_speed_and_the_parts_of_the_loss(run):
    folder, config, _ = run
    rows = log.read_log(os.path.join(folder, "log.csv"))
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 4), (1, 8)]
    for row in rows:
        assert row["loss"] == pytest.approx(row["cross_entropy"] + row["weight_decay"])
        assert 0 < row["weight_decay"] < row["loss"]
        # Three steps and then four were timed of four: the first builds the graph.
        timed_images = 4 * (3 if row["epoch"] == 0 else 4)
        assert row["images_per_second"] > timed_images / row["seconds"]
    assert ["val_mean_iou" in row for row in rows] == [False, True]
    with open(os.path.join(folder, "log.csv"), encoding="utf-8") as file:
        columns = next(csv.reader(file))
    assert columns[: len(log.COLUMNS)] == list(log.COLUMNS)


def test_class_iou_in_the_log_is_that_of_evaluate_py(run):
    folder, config, _ = run
    row = log.read_log(os.path.join(folder, "log.csv"))[-1]
    segmenter = Segmenter.from_workdir(folder)
    labels = segmenter.labels
    evaluation, _ = evaluate.evaluate(segmenter, labels, config.data_dir, "val")
    expected = per_class_iou(evaluation.confusion)
    logged = [row.get(f"val_iou/{name}", np.nan) for name in config.class_names]
    np.testing.assert_allclose(logged, expected, atol=2e-3)
    assert np.nansum(expected > 0) > 1
    assert np.nanmean(logged) == pytest.approx(row["val_mean_iou"], abs=1e-6)


def test_scalars_are_read_back_from_the_event_files(run):
    folder, _, _ = run
    logs = os.path.join(folder, "logs")
    rows = log.read_log(os.path.join(folder, "log.csv"))
    for name in ("loss", "cross_entropy", "weight_decay"):
        points = read_events(os.path.join(logs, "train"), name)
        assert [step for step, _ in points] == [2, 4, 6, 8]
        means = np.reshape([float(value) for _, value in points], [2, 2]).mean(1)
        np.testing.assert_allclose(means, [row[name] for row in rows], rtol=1e-5)
    for curve, prefix in (("train_epochs", ""), ("validation", "val_")):
        for name in ("loss", "mean_iou", "cross_entropy"):
            points = read_events(os.path.join(logs, curve), name)
            expected = [
                (r["step"], r[prefix + name]) for r in rows if prefix + name in r
            ]
            np.testing.assert_allclose(points, expected, rtol=1e-5)
    assert read_events(os.path.join(logs, "validation"), "iou/background")
    assert read_events(os.path.join(logs, "train"), "learning_rate")
    assert read_events(os.path.join(logs, "train"), "images_per_second")


def test_panels_show_the_averaged_weights(tmp_path):
    class Network:
        """Sees the class that its only weight is, in every pixel."""

        trainable_variables = (tf.Variable(0.0),)
        optimizer = types.SimpleNamespace(weight_averages=lambda: [1.0])

        def __call__(self, image, training):
            classes = tf.fill(image.shape[:3], int(self.trainable_variables[0]))
            return tf.one_hot(classes, 2)

    config = TrainConfig(
        colormap=((9, 9, 9), (7, 8, 9)), class_names=("dark", "bright")
    )
    image, label = np.full((2, 3, 3), 50, np.uint8), np.zeros((2, 3), np.uint8)
    watched = meter.RunMeter(config, step=12)
    panels = watching.ImagePanels(
        tmp_path / "pictures", [(image, label)], config, watched
    )
    panels.set_model(Network())
    panels.on_epoch_end(0, {"loss": 1.0})
    panels.on_epoch_end(1, {"val_mean_iou": 1.0})
    ((step, value),) = read_events(tmp_path / "pictures", "image, label, prediction/0")
    assert step == 12
    drawn = tf.io.decode_png(value[2]).numpy()
    classes = np.ones((2, 3), np.uint8)
    expected = panel(image, label, classes, config.colormap)
    np.testing.assert_array_equal(drawn[:2, :9], expected)
    for color in config.colormap:  # below, the legend of both
        assert (drawn[2:] == color).all(-1).sum() > 50
    assert float(Network.trainable_variables[0]) == 0.0


def test_one_line_an_epoch_where_there_is_no_terminal(run):
    _, _, printed = run
    lines = printed.splitlines()
    assert "\r" not in printed and "\x1b" not in printed
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split("  ")[:2] for line in epochs] == [
        ["epoch 1/2", "step 4/8"],
        ["epoch 2/2", "step 8/8"],
    ]
    assert all("  ETA 0:" in line and " images/s  loss " in line for line in epochs)
    assert ["validation mean IoU" in line for line in epochs] == [False, True]
    assert lines[-2:] == epochs  # and nothing between them


def test_a_terminal_gets_one_line_that_is_rewritten_now_and_then(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    now, terminal = 10.0, Terminal()
    config = TrainConfig(steps=3600, epochs=4, batch_size=2)
    watched = meter.RunMeter(config, validations=[4], clock=lambda: now)
    progress = watching.Progress(watched, terminal)
    optimizer = keras.optimizers.SGD(0.25)
    for callback in (watched, progress):
        callback.set_model(types.SimpleNamespace(optimizer=optimizer, losses=[]))
    watched.on_train_begin()
    watched.on_epoch_begin(0)
    for step in range(8):  # four steps a second, of which every second is shown
        watched.on_train_batch_end(step, {"loss": 2.0})
        progress.on_train_batch_end(step, {"loss": 2.0})
        now += 0.25
    drawn = terminal.getvalue().split("\r\x1b[K")[1:]
    assert len(drawn) == 4
    # 3593 steps at 0.25 s are left after the seventh.
    line = "epoch 1/4  step 7/3600  ETA 0:14:58  8.0 images/s  loss 2.0000"
    assert drawn[-1] == line[:59]
    progress.on_epoch_end(0, {"loss": 2.0, "val_mean_iou": 0.5})
    assert terminal.getvalue().endswith(
        "loss 2.0000  validation mean IoU 0.5000  learning rate 0.25\n"
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "mine"])
def test_parts_of_the_loss_of_a_model_with_auxiliary_outputs(loss, monkeypatch):
    """The labels' parts as Keras logs them, the weight decay as numpy computes it."""
    monkeypatch.setitem(LOSSES, "mine", SegmentationLoss)
    config = TrainConfig(
        num_classes=2, class_names=("a", "b"), steps=9, learning_rate=1e-9, loss=loss
    )
    image = keras.Input((8, 8, 3))

    def scores(name):
        regularizer = keras.regularizers.L2(0.3)
        layer = keras.layers.Conv2D(2, 1, kernel_regularizer=regularizer, name=name)
        return layer(image)

    # Layers named as those of models.py, because Keras 2 logs the losses by them.
    outputs = {"logits": scores("upsample"), "extra": scores("upsample_extra")}
    model = keras.Model(image, outputs)
    compiling.compile_model(model, config)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 8, 8, 3)).astype("float32")
    labels = rng.integers(0, 2, (4, 8, 8))
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)
    data = compiling.label_outputs(model, data)
    watched = meter.RunMeter(config, clock=time.time)
    rows = []
    each = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda _, logs: rows.append(logs)
    )
    callbacks = [watched, each]
    model.fit(data, validation_data=data, callbacks=callbacks, shuffle=False, verbose=0)
    (row,) = rows
    kernels = [weight for weight in model.get_weights() if weight.ndim == 4]
    decay = 0.3 * sum(np.sum(kernel**2) for kernel in kernels)
    assert row["weight_decay"] == pytest.approx(decay, rel=1e-5)
    for prefix in ("", "val_"):
        parts = row[f"{prefix}{loss}"] + 0.5 * row[f"{prefix}extra_loss"]
        assert row[f"{prefix}loss"] == pytest.approx(parts + decay, rel=1e-5)
    iou = np.mean([row["val_iou/a"], row["val_iou/b"]])
    assert row["val_mean_iou"] == pytest.approx(iou, rel=1e-5)


def test_class_iou_needs_the_metric():
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1)])
    model.compile(loss=SegmentationLoss(), metrics=[MeanIoU(2)])
    with pytest.raises(ValueError, match="not compiled with deeplab_tf.MeanIoU"):
        meter.class_iou(model)


def test_a_resumed_run_hides_the_points_it_repeats(tmp_path):
    folder = tmp_path / "train"

    def write(first_step, steps, offset):
        writer = watching.event_writer(folder, first_step)
        with writer.as_default():
            for step in steps:
                tf.summary.scalar("loss", step + offset, step=step)
        writer.close()

    write(1, range(1, 10), 0.0)
    time.sleep(1.1)  # files are read in the order of the second in their names
    write(6, range(6, 8), 100.0)
    points = [(step, float(value)) for step, value in read_events(folder, "loss")]
    assert points == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 106), (7, 107)]


def test_log_keeps_what_a_killed_epoch_wrote_before(tmp_path):
    epochs = watching.EpochLog(tmp_path / "log.csv")
    epochs.on_epoch_end(0, {"loss": 3.0})
    epochs.on_epoch_end(1, {"loss": 2.0, "seconds": 5.0})
    epochs.on_epoch_end(2, {"loss": 1.0})
    epochs.on_epoch_end(1, {"val_mean_iou": 0.5})  # the validation alone is repeated
    assert log.read_log(tmp_path / "log.csv") == [
        {"epoch": 0, "loss": 3.0},
        {"epoch": 1, "loss": 2.0, "seconds": 5.0, "val_mean_iou": 0.5},
    ]
    epochs.on_epoch_end(1, {"loss": 1.5})  # all of the epoch is
    assert log.read_log(tmp_path / "log.csv")[1] == {"epoch": 1, "loss": 1.5}
