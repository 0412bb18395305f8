"""What replicas tell each other of their parts of a batch.

A loss is that of the global batch where the mean over the replicas of what each returns
is its value, and the mean of their gradients its gradient: Keras divides by the number
of replicas, and adds up gradients.
"""

from __future__ import annotations

import tensorflow as tf

from deeplab_tf.networks.layers import several_replicas


def mean_over_replicas(value):
    """Returns the mean of what the replicas hold, without a gradient to lean on."""
    replica = several_replicas()
    if replica is None:
        return value
    return replica.all_reduce(tf.distribute.ReduceOp.MEAN, value)


def sum_over_replicas(value):
    """Returns the sum of what the replicas hold, differentiable.

    The gradient for a replica's own part is the number of replicas times that of the
    sum, by which a loss of such sums has the gradient of one device after Keras'
    division. Nothing is exchanged for it.

    Args:
      value: floats of the same shape on all replicas.
    """
    replica = several_replicas()
    if replica is None:
        return value
    total = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(value))
    change = value - tf.stop_gradient(value)  # zero, of gradient one
    return tf.stop_gradient(total) + replica.num_replicas_in_sync * change


def concat_over_replicas(values):
    """Returns the values of all replicas, in their order, along the first axis."""
    replica = several_replicas()
    return values if replica is None else replica.all_gather(values, axis=0)
