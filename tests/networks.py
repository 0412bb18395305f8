"""Seeded weights for the tests: no layer explodes, no statistic is trivial."""

import numpy as np

from deeplab_tf.weight_files import named_weights


def randomize(model, seed=0):
    """Sets every weight from a generator; the same names get the same values."""
    for name, variable in named_weights(model).items():
        shape = tuple(variable.shape)
        rng = np.random.default_rng([seed, *name.encode()])
        leaf = name.rpartition("/")[2]
        if leaf in ("gamma", "moving_variance"):
            value = rng.uniform(0.7, 1.3, shape)
        elif len(shape) == 1:
            value = rng.normal(0.0, 0.05, shape)
        else:
            depthwise = shape[3] == 1 and shape[0] > 1
            fan_in = np.prod(shape[:2] if depthwise else shape[:3])
            value = rng.normal(0.0, np.sqrt(1.3 / fan_in), shape)
        variable.assign(value.astype("float32"))
    return model


def image_batch(height, width, batch=1, seed=0):
    """float32 [batch, height, width, 3] in 0..255."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (batch, height, width, 3)).astype("float32")
