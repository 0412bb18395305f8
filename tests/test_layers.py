"""AtrousConv2D and its kin against Keras' own layers and by hand."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.networks.blocks import convolution, layer_defaults
from deeplab_tf.networks.convolutions import (
    FROZEN_WEIGHTS,
    graph_for_any_processor,
    graph_for_gpu,
    graph_for_other_runtimes,
    has_native_gradient,
    with_gradient_of_images,
)
from deeplab_tf.networks.heads import image_level_pooling
from deeplab_tf.networks.layers import (
    NORMALIZATIONS,
    AtrousConv2D,
    AtrousDepthwiseConv2D,
    ImageNormalization,
    ResizeLike,
    mean_color,
)
from deeplab_tf.networks.models import DeepLabV3
from deeplab_tf.networks.precision import precision_policy

RATES = [1, 2, 6, 12, 36]


def output_and_gradients(layer, image):
    image = tf.convert_to_tensor(image)
    with tf.GradientTape() as tape:
        tape.watch(image)
        output = layer(image)
        loss = tf.reduce_sum(tf.sin(output))
    return [output, *tape.gradient(loss, [image, *layer.trainable_weights])]


def assert_same_layer(ours, kerases, image):
    kerases(image)
    ours(image)
    ours.set_weights(kerases.get_weights())
    for actual, expected in zip(
        output_and_gradients(ours, image), output_and_gradients(kerases, image)
    ):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("rate", RATES)
def test_gradient_of_atrous_convolution_equals_keras(rate):
    image = np.random.default_rng(rate).normal(size=(2, 21, 18, 5)).astype("float32")
    options = {"padding": "same", "dilation_rate": rate}
    ours = AtrousConv2D(7, 3, **options)
    assert_same_layer(ours, keras.layers.Conv2D(7, 3, **options), image)


@pytest.mark.parametrize("rate", RATES)
def test_gradient_of_atrous_depthwise_convolution_equals_keras(rate):
    image = np.random.default_rng(rate).normal(size=(2, 21, 18, 5)).astype("float32")
    options = {"padding": "same", "dilation_rate": rate}
    ours = AtrousDepthwiseConv2D(3, **options)
    assert_same_layer(ours, keras.layers.DepthwiseConv2D(3, **options), image)


def test_gradient_of_strided_depthwise_convolution_in_bfloat16():
    image = np.random.default_rng(0).normal(size=(2, 12, 9, 5)).astype("float32")
    options = {"padding": "same", "strides": 2, "depthwise_initializer": "ones"}
    results = [
        output_and_gradients(
            make(3, dtype=dtype, **options), tf.cast(image, dtype).numpy()
        )
        for make, dtype in (
            (AtrousDepthwiseConv2D, "bfloat16"),
            (keras.layers.DepthwiseConv2D, "float32"),
        )
    ]
    for actual, expected in zip(*results):
        scale = np.abs(expected).max()
        actual = np.asarray(actual, "float32")
        np.testing.assert_allclose(actual, expected, atol=0.02 * scale, rtol=0)


def test_gradient_of_atrous_depthwise_convolution_is_numerically_right():
    rng = np.random.default_rng(0)
    layer = AtrousDepthwiseConv2D(3, padding="same", dilation_rate=2, use_bias=False)
    image = rng.normal(size=(1, 9, 8, 3)).astype("float32")
    layer(image)
    kernel = rng.normal(size=(3, 3, 3, 1)).astype("float32")
    layer.set_weights([kernel])

    def total(image, kernel):
        layer.set_weights([kernel])
        return float(tf.reduce_sum(tf.sin(tf.cast(layer(image), tf.float64))))

    _, image_gradient, kernel_gradient = output_and_gradients(layer, image)
    for value, gradient, loss in (
        (image, image_gradient, lambda value: total(value, kernel)),
        (kernel, kernel_gradient, lambda value: total(image, value)),
    ):
        step = 1e-2 * rng.normal(size=value.shape).astype("float32")
        numeric = (loss(value + step) - loss(value - step)) / 2
        # Of a direction at random, as it may be nearly orthogonal to the gradient.
        scale = np.linalg.norm(gradient) * np.linalg.norm(step)
        assert abs(np.vdot(gradient, step) - numeric) < 2e-3 * scale


@pytest.mark.parametrize("rates", [(2, 3), (12, 13)])
@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 3), (5, 3)])
def test_gradient_of_a_kernel_and_rates_that_are_not_square(kernel_size, rates):
    image = np.random.default_rng(0).normal(size=(2, 16, 19, 3)).astype("float32")
    options = {"padding": "same", "dilation_rate": rates}
    ours = AtrousConv2D(4, kernel_size, **options)
    assert_same_layer(ours, keras.layers.Conv2D(4, kernel_size, **options), image)


@pytest.mark.parametrize("inputs, rate", [(180, 12), (1024, 12)])
def test_gradient_of_many_inputs_equals_keras(inputs, rate):
    """So many that sums over the kernel's positions are quicker with oneDNN too."""
    image = np.random.default_rng(0).normal(size=(2, 14, 9, inputs)).astype("float32")
    options = {"padding": "same", "dilation_rate": rate}
    ours = AtrousConv2D(4, 3, **options)
    assert_same_layer(ours, keras.layers.Conv2D(4, 3, **options), image)


def test_gradient_of_a_convolution_in_groups_is_keras_own():
    image = np.random.default_rng(0).normal(size=(2, 9, 8, 6)).astype("float32")
    options = {"groups": 3, "padding": "same"}
    for kernel_size, rate in ((1, 1), (3, 2)):
        ours, kerases = (
            make(6, kernel_size, dilation_rate=rate, **options)
            for make in (AtrousConv2D, keras.layers.Conv2D)
        )
        assert_same_layer(ours, kerases, image)


@pytest.mark.parametrize("known", [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("rate", RATES)
def test_gradient_of_a_graph_where_sizes_are_known_or_not(rate, known):
    """Of features smaller than the rate, and larger."""
    layer = AtrousConv2D(4, 3, padding="same", dilation_rate=rate)
    layer(tf.zeros([1, 5, 5, 3]))
    for size in ((2, 7, 30, 3), (1, 26, 13, 3), (2, 5, 5, 3)):
        shape = [side if is_known else None for side, is_known in zip(size, known)]
        traced = tf.function(
            lambda image: output_and_gradients(layer, image),
            input_signature=[tf.TensorSpec([*shape, 3])],
        )
        image = np.random.default_rng(rate).normal(size=size).astype("float32")
        for actual, expected in zip(traced(image), output_and_gradients(layer, image)):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(actual, expected, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_gradient_of_an_even_kernel_is_keras_own(padding):
    image = np.random.default_rng(0).normal(size=(2, 9, 12, 3)).astype("float32")
    options = {"padding": padding, "dilation_rate": 2}
    ours = AtrousConv2D(4, 2, **options)
    assert_same_layer(ours, keras.layers.Conv2D(4, 2, **options), image)


@pytest.mark.parametrize("rate", [2, 12])
def test_gradient_of_no_images_is_zero(rate):
    layer = AtrousConv2D(4, 3, padding="same", dilation_rate=rate, use_bias=False)
    layer(tf.zeros([1, 9, 9, 3]))
    none = np.zeros([0, 9, 9, 3], "float32")
    # The output is left out: without images oneDNN gives it the inputs' channels.
    _, of_inputs, of_kernel = output_and_gradients(layer, none)
    assert of_inputs.shape == none.shape
    np.testing.assert_array_equal(of_kernel, np.zeros([3, 3, 3, 4]))


@pytest.mark.parametrize(
    "inputs, kernel_size, options",
    [
        (5, 3, {"strides": 2}),
        (5, 3, {"dilation_rate": 4}),
        (5, 3, {"dilation_rate": 12}),
        (700, 3, {"dilation_rate": 3}),
        (1024, 3, {"dilation_rate": 4}),
        (5, 1, {}),
        (5, 1, {"strides": 2}),
    ],
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradient_in_half_precision(dtype, inputs, kernel_size, options):
    image = np.random.default_rng(0).normal(size=(2, 12, 9, inputs)).astype("float32")
    # So that the sine is nearly straight.
    small = keras.initializers.Constant(0.05 / np.sqrt(inputs))
    options = {"padding": "same", "kernel_initializer": small, **options}
    ours, exact = (
        output_and_gradients(
            make(4, kernel_size, dtype=each, **options), tf.cast(image, each).numpy()
        )
        for make, each in ((AtrousConv2D, dtype), (keras.layers.Conv2D, "float32"))
    )
    for actual, expected in zip(ours, exact):
        scale = np.abs(expected).max()
        actual = np.asarray(actual, "float32")
        np.testing.assert_allclose(actual, expected, atol=0.03 * scale, rtol=0)


@pytest.mark.two_lanes
@pytest.mark.parametrize("onednn", ["0", "1"])
def test_gradients_with_and_without_onednn(onednn):
    """TensorFlow decides by the processor; users meet both, and so must these tests."""
    if "TF_ENABLE_ONEDNN_OPTS" in os.environ:
        pytest.skip("this is one of the runs")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-k", "gradient or one_operation or padding or at_once", __file__],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert f"{6 * len(RATES) + 45} passed" in done.stdout


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_atrous_convolution_is_one_operation(dtype):
    image = tf.ones([1, 5, 5, 1], dtype)
    layer = AtrousConv2D(1, 3, padding="same", dilation_rate=2, dtype=dtype)
    layer(image)
    graph = tf.function(layer).get_concrete_function(image).graph
    operations = [operation.type for operation in graph.get_operations()]
    assert operations.count("Conv2D") == 1
    assert "SpaceToBatchND" not in operations


@pytest.mark.parametrize("rate", [2, 12])
@pytest.mark.parametrize("target", [graph_for_any_processor, graph_for_other_runtimes])
def test_a_small_exported_atrous_convolution_is_one_operation(target, rate):
    image = tf.ones([1, 5, 5, 1])
    layer = AtrousConv2D(1, 3, padding="same", dilation_rate=rate)
    layer(image)
    with target():
        graph = tf.function(layer).get_concrete_function(image).graph
    operations = [operation.type for operation in graph.get_operations()]
    assert operations.count("Conv2D") == 1


def pixels_of_products(inputs, rate, dtype="float32"):
    """Of each product of matrices in the graph of a layer for 33 x 33 features."""
    layer = AtrousConv2D(
        1, 3, padding="same", dilation_rate=rate, use_bias=False, dtype=dtype
    )
    layer.build([1, 33, 33, inputs])
    image = tf.TensorSpec([1, 33, 33, inputs], dtype)
    graph = tf.function(layer).get_concrete_function(image).graph
    return [
        operation.inputs[0].shape[0]
        for operation in graph.get_operations()
        if operation.type == "MatMul"
    ]


SUM_OF_POSITIONS = [height * width for height in (21, 33, 21) for width in (21, 33, 21)]


def test_large_rates_without_a_native_gradient_leave_out_the_padding():
    """Here, without oneDNN, a position of the kernel takes the pixels it sees."""
    expected = [] if has_native_gradient(tf.float32) else SUM_OF_POSITIONS
    assert pixels_of_products(1, 12) == expected


def test_large_exported_convolutions_leave_out_the_padding():
    """Whatever the processor: it is quicker with oneDNN and without."""
    with graph_for_any_processor():
        assert pixels_of_products(1024, 12) == SUM_OF_POSITIONS
        assert len(pixels_of_products(1024, 4, "bfloat16")) == 9
        for inputs, rate in ((1024, 11), (1023, 12)):
            assert pixels_of_products(inputs, rate) == []
        assert pixels_of_products(1024, 3, "bfloat16") == []


@pytest.mark.parametrize("target", [graph_for_other_runtimes, graph_for_gpu])
def test_other_devices_convolve_at_once(target):
    with target():
        assert pixels_of_products(1024, 12) == []
        assert pixels_of_products(1024, 12, "bfloat16") == []


@pytest.mark.parametrize("rate", [2, 12])
def test_only_small_rates_of_a_depthwise_convolution_are_one_operation(rate):
    layer = AtrousDepthwiseConv2D(3, padding="same", dilation_rate=rate)
    layer.build([1, 33, 33, 2])
    image = tf.TensorSpec([1, 33, 33, 2])
    graph = tf.function(layer).get_concrete_function(image).graph
    operations = {operation.type for operation in graph.get_operations()}
    is_one = rate == 2 and has_native_gradient(tf.float32)
    assert ("SpaceToBatchND" in operations) != is_one


def test_a_depthwise_convolution_for_other_runtimes_is_one_operation():
    image = tf.ones([1, 5, 5, 2])
    layer = AtrousDepthwiseConv2D(3, padding="same", dilation_rate=2)
    layer(image)
    with graph_for_other_runtimes():
        graph = tf.function(layer).get_concrete_function(image).graph
    operations = [operation.type for operation in graph.get_operations()]
    assert "Conv2D" in operations
    assert "SpaceToBatchND" not in operations


@pytest.mark.parametrize("value", ["1", "true", "TRUE"])
def test_weights_that_tensorflow_takes_for_frozen_are_refused(value, monkeypatch):
    """TensorFlow would compute with those of the first run, without a word."""
    layer = AtrousConv2D(2, 3)
    monkeypatch.setenv(FROZEN_WEIGHTS, value)
    with pytest.raises(ValueError, match=f"unset {FROZEN_WEIGHTS}"):
        DeepLabV3(3, "resnet18")
    # So are models that were loaded, before their first number.
    with pytest.raises(ValueError, match=f"unset {FROZEN_WEIGHTS}"):
        layer(tf.ones([1, 5, 5, 1]))
    monkeypatch.setenv(FROZEN_WEIGHTS, "0")
    layer(tf.ones([1, 5, 5, 1]))


def test_resize_puts_features_back_to_their_pixels():
    ramp = np.arange(3, dtype="float32") * 4  # feature i says its pixel, 4 i
    features = np.tile(ramp[None, None, :, None], [1, 3, 1, 1])
    for width in (9, 10, 12):
        reference = np.zeros([1, 9, width, 3], "float32")
        resized = ResizeLike(4)([features, reference])
        expected = np.minimum(np.arange(width), 8)  # the border is repeated
        np.testing.assert_allclose(resized[0, 4, :, 0], expected, atol=1e-6)


def test_resize_equals_align_corners_at_the_authors_sizes():
    features = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype("float32")
    expected = tf.compat.v1.image.resize_bilinear(
        features, [8 * 4 + 1, 8 * 3 + 1], align_corners=True
    )
    actual = ResizeLike(8)([features, np.zeros_like(expected)])
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_resize_without_stride_spreads_one_cell():
    spread = ResizeLike()(
        [np.full([1, 1, 1, 2], 3.0, "float32"), np.zeros([1, 5, 7, 1])]
    )
    np.testing.assert_array_equal(spread, np.full([1, 5, 7, 2], 3.0))


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf"])
def test_normalization_equals_keras_applications(mode):
    image = np.random.default_rng(0).uniform(0, 255, (1, 4, 5, 3)).astype("float32")
    expected = keras.applications.imagenet_utils.preprocess_input(
        image.copy(), mode=mode
    )
    ours = ImageNormalization("unit" if mode == "tf" else mode)(image)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("mode", NORMALIZATIONS)
def test_mean_color_is_what_normalization_turns_into_zero(mode):
    image = np.reshape(mean_color(mode), [1, 1, 1, 3]).astype("float32")
    np.testing.assert_allclose(ImageNormalization(mode)(image), 0, atol=1e-5)


def test_normalization_refuses_an_unknown_mode():
    with pytest.raises(ValueError, match="caffe.*Received: 'gray'"):
        ImageNormalization("gray")


def test_weight_decay_follows_the_papers_convention():
    """A step on a loss without gradient: w <- w - lr * lambda * w, kernels only."""
    image = keras.Input([8, 8, 3])
    with layer_defaults(weight_decay=0.1):
        output = convolution(image, 2, 3, use_bias=True, name="conv")
    model = keras.Model(image, output)
    kernel, _ = model.get_weights()
    model.layers[1].set_weights([kernel, np.ones(2)])
    model.compile(keras.optimizers.SGD(0.5), loss=lambda y, p: 0.0 * tf.reduce_sum(p))
    model.fit(np.zeros([2, 8, 8, 3]), np.zeros([2, 8, 8, 2]), verbose=0, batch_size=2)
    decayed_kernel, bias = model.get_weights()
    np.testing.assert_allclose(decayed_kernel, kernel * (1 - 0.5 * 0.1), rtol=1e-5)
    np.testing.assert_array_equal(bias, np.ones(2))


@pytest.mark.parametrize("batch", [0, 2])
def test_a_depthwise_kernel_has_no_gradient_without_images(batch):
    """TensorFlow's own is unwritten memory, of the size that was there before."""
    image = tf.ones([batch, 9, 9, 64])
    kernel = tf.ones([3, 3, 64, 1])
    for _ in range(5):
        tf.random.normal([3, 3, 64, 1], 1e30)  # what that memory may hold
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            same = with_gradient_of_images(kernel, image)
            outputs = tf.nn.depthwise_conv2d(image, same, [1, 2, 2, 1], "SAME")
            total = tf.reduce_sum(outputs)
        gradient = tape.gradient(total, kernel)
        # 9 pixels at stride 2: 5 windows, whose middle row always lies in the image.
        np.testing.assert_array_equal(gradient[1, 1], np.full([64, 1], 25 * batch))
        np.testing.assert_array_equal(gradient[0, 0], np.full([64, 1], 16 * batch))


def test_image_pooling_sums_in_float32_under_float16():
    """In float16 the sum over a 65x65 map of 100s is infinite."""
    image = np.full((1, 65, 65, 3), 100, "float32")
    with precision_policy("float16"):
        features = keras.Input((65, 65, 3))
        model = keras.Model(features, image_level_pooling(features, 4))
    pooled = keras.Model(features, model.get_layer("aspp_pool").output)(image)
    np.testing.assert_allclose(np.ravel(pooled), 100, rtol=1e-6)
    assert np.isfinite(model(image)).all()
