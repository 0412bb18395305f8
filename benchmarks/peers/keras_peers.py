"""Rows of the page of speed that run other TensorFlow and Keras packages."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def keras_hub(case: dict, folder: str):
    """keras-hub's DeepLabV3+ on ResNet-50, whose output stride is 32 and no other."""
    import keras
    import keras_hub

    keras.mixed_precision.set_global_policy(_policy(case))
    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
    )
    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=encoder,
        spatial_pyramid_pooling_key="P5",
        low_level_feature_key="P2",
        upsampling_size=8,
        dilation_rates=[6, 12, 18],
    )
    model = keras_hub.models.DeepLabV3ImageSegmenter(backbone, case["num_classes"])
    # It takes multiples of its stride alone.
    case = {**case, "size": [side // 32 * 32 for side in case["size"]]}
    return _make_step(model, case, keras)


def tf_models(case: dict, folder: str):
    """TensorFlow's model garden: DilatedResNet, ASPP and its head, output stride 16."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    import tensorflow_models as tfm

    tf.keras.mixed_precision.set_global_policy(_policy(case))
    size = case["size"]
    specs = tf.keras.layers.InputSpec(shape=[None, *size, 3])
    backbone = tfm.vision.backbones.DilatedResNet(50, 16, specs, multigrid=(1, 2, 4))
    decoder = tfm.vision.decoders.ASPP(level=4, dilation_rates=[6, 12, 18])
    head = tfm.vision.heads.SegmentationHead(case["num_classes"], level=4, num_convs=0)
    network = tfm.vision.models.SegmentationModel(backbone, decoder, head)
    image = tf.keras.Input([*size, 3])
    # Its losses bring the scores to the size of the image.
    logits = tf.image.resize(network(image)["logits"], size)
    return _make_step(tf.keras.Model(image, logits), case, tf.keras)


def _policy(case: dict) -> str:
    return {"float32": "float32", "bfloat16": "mixed_bfloat16"}[case["precision"]]


def _make_step(model, case: dict, keras):
    import tensorflow as tf

    generator = np.random.default_rng(0)
    shape = (case["batch_size"], *case["size"])
    image = tf.constant(generator.uniform(0, 255, (*shape, 3)).astype(np.float32))
    label = tf.constant(generator.integers(0, case["num_classes"], shape, np.int32))
    if case["step"] == "training":
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=255
        )
        optimizer = keras.optimizers.SGD(0.007, momentum=0.9)
        # keras-hub adds an accuracy by itself, which fails.
        model.compile(optimizer, loss, metrics=[])
        return lambda: model.train_on_batch(image, label)
    classes = tf.function(lambda image: tf.argmax(model(image, training=False), -1))
    return lambda: classes(image).numpy()
