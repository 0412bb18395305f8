"""Files that commit 4b252d4 wrote, the last before the rooms: they load as they did.

`old_files/before_the_rooms.zip` holds a workdir, a compiled .keras file, a SavedModel
and a .tflite file of one small network of seeded weights, an image, and what that
commit's code answered on it.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow import keras

import deeplab_tf
from deeplab_tf import MeanIoU, SegmentationLoss, Segmenter
from deeplab_tf.inference import saved_models

ARCHIVE = Path(__file__).parent / "old_files" / "before_the_rooms.zip"
NEWER = tuple(map(int, tf.__version__.split(".")[:2])) >= (2, 21)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def image(old):
    return np.asarray(Image.open(old / "image.png"))


@pytest.fixture(scope="module")
def classes(old):
    return np.asarray(Image.open(old / "classes.png"))


def assert_answers_as_before(model, image, old):
    expected = np.load(old / "logits.npy")
    logits = np.asarray(model(image[None].astype("float32"), training=False))[0]
    np.testing.assert_allclose(logits[::8, ::8], expected, rtol=1e-4, atol=1e-4)


def test_workdir(old, image, classes):
    model, config = deeplab_tf.load_workdir(old / "workdir")
    assert config.class_names[1:3] == ("disc", "triangle")
    assert_answers_as_before(model, image, old)
    segmenter = Segmenter.from_workdir(old / "workdir")
    np.testing.assert_array_equal(segmenter.predict(image), classes)


@pytest.mark.skipif(not hasattr(keras, "ops"), reason="a .keras file of Keras 3")
def test_keras_file_with_loss_metric_and_schedule(old, image):
    model = keras.models.load_model(old / "model.keras")
    assert_answers_as_before(model, image, old)
    assert isinstance(model.loss, SegmentationLoss)
    rate = model.optimizer.learning_rate
    assert float(rate) == pytest.approx(0.007)
    label = np.zeros([1, *image.shape[:2]], "int32")
    scores = model.evaluate(image[None].astype("float32"), label, return_dict=True)
    metric = MeanIoU(7)
    metric.update_state(label, model(image[None].astype("float32")))
    assert scores["mean_iou"] == pytest.approx(float(metric.result()), abs=1e-6)


@pytest.mark.skipif(not NEWER, reason="a SavedModel of a newer TensorFlow")
def test_saved_model(old, image, classes):
    segmenter = Segmenter.from_saved_model(old / "exported")
    np.testing.assert_array_equal(segmenter.predict(image), classes)
    assert segmenter.labels.class_names[1:3] == ("disc", "triangle")


@pytest.mark.skipif(not NEWER, reason="a SavedModel of a newer TensorFlow")
@pytest.mark.parametrize("onednn", [True, False])
def test_saved_model_of_grouped_convolutions(onednn, old, monkeypatch, caplog):
    """TensorFlow without oneDNN cannot run them once they are fused with a bias."""
    options = []
    monkeypatch.setattr(saved_models, "has_native_gradient", lambda: onednn)
    monkeypatch.setattr(tf.config.optimizer, "set_experimental_options", options.append)
    Segmenter.from_saved_model(old / "exported")
    assert options == ([] if onednn else [{"remapping": False}])
    assert ("runs slowly. Export it again" in caplog.text) != onednn


def test_tflite_file(old, image, classes):
    segmenter = Segmenter.from_runtime_file(old / "deeplab_v3_float32.tflite")
    np.testing.assert_array_equal(segmenter.predict(image), classes)
    assert segmenter.labels.class_names[1:3] == ("disc", "triangle")


def test_an_old_export_is_not_padded_with_a_guess(old):
    """It does not tell which colour its network's normalization makes zero."""
    with pytest.raises(ValueError, match="export of an older version, export it again"):
        Segmenter.from_runtime_file(old / "deeplab_v3_float32.tflite", pad_to=65)
