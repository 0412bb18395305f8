"""Options of losses, checked as the fields of a run's configuration are."""

from __future__ import annotations

import dataclasses
import operator

import numpy as np

from deeplab_tf.config import TrainConfig
from deeplab_tf.config_checks import check_value

_FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}


def check_options(**options) -> None:
    """Refuses what the fields of `TrainConfig` of these names would refuse.

    Args:
      options: name -> value, also a number of NumPy.

    Raises:
      ValueError: a value of another type, or out of its range.
    """
    for name, value in options.items():
        plain = value.item() if isinstance(value, np.generic) else value
        check_value(_FIELDS[name], plain)


def check_ignore_label(ignore_label: int) -> None:
    """Refuses an ignore label that is no whole number; in Python it may be any such.

    Raises:
      ValueError: as above.
    """
    try:
        operator.index(ignore_label)
    except TypeError:
        raise ValueError(
            "ignore_label must be a whole number that is no class id, such as 255. "
            f"Received: {ignore_label!r}"
        ) from None
