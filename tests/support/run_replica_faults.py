"""What happens to two logical CPUs: NaN in one or both, and an empty one at the end.

Run by test_replica_faults, prints JSON. TensorFlow splits the CPU once a process.
"""

import json
import tempfile

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf import MeanIoU, SegmentationLoss, TrainConfig
from deeplab_tf.networks.blocks import (
    batch_norm,
    convolution,
    depthwise_convolution,
    layer_defaults,
    resize_like,
)
from deeplab_tf.networks.precision import precision_policy
from deeplab_tf.training import compiling, strategies
from deeplab_tf.training.resuming import NonFiniteLoss, ResumableRun
from tests.support.networks import image_batch, randomize

SIZE = 33
CLASSES = 4


def labels(count):
    rng = np.random.default_rng(1)
    label = rng.integers(0, CLASSES, (count, SIZE, SIZE)).astype("int32")
    for index in range(count):  # the images have very different numbers of valid pixels
        label[index, 4 + 5 * index :] = 255
    return label


def messages_of_nan(strategy, precision):
    """What runs say whose second batch has NaN in replica 0, in 1, and in both."""
    config = TrainConfig(
        num_classes=CLASSES, steps=9, batch_size=4, precision=precision
    )
    with strategy.scope(), precision_policy(precision):
        image = keras.Input((None, None, 3))
        logits = keras.layers.Conv2D(CLASSES, 3, padding="same", name="logits")(image)
        model = keras.Model(
            image, keras.layers.Activation("linear", dtype="float32")(logits)
        )
        compiling.compile_model(model, config)
    with tempfile.TemporaryDirectory() as workdir:
        with strategy.scope():
            devices = strategies.device_names(strategy)
            run = ResumableRun(workdir, model, devices=devices)
        run.save()
        return [message_of(model, run, bad) for bad in ([0], [1], [0, 1])]


def message_of(model, run, bad):
    run.restore()
    image, label = image_batch(SIZE, SIZE, batch=8), labels(8)
    for replica in bad:  # of the second batch of four
        image[4 + 2 * replica] = np.nan
    data = tf.data.Dataset.from_tensor_slices((image / 255, label)).batch(4)
    try:
        model.fit(data, callbacks=[run], verbose=0)
    except NonFiniteLoss as error:
        return str(error)
    return "no error"


def build_pieces():
    """A network of what the family consists of, once each: quick to trace."""
    image = keras.Input((None, None, 3))
    x = convolution(image / 127.5 - 1.0, 8, 3, stride=2, name="conv")
    x = keras.layers.ReLU()(batch_norm(x, name="conv_bn"))
    x = depthwise_convolution(x, 3, stride=2, name="depthwise")
    x = keras.layers.ReLU()(batch_norm(x, name="depthwise_bn"))
    x = depthwise_convolution(x, 3, rate=2, name="atrous_depthwise")
    x = convolution(batch_norm(x, name="atrous_bn"), 8, 3, rate=2, name="atrous_conv")
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    pooled = batch_norm(convolution(pooled, 8, 1, name="pool_conv"), name="pool_bn")
    pooled = resize_like(pooled, x, stride=None, name="pool_resize")
    x = keras.layers.Concatenate()([x, pooled])
    x = convolution(x, CLASSES, 1, use_bias=True, name="logits")
    return keras.Model(image, resize_like(x, image, stride=4, name="upsample"))


def fit_of_a_user(strategy, synchronized):
    """README's `fit` and `evaluate` on batches of two, two and one.

    In float64, where no rounding is amplified.
    """
    defaults = {"synchronized_batch_norm": synchronized, "weight_decay": 0.0}
    with strategy.scope(), layer_defaults(**defaults):
        model = build_pieces()
        model.compile(
            keras.optimizers.SGD(0.01),
            loss=SegmentationLoss(ignore_label=255),
            metrics=[MeanIoU(CLASSES)],
        )
    randomize(model)
    image, label = image_batch(SIZE, SIZE, batch=5), labels(5)
    data = tf.data.Dataset.from_tensor_slices((image, label)).batch(2)
    last = LastLosses()
    history = model.fit(data, shuffle=False, callbacks=[last], verbose=0).history
    scores = model.evaluate(data, callbacks=[last], verbose=0, return_dict=True)
    weights = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    return {
        "losses": [float(history["loss"][0]), float(scores["loss"])],
        "last_losses": last.losses,
        "mean_iou": [float(history["mean_iou"][0]), float(scores["mean_iou"])],
        "weights": weights.astype(float).tolist(),
    }


class LastLosses(keras.callbacks.Callback):
    """The loss of the last of three batches, out of the means that Keras shows."""

    def __init__(self):
        super().__init__()
        self.means, self.losses = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.means.append(float(logs["loss"]))
        if batch == 2:  # 4 images were seen before, and the mean is over 5
            self.losses.append(5 * self.means[-1] - 4 * self.means[-2])

    on_test_batch_end = on_train_batch_end


def main():
    two = strategies.make_strategy("mirrored", 2, cross_device="one_device")
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    results = {"messages": messages_of_nan(two, "float32")}
    keras.backend.set_floatx("float64")
    keras.mixed_precision.set_global_policy("float64")
    results |= {
        "one": fit_of_a_user(one, synchronized=False),
        "two": fit_of_a_user(two, synchronized=True),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
