"""Policies change what they say they change, and a seed still says it all."""

import builtins
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.commands.run_data import _crop_of
from deeplab_tf.config import TrainConfig, parse_changes
from deeplab_tf.data.reading import augment, image_changes, policies
from deeplab_tf.data.reading.class_uniform import ClassDraws
from tests.support.numbered_records import (
    NUM_RECORDS,
    assert_equal,
    batches,
    data_dir,
    select,
    train,
)

pytestmark = pytest.mark.two_lanes

__all__ = ["data_dir"]


def noise(height=24, width=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (height, width, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def strong():
    return tf.function(image_changes.make_strong())


def magnitude(limits, draw):
    return limits[0] + (limits[1] - limits[0]) * draw


@pytest.mark.parametrize("draws", [(0.0, 0.0, 0.0, 0.0), (0.9, 0.8, 0.7, 0.6)])
def test_jitter_equals_tensorflows_own_functions(draws):
    image = noise()
    brightness = 255.0 * magnitude(image_changes.BRIGHTNESS, draws[0])
    expected = tf.clip_by_value(image + brightness, 0.0, 255.0)
    contrast = magnitude(image_changes.CONTRAST, draws[1])
    expected = tf.clip_by_value(
        tf.image.adjust_contrast(expected, contrast), 0.0, 255.0
    )
    saturation = magnitude(image_changes.SATURATION, draws[2])
    hue = magnitude(image_changes.HUE, draws[3])
    expected = expected / 255.0
    expected = tf.image.adjust_saturation(expected, saturation / (1.0 - saturation))
    expected = tf.image.adjust_hue(expected, hue) * 255.0
    got = image_changes.make_jitter()(tf.constant(image), tf.constant(draws))
    np.testing.assert_allclose(got, expected, atol=0.02)


def test_jitter_in_the_middle_of_its_ranges_changes_nothing():
    image = noise()
    got = image_changes.make_jitter()(tf.constant(image), tf.fill([4], 0.5))
    np.testing.assert_allclose(got, image, atol=0.01)


def test_blur_of_a_point_by_hand():
    """Sigma 2 (the largest): exp(-d^2 / 8), normalised, along both axes."""
    image = np.zeros((25, 25, 3), np.float32)
    image[12, 12] = 200.0
    weights = np.exp(-(np.arange(-6, 7) ** 2) / 8.0)
    weights /= weights.sum()
    expected = np.zeros((25, 25))
    expected[6:19, 6:19] = 200.0 * np.outer(weights, weights)
    got = image_changes.make_blur()(tf.constant(image), tf.constant(1.0))
    for channel in range(3):
        np.testing.assert_allclose(got[..., channel], expected, atol=1e-4)


@pytest.mark.parametrize("height, width", [(1, 1), (3, 40), (20, 20)])
def test_blur_keeps_a_flat_image_up_to_its_edge(height, width):
    image = np.full((height, width, 3), 90.0, np.float32)
    got = image_changes.make_blur()(tf.constant(image), tf.constant(1.0))
    np.testing.assert_allclose(got, image, atol=1e-3)


def test_smallest_blur_changes_nothing():
    image = noise()
    got = image_changes.make_blur()(tf.constant(image), tf.constant(0.0))
    np.testing.assert_allclose(got, image, atol=1e-3)


def test_strong_stays_in_range_and_keeps_its_shares(strong):
    """Untouched images: neither coin falls, (1 - 0.8) * (1 - 0.5) = 1 in 10."""
    image = noise(8, 9)
    seeds = tf.stack([tf.fill([300], 5), tf.range(300)], axis=1)
    change = tf.function(
        lambda: tf.map_fn(
            lambda seed: strong(tf.constant(image), seed),
            seeds,
            fn_output_signature=tf.float32,
        )
    )
    results = change().numpy()
    assert results.min() >= 0.0 and results.max() <= 255.0
    same = sum(np.array_equal(result, image) for result in results)
    assert 12 <= same <= 52  # 30 +- 4.2 standard deviations
    assert len({result.tobytes() for result in results}) == 301 - same


def test_strong_moves_the_label_as_paper_does():
    """The crop is the same; where there is no image, the mean colour stays."""
    image, label = noise(30, 34), np.ones((30, 34, 1), np.uint8)
    change = image_changes.make_strong()
    options = dict(crop_size=(40, 56), mean_color=(10.0, 20.0, 30.0))
    changed = 0
    for index in range(12):
        plain, ids = augment.augment(image, label, [7, index], **options)
        got, moved = augment.augment(
            image, label, [7, index], change_image=change, **options
        )
        np.testing.assert_array_equal(moved, ids)
        outside = ids.numpy()[..., 0] == 255
        assert (got.numpy()[outside] == (10.0, 20.0, 30.0)).all()
        changed += not np.array_equal(got, plain)
    assert changed >= 8


def test_strong_stream_is_a_function_of_seed_and_step(data_dir):
    whole = batches(train(data_dir, policy="strong"), 10)
    tf.random.set_seed(5)
    tf.random.get_global_generator().reset_from_seed(5)
    assert_equal(batches(train(data_dir, policy="strong"), 10), whole)
    assert_equal(batches(train(data_dir, policy="strong", start_step=8), 2), whole[8:])
    image, label = train(data_dir, policy="strong").element_spec
    assert image.shape == (3, 8, 10, 3) and label.shape == (3, 8, 10)


def test_strong_needs_no_global_generator_and_ignores_mixed_precision(monkeypatch):
    """The generator does not exist under op determinism, with which runs resume."""
    image, draws = tf.constant(noise()), tf.constant([0.9, 0.8, 0.7, 0.6])

    def change():
        return image_changes.make_blur()(
            image_changes.make_jitter()(image, draws), draws[0]
        )

    expected = change()

    def no_generator():
        raise RuntimeError("op determinism is enabled")

    monkeypatch.setattr(tf.random, "get_global_generator", no_generator)
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        got = change()
    finally:
        keras.mixed_precision.set_global_policy(before)
    np.testing.assert_array_equal(got, expected)


def test_paper_is_the_default_and_v2_scales_less(data_dir):
    plain = batches(train(data_dir), 4)
    assert_equal(batches(train(data_dir, policy="paper"), 4), plain)
    numbers = dict(min_scale=0.5, max_scale=2.0)
    assert_equal(batches(train(data_dir, **numbers), 4), plain)
    numbers = dict(min_scale=0.5, max_scale=1.5)
    v2 = batches(train(data_dir, policy="v2"), 4)
    assert_equal(batches(train(data_dir, **numbers), 4), v2)
    # Numbers that are given hold in every policy.
    numbers = dict(min_scale=0.5, max_scale=2.0)
    assert_equal(batches(train(data_dir, policy="v2", **numbers), 4), plain)


def test_an_unknown_policy_names_the_known_ones(data_dir):
    with pytest.raises(ValueError, match="paper, v2, strong, .*Received: 'weak'"):
        train(data_dir, policy="weak")


def test_without_keras_cv_strong_says_what_to_install(data_dir, monkeypatch):
    real_import = builtins.__import__

    def no_keras_cv(name, *args, **kwargs):
        if name.partition(".")[0] == "keras_cv":
            raise ImportError("No module named 'keras_cv'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_keras_cv)
    with pytest.raises(ImportError, match="pip install keras-cv==0.9.0"):
        train(data_dir, policy="strong")
    train(data_dir, policy="v2")


def test_a_row_that_moves_image_and_label_reaches_the_stream(data_dir, monkeypatch):
    """Upside down, then the same crop, mirrored or not, as without it."""

    def upside_down(image, label, seed, crop):
        assert image.dtype == label.dtype == tf.uint8
        assert (crop.mean_color, crop.ignore_label) == ((127.5,) * 3, 255)
        return tf.reverse(image, [0]), tf.reverse(label, [0])

    row = policies.Policy(change_geometry=upside_down)
    monkeypatch.setitem(policies.POLICIES, "upside down", row)
    # Wholly seen, so that both show the same rows.
    options = dict(crop_size=(20, 20), min_scale=1.0, max_scale=1.0)
    plain = batches(train(data_dir, **options), 8)
    turned = batches(train(data_dir, policy="upside down", **options), 8)
    for (images, labels), (turned_images, turned_labels) in zip(plain, turned):
        np.testing.assert_array_equal(turned_labels, labels)
        for image, label, moved in zip(images, labels, turned_images):
            height = (label[:, 0] != 255).sum()
            np.testing.assert_array_equal(moved[:height], image[:height][::-1])
            assert (moved[height:] == 127.5).all()


def test_the_seed_of_a_move_is_neither_that_of_the_crop_nor_of_the_colours():
    seen = {}

    def note(name):
        def change(image, *others):
            *label, seed = others
            seen[name] = tuple(np.asarray(seed))
            return (image, *label) if label else image

        return change

    augment.augment(
        noise(),
        np.zeros((24, 30, 1), np.uint8),
        [7, 1],
        crop_size=(8, 8),
        change_geometry=note("move"),
        change_image=note("colours"),
    )
    assert len({(7, 1), seen["move"], seen["colours"]}) == 3


def grey_noise():
    """Without colours, of which JPEG keeps a quarter at any quality."""
    return tf.constant(np.repeat(noise(32, 40)[..., :1], 3, axis=-1))


def test_jpeg_leaves_less_the_lower_its_quality():
    image = grey_noise()
    losses = [
        float(tf.reduce_mean(tf.abs(image_changes.compress(image, quality) - image)))
        for quality in (100, 90, 40, 5)
    ]
    assert losses == sorted(losses) and losses[0] < 2 and losses[-1] > 10
    flat = tf.fill([9, 7, 3], 90.0)
    np.testing.assert_allclose(image_changes.compress(flat, 5), flat, atol=3)


def test_jpeg_draws_a_quality_and_knows_it_by_its_seed():
    image = grey_noise()
    change = tf.function(image_changes.make_compression(40))
    results = [change(image, tf.constant([seed, 2])).numpy() for seed in range(12)]
    np.testing.assert_array_equal(change(image, tf.constant([3, 2])), results[3])
    assert len({result.tobytes() for result in results}) > 8
    worst = np.abs(image_changes.compress(image, 40) - image).mean()
    assert max(np.abs(result - image).mean() for result in results) <= 1.02 * worst


@pytest.mark.parametrize(
    "row, changes",
    [
        ("rotation", dict(rotation_degrees=10.0)),
        (
            "rare_classes",
            dict(copy_paste=0.5, max_class_share=0.75, class_uniform=True),
        ),
    ],
)
def test_fields_of_a_config_make_the_row_out_of_paper(row, changes):
    made = policies.POLICIES["paper"].but(**changes, flip=None, erasing=None)
    assert made == policies.POLICIES[row]


def test_every_field_is_one_of_a_run_which_leaves_it_as_it_is():
    """And it reaches the crop: a value of each that no policy of the table has."""
    of_runs = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for field in dataclasses.fields(policies.Policy):
        if field.name in policies.POLICY_FIELDS:
            kinds = {*field.type.split(" | "), "None"}
            assert {*of_runs[field.name].type.split(" | ")} == kinds, field.name
    assert _crop_of(TrainConfig()).row == policies.POLICIES["paper"]
    changes = parse_changes(
        "min_scale=0.7 max_scale=1.7 scale_step=0.5 flip=false vertical_flip=true "
        "quarter_turns=true rotation_degrees=3 jpeg_quality=71 erasing=0.1 "
        'max_class_share=0.9 copy_paste=0.2 paste_classes=["pole"] '
        "class_uniform=true".split()
    )
    assert {*changes} == {*policies.POLICY_FIELDS}
    row = _crop_of(TrainConfig(policy="v2", **changes)).row
    assert {name: getattr(row, name) for name in changes} == changes


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(max_class_share=1.5), "max_class_share must be 0.01 to 1. Received: 1.5"),
        (dict(copy_paste=2), "copy_paste must be 0 to 1"),
        (dict(paste_classes="pole"), 'of texts rare alone. Received: "pole"'),
        (dict(jpeg_quality=0), "jpeg_quality must be 1 to 100"),
        (dict(rotation_degrees=-5), "rotation_degrees must be 0 to 180"),
        (dict(vertical_flip=1), "vertical_flip takes true or false"),
        (dict(scale_step=4.0), "scale_step of 1.5 or less"),
    ],
)
def test_values_that_a_policy_cannot_have_are_named(wrong, words):
    with pytest.raises(ValueError) as error:
        policy = policies.POLICIES["paper"].but(**wrong)
        policies.make_augmenter(policies.Crop((8, 8), policy))
    assert words in str(error.value)


def test_flip_can_be_left_out():
    image, label = noise().astype(np.uint8), np.zeros((24, 30, 1), np.uint8)
    policy = policies.POLICIES["paper"].but(flip=False, min_scale=1.0, max_scale=1.0)
    augment_one = policies.make_augmenter(policies.Crop((24, 30), policy))
    for seed in range(6):
        np.testing.assert_array_equal(augment_one(image, label, [seed, 1])[0], image)


@pytest.mark.parametrize("name", list(policies.POLICIES))
def test_scales_of_policies_are_accepted_by_the_pipeline(data_dir, name):
    policy = policies.POLICIES[name]
    assert 0 < policy.min_scale <= policy.max_scale
    draws = ClassDraws((1,), (np.array([4]),), NUM_RECORDS)
    selection = select(data_dir, draws=draws, paste=draws)
    spec = train(selection, policy=name).element_spec
    assert spec[0].dtype == tf.float32 and spec[1].dtype == tf.int32
