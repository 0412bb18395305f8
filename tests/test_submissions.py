"""The layouts of test servers: names, ids, archives, what is refused."""

from __future__ import annotations

import os
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.class_tables import CITYSCAPES, VOC2012, ClassTable
from deeplab_tf.labels import Labels
from deeplab_tf.prediction.input_files import find_inputs
from deeplab_tf.prediction.outputs import Output, predict_files
from deeplab_tf.prediction.submissions import SUBMISSIONS

VOC_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


class Stripes:
    """Stands for a segmenter: column x is of class x mod num_classes."""

    crf = window = None

    def __init__(self, table):
        self.labels = Labels(*table)

    def outgrows_padding(self, size):
        return False

    def predict(self, image):
        columns = np.arange(image.shape[1]) % len(self.labels.class_names)
        return np.tile(columns.astype(np.uint8), (image.shape[0], 1))


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("2008_000006.jpg", "b.png"):
        Image.new("RGB", (40, 33), (9, 99, 199)).save(folder / name)
    return find_inputs(str(folder))


def test_voc_is_palette_pngs_in_the_layout_of_the_devkit(inputs, tmp_path):
    out = tmp_path / "out"
    output = Output(str(out), save=(), submission="voc2012")
    assert predict_files(Stripes(VOC2012), inputs, output) == []
    archive = SUBMISSIONS["voc2012"].write_archive(str(out), inputs)
    assert archive == str(out / "results.tgz")
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [
            f"{VOC_FOLDER}/2008_000006.png",
            f"{VOC_FOLDER}/b.png",
        ]
        picture = Image.open(tar.extractfile(f"{VOC_FOLDER}/b.png"))
        assert picture.mode == "P" and picture.size == (40, 33)
        np.testing.assert_array_equal(np.asarray(picture)[7], np.arange(40) % 21)
        colors = picture.getpalette()[:63]
        assert colors == [value for color in VOC2012.colors for value in color]
    assert sorted(os.listdir(out)) == ["results", "results.tgz", "shares.csv"]


def test_cityscapes_is_label_ids_not_train_ids(inputs, tmp_path):
    out = tmp_path / "out"
    output = Output(str(out), save=(), submission="cityscapes")
    assert predict_files(Stripes(CITYSCAPES), inputs, output) == []
    archive = SUBMISSIONS["cityscapes"].write_archive(str(out), inputs)
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == ["2008_000006.png", "b.png"]
        with packed.open("b.png") as file:
            picture = Image.open(file)
            picture.load()
    assert picture.mode == "L" and picture.size == (40, 33)
    # cityscapesScripts: road, sidewalk, building, ... , motorcycle, bicycle.
    expected = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32]
    row = np.asarray(picture)[0].tolist()
    assert row[:20] == [*expected, 33, 7]


@pytest.mark.parametrize("kind", SUBMISSIONS)
def test_a_model_of_other_classes_is_refused_before_the_work(kind, inputs, tmp_path):
    output = Output(str(tmp_path / "out"), submission=kind)
    model = Stripes(ClassTable(("a", "b"), ((0, 0, 0), (9, 9, 9))))
    count = SUBMISSIONS[kind].num_classes
    with pytest.raises(ValueError, match=f"a model of {count} classes. Received: 2"):
        predict_files(model, inputs, output)
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_name_are_refused(tmp_path):
    paths = [str(tmp_path / name) for name in ("a/x.jpg", "b/x.png", "b/y.png")]
    with pytest.raises(ValueError, match="2 inputs are called x. Give one folder"):
        SUBMISSIONS["voc2012"].check(21, paths)


def test_an_archive_is_whole_or_not_there(inputs, tmp_path):
    out = tmp_path / "out"
    output = Output(str(out), save=(), submission="voc2012")
    predict_files(Stripes(VOC2012), inputs[:1], output)
    with pytest.raises(OSError, match="b.png|results.tgz"):
        SUBMISSIONS["voc2012"].write_archive(str(out), inputs)
    assert sorted(os.listdir(out)) == ["results", "shares.csv"]
