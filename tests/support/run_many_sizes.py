"""Trains an epoch with XLA and validates at N sizes, as `train` does: by test_xla."""

import sys

import numpy as np
import tensorflow as tf

from deeplab_tf.networks.backbones import BACKBONES
from deeplab_tf.networks.models import build_model
from deeplab_tf.training import compiling
from tests.support.networks import TINY_BACKBONE, image_batch, small_config


def main(num_sizes):
    BACKBONES["tiny"] = TINY_BACKBONE
    config = small_config(steps=2, jit_compile=True)
    model = build_model(config)
    compiling.compile_model(model, config)

    def sizes():
        for index in range(num_sizes):
            size = (33 + index, 40 + index % 7)
            yield image_batch(*size)[0], np.zeros(size, "int32")

    signature = (
        tf.TensorSpec([None, None, 3], tf.float32),
        tf.TensorSpec([None, None], tf.int32),
    )
    validation = tf.data.Dataset.from_generator(sizes, output_signature=signature)
    images, labels = image_batch(33, 33, 4), np.zeros((4, 33, 33), "int32")
    train = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)
    history = model.fit(
        train, epochs=1, validation_data=validation.batch(1), verbose=0
    ).history
    print(f"{num_sizes} sizes, validation loss {history['val_loss'][0]}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
