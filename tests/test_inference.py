"""Segmenter: what it runs, and that every way to run it gives the same classes."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.inference.crf import CRFParameters, dense_crf
from deeplab_tf.inference.network import Ensemble, KerasNetwork, Network
from deeplab_tf.inference.padding import (
    describe_outgrown,
    mean_color_in,
    mean_color_of,
    pad_images,
)
from deeplab_tf.inference.runtimes import RuntimeNetwork
from deeplab_tf.inference.saved_models import SavedModelNetwork
from deeplab_tf.inference.segmenter import PAPER_SCALES, Segmenter, load_segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.networks.layers import NORMALIZATIONS, ImageNormalization
from deeplab_tf.workdir import load_workdir

pytestmark = pytest.mark.both_keras


@pytest.fixture(scope="module")
def model(workdir):
    return load_workdir(workdir)[0]


def image_of(height, width, seed=0):
    coarse = np.random.default_rng(seed).uniform(0, 255, [6, 8, 3])
    return tf.image.resize(coarse, [height, width], "bicubic").numpy()


def pixelwise(images):
    """A network of three classes without neighbours: its answer is known."""
    return tf.stack([images[..., 0], images[..., 1], 255 - images[..., 2]], -1) / 40


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def test_a_plain_function_is_a_model():
    image = image_of(40, 50)
    segmenter = Segmenter(pixelwise)
    logits = pixelwise(image).numpy()
    classes = segmenter.predict(image)
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, logits.argmax(-1))
    np.testing.assert_allclose(
        segmenter.probabilities(image[None])[0], softmax(logits), atol=1e-6
    )


class Contrary(Network):
    """Its classes are the least likely ones."""

    labels = Labels(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (99, 99, 99)))

    def logits(self, images):
        return pixelwise(images)

    def classes(self, images):
        return tf.argmin(self.logits(images), -1)


def test_a_network_is_asked_for_classes_unless_probabilities_are_averaged():
    image = image_of(40, 50)
    logits = pixelwise(image).numpy()
    segmenter = Segmenter(Contrary())
    assert segmenter.labels == Contrary.labels
    np.testing.assert_array_equal(segmenter.predict(image), logits.argmin(-1))
    for options in ({"flip": True}, {"scales": (1.0, 1.0)}, {"window": 48}):
        classes = Segmenter(Contrary(), **options).predict(image)
        np.testing.assert_array_equal(classes, logits.argmax(-1))
    other = Labels(("x", "y", "z"), Contrary.labels.colormap)
    assert Segmenter(Contrary(), labels=other).labels == other


def test_probabilities_are_the_mean_of_the_softmax_over_scales_and_flips(model):
    """Against the sentence of the paper, run step by step without the class."""
    image = image_of(75, 90)[None]
    runs = []
    for scale in PAPER_SCALES:
        size = [int(np.round(75 * scale)), int(np.round(90 * scale))]
        scaled = tf.image.resize(image, size)
        for mirror in (False, True):
            one = tf.reverse(scaled, [2]) if mirror else scaled
            logits = model(one, training=False)
            logits = tf.reverse(logits, [2]) if mirror else logits
            runs.append(softmax(tf.image.resize(logits, [75, 90]).numpy()))
    segmenter = Segmenter(model, PAPER_SCALES, flip=True)
    expected = np.mean(runs, 0)
    np.testing.assert_allclose(segmenter.probabilities(image), expected, atol=1e-5)
    np.testing.assert_array_equal(
        segmenter.predict(image[0]), segmenter.probabilities(image)[0].argmax(-1)
    )


def test_a_flip_averages_left_and_right():
    """The mirrored image has the mirrored result, pixel for pixel."""
    segmenter = Segmenter(lambda images: tf.cumsum(pixelwise(images), 2), flip=True)
    image = image_of(33, 40)[None]
    mirrored = segmenter.probabilities(image[:, :, ::-1])
    np.testing.assert_allclose(
        mirrored[:, :, ::-1], segmenter.probabilities(image), atol=1e-6
    )


def test_a_small_scale_of_a_small_image_stays_large_enough(model):
    image = image_of(40, 33)
    assert Segmenter(model, [0.25]).predict(image).shape == (40, 33)


def test_workdir_and_saved_model_answer_alike(workdir, exported):
    ours = Segmenter.from_workdir(workdir)
    theirs = Segmenter.from_saved_model(exported.parent)
    assert theirs.labels == ours.labels
    assert ours.labels.class_names == ("background", "cat", "dog", "horse")
    images = np.stack([image_of(65, 80, seed).astype(np.uint8) for seed in (0, 1)])
    np.testing.assert_array_equal(
        theirs.predict_batch(images), ours.predict_batch(images)
    )
    np.testing.assert_allclose(
        theirs.probabilities(images), ours.probabilities(images), atol=1e-5
    )


def test_a_saved_model_can_be_run_at_scales_and_mirrored(workdir, exported):
    options = {"scales": (0.75, 1.0), "flip": True}
    image = image_of(65, 80).astype(np.uint8)[None]
    ours = Segmenter.from_workdir(workdir, **options).probabilities(image)
    theirs = Segmenter.from_saved_model(exported, **options).probabilities(image)
    # The scaled image is rounded to whole numbers.
    np.testing.assert_allclose(theirs, ours, atol=0.05)
    assert np.abs(theirs - ours).mean() < 4e-3


def test_another_output_stride_than_trained(workdir):
    image = image_of(65, 80)
    fine = Segmenter.from_workdir(workdir, output_stride=8)
    coarse = Segmenter.from_workdir(workdir)
    model, _ = load_workdir(workdir, 8)
    expected = model(image[None], training=False).numpy()[0].argmax(-1)
    np.testing.assert_array_equal(fine.predict(image), expected)
    assert (fine.predict(image) != coarse.predict(image)).any()


def test_any_size_and_batch_is_traced_once(model):
    traces = []

    def counted(images):
        traces.append(images.shape)
        return pixelwise(images)

    segmenter = Segmenter(counted)
    for batch, height, width in ((1, 40, 50), (2, 33, 64), (3, 100, 32), (1, 41, 51)):
        segmenter.predict_batch(np.zeros([batch, height, width, 3], np.uint8))
    assert len(traces) == 1


def test_windows_equal_the_whole_image_for_convolutions_alone():
    """Three 3x3 convolutions, one dilated: they reach 4 pixels."""
    rng = np.random.default_rng(0)
    kernels = [
        rng.normal(0, 0.3, shape).astype(np.float32)
        for shape in ((3, 3, 3, 6), (3, 3, 6, 6), (3, 3, 6, 4))
    ]

    def network(images):
        x = images / 100
        for kernel, rate in zip(kernels, (1, 2, 1)):
            x = tf.nn.conv2d(tf.nn.relu(x), kernel, 1, "SAME", dilations=rate)
        return x

    image = image_of(150, 190)
    whole = Segmenter(network)
    pieces = Segmenter(network, window=64, overlap=16, window_batch=3)
    expected = whole.probabilities(image[None])
    np.testing.assert_allclose(
        pieces.probabilities(image[None]), expected, atol=1e-5, rtol=1e-4
    )
    agreement = (pieces.predict(image) == whole.predict(image)).mean()
    assert agreement > 0.9999  # but for ties


def test_windows_of_a_strided_network_agree_where_they_meet_its_grid():
    """Stride 8: windows of 8k + 1 pixels that begin at multiples of 8."""
    kernels = [
        np.random.default_rng(seed).normal(0, 0.3, [3, 3, 4, 4]).astype(np.float32)
        for seed in range(3)
    ]

    def network(images):
        height, width = tf.unstack(tf.shape(images)[1:3])
        x = tf.concat([images, images[..., :1]], -1) / 100
        for kernel in kernels:
            # Centred on every second pixel from the first on, whatever the size.
            x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "VALID"))
        x = tf.repeat(tf.repeat(x, 8, 1), 8, 2)
        return x[:, :height, :width]

    # 65 + 3 * 40 = 185: windows begin at 0, 40, 80 and 120.
    image = image_of(185, 185)
    whole = Segmenter(network).probabilities(image[None])
    # Reach: 1 + 2 + 4 pixels, and 7 to the middle of the cell.
    pieces = Segmenter(network, window=65, overlap=25).probabilities(image[None])
    valid = np.abs(pieces - whole).max(-1)[0]
    assert np.median(valid) < 1e-6
    assert (valid < 1e-5).mean() > 0.7
    wide = Segmenter(network, window=129, overlap=57)  # begins at 0 and 56
    np.testing.assert_allclose(wide.probabilities(image[None]), whole, atol=1e-5)


def test_an_image_that_fits_the_window_is_run_whole(model):
    image = image_of(64, 64)
    np.testing.assert_array_equal(
        Segmenter(model, window=64).predict(image), Segmenter(model).predict(image)
    )


def test_windows_of_a_batch_and_of_a_file(model, tmp_path):
    images = np.stack([image_of(100, 70, seed) for seed in (0, 1)]).astype(np.uint8)
    segmenter = Segmenter(model, window=48)
    batch = segmenter.predict_batch(images)
    np.save(tmp_path / "image.npy", images[1])
    out = np.memmap(tmp_path / "out", np.uint8, "w+", shape=(100, 70))
    result = segmenter.predict(np.load(tmp_path / "image.npy", mmap_mode="r"), out)
    assert result is out
    np.testing.assert_array_equal(out, batch[1])
    sums = segmenter.probabilities(images).sum(-1)
    np.testing.assert_allclose(sums, 1, atol=1e-5)


def test_the_crf_sees_image_and_probabilities(model):
    parameters = CRFParameters(iterations=2)
    image = image_of(40, 48).astype(np.uint8)
    plain = Segmenter(model).probabilities(image[None])[0]
    sharpened = Segmenter(model, crf=parameters)
    expected = dense_crf(image, plain, parameters)
    np.testing.assert_allclose(
        sharpened.probabilities(image[None])[0], expected, atol=1e-6
    )
    np.testing.assert_array_equal(sharpened.predict(image), expected.argmax(-1))


# --- Padding -------------------------------------------------------------------------


def with_below(images):
    """Scores that depend on all that lies below and to the right."""
    scores = tf.stack([images[..., 0], 255 - images[..., 1]], -1) / 4e4
    return tf.cumsum(tf.cumsum(scores, 1, reverse=True), 2, reverse=True)


def padded_by_hand(images, height, width, color):
    shape = (len(images), max(height, images.shape[1]), max(width, images.shape[2]), 3)
    padded = np.empty(shape, np.float32)
    padded[...] = color
    padded[:, : images.shape[1], : images.shape[2]] = images
    return padded


@pytest.mark.parametrize("options", [{"scales": (0.75, 1.0), "flip": True}, {}])
def test_padded_is_the_network_on_the_image_padded_by_hand(options):
    """Bit for bit: it is scaled and mirrored after it is padded."""
    images = np.stack([image_of(40, 48, seed) for seed in (0, 1)])
    whole = padded_by_hand(images, 65, 81, (10, 20, 30))
    plain = Segmenter(with_below, **options)
    segmenter = Segmenter(
        with_below, pad_to=(65, 81), pad_color=(10, 20, 30), **options
    )
    expected = plain.probabilities(whole)[:, :40, :48]
    np.testing.assert_array_equal(segmenter.probabilities(images), expected)
    classes = plain.predict_batch(whole)[:, :40, :48]
    np.testing.assert_array_equal(segmenter.predict_batch(images), classes)
    np.testing.assert_array_equal(segmenter.predict(images[1]), classes[1])


def test_a_network_sees_its_mean_colour_below_and_to_the_right(model):
    image = image_of(40, 48).astype(np.uint8)[None]
    plain, segmenter = Segmenter(model), Segmenter(model, pad_to=(65, 81))
    expected = plain.probabilities(padded_by_hand(image, 65, 81, 127.5))
    found = segmenter.probabilities(image)
    np.testing.assert_array_equal(found, expected[:, :40, :48])
    assert np.abs(plain.probabilities(image) - found).max() > 0.01, "sees no pad"


def test_a_side_that_is_longer_than_the_pad_stays():
    images = image_of(40, 60)[None]
    options = {"pad_to": 50, "pad_color": (10, 20, 30)}
    segmenter = Segmenter(with_below, **options)
    expected = softmax(with_below(padded_by_hand(images, 50, 60, (10, 20, 30))).numpy())
    np.testing.assert_allclose(
        segmenter.probabilities(images), expected[:, :40], atol=1e-5
    )
    assert segmenter.outgrows_padding((40, 60))
    assert not segmenter.outgrows_padding((40, 50, 3))
    # A window is what the network is run on.
    assert not Segmenter(with_below, window=50, **options).outgrows_padding((90, 90))
    assert Segmenter(with_below, window=51, **options).outgrows_padding((90, 90))
    assert not Segmenter(with_below).outgrows_padding((9000, 9000))
    assert describe_outgrown(1, (50, 60)).startswith("1 image is larger than --pad_to=")
    assert "2 images are larger than --pad_to=50x60" in describe_outgrown(2, (50, 60))


def test_windows_are_padded_each():
    """Rows of the image in windows of 48: the last 12 are with 36 of those before."""
    image = image_of(60, 40)[None]
    segmenter = Segmenter(
        with_below, window=48, overlap=0, pad_to=64, pad_color=(9, 9, 9)
    )
    windows = [
        softmax(with_below(padded_by_hand(image[:, top : top + 48], 64, 64, 9)).numpy())
        for top in (0, 12)
    ]
    found = segmenter.probabilities(image)
    np.testing.assert_allclose(found[:, :12], windows[0][:, :12, :40], atol=1e-5)
    np.testing.assert_allclose(found[:, 48:], windows[1][:, 36:48, :40], atol=1e-5)


def test_the_crf_sees_the_image_without_its_pad(model):
    parameters = CRFParameters(iterations=2)
    image = image_of(40, 48).astype(np.uint8)
    plain = Segmenter(model, pad_to=64).probabilities(image[None])[0]
    sharpened = Segmenter(model, pad_to=64, crf=parameters).probabilities(image[None])
    np.testing.assert_allclose(
        sharpened[0], dense_crf(image, plain, parameters), atol=1e-6
    )


@pytest.mark.parametrize("mode", NORMALIZATIONS)
def test_the_pad_is_what_the_normalization_makes_zero(mode):
    image = tf.keras.Input([None, None, 3])
    inner = tf.keras.Model(image, ImageNormalization(mode)(image))
    for model in (inner, tf.keras.Model(image, inner(image))):
        network = KerasNetwork(model)
        light = tf.fill([1, 32, 40, 3], 200.0)
        pad = network.logits(pad_images(light, (40, 40), network.mean_color))[:, 32:]
        np.testing.assert_allclose(pad, np.zeros([1, 8, 40, 3]), atol=1e-6)
    assert mean_color_of(tf.keras.Model(image, image)) is None


def test_an_export_is_padded_as_its_run(workdir, exported):
    """It takes whole numbers: 127.5 is 128."""
    image = image_of(40, 50).astype(np.uint8)
    theirs = Segmenter.from_saved_model(exported, pad_to=65)
    whole = padded_by_hand(image[None], 65, 65, 128)
    expected = Segmenter.from_workdir(workdir).predict_batch(whole)[0, :40, :50]
    np.testing.assert_array_equal(theirs.predict(image), expected)


def test_a_file_of_a_runtime_is_padded_too():
    class Runner:
        size = None

        def __call__(self, images):
            self.seen = images
            return images[..., 0]

    image = image_of(40, 50).clip(0, 255).astype(np.uint8)
    runner = Runner()
    network = RuntimeNetwork(runner, None, mean_color_in('{"mean_color": [1, 2, 3]}'))
    classes = Segmenter(network, pad_to=(64, 50)).predict(image)
    np.testing.assert_array_equal(classes, image[..., 0])
    np.testing.assert_array_equal(
        runner.seen, padded_by_hand(image[None], 64, 50, (1, 2, 3))
    )


def test_a_class_that_the_labels_do_not_name_is_told():
    class Runner:
        size = None

        def __call__(self, images):
            return images[..., 0]

    network = RuntimeNetwork(Runner(), Labels(("a", "b"), ((0, 0, 0), (9, 9, 9))))
    image = np.zeros((33, 40, 3), np.uint8)
    assert not Segmenter(network).predict(image).any()
    image[4, 4] = 2
    with pytest.raises(ValueError, match="finds class 2, and the labels .* 2 classes"):
        Segmenter(network).predict(image)


def test_labels_of_exports_that_tell_no_colour():
    assert mean_color_in("{}") is None
    for value in ("null", '"abc"', "3", "[1, 2]", "[1, 2, 300]", "[1, 2, NaN]"):
        assert mean_color_in(f'{{"mean_color": {value}}}') is None


# --- Several networks ----------------------------------------------------------------


def other_pixelwise(images):
    return tf.stack([images[..., 2], 128 - images[..., 0], images[..., 1]], -1) / 30


@pytest.mark.parametrize("options", [{"scales": (0.75, 1.25)}, {"window": 40}])
def test_a_class_of_probability_0_leaves_numbers_where_logits_are_resized(options):
    """Logits 300 apart: float32's softmax of the others is 0, its logarithm -inf."""
    network = object.__new__(SavedModelNetwork)
    network.labels, network.mean_color = None, None
    sure = lambda images: tf.nn.softmax(40 * pixelwise(images))  # noqa: E731
    network._ask = lambda signature, images: sure(images)
    image = image_of(48, 60)
    assert (sure(image) == 0).numpy().any()
    expected = Segmenter(lambda images: 40 * pixelwise(images), **options)
    for given in (network, Ensemble([network, network])):
        segmenter = Segmenter(given, **options)
        probabilities = segmenter.probabilities(image[None])[0]
        np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
        assert (segmenter.predict(image) == expected.predict(image)).mean() > 0.99


class Named(Network):
    """A function with names of its classes, and a colour to pad with."""

    def __init__(self, function, names, mean_color=(127.5,) * 3):
        self.function, self.mean_color = function, mean_color
        self.labels = Labels(names, ((0, 0, 0),) * len(names))

    def logits(self, images):
        return self.function(images)


def test_an_ensemble_is_the_mean_of_probabilities_by_hand():
    """Not of logits: one is sure, the other is not."""
    first = lambda images: tf.zeros_like(images) + [np.log(9.0), 0, -99]  # noqa: E731
    second = lambda images: tf.zeros_like(images) + [0, np.log(3.0), -99]  # noqa: E731
    image = image_of(32, 33)
    probabilities = Segmenter(Ensemble([first, second])).probabilities(image[None])
    expected = [(0.9 + 0.25) / 2, (0.1 + 0.75) / 2, 0]
    np.testing.assert_allclose(probabilities[0, 5, 5], expected, atol=1e-6)
    assert (Segmenter(Ensemble([first, second])).predict(image) == 0).all()
    ensemble = Ensemble([first, second])
    logits = ensemble.logits(tf.constant(image[None]))
    np.testing.assert_allclose(tf.nn.softmax(logits)[0, 5, 5], expected, atol=1e-6)
    # Of an ensemble each network counts once.
    nested = Segmenter(Ensemble([ensemble, second])).probabilities(image[None])
    np.testing.assert_allclose(nested[0, 5, 5, 0], (0.9 + 0.25 + 0.25) / 3, atol=1e-6)


ENSEMBLE_OPTIONS = [
    {},
    {"scales": (0.5, 1.0, 1.5), "flip": True},
    {"window": 40, "overlap": 8},
    {"pad_to": 64},
    {"pad_to": (65, 48), "scales": (0.75,)},
]


@pytest.mark.parametrize("options", ENSEMBLE_OPTIONS)
def test_an_ensemble_is_the_mean_of_its_networks_in_every_way_to_run_them(options):
    """Each at scales, mirrored, in windows, and padded with its own colour."""
    names = ("a", "b")
    members = [
        Named(with_below, names, (10.0, 20.0, 30.0)),
        Named(lambda images: 2 * with_below(images[..., ::-1]), names, (99.0,) * 3),
    ]
    image = image_of(50, 60)[None]
    expected = np.mean(
        [Segmenter(m, **options).probabilities(image) for m in members], 0
    )
    segmenter = Segmenter(Ensemble(members), **options)
    found = segmenter.probabilities(image)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(segmenter.predict(image[0]), found[0].argmax(-1))
    assert segmenter.labels.class_names == names


def test_networks_of_other_orders_are_taken_by_the_names_of_the_first():
    first = Named(pixelwise, ("sky", "road", "tree"))
    order = [2, 0, 1]
    second = Named(
        lambda images: tf.gather(other_pixelwise(images), order, axis=-1),
        ("Tree", "SKY", "road"),
    )
    plain = Named(other_pixelwise, ("sky", "road", "tree"))
    image = image_of(40, 50)[None]
    expected = Segmenter(Ensemble([first, plain])).probabilities(image)
    found = Segmenter(Ensemble([first, second]))
    np.testing.assert_allclose(found.probabilities(image), expected, atol=1e-6)
    assert found.labels == first.labels
    nested = Segmenter(Ensemble([first, Ensemble([second])])).probabilities(image)
    np.testing.assert_allclose(nested, expected, atol=1e-6)


def test_networks_of_other_classes_are_refused():
    first = Named(pixelwise, ("sky", "road", "tree"))
    for names, sentence in (
        (("sky", "road", "car"), r"3 of runs/a \(only there: tree\) and 3 of runs/b"),
        (
            ("sky", "road"),
            r"2 of runs/b \(only there: none\). Leave one out, or rename",
        ),
    ):
        with pytest.raises(ValueError, match=f"same classes. Received: .*{sentence}"):
            Ensemble([first, Named(pixelwise, names)], ["runs/a", "runs/b"])
    with pytest.raises(ValueError, match="An ensemble needs networks. Received: none"):
        Ensemble([])
    classes_alone = RuntimeNetwork(type("Runner", (), {"size": None})(), None)
    with pytest.raises(ValueError, match="answers with classes"):
        Segmenter(Ensemble([first, classes_alone]))


def test_workdirs_as_one_are_the_mean_of_each(workdir, other_workdir):
    image = image_of(40, 50).astype(np.uint8)[None]
    # One alone is that one: its logits decide between near ties.
    alone = load_segmenter([workdir], output_stride=8)
    assert alone.network.members == (alone.network,) and not alone.averages
    other = Segmenter.from_workdir(other_workdir, output_stride=8)
    each = [segmenter.probabilities(image) for segmenter in (alone, other)]
    found = load_segmenter([workdir, str(other_workdir)], output_stride=8)
    np.testing.assert_allclose(found.probabilities(image), np.mean(each, 0), atol=1e-6)
    assert np.abs(each[0] - each[1]).max() > 0.1


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"scales": ()}, "at most 16. Received: \\(\\)"),
        ({"scales": (1, -1)}, "scales must be positive"),
        ({"scales": (float("nan"),)}, "scales must be positive"),
        ({"window": 31}, "window must be at least 32 pixels. Received: 31"),
        ({"window": 64, "overlap": 33}, "half of the window"),
        ({"overlap": 8}, "overlap needs a window"),
        ({"window": 64, "crf": CRFParameters()}, "cannot be used with windows"),
        ({"pad_to": 31}, "pad_to must be .* 32 to 8192 pixels .* Received: 31"),
        ({"pad_to": (513, 9000)}, r"pad_to must be .* Received: \(513, 9000\)"),
        ({"pad_to": (1, 2, 3)}, "pad_to must be a size or \\(height, width\\)"),
        ({"pad_to": 64.5}, "pad_to must be .* Received: 64.5"),
        ({"pad_to": float("nan")}, "pad_to must be .* Received: nan"),
        ({"pad_to": "abc"}, "pad_to must be .* Received: abc"),
        ({"pad_to": 64}, "does not tell it. .* In Python give pad_color too"),
        ({"pad_color": (1, 2)}, "Expected pad_color as RGB in 0..255"),
        ({"pad_color": (1, 2, 256)}, "Expected pad_color as RGB in 0..255"),
        ({"pad_color": (1, 2, float("nan"))}, "Expected pad_color as RGB in 0..255"),
    ],
)
def test_options_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Segmenter(pixelwise, **options)


# Shape for predict -> what it likely is.
SHAPES = {
    (40, 40): r"without channels. A grey image is np.stack\(\[image\] \* 3, -1\)",
    (40, 40, 1): r"of one channel. Give np.repeat\(image, 3, -1\)",
    (40, 40, 4): r"RGB and transparency. Give image\[..., :3\]",
    (3, 40, 41): r"Channels come last: np.moveaxis\(image, 0, -1\)",
    (1, 40, 40, 3): r"a batch. Give image\[0\]",
    (40,): "",
    (): "",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_another_shape_are_refused(shape):
    message = rf"Expected RGB images.* Received: shape {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=rf"{message}.*{SHAPES[shape]}"):
        Segmenter(pixelwise).predict(np.zeros(shape))


def test_batches_of_another_shape_are_refused():
    segmenter = Segmenter(pixelwise)
    for run in (segmenter.predict_batch, segmenter.probabilities):
        with pytest.raises(ValueError, match=r"\(40, 41, 3\), one image. Give image\["):
            run(np.zeros((40, 41, 3)))
        with pytest.raises(ValueError, match=r"np.moveaxis\(image, 1, -1\)"):
            run(np.zeros((2, 3, 40, 41)))
        with pytest.raises(ValueError, match="of several sizes to predict, one by one"):
            run([np.zeros((40, 40, 3)), np.zeros((40, 41, 3))])


@pytest.mark.parametrize("image", ["photo.jpg", Path("photo.jpg"), b"\xff\xd8"])
def test_a_file_instead_of_an_image_is_refused(image):
    if isinstance(image, bytes):  # its path would do
        with pytest.raises(ValueError, match="not a file. .*read_image"):
            Segmenter(pixelwise).predict(image)
    with pytest.raises(ValueError, match="not a file. .*read_image"):
        Segmenter(pixelwise).predict_batch(image)


@pytest.mark.parametrize(
    "image", [None, {"a": 1}, object(), [[1, 2], "x"], tf.sparse.from_dense([[1]])]
)
def test_what_is_no_array_is_refused(image):
    with pytest.raises(ValueError, match="Expected RGB images"):
        Segmenter(pixelwise).predict(image)


def photo():
    return np.clip(image_of(40, 50), 0, 255)


# What is given for an image in 0..255 -> what the refusal says.
NO_IMAGES = {
    "0..1": (lambda image: image / 255, "255 \\* image where it is in 0..1"),
    "float64 0..1": (lambda image: image.astype(float) / 255, "0 to 1, float64"),
    "float16 0..1": (lambda image: (image / 255).astype("float16"), "normalization"),
    "-1..1": (lambda image: image / 127.5 - 1, "-1 to 1, float32"),
    "torch": (lambda image: (image / 255 - 0.45) / 0.22, "normalization of your own"),
    "caffe": (lambda image: image - 123.7, "-123.7 to 131.3"),
    "16 bits": (lambda image: (257 * np.rint(image)).astype("uint16"), "image >> 8"),
    "16 bits float": (lambda image: 257 * image, "0 to 65535, float32"),
    "NaN": (lambda image: image + np.float32("nan"), "NaN or infinite values"),
    "one NaN": (lambda image: np.where(image == image.max(), np.nan, image), "NaN"),
    "infinite": (lambda image: np.where(image > 99, np.inf, image), "NaN or infinite"),
    "negative": (lambda image: np.rint(image).astype(int) - 1, "-1 to 254, int64"),
    "bool": (lambda image: image > 100, "Received: bool"),
    "complex": (lambda image: image + 1j, "Received: complex"),
    "long": (lambda image: image.astype(np.longdouble), "Received: (float|longdouble)"),
    "text": (lambda image: image.astype(str), "Received: str"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
@pytest.mark.parametrize("window", [None, 32])
def test_values_that_no_image_has_are_refused(name, window):
    change, sentence = NO_IMAGES[name]
    segmenter, image = Segmenter(pixelwise, window=window), change(photo())
    with pytest.raises(ValueError, match=f"Expected RGB in 0..255.*{sentence}"):
        segmenter.predict(image)
    batch = np.stack([np.zeros_like(image), image])  # a black one is no excuse
    for run in (segmenter.predict_batch, segmenter.probabilities):
        with pytest.raises(ValueError, match=sentence):
            run(batch)


def pixelwise_classes(image):
    """What `predict` of `pixelwise` has to give, whatever the type of the image."""
    return pixelwise(tf.cast(image, tf.float32)).numpy().argmax(-1)


@pytest.mark.parametrize(
    "change, received",
    [
        (lambda i: (i / 255).round(), "0 to 1, float32"),
        (lambda i: (i > 99).astype("uint8"), "0 to 1, uint8"),
        (lambda i: i / 2 - 9, "-9 to 118.5, float32"),
    ],
    ids=["whole 0..1", "uint8 0..1", "dark and negative"],
)
def test_values_that_are_likely_no_image_are_warned_of(change, received):
    """Once, with what came; an image it may be, and it has its classes."""
    image = change(photo())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        classes = Segmenter(pixelwise).predict(image)
    (warning,) = told
    assert warning.category is UserWarning
    assert str(warning.message).endswith(f"something else. Received: {received}")
    np.testing.assert_array_equal(classes, pixelwise_classes(image))


@pytest.mark.parametrize(
    "change",
    [
        *(lambda i: i.astype("uint8"), lambda i: i.astype("int64"), lambda i: 0 * i),
        *(lambda i: i, lambda i: image_of(40, 50), lambda i: i.astype("uint16")),
        *(tf.constant, lambda i: tf.cast(i, tf.bfloat16), lambda i: i[..., ::-1]),
    ],
)
def test_values_of_images_pass_in_silence(change):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classes = Segmenter(pixelwise).predict(change(photo()))
    np.testing.assert_array_equal(classes, pixelwise_classes(change(photo())))


@pytest.mark.parametrize("window", [None, 32])
def test_a_pil_image_is_an_image(window):
    image = photo().astype(np.uint8)
    segmenter = Segmenter(pixelwise)
    if window:
        segmenter = segmenter.with_window(window)
    expected = segmenter.predict(image)
    np.testing.assert_array_equal(segmenter.predict(Image.fromarray(image)), expected)


@pytest.mark.parametrize("options", [{}, {"window": 32}, {"flip": True}])
def test_no_images_give_no_classes(options):
    segmenter, images = Segmenter(pixelwise, **options), np.zeros([0, 40, 50, 3])
    assert segmenter.predict_batch(images).shape == (0, 40, 50)
    assert segmenter.probabilities(images).shape == (0, 40, 50, 3)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="32 pixels a side. Received: 40x31"):
        Segmenter(pixelwise).predict(np.zeros((40, 31, 3)))


def test_out_must_fit():
    with pytest.raises(ValueError, match=r"out of shape \(40, 41\)"):
        Segmenter(pixelwise).predict(np.zeros((40, 41, 3)), np.zeros((1, 41), np.uint8))
