import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.losses import SegmentationLoss

LOGITS = np.array([[[[0.0, 2.0], [1.0, 1.0]], [[3.0, 0.0], [0.0, 0.0]]]], "float32")


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


def test_ignored_batch_has_loss_and_gradient_zero():
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = SegmentationLoss(ignore_label=7)(np.full([1, 2, 2], 7), logits)
    assert loss.numpy() == 0.0
    np.testing.assert_array_equal(tape.gradient(loss, logits), np.zeros_like(LOGITS))


def test_ignored_pixels_have_no_gradient():
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = SegmentationLoss()(np.array([[[1, 255], [1, 0]]]), logits)
    gradient = tape.gradient(loss, logits).numpy()
    assert not gradient[0, 0, 1].any()
    assert gradient[0, 0, 0].any()


def test_label_out_of_range_is_an_error_that_names_it():
    with pytest.raises(tf.errors.InvalidArgumentError, match="2"):
        SegmentationLoss()(np.array([[[1, 2], [1, 0]]]), LOGITS)
