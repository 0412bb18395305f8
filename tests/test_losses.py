"""Losses by hand, and what is asked of every row of `LOSSES`."""

import dataclasses
import inspect

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.config import TrainConfig
from deeplab_tf.training import compiling, losses
from deeplab_tf.training.losses import (
    LOSSES,
    SegmentationLoss,
    balanced_class_weights,
    make_loss,
)

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


def value_and_gradient(loss, label, logits):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = tf.reduce_mean(loss(label, logits))
    return value.numpy(), tape.gradient(value, logits).numpy()


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
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_an_option_reaches_the_losses_that_have_it_and_others_refuse_it(name, option):
    config = TrainConfig(loss=name, **{option: OPTIONS[option]})
    if option not in inspect.signature(LOSSES[name]).parameters:
        with pytest.raises(ValueError, match=f"loss '{name}' has no {option}"):
            make_loss(config)
        return
    logits, label, _ = random_batch()
    plain = make_loss(TrainConfig(loss=name))(label, logits)
    assert make_loss(config)(label, logits) != plain


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_the_table_survives_its_config(name):
    loss = make_loss(TrainConfig(loss=name, ignore_label=2))
    logits, label, _ = random_batch()
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    label = np.where(label == 255, 2, label)
    assert copy(label, logits).numpy() == loss(label, logits).numpy()


def test_unknown_loss_lists_the_rows():
    with pytest.raises(ValueError, match="one of .'cross_entropy'.*Received: 'dise'"):
        make_loss(TrainConfig(loss="dise"))


def squared_error(ignore_label, label_stride=1):
    """A new loss as its author would write it: a function that makes one."""

    def loss(y_true, y_pred):
        classes, logits, valid = losses._compared(
            y_true, y_pred, ignore_label, label_stride
        )
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


def test_label_out_of_range_is_an_error_that_names_it():
    with pytest.raises(tf.errors.InvalidArgumentError, match="2"):
        SegmentationLoss()(np.array([[[1, 2], [1, 0]]]), LOGITS)


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
    loss = SegmentationLoss(class_weights=[0.0, 0.0], hard_pixel_fraction=0.5)
    assert loss(np.array([[[1, 255], [1, 0]]]), LOGITS).numpy() == 0.0


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
    [{"hard_pixel_fraction": 0.0}, {"label_stride": 0}, {"class_weights": [1, -1]}],
)
def test_argument_out_of_range_is_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}.*Received: "):
        SegmentationLoss(**wrong)


def test_options_survive_the_config_of_a_loss():
    logits, label, _ = random_batch()
    loss = SegmentationLoss(
        255, class_weights=[1.0, 2.0, 3.0], label_stride=2, hard_pixel_fraction=0.5
    )
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy(label, logits).numpy() == loss(label, logits).numpy()


def test_balanced_class_weights_by_hand():
    # Of 10, 40 and 1000 pixels the median is 40; the absent class does not move it.
    assert balanced_class_weights([10, 0, 40, 1000]) == [4.0, 1.0, 1.0, 0.04]


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
    with pytest.raises(ValueError, match=r"each class id from 0 on.*\[0, 2\]"):
        SegmentationLoss(class_weights={0: 1.0, 2: 1.0})


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
    with pytest.raises(ValueError, match="one a pixel.*Received"):
        loss(label, logits, weight[:, :2])


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
