"""What `Segmenter.predict` takes and gives: paths and PIL images in, pictures out."""

from __future__ import annotations

import io
import pickle
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf import Prediction, Segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.pictures.images import read_image
from deeplab_tf.pictures.visualize import overlay_with_legend, shrink

LABELS = Labels(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))


def brightest_channel(image):
    return image


@pytest.fixture
def segmenter():
    return Segmenter(brightest_channel, labels=LABELS)


@pytest.fixture
def photo():
    """uint8 [40, 50, 3], smooth, so that JPEG changes little of it."""
    rows, columns = np.mgrid[:40, :50]
    return np.stack([6 * rows, 5 * columns, 250 - 5 * rows], -1).astype(np.uint8)


@pytest.mark.parametrize("kind", [str, lambda path: path])
@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "Fotö 1.bmp"])
def test_a_path_is_an_image(name, kind, segmenter, photo, tmp_path):
    path = tmp_path / name
    Image.fromarray(photo).save(path)
    classes = segmenter.predict(kind(path))
    np.testing.assert_array_equal(classes, read_image(path).argmax(-1))


def test_a_path_is_turned_upright(segmenter, photo, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=exif)
    assert segmenter.predict(tmp_path / "a.jpg").shape == (50, 40)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "LA", "I;16"])
def test_a_pil_image_of_any_colours_is_an_image(mode, segmenter, photo, tmp_path):
    picture = Image.fromarray(photo)
    if mode == "I;16":
        picture = Image.fromarray(photo[..., 0].astype(np.uint16) << 8)
    picture = picture.convert(mode) if picture.mode != mode else picture
    picture.save(tmp_path / "a.png")
    expected = read_image(tmp_path / "a.png").argmax(-1)
    np.testing.assert_array_equal(segmenter.predict(picture), expected)


def test_what_is_no_image_is_said_with_its_path(segmenter, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="a.jpg: not a JPEG"):
        segmenter.predict(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match="b.jpg"):
        segmenter.predict(str(tmp_path / "b.jpg"))
    with pytest.raises(ValueError, match="Segmenter.predict, or read it"):
        segmenter.predict_batch("a.jpg")
    with pytest.raises(ValueError, match="without channels"):  # of no 8-bit colour
        segmenter.predict(Image.new("F", (50, 40)))


def test_a_prediction_is_drawn_over_its_image(segmenter, photo):
    prediction = segmenter.predict(photo)
    expected = overlay_with_legend(
        photo, np.asarray(prediction), LABELS.colormap, LABELS.class_names
    )
    np.testing.assert_array_equal(prediction.picture(), expected)
    png = Image.open(io.BytesIO(prediction._repr_png_()))
    np.testing.assert_array_equal(png, expected)


def test_a_large_prediction_is_drawn_smaller(segmenter, photo):
    prediction = segmenter.predict(photo)
    small = shrink(photo, np.asarray(prediction), 500)
    assert small[1].shape == (20, 25)
    expected = overlay_with_legend(*small, LABELS.colormap, LABELS.class_names)
    np.testing.assert_array_equal(prediction.picture(max_pixels=500), expected)


def test_classes_without_names_are_numbered(photo):
    picture = Segmenter(brightest_channel).predict(photo).picture()
    assert picture.size[0] >= 50 and picture.size[1] > 40


def test_a_prediction_computes_as_an_array_does(segmenter, photo, tmp_path):
    prediction, plain = segmenter.predict(photo), photo.argmax(-1).astype(np.uint8)
    assert isinstance(prediction, np.ndarray) and prediction.dtype == np.uint8
    assert type(prediction == 1) is np.ndarray and type(prediction + 1) is np.ndarray
    assert prediction.max() == 2 and np.ndim(prediction.mean()) == 0
    assert isinstance(prediction.max(), np.uint8)
    np.testing.assert_array_equal(
        np.bincount(prediction.ravel()), np.bincount(plain.ravel())
    )
    np.testing.assert_array_equal(tf.one_hot(prediction, 3), tf.one_hot(plain, 3))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(prediction)), plain)
    np.save(tmp_path / "a.npy", prediction)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), plain)
    np.testing.assert_array_equal(Image.fromarray(prediction), plain)


def test_a_part_knows_no_image(segmenter, photo):
    part = segmenter.predict(photo)[10:20]
    assert part._repr_png_() is None
    with pytest.raises(ValueError, match="a part or a copy.*whole prediction"):
        part.show()


def test_what_is_written_to_stays_what_it_was(segmenter, photo):
    out = np.empty((40, 50), np.uint8)
    assert segmenter.predict(photo, out) is out


def test_show_asks_the_notebook_or_opens_a_window(segmenter, photo, monkeypatch):
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append("window"))
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    prediction = segmenter.predict(photo)
    prediction.show()
    for kernel in (None, object()):
        shell = types.SimpleNamespace(kernel=kernel)
        notebook = types.ModuleType("IPython")
        notebook.get_ipython = lambda shell=shell: shell
        notebook.display = types.ModuleType("IPython.display")
        notebook.display.display = lambda picture: shown.append(picture.size)
        monkeypatch.setitem(sys.modules, "IPython", notebook)
        monkeypatch.setitem(sys.modules, "IPython.display", notebook.display)
        prediction.show()
    assert shown == ["window", "window", prediction.picture().size]


def test_the_class_is_public():
    assert Prediction.of(np.zeros((2, 2), np.uint8), None, None).picture
