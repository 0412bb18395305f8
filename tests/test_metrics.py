"""Scores by hand on 6x6 maps, and against scikit-learn, Keras and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from deeplab_tf.evaluation import boundaries, intervals, metrics
from deeplab_tf.networks.layers import is_keras3
from deeplab_tf.training.losses import SegmentationLoss

LABEL = np.array([[0, 0, 1], [1, 255, 2]])
CLASSES = np.array([[0, 1, 1], [1, 2, 0]])
CONFUSION = np.array([[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


def test_confusion_matrix_by_hand():
    confusion = metrics.confusion_matrix(LABEL, CLASSES, 4)
    np.testing.assert_array_equal(confusion, CONFUSION)


def test_scores_by_hand():
    iou = metrics.per_class_iou(CONFUSION)
    np.testing.assert_allclose(iou, [1 / 3, 2 / 3, 0, np.nan])
    assert metrics.mean_iou(CONFUSION) == pytest.approx(1 / 3)  # over three classes
    assert metrics.pixel_accuracy(CONFUSION) == pytest.approx(3 / 5)
    accuracy = metrics.per_class_accuracy(CONFUSION)
    np.testing.assert_allclose(accuracy, [1 / 2, 1, 0, np.nan])
    assert metrics.mean_accuracy(CONFUSION) == pytest.approx(1 / 2)
    weighted = (2 * 1 / 3 + 2 * 2 / 3 + 1 * 0) / 5
    assert metrics.frequency_weighted_iou(CONFUSION) == pytest.approx(weighted)


def test_nothing_counted_is_undefined_not_zero():
    empty = np.zeros((3, 3), np.int64)
    assert np.isnan(metrics.mean_iou(empty))
    assert np.isnan(metrics.pixel_accuracy(empty))
    assert np.isnan(metrics.mean_accuracy(empty))
    assert np.isnan(metrics.frequency_weighted_iou(empty))


@pytest.mark.parametrize("label, classes", [(4, 0), (0, 4), (0, 255)])
def test_ids_out_of_range_are_refused(label, classes):
    with pytest.raises(ValueError, match="ids in \\[0, 4\\)"):
        metrics.confusion_matrix(np.array([label]), np.array([classes]), 4)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="same shape"):
        metrics.confusion_matrix(LABEL, CLASSES[:1], 4)


def test_keras_metric_accumulates_one_matrix():
    rng = np.random.default_rng(0)
    metric = metrics.MeanIoU(5, ignore_label=200)
    expected = np.zeros((5, 5), np.int64)
    for _ in range(3):
        label = rng.integers(0, 4, (2, 6, 7))  # class 4 never occurs as a label
        label[rng.random(label.shape) < 0.2] = 200
        logits = rng.normal(size=(2, 6, 7, 5))
        metric.update_state(label, logits)
        expected += metrics.confusion_matrix(label, logits.argmax(-1), 5, 200)
    np.testing.assert_array_equal(np.asarray(metric.confusion), expected)
    assert float(metric.result()) == pytest.approx(metrics.mean_iou(expected), abs=1e-6)
    metric.reset_state()
    assert not np.asarray(metric.confusion).any()
    assert np.isnan(float(metric.result()))


# --- Against other implementations ---------------------------------------------------


def blocks(rng, num_classes, shape=(24, 30), side=6):
    """Class ids in blocks, with some noise: maps that have boundaries and insides."""
    coarse = rng.integers(0, num_classes, (shape[0] // side, shape[1] // side))
    label = np.kron(coarse, np.ones((side, side), int))
    noise = rng.random(shape) < 0.02
    return np.where(noise, rng.integers(0, num_classes, shape), label)


def random_pair(seed, num_classes=5):
    """A label with void and a prediction that is right in most places."""
    rng = np.random.default_rng(seed)
    label = blocks(rng, num_classes)
    classes = np.roll(label, (1, 2), (0, 1))
    wrong = rng.random(label.shape) < 0.1
    classes = np.where(wrong, rng.integers(0, num_classes, label.shape), classes)
    label[rng.random(label.shape) < 0.05] = 255
    label[3:9, 4:10] = 255
    return label, classes


def test_keras_metric_refuses_logits_of_another_count():
    with pytest.raises(ValueError, match="made for 2 classes. Received: logits of 3"):
        metrics.MeanIoU(2).update_state(np.zeros((1, 2, 2)), np.zeros((1, 2, 2, 3)))


@pytest.mark.parametrize("label", [None, 2.5, "255"])
def test_keras_metric_refuses_an_ignore_label_that_is_no_whole_number(label):
    with pytest.raises(ValueError, match="ignore_label must be a whole number"):
        metrics.MeanIoU(3, ignore_label=label)


@pytest.mark.parametrize("label", [3, -1, 7])
def test_keras_metric_of_unknown_labels_is_not_a_number(label):
    metric = metrics.MeanIoU(3)
    labels = np.zeros((1, 2, 2), "int32")
    metric.update_state(labels, np.zeros((1, 2, 2, 3), "float32"))
    assert float(metric.result()) == 1.0
    labels[0, 0, 0] = label
    metric.update_state(labels, np.zeros((1, 2, 2, 3), "float32"))
    assert np.isnan(float(metric.result()))
    metric.reset_state()
    metric.update_state(labels * 0, np.zeros((1, 2, 2, 3), "float32"))
    assert float(metric.result()) == 1.0


def test_keras_metric_of_nothing_is_not_a_number():
    """0 would say that all is wrong; `mean_iou` of no pixels is NaN as well."""
    metric = metrics.MeanIoU(3)
    assert np.isnan(float(metric.result()))
    logits = np.zeros((1, 2, 2, 3), "float32")
    metric.update_state(np.full((1, 2, 2), 255), logits)
    assert np.isnan(float(metric.result()))
    metric.update_state(np.full((1, 2, 2), 1), logits)
    assert float(metric.result()) == 0.0


@pytest.mark.skipif(not is_keras3(), reason="Keras 2 goes by the metric's name alone")
def test_early_stopping_knows_that_the_metric_rises():
    callback = keras.callbacks.EarlyStopping(monitor="val_mean_iou", patience=1)
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Conv2D(3, 1)])
    model.compile("sgd", SegmentationLoss(), metrics=[metrics.MeanIoU(3)])
    data = np.zeros((1, 2, 2, 3), "float32"), np.zeros((1, 2, 2), "int32")
    model.fit(*data, validation_data=data, epochs=2, callbacks=[callback], verbose=0)
    assert callback.monitor_op(1.0, 0.5) and not callback.monitor_op(0.5, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(seed):
    """Class 6 of 7 never occurs; class 5 is only predicted."""
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    label, classes = random_pair(seed)
    classes[:2, :9] = 5
    valid = label != 255
    pair = (label[valid], classes[valid])
    confusion = metrics.confusion_matrix(label, classes, 7)
    expected = sklearn_metrics.confusion_matrix(*pair, labels=range(7))
    np.testing.assert_array_equal(confusion, expected)

    def jaccard(average, labels):
        return sklearn_metrics.jaccard_score(
            *pair, average=average, labels=labels, zero_division=0
        )

    exact = {"abs": 1e-12, "rel": 0}
    assert metrics.mean_iou(confusion) == pytest.approx(
        jaccard("macro", range(6)), **exact
    )
    weighted = metrics.frequency_weighted_iou(confusion)
    assert weighted == pytest.approx(jaccard("weighted", range(7)), **exact)
    iou = metrics.per_class_iou(confusion)
    np.testing.assert_allclose(iou[:6], jaccard(None, range(6)), rtol=0, atol=1e-12)
    assert np.isnan(iou[6])
    accuracy = sklearn_metrics.recall_score(*pair, average="macro", labels=range(5))
    assert metrics.mean_accuracy(confusion) == pytest.approx(accuracy, **exact)
    assert metrics.pixel_accuracy(confusion) == pytest.approx(
        sklearn_metrics.accuracy_score(*pair), **exact
    )


def test_mean_iou_is_that_of_keras():
    """Keras answers in float32, whose steps below 1 are 6e-8: more cannot be asked."""
    rng = np.random.default_rng(0)
    theirs = keras.metrics.MeanIoU(9)
    ours = np.zeros((9, 9), np.int64)
    for _ in range(4):
        label, classes = rng.integers(0, 8, (2, 40, 50))  # class 8 never occurs
        theirs.update_state(label, classes)
        ours += metrics.confusion_matrix(label, classes, 9)
    assert metrics.mean_iou(ours) == pytest.approx(float(theirs.result()), abs=2e-7)


def brute_distance(points, shape):
    """Distance of each pixel to the nearest of points [n, 2]."""
    pixels = np.indices(shape).reshape(2, -1).T
    difference = pixels[:, None] - np.reshape(points, (-1, 2))[None]
    return np.sqrt((difference**2).sum(-1)).min(1).reshape(shape)


def brute_edges(label):
    """Pixels that differ from a neighbour above, below, left or right, one by one."""
    height, width = label.shape
    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        if any(
            0 <= b < height and 0 <= a < width and label[b, a] != label[y, x]
            for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        )
    ]


@pytest.mark.parametrize("seed", range(3))
def test_boundary_distance_and_trimaps_are_those_of_brute_force(seed):
    label, classes = random_pair(seed)
    distance = brute_distance(brute_edges(label), label.shape)
    np.testing.assert_allclose(
        boundaries.boundary_distance(label), distance, rtol=0, atol=1e-12
    )
    widths = (1, 2, 3, 5)
    trimap = boundaries.trimap_confusion(label, classes, 5, widths=widths)
    for width, confusion in zip(widths, trimap):
        band = np.where(distance < width, label, 255)
        expected = metrics.confusion_matrix(band, classes, 5)
        np.testing.assert_array_equal(confusion, expected)
    assert (np.diff(trimap.sum((1, 2))) > 0).all(), "wider bands hold more"
    everything = boundaries.trimap_confusion(label, classes, 5, widths=(1, 99))[1]
    whole = metrics.confusion_matrix(label, classes, 5)
    np.testing.assert_array_equal(everything, whole)


def brute_boundary_f(label, classes, index, radius):
    """Csurka's F-score of a class, distance by distance."""
    completed = np.where(label == 255, classes, label)
    wanted = [p for p in brute_edges(completed) if completed[p] == index]
    found = [p for p in brute_edges(classes) if classes[p] == index]
    to_label = brute_distance(wanted, label.shape)
    to_found = brute_distance(found, label.shape)
    precision = np.mean([to_label[p] < radius for p in found])
    recall = np.mean([to_found[p] < radius for p in wanted])
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("tolerance", [0.01, 0.04, 0.1])  # 0.4, 1.5 and 3.8 pixels
def test_boundary_f_is_that_of_brute_force(tolerance):
    label, classes = random_pair(0)
    scores = boundaries.boundary_f_scores(label, classes, 6, tolerance=tolerance)
    radius = tolerance * np.sqrt(24**2 + 30**2)
    expected = [brute_boundary_f(label, classes, c, radius) for c in range(5)]
    np.testing.assert_allclose(scores[:5], expected, rtol=0, atol=1e-12)
    assert np.isnan(scores[5])
    assert len(set(np.round(expected, 6))) == 5, "should tell classes apart"


# --- Boundaries by hand --------------------------------------------------------------

# Two halves with a void corner.
HALVES = np.array([[0, 0, 0, 1, 1, 1]] * 6)
CORNER = HALVES.copy()
CORNER[4:, :2] = 255


def test_boundaries_by_hand():
    expected = np.array(
        [
            [0, 0, 1, 1, 0, 0],
            [0, 0, 1, 1, 0, 0],
            [0, 0, 1, 1, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 1, 1, 1, 0, 0],
        ]
    )
    np.testing.assert_array_equal(boundaries.boundary_pixels(CORNER), expected)
    distance = boundaries.boundary_distance(CORNER)
    np.testing.assert_array_equal(distance[0], [2, 1, 0, 0, 1, 2])
    np.testing.assert_array_equal(distance[:, 0], [2, 2, 1, 0, 0, 1])
    assert distance[2, 5] == 2


def test_boundaries_of_bytes_do_not_wrap_around():
    label = np.array([[0, 255, 255]], np.uint8)
    np.testing.assert_array_equal(boundaries.boundary_pixels(label), [[1, 1, 0]])


def test_without_a_boundary_no_band_holds_anything():
    label = np.full((6, 6), 2)
    assert np.isinf(boundaries.boundary_distance(label)).all()
    assert not boundaries.trimap_confusion(label, label, 3).any()


def test_trimap_by_hand():
    """All is predicted 0: right in the left half, but for void, wrong in the right."""
    trimap = boundaries.trimap_confusion(
        CORNER, np.zeros_like(CORNER), 2, widths=(1, 2)
    )
    np.testing.assert_array_equal(trimap, [[[8, 0], [6, 0]], [[12, 0], [12, 0]]])


def test_trimap_of_voc_is_the_dilated_void_of_the_paper():
    """Where void lies between any two classes, as DeepLabV3+ has it."""
    label = blocks(np.random.default_rng(0), 4, (60, 72), 12)
    label[boundaries.boundary_pixels(label)] = 255
    to_void = brute_distance(np.argwhere(label == 255), label.shape)
    for width in (1, 2, 3, 5):
        counted = boundaries.trimap_confusion(
            label, label * 0, 4, widths=(width,)
        ).sum()
        ours = (boundaries.boundary_distance(label) < width) & (label != 255)
        assert counted == ours.sum()
        assert ours[(to_void <= width) & (label != 255)].all()
        assert not ours[to_void >= width + 1].any()


@pytest.mark.parametrize("widths", [(2, 1), (0, 1), (1, 1), 3])
def test_trimap_widths_must_increase(widths):
    with pytest.raises(ValueError, match="widths must be positive and increasing"):
        boundaries.trimap_confusion(HALVES, HALVES, 2, widths=widths)


def test_boundary_f_by_hand():
    """The border is predicted two columns off: found only by a tolerance over two."""
    shifted = np.array([[0, 0, 0, 0, 0, 1]] * 6)
    diagonal = np.sqrt(72)
    for pixels, expected in ((1.9, 0), (2.1, 1)):
        scores = boundaries.boundary_f_scores(
            HALVES, shifted, 2, tolerance=pixels / diagonal
        )
        np.testing.assert_allclose(scores, [expected, expected])
    # Half of what is found of class 1 is wanted, and all that is wanted is found.
    more = HALVES.copy()
    more[:, 0] = 1
    scores = boundaries.boundary_f_scores(HALVES, more, 2, tolerance=1 / diagonal)
    np.testing.assert_allclose(scores[1], 2 * 0.5 * 1 / 1.5)


def test_a_boundary_in_one_of_the_two_only_scores_0_and_in_none_nothing():
    flat = np.zeros_like(HALVES)
    np.testing.assert_array_equal(boundaries.boundary_f_scores(HALVES, flat, 3)[:2], 0)
    np.testing.assert_array_equal(boundaries.boundary_f_scores(flat, HALVES, 3)[:2], 0)
    assert np.isnan(boundaries.boundary_f_scores(flat, flat, 3)).all()
    scores = boundaries.boundary_f_scores(flat, flat + 1, 3)
    np.testing.assert_array_equal(scores, [0, 0, np.nan])


def test_void_makes_no_boundary_of_its_own():
    flat = np.zeros_like(HALVES)
    hole = flat.copy()
    hole[2:4, 2:4] = 255
    assert np.isnan(boundaries.boundary_f_scores(hole, flat, 2)).all()
    # VOC hides the borders under void: one inside it is right, one beyond is not.
    voc = np.array([[0, 0, 255, 255, 1, 1]] * 6)
    np.testing.assert_array_equal(boundaries.boundary_f_scores(voc, HALVES, 2), 1)
    shifted = np.array([[0, 0, 0, 0, 0, 1]] * 6)
    np.testing.assert_array_equal(boundaries.boundary_f_scores(voc, shifted, 2), 0)
    # Void hides most of a false class, or all that is found of a true one: no merit.
    false = np.array([[0, 0, 0, 2, 2, 2]] * 6)
    hidden = np.array([[0, 0, 0, 0, 255, 255]] * 6)
    assert boundaries.boundary_f_scores(hidden, false, 3)[2] == 0
    assert boundaries.boundary_f_scores(voc, np.where(voc == 255, 1, 0), 3)[1] == 0
    # A class that is predicted nowhere but in void is not judged.
    inside = np.where(hole == 255, 1, 0)
    assert np.isnan(boundaries.boundary_f_scores(hole, inside, 2)[1])


def test_boundary_tolerance_must_be_positive():
    with pytest.raises(ValueError, match="tolerance must be positive. Received: 0"):
        boundaries.boundary_f_scores(HALVES, HALVES, 2, tolerance=0)


# --- Intervals -----------------------------------------------------------------------


def counts_of(seeds):
    return np.stack(
        [
            metrics.class_counts(metrics.confusion_matrix(*random_pair(seed), 5))
            for seed in seeds
        ]
    )


def test_counts_give_the_scores_of_the_matrix():
    label, classes = random_pair(0)
    confusion = metrics.confusion_matrix(label, classes, 6)
    counts = metrics.class_counts(confusion)
    valid = label != 255
    for index, (shared, in_label, in_classes) in enumerate(counts.T):
        assert in_label == (label == index).sum()
        assert in_classes == ((classes == index) & valid).sum()
        assert shared == ((classes == index) & (label == index)).sum()
    assert metrics.mean_iou_of_counts(counts) == metrics.mean_iou(confusion)


def test_equal_images_leave_no_doubt():
    scores = intervals.bootstrap_mean_iou(counts_of([0] * 7), draws=50)
    expected = metrics.mean_iou(metrics.confusion_matrix(*random_pair(0), 5))
    low, high = intervals.percentile_interval(scores)
    assert low == high == pytest.approx(expected, abs=1e-15)


def test_bootstrap_draws_images_with_replacement():
    """Each draw is the mean IoU over a multiset of the images, each image as likely."""
    counts = counts_of(range(3))
    possible = {
        metrics.mean_iou_of_counts(counts[[a, b, c]].sum(0)): a
        for a in range(3)
        for b in range(3)
        for c in range(3)
    }
    scores = intervals.bootstrap_mean_iou(counts, draws=2000, seed=1)
    assert set(scores) == set(possible), "all ten multisets, and nothing else"
    alone = metrics.mean_iou_of_counts(counts[1])
    assert 2000 / 27 * 0.6 < (scores == alone).sum() < 2000 / 27 * 1.4


def test_bootstrap_repeats_by_its_seed():
    counts = counts_of(range(8))
    first = intervals.bootstrap_mean_iou(counts, seed=3)
    np.testing.assert_array_equal(first, intervals.bootstrap_mean_iou(counts, seed=3))
    assert (first != intervals.bootstrap_mean_iou(counts, seed=4)).any()
    low, high = intervals.percentile_interval(first)
    assert low < metrics.mean_iou_of_counts(counts.sum(0)) < high
    assert np.mean((first >= low) & (first <= high)) == pytest.approx(0.95, abs=0.002)


def test_paired_bootstrap_cancels_what_the_images_share():
    """Each image loses the same; alone, their differences hide it."""
    rng = np.random.default_rng(0)
    hits = rng.integers(100, 900, 30)

    def counts(hits):
        return np.stack([[[hit], [1000], [hit]] for hit in hits])

    ours = intervals.bootstrap_mean_iou(counts(hits))
    others = intervals.bootstrap_mean_iou(counts(hits - 10))
    np.testing.assert_allclose(ours - others, 0.01)
    assert np.ptp(ours) > 0.1


def test_no_images_and_no_scores_have_no_interval():
    with pytest.raises(ValueError, match="one or more images"):
        intervals.bootstrap_mean_iou(np.zeros((0, 3, 2)))
    void = intervals.bootstrap_mean_iou(np.zeros((2, 3, 2)), draws=3)
    assert np.isnan(intervals.percentile_interval(void)).all()
