"""The table of losses, and what a run takes from it."""

from __future__ import annotations

import dataclasses
import inspect

from deeplab_tf.command_names import did_you_mean
from deeplab_tf.config import TrainConfig
from deeplab_tf.training.losses.boundary import BoundaryLoss
from deeplab_tf.training.losses.cross_entropy import SegmentationLoss
from deeplab_tf.training.losses.focal import FocalLoss
from deeplab_tf.training.losses.lovasz import LovaszLoss
from deeplab_tf.training.losses.ohem import OhemLoss
from deeplab_tf.training.losses.overlap import DiceLoss, TverskyLoss
from deeplab_tf.training.losses.sums import SumOfLosses, parts_of

# Name -> what makes the loss: a class or a function, whose result `compile` takes. Its
# arguments are fields of TrainConfig, which it is given: `ignore_label`, and those of
# `class_weights`, `label_stride` and so on that it can heed. As `step` it is given the
# variable that holds the step.
LOSSES = {
    "cross_entropy": SegmentationLoss,
    "boundary_cross_entropy": BoundaryLoss,
    "ohem_cross_entropy": OhemLoss,
    "focal": FocalLoss,
    "dice": DiceLoss,
    "tversky": TverskyLoss,
    "lovasz_softmax": LovaszLoss,
}
# Short name -> row.
SHORT_NAMES = {
    "ce": "cross_entropy",
    "boundary": "boundary_cross_entropy",
    "ohem": "ohem_cross_entropy",
    "lovasz": "lovasz_softmax",
}


def make_loss(config: TrainConfig, step=None):
    """Makes the loss of a configuration.

    Args:
      config: of the run; its loss is a row of `LOSSES`, one of `SHORT_NAMES`, or a sum
        of such, see `sums.parts_of`. Each part is given the options that it heeds.
      step: integer variable that holds the step, see `SegmentationLoss`.

    Raises:
      ValueError: see `check_loss`, or an option outside its range.
    """
    check_loss(config)
    given = {**vars(config), "step": step}
    factors, losses = [], []
    for factor, name in parts_of(config.loss):
        make = _find(name)
        taken = _arguments(make) & given.keys()
        losses.append(make(**{name: given[name] for name in taken}))
        factors.append(factor)
    return losses[0] if factors == [1.0] else SumOfLosses(losses, factors)


def check_loss(config: TrainConfig) -> None:
    """Returns where `make_loss` can make the loss with the options that were chosen.

    Raises:
      ValueError: no such loss, or an option that no part of it has.
    """
    heeded = set()
    for _, name in parts_of(config.loss):
        heeded |= _arguments(_find(name))
    lacking = set().union(*map(_arguments, LOSSES.values())) - heeded
    for field in dataclasses.fields(TrainConfig):
        value = getattr(config, field.name)
        if field.name in lacking and value != field.default:
            having = [name for name in LOSSES if field.name in _arguments(LOSSES[name])]
            raise ValueError(
                f"loss {config.loss!r} has no {field.name}: leave it at "
                f"{field.default!r}, or take {' or '.join(having)}. "
                f"Received: {value!r}"
            )


def _find(name: str):
    """The row of a name; ValueError: there is none."""
    make = LOSSES.get(SHORT_NAMES.get(name, name))
    if make is None:
        names = [*LOSSES, *SHORT_NAMES]
        raise ValueError(
            f"loss must be one of {sorted(names)}, or a sum such as ce+0.5*lovasz. "
            f"Received: {name!r}.{did_you_mean(name, names)}"
        )
    return make


def _arguments(make) -> set[str]:
    return set(inspect.signature(make).parameters)
