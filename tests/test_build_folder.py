"""Anyone's folder: pairs and splits, colours as classes, class maps, CSV lists."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from datasets import build_folder
from deeplab_tf.colors import voc_colormap
from deeplab_tf.data.building import files, pairs
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.image_files import read_image
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.folders import class_map, color_masks, color_tables, pair_lists
from deeplab_tf.data.folders.folder_splits import list_splits, split_by_fraction
from deeplab_tf.data.folders.label_rules import LabelRules
from deeplab_tf.data.records.info import read_info
from tests.support.commands import call
from tests.support.pairs import (
    exif,
    grey_png,
    make_pairs,
    read_records,
    save_image,
    save_label,
)

COLORS = {"sky": (128, 128, 128), "road": (128, 64, 128), "car": (64, 0, 128)}
VOID = (0, 0, 0)
ALL_COLORS = (*COLORS.values(), VOID)


# --- Which pairs, in which split -----------------------------------------------------


def folder_build(
    folder: Path, out: str = "out", *, rules=None, skip_bad=False, **pair_options
):
    """Builds from folder/images and folder/labels in this process."""
    splits = list_splits(folder / "images", folder / "labels", **pair_options)
    return build_folder.build_splits(
        splits,
        folder / out,
        rules,
        num_processes=1,
        skip_bad=skip_bad,
    )


def names_of(splits) -> dict[str, list[str]]:
    return {split: [s.name for s in samples] for split, samples in splits.items()}


def test_seeded_fraction_is_disjoint_complete_and_repeatable(tmp_path):
    names = [f"{i:03d}" for i in range(50)]
    samples = [Sample(name, "", "") for name in names]
    first = names_of(split_by_fraction(samples, 0.2, seed=3))
    again = names_of(split_by_fraction(samples[::-1], 0.2, seed=3))
    other = names_of(split_by_fraction(samples, 0.2, seed=4))
    assert len(first["val"]) == 10
    assert sorted(first["train"] + first["val"]) == names
    assert {k: sorted(v) for k, v in again.items()} == first
    assert other["val"] != first["val"]
    assert names_of(split_by_fraction(samples, 0, 0)) == {"train": names}
    with pytest.raises(DatasetError, match="Received: 1.5"):
        split_by_fraction(samples, 1.5, 0)
    with pytest.raises(DatasetError, match="leaves none to train on"):
        split_by_fraction(samples[:1], 0.2, 0)


def test_folder_end_to_end_with_fraction(tmp_path):
    make_pairs(tmp_path, [f"n.{i} x" for i in range(10)])
    (tmp_path / "images" / ".hidden.png").touch()
    (tmp_path / "images" / "notes.txt").touch()
    info = folder_build(tmp_path, val_fraction=0.3, seed=1)
    assert info.splits == {"train": 7, "val": 3}
    assert info.name == "out"
    assert info.class_names == ("class_0", "class_1")
    assert len(set(info.colormap)) == 2
    assert info.pixel_counts == {"train": [7 * 12, 7 * 8], "val": [3 * 12, 3 * 8]}
    train, val = (read_records(tmp_path / "out", s) for s in ("train", "val"))
    assert len({**train, **val}) == 10


def test_folder_with_sub_folders(tmp_path):
    for split, names in (("train", "abc"), ("test", "ad")):
        for name in names:
            save_image(tmp_path / "images" / split / f"{name}.JPG", format="JPEG")
            save_label(tmp_path / "labels" / split / f"{name}.png")
    splits = list_splits(tmp_path / "images", tmp_path / "labels")
    assert names_of(splits) == {"train": ["a", "b", "c"], "test": ["a", "d"]}
    assert folder_build(tmp_path).splits == {"train": 3, "test": 2}

    save_image(tmp_path / "images" / "loose.jpg")
    with pytest.raises(DatasetError, match="Received both"):
        folder_build(tmp_path, "other")
    (tmp_path / "images" / "loose.jpg").rename(tmp_path / "train.txt")
    with pytest.raises(DatasetError, match="Received both"):
        folder_build(tmp_path, "other")
    (tmp_path / "images" / "val").mkdir()
    with pytest.raises(DatasetError, match="Expected the same sub-folders"):
        folder_build(tmp_path, "other")


def test_folder_with_lists(tmp_path):
    make_pairs(tmp_path, "abcd")
    (tmp_path / "train.txt").write_text("c.png\r\na\n\n")
    (tmp_path / "val.txt").write_text("b\n")
    (tmp_path / "README.txt").write_text("no split\n")
    splits = list_splits(tmp_path / "images", tmp_path / "labels")
    assert names_of(splits) == {"train": ["c", "a"], "val": ["b"]}
    (tmp_path / "val.txt").write_text("b\nabsent\n")
    with pytest.raises(DatasetError, match=r"val/absent: there is no file .*absent"):
        folder_build(tmp_path)


def test_folder_reports_what_has_no_partner(tmp_path):
    make_pairs(tmp_path, "abcd")
    (tmp_path / "images" / "b.png").unlink()
    (tmp_path / "labels" / "c.png").unlink()
    with pytest.raises(DatasetError) as error:
        folder_build(tmp_path, val_fraction=0)
    _, first, second, _ = str(error.value).splitlines()
    assert "train/b: there is no file" in first and "images" in first
    assert "train/c: there is no file" in second and "labels" in second
    info = folder_build(tmp_path, val_fraction=0, skip_bad=True)
    assert info.splits == {"train": 2}


def test_folder_with_two_files_of_one_name(tmp_path):
    make_pairs(tmp_path, "ab")
    save_image(tmp_path / "images" / "a.jpg")
    with pytest.raises(DatasetError, match="one file for each name.*a.jpg and .*a.png"):
        folder_build(tmp_path)


def test_folder_without_files(tmp_path):
    with pytest.raises(DatasetError, match="Expected a folder. Received: .*images"):
        folder_build(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(DatasetError, match="Expected files that end in .jpg"):
        folder_build(tmp_path)


def test_folder_class_names_and_ids(tmp_path):
    make_pairs(tmp_path, "abc", ids=[[0, 7, 9, 255, 7, 7]] * 4)
    names = tmp_path / "classes.txt"
    names.write_text("seven\nnine\n")
    rules = LabelRules(str(names), label_ids=(7, 9), ignore_label=(0,))
    info = folder_build(tmp_path, rules=rules, val_fraction=0)
    assert info.class_names == ("seven", "nine")
    label = read_records(tmp_path / "out", "train")["a"]["label"][..., 0]
    np.testing.assert_array_equal(label, [[255, 0, 1, 255, 0, 0]] * 4)
    with pytest.raises(DatasetError, match="Where each .* a class: --label_ids=0,7,9"):
        folder_build(tmp_path, "x", val_fraction=0)
    rules = LabelRules(num_classes=10)
    assert folder_build(tmp_path, "x", rules=rules, val_fraction=0).num_classes == 10


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"label_ids": (7, 9)}, "train/a: label has the stored ids 0;"),
        ({"class_names": "NAMES"}, "label has the ids 7, 9; expected 0 to 1"),
        (
            {"class_names": "NAMES", "num_classes": 3},
            "Expected 3 class names .* Received: 2",
        ),
        ({"label_ids": (7, 9), "ignore_label": (9,)}, "each once"),
        ({"num_classes": 300}, "Expected 1 to 255 classes"),
        ({"other_colors": "ignore"}, "only together with --label_colors"),
        ({"label_colors": "infer", "label_ids": (1, 2)}, "without --label_ids"),
        ({"class_map": "NAMES", "num_classes": 3}, "without --num_classes"),
    ],
)
def test_rules_that_do_not_fit(tmp_path, rules, sentence):
    make_pairs(tmp_path, "abc", ids=[[0, 7, 9, 255, 7, 7]] * 4)
    names = tmp_path / "classes.txt"
    names.write_text("seven\nnine\n")
    rules = {k: str(names) if v == "NAMES" else v for k, v in rules.items()}
    with pytest.raises(DatasetError, match=sentence):
        folder_build(tmp_path, rules=LabelRules(**rules), val_fraction=0)
    assert not (tmp_path / "out").exists()


def test_folder_of_black_and_white_masks(tmp_path):
    ids = np.array([[0, 255, 255, 0, 0, 0]] * 4)
    make_pairs(tmp_path, "ab", ids=ids)
    with pytest.raises(DatasetError, match="--label_ids=0,255"):
        folder_build(tmp_path)
    rules = LabelRules(label_ids=(0, 255))
    info = folder_build(tmp_path, rules=rules, val_fraction=0)
    assert info.pixel_counts == {"train": [32, 16]}


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("bmp", "RGB"), ("tif", "RGB"), ("png", "P"), ("png", "RGBA"), ("jpg", "L")]
    + [("png", "LA"), ("jpg", "CMYK")],
)
def test_folder_stores_other_images_as_rgb(tmp_path, suffix, mode):
    path = save_image(tmp_path / f"x.{suffix}", mode=mode)
    data = read_image(str(path), "refuse")
    assert pairs.check_image(data, "x") == ("png", 4, 6)
    expected = np.array(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(tf.io.decode_image(data), expected)


def test_folder_keeps_jpeg_and_png_bytes(tmp_path):
    for suffix in ("jpg", "png"):
        path = save_image(tmp_path / f"x.{suffix}")
        assert read_image(str(path), "refuse") == path.read_bytes()


def test_folder_refuses_images_without_one_rgb_meaning(tmp_path):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (3, 2), (1, 2, 3, 200)).save(path)
    with pytest.raises(ValueError, match="clear.png has transparent pixels"):
        read_image(str(path), "refuse")
    path.write_bytes(grey_png(np.array([[1, 300]]), 16))
    with pytest.raises(ValueError, match="expected 8 bits"):
        read_image(str(path), "refuse")
    pages = [Image.new("RGB", (3, 2)), Image.new("RGB", (3, 2), "red")]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="holds several pictures"):
        read_image(str(tmp_path / "pages.tif"), "refuse")


def test_folder_with_a_turned_image(tmp_path):
    path = str(save_image(tmp_path / "turned.jpg", size=(6, 4), exif=exif(6)))
    stored = np.array(Image.open(path))
    with pytest.raises(ValueError, match="--exif_orientation=apply"):
        read_image(path, "refuse")
    # Orientation 6: turn clockwise to see it upright.
    shown = tf.io.decode_png(read_image(path, "apply"))
    np.testing.assert_array_equal(shown, np.rot90(stored, -1))
    ignored = read_image(path, "ignore")
    np.testing.assert_array_equal(tf.io.decode_png(ignored), stored)
    assert pairs.check_image(ignored, "x") == ("png", 4, 6)


def test_telephone_jpegs_with_a_second_picture_are_jpegs(tmp_path):
    image = Image.open(save_image(tmp_path / "x.png", (32, 16)))
    path = tmp_path / "x.jpg"
    image.save(path, format="MPO", save_all=True, append_images=[image])
    assert Image.open(path).format == "MPO"
    data = read_image(str(path), "refuse")
    assert pairs.check_image(data, "x") == ("jpeg", 16, 32)
    assert tf.io.decode_image(data).shape == (16, 32, 3)


def test_placeholder_finds_splits_in_both_folders(tmp_path):
    for split, names in (("train", "ab"), ("val", "c")):
        for name in names:
            save_image(tmp_path / f"{split}_x" / f"{name}_sat.jpg")
            save_label(tmp_path / f"{split}_x" / f"{name}_mask.png")
    (tmp_path / "notes_x").touch()
    folder = tmp_path / "{split}_x"
    endings = {"image_ending": "_sat", "label_ending": "_mask"}
    splits = list_splits(folder, folder, **endings)
    assert names_of(splits) == {"train": ["a", "b"], "val": ["c"]}
    assert splits["val"][0] == Sample(
        "c",
        str(tmp_path / "val_x" / "c_sat.jpg"),
        str(tmp_path / "val_x" / "c_mask.png"),
    )
    (tmp_path / "val_x" / "c_mask.png").unlink()
    save_label(tmp_path / "val_x" / "d_mask.png")
    missing = list_splits(folder, folder, **endings)["val"][0].label
    with pytest.raises(ValueError, match="there is no file .*c_mask"):
        files.read_label(missing)
    with pytest.raises(DatasetError, match="Expected files that end in _void.jpg"):
        list_splits(folder, folder, image_ending="_void")
    with pytest.raises(DatasetError, match="once in the folder of images"):
        list_splits(folder, tmp_path)
    with pytest.raises(DatasetError, match=r"\['train', 'val'\] in .* and \[\] in"):
        list_splits(folder, tmp_path / "{split}_y")
    with pytest.raises(DatasetError, match="name of a split. Received: none"):
        list_splits(tmp_path / "{split}_y", tmp_path / "{split}_y")


def test_lip_is_a_folder(shared_data, tmp_path):
    lip = shared_data / "samples" / "lip_person_parsing"
    splits = list_splits(lip / "{split}_images", lip / "{split}_segmentations")
    assert names_of(splits) == {"train": ["684_2150041"], "val": ["86_185913"]}
    rules = LabelRules(num_classes=20)
    info = build_folder.build_splits(splits, tmp_path / "lip", rules, num_processes=1)
    assert info.splits == {"train": 1, "val": 1}
    for split, (sample,) in splits.items():
        record = read_records(tmp_path / "lip", split)[sample.name]
        np.testing.assert_array_equal(
            record["label"][..., 0], np.array(Image.open(sample.label))
        )
    grey = np.array(Image.open(lip / "val_images" / "86_185913.jpg"))
    assert grey.ndim == 2
    np.testing.assert_array_equal(record["image"], grey[..., None].repeat(3, axis=2))


# --- CSV lists -----------------------------------------------------------------------


def write_list(folder: Path, text: str, name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_csv_list_with_splits(tmp_path):
    make_pairs(tmp_path, "abc")
    text = """\ufefflabel, split, image
labels/c.png, test, images/c.png

labels/a.png, train, images/a.png
"labels/b.png", train, images/b.png
"""
    path = tmp_path / "lists" / "pairs.csv"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    splits = pair_lists.read_lists([path], tmp_path)
    assert names_of(splits) == {"test": ["c"], "train": ["a", "b"]}
    info = build_folder.build_splits(splits, tmp_path / "out", num_processes=1)
    assert info.splits == {"test": 1, "train": 2}
    beside = write_list(tmp_path, text.replace(",", ";"))
    assert pair_lists.read_lists([beside]) == splits


def test_csv_lists_without_splits(tmp_path):
    samples = make_pairs(tmp_path, [f"{i}" for i in range(10)])
    rows = [f"images/{s.name}.png,labels/{s.name}.png\n" for s in samples]
    path = write_list(tmp_path, "".join(["image,label\n", *rows]))
    splits = pair_lists.read_lists([path], val_fraction=0.3, seed=5)
    assert splits == split_by_fraction(samples, 0.3, 5)
    first = write_list(tmp_path, "".join(["image,label\n", *rows[:4]]), "train.csv")
    second = write_list(tmp_path, "".join(["image,label\n", *rows[4:]]), "val.csv")
    splits = pair_lists.read_lists([first, second])
    assert splits == {"train": samples[:4], "val": samples[4:]}


def test_csv_names_hold_the_folder_where_stems_are_the_same(tmp_path):
    text = "image,label,split\nx/1.jpg,y/1.png,val\nz/1.jpg,y/2.png,val\n"
    splits = pair_lists.read_lists([write_list(tmp_path, text)])
    assert names_of(splits) == {"val": ["x/1", "z/1"]}
    text = "image,label\nx/1.jpg,y/1.png\nx/1.png,y/2.png\n"
    with pytest.raises(DatasetError, match="more than their suffix.*twice: 1$"):
        pair_lists.read_lists([write_list(tmp_path, text)])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image,mask\na,b\n", "Expected the columns image,label .*: image,mask"),
        ("image,label,fold\na,b,c\n", "Received: image,label,fold"),
        ("a.png,b.png\n", "Received: a.png,b.png"),
        ("image,label\n", "Received: a header alone"),
        ("image,label\na.png\n", "a value for each.*Received: a.png .*pair 1"),
        ("image,label,split\na,b,\n", r"a value for each.*Received: a,b"),
        ("image,label\na,b\nc,d\nx/../a,b\n", "each image once.*pair 1 and.*pair 3"),
        ("image,label,split\na,b,train\na,b,val\n", "each image once, in one split"),
        ("image,label,split\na,b,x/y\n", "named by letters.*x/y"),
    ],
)
def test_wrong_csv_lists(tmp_path, text, sentence):
    with pytest.raises(DatasetError, match=sentence):
        pair_lists.read_lists([write_list(tmp_path, text)])


def test_csv_list_of_absent_files(tmp_path):
    make_pairs(tmp_path, "ab")
    text = "image,label,split\nimages/a.png,labels/x.png,val\nimages/b.png,y,val\n"
    splits = pair_lists.read_lists([write_list(tmp_path, text)])
    rules = LabelRules(num_classes=2)
    with pytest.raises(DatasetError) as error:
        build_folder.build_splits(splits, tmp_path / "out", rules, num_processes=1)
    assert "2 of 2 pairs cannot be used" in str(error.value)
    assert f"val/a: there is no file {tmp_path / 'labels' / 'x.png'}" in str(
        error.value
    )


# --- Tables of colours ---------------------------------------------------------------

CAMVID = "128 128 128\t\tSky\n192 0 128\tArchway\n0 0 0\t\tVoid\n"
CAMVID_ENTRIES = [
    ("Sky", (128, 128, 128)),
    ("Archway", (192, 0, 128)),
    ("Void", (0, 0, 0)),
]


@pytest.mark.parametrize(
    "text",
    [
        CAMVID,
        "r,g,b,name\n" + CAMVID,
        "Sky,128,128,128\nArchway, 192, 0, 128\nVoid,0,0,0\n",
        "name, r, g, b\nSky, 128, 128, 128\nArchway, 192, 0, 128\nVoid, 0, 0, 0\n",
        "id;Class;Red;Green;Blue\n7;Sky;128;128;128\n1;Archway;192;0;128\n9;Void;0;0;0",
        "128,128,128,Sky\n192,0,128,Archway\n0,0,0,Void\n",
        "# colours\n#808080 Sky\n\n#C00080 Archway\n#000000 Void\n",
        "Sky #808080\nArchway #c00080\nVoid #000000\n",
        "# label:color_rgb:parts:actions\n"
        "Sky:128,128,128::\nArchway:192,0,128::\nVoid:0,0,0::\n",
        '[{"name": "Sky", "color": [128, 128, 128]}, '
        '{"name": "Archway", "color": "#c00080"}, {"name": "Void", "color": [0,0,0]}]',
        '{"Sky": [128, 128, 128], "Archway": "#c00080", "Void": "0, 0, 0"}',
        '{"labels": [{"name": "Sky", "color": [128, 128, 128], "evaluate": true}, '
        '{"name": "Archway", "color": [192, 0, 128]}, '
        '{"name": "Void", "color": [0, 0, 0]}]}',
    ],
)
def test_forms_of_color_tables(tmp_path, text):
    table = color_tables.read_table(write_list(tmp_path, text))
    assert [tuple(entry) for entry in table] == CAMVID_ENTRIES
    assert [entry.ignored for entry in table] == [False, False, True]


def test_several_colors_may_be_void(tmp_path):
    path = write_list(tmp_path, "0 0 0 void\n1 1 1 void\n2 2 2 road\n")
    classes = class_map.classes_of_colors(color_tables.read_table(path))
    assert classes.names == ("road",)
    assert classes.class_ids[:4] == (255, 255, 0, class_map.UNKNOWN)
    path = write_list(tmp_path, "0 0 0 void\n1 1 1 Ignore\n")
    with pytest.raises(DatasetError, match="Received: only Ignore, void"):
        class_map.classes_of_colors(color_tables.read_table(path))


def test_names_of_colors_may_have_spaces(tmp_path):
    text = "0 0 192 traffic light\n1 1 1 Misc_Text 2b\nvan (big) 9 8 7\n"
    table = color_tables.read_table(write_list(tmp_path, text))
    assert [entry.name for entry in table] == [
        "traffic light",
        "Misc_Text 2b",
        "van (big)",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0 128 0 0 plane\n", "three numbers and a name.*header such as id,name"),
        ("plane 128 0 0 1\n", "three numbers and a name"),
        ("128 64 256 road\n", "'128 64 256 road'.*in 0..255"),
        ("128 64 road\n", "such as 128 64 128 road"),
        ("name,r,g,b\nroad,1,2,x\n", "'road,1,2,x' .*in 0..255"),
        ("1 2 3 a\n1 2 3 b\n", "each name once.*#010203 a and #010203 b"),
        ("1 2 3 a\n4 5 6 a\n", "#010203 a and #040506 a.*--class_map"),
        ("name,r,g,b\na,1,2,3\n,0,0,0\n", "a name for each.*none for #000000"),
        ('[{"name": "a"}]', "expected a name, and a color as"),
        ('{"a": [1, 2]}', "expected a name, and a color as"),
        ("[1, 2", "Expected colours and names of classes"),
        ("".join(f"{i} 9 9 c{i}\n" for i in range(256)), "1 to 255 colours.*: 256"),
    ],
)
def test_wrong_color_tables(tmp_path, text, sentence):
    with pytest.raises(DatasetError, match=sentence):
        color_tables.read_table(write_list(tmp_path, text))


# --- Masks of colours ----------------------------------------------------------------


def color_pairs(folder: Path, names="abcd", colors=ALL_COLORS) -> dict:
    """Writes pairs with RGB masks; returns name -> places in `colors`, [5, 7]."""
    rng = np.random.default_rng(3)
    places = {name: rng.integers(0, len(colors), (5, 7)) for name in names}
    (folder / "labels").mkdir(exist_ok=True, parents=True)
    for name, place in places.items():
        save_image(folder / "images" / f"{name}.jpg", (7, 5))
        pixels = np.array(colors, np.uint8)[place]
        Image.fromarray(pixels).save(folder / "labels" / f"{name}.png")
    return places


def color_rules(folder: Path, **options) -> LabelRules:
    lines = [f"{r} {g} {b} {name}\n" for name, (r, g, b) in COLORS.items()]
    path = write_list(folder, "".join([*lines, "0 0 0 Void\n"]), "colors.txt")
    return LabelRules(label_colors=str(path), **options)


def labels_of(data_dir: Path, split="train") -> dict[str, np.ndarray]:
    records = read_records(data_dir, split)
    return {name: record["label"][..., 0] for name, record in records.items()}


def test_colors_become_ids_and_the_colormap(tmp_path):
    places = color_pairs(tmp_path)
    info = folder_build(tmp_path, rules=color_rules(tmp_path), val_fraction=0)
    assert dict(zip(info.class_names, info.colormap)) == COLORS
    labels = labels_of(tmp_path / "out")
    assert labels.keys() == places.keys()
    for name, place in places.items():
        np.testing.assert_array_equal(labels[name], np.where(place == 3, 255, place))


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_colors_of_palettes_and_opaque_masks(tmp_path, mode):
    colors = list(COLORS.values())
    place = np.random.default_rng(0).integers(0, 3, (5, 7))
    image = Image.fromarray(np.array(colors, np.uint8)[place])
    if mode == "P":  # Indices in another order than the table's.
        image = Image.fromarray((place[..., None] == [2, 0, 1]).argmax(-1).astype("u1"))
        image.putpalette([*colors[2], *colors[0], *colors[1]])
    image.convert(mode).save(tmp_path / "mask.png")
    rows = color_masks.read_rows(str(tmp_path / "mask.png"), colors)
    np.testing.assert_array_equal(rows, place)


def test_real_masks_by_their_colors_have_the_ids_of_their_indices(shared_data):
    folder = shared_data / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    border = (224, 224, 192)
    colors = (*voc_colormap(21), border)
    paths = sorted(folder.glob("*.png"))[:8]
    assert len(paths) == 8
    for path in paths:
        with Image.open(path) as mask:
            indices = np.array(mask)
        assert 255 in indices and len(np.unique(indices)) > 2
        rows = color_masks.read_rows(str(path), colors)
        np.testing.assert_array_equal(rows, np.where(indices == 255, 21, indices))


@pytest.mark.parametrize(
    ("alphas", "expected"),
    [
        ((255, 255, 255), (0x010203, 0x040506, 0x070809)),
        ((0, 200, 255), (0, 0x040506, 0x070809)),  # Not painted, half, painted.
        ((0, 0, 0), (0x010203, 0x040506, 0x070809)),  # Says nothing.
        ((7, 7, 7), (0x010203, 0x040506, 0x070809)),
    ],
)
@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparent_pixels_of_color_masks_are_black(tmp_path, mode, alphas, expected):
    colors = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3)
    path = tmp_path / "mask.png"
    if mode == "RGBA":
        alpha = np.array(alphas, np.uint8).reshape(1, 3, 1)
        Image.fromarray(np.concatenate([colors, alpha], 2)).save(path)
    else:
        image = Image.fromarray(np.arange(3, dtype=np.uint8)[None])
        image.putpalette(colors.ravel().tolist())
        image.save(path, transparency=bytes(alphas))
        # A palette's indices are ids, whatever is transparent.
        np.testing.assert_array_equal(files.read_label(str(path)), [[0, 1, 2]])
    np.testing.assert_array_equal(color_masks.read_colors(str(path)), [expected])


@pytest.mark.parametrize("alpha", [None, 255, 0])
def test_masks_of_three_equal_channels_store_ids(tmp_path, alpha):
    make_pairs(tmp_path, "ab", ids=[[0, 1, 2, 2, 1, 255]] * 4)
    for path in (tmp_path / "labels").iterdir():
        ids = np.asarray(Image.open(path))
        bands = [ids] * 3 + ([] if alpha is None else [np.full_like(ids, alpha)])
        Image.fromarray(np.stack(bands, 2)).save(path)
    assert folder_build(tmp_path, val_fraction=0).num_classes == 3
    label = labels_of(tmp_path / "out")["a"]
    np.testing.assert_array_equal(label, [[0, 1, 2, 2, 1, 255]] * 4)


def test_transparency_of_grey_masks_says_nothing_of_ids(tmp_path):
    pixels = np.array([[[0, 0], [1, 255], [2, 9]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    ids = files.read_label(str(tmp_path / "mask.png"))
    np.testing.assert_array_equal(ids, [[0, 1, 2]])


def test_masks_without_exact_colors_are_refused(tmp_path):
    save_image(tmp_path / "lossy.jpg")
    with pytest.raises(ValueError, match="JPEG, which alters colours"):
        color_masks.read_colors(str(tmp_path / "lossy.jpg"))
    deep = tmp_path / "deep.png"
    deep.write_bytes(grey_png(np.array([[1, 300]]), 16))
    with pytest.raises(ValueError, match="deep.png has 16 bits a channel"):
        color_masks.read_colors(str(deep))


def test_colors_that_the_table_has_not(tmp_path):
    others = [(1, 2, 3), (9, 9, 9)]
    places = color_pairs(tmp_path, colors=(*COLORS.values(), *others))
    with pytest.raises(DatasetError) as error:
        folder_build(tmp_path, rules=color_rules(tmp_path), val_fraction=0)
    ones, nines = (np.count_nonzero(places["a"] == i) for i in (3, 4))
    line = next(t for t in str(error.value).splitlines() if "train/a" in t)
    assert f"{ones + nines} of 35 pixels" in line
    assert f"#010203 ({ones} pixels)" in line and f"#090909 ({nines} pixels)" in line
    rules = color_rules(tmp_path, other_colors="ignore")
    folder_build(tmp_path, rules=rules, val_fraction=0)
    for name, label in labels_of(tmp_path / "out").items():
        place = places[name]
        np.testing.assert_array_equal(label, np.where(place >= 3, 255, place))


def test_the_most_frequent_other_colors_are_named(tmp_path):
    pixels = np.zeros((1, 36, 3), np.uint8)
    pixels[0, :, 0] = np.repeat(np.arange(1, 9), np.arange(1, 9))  # Colour i i times.
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="in colours that are not") as error:
        color_masks.read_rows(str(tmp_path / "mask.png"), [(8, 0, 0)])
    assert "28 of 36 pixels" in str(error.value)
    assert "#070000 (7 pixels), #060000 (6 pixels), #050000" in str(error.value)
    assert "#030000 (3 pixels) and 2 more; add them" in str(error.value)


def test_inferred_colors_are_sorted_shown_and_written(tmp_path, capsys):
    places = color_pairs(tmp_path)
    with pytest.raises(DatasetError, match="whether #000000 is a class") as error:
        folder_build(tmp_path, rules=LabelRules(label_colors="infer"))
    assert "one, such as background: --void_colors=none" in str(error.value)
    assert "without a class: --void_colors=#000000" in str(error.value)
    assert not list(tmp_path.glob("out*"))  # Nothing was built.
    rules = LabelRules(label_colors="infer", void_colors=("#000000",))
    info = folder_build(tmp_path, "void", rules=rules, val_fraction=0)
    assert info.colormap == ((64, 0, 128), (128, 64, 128), (128, 128, 128))
    rank = np.array([2, 1, 0, 255])
    for name, label in labels_of(tmp_path / "void").items():
        np.testing.assert_array_equal(label, rank[places[name]])

    rules = LabelRules(label_colors="infer", void_colors=("none",))
    info = folder_build(tmp_path, rules=rules, val_fraction=0)
    # Sorted by red, green, blue: VOID, car, road, sky.
    assert info.colormap == ((0, 0, 0), (64, 0, 128), (128, 64, 128), (128, 128, 128))
    assert info.class_names[1] == "color_400080"
    rank = np.array([3, 2, 1, 0])
    for name, label in labels_of(tmp_path / "out").items():
        np.testing.assert_array_equal(label, rank[places[name]])
    share = np.mean([place == 2 for place in places.values()])
    assert (
        f"#400080  {share:8.3%} of pixels, in 4 of 4 masks" in capsys.readouterr().out
    )

    written = tmp_path / "out.label_colors.csv"
    again = LabelRules(label_colors=str(written))
    assert folder_build(tmp_path, "x", rules=again, val_fraction=0).colormap == (
        info.colormap
    )
    folder_build(tmp_path / ".", "y", rules=rules)  # Writes a table of its own.
    written.write_text(written.read_text().replace("color_000000", "void"))
    named = folder_build(tmp_path, "z", rules=again, val_fraction=0)
    assert named.colormap == info.colormap[1:]
    (tmp_path / "z.label_colors.csv").write_text(written.read_text())
    with pytest.raises(DatasetError, match="exists already, with other colours"):
        build_folder.build_splits(
            list_splits(tmp_path / "images", tmp_path / "labels"),
            tmp_path / "z",
            rules,
            num_processes=1,
        )
    assert not list(tmp_path.glob("*.part"))


def test_inferred_order_does_not_depend_on_the_order_of_masks(tmp_path):
    color_pairs(tmp_path, "a", [(200, 0, 0)])
    color_pairs(tmp_path, "b", [(3, 2, 1), (1, 2, 3), (1, 2, 4)])
    paths = sorted(map(str, (tmp_path / "labels").iterdir()))
    table, _ = color_masks.infer_table(paths, 1)
    assert [e.color for e in table] == [(1, 2, 3), (1, 2, 4), (3, 2, 1), (200, 0, 0)]
    assert color_masks.infer_table(paths[::-1], 1)[0] == table


def test_inference_does_not_depend_on_processes(tmp_path):
    color_pairs(tmp_path)
    paths = sorted(map(str, (tmp_path / "labels").iterdir()))
    assert color_masks.infer_table(paths, 1) == color_masks.infer_table(paths, 2)


def test_too_many_colors_are_refused(tmp_path):
    color_pairs(tmp_path)
    save_image(tmp_path / "labels" / "b.png", (40, 30))  # Noise.
    with pytest.raises(DatasetError, match="at most 255 colours.*b.png.*anti-aliasing"):
        folder_build(tmp_path, rules=LabelRules(label_colors="infer"))
    assert not list(tmp_path.glob("out*"))
    # Few in each mask, but too many in all.
    for index in range(100):
        pixels = np.full((1, 3, 3), index, np.uint8)
        pixels[0, :, 0] = 0, 1, 2
        Image.fromarray(pixels).save(tmp_path / "labels" / f"n{index}.png")
    (tmp_path / "labels" / "b.png").unlink()
    with pytest.raises(DatasetError, match="at most 255 colours"):
        color_masks.infer_table(
            sorted(map(str, (tmp_path / "labels").iterdir())), num_processes=1
        )


def test_color_masks_without_a_table_say_what_to_do(tmp_path):
    color_pairs(tmp_path)
    with pytest.raises(DatasetError, match="can be read.*none among 4.*=infer"):
        folder_build(tmp_path)
    with pytest.raises(DatasetError, match="train/a: .*a.png has colours.*=infer"):
        folder_build(tmp_path, rules=LabelRules(num_classes=3), val_fraction=0)


def test_inference_of_masks_that_cannot_be_read(tmp_path):
    make_pairs(tmp_path, "ab")
    for path in (tmp_path / "labels").iterdir():
        path.write_text("no image")
    with pytest.raises(DatasetError, match="two colours or more.*not an image file"):
        folder_build(tmp_path, rules=LabelRules(label_colors="infer"))


def test_a_large_color_mask_is_looked_up_without_a_loop_over_pixels(tmp_path):
    blocks = np.random.default_rng(0).integers(0, 200, (64, 128))
    place = np.kron(blocks, np.ones((16, 16), int))
    colors = [(i, 255 - i, i * 7 % 256) for i in range(200)]
    Image.fromarray(np.array(colors, np.uint8)[place]).save(tmp_path / "mask.png")
    path = str(tmp_path / "mask.png")
    start = time.process_time()
    decoded = np.asarray(Image.open(path))
    decoding = time.process_time() - start
    start = time.process_time()
    rows = color_masks.read_rows(path, colors)
    assert time.process_time() - start < 10 * decoding + 0.1
    assert decoded.shape == (1024, 2048, 3)
    np.testing.assert_array_equal(rows, place)


# --- Class maps ----------------------------------------------------------------------


def test_class_map_of_stored_ids(tmp_path, capsys):
    ids = np.array([[0, 7, 9, 255, 12, 40]] * 4)
    make_pairs(tmp_path, "ab", ids=ids)
    path = write_list(tmp_path, "# old, new\n9, road\n7, sky\n12, road\n0, ignore\n")
    rules = LabelRules(class_map=str(path))
    with pytest.raises(DatasetError, match="train/a: label has the stored ids 40;"):
        folder_build(tmp_path, rules=rules, val_fraction=0)
    path.write_text(path.read_text() + "*, other\n")
    info = folder_build(tmp_path, rules=rules, val_fraction=0)
    assert info.class_names == ("road", "sky", "other")
    assert "0 road, 1 sky, 2 other" in capsys.readouterr().out
    label = labels_of(tmp_path / "out")["a"]
    np.testing.assert_array_equal(label, [[255, 1, 0, 255, 0, 2]] * 4)


def test_class_map_of_named_ids(tmp_path):
    make_pairs(tmp_path, "ab", ids=[[0, 1, 2, 3, 255, 5]] * 4)
    names = write_list(tmp_path, "sky\ncar\ntruck\nroad\n", "names.txt")
    path = write_list(tmp_path, "car,vehicle\n2,vehicle\nsky,sky\n*,void\n")
    rules = LabelRules(str(names), class_map=str(path))
    info = folder_build(tmp_path, rules=rules, val_fraction=0)
    assert info.class_names == ("vehicle", "sky")
    label = labels_of(tmp_path / "out")["a"]
    np.testing.assert_array_equal(label, [[1, 0, 0, 255, 255, 255]] * 4)


def test_class_map_may_make_255_a_class(tmp_path):
    make_pairs(tmp_path, "ab", ids=[[0, 255, 7, 0, 0, 0]] * 4)
    path = write_list(tmp_path, "0, ground\n255, thing\n*, ignore\n")
    rules = LabelRules(class_map=str(path))
    folder_build(tmp_path, rules=rules, val_fraction=0)
    label = labels_of(tmp_path / "out")["a"]
    np.testing.assert_array_equal(label, [[0, 1, 255, 0, 0, 0]] * 4)


def test_class_map_of_colors(tmp_path):
    places = color_pairs(tmp_path)
    path = write_list(tmp_path, "car, ground\nroad, ground\nsky, void\n")
    rules = color_rules(tmp_path, class_map=str(path))
    info = folder_build(tmp_path, rules=rules, val_fraction=0)
    assert info.class_names == ("ground",)
    assert info.colormap == (COLORS["road"],)  # The first in the table.
    expected = np.array([255, 0, 0, 255])
    for name, label in labels_of(tmp_path / "out").items():
        np.testing.assert_array_equal(label, expected[places[name]])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sky, up\n", r"line '\*, ignore'. Missing: road, car"),
        ("sky, up\nboat, up\n*, ignore\n", "one of sky, road, car.*Received: boat"),
        ("sky, up\n0, up\n*, ignore\n", "one of sky, road, car.*Received: 0"),
        ("sky, up\nsky, down\n*, ignore\n", "twice: sky"),
        ("sky, up\n*, ignore\n*, up\n", r"one line for \*.*Received: 2"),
        ("*, ignore\n", "1 to 255 new classes.*Received: 0"),
        ("sky\n", "a comma, and the name.*Received: sky"),
        ("sky,a\nroad,a\ncar,a\n*,b\n", "Received: none for b"),
    ],
)
def test_wrong_class_maps(tmp_path, text, sentence):
    color_pairs(tmp_path, "ab")
    path = write_list(tmp_path, text)
    with pytest.raises(DatasetError, match=sentence):
        folder_build(tmp_path, rules=color_rules(tmp_path, class_map=str(path)))


# --- Command line --------------------------------------------------------------------


def test_command_line_of_color_masks_and_lists(tmp_path):
    color_pairs(tmp_path)
    rows = [f"images/{n}.jpg,labels/{n}.png,{s}\n" for n, s in zip("abcd", "ttvv")]
    path = write_list(tmp_path, "".join(["image,label,split\n", *rows]))
    arguments = (f"--list={path}", f"--output_dir={tmp_path}/out", "--num_processes=1")
    result = call(build_folder, *arguments, "--label_colors=infer")
    assert result.returncode == 1
    commands = [line for line in result.stderr.splitlines() if "python -m" in line]
    assert [line.split()[-1] for line in commands] == [
        "--void_colors=none",
        "--void_colors=#000000",
    ]
    words = shlex.split(commands[0])[3:]  # As it stands there.
    result = call(build_folder, *words)
    assert result.returncode == 0, result.stderr
    assert f"--label_colors={tmp_path}/out.label_colors.csv" in result.stdout
    assert read_info(tmp_path / "out").splits == {"t": 2, "v": 2}
    result = call(build_folder, *arguments, "--images_dir=x")
    assert result.returncode == 1
    assert "Error: Expected --list or folders" in result.stderr
