"""Colours, overlays, legends and palette PNGs."""

from __future__ import annotations

import colorsys
import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from datasets.sources.catalog import DATASETS
from deeplab_tf.labels import (
    ADE20K,
    CAMVID,
    COLORMAPS,
    VISIONS,
    distinct_colormap,
    labels_for,
)
from deeplab_tf.pictures import visualize

COLORMAP = ((0, 0, 0), (200, 0, 0), (0, 100, 0), (0, 0, 50))
NAMES = ("background", "cat", "dog", "a rather long class name")
VOID = visualize.IGNORE_COLOR


def test_colorize_paints_each_class_and_the_ignored_pixels():
    classes = np.array([[0, 3], [255, 1]])
    expected = [[(0, 0, 0), (0, 0, 50)], [VOID, (200, 0, 0)]]
    colors = visualize.colorize(classes, COLORMAP)
    assert colors.dtype == np.uint8
    np.testing.assert_array_equal(colors, expected)


def test_an_ignore_label_below_the_number_of_classes_is_still_void():
    colors = visualize.colorize(np.array([[1, 2]]), COLORMAP, ignore_label=2)
    np.testing.assert_array_equal(colors, [[(200, 0, 0), VOID]])


@pytest.mark.parametrize("bad", [4, -1])
def test_an_id_without_a_colour_is_named(bad):
    with pytest.raises(ValueError, match=rf"\[0, 4\).*Received: {bad}"):
        visualize.colorize(np.array([[0, bad]]), COLORMAP)


def test_overlay_blends_and_shows_the_image_where_ignored():
    image = np.full((1, 3, 3), 100, np.uint8)
    classes = np.array([[1, 2, 255]])
    blended = visualize.overlay(image, classes, COLORMAP, alpha=0.25)
    expected = [[(125, 75, 75), (75, 100, 75), (100, 100, 100)]]
    np.testing.assert_array_equal(blended, expected)


def test_overlay_takes_the_float_images_of_the_pipeline():
    image = np.array([[[300.0, -4.0, 99.6]]], np.float32)
    picture = visualize.overlay(image, np.array([[1]]), COLORMAP, alpha=0)
    np.testing.assert_array_equal(picture, [[(255, 0, 100)]])


def test_overlay_refuses_what_does_not_fit():
    image = np.zeros((2, 3, 3), np.uint8)
    with pytest.raises(ValueError, match=r"same size. Received: \(2, 3, 3\)"):
        visualize.overlay(image, np.zeros((3, 2), int), COLORMAP)
    with pytest.raises(ValueError, match="alpha must be in .* Received: 2"):
        visualize.overlay(image, np.zeros((2, 3), int), COLORMAP, alpha=2)


def test_panel_is_image_label_prediction():
    image = np.full((2, 2, 3), 7.0, np.float32)
    label = np.array([[0, 255], [1, 1]])
    prediction = np.array([[0, 2], [1, 1]])
    picture = visualize.panel(image, label, prediction, COLORMAP)
    assert picture.shape == (2, 6, 3)
    np.testing.assert_array_equal(picture[:, :2], 7)
    np.testing.assert_array_equal(picture[0, 2:4], [(0, 0, 0), VOID])
    np.testing.assert_array_equal(picture[0, 4:], [(0, 0, 0), (0, 100, 0)])


def test_panel_refuses_different_sizes():
    image, classes = np.zeros((2, 2, 3)), np.zeros((2, 2), int)
    with pytest.raises(ValueError, match="same size"):
        visualize.panel(image, classes, np.zeros((2, 3), int), COLORMAP)


@pytest.mark.parametrize("size", [(20, 30), (375, 500), (1200, 2400)])
def test_legend_names_the_classes_present_and_no_others(size):
    classes = np.zeros(size, np.uint8)
    classes[:5], classes[5:9] = 3, 255
    image = np.full((*size, 3), 90, np.uint8)
    picture = visualize.overlay_with_legend(image, classes, COLORMAP, NAMES)
    height, width = size
    np.testing.assert_array_equal(
        picture[:height, :width], visualize.overlay(image, classes, COLORMAP)
    )
    strip = picture[height:].reshape(-1, 3)
    shown = {color for color in COLORMAP if (strip == color).all(-1).any()}
    assert shown == {COLORMAP[0], COLORMAP[3]}


@pytest.mark.parametrize("width", [30, 200, 500, 2400])
def test_legend_is_readable_and_cuts_no_name(width):
    strip = visualize.legend(COLORMAP, NAMES, width)
    used = (strip != 255).any(-1)
    assert not used[:, -1].any() and not used[0].any() and not used[-1].any()
    for color in COLORMAP:  # a square of at least 12 pixels, less its outline
        rows, columns = np.nonzero((strip == color).all(-1))
        assert np.ptp(rows) + 1 >= 10 and np.ptp(columns) + 1 >= 10
    # All names are there: as much ink as when each has a strip of its own.
    alone = [visualize.legend([c], [n], width) for c, n in zip(COLORMAP, NAMES)]
    ink = sum(int((255 - part.astype(int)).sum()) for part in alone)
    assert int((255 - strip.astype(int)).sum()) == ink


def test_legend_grows_with_the_picture():
    rows = [visualize.legend(COLORMAP[:1], NAMES[:1], w).shape[0] for w in (99, 1999)]
    assert rows[1] >= 3 * rows[0]


def test_legend_needs_a_name_for_each_colour():
    image, classes = np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), int)
    with pytest.raises(ValueError, match="Received: 2 names and 4 colours"):
        visualize.overlay_with_legend(image, classes, COLORMAP, NAMES[:2])


def test_palette_png_keeps_ids_and_shows_colours(tmp_path):
    classes = np.array([[0, 1, 2], [3, 255, 1]])
    visualize.save_palette_png(tmp_path / "x.png", classes, COLORMAP)
    picture = Image.open(tmp_path / "x.png")
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), classes)
    np.testing.assert_array_equal(
        np.asarray(picture.convert("RGB")), visualize.colorize(classes, COLORMAP)
    )
    assert os.listdir(tmp_path) == ["x.png"]


def test_palette_png_of_a_bad_id_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="Received: 9"):
        visualize.save_palette_png(tmp_path / "x.png", np.array([[9]]), COLORMAP)
    assert os.listdir(tmp_path) == []


def test_a_large_overlay_is_drawn_smaller():
    image = np.zeros((7, 10, 3), np.uint8)
    image[:3, :3] = np.arange(9).reshape(3, 3, 1) * 10  # mean 40, middle 40
    image[3, 6:9] = 200  # three of nine
    classes = np.zeros((7, 10), np.uint8)
    classes[1, 1], classes[4, 7], classes[0, 0] = 3, 1, 2
    small, small_classes = visualize.shrink(image, classes, 10)
    assert small.dtype == np.uint8 and small.shape == (2, 3, 3)
    np.testing.assert_array_equal(small[..., 1], [[40, 0, 0], [0, 0, 67]])
    np.testing.assert_array_equal(small_classes, [[3, 0, 0], [0, 0, 1]])
    for same, given in zip(visualize.shrink(image, classes, 70), (image, classes)):
        assert same is given


def test_classes_are_counted_in_blocks(monkeypatch):
    monkeypatch.setattr(visualize, "_BLOCK", 20)
    classes = np.random.default_rng(0).integers(0, 256, (33, 7), dtype=np.uint8)
    counts = visualize.class_counts(classes)
    assert counts.shape == (256,)
    expected = [(classes == class_id).sum() for class_id in range(256)]
    np.testing.assert_array_equal(counts, expected)


def test_blocks_do_not_show(monkeypatch):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (50, 9, 3), dtype=np.uint8)
    classes = generator.integers(0, 4, (50, 9), dtype=np.uint8)
    whole = visualize.overlay(image, classes, COLORMAP, 0.3)
    monkeypatch.setattr(visualize, "_BLOCK", 30)
    np.testing.assert_array_equal(
        visualize.overlay(image, classes, COLORMAP, 0.3), whole
    )


def test_pictures_of_large_images_take_little_memory(tmp_path):
    height, width = 3000, 3000
    image = np.full((height, width, 3), 90, np.uint8)
    classes = np.zeros((height, width), np.uint8)
    classes[10:99] = 3

    def peak_of(function, *arguments) -> float:
        tracemalloc.start()
        function(*arguments)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak / image.nbytes

    # The overlay itself is 1; float32 would be 4.
    assert peak_of(visualize.overlay, image, classes, COLORMAP) < 1.5
    assert peak_of(visualize.class_counts, classes) < 0.2
    assert peak_of(visualize.shrink, image, classes, 10**6) < 0.3
    path = tmp_path / "x.png"
    assert peak_of(visualize.save_palette_png, path, classes, COLORMAP) < 0.5
    np.testing.assert_array_equal(Image.open(path), classes)


# ---- Colormaps ---------------------------------------------------------------------


def test_camvid_is_that_of_the_data_set():
    info = DATASETS["camvid"]
    assert dict(zip(info.class_names, info.colormap)) == CAMVID
    assert tuple(CAMVID) == info.class_names


def test_ade20k_is_complete():
    assert len(ADE20K) == 150
    # From objectInfo150 and color150 of the data set's authors: ids 1, 3, 21, 150.
    names, colors = list(ADE20K), list(ADE20K.values())
    assert [names[i] for i in (0, 2, 20, 149)] == ["wall", "sky", "car", "flag"]
    assert colors[2] == (6, 230, 230) and colors[20] == (0, 102, 200)
    assert len(set(colors)) == 149  # road and skyscraper share theirs


@pytest.mark.parametrize("table", COLORMAPS.values(), ids=COLORMAPS)
def test_labels_are_those_of_the_data_set_of_that_many_classes(table):
    assert labels_for(len(table)) == table
    assert np.all(np.isin(list(table.values()), range(256)))


def test_other_numbers_of_classes_get_distinct_colours():
    labels = labels_for(5)
    assert list(labels) == [f"class {index}" for index in range(5)]
    assert tuple(labels.values()) == distinct_colormap(5)


def seen_distances(colors) -> dict[str, float]:
    """Least CIELAB distance between two of the colours, by vision; OpenCV's CIELAB."""
    cv2 = pytest.importorskip("cv2")
    values = np.array(colors) / 255
    linear = np.where(
        values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4
    )
    result = {}
    for name, matrix in VISIONS.items():
        seen = np.clip(linear @ np.transpose(matrix), 0, 1)
        seen = np.where(
            seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055
        )
        lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2Lab)[0]
        distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        distances[np.diag_indices(len(colors))] = np.inf
        result[name] = distances.min()
    return result


@pytest.mark.parametrize("num_classes, least", [(8, 30), (20, 16), (64, 9)])
def test_colours_are_far_apart_for_every_vision(num_classes, least):
    ours = seen_distances(distinct_colormap(num_classes))
    hues = [
        [255 * value for value in colorsys.hsv_to_rgb(index / num_classes, 0.8, 0.9)]
        for index in range(num_classes)
    ]
    evenly_spaced = seen_distances(hues)
    for vision, distance in ours.items():
        assert distance >= least, vision
        assert distance > 1.2 * evenly_spaced[vision], vision


def test_a_colour_blind_eye_keeps_its_greys_and_confuses_what_it_should():
    for name, matrix in VISIONS.items():
        np.testing.assert_allclose(np.sum(matrix, 1), 1, atol=2e-6, err_msg=name)
    # Red and a green of its lightness for deuteranopia; blue and green for tritanopia.
    red_green = seen_distances([(200, 80, 60), (120, 115, 60)])
    assert red_green["deuteranopia"] < red_green["normal"] / 3
    blue_green = seen_distances([(0, 90, 150), (0, 105, 90)])
    assert blue_green["tritanopia"] < blue_green["normal"] / 3


def test_distinct_colours_begin_with_black_and_never_repeat():
    colors = distinct_colormap(256)
    assert colors[0] == (0, 0, 0) and len(set(colors)) == 256
    assert distinct_colormap(9) == colors[:9]
    assert visualize.IGNORE_COLOR not in colors
    for wrong in (0, 257):
        with pytest.raises(ValueError, match=f"1 to 256 classes. Received: {wrong}"):
            distinct_colormap(wrong)
