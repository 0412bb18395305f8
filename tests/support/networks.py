"""Small networks for the tests, and weights by which no statistic is trivial."""

import contextlib
import dataclasses
import sys
from unittest import mock

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.config import TrainConfig
from deeplab_tf.networks import heads
from deeplab_tf.networks.backbones import (
    BACKBONES,
    Backbone,
    backbone_features,
    vgg,
)
from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.backbones.resnet import residual_unit
from deeplab_tf.networks.blocks import batch_norm, convolution, depthwise_convolution
from deeplab_tf.networks.weight_files import named_weights


def _tiny(image, output_stride, multi_grid):
    """One separable unit a stage, and a residual one: what a MobileNet has, once."""
    x = convolution(image, 8, 3, stride=2, name="tiny_stem_conv")
    x = keras.layers.ReLU(name="tiny_stem_relu")(batch_norm(x, name="tiny_stem_bn"))
    features = {"stride2": x}
    steps = apply_output_stride([2, 2, 2, 2, 1], output_stride, running_stride=2)
    for index, step in enumerate(steps):
        name, inputs = f"tiny_unit{index}", x
        rate = step.entry_rate * (multi_grid[0] if index == 4 else 1)
        x = depthwise_convolution(
            x, 3, stride=step.stride, rate=rate, name=f"{name}_depthwise"
        )
        x = batch_norm(x, name=f"{name}_depthwise_bn")
        x = keras.layers.ReLU(6.0, name=f"{name}_relu")(x)
        x = convolution(x, 16 if index else 8, 1, name=f"{name}_project")
        x = batch_norm(x, name=f"{name}_project_bn")
        if index == 0:
            features["stride4"] = x
        elif index == 1:
            features["stride8"] = x
        elif index == 3:
            features["auxiliary"] = x
    x = keras.layers.Add(name="tiny_add")([inputs, x])
    return {**features, "out": x}


# More units of what a shallower row already tests.
_DEEPER = (
    "resnet34 resnet101 resnet152 resnet101_torchvision resnet101_beta xception65 "
    "mobilenet_v3_large_seg mobilenet_v3_small_seg mobilenet_v3_large_minimalistic "
    "mobilenet_v3_small_minimalistic efficientnet_v2_b1 "
    "efficientnet_v2_b2 efficientnet_v2_b3 efficientnet_v2_s"
).split()
SHALLOW_BACKBONES = [name for name in BACKBONES if name not in _DEEPER]
SHALLOW_BACKBONES += ["mobilenet_v2_0.35", "mobilenet_v2_0.5_unrounded"]
SHALLOW_BACKBONES += ["keras.MobileNet"]  # others: test_keras_applications.py

# Quick to trace; conftest.py makes it a row of BACKBONES.
TINY_BACKBONE = Backbone(_tiny, "unit", 1)


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
            depthwise = len(shape) == 4 and shape[3] == 1 and shape[0] > 1
            fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
            value = rng.normal(0.0, np.sqrt(1.3 / fan_in), shape)
        variable.assign(value.astype("float32"))
    return model


@contextlib.contextmanager
def kernels_not_drawn():
    """Kernels are zero until `randomize`: drawing them is half the time of building."""

    def zeros(self, shape, dtype=None, **_):
        return tf.zeros(shape, dtype or "float32")

    with mock.patch.object(keras.initializers.VarianceScaling, "__call__", zeros):
        yield


def backbone_model(name, output_stride, multi_grid=(1, 2, 4), outputs=None):
    """A backbone alone, its kernels zero: image in, all features or one of them out."""
    if name.startswith("keras."):
        multi_grid = None
    image = keras.Input([None, None, 3], name="image")
    with kernels_not_drawn():
        features = backbone_features(name, image, output_stride, multi_grid)
    return keras.Model(image, features[outputs] if outputs else features)


def assert_close(actual, expected):
    """To 1e-4 of the largest."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def assert_same_arrays(actual, expected):
    """Two mappings of names to weights, bit for bit."""
    assert actual.keys() == expected.keys() and actual
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def image_batch(height, width, batch=1, seed=0):
    """float32 [batch, height, width, 3] in 0..255."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (batch, height, width, 3)).astype("float32")


def narrow(monkeypatch):
    """Gives VGG-16 and ResNets an eighth of their filters: converters copy weights."""
    blocks = tuple((count, filters // 8) for count, filters in vgg.BLOCKS)
    monkeypatch.setattr(vgg, "BLOCKS", blocks)

    def narrow_unit(x, filters, *arguments, **options):
        return residual_unit(x, filters // 8, *arguments, **options)

    # `backbones.resnet` is the function of that name.
    for module in (sys.modules[residual_unit.__module__], heads):
        monkeypatch.setattr(module, "residual_unit", narrow_unit)


# What the models of MODELS are tested on where it is not the tiny backbone.
SMALL_BACKBONES = {"deeplab_v1": "vgg16", "deeplab_v3_cascade": "resnet18"}
OUTPUT_STRIDES = {
    "deeplab_v1": (8, 16),
    "deeplab_v3_cascade": (8, 16, 32, 64, 128, 256),
}


def small_config(model="deeplab_v3", **changes):
    """A configuration of any model on a small backbone, 5 classes."""
    backbone = SMALL_BACKBONES.get(model, "tiny")
    config = TrainConfig(model=model, backbone=backbone, num_classes=5)
    return dataclasses.replace(config, **changes)
