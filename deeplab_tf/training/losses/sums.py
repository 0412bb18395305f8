"""Sums of losses, as a run names them: `ce+0.5*lovasz`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tensorflow import keras

from deeplab_tf.training.losses.comparison import LossOfLabels

_HOW = "Expected a loss, or a sum of them such as ce+0.5*lovasz."
# "+" between parts, not that of 1e+3.
_PLUS = re.compile(r"(?<![0-9.][eE])\+")


def parts_of(text: str) -> list[tuple[float, str]]:
    """Reads a sum: "ce + 0.5*lovasz" -> [(1.0, "ce"), (0.5, "lovasz")].

    Raises:
      ValueError: a part without a name, or a factor that is no number above 0.
    """
    parts = []
    for part in _PLUS.split(text):
        factor, star, name = part.rpartition("*")
        value = _number(factor) if star else 1.0
        if not name.strip() or value is None or not 0 < value < float("inf"):
            wrong = f" in {part.strip()!r}" if len(part) < len(text) else ""
            raise ValueError(
                f"{_HOW} A factor is a number above 0 before the name. "
                f"Received: {text!r}{wrong and ', wrong' + wrong}"
            )
        parts.append((value, name.strip()))
    return parts


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@keras.utils.register_keras_serializable("deeplab_tf")
class SumOfLosses(LossOfLabels):
    """A sum of losses of the same labels and logits, each times its factor.

    Args:
      parts: losses of Keras, or functions of (y_true, y_pred) that return a scalar.
      factors: one number a part; None is 1 for each.

    Raises:
      ValueError: no part, one that is no loss, another number of factors, or one that
        is not above 0.
    """

    def __init__(
        self,
        parts: Sequence,
        factors: Sequence[float] | None = None,
        name: str = "sum_of_losses",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        parts = list(parts)
        factors = [1.0] * len(parts) if factors is None else list(factors)
        wrong = [part for part in parts if not callable(part)]
        if wrong:
            raise ValueError(
                "Expected losses of Keras or functions; train.py and "
                "deeplab_tf.training.losses.table.make_loss make them of a text. "
                f"Received: {wrong[0]!r}"
            )
        if not parts or len(factors) != len(parts):
            raise ValueError(
                "A sum of losses needs one part or more, and a factor for each. "
                f"Received: {len(parts)} parts, {len(factors)} factors"
            )
        if not all(0 < factor < float("inf") for factor in factors):
            raise ValueError(
                f"A factor of a loss is a number above 0. Received: {factors}"
            )
        self.parts = parts
        self.factors = factors

    @property
    def has_weights_of_images(self) -> bool:
        return all(getattr(part, "has_weights_of_images", False) for part in self.parts)

    def call(self, y_true, y_pred):
        """Returns [B], whose mean over the batch is the loss.

        Args:
          y_true, y_pred: what the parts take, see `LossOfPixels.call`.
        """
        total = 0.0
        for factor, part in zip(self.factors, self.parts):
            of_images = part.call if isinstance(part, keras.losses.Loss) else part
            total += factor * of_images(y_true, y_pred)
        return total

    def get_config(self):
        return {
            **super().get_config(),
            "parts": [keras.losses.serialize(part) for part in self.parts],
            "factors": self.factors,
        }

    @classmethod
    def from_config(cls, config):
        parts = [keras.losses.deserialize(part) for part in config["parts"]]
        return cls(**{**config, "parts": parts})
