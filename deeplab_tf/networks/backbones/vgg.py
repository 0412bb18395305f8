"""VGG-16 (1409.1556) as DeepLabV1 and V2 use it, named as keras.applications names it.

Pooling is 3x3 instead of 2x2, which "makes it easier to exactly align responses"
(the authors' prototxt); the last pooling belongs to the head.
"""

from __future__ import annotations

import numpy as np

from deeplab_tf.networks.backbones.output_stride import apply_output_stride
from deeplab_tf.networks.blocks import convolution, max_pool

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions, filters
OUTPUT_STRIDES = (8, 16)


def vgg16(image, output_stride: int, multi_grid) -> dict:
    """Builds VGG-16 up to conv5_3.

    Args:
      image: normalised image [B, height, width, 3].
      output_stride: 8 or 16: pool4 has no stride at 8, and conv5 rate 2.
      multi_grid: unused; the network has no residual units.

    Returns:
      {"image": the normalised image, "pool1" ... "pool4", "stride2": pool1,
      "stride4": pool2, "stride8": pool3, "auxiliary": pool4, "out": conv5_3}.
    """
    del multi_grid
    features = {"image": image}
    steps = apply_output_stride([2] * 4, output_stride, choices=OUTPUT_STRIDES)
    x, rate = image, 1
    for block, (count, filters) in enumerate(BLOCKS, start=1):
        for index in range(1, count + 1):
            x = convolution(
                x,
                filters,
                3,
                rate=rate,
                use_bias=True,
                activation="relu",
                name=f"block{block}_conv{index}",
            )
        if block <= len(steps):
            step = steps[block - 1]
            x = max_pool(x, stride=step.stride, name=f"block{block}_pool")
            features[f"pool{block}"], rate = x, step.rate
    return {
        **features,
        "stride2": features["pool1"],
        "stride4": features["pool2"],
        "stride8": features["pool3"],
        "auxiliary": features["pool4"],
        "out": x,
    }


def fully_connected_as_convolutions(arrays: dict[str, np.ndarray]) -> dict:
    """Sub-samples VGG's first two dense layers to fc6 (3x3, 1024) and fc7 (1x1, 1024).

    DeepLabV1, section 3.2: fc6 by simple decimation of its 7x7 positions, and every
    fourth of the 4096 filters. Without them in `arrays` nothing is added.
    """
    if "fc1/kernel" not in arrays:
        return arrays
    fc6 = arrays["fc1/kernel"].reshape(7, 7, 512, 4096)[::3, ::3, :, ::4]
    fc7 = arrays["fc2/kernel"][None, None, ::4, ::4]
    return {
        **{name: array for name, array in arrays.items() if name[:3] != "fc1"},
        "fc6/kernel": fc6,
        "fc6/bias": arrays["fc1/bias"][::4],
        "fc7/kernel": fc7,
        "fc7/bias": arrays["fc2/bias"][::4],
    }
