"""How long a run that is meant for a GPU would take on the CPU at hand."""

from __future__ import annotations

import time

PASSES = 3  # of a training step: forward, and the gradients by inputs and by weights
_SECONDS = 0.3
_SIZE, _FILTERS = 65, 256  # of the convolution that is timed
# Seconds of a unit, the largest first.
_UNITS = {"days": 86400.0, "hours": 3600.0, "minutes": 60.0}


def convolution_rate(precision: str = "float32", seconds: float = _SECONDS) -> float:
    """Multiply-adds a second of a 3x3 convolution on the CPU, the best of some.

    Args:
      precision: "float32", "bfloat16" or "float16".
      seconds: how long to look.
    """
    import tensorflow as tf

    with tf.device("CPU:0"):
        dtype = tf.as_dtype(precision)
        image = tf.zeros([2, _SIZE, _SIZE, _FILTERS], dtype)
        kernel = tf.zeros([3, 3, _FILTERS, _FILTERS], dtype)
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end or best == float("inf"):
            start = time.perf_counter()
            tf.nn.conv2d(image, kernel, 1, "SAME").numpy()
            best = min(best, time.perf_counter() - start)
    return 2 * 9 * (_SIZE * _FILTERS) ** 2 / best


def warn_of_cpu(
    recipe: str, steps: int, batch_size: int, multiply_adds: int, rate: float
) -> str:
    """Says how long a recipe that needs a GPU takes here, and how that is computed.

    Args:
      recipe: its name.
      steps: training steps that are left.
      batch_size: images of a step.
      multiply_adds: of the network on one image.
      rate: of the CPU, see `convolution_rate`.
    """
    seconds = steps * batch_size * PASSES * multiply_adds / rate
    return (
        f"Recipe {recipe} needs a GPU, and there is none: its {steps:,} steps will "
        f"take about {readable_time(seconds)} or more on this CPU ({batch_size} images "
        f"a step, {PASSES} x {multiply_adds / 1e9:,.3g}e9 multiply-adds an image, "
        f"{rate / 1e9:,.3g}e9 a second in a convolution here). docs/install.md says "
        "how TensorFlow finds a GPU."
    )


def readable_time(seconds: float) -> str:
    """4e6 -> "46 days", 9000 -> "2 hours", 5400 -> "90 minutes"; no less than two."""
    for unit, size in _UNITS.items():
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return "2 minutes"
