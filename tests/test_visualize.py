"""Colours, overlays, legends and palette PNGs."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.colors import IGNORE_COLOR
from deeplab_tf.pictures import visualize

COLORMAP = ((0, 0, 0), (200, 0, 0), (0, 100, 0), (0, 0, 50))
NAMES = ("background", "cat", "dog", "a rather long class name")


def test_colorize_paints_each_class_and_the_ignored_pixels():
    classes = np.array([[0, 3], [255, 1]])
    expected = [[(0, 0, 0), (0, 0, 50)], [IGNORE_COLOR, (200, 0, 0)]]
    colors = visualize.colorize(classes, COLORMAP)
    assert colors.dtype == np.uint8
    np.testing.assert_array_equal(colors, expected)


def test_an_ignore_label_below_the_number_of_classes_is_still_void():
    colors = visualize.colorize(np.array([[1, 2]]), COLORMAP, ignore_label=2)
    np.testing.assert_array_equal(colors, [[(200, 0, 0), IGNORE_COLOR]])


@pytest.mark.parametrize("bad", [4, -1])
def test_an_id_without_a_colour_is_named(bad):
    with pytest.raises(ValueError, match=rf"\[0, 4\).*Received: {bad}"):
        visualize.colorize(np.array([[0, bad]]), COLORMAP)


def test_overlay_blends_and_shows_the_image_where_ignored():
    image = np.full((1, 3, 3), 100, np.uint8)
    classes = np.array([[1, 2, 255]])
    blended = visualize.overlay(image, classes, COLORMAP, alpha=0.25, outlined=False)
    expected = [[(125, 75, 75), (75, 100, 75), (100, 100, 100)]]
    np.testing.assert_array_equal(blended, expected)


def test_hidden_classes_and_void_show_the_photo_bit_for_bit():
    """And outlines lie on painted pixels where ids change, and nowhere else."""
    generator = np.random.default_rng(0)
    image = generator.integers(
        0, 255, (40, 60, 3), dtype=np.uint8
    )  # white is outlines'
    coarse = generator.choice([0, 1, 2, 3, 255], (8, 12))
    classes = np.kron(coarse, np.ones((5, 5), int)).astype(np.uint8)
    picture = visualize.overlay(image, classes, COLORMAP, 0.4, hidden=[0])
    clear = np.isin(classes, [0, 255])
    np.testing.assert_array_equal(picture[clear], image[clear])
    outline = (picture == 255).all(-1)
    np.testing.assert_array_equal(outline, visualize.outlines(classes, (0, 255)))
    plain = visualize.overlay(image, classes, COLORMAP, 0.4, outlined=False)
    inside = ~clear & ~outline
    np.testing.assert_array_equal(picture[inside], plain[inside])
    # By another way: each pair of neighbours of two ids has one pixel of the two.
    for axis in (0, 1):
        left, right = classes, np.roll(classes, -1, axis)
        pairs = np.stack([outline, np.roll(outline, -1, axis)])
        change = (left != right) & ~(clear & np.roll(clear, -1, axis))
        change[-1 if axis == 0 else slice(None), -1 if axis == 1 else slice(None)] = 0
        assert pairs.any(0)[change].all()
    padded = np.pad(classes.astype(int), 1, mode="edge")
    neighbours = [
        padded[1:-1, 2:],
        padded[1:-1, :-2],
        padded[2:, 1:-1],
        padded[:-2, 1:-1],
    ]
    assert np.any([near != classes for near in neighbours], axis=0)[outline].all()


def test_outlines_by_hand():
    classes = np.array([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [0, 0, 0, 2, 2, 2]])
    everything = [[0, 1, 0, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0]]
    without_0 = [[0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0]]
    without_1 = [[0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0]]
    for clear, expected in (((), everything), ((0,), without_0), ((1,), without_1)):
        found = visualize.outlines(classes, clear)
        np.testing.assert_array_equal(found, np.array(expected, bool), str(clear))


def test_outlines_of_large_images_are_wider():
    classes = np.zeros((4, 3200), np.uint8)
    classes[:, 1600:] = 1
    columns = np.flatnonzero(visualize.outlines(classes)[0])
    np.testing.assert_array_equal(columns, [1597, 1598, 1599])
    columns = np.flatnonzero(visualize.outlines(classes, [0])[0])
    np.testing.assert_array_equal(columns, [1600, 1601, 1602])


def test_without_opacity_there_are_no_outlines():
    image = np.full((2, 4, 3), 9, np.uint8)
    classes = np.array([[0, 0, 1, 1]] * 2)
    np.testing.assert_array_equal(
        visualize.overlay(image, classes, COLORMAP, alpha=0), image
    )


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
    np.testing.assert_array_equal(picture[0, 2:4], [(0, 0, 0), IGNORE_COLOR])
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
    height, width = size
    for hidden, named in ((None, {3}), ((), {0, 3}), ((3,), {0})):
        picture = visualize.overlay_with_legend(
            image, classes, COLORMAP, NAMES, hidden=hidden
        )
        painted = visualize.overlay(
            image, classes, COLORMAP, hidden=[0] if hidden is None else hidden
        )
        np.testing.assert_array_equal(picture[:height, :width], painted)
        strip = picture[height:].reshape(-1, 3)
        shown = {color for color in COLORMAP if (strip == color).all(-1).any()}
        assert shown == {COLORMAP[class_id] for class_id in named}


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


def test_a_picture_of_background_alone_is_the_photo():
    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    picture = visualize.overlay_with_legend(
        image, np.zeros((50, 80), np.uint8), COLORMAP, NAMES
    )
    np.testing.assert_array_equal(picture, image)


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
    hidden = visualize.overlay(image, classes, COLORMAP, 0.3, hidden=[0])
    monkeypatch.setattr(visualize, "_BLOCK", 30)
    monkeypatch.setattr(visualize, "_OUTLINE_SIDE", 20)  # three pixels wide
    thick = visualize.outlines(classes, [0])
    monkeypatch.setattr(visualize, "_BLOCK", 10**6)
    np.testing.assert_array_equal(visualize.outlines(classes, [0]), thick)
    monkeypatch.undo()
    monkeypatch.setattr(visualize, "_BLOCK", 30)
    np.testing.assert_array_equal(
        visualize.overlay(image, classes, COLORMAP, 0.3), whole
    )
    np.testing.assert_array_equal(
        visualize.overlay(image, classes, COLORMAP, 0.3, hidden=[0]), hidden
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
