"""Batch normalization as one kernel, with the same numbers on any count of replicas.

Keras normalises by elementwise operations wherever statistics are synchronized, and
Keras 3 everywhere. Here statistics, output and gradient each come from a fused kernel.
"""

from __future__ import annotations

import contextlib
import contextvars

import tensorflow as tf
from tensorflow import keras
from tensorflow.python.framework.config import is_op_determinism_enabled

from deeplab_tf.networks.layers import several_replicas

REDUCTION_AXES = (0, 1, 2)
# TensorFlow raises what fused kernels are given to it; the gradient must agree.
MIN_EPSILON = 1.001e-5

_statistics_are_fixed = contextvars.ContextVar("statistics_are_fixed", default=False)


@contextlib.contextmanager
def fixed_statistics(fixed: bool = True):
    """Inside the block training leaves moving statistics alone.

    For a pass that repeats another one, which has moved them.
    """
    token = _statistics_are_fixed.set(fixed)
    try:
        yield
    finally:
        _statistics_are_fixed.reset(token)


@keras.utils.register_keras_serializable("deeplab_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization of [batch, height, width, channels] by fused kernels.

    Moving variances are Bessel-corrected over all that was normalised together,
    N / (N - 1), on one replica as on several, and in every Keras. Keras' own layer
    corrects those of fused kernels alone: an image-pooling branch of batch 8 was 1.143
    times off between one replica and two.

    Statistics are computed in float32 of half precision, in float64 of float64. A
    replica without images takes part and changes nothing.
    """

    def call(self, inputs, training=None, mask=None):
        scale, offset, moving_mean, moving_variance = (
            tf.convert_to_tensor(value)
            for value in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        epsilon = max(self.epsilon, MIN_EPSILON)
        if not (training and self.trainable):
            return _normalize(
                inputs, scale, offset, moving_mean, moving_variance, epsilon
            )
        replica = several_replicas() if self.synchronized else None
        if replica is None and _is_fused(inputs):
            outputs, mean, variance = _fused(inputs, scale, offset, epsilon)
        else:
            count, mean, variance = _moments(
                tf.stop_gradient(inputs), moving_mean, replica
            )
            outputs = _normalize_by_batch(
                inputs, scale, offset, (count, mean, variance), epsilon, replica
            )
            variance *= _bessel(count)
        if _statistics_are_fixed.get():
            return outputs
        for moving, old, batch in (
            (self.moving_mean, moving_mean, mean),
            (self.moving_variance, moving_variance, variance),
        ):
            moving.assign(old * self.momentum + batch * (1.0 - self.momentum))
        return outputs


def _is_fused(inputs) -> bool:
    """Whether there is a kernel: none of float64, and none that is deterministic.

    On GPUs the gradient of fixed statistics raises under `enable_op_determinism`.
    """
    return inputs.dtype != tf.float64 and not is_op_determinism_enabled()


def _fused(inputs, scale, offset, epsilon):
    """Normalises by this replica's statistics; returns (outputs, mean, variance).

    The variance is Bessel-corrected.
    """
    return tf.compat.v1.nn.fused_batch_norm(
        inputs, scale, offset, epsilon=epsilon, is_training=True
    )


def _normalize(inputs, scale, offset, mean, variance, epsilon):
    """(inputs - mean) / sqrt(variance + epsilon) * scale + offset."""
    if _is_fused(inputs):
        return tf.compat.v1.nn.fused_batch_norm(
            inputs, scale, offset, mean, variance, epsilon, is_training=False
        )[0]
    exact = tf.cast(inputs, scale.dtype)
    outputs = tf.nn.batch_normalization(exact, mean, variance, offset, scale, epsilon)
    return tf.cast(outputs, inputs.dtype)


def _moments(inputs, shift, replica):
    """(count, mean, variance) over batch, height and width, and over the replicas.

    Args:
      inputs: [B, h, w, C]; B may be 0 where other replicas have images.
      shift: [C], near the mean and the same on all replicas: sums of squares around it
        lose no digits.
      replica: context of several replicas, or None.
    """
    dtype = shift.dtype
    count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), dtype)
    if _is_fused(inputs):
        # The quickest way to both moments in one kernel; its output is not needed.
        ones, zeros = tf.ones_like(shift), tf.zeros_like(shift)
        _, mean, variance = _fused(inputs, ones, zeros, MIN_EPSILON)
        variance /= _bessel(count)
    else:
        mean, variance = tf.nn.moments(tf.cast(inputs, dtype), REDUCTION_AXES)
    if replica is None:
        return count, mean, variance
    # The moments of nothing are NaN.
    distance = tf.where(count > 0, mean - shift, 0.0)
    variance = tf.where(count > 0, variance, 0.0)
    sums = tf.concat(
        [[count], count * distance, count * (variance + tf.square(distance))], 0
    )
    sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)
    count = sums[0]
    distance, square = tf.split(sums[1:] / count, 2)
    return count, shift + distance, tf.maximum(square - tf.square(distance), 0.0)


def _bessel(count):
    """N / (N - 1); 1 for the variance of a single value, and of none."""
    return tf.maximum(count, 1.0) / tf.maximum(count - 1.0, 1.0)


def _normalize_by_batch(inputs, scale, offset, moments, epsilon, replica):
    """`_normalize` by moments that are those of `inputs`, for the gradient too.

    Ioffe and Szegedy, "Batch Normalization" (1502.03167), section 3: with x the
    normalised input and N values of a channel on all replicas, the gradient of the
    input is scale / deviation * (g - sum(g) / N - x * sum(g * x) / N). The first term
    is that of fixed statistics, the others are once more a normalisation.
    """
    count, mean, variance = moments

    @tf.custom_gradient
    def normalize(inputs, scale, offset):
        def gradient(upstream):
            direct, of_scale, of_offset = _gradients_of_fixed(
                upstream, inputs, scale, mean, variance, epsilon
            )
            sums = tf.concat([of_scale, of_offset], 0)
            if replica is not None:
                sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)
            weights = tf.tile(scale * tf.math.rsqrt(variance + epsilon) / count, [2])
            scales, offsets = tf.split(weights * sums, 2)
            indirect = _normalize(inputs, scales, offsets, mean, variance, epsilon)
            return direct - indirect, of_scale, of_offset

        return _normalize(inputs, scale, offset, mean, variance, epsilon), gradient

    return normalize(inputs, scale, offset)


def _gradients_of_fixed(upstream, inputs, scale, mean, variance, epsilon):
    """Gradients of `_normalize` by inputs, scale and offset, the moments fixed."""
    if _is_fused(inputs):
        return tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=upstream,
            x=inputs,
            scale=scale,
            reserve_space_1=mean,
            reserve_space_2=variance,
            reserve_space_3=tf.zeros([0]),
            epsilon=epsilon,
            is_training=False,
        )[:3]
    exact = tf.cast(upstream, scale.dtype)
    deviation = tf.math.rsqrt(variance + epsilon)
    normalized = (tf.cast(inputs, scale.dtype) - mean) * deviation
    return (
        tf.cast(exact * scale * deviation, inputs.dtype),
        tf.reduce_sum(exact * normalized, REDUCTION_AXES),
        tf.reduce_sum(exact, REDUCTION_AXES),
    )
