"""Writes what every network computes, of weights that their names decide.

    python -m tests.support.run_logits OUTPUTS.npz

Run by test_across_lanes.py in each lane.
"""

import sys

import numpy as np
from tensorflow import keras

from deeplab_tf.networks.backbones import BACKBONES
from deeplab_tf.networks.models import MODELS, build_model
from tests.support.networks import (
    SHALLOW_BACKBONES,
    TINY_BACKBONE,
    backbone_model,
    image_batch,
    kernels_not_drawn,
    randomize,
    small_config,
)


def outputs():
    """(name, array) of each row of MODELS and of each kind of backbone."""
    image = image_batch(65, 49)
    for name in MODELS:
        with kernels_not_drawn():
            model = randomize(build_model(small_config(name)))
        yield name, np.asarray(model(image, training=False))
        keras.backend.clear_session()
    for name in SHALLOW_BACKBONES:
        model = randomize(backbone_model(name, 16, outputs="out"))
        yield name, np.asarray(model(image, training=False))
        keras.backend.clear_session()


if __name__ == "__main__":
    BACKBONES["tiny"] = TINY_BACKBONE
    np.savez(sys.argv[1], **dict(outputs()))
