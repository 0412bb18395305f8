"""What train.py suggests at its end, by logs that were made by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.commands import run_data
from deeplab_tf.config import TrainConfig, parse_changes
from deeplab_tf.data.reading.policies import Crop
from deeplab_tf.training.advice import RULES, advise, format_advice, void_advice

CONFIG = TrainConfig(
    class_names=("sky", "road", "pole"),
    num_classes=3,
    data_dir="runs/data/mine",
    learning_rate=0.02,
)


def log_of(losses, scores=(), classes=(0.5, 0.5, 0.5)):
    """A row an epoch; the last rows have a validation, with the same IoU of classes."""
    rows = [
        {"epoch": epoch, "loss": 1 + loss, "cross_entropy": loss}
        for epoch, loss in enumerate(losses)
    ]
    for row, score in zip(rows[len(rows) - len(scores) :], scores):
        row["val_mean_iou"] = score
        named = zip(CONFIG.class_names, classes)
        row.update({f"val_iou/{n}": iou for n, iou in named if iou is not None})
    return rows


WELL = log_of([2.0, 1.5, 1.2, 1.0], [0.4, 0.5])
# What is wrong: the rows, changes of the configuration, words of the one sentence.
CASES = {
    "standing loss": (
        log_of([2.0, 2.1, 1.95]),
        {},
        ["2 in the first epoch, 1.95 in the last", "--learning_rate=0.002, then 0.2"],
    ),
    "a loss of another name": (
        [{**row, "focal": 3.0} for row in WELL],
        {"loss": "focal"},
        ["does not fall: 3 in the first epoch, 3 in the last"],
    ),
    "a class at 0": (
        log_of([2.0, 1.0], [0.3, 0.3], (0.9, 0.6, 0.0)),
        {},
        ["stays at 0 for pole.", "class_weights=balanced", 'duplicate=[["pole",3]]'],
    ),
    "a class at 0 in spite of weights": (
        log_of([2.0, 1.0], [0.3], (0.9, 0.6, 0.004)),
        {"class_weights": (1.0, 1.0, 9.0)},
        ["stays at 0 for pole.", "Then try --set='duplicate="],
    ),
    "one class everywhere": (
        log_of([2.0, 1.0], [0.1], (0.4, 0.0, 0.0)),
        {},
        ["All classes but 1 are at IoU 0", "learning rate than 0.02", "--init"],
    ),
    "a class that validation lacks": (
        log_of([2.0, 1.0], [0.5], (0.9, 0.6, None)),
        {},
        ["No image of split val shows pole", "Move images"],
    ),
    "falling validation": (
        log_of([2.0, 1.5, 1.2, 1.0], [0.4, 0.61, 0.58, 0.52]),
        {},
        ["from mean IoU 0.610 in epoch 2 to 0.520", "--set=patience=3", "of epoch 2."],
    ),
    "falling validation, patience is set": (
        log_of([2.0, 1.5, 1.2], [0.61, 0.58, 0.52]),
        {"patience": 2},
        ["in epoch 1 to 0.520", "To do: more images"],
    ),
    "small batches": (WELL, {"batch_size": 4}, ["over 4 images", "--batch_size=8"]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said_in_one_item(name):
    rows, changes, words = CASES[name]
    (sentence,) = advise(rows, dataclasses.replace(CONFIG, **changes))
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    "rows, changes",
    [
        (WELL, {}),
        (log_of([2.0, 2.0]), {}),  # two epochs tell nothing
        (log_of([2.0, 1.0, 2.0]), {}),  # it fell, and noise brought it back
        (log_of([2.0, 1.5, 1.2], [0.6, 0.59, 0.585]), {}),  # as seeds differ
        (log_of([2.0, 1.5, 1.2], [0.4, 0.6, 0.5]), {}),  # one validation is chance
        (log_of([1.0, 0.8, 1.5], [0.6, 0.5, 0.4]), {}),  # training got worse too
        (log_of([2.0, 1.0], [0.5], (0.9, 0.6, 0.01)), {}),
        (WELL, {"batch_size": 4, "frozen_batch_norm": "backbone"}),
        (WELL, {"batch_size": 4, "model": "deeplab_v1", "backbone": "vgg16"}),
    ],
)
def test_nothing_is_said_where_nothing_is_wrong(rows, changes):
    assert advise(rows, dataclasses.replace(CONFIG, **changes)) == []


def test_every_rule_has_a_case():
    said = {
        rule
        for rows, changes, _ in CASES.values()
        for rule in RULES
        if rule(rows, dataclasses.replace(CONFIG, **changes))
    }
    assert said == set(RULES)


def test_suggested_settings_are_settings():
    """What an item tells to type, `parse_changes` reads."""
    items = " ".join(
        sentence
        for rows, changes, _ in CASES.values()
        for sentence in advise(rows, dataclasses.replace(CONFIG, **changes))
    )
    settings = [word.partition("--set=")[2] for word in items.split()]
    settings = [word.strip("';,.") for word in settings if word]
    assert len(settings) == 5
    for setting in settings:
        parse_changes([setting])


def test_mostly_void_labels_are_named():
    assert void_advice(0.5) == []
    (sentence,) = void_advice(0.81)
    assert sentence.startswith("81 per cent") and "class of its own" in sentence


def test_the_share_of_void_is_that_of_the_pixels(monkeypatch):
    """Half of one label, the whole of another that is half as large."""
    first, second = np.zeros((1, 40, 50), np.int32), np.full((1, 20, 50), 255, np.int32)
    first[:, :20] = 255
    labels = [tf.constant(first), tf.constant(second)]
    examples = tf.data.Dataset.from_generator(
        lambda: [(label, label) for label in labels], (tf.int32, tf.int32)
    )
    monkeypatch.setattr(run_data, "make_eval_dataset", lambda selection: examples)
    data = run_data.RunData(None, None, Crop((33, 33)), batch_size=1, seed=0)
    assert data.void_share() == pytest.approx(2000 / 3000)


def test_items_are_wrapped_under_a_title():
    text = format_advice(["word " * 40, "short"])
    lines = text.splitlines()
    assert lines[0] == "To try next:" and lines[-1] == "  - short"
    assert max(map(len, lines)) <= 88 and lines[2].startswith("    word")
    assert format_advice([]) == ""
