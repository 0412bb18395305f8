"""Dense CRF: against sums over all pairs of pixels, and against pydensecrf."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.data.records.tfrecord import encode_example, shard_name
from deeplab_tf.inference import crf
from deeplab_tf.inference.crf import CRFParameters, Lattice, dense_crf, mean_field
from deeplab_tf.inference.segmenter import Segmenter, load_segmenter
from deeplab_tf.pictures.images import read_image
from tests.support import run_script

pytestmark = pytest.mark.one_lane

ROOT = Path(__file__).resolve().parent.parent


class ExactKernel:
    """D^-1/2 K D^-1/2 as a dense matrix, in float64: what a Lattice approximates."""

    def __init__(self, features):
        features = features.astype(np.float64)
        squares = np.square(features[:, :, None] - features[:, None]).sum(0)
        kernel = np.exp(-squares / 2)
        scale = 1 / np.sqrt(kernel.sum(1))
        self.matrix = scale[:, None] * kernel * scale

    def filter(self, values):
        return (self.matrix @ values).astype(np.float32)


def brute_force(image, probabilities, parameters):
    """Mean field over all pairs of pixels, the self included, written plainly."""
    appearance = crf.appearance_features(
        image, parameters.sigma_alpha, parameters.sigma_beta
    )
    smoothness = crf.smoothness_features(image.shape[:2], parameters.sigma_gamma)
    kernel = parameters.appearance_weight * ExactKernel(appearance).matrix
    kernel += parameters.smoothness_weight * ExactKernel(smoothness).matrix
    start = probabilities.reshape(len(kernel), -1).astype(np.float64)
    marginals = start
    for _ in range(parameters.iterations):
        unnormalized = start * np.exp(kernel @ marginals)
        marginals = unnormalized / unnormalized.sum(1, keepdims=True)
    return marginals.reshape(probabilities.shape)


def drawn(seed, height=20, width=24, num_classes=3):
    """An image of two noisy halves, and probabilities with the border 4 pixels off."""
    generator = np.random.default_rng(seed)
    image = np.where(np.arange(width) < 10, 60, 150)[None, :, None]
    image = image + generator.normal(0, 10, [height, width, 3])
    probabilities = generator.dirichlet(np.ones(num_classes), [height, width])
    right = np.arange(width) >= 14
    probabilities[..., 0] += ~right
    probabilities[..., 1] += right
    probabilities /= probabilities.sum(-1, keepdims=True)
    return image.clip(0, 255).astype(np.uint8), probabilities.astype(np.float32)


def test_mean_field_equals_sums_over_all_pairs():
    image, probabilities = drawn(0)
    parameters = CRFParameters(3, 60, 20, 3, 3, iterations=4)
    kernels = [
        (3, ExactKernel(crf.appearance_features(image, 60, 20))),
        (3, ExactKernel(crf.smoothness_features(image.shape[:2], 3))),
    ]
    expected = brute_force(image, probabilities, parameters)
    assert np.abs(expected - probabilities).mean() > 0.1, "should change a lot"
    actual = mean_field(probabilities, kernels, 4)
    np.testing.assert_allclose(actual, expected, atol=2e-4)


@pytest.mark.parametrize("seed", range(3))
def test_dense_crf_is_near_sums_over_all_pairs(seed):
    # The lattice is an approximation: pydensecrf is off by the same. Larger weights
    # magnify it from one iteration to the next.
    image, probabilities = drawn(seed)
    parameters = CRFParameters(2, 8, 20, 2, 3)
    expected = brute_force(image, probabilities, parameters)
    difference = np.abs(dense_crf(image, probabilities, parameters) - expected)
    assert np.abs(expected - probabilities).mean() > 0.1
    assert difference.mean() < 0.004 and difference.max() < 0.07


@pytest.mark.parametrize("sigma", [3, 8])
def test_lattice_is_near_the_gaussian_filter(sigma):
    # Blurs are binomial, points off the lattice are interpolated: a tenth of the mass
    # of an impulse is displaced, noise is averaged to within one per cent.
    features = crf.smoothness_features((40, 50), sigma)
    values = np.random.default_rng(0).uniform(size=[2000, 2]).astype(np.float32)
    values[:, 1] = np.arange(2000) == 1025
    expected = ExactKernel(features).filter(values)
    difference = np.abs(Lattice(features).filter(values) - expected)
    noise, impulse = difference.mean(0) / expected.mean(0)
    assert noise < 0.01 and impulse < 0.103


def test_lattice_of_one_point_and_of_points_far_apart_keeps_the_values():
    values = np.array([[1.0, 2.0], [3.0, 5.0], [7.0, 0.0]], np.float32)
    apart = np.array([[0, 100, 0], [0, 0, 100], [3, 3, 3]], np.float32)
    np.testing.assert_allclose(Lattice(apart).filter(values), values, rtol=1e-5)
    np.testing.assert_allclose(
        Lattice(apart[:, :1]).filter(values[:1]), values[:1], rtol=1e-5
    )


def test_noise_is_cleaned_along_the_edge_of_the_image():
    height, width, edge = 40, 48, 24
    image = np.full([height, width, 3], (30, 90, 60), np.uint8)
    image[:, edge:] = (160, 70, 40)
    # The network puts the border 4 pixels too far left, and errs in 1 pixel of 5.
    generator = np.random.default_rng(0)
    guess = np.arange(width) >= edge - 4
    guess = guess ^ (generator.uniform(size=[height, width]) < 0.2)
    probabilities = np.stack([0.7 - 0.4 * guess, 0.3 + 0.4 * guess], -1)
    truth = np.broadcast_to(np.arange(width) >= edge, guess.shape)
    assert (guess == truth).mean() < 0.8
    np.testing.assert_array_equal(dense_crf(image, probabilities).argmax(-1), truth)
    # Without colours the border stays where the network saw it.
    blind = dense_crf(image, probabilities, CRFParameters(appearance_weight=0))
    assert (blind.argmax(-1) == truth)[:, edge - 3 : edge].mean() < 0.1


@pytest.mark.parametrize("num_classes", [2, 30])
def test_rows_sum_to_one_and_classes_may_be_permuted(num_classes):
    image, probabilities = drawn(1, num_classes=num_classes)
    probabilities[..., 0] *= 1e-4  # a class that gets no messages
    marginals = dense_crf(image, probabilities)
    assert marginals.dtype == np.float32 and marginals.min() >= 0
    np.testing.assert_allclose(marginals.sum(-1), 1, atol=1e-5)
    order = np.random.default_rng(2).permutation(num_classes)
    permuted = dense_crf(image, probabilities[..., order])
    np.testing.assert_allclose(permuted, marginals[..., order], atol=1e-3)


def test_classes_that_are_nowhere_likely_hardly_matter(monkeypatch):
    image, probabilities = drawn(2, num_classes=20)
    probabilities[..., 2] = 0.1
    probabilities[..., 3:] = 8e-4
    quick = dense_crf(image, probabilities)
    monkeypatch.setattr(crf, "_PRESENT", 0)
    exact = dense_crf(image, probabilities)
    np.testing.assert_allclose(quick, exact, atol=1e-4)
    assert 5e-5 < quick[..., 3:].max() < 1e-3


def test_no_kernel_or_no_iteration_leaves_the_probabilities():
    image, probabilities = drawn(3)
    for parameters in (CRFParameters(0, 1, 1, 0, 1), CRFParameters(iterations=0)):
        marginals = dense_crf(image, 0.5 * probabilities, parameters)
        np.testing.assert_allclose(marginals, probabilities, atol=1e-4)


def test_certainty_zeros_and_large_weights_stay_finite():
    image, _ = drawn(4)
    certain = np.zeros([20, 24, 3])
    certain[..., 1] = 1
    certain[5] = 0  # knows nothing
    for parameters in (CRFParameters(), CRFParameters(appearance_weight=500)):
        marginals = dense_crf(image, certain, parameters)
        np.testing.assert_allclose(marginals.sum(-1), 1, atol=1e-5)
        assert (marginals.argmax(-1) == 1).all()


def test_bad_input_says_what_was_expected():
    image, probabilities = drawn(0)
    for bad in (image / 255.0, image[..., 0], image[..., :2], image[:0]):
        with pytest.raises(ValueError, match="an RGB image uint8.*Received: "):
            dense_crf(bad, probabilities)
    integers = np.ones([20, 24, 3], np.uint8)
    for bad in (probabilities[:5], probabilities[..., :1], probabilities[0], integers):
        with pytest.raises(ValueError, match=r"floats \[20, 24, 'num_classes'\]"):
            dense_crf(image, bad)
    for bad in (probabilities - 0.5, probabilities * 2, probabilities * np.nan):
        with pytest.raises(ValueError, match=r"in \[0, 1\].*Received: "):
            dense_crf(image, bad)
    far_apart = np.random.default_rng(0).uniform(0, 1e5, [5, 9]).astype(np.float32)
    with pytest.raises(ValueError, match="sigmas are too small"):
        Lattice(far_apart)


def test_bad_parameters_say_what_was_expected():
    for name, value in (("sigma_beta", 0), ("iterations", -1), ("sigma_alpha", np.nan)):
        with pytest.raises(ValueError, match=f"Expected {name}.*Received: {value}"):
            CRFParameters(**{name: value})
    with pytest.raises(ValueError, match="iterations as a whole number.*: 2.5"):
        CRFParameters(iterations=2.5)
    assert crf.parse_crf(False, None) is None
    assert crf.parse_crf(True, None) == CRFParameters(4, 67, 3, 3, 3, 10)
    assert crf.parse_crf(True, ["3", "50", "4.5"]) == CRFParameters(3, 50, 4.5)
    named = ["3", "50", "4.5", "w2=2", "sigma_gamma=1", "iterations=5"]
    assert crf.parse_crf(True, named) == CRFParameters(3, 50, 4.5, 2, 1, 5)
    assert crf.parse_crf(True, ["sigma_gamma=1"]) == CRFParameters(sigma_gamma=1)
    fields = ["smoothness_weight=2", "w1=3"]
    assert crf.parse_crf(True, fields) == CRFParameters(3, smoothness_weight=2)
    for values in (
        *(["3"], ["a", "b", "c"], ["1", "2", "3", "4"], ["w3=1"], ["w1="], ["=1"]),
        *(["1", "2", "3", "w1=4"], ["w2=1", "smoothness_weight=1"], ["w2=a"]),
    ):
        with pytest.raises(ValueError, match="w1,sigma_alpha,sigma_beta"):
            crf.parse_crf(True, values)
    with pytest.raises(ValueError, match="needs --crf"):
        crf.parse_crf(False, ["3", "50", "4.5"])


# --- The reference implementation, and real images -----------------------------------


def pydensecrf_marginals(image, probabilities, parameters):
    densecrf = pytest.importorskip(
        "pydensecrf.densecrf",
        reason="needs pydensecrf2 (pip install '.[pydensecrf]', Python 3.11 or older)",
    )
    height, width, num_classes = probabilities.shape
    reference = densecrf.DenseCRF2D(width, height, num_classes)
    energy = -np.log(np.maximum(probabilities, 1e-5)).transpose(2, 0, 1)
    reference.setUnaryEnergy(np.ascontiguousarray(energy.reshape(num_classes, -1)))
    reference.addPairwiseGaussian(
        sxy=parameters.sigma_gamma, compat=parameters.smoothness_weight
    )
    reference.addPairwiseBilateral(
        sxy=parameters.sigma_alpha,
        srgb=parameters.sigma_beta,
        rgbim=np.array(image),  # writable, which pydensecrf insists on
        compat=parameters.appearance_weight,
    )
    marginals = np.array(reference.inference(parameters.iterations))
    return marginals.reshape(num_classes, height, width).transpose(1, 2, 0)


def assert_agreement(image, probabilities, parameters):
    expected = pydensecrf_marginals(image, probabilities, parameters)
    actual = dense_crf(image, probabilities, parameters)
    assert np.abs(actual - expected).mean() < 1e-4
    assert (actual.argmax(-1) == expected.argmax(-1)).mean() > 0.999


@pytest.mark.parametrize("sigmas", [(8, 20, 3), (67, 3, 3), (30, 6, 1)])
def test_agrees_with_pydensecrf_on_drawn_images(sigmas):
    sigma_alpha, sigma_beta, sigma_gamma = sigmas
    parameters = CRFParameters(4, sigma_alpha, sigma_beta, 3, sigma_gamma)
    assert_agreement(*drawn(5, num_classes=5), parameters)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter")
@pytest.mark.parametrize("name", ["2007_001774", "2010_001256"])
def test_agrees_with_pydensecrf_on_real_images(shared_data, name):
    path = shared_data / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg"
    image = np.asarray(Image.open(path).convert("RGB"))
    probabilities = tflite_probabilities(
        shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite", image
    )
    assert_agreement(image, probabilities, CRFParameters())


def tflite_probabilities(path, image):
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    small = tf.image.resize(image[None].astype(np.float32), (257, 257))
    interpreter.set_tensor(
        interpreter.get_input_details()[0]["index"], small.numpy() / 127.5 - 1
    )
    interpreter.invoke()
    logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return tf.image.resize(tf.nn.softmax(logits), image.shape[:2])[0].numpy()


# --- evaluate.py and predict.py ------------------------------------------------------


def refined_classes(workdir, image, parameters):
    probabilities = Segmenter.from_workdir(workdir).probabilities(image[None])[0]
    return dense_crf(image, probabilities, parameters).argmax(-1)


def read_rgb(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_evaluate_with_the_crf_counts_its_classes_and_says_so(
    workdir, photos, tmp_path
):
    path = photos / "drawn.png"
    image = read_rgb(path)
    label = np.full(image.shape[:2], 2, np.uint8)
    record = encode_example(path.read_bytes(), label, "drawn", "png", *label.shape)
    with tf.io.TFRecordWriter(str(tmp_path / shard_name("val", 0, 1))) as writer:
        writer.write(record)
    info = DatasetInfo("drawn", ("background", "cat", "dog", "horse"))
    (tmp_path / "info.json").write_text(info.to_json())
    shutil.copytree(workdir, tmp_path / "run")
    flags = [f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path}", "--split=val"]
    flags += ["--crf", "--crf_parameters=3,20,6,w2=2,sigma_gamma=1,iterations=3"]
    command = run_script.command("evaluate.py", *flags)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "evaluation" / "val.json").read_text())
    parameters = CRFParameters(3, 20, 6, 2, 1, 3)
    assert CRFParameters(**summary["crf"]) == parameters
    classes = refined_classes(workdir, image, parameters)
    counts = np.bincount(classes.ravel(), minlength=4)
    np.testing.assert_array_equal(summary["confusion_matrix"][2], counts)
    plain = Segmenter.from_workdir(workdir).predict(image)
    assert (plain != classes).any(), "the CRF should change something"


def test_predict_with_the_crf_from_a_run_and_from_an_export(workdir, exported, photos):
    parameters = CRFParameters(3, 20, 6)
    path = photos / "drawn.png"
    expected = refined_classes(workdir, read_rgb(path), parameters)
    for source in ((str(workdir), None), (None, str(exported))):
        segmenter = load_segmenter(*source, crf=parameters)
        classes = segmenter.predict(read_image(path))
        assert classes.dtype == np.uint8
        assert (classes == expected).mean() > 0.99
