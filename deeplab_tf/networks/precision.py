"""The precision that a network computes in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tensorflow import keras

# Name here -> Keras' policy. Variables are float32 in each of them.
PRECISIONS = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


@contextlib.contextmanager
def precision_policy(precision: str) -> Iterator[None]:
    """Sets Keras' policy inside the block.

    Args:
      precision: a row of `PRECISIONS`.

    Raises:
      ValueError: another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision must be one of {sorted(PRECISIONS)}. Received: {precision!r}"
        )
    policies = keras.mixed_precision
    before = policies.global_policy()
    policies.set_global_policy(PRECISIONS[precision])
    try:
        yield
    finally:
        policies.set_global_policy(before)
