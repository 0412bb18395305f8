"""Sizes of the networks against sums written out from the papers."""

import functools

import pytest
import tensorflow as tf
from tensorflow import keras

from benchmarks import model_table
from benchmarks.model_table import count_parameters
from deeplab_tf.networks.models import inference_model
from deeplab_tf.networks.multiply_adds import multiply_adds, space_to_batch_size
from tests.support.networks import kernels_not_drawn

pytestmark = pytest.mark.one_lane
CLASSES = 21


def row(model, backbone, **options):
    return model_table.Row(model, backbone, options=options)


@functools.lru_cache(maxsize=2)  # a network is 250 MB
@kernels_not_drawn()
def build(model, backbone, **options):
    return row(model, backbone, **options).build()


def kernel(size, inputs, outputs):
    return size * size * inputs * outputs


def conv_bn(size, inputs, outputs):
    """A convolution without bias, and BatchNorm's gamma and beta."""
    return kernel(size, inputs, outputs) + 2 * outputs


def conv_bias(size, inputs, outputs):
    return kernel(size, inputs, outputs) + outputs


def separable(inputs, outputs):
    """Depthwise 3x3 and pointwise 1x1, BatchNorm after each."""
    return 9 * inputs + 2 * inputs + conv_bn(1, inputs, outputs)


def bottleneck(inputs, filters, projection=False):
    """1x1, 3x3, 1x1 of four times the filters; a 1x1 beside them if `projection`."""
    total = conv_bn(1, inputs, filters) + conv_bn(3, filters, filters)
    total += conv_bn(1, filters, 4 * filters)
    return total + (conv_bn(1, inputs, 4 * filters) if projection else 0)


def resnet(units, stem=((7, 3, 64),)):
    """1512.03385, table 1."""
    total, inputs = sum(conv_bn(*layer) for layer in stem), stem[-1][2]
    for count, filters in zip(units, (64, 128, 256, 512)):
        total += bottleneck(inputs, filters, projection=True)
        total += (count - 1) * bottleneck(4 * filters, filters)
        inputs = 4 * filters
    return total


RESNET50, RESNET101 = resnet((3, 4, 6, 3)), resnet((3, 4, 23, 3))
# 1612.01105 and the authors' code: three 3x3 of 64, 64 and 128 filters.
RESNET101_BETA = resnet((3, 4, 23, 3), ((3, 3, 64), (3, 64, 64), (3, 64, 128)))
# 1409.1556, table 1, column D: thirteen 3x3 with bias.
VGG16 = (
    conv_bias(3, 3, 64) + conv_bias(3, 64, 64)
    + conv_bias(3, 64, 128) + conv_bias(3, 128, 128)
    + conv_bias(3, 128, 256) + 2 * conv_bias(3, 256, 256)
    + conv_bias(3, 256, 512) + 2 * conv_bias(3, 512, 512)
    + 3 * conv_bias(3, 512, 512)
)  # fmt: skip
# 1412.7062, section 3.2: fc6 3x3 and fc7 1x1 of 1024 filters.
FC6_FC7 = conv_bias(3, 512, 1024) + conv_bias(1, 1024, 1024)
LARGE_FOV = VGG16 + FC6_FC7
# Section 4.3: from the image and four poolings, 3x3 and 1x1 of 128 filters each.
MULTI_SCALE_BRANCHES = sum(
    conv_bias(3, channels, 128) + conv_bias(1, 128, 128)
    for channels in (3, 64, 128, 256, 512)
)


def aspp(inputs):
    """1706.05587, figure 5: image level, 1x1, three 3x3, and 1x1 over all five."""
    branches = 2 * conv_bn(1, inputs, 256) + 3 * conv_bn(3, inputs, 256)
    return branches + conv_bn(1, 5 * 256, 256)


def xception65():
    """1802.02611, figure 4: blocks of three separable convolutions and a 1x1 beside."""
    total = conv_bn(3, 3, 32) + conv_bn(3, 32, 64)
    for inputs, filters in ((64, 128), (128, 256), (256, 728)):
        total += separable(inputs, filters) + 2 * separable(filters, filters)
        total += conv_bn(1, inputs, filters)
    total += 16 * 3 * separable(728, 728)
    total += separable(728, 728) + separable(728, 1024) + separable(1024, 1024)
    total += conv_bn(1, 728, 1024)
    total += separable(1024, 1536) + separable(1536, 1536) + separable(1536, 2048)
    return total


CLASSIFIER = conv_bias(1, 256, CLASSES)
DECODER = conv_bn(1, 256, 48) + conv_bn(3, 256 + 48, 256) + conv_bn(3, 256, 256)
# 1802.02611, section 3.1: separable 3x3 in ASPP and decoder.
XCEPTION65_PLUS = (
    xception65()
    + 2 * conv_bn(1, 2048, 256) + 3 * separable(2048, 256) + conv_bn(1, 5 * 256, 256)
    + conv_bn(1, 256, 48) + separable(256 + 48, 256) + separable(256, 256)
    + CLASSIFIER
)  # fmt: skip
# 1706.05587, figure 3: block5 to 7, three units each; 2048 channels come in, so that
# none needs a projection.
CASCADE = 3 * 3 * bottleneck(2048, 512) + conv_bias(1, 2048, CLASSES)
TORCHVISION_HEAD = aspp(2048) + conv_bn(3, 256, 256) + CLASSIFIER
AUXILIARY_HEAD = conv_bn(3, 1024, 256) + CLASSIFIER
MSC = {"multi_scale_features": True}
ONE_SCALE = {"input_scales": (1.0,)}
FULL_V3PLUS = RESNET101_BETA + aspp(2048) + DECODER + CLASSIFIER


@pytest.mark.parametrize(
    "model, backbone, options, derived, stated",
    [
        ("deeplab_v1", "vgg16", {}, LARGE_FOV + conv_bias(1, 1024, 21), 20_505_429),
        (
            "deeplab_v1",
            "vgg16",
            MSC,
            LARGE_FOV + MULTI_SCALE_BRANCHES + conv_bias(1, 1024 + 5 * 128, 21),
            21_711_445,
        ),
        (
            "deeplab_v2",
            "vgg16",
            ONE_SCALE,
            VGG16 + 4 * (FC6_FC7 + conv_bias(1, 1024, 21)),
            37_877_652,
        ),
        ("deeplab_v3_cascade", "resnet50", {}, RESNET50 + CASCADE, 63_714_389),
        ("deeplab_v3_cascade", "resnet101", {}, RESNET101 + CASCADE, 82_706_517),
        ("deeplab_v3plus", "resnet101_beta", {}, FULL_V3PLUS, 59_468_085),
        ("deeplab_v3plus", "xception65", {}, XCEPTION65_PLUS, 41_055_413),
    ],
)
def test_parameters_of_the_papers(model, backbone, options, derived, stated):
    trainable, everything = count_parameters(build(model, backbone, **options))
    assert trainable == derived == stated
    assert (everything > trainable) == (backbone != "vgg16")


@pytest.mark.parametrize(
    "backbone, derived, without_auxiliary, with_auxiliary, published_gflops",
    [
        ("resnet50_torchvision", RESNET50, 39_638_869, 42_004_074, 178.722),
        ("resnet101_torchvision", RESNET101, 58_630_997, 60_996_202, 258.743),
    ],
)
def test_torchvision_networks(
    backbone, derived, without_auxiliary, with_auxiliary, published_gflops
):
    """Parameters, and multiply-adds at 520 x 520, as torchvision states them."""
    model = build("deeplab_v3_torchvision", backbone, auxiliary_outputs=True)
    derived += TORCHVISION_HEAD
    assert derived == without_auxiliary
    assert derived + AUXILIARY_HEAD == with_auxiliary
    assert count_parameters(model)[0] == with_auxiliary
    assert count_parameters(inference_model(model))[0] == without_auxiliary
    count = multiply_adds(model, 520, 520) / 1e9
    assert count == pytest.approx(published_gflops, abs=0.0005)


@pytest.mark.parametrize(
    "model, options, published, published_gflops",
    [
        (
            "deeplab_v3_torchvision",
            model_table.TORCHVISION_MOBILENET,
            11_029_328,
            10.452,
        ),
        ("lr_aspp", {}, 3_221_538, 2.086),
    ],
)
def test_torchvision_networks_on_mobilenet_v3(
    model, options, published, published_gflops
):
    """As its own figures, but for LR-ASPP's gate, here with a bias, and its classifier.

    It classifies 65 x 65 pixels after the upsampling, this one 33 x 33 before it.
    """
    lite = model == "lr_aspp"
    built = row(model, "mobilenet_v3_large_torchvision", **options).build()
    assert count_parameters(built)[0] == published + 128 * lite
    count = multiply_adds(built, 520, 520) / 1e9
    saved = 128 * CLASSES * (65**2 - 33**2) / 1e9 if lite else 0.0
    assert count + saved == pytest.approx(published_gflops, abs=0.0005)


def test_multiply_adds_by_hand():
    image = keras.Input((None, None, 3))
    shared = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="shared")
    x = keras.layers.BatchNormalization()(shared(image))
    x = keras.layers.DepthwiseConv2D(3, padding="same", dilation_rate=2)(x)
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    pooled = keras.layers.Conv2D(4, 1)(pooled)
    small = shared(keras.layers.AveragePooling2D(4)(image))
    model = keras.Model(image, [keras.layers.Add()([x, pooled]), small])
    by_hand = 9 * 3 * 4 * (9 * 5)  # 17 x 10 at stride 2
    by_hand += 9 * 4 * (9 * 5)
    by_hand += 4 * 4
    by_hand += 9 * 3 * 4 * (2 * 1)  # once more over 4 x 2
    assert multiply_adds(model, 17, 10) == by_hand
    # 9 and 5 pixels, padded by 4 and then to 14 and 10, give 10 and 6 outputs.
    more = 9 * 4 * (10 * 6 - 9 * 5)
    assert multiply_adds(model, 17, 10, space_to_batch=True) == by_hand + more
    part = keras.Model(image, small)
    assert multiply_adds(part, 17, 10) == 9 * 3 * 4 * (2 * 1)


def test_other_layers_with_kernels_are_refused():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Dense(2, name="dense")(image))
    with pytest.raises(ValueError, match="Only Conv2D.*Received: dense, Dense"):
        multiply_adds(model, 8, 8)


def test_multi_scale_inputs_count_every_scale():
    """DeepLabV2, section 4.1.2: the network at 513, 512 * 0.75 + 1 and 512 / 2 + 1."""
    single = build("deeplab_v2", "resnet18", **ONE_SCALE)
    multi = row("deeplab_v2", "resnet18").build()
    parts = [multiply_adds(single, size, size) for size in (513, 385, 257)]
    assert multiply_adds(multi) == sum(parts)
    assert count_parameters(multi) == count_parameters(single)


@pytest.mark.parametrize("rate", [2, 4, 6, 8, 12, 18])
def test_space_to_batch_size_is_that_of_tensorflow(rate):
    """The Conv2D inside a dilated convolution, one for each of rate^2 offsets."""

    @tf.function
    def convolve(image):
        kernels = tf.ones([3, 3, 1, 1])
        return tf.nn.convolution(image, kernels, padding="SAME", dilations=rate)

    graph = convolve.get_concrete_function(tf.TensorSpec([1, 33, 33, 1])).graph
    (inner,) = [op for op in graph.get_operations() if op.type == "Conv2D"]
    outputs = inner.outputs[0].shape.num_elements()
    assert outputs == space_to_batch_size(33, rate, 2 * rate) ** 2


FIGURES = [
    # Paper, multiply-adds (1e9), and whether ours are within 2 % also when dilated
    # convolutions are counted without space-to-batch.
    ("deeplab_v3", "resnet101_beta", {}, 81.02, False),
    ("deeplab_v3plus", "resnet101_beta", {}, 101.28, False),
    ("deeplab_v3", "xception65", {}, 68.00, False),
    ("deeplab_v3plus", "xception65", {"separable": False}, 89.76, False),
    ("deeplab_v3plus", "xception65", {}, 54.17, True),
    ("deeplab_v3", "mobilenet_v2", {}, 5.8, False),
    ("deeplab_v3", "mobilenet_v2", {"atrous_rates": ()}, 2.75, True),
]


@pytest.mark.parametrize("model, backbone, options, paper, plainly", FIGURES)
def test_multiply_adds_of_the_papers(model, backbone, options, paper, plainly):
    network = build(model, backbone, **options)
    plain = multiply_adds(network) / 1e9
    as_run = multiply_adds(network, space_to_batch=True) / 1e9
    assert as_run == pytest.approx(paper, rel=0.014 if paper == 101.28 else 0.005)
    assert (abs(plain / paper - 1) < 0.02) == plainly


def test_101_28_does_not_fit_the_other_figures_of_its_table():
    """The same network over six scales, and what a decoder costs in other rows."""
    network = build("deeplab_v3plus", "resnet101_beta")
    sizes = [int(512 * scale) + 1 for scale in (0.5, 0.75, 1, 1.25, 1.5, 1.75)]
    counts = [multiply_adds(network, size, size, space_to_batch=True) for size in sizes]
    assert sum(counts) / 1e9 == pytest.approx(898.69, rel=0.001)
    encoder = multiply_adds(build("deeplab_v3", "resnet101_beta"))
    decoder = (multiply_adds(network) - encoder) / 1e9
    by_hand = kernel(1, 256, 48) + kernel(3, 304, 256) + kernel(3, 256, 256)
    by_hand = (by_hand + 21 * 256) * 129**2 - 21 * 256 * 33**2
    assert decoder == by_hand / 1e9
    assert decoder == pytest.approx(89.76 - 68.00, abs=0.02)
    assert decoder == pytest.approx(74.20 - 52.43, abs=0.02)
    assert abs(decoder - (101.28 - 81.02)) > 1.4


def test_terms_between_the_two_resnets_and_the_paper():
    """The rows of docs/models.md's table of terms."""
    ours, beta = (
        multiply_adds(build("deeplab_v3", name))
        for name in ("resnet101", "resnet101_beta")
    )
    stem = kernel(3, 3, 64) + kernel(3, 64, 64) + kernel(3, 64, 128) - kernel(7, 3, 64)
    wider_input = 64 * (64 + 256)
    last_units = (kernel(3, 64, 64) + 64 * 256) * (129**2 - 65**2)
    last_units += (kernel(3, 128, 128) + 128 * 512) * (65**2 - 33**2)
    assert beta - ours == stem * 257**2 + wider_input * 129**2 - last_units
    aspp_terms = 3 * kernel(3, 2048, 256) * (36**2 - 33**2)
    block4_terms = kernel(3, 512, 512) * (34**2 + 36**2 + 40**2 - 3 * 33**2)
    network = build("deeplab_v3", "resnet101_beta")
    as_run = multiply_adds(network, space_to_batch=True)
    assert as_run - beta == aspp_terms + block4_terms


@pytest.mark.parametrize("model", ["deeplab_v1", "deeplab_v3"])
def test_the_document_holds_what_the_script_prints(model):
    text = model_table.DOCUMENT.read_text(encoding="utf-8")
    small = ("vgg16", "mobilenet_v2")
    rows = [r for r in model_table.ROWS if r.model == model and r.backbone in small]
    assert len(rows) == 2
    for line in map(model_table.models_line, rows):
        assert f"\n{line}\n" in text


def test_replace_block_changes_only_what_is_between_the_comments():
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb"
    expected = "a\n<!-- begin x -->\n\\1 new\n<!-- end x -->\nb"
    assert model_table.replace_block(text, "x", "\\1 new") == expected
    with pytest.raises(ValueError, match="begin y"):
        model_table.replace_block(text, "y", "new")
