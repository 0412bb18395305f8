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
from deeplab_tf.inference.network import Network
from deeplab_tf.inference.segmenter import PAPER_SCALES, Segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.workdir import load_workdir


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


@pytest.mark.parametrize(
    "change",
    [
        lambda i: (i / 255).round(),
        lambda i: (i > 99).astype("uint8"),
        lambda i: i / 2 - 9,
    ],
    ids=["whole 0..1", "uint8 0..1", "dark and negative"],
)
def test_values_that_are_likely_no_image_are_warned_of(change):
    with pytest.warns(UserWarning, match="may be something else. Received: "):
        Segmenter(pixelwise).predict(change(photo()))


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
    assert classes.shape == (40, 50)


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
