"""Colours of anyone's folder: the masks' palettes, published ones, distinct ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import build_folder, build_shapes, unpack
from deeplab_tf.class_tables import CAMVID, VOC2012
from deeplab_tf.colors import distinct_colormap
from deeplab_tf.data.folders import class_map, mask_palettes
from deeplab_tf.data.folders.folder_splits import list_splits
from deeplab_tf.data.folders.label_rules import LabelRules
from deeplab_tf.data.records.info import DatasetInfo, read_info
from tests.support.pairs import save_image, save_label

IDS = [[0, 1, 2, 3, 255, 0]] * 4
RED, GREEN, BLUE, SAND = (200, 0, 0), (0, 150, 0), (0, 0, 250), (240, 220, 90)
COLORS = (RED, GREEN, BLUE, SAND)


def save_pair(folder: Path, name: str, palette=COLORS, ids=IDS, suffix="png", **more):
    """Draws an image and its mask, which is grey without a palette."""
    save_image(folder / "images" / f"{name}.png")
    path = folder / "labels" / f"{name}.{suffix}"
    if not palette:
        return save_label(path, ids, palette=False)
    path.parent.mkdir(exist_ok=True)
    mask = Image.fromarray(np.array(ids, np.uint8))
    mask.putpalette(np.array(palette, np.uint8).tobytes())
    mask.save(path, **more)
    return path


def padded(*colors, rest=(9, 9, 9)):
    """A palette of 256 entries."""
    return [*colors, *[rest] * (256 - len(colors))]


def build(folder: Path, rules: LabelRules | None = None, **options) -> DatasetInfo:
    splits = list_splits(folder / "images", folder / "labels", val_fraction=0)
    out = folder / "out"
    info = build_folder.build_splits(splits, out, rules, num_processes=1, **options)
    assert read_info(out).colormap == info.colormap
    return info


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# --- Palettes that are kept ----------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_classes_have_the_colors_of_the_palette(tmp_path, suffix):
    save_pair(tmp_path, "a", padded(*COLORS), suffix=suffix)
    save_pair(tmp_path, "b", padded(*COLORS), suffix=suffix)
    assert build(tmp_path).colormap == COLORS


@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255, 30])])
def test_transparent_entries_keep_their_color(tmp_path, transparency):
    path = save_pair(tmp_path, "a", padded(*COLORS), transparency=transparency)
    with Image.open(path) as mask:
        assert mask.info["transparency"] == transparency
    assert build(tmp_path).colormap == COLORS


def test_entries_that_are_no_class_may_differ(tmp_path):
    save_pair(tmp_path, "a", padded(*COLORS, rest=(1, 2, 3)))
    save_pair(tmp_path, "b", padded(*COLORS, rest=RED))
    assert build(tmp_path).colormap == COLORS


def test_grey_masks_among_others_say_nothing(tmp_path):
    save_pair(tmp_path, "a", None)
    save_pair(tmp_path, "b", padded(*COLORS))
    save_pair(tmp_path, "c", None)
    assert build(tmp_path).colormap == COLORS


def test_palettes_cut_to_the_classes_of_their_mask_add_up(tmp_path):
    two = save_pair(tmp_path, "a", COLORS[:2], [[0, 1, 1, 0, 0, 0]] * 4)
    with Image.open(two) as mask:
        assert len(mask.getpalette()) == 6
    save_pair(tmp_path, "b", COLORS, [[0, 1, 2, 3, 3, 0]] * 4)
    assert build(tmp_path).colormap == COLORS


def test_a_damaged_mask_says_nothing(tmp_path):
    save_pair(tmp_path, "a", padded(*COLORS))
    damaged = save_pair(tmp_path, "b", padded(*COLORS[::-1]))
    damaged.write_bytes(damaged.read_bytes()[:60])
    assert build(tmp_path, skip_bad=True).colormap == COLORS


def test_unpacked_records_come_back_with_their_colors(tmp_path):
    info = build_shapes.build(tmp_path / "shapes", num_train=2, num_val=1)
    unpack.unpack(tmp_path / "shapes", "train", tmp_path)
    rules = LabelRules(num_classes=info.num_classes)
    assert build(tmp_path, rules).colormap == info.colormap


def test_real_masks_of_voc_bring_its_colors(shared_data):
    folder = shared_data / "VOCdevkit/VOC2012/SegmentationClass"
    paths = [str(path) for path in sorted(folder.glob("*.png"))[:20]]
    classes = class_map.classes_of_ids(VOC2012.names, (), (255,))
    assert mask_palettes.class_colors(classes, paths) == VOC2012.colors


# --- Palettes that are not made for the classes --------------------------------------


@pytest.mark.parametrize(
    "palette",
    [
        padded(RED, GREEN, BLUE, RED),  # one colour twice
        [(value, value, value) for value in range(256)],
        [(0, 0, 0), (255, 255, 255), (128, 128, 128), (64, 64, 64)],
    ],
)
def test_palettes_that_do_not_tell_classes_apart_are_not_kept(tmp_path, palette):
    save_pair(tmp_path, "a", palette)
    assert build(tmp_path).colormap == distinct_colormap(4)


def test_one_color_among_greys_is_a_palette(tmp_path):
    palette = ((0, 0, 0), (80, 80, 80), (255, 255, 255), RED)
    save_pair(tmp_path, "a", padded(*palette))
    assert build(tmp_path).colormap == palette


def test_palettes_that_disagree_are_not_kept(tmp_path):
    save_pair(tmp_path, "a", padded(*COLORS))
    save_pair(tmp_path, "b", padded(RED, GREEN, SAND, BLUE))
    assert build(tmp_path).colormap == distinct_colormap(4)


def test_a_class_without_an_entry_leaves_all_without(tmp_path):
    save_pair(tmp_path, "a", COLORS, [[0, 1, 2, 3, 3, 0]] * 4)
    assert build(tmp_path, LabelRules(num_classes=5)).colormap == distinct_colormap(5)


def test_grey_masks_get_distinct_colors(tmp_path):
    save_pair(tmp_path, "a", None)
    assert build(tmp_path).colormap == distinct_colormap(4)


# --- Colours follow the classes ------------------------------------------------------


def test_colors_follow_stored_ids(tmp_path):
    save_pair(tmp_path, "a", padded(*COLORS))
    rules = LabelRules(label_ids=(3, 1), ignore_label=(0, 2))
    assert build(tmp_path, rules).colormap == (SAND, GREEN)


def test_an_ignored_class_keeps_its_entry(tmp_path):
    save_pair(tmp_path, "a", padded(*COLORS))
    info = build(tmp_path, LabelRules(ignore_label=(0, 2)))
    assert info.pixel_counts["train"] == [0, 4, 0, 4]
    assert info.colormap == COLORS


def test_merged_classes_have_the_color_of_the_lowest_id(tmp_path):
    save_pair(tmp_path, "a", padded(*COLORS))
    path = write(tmp_path / "map.csv", "3, thing\n1, thing\n0, ground\n*, ignore\n")
    info = build(tmp_path, LabelRules(class_map=path))
    assert info.class_names == ("thing", "ground")
    assert info.colormap == (GREEN, RED)


def test_classes_of_one_color_may_be_merged(tmp_path):
    save_pair(tmp_path, "a", padded(RED, GREEN, BLUE, RED))
    path = write(tmp_path / "map.csv", "0, x\n3, x\n1, y\n*, rest\n")
    assert build(tmp_path, LabelRules(class_map=path)).colormap == (RED, GREEN, BLUE)


# --- What goes before what -----------------------------------------------------------


def test_grey_masks_of_a_published_set_get_its_colors(tmp_path):
    save_pair(tmp_path, "a", None)
    names = write(tmp_path / "names.txt", "\n".join(CAMVID.names))
    assert build(tmp_path, LabelRules(names)).colormap == CAMVID.colors


def test_a_palette_goes_before_published_colors(tmp_path):
    palette = [(index, 255 - index, 7) for index in range(11)]
    save_pair(tmp_path, "a", padded(*palette))
    names = write(tmp_path / "names.txt", "\n".join(CAMVID.names))
    assert build(tmp_path, LabelRules(names)).colormap == tuple(palette)


def test_a_table_of_colors_goes_before_all(tmp_path):
    # Its colours are those that the masks show, in an order of its own.
    save_pair(tmp_path, "a", padded(*COLORS), [[0, 1, 2, 3, 3, 0]] * 4)
    lines = [
        f"{' '.join(map(str, color))} {name}\n"
        for color, name in zip((SAND, BLUE, GREEN, RED), "abcd")
    ]
    table = write(tmp_path / "colors.txt", "".join(lines))
    info = build(tmp_path, LabelRules(label_colors=table))
    assert info.colormap == (SAND, BLUE, GREEN, RED)
