"""What holds for every policy, seed, number of shards, of workers, and batch size."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.data.reading import pipeline, policies
from deeplab_tf.data.reading.policies import Crop, Policy
from deeplab_tf.data.records.tfrecord import encode_example
from tests.support.numbered_records import (
    NUM_RECORDS,
    example,
    record_ids,
    select,
    train,
    write,
)

pytestmark = pytest.mark.two_lanes

CROP = (48, 56)
SIZES = ((40, 64), (64, 40), (100, 130), (30, 30))
SEEDS = range(24)
HAS_KERAS_CV = importlib.util.find_spec("keras_cv") is not None


def quarter_turn(image, label, seed, crop):
    turns = tf.random.stateless_uniform([], seed, maxval=4, dtype=tf.int32)
    return tf.image.rot90(image, turns), tf.image.rot90(label, turns)


def flip_upside_down(image, label, seed, crop):
    upside_down = tf.random.stateless_uniform([], seed) < 0.5
    return tf.cond(
        upside_down,
        lambda: (tf.reverse(image, [0]), tf.reverse(label, [0])),
        lambda: (image, label),
    )


def turn_freely(image, label, seed, crop):
    """Turns by up to 30 degrees around the middle; the corners are mean and void."""
    angle = tf.random.stateless_uniform([], seed, -math.pi / 6, math.pi / 6)
    cos, sin = tf.cos(angle), tf.sin(angle)
    size = tf.shape(image)[:2]
    y, x = tf.unstack(tf.cast(size - 1, tf.float32) / 2)
    shift_x, shift_y = x - cos * x + sin * y, y - sin * x - cos * y

    def turned(image, fill, interpolation):
        image = tf.cast(image, tf.float32) - fill
        transform = tf.stack([cos, -sin, shift_x, sin, cos, shift_y, 0.0, 0.0])
        turned = tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None],
            transforms=transform[None],
            output_shape=size,
            fill_value=0.0,
            interpolation=interpolation,
            fill_mode="CONSTANT",
        )
        return turned[0] + fill

    label = turned(label, float(crop.ignore_label), "NEAREST")
    return turned(image, crop.mean_color, "BILINEAR"), tf.cast(label, tf.uint8)


# Those of the table, and what a user may add to it.
ROWS = {
    **policies.POLICIES,
    "quarter turn": Policy(change_geometry=quarter_turn),
    "upside down": Policy(change_geometry=flip_upside_down),
    "free turn": Policy(change_geometry=turn_freely),
}
# A pixel, the one below it and the one to its right.
WAYS = ((0, 0), (1, 0), (0, 1))
# Whole pixels change places: no two of them are mixed, and nothing is uncovered.
PERMUTATIONS = (None, quarter_turn, flip_upside_down)


def needs_keras_cv(policy: str):
    """Policies that change colours are made of its layers."""
    if not ROWS[policy].make_image_change:
        return policy
    missing = pytest.mark.skipif(not HAS_KERAS_CV, reason="needs keras-cv")
    return pytest.param(policy, marks=[missing, pytest.mark.reaches_keras])


# Those that choose records do to each image what others of the table do.
every_policy = pytest.mark.parametrize(
    "augmenter",
    [needs_keras_cv(name) for name, row in ROWS.items() if not row.needs_records],
    indirect=True,
)


@pytest.fixture(scope="module")
def augmenter(request):
    """(image, label [h, w], seed) -> augmented arrays, as training calls `augment`."""
    policy = ROWS[request.param]
    plain = policy.but(jpeg_quality=100)
    plain = dataclasses.replace(plain, make_image_change=None)
    signature = [
        tf.TensorSpec([None, None, 3], tf.uint8),
        tf.TensorSpec([None, None, 1], tf.uint8),
        tf.TensorSpec([2], tf.int64),
    ]
    compiled = {}
    with pytest.MonkeyPatch.context() as patch:
        for colors, row in ((True, policy), (False, plain)):
            patch.setitem(policies.POLICIES, "row", row)
            augment = policies.make_augmenter(Crop(CROP, "row"))
            compiled[colors] = tf.function(augment, input_signature=signature)

    def run(image, label, seed, change_colors=True):
        image, label = compiled[change_colors](image, label[..., None], [seed, 5])
        return image.numpy(), label.numpy()[..., 0]

    run.is_exact = policy.change_geometry in PERMUTATIONS
    run.is_exact &= not policy.rotation_degrees
    run.erases = policy.erasing > 0
    return run


def near_edges(ids, exact):
    """Where a pixel has another value beside it; where turns mix, up to 6 pixels off.

    What lies beyond the border of the crop may have been mixed in, too.
    """
    near, border = np.zeros(ids.shape, bool), dict(mode="edge")
    if not exact:
        border = dict(constant_values=-1)
    for _ in range(1 if exact else 6):
        values = np.where(near, 256, ids)
        padded = np.pad(values, 1, **border)
        for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
            near |= padded[dy : dy + CROP[0], dx : dx + CROP[1]] != values
    return near


@every_policy
@pytest.mark.parametrize("axis", [0, 1])
def test_a_pixel_and_its_label_come_from_one_place(augmenter, axis):
    """The image holds rows in red and columns in green, the label one of the two.

    Bilinear sampling of a ramp gives the very place that was sampled, and the label's
    nearest pixel lies at most half a pixel from it: also in mirrored crops. After a
    free turn the nearest pixel is chosen a second time, by then along the diagonal.
    """
    for seed in SEEDS:
        height, width = SIZES[seed % len(SIZES)]
        places = np.mgrid[:height, :width].astype(np.uint8)
        image = np.stack([*places, np.zeros_like(places[0])], axis=-1)
        crop, label = augmenter(image, places[axis], seed, change_colors=False)
        inside = label != 255
        if not augmenter.is_exact:
            inside &= ~near_edges(np.where(inside, 0, 255), augmenter.is_exact)
        assert inside.any()
        distance = np.abs(crop[inside][:, axis] - label[inside].astype(np.float32))
        limit = 0.5 if augmenter.is_exact else 0.5 + 0.5 * np.sqrt(2)
        assert distance.max() <= limit + 1e-3


@every_policy
def test_every_policy_mirrors_half_of_its_crops(augmenter):
    """By the determinant of where two neighbours of a pixel come from."""
    mirrored = 0
    for seed in range(60):
        places = np.mgrid[:100, :130].astype(np.uint8)
        image = np.stack([*places, np.zeros_like(places[0])], axis=-1)
        crop, ids = augmenter(image, np.zeros([100, 130], np.uint8), seed, False)
        y, x = np.argwhere((ids == 0) & ~near_edges(ids, augmenter.is_exact))[0]
        here, below, right = (crop[y + dy, x + dx, :2] for dy, dx in WAYS)
        mirrored += np.linalg.det([below - here, right - here]) < 0
    assert 18 <= mirrored <= 42


@every_policy
def test_an_edge_stays_where_its_label_has_it(augmenter):
    """Colours and sharpness may change, but not by a pixel the place of an edge."""
    seen = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        size = SIZES[seed % len(SIZES)]
        label = np.zeros(size, np.uint8)
        axis = seed // 2 % 2
        np.moveaxis(label, axis, 0)[rng.integers(10, size[axis] - 10) :] = 1
        image = np.repeat(np.where(label, 215, 40).astype(np.uint8)[..., None], 3, -1)
        crop, ids = augmenter(image, label, seed)
        grey = crop.mean(axis=-1)
        if not {0, 1} <= set(np.unique(ids)):
            continue  # The crop missed the edge.
        seen += 1
        middle = (np.median(grey[ids == 0]) + np.median(grey[ids == 1])) / 2
        known = (ids != 255) & ~near_edges(ids, augmenter.is_exact)
        np.testing.assert_array_equal((grey > middle)[known], (ids == 1)[known])
    assert seen > len(SEEDS) // 3


@every_policy
def test_no_new_id_and_void_only_where_it_was_or_is_padded(augmenter):
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        size = SIZES[seed % len(SIZES)]
        sparse = rng.choice(255, 5, replace=False).astype(np.uint8)
        label = rng.choice(sparse, size)
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        crop, ids = augmenter(image, label, seed)
        assert set(np.unique(ids)) <= {*sparse.tolist(), 255}
        # No pixel of the label is void: here void means pad, of the mean colour.
        void = ids == 255
        if augmenter.is_exact:
            assert (crop[void] == 127.5).all()
            rows, columns = (~void).any(axis=1), (~void).any(axis=0)
            whole = (~void).sum() == rows.sum() * columns.sum()
            assert whole or augmenter.erases
        else:
            void &= ~near_edges(void.astype(int), augmenter.is_exact)
            np.testing.assert_allclose(crop[void], 127.5, rtol=1e-5)

        label[rng.random(size) < 0.5] = 255
        _, with_void = augmenter(image, label, seed)
        assert set(np.unique(with_void)) <= {*sparse.tolist(), 255}
        kept = with_void != 255
        np.testing.assert_array_equal(with_void[kept], ids[kept])


def painted(ids, size, rng):
    """A label of large blocks of some ids, and an image that is 20 times its label."""
    blocks = rng.choice(ids, (4, 4))
    label = np.kron(blocks, np.ones([40, 40]))[: size[0], : size[1]].astype(np.uint8)
    return np.repeat(20 * label[..., np.newaxis], 3, axis=-1), label[..., np.newaxis]


@pytest.mark.parametrize("name", list(ROWS))
def test_every_image_says_its_label(name):
    """Pasted pixels too, whose image has other ids; pads and erased say the mean."""
    policy = dataclasses.replace(
        ROWS[name].but(jpeg_quality=100), make_image_change=None
    )
    augment = policies.make_augmenter(Crop(CROP, policy))
    run = tf.function(
        lambda image, label, seed, *other: augment(image, label, seed, lambda: other)
    )
    pasted = 0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        pair = painted(range(4), (130, 150), rng)
        other = painted(range(6, 10), (120, 160), rng)
        image, label = run(*pair, tf.constant([seed, 5], tf.int64), *other)
        ids = label.numpy()[..., 0].astype(int)
        assert set(np.unique(ids)) <= {0, 1, 2, 3, 6, 7, 8, 9, 255}
        pasted += bool(((ids > 3) & (ids < 255)).any())
        said = np.where(ids == 255, 127.5, 20.0 * ids)
        sure = ~near_edges(ids, exact=False)
        np.testing.assert_allclose(image.numpy()[sure, 0], said[sure], atol=1e-2)
    assert (2 <= pasted <= 14) if policy.copy_paste else not pasted


@pytest.fixture(scope="module", params=[1, 2, 5])
def sharded(request, tmp_path_factory):
    """23 records, record k with a label full of k, in some number of shards."""
    folder = tmp_path_factory.mktemp(f"shards{request.param}")
    records = [example(index) for index in range(NUM_RECORDS)]
    write(folder, records, num_shards=request.param)
    return folder


# Record k comes 0, 1 or 2 times: 7 records never, 8 once and 8 twice.
REPEATS = (np.arange(NUM_RECORDS) + 1) % 3


@pytest.mark.parametrize("repeats", [None, REPEATS], ids=["once", "repeated"])
@pytest.mark.parametrize("start_step", [0, 5, 11])
def test_every_epoch_is_whole_wherever_training_stopped(sharded, repeats, start_step):
    """Three epochs, interrupted in the first, or in the second, hold what they must."""
    counts = np.ones(NUM_RECORDS, int) if repeats is None else repeats
    if repeats is not None:  # by record in the order of the shards
        num_shards = len(list(sharded.iterdir()))
        shards = [repeats[shard::num_shards] for shard in range(num_shards)]
        repeats = np.concatenate(shards)
    selection = select(sharded, repeats=repeats)
    before = train(selection, shuffle_buffer=4)
    after = train(selection, start_step=start_step, shuffle_buffer=4)
    ids = record_ids(after, counts.sum() - start_step)
    if start_step:
        ids = np.concatenate([record_ids(before, start_step), ids])
    epochs = ids.reshape(3, counts.sum())  # in batches of three
    for epoch in epochs:
        np.testing.assert_array_equal(np.bincount(epoch, minlength=23), counts)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("num_workers", [2, 3])
def test_shares_of_training_are_disjoint_and_complete(sharded, num_workers):
    """In every epoch each record goes to one worker, once."""
    steps = NUM_RECORDS
    shares = [
        record_ids(
            train(
                sharded,
                batch_size=6,
                share=pipeline.Share(num_workers, num_workers, index),
            ),
            steps,
        ).reshape(steps, 6 // num_workers)
        for index in range(num_workers)
    ]
    epochs = np.concatenate(shares, axis=1).reshape(6, NUM_RECORDS)
    assert (np.sort(epochs, axis=1) == np.arange(NUM_RECORDS)).all()


@pytest.mark.parametrize("num_workers", [2, 3])
def test_shares_of_evaluation_are_disjoint_and_complete(sharded, num_workers):
    """All take equally many steps; what fills the last round counts nowhere."""
    steps, seen = [], []
    for index in range(num_workers):
        share = pipeline.make_eval_share(
            select(sharded), pipeline.Share(num_workers, num_workers, index)
        )
        labels = [label.numpy() for _, label in share]
        steps.append(len(labels))
        seen += [label.flat[0] for label in labels if (label != 255).all()]
        assert all((label == label.flat[0]).all() for label in labels)
    assert steps == [-(-NUM_RECORDS // num_workers)] * num_workers
    assert sorted(seen) == list(range(NUM_RECORDS))


@pytest.fixture(scope="module")
def drawn_pairs():
    """Images and labels of three sizes, 7 + 7 + 6: noise, and a tenth of it void."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(20):
        size = ((12, 20), (20, 12), (15, 15))[index % 3]
        label = rng.choice([0, 1, 2, 3, 255], size, p=[0.3, 0.2, 0.2, 0.2, 0.1])
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        found.append((image, label.astype(np.uint8)))
    return found


def confusion(label, image):
    """Rows are labels, columns the "predictions" of a rule on the pixel's colour."""
    matrix, valid = np.zeros((4, 4), np.int64), label != 255
    classes = np.asarray(image, int).sum(axis=-1) % 4
    np.add.at(matrix, (label[valid], classes[valid]), 1)
    return matrix


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_evaluation_is_exact_in_any_batch_size(tmp_path, drawn_pairs, batch_size):
    """One confusion matrix for all: that of the arrays the records were made of."""
    records = []
    for index, (image, label) in enumerate(drawn_pairs):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        size = label.shape
        records.append(
            encode_example(buffer.getvalue(), label, f"{index}", "png", *size)
        )
    write(tmp_path, records, num_shards=4)
    data = pipeline.make_eval_dataset(
        select(tmp_path), batch_size=batch_size, with_filename=True
    )
    got, names = np.zeros((4, 4), np.int64), []
    for images, labels, batch_names in data:
        got += confusion(labels.numpy(), images.numpy())
        names += batch_names.numpy().tolist()
    expected = sum(confusion(label, image) for image, label in drawn_pairs)
    np.testing.assert_array_equal(got, expected)
    assert sorted(map(int, names)) == list(range(len(drawn_pairs)))
