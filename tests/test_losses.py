"""Losses by hand, and what is asked of every row of `LOSSES`."""

import dataclasses
import functools
import inspect

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.commands import run_data
from deeplab_tf.config import TrainConfig
from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.training import compiling
from deeplab_tf.training.losses import (
    BALANCES,
    LOSSES,
    BoundaryLoss,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    OhemLoss,
    SegmentationLoss,
    SumOfLosses,
    TverskyLoss,
    balanced_class_weights,
    compared,
    lovasz,
    make_loss,
)
from deeplab_tf.training.losses.boundary import near_another_class
from deeplab_tf.training.losses.sums import parts_of
from deeplab_tf.training.losses.table import SHORT_NAMES
from tests.support.lanes import all_in_lane_a

LOGITS = np.array([[[[0.0, 2.0], [1.0, 1.0]], [[3.0, 0.0], [0.0, 0.0]]]], "float32")


TWICE = [2, 1, 1], [2, 1, 1, 1]  # tiles of labels and logits


def cross_entropy(logits, label):
    return np.log(np.exp(logits).sum()) - logits[label]


def test_mean_over_valid_pixels_by_hand():
    label = np.array([[[1, 255], [1, 0]]])
    expected = np.mean(
        [
            cross_entropy([0.0, 2.0], 1),
            cross_entropy([3.0, 0.0], 1),
            cross_entropy([0.0, 0.0], 0),
        ]
    )
    np.testing.assert_allclose(SegmentationLoss()(label, LOGITS), expected, rtol=1e-6)


def test_images_with_more_valid_pixels_count_more():
    label = np.stack([np.full([2, 2], 255), np.array([[1, 0], [1, 0]])])
    label[0, 0, 0] = 1
    logits = np.repeat(LOGITS, 2, axis=0)
    one = SegmentationLoss()(label[:1], logits[:1]).numpy()
    four = SegmentationLoss()(label[1:], logits[1:]).numpy()
    both = SegmentationLoss()(label, logits).numpy()
    np.testing.assert_allclose(both, (one + 4 * four) / 5, rtol=1e-6)


def differentiated(loss, label, logits):
    logits = tf.convert_to_tensor(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = tf.reduce_mean(loss(label, logits))
    return value, tape.gradient(value, logits)


def value_and_gradient(loss, label, logits):
    return [each.numpy() for each in differentiated(loss, label, logits)]


# Options of losses, on all at once.
EVERYTHING = {
    "class_weights": (0.5, 2.0, 1.0),
    "hard_pixel_fraction": 0.5,
    "label_smoothing": 0.1,
    "boundary_width": 1,
    "focal_gamma": 0.5,
    "ohem_min_kept": 20,
    "ohem_threshold": 0.2,
}


def of(name, options):
    """Those of the options that a row of `LOSSES` has."""
    taken = inspect.signature(LOSSES[name]).parameters
    return {option: options[option] for option in options if option in taken}


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_batch_has_loss_and_gradient_zero(name):
    loss = make_loss(TrainConfig(loss=name, ignore_label=7))
    value, gradient = value_and_gradient(loss, np.full([1, 2, 2], 7), LOGITS)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros_like(LOGITS))


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_no_gradient(name):
    loss = make_loss(TrainConfig(loss=name))
    label = np.array([[[1, 255], [1, 0]]])
    value, gradient = value_and_gradient(loss, label, LOGITS)
    assert not gradient[0, 0, 1].any()
    assert gradient[0, 0, 0].any()
    changed = LOGITS.copy()
    changed[0, 0, 1] = 9.0, -9.0
    assert value_and_gradient(loss, label, changed)[0] == value


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_seen_twice_has_the_loss_of_once(name):
    loss = make_loss(TrainConfig(loss=name))
    logits, label, _ = random_batch()
    once, gradient = value_and_gradient(loss, label, logits)
    twice, halves = value_and_gradient(loss, *map(np.tile, (label, logits), TWICE))
    assert once > 0
    np.testing.assert_allclose(twice, once, rtol=1e-5)
    np.testing.assert_allclose(halves[:2] + halves[2:], gradient, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_a_right_answer_costs_nothing_and_a_wrong_one_more(name):
    loss = make_loss(TrainConfig(loss=name))
    _, label, _ = random_batch()
    certain = 50.0 * np.eye(3, dtype="float32")[np.minimum(label, 2)]
    right, _ = value_and_gradient(loss, label, certain)
    wrong, _ = value_and_gradient(loss, label, np.roll(certain, 1, axis=-1))
    assert right == pytest.approx(0.0, abs=1e-4)
    assert wrong > 0.5


# An option of a loss -> a value that changes it.
OPTIONS = {
    "class_weights": (0.5, 3.0, 0.0),
    "label_stride": 8,
    "hard_pixel_fraction": 0.25,
    "label_smoothing": 0.1,
    "boundary_width": 1,
    "boundary_weight": 2.0,
    "focal_gamma": 1.0,
    "ohem_threshold": 0.2,
    "ohem_min_kept": 10,
    "tversky_alpha": 0.9,
    "tversky_beta": 0.2,
}
# Without which it would change nothing on a small batch.
BESIDE = {"ohem_threshold": {"ohem_min_kept": 1}}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_an_option_reaches_the_losses_that_have_it_and_others_refuse_it(name, option):
    config = TrainConfig(loss=name, **{option: OPTIONS[option]})
    if option not in inspect.signature(LOSSES[name]).parameters:
        with pytest.raises(ValueError, match=f"loss '{name}' has no {option}"):
            make_loss(config)
        return
    logits, label, _ = random_batch()
    label = label.repeat(6, axis=1).repeat(6, axis=2)[:, :17, :17]  # with insides
    plain = TrainConfig(loss=name, **BESIDE.get(option, {}))
    config = dataclasses.replace(plain, **{option: OPTIONS[option]})
    assert make_loss(config)(label, logits) != make_loss(plain)(label, logits)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_the_table_survives_its_config(name):
    loss = make_loss(TrainConfig(loss=name, ignore_label=2))
    logits, label, _ = random_batch()
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    label = np.where(label == 255, 2, label)
    assert copy(label, logits).numpy() == loss(label, logits).numpy()


def test_unknown_loss_lists_the_rows():
    with pytest.raises(
        ValueError, match="one of .*'cross_entropy'.*'dise'. Did you mean dice"
    ):
        make_loss(TrainConfig(loss="dise"))


def squared_error(ignore_label, label_stride=1):
    """A new loss as its author would write it: a function that makes one."""

    def loss(y_true, y_pred):
        classes, logits, valid = compared(y_true, y_pred, ignore_label, label_stride)
        error = tf.nn.softmax(logits) - tf.one_hot(classes, logits.shape[-1])
        return tf.reduce_mean(tf.boolean_mask(error**2, valid))

    return loss


def test_a_new_loss_is_a_function_and_a_row(monkeypatch):
    monkeypatch.setitem(LOSSES, "squared_error", squared_error)
    config = TrainConfig(
        loss="squared_error", num_classes=2, steps=1, learning_rate=9.0, label_stride=2
    )
    image = keras.Input([4, 4, 3])
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(image))
    compiling.compile_model(model, config)
    images = np.random.default_rng(0).normal(size=[8, 4, 4, 3]).astype("float32")
    labels = np.where(images[..., 0] > 0, 1, 0)
    before = model.evaluate(images, labels, verbose=0, return_dict=True)["loss"]
    model.fit(images, labels, epochs=1, verbose=0)
    after = model.evaluate(images, labels, verbose=0, return_dict=True)["loss"]
    assert after < before
    for option in ("class_weights", "hard_pixel_fraction"):
        wrong = dataclasses.replace(config, **{option: OPTIONS[option]})
        with pytest.raises(ValueError, match=f"'squared_error' has no {option}"):
            make_loss(wrong)


@pytest.mark.parametrize("name", LOSSES)
def test_label_out_of_range_is_an_error_that_names_it(name):
    loss = make_loss(TrainConfig(loss=name))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"(label value of|\] =) 2 .*\[0, 2\)"
    ):
        loss(np.array([[[1, 2], [1, 0]]]), LOGITS)


@pytest.mark.parametrize("name", all_in_lane_a(LOSSES, ["cross_entropy", "dice"]))
def test_xla_gives_the_same(name):
    logits, label, _ = random_batch()
    loss = make_loss(TrainConfig(loss=name, label_stride=2, **of(name, EVERYTHING)))
    function = tf.function(functools.partial(differentiated, loss), jit_compile=True)
    compiled = function(tf.constant(label), tf.constant(logits))
    for ours, expected in zip(compiled, differentiated(loss, label, logits)):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-8)
    # XLA cannot raise: a label that is no class shall not look like a good batch.
    value, _ = function(tf.constant(np.full_like(label, 3)), tf.constant(logits))
    assert np.isnan(value)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name):
    logits, label, _ = random_batch()
    loss = make_loss(TrainConfig(loss=name))
    for dtype in (tf.bfloat16, tf.float16):
        rounded = tf.cast(logits, dtype)
        exact = loss.call(label, tf.cast(rounded, tf.float32))
        np.testing.assert_array_equal(loss.call(label, rounded), exact)


@pytest.mark.parametrize("name", LOSSES)
def test_logits_that_are_no_numbers_make_a_loss_that_is_none(name):
    """The run then ends with the sentence for it, and not within an operation."""
    logits, label, _ = random_batch()
    logits[0, 0, 0] = np.nan
    label[0, 0, 0] = 1
    loss = make_loss(TrainConfig(loss=name, **of(name, EVERYTHING)))
    assert np.isnan(loss(label, logits))


def random_batch():
    """Logits [2, 17, 17, 3] and labels in [0, 3) or 255, and the loss of each pixel."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, [2, 17, 17, 3]).astype("float32")
    label = rng.choice([0, 1, 2, 255], [2, 17, 17])
    exact = logits.astype("float64")
    picked = np.take_along_axis(exact, np.minimum(label, 2)[..., None], -1)[..., 0]
    return logits, label, np.log(np.exp(exact).sum(-1)) - picked


def test_class_weights_make_a_weighted_mean():
    logits, label, losses = random_batch()
    loss = SegmentationLoss(class_weights=[0.5, 3.0, 0.0])(label, logits)
    weights = np.select([label == 0, label == 1], [0.5, 3.0], 0.0)
    np.testing.assert_allclose(loss, (weights * losses).sum() / weights.sum(), 1e-5)


def test_class_weights_of_one_are_the_plain_loss():
    logits, label, _ = random_batch()
    weighted = SegmentationLoss(class_weights=[1.0, 1.0, 1.0])(label, logits)
    assert weighted.numpy() == SegmentationLoss()(label, logits).numpy()


def test_batch_of_weightless_classes_has_loss_zero():
    loss = SegmentationLoss(class_weights=[1.0, 0.0], hard_pixel_fraction=0.5)
    assert loss(np.array([[[1, 255], [1, 1]]]), LOGITS).numpy() == 0.0


def test_label_stride_compares_every_eighth_pixel():
    logits, label, losses = random_batch()
    seen = label[:, ::8, ::8] != 255
    expected = losses[:, ::8, ::8][seen].mean()
    loss = SegmentationLoss(label_stride=8)(label, logits)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.9])
def test_hard_pixels_are_those_of_largest_loss(fraction):
    logits, label, losses = random_batch()
    ranked = np.sort(losses[label != 255])[::-1]
    expected = ranked[: round(fraction * len(ranked))].mean()
    loss = SegmentationLoss(hard_pixel_fraction=fraction)(label, logits)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_hard_pixels_are_ranked_by_their_weighted_loss():
    """Pixel losses 0.13, 0.69 and 0.05 of classes 1, 1 and 0, of weights 1 and 20."""
    loss = SegmentationLoss(class_weights=[20.0, 1.0], hard_pixel_fraction=1 / 3)
    logits = np.array([[[[0.0, 2.0], [1.0, 1.0]], [[3.0, 0.0], [0.0, 0.0]]]], "float32")
    expected = cross_entropy([3.0, 0.0], 0)
    label = np.array([[[1, 1], [0, 255]]])
    np.testing.assert_allclose(loss(label, logits), expected, rtol=1e-5)


def test_easy_pixels_have_no_gradient():
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = SegmentationLoss(hard_pixel_fraction=0.25)([[[1, 1], [1, 0]]], logits)
    gradient = tape.gradient(loss, logits).numpy()
    assert gradient[0, 1, 0].any()
    gradient[0, 1, 0] = 0
    assert not gradient.any()


def test_hard_pixel_fraction_falls_with_the_step():
    logits, label, losses = random_batch()
    step = tf.Variable(0, dtype=tf.int64)
    annealed = SegmentationLoss(
        hard_pixel_fraction=0.2, hard_mining_steps=10, step=step
    )
    ranked = np.sort(losses[label != 255])[::-1]
    for now, fraction in ((0, 1.0), (5, 0.6), (10, 0.2), (99, 0.2)):
        step.assign(now)
        expected = ranked[: round(fraction * len(ranked))].mean()
        np.testing.assert_allclose(annealed(label, logits), expected, rtol=1e-5)


def test_pixels_that_tie_count_alike():
    loss = SegmentationLoss(hard_pixel_fraction=0.25)
    logits = np.zeros([1, 2, 2, 3], "float32")
    np.testing.assert_allclose(loss([[[0, 1], [2, 255]]], logits), np.log(3), 1e-6)


def test_hard_pixels_of_an_ignored_batch_have_loss_zero():
    loss = SegmentationLoss(hard_pixel_fraction=0.5)
    assert loss(np.full([1, 2, 2], 255), LOGITS).numpy() == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"hard_pixel_fraction": 0.0},
        {"label_stride": 0},
        {"class_weights": [1, -1]},
        {"class_weights": [1, float("nan")]},
        {"class_weights": [float("inf"), 1]},
        {"class_weights": "balanced"},
        {"class_weights": []},
        {"class_weights": [0.0, 0]},
        {"ignore_label": None},
        {"ignore_label": 2.5},
        {"label_stride": 1.5},
        {"hard_pixel_fraction": float("nan")},
        {"hard_mining_steps": -1},
        {"class_weights": 2.0},
        {"class_weights": np.ones([1, 3])},
    ],
)
def test_argument_out_of_range_is_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}.*Received: "):
        SegmentationLoss(**wrong)


@pytest.mark.parametrize("kind", ["ce", "dice", "tversky", "lovasz", "focal", "ohem"])
def test_labels_of_another_size_are_refused(kind):
    loss = make_loss(TrainConfig(loss=kind))
    logits, label, _ = random_batch()
    for wrong in (label[:1], label[:, :1], label[:, :, :1]):
        with pytest.raises(ValueError, match="batch, height and width. Received: "):
            loss(wrong, logits)


@pytest.mark.parametrize("kind", ["ce", "dice", "lovasz"])
def test_labels_that_are_no_whole_numbers_are_no_class(kind):
    """Of those that were divided by 255 all but the last would be the first class."""
    loss = make_loss(TrainConfig(loss=kind))
    logits, label, _ = random_batch()
    whole = np.where(label == 255, 0, label).astype(np.float32)
    np.testing.assert_allclose(loss(whole, logits), loss(whole.astype(int), logits))
    with pytest.raises(tf.errors.InvalidArgumentError):
        loss(whole / 255, logits)


def test_options_survive_the_config_of_a_loss():
    logits, label, _ = random_batch()
    loss = SegmentationLoss(
        255, class_weights=[1.0, 2.0, 3.0], label_stride=2, hard_pixel_fraction=0.5
    )
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy(label, logits).numpy() == loss(label, logits).numpy()


def test_balanced_class_weights_by_hand():
    # Of 10, 40 and 1000 pixels the median is 40; the absent class does not move it.
    counts = [10, 0, 40, 1000]
    assert balanced_class_weights(counts) == [4.0, 1.0, 1.0, 0.04]
    roots = balanced_class_weights(counts, BALANCES["balanced_sqrt"])
    assert roots == pytest.approx([2.0, 1.0, 1.0, 0.2])


@pytest.mark.parametrize("text", BALANCES)
def test_a_run_takes_the_weights_of_its_records(text):
    counts = {"train": [10, 40, 1000]}
    info = DatasetInfo("x", ("a", "b", "c"), pixel_counts=counts)
    config = TrainConfig(class_weights=text, train_split="train")
    weights = run_data._with_classes(config, info).class_weights
    expected = np.array([4, 1, 0.04]) ** BALANCES[text]
    np.testing.assert_allclose(weights, expected)


@pytest.mark.parametrize("counts", [[0, 0], [], [3, -1]])
def test_balanced_class_weights_need_pixels(counts):
    with pytest.raises(ValueError, match="pixel_counts"):
        balanced_class_weights(counts)


# --- What users give ---------------------------------------------------------------


def seeded_batch():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (2, 4, 5))
    label[0, 0] = 255
    return label, rng.normal(size=(2, 4, 5, 3)).astype("float32")


def test_class_weights_may_be_a_mapping_of_ids():
    label, logits = seeded_batch()
    by_id = SegmentationLoss(class_weights={2: 5.0, 0: 1.0, 1: 10.0})
    listed = SegmentationLoss(class_weights=[1.0, 10.0, 5.0])
    assert by_id(label, logits) == listed(label, logits)
    assert by_id.get_config() == listed.get_config()
    for wrong in ({0: 1.0, 2: 1.0}, {0: 1.0, "road": 2.0}):
        with pytest.raises(ValueError, match=r"each class id from 0 on.*\[0, "):
            SegmentationLoss(class_weights=wrong)


@pytest.mark.parametrize("count", [2, 5])
def test_class_weights_of_another_count_are_refused(count):
    with pytest.raises(ValueError, match=f"each of the 3 classes.*Received: {count}"):
        SegmentationLoss(class_weights=[1.0] * count)(*seeded_batch())


def test_a_last_axis_of_one_is_taken_off_labels():
    label, logits = seeded_batch()
    loss = SegmentationLoss()
    assert loss(label[..., None], logits) == loss(label, logits)


@pytest.mark.parametrize(
    "shape, sentence",
    [
        ((2, 4, 5, 3), "One-hot labels become ids by tf.argmax"),
        ((2, 4, 5, 2), r"Received: \(2, 4, 5, 2\)"),
        ((2, 4), r"Received: \(2, 4\)"),
    ],
)
def test_labels_of_another_shape_are_refused(shape, sentence):
    _, logits = seeded_batch()
    with pytest.raises(ValueError, match=sentence):
        SegmentationLoss()(np.zeros(shape, "int32"), logits)


def test_weights_of_pixels_make_a_weighted_mean():
    """Twice the weight of a class' pixels is twice the weight of the class."""
    label, logits = seeded_batch()
    by_class = SegmentationLoss(class_weights=[1.0, 2.0, 0.5])(label, logits)
    weight = np.where(label == 1, 2.0, np.where(label == 2, 0.5, 1.0))
    loss = SegmentationLoss()
    for given in (weight, weight[..., None]):
        np.testing.assert_allclose(loss(label, logits, given), by_class, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1), (2, 4), (2, 2, 5), (3,), (2, 4, 5, 3), ()])
@pytest.mark.parametrize("kind", ["ce", "dice", "ce+dice"])
def test_weights_of_another_shape_are_refused(kind, shape):
    """[batch, 1] is one value a pixel of one column to broadcasting."""
    label, logits = seeded_batch()
    sentence = r"\[batch, height, width\]: here \(2,\) or \(2, 4, 5\). Received: "
    with pytest.raises(ValueError, match=sentence):
        make_loss(TrainConfig(loss=kind))(label, logits, np.ones(shape))


def test_weights_of_pixels_reach_the_loss_from_fit():
    label, logits = seeded_batch()
    model = keras.Sequential(
        [keras.Input((4, 5, 3)), keras.layers.Activation("linear")]
    )
    model.compile(loss=SegmentationLoss())
    weight = np.random.default_rng(1).uniform(0, 2, label.shape).astype("float32")
    value = model.evaluate(logits, label, sample_weight=weight, batch_size=2, verbose=0)
    expected = SegmentationLoss()(label, logits, weight)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


# --- Every loss by hand, and beside other implementations ----------------------------

LABEL = np.array([[[1, 255], [1, 0]]])
# Of LOGITS, the probability of class 1 where LABEL is no void.
A, C, D = 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(3)), 0.5
BY_HAND = {
    "dice": (
        DiceLoss(),
        [1 - 2 * (A + C) / (A + C + D + 2), 1 - 2 * D / (4 - A - C - D)],
    ),
    "tversky": (
        TverskyLoss(tversky_alpha=0.2, tversky_beta=0.9),
        [
            1 - (A + C) / (A + C + 0.2 * D + 0.9 * (2 - A - C)),
            1 - D / (D + 0.2 * (2 - A - C) + 0.9 * D),
        ],
    ),
    # Errors in falling order: C is missed, D falsely seen, A missed, so that class 1
    # has IoU 1/2, 1/3, 0; class 0 has 1/2, 0, 0.
    "lovasz": (
        LovaszLoss(),
        [(1 - C) / 2 + D / 6 + (1 - A) / 3, (1 - C) / 2 + D / 2],
    ),
    "focal": (
        FocalLoss(focal_gamma=3.0),
        [-((1 - p) ** 3) * np.log(p) for p in (A, C, D)],
    ),
    "ohem by its threshold": (OhemLoss(ohem_min_kept=1), -np.log([C, D])),
    "ohem by min_kept": (OhemLoss(ohem_min_kept=3), -np.log([A, C, D])),
    "ohem of one": (OhemLoss(ohem_threshold=0.01, ohem_min_kept=1), -np.log([C])),
    "ohem of none": (OhemLoss(ohem_threshold=0.01, ohem_min_kept=0), [0.0]),
    "smoothing": (
        SegmentationLoss(label_smoothing=0.2),
        [-0.9 * np.log(p) - 0.1 * np.log(1 - p) for p in (A, C, D)],
    ),
    # C and D touch, A and D by a corner.
    "boundary": (BoundaryLoss(boundary_width=1), -np.log([A, C, D])),
    "sum": (
        make_loss(TrainConfig(loss="ce + 0.5*dice")),
        [
            -np.log([A, C, D]).mean()
            + 0.25 * (2 - 2 * (A + C) / (A + C + D + 2) - 2 * D / (4 - A - C - D))
        ],
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_two_by_two_pixels_by_hand(case):
    loss, expected = BY_HAND[case]
    np.testing.assert_allclose(loss(LABEL, LOGITS), np.mean(expected), rtol=1e-6)


# Of segmentation-models-pytorch 0.6.0 on PyTorch 2.14.1 (CPU) for `random_batch`, in
# float64 but for Lovász, which it computes in float32: smp.losses.DiceLoss,
# TverskyLoss(alpha=0.3, beta=0.7) and LovaszLoss with mode="multiclass",
# ignore_index=255 (the first two times 3 / 2 where a class is absent: they divide by
# all classes); F.cross_entropy(label_smoothing=0.1); the mean over valid pixels of
# (1 - exp(-c)) ** gamma * c of F.cross_entropy's c; mmsegmentation's OHEMPixelSampler
# written out. Case -> loss, whether class 2 is void, the value, the sum of the
# gradient's absolute values, and that of four pixels' class 0.
REFERENCES = {
    "dice": (DiceLoss(), False, 0.656372591, 0.237299401, 0.0008784082),
    "dice without 2": (DiceLoss(), True, 0.580843100, 0.271752249, 0.0015124368),
    "tversky": (TverskyLoss(), False, 0.656271888, 0.237560186, 0.0008583284),
    "tversky without 2": (TverskyLoss(), True, 0.613550096, 0.256511918, 0.0013917746),
    "lovasz": (LovaszLoss(), False, 0.744759858, 0.205730051, 0.0005548670),
    "lovasz without 2": (LovaszLoss(), True, 0.702522993, 0.228242427, 0.0010065086),
    "label smoothing": (
        SegmentationLoss(label_smoothing=0.1),
        False,
        2.007530895,
        1.197870422,
        0.0012148973,
    ),
    "focal": (FocalLoss(), False, 1.678671014, 1.314193763, 0.0003755012),
    "focal of 0.5": (
        FocalLoss(focal_gamma=0.5),
        False,
        1.893456543,
        1.325349458,
        0.0010679788,
    ),
    "ohem": (OhemLoss(ohem_min_kept=50), False, 2.492635224, 1.581251281, 0.0009613941),
}


@pytest.mark.parametrize("case", REFERENCES)
def test_values_and_gradients_are_those_of_pytorch(case):
    loss, is_without_2, *expected = REFERENCES[case]
    logits, label, _ = random_batch()
    if is_without_2:
        label = np.where(label == 2, 255, label)
    value, gradient = value_and_gradient(loss, label, logits)
    ours = value, np.abs(gradient).sum(), np.abs(gradient[0, 3, :4, 0]).sum()
    np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=1e-8)


def lovasz_of(label, logits):
    """The loss and its gradient for softmax's probabilities, float64, as defined."""
    exponents = np.exp(logits.astype("float64"))
    probabilities = (exponents / exponents.sum(-1, keepdims=True)).reshape(-1, 3)
    label = label.reshape(-1)
    losses, slopes = [], np.zeros_like(probabilities)
    for index in range(3):
        of_class = label == index
        error = np.where(label == 255, 0.0, abs(of_class - probabilities[:, index]))
        order = np.argsort(-error)
        missed = np.cumsum(of_class[order])
        false = np.cumsum(~of_class[order])
        lost = 1 - (of_class.sum() - missed) / (of_class.sum() + false)
        slopes[order, index] = np.diff(lost, prepend=0.0)
        losses.append(error @ slopes[:, index])
    return np.mean(losses), slopes


def test_more_pixels_than_places_are_ranked_nearly():
    """132,098 pixels; `lovasz.PLACES` holds 65,536."""
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 2, 255], [2, 257, 257])
    logits = rng.normal(0, 2, [2, 257, 257, 3]).astype("float32")
    assert label.size > lovasz.PLACES
    expected, slopes = lovasz_of(label, logits)
    np.testing.assert_allclose(LovaszLoss()(label, logits), expected, atol=1e-6)
    errors = tf.nn.softmax(logits)[..., 1] - (label == 1)
    errors = tf.reshape(tf.where(label == 255, 0.0, errors), [-1])
    ours = lovasz.class_slopes(
        tf.cast(errors, tf.float32),
        float((label == 1).sum()),
        tf.reshape(tf.cast(label != 255, tf.float32), [-1]),
    )
    valid = label.reshape(-1) != 255
    apart = np.abs(ours - slopes[:, 1])[valid].sum() / slopes[valid, 1].sum()
    assert apart < 0.02


def test_errors_that_tie_share_what_they_cost():
    """Two pixels, both of error 1/2: missed and then false costs 1 and 0, or 1/2 each.

    Missed pixel first: IoU 1 -> 0 -> 0. Last: 1 -> 1/2 -> 0. Means: 3/4 and 1/4.
    """
    slopes = lovasz.class_slopes(tf.constant([-0.5, 0.5]), 1.0, tf.ones([2]))
    np.testing.assert_allclose(slopes, [0.75, 0.25])


@pytest.mark.parametrize("make", [DiceLoss, TverskyLoss, LovaszLoss])
def test_classes_that_no_label_shows_do_not_count(make):
    logits, label, _ = random_batch()
    label = np.where(label == 2, 1, label)
    # Without the third class the same probabilities would cost the same.
    fourth = np.full([*logits.shape[:3], 1], -60.0, "float32")
    more = make()(label, np.concatenate([logits, fourth], axis=-1))
    np.testing.assert_allclose(more, make()(label, logits), rtol=1e-6)
    single, _ = value_and_gradient(make(), np.full_like(label, 1), logits)
    assert 0.0 < single < 1.0


@pytest.mark.parametrize("width", [1, 2, 5])
def test_pixels_near_another_class_are_those_of_a_square_around_them(width):
    rng = np.random.default_rng(0)
    label = np.kron(rng.choice([0, 1, 2, 255], [2, 4, 3]), np.ones([1, 7, 9], int))
    near = near_another_class(np.where(label == 255, 0, label), label != 255, width)
    for image, row, column in zip(*np.nonzero(label != 255)):
        around = label[
            image,
            max(row - width, 0) : row + width + 1,
            max(column - width, 0) : column + width + 1,
        ]
        classes = set(around.flat) - {255}
        assert near[image, row, column] == (len(classes) > 1)


def test_pixels_near_another_class_count_more():
    logits, label, losses = random_batch()
    label = label.repeat(6, axis=1).repeat(6, axis=2)[:, :17, :17]
    losses = np.log(np.exp(logits.astype("float64")).sum(-1))
    losses -= np.take_along_axis(logits, np.minimum(label, 2)[..., None], -1)[..., 0]
    near = near_another_class(np.where(label == 255, 0, label), label != 255, 2)
    weight = np.where(label == 255, 0.0, np.where(near, 4.0, 1.0))
    assert 0.2 < np.mean(near) < 0.8
    ours = BoundaryLoss(boundary_width=2, boundary_weight=4.0)(label, logits)
    expected = (weight * losses).sum() / weight.sum()
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_focal_gamma_below_one_has_finite_gradients():
    """The power of gamma < 1 has none at a pixel that is right beyond float32."""
    loss = FocalLoss(focal_gamma=0.5)
    value, gradient = value_and_gradient(loss, [[[0]]], np.array([[[[200.0, 0.0]]]]))
    assert value == 0.0
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "make, wrong",
    [
        (SegmentationLoss, {"label_smoothing": 1.0}),
        (FocalLoss, {"focal_gamma": -1.0}),
        (FocalLoss, {"focal_gamma": float("nan")}),
        (FocalLoss, {"focal_gamma": "2"}),
        (OhemLoss, {"ohem_threshold": 0.0}),
        (OhemLoss, {"ohem_min_kept": -1}),
        (BoundaryLoss, {"boundary_width": 0}),
        (BoundaryLoss, {"boundary_width": 2.5}),
        (BoundaryLoss, {"boundary_weight": -1.0}),
        (TverskyLoss, {"tversky_alpha": 0.0, "tversky_beta": 0.0}),
        (LovaszLoss, {"label_stride": 0}),
    ],
)
def test_arguments_of_losses_out_of_range_are_named(make, wrong):
    with pytest.raises(ValueError, match=f"{[*wrong][0]}.*Received: "):
        make(**wrong)


# --- Sums ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, parts",
    [
        ("ce", [(1.0, "ce")]),
        ("ce+0.5*lovasz", [(1.0, "ce"), (0.5, "lovasz")]),
        (" 2 * dice + .5*ce ", [(2.0, "dice"), (0.5, "ce")]),
        ("1e+1*ce+1e-2*focal", [(10.0, "ce"), (0.01, "focal")]),
    ],
)
def test_a_sum_is_read(text, parts):
    assert parts_of(text) == parts


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "sum of them such as ce.0.5.lovasz.*Received: ''"),
        ("ce+", "such as ce.0.5.lovasz.*Received: 'ce.'"),
        ("ce++dice", "such as"),
        ("half*ce+dice", "A factor is a number above 0.*wrong in 'half.ce'"),
        ("0*ce+dice", "wrong in '0.ce'"),
        ("ce+-1*dice", "wrong in '-1.dice'"),
        ("nan*ce", "above 0"),
        ("ce*0.5", "A factor is a number above 0 before the name"),
        ("ce+dise", "one of .*'dice'.*Received: 'dise'. Did you mean dice"),
        ("ce-dice", "Received: 'ce-dice'"),
        ("ce+0.5 lovasz", "Received: '0.5 lovasz'"),
    ],
)
def test_a_sum_that_cannot_be_read_says_how_one_is_written(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_loss(TrainConfig(loss=text))


@pytest.mark.parametrize("short", SHORT_NAMES)
def test_a_short_name_is_the_row(short):
    assert type(make_loss(TrainConfig(loss=short))) is LOSSES[SHORT_NAMES[short]]


def test_a_sum_of_all_losses_is_their_sum_and_survives_its_config():
    logits, label, _ = random_batch()
    config = TrainConfig(loss=" + 0.5*".join(LOSSES), **EVERYTHING)
    loss = make_loss(config)
    parts = [
        make_loss(TrainConfig(loss=name, **of(name, EVERYTHING)))(label, logits)
        for name in LOSSES
    ]
    expected = np.dot(parts, [1.0] + [0.5] * (len(LOSSES) - 1))
    np.testing.assert_allclose(loss(label, logits), expected, rtol=1e-6)
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy(label, logits).numpy() == loss(label, logits).numpy()


def test_an_option_goes_to_the_parts_of_a_sum_that_have_it():
    loss = make_loss(TrainConfig(loss="ce+lovasz", class_weights=(1.0, 2.0, 3.0)))
    assert loss.parts[0].class_weights == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="'ce.lovasz' has no focal_gamma.*take focal"):
        make_loss(TrainConfig(loss="ce+lovasz", focal_gamma=3.0))


@pytest.mark.parametrize("factors", [[1.0], [1.0, 2.0, 3.0]])
def test_a_sum_needs_a_factor_for_each_part(factors):
    with pytest.raises(ValueError, match=f"2 parts, {len(factors)} factors"):
        SumOfLosses([DiceLoss(), LovaszLoss()], factors)


@pytest.mark.parametrize("factor", [-1.0, 0, float("nan"), float("inf")])
def test_a_factor_that_is_not_above_0_is_refused(factor):
    with pytest.raises(ValueError, match="a number above 0. Received: "):
        SumOfLosses([DiceLoss(), LovaszLoss()], [1.0, factor])


def test_a_part_that_is_no_loss_is_refused():
    with pytest.raises(ValueError, match="losses of Keras or functions.*'ce'"):
        SumOfLosses(["ce"])


def test_numbers_of_numpy_are_options_too():
    loss = FocalLoss(label_stride=np.int64(2), focal_gamma=np.float32(1.5))
    label, logits = seeded_batch()
    assert loss(label, logits) == FocalLoss(255, None, 2, 1.5)(label, logits)


def test_weights_of_pixels_count_in_sums_of_losses():
    """0 and 1 are void and not."""
    logits, label, _ = random_batch()
    weight = (np.arange(17) % 3 > 0).astype("float32") * np.ones_like(label)
    void = np.where(weight == 0, 255, label)
    loss = make_loss(TrainConfig(loss="ce+dice"))
    np.testing.assert_allclose(loss(label, logits, weight), loss(void, logits), 1e-6)
    with pytest.raises(ValueError, match="lovasz_loss takes no weights of pixels"):
        make_loss(TrainConfig(loss="ce+lovasz"))(label, logits, weight)


@pytest.mark.parametrize("name", ["dice", "ce+lovasz"])
def test_weights_of_images_are_refused_by_losses_of_the_batch(name):
    logits, label, _ = random_batch()
    loss = make_loss(TrainConfig(loss=name))
    with pytest.raises(ValueError, match=r"one value a pixel.*Received: \(2,\)"):
        loss(label, logits, np.ones([2]))
    assert make_loss(TrainConfig(loss="ce+focal"))(label, logits, np.zeros([2])) == 0
