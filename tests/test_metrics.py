import numpy as np
import pytest

from deeplab_tf import metrics

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


def test_nothing_counted_is_undefined_not_zero():
    empty = np.zeros((3, 3), np.int64)
    assert np.isnan(metrics.mean_iou(empty))
    assert np.isnan(metrics.pixel_accuracy(empty))


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
    assert float(metric.result()) == 0.0
