"""Which replicas had gradients that are not finite, and what that says of the cause.

TensorFlow's users met NaN under MirroredStrategy for many reasons, and one number tells
some of them apart: whether one replica's gradients went bad alone, or all at once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tensorflow as tf


def recording_finiteness(base: type) -> type:
    """Returns an optimizer class that knows when each replica's gradients went bad.

    Call it in the scope of a strategy: on a single replica it returns `base`. The
    record, see `steps_since_bad`, is no part of a checkpoint.

    Args:
      base: class of an optimizer of Keras 3, Keras 2 or tensorflow-addons.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return base
    return _recording(base)


@functools.cache
def _recording(base: type) -> type:
    mixed_in = _RecordingKeras3 if hasattr(base, "apply") else _RecordingKeras2
    return type(base.__name__, (mixed_in, base), {})


class _Record:
    """For each replica the step since which its gradients are not finite; 0: they are.

    An object of no class of TensorFlow's, so that an optimizer's checkpoints leave its
    variables out.
    """

    def __init__(self):
        self.strategy = tf.distribute.get_strategy()
        self.steps, self.since = (
            tf.Variable(
                0,
                trainable=False,
                dtype=tf.int64,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
                name=name,
            )
            for name in ("steps_on_replica", "not_finite_since")
        )

    def add(self, gradients: Sequence[tf.Tensor]) -> None:
        """Takes a replica's gradients of one step; call it in replica context."""
        self.steps.assign_add(1)
        step = tf.identity(self.steps)
        # A sum of squares, one kernel a gradient, is finite where all of them are.
        squares = [tf.cast(tf.nn.l2_loss(g), tf.float32) for g in gradients]
        is_finite = tf.math.is_finite(tf.add_n(squares))
        since = tf.identity(self.since)
        since = tf.where(since > 0, since, step)
        self.since.assign(tf.where(is_finite, tf.zeros_like(since), since))


class _Recording:
    """Mixed into an optimizer: see `recording_finiteness`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._finiteness = _Record()

    def _record(self, gradients):
        gradients = [gradient for gradient in gradients if gradient is not None]
        if gradients and not tf.distribute.in_cross_replica_context():
            self._finiteness.add(gradients)


class _RecordingKeras3(_Recording):
    def apply(self, grads, trainable_variables=None):
        self._record(grads)
        return super().apply(grads, trainable_variables)


class _RecordingKeras2(_Recording):
    def apply_gradients(self, grads_and_vars, *args, **kwargs):
        pairs = list(grads_and_vars)
        self._record([gradient for gradient, _ in pairs])
        return super().apply_gradients(pairs, *args, **kwargs)


def steps_since_bad(optimizer) -> list[int | None]:
    """For each replica here, how many steps ago its gradients became not finite.

    Args:
      optimizer: of a class made by `recording_finiteness`, or any other.

    Returns:
      0 where it was in the last step, None where they are finite; [] without a record.
    """
    record = getattr(optimizer, "_finiteness", None)
    if record is None:
        return []
    parts = record.strategy.experimental_local_results
    steps = [int(part.numpy()) for part in parts(record.steps)]
    since = [int(part.numpy()) for part in parts(record.since)]
    return [now - then if then else None for now, then in zip(steps, since)]


def explain_not_finite(since: Sequence[int | None], devices: Sequence[str]) -> str:
    """Says where a loss that is not finite began, and the ways out on several devices.

    Args:
      since: of `steps_since_bad`; [] where nothing was recorded.
      devices: of the replicas here, as "GPU:0"; "" is returned for a single one.
    """
    if len(devices) < 2:
        return ""
    ways = [
        "another sum of the gradients (--cross_device=one_device, or hierarchical for "
        "an even number of devices)",
        "TensorFlow 2.15 (docs/install.md)",
    ]
    if any(device.startswith("GPU") for device in devices):
        ways.insert(1, "the cards without their direct links (NCCL_P2P_DISABLE=1)")
    return (
        f"{_where_it_began(since, devices)} On several devices try also: "
        f"{'; '.join(ways)}."
    ).lstrip()


def _where_it_began(since, devices) -> str:
    known = [steps for steps in since if steps is not None]
    number = len(devices)
    if not since:
        return ""
    if not known:
        return (
            f"The gradients of each of the {number} replicas were finite: look at "
            "their sum over the devices, or the loss alone overflowed."
        )
    first = [place for place, steps in enumerate(since) if steps == max(known)]
    if len(first) == number:
        return (
            f"The gradients of all {number} replicas became not finite in the same "
            "step: look at what they share, the weights, and so at the learning rate "
            "and the sum over the devices."
        )
    names = " and ".join(f"replica {place} on {devices[place]}" for place in first)
    return (
        f"The gradients of {names} of {number} replicas were not finite first, those "
        "of the others were: look at the images and labels of this share, and at the "
        "device."
    )
