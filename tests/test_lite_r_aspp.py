"""Lite R-ASPP, the head of MobileNetV3's paper."""

import numpy as np
import pytest
from tensorflow import keras

from deeplab_tf import LRASPP
from deeplab_tf.networks.layers import ResizeLike
from tests.support.networks import image_batch, randomize


@pytest.mark.parametrize(
    "backbone, classes, count",
    [
        # torchvision's has no bias at the gate, and low-level features of 40 channels
        # where the authors' code takes the 120 inside the last block of stride 8.
        ("mobilenet_v3_large", 21, 3_221_538 + 128 + (120 - 40) * 21),
        ("mobilenet_v3_large_torchvision", 21, 3_221_538 + 128),
        # The paper gives 1.51 and 0.47 million, table 7.
        ("mobilenet_v3_large_seg", 19, 1_507_198),
        ("mobilenet_v3_small_seg", 19, 468_830),
    ],
)
def test_parameters_of_lite_r_aspp(backbone, classes, count):
    model = LRASPP(classes, backbone)
    sizes = [int(np.prod(weight.shape)) for weight in model.trainable_weights]
    assert sum(sizes) == count


def test_classified_before_upsampling_is_classified_after_it():
    """The order of the paper's figure 10, computed from the same layers."""
    model = randomize(LRASPP(3, "tiny"))
    parts = ("aspp_pool", "aspp_1x1_relu", "logits_low_level", "decoder_add")
    outputs = [model.get_layer(name).output for name in parts]
    image = image_batch(81, 97)
    pooled, features, low_level, expected = keras.Model(model.input, outputs)(image)
    kernel, bias = model.get_layer("aspp_gate").get_weights()
    gate = 1 / (1 + np.exp(-(np.asarray(pooled) @ kernel[0, 0] + bias)))
    upsampled = ResizeLike(2)([features * gate, low_level])
    kernel, bias = model.get_layer("logits").get_weights()
    actual = np.asarray(upsampled) @ kernel[0, 0] + bias + np.asarray(low_level)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
