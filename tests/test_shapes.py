"""The drawn scenes: outlines, labels in place, no short cut, a pure function."""

import io

import numpy as np
import pytest
from absl import flags
from PIL import Image

from datasets import build_shapes
from datasets.sources import shapes
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.reading.pipeline import make_eval_dataset
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.data.records.info import read_info
from tests.support.commands import call

CLASS_NAMES = shapes.CLASS_NAMES


@pytest.fixture(scope="module")
def scenes():
    return [shapes.draw_scene(0, "train", index) for index in range(60)]


def shoelace(polygon):
    """Area of a polygon, by the shoelace formula."""
    x, y = polygon.T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


@pytest.mark.parametrize("name", CLASS_NAMES[1:])
def test_coverage_has_the_area_and_place_of_the_outline(name):
    rng = np.random.default_rng(0)
    center = np.array([60.3, 47.6])  # x, y
    polygons = shapes.pose(shapes.outline(name, rng), 30, center, rng)
    alpha = shapes.coverage(polygons, 100, 120)
    area = shoelace(polygons[0]) - sum(shoelace(hole) for hole in polygons[1:])
    assert alpha.sum() == pytest.approx(area, rel=0.04)
    if name != "triangle":  # The others are symmetric around their centre.
        rows, columns = np.indices(alpha.shape) + 0.5
        place = [(alpha * columns).sum(), (alpha * rows).sum()] / alpha.sum()
        np.testing.assert_allclose(place, center, atol=0.2)


def test_label_by_hand():
    """An object on the left and one on the right; outlines are two pixels wide."""
    first, second = np.zeros((2, 6, 8), np.float32)
    first[0:4, 0:4] = 1.0
    second[3:6, 6:8] = 0.5
    label = shapes.label_of([(3, first), (5, second)])
    v = 255
    expected = [
        [3, 3, 3, v, v, 0, 0, 0],
        [3, 3, 3, v, v, 0, 0, 0],
        [3, 3, 3, v, v, 0, v, v],
        [v, v, v, v, v, v, v, v],
        [v, v, v, v, 0, v, v, 5],
        [0, 0, 0, 0, 0, v, v, 5],
    ]
    np.testing.assert_array_equal(label, expected)


def test_image_and_label_lie_on_one_another(scenes):
    """The image changes most along the outlines, less wherever they are shifted to."""
    change = {shift: 0.0 for shift in (-4, -2, 0, 2, 4)}
    for image, label in scenes:
        slope = sum(
            abs(np.roll(image.astype(float), 1, axis) - image) for axis in (0, 1)
        )
        slope = slope.mean(-1)[8:-8, 8:-8]
        for shift in change:
            outline = np.roll(label == 255, (shift, shift), (0, 1))[8:-8, 8:-8]
            change[shift] += slope[outline].mean()
    assert max(change, key=change.get) == 0
    assert change[0] > 1.15 * max(change[-2], change[2])


def test_labels_hold_classes_and_void_only(scenes):
    counts = sum(np.bincount(label.ravel(), minlength=256) for _, label in scenes)
    share = counts / counts.sum()
    assert set(np.flatnonzero(counts)) == {*range(len(CLASS_NAMES)), 255}
    assert 0.5 < share[0] < 0.85
    assert (share[1 : len(CLASS_NAMES)] > 0.008).all()


def test_sizes_vary_and_image_and_label_agree(scenes):
    assert all(image.shape == (*label.shape, 3) for image, label in scenes)
    assert all(side in shapes.SIDES for _, label in scenes for side in label.shape)
    assert len({label.shape for _, label in scenes}) > 8


def test_colour_does_not_tell_the_class(scenes):
    """The mean colours of the classes are as near as chance puts them.

    A class has about 40 objects here, whose colours have a standard deviation of about
    60: means within 40 of the mean of all objects. A colour of its own would be far.
    """
    pixels = [[] for _ in CLASS_NAMES]
    for image, label in scenes:
        for class_id in range(1, len(CLASS_NAMES)):
            if (label == class_id).sum() > 20:
                pixels[class_id].append(image[label == class_id].mean(0))
    means = np.array([np.mean(colors, 0) for colors in pixels[1:]])
    assert np.abs(means - means.mean(0)).max() < 40


def test_every_object_stays_recognisable():
    rng = np.random.default_rng(0)
    for _ in range(20):
        objects = shapes.place_objects(160, 144, rng)
        masks = [alpha >= 0.5 for _, alpha in objects]
        for index, mask in enumerate(masks):
            hidden = np.any(masks[index + 1 :], axis=0) & mask
            assert 1 - hidden.sum() / mask.sum() >= shapes.MIN_VISIBLE


def test_a_scene_is_a_function_of_seed_split_and_index():
    scene = shapes.draw_scene(1, "val", 5)
    again = shapes.draw_scene(1, "val", 5)
    np.testing.assert_array_equal(scene[0], again[0])
    np.testing.assert_array_equal(scene[1], again[1])
    for other in ((2, "val", 5), (1, "train", 5), (1, "val", 6)):
        assert not np.array_equal(shapes.draw_scene(*other)[0], scene[0])


def test_records_hold_the_scenes(tmp_path):
    info = build_shapes.build(
        tmp_path / "shapes", num_train=3, num_val=2, seed=7, num_processes=1
    )
    assert info == read_info(tmp_path / "shapes")
    assert info.splits == {"train": 3, "val": 2} and info.num_classes == 7
    counts = np.zeros(256, np.int64)
    records = make_eval_dataset(
        select_records(tmp_path / "shapes", "val"), with_filename=True
    )
    for index, (image, label, name) in enumerate(records):
        drawn, expected = shapes.draw_scene(7, "val", index)
        assert name[0] == f"val_{index:05d}".encode()
        np.testing.assert_array_equal(label[0], expected)
        change = np.abs(image[0].numpy().astype(float) - drawn)
        assert change.mean() < 6  # What JPEG loses of the noise; not halved colour.
        counts += np.bincount(expected.ravel(), minlength=256)
    assert info.pixel_counts["val"] == counts[:7].tolist()


def test_images_are_jpeg():
    sample = build_shapes.list_samples("train", 1)[0]
    image_bytes, _ = build_shapes.read_sample(sample, seed=0)
    assert Image.open(io.BytesIO(image_bytes)).format == "JPEG"


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="Received: -1"):
        build_shapes.build(tmp_path / "shapes", seed=-1)


def test_the_command_documents_its_flags():
    """And importing the module, as train.py does, defines none of them."""
    shown = call(build_shapes, "--help").stdout
    for flag in ("output_dir", "num_train", "num_val", "seed", "overwrite"):
        assert f"--{flag}" in shown or f"--[no]{flag}" in shown
    assert "num_train" not in flags.FLAGS
