"""Options of losses, checked as the fields of a run's configuration are."""

from __future__ import annotations

import dataclasses

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
