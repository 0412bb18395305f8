"""Seeded weights for the tests: no layer explodes, no statistic is trivial."""

import dataclasses

import numpy as np

from deeplab_tf.config import TrainConfig
from deeplab_tf.networks.weight_files import named_weights


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


# What the models of MODELS are tested on where it is not the smallest MobileNetV2.
SMALL_BACKBONES = {"deeplab_v1": "vgg16", "deeplab_v3_cascade": "resnet18"}
OUTPUT_STRIDES = {
    "deeplab_v1": (8, 16),
    "deeplab_v3_cascade": (8, 16, 32, 64, 128, 256),
}


def small_config(model="deeplab_v3", **changes):
    """A configuration of any model on a small backbone, 5 classes."""
    backbone = SMALL_BACKBONES.get(model, "mobilenet_v2_0.35")
    config = TrainConfig(model=model, backbone=backbone, num_classes=5)
    return dataclasses.replace(config, **changes)
