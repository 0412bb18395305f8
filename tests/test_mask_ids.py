"""Masks as people have them: what they store is told, and never guessed in silence."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import build_folder
from deeplab_tf.data.building import files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders.class_lists import ClassList, read_class_list
from deeplab_tf.data.folders.folder_splits import list_splits
from deeplab_tf.data.folders.found_ids import as_ranges
from deeplab_tf.data.folders.label_rules import LabelRules
from tests.support.commands import call
from tests.support.pairs import grey_png, make_pairs, read_records, save_image

# Masks of an object, 6 x 4 pixels, by the two values of background and object.
OBJECT = np.array([[0, 0, 1, 1, 0, 0]] * 4)


def save_masks(folder: Path, *masks: np.ndarray) -> None:
    for index, mask in enumerate(masks):
        height, width = mask.shape
        save_image(folder / "images" / f"{index}.png", (width, height))
        path = folder / "labels" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask.astype(np.uint8)).save(path)


def build(folder: Path, **rules):
    splits = list_splits(folder / "images", folder / "labels", val_fraction=0)
    rules = LabelRules(**rules)
    return build_folder.build_splits(splits, folder / "out", rules, num_processes=1)


def smooth_masks() -> list[np.ndarray]:
    """0/255 with a few greys, as resizing makes them."""
    mask = np.zeros([30, 30])
    mask[8:22, 8:22] = 255
    mask[7, 5:20] = np.arange(15) * 16 + 7
    return [mask, 255 - mask]


# --- What stops, and its way out -----------------------------------------------------


def test_black_and_white_with_grey_edges_are_two_classes(tmp_path):
    save_masks(tmp_path, *smooth_masks())
    with pytest.raises(DatasetError, match="black and white.*edges") as error:
        build(tmp_path)
    flags = "--label_ids=0,255 --ignore_label=1-254"
    assert flags in str(error.value)
    paths = (f"--input_dir={tmp_path}", f"--output_dir={tmp_path / 'out'}")
    result = call(build_folder, *paths, *flags.split(), "--val_fraction=0")
    assert result.returncode == 0, result.stderr
    label = read_records(tmp_path / "out", "train")["0"]["label"][..., 0]
    mask = smooth_masks()[0]
    expected = np.select([mask == 0, mask == 255], [0, 1], 255)
    np.testing.assert_array_equal(label, expected)


def test_grey_edges_of_colour_masks_are_no_classes(tmp_path):
    save_masks(tmp_path, *smooth_masks())
    for path in (tmp_path / "labels").iterdir():
        Image.open(path).convert("RGB").save(path)
    with pytest.raises(DatasetError, match="other greys.* --other_colors=ignore"):
        build(tmp_path, label_colors="infer")
    table = tmp_path / "colors"
    table.write_text("0,0,0,background\n255,255,255,object\n")
    info = build(tmp_path, label_colors=str(table), other_colors="ignore")
    assert info.class_names == ("background", "object")


@pytest.mark.parametrize("high", [2, 7, 128, 254])
def test_gaps_among_ids_stop(tmp_path, high):
    save_masks(tmp_path, OBJECT * high)
    with pytest.raises(DatasetError, match=f"--label_ids=0,{high}. ") as error:
        build(tmp_path)
    assert f"--num_classes={high + 1}" in str(error.value)
    assert build(tmp_path, label_ids=(0, high)).pixel_counts == {"train": [16, 8]}


def test_ids_that_do_not_begin_with_0_stop(tmp_path):
    save_masks(tmp_path, OBJECT + 1, OBJECT + 2)
    with pytest.raises(DatasetError, match="no mask has 0. .* --label_ids=1-3"):
        build(tmp_path)


def test_an_object_stored_as_1_here_and_255_there(tmp_path):
    save_masks(tmp_path, OBJECT, OBJECT * 255, OBJECT)
    with pytest.raises(DatasetError, match="2 masks that have it as 1, 1 as 255"):
        build(tmp_path)
    (tmp_path / "map").write_text("0,background\n1,object\n255,object\n")
    info = build(tmp_path, class_map=str(tmp_path / "map"))
    assert info.pixel_counts == {"train": [48, 24]}


def test_void_beside_an_object_is_no_doubt(tmp_path):
    void = OBJECT.copy()
    void[0] = 255
    save_masks(tmp_path, OBJECT, void)
    assert build(tmp_path).pixel_counts == {"train": [28, 14]}


def test_void_that_is_said_is_no_doubt(tmp_path):
    save_masks(tmp_path, OBJECT, OBJECT * 255)
    assert build(tmp_path, ignore_label=(255,)).pixel_counts == {"train": [32, 8]}


@pytest.mark.parametrize("rules", [{"num_classes": 2}, {"class_names": "names"}])
def test_a_class_that_would_be_void_altogether_stops(tmp_path, rules, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("names").write_text("background\nobject\n")
    save_masks(tmp_path, OBJECT * 255)
    with pytest.raises(DatasetError, match="--label_ids=0,255. .*--ignore_label=255"):
        build(tmp_path, **rules)
    info = build(tmp_path, **rules, ignore_label=(255,))
    assert info.pixel_counts == {"train": [16, 0]}


def test_a_map_that_names_255_is_no_doubt(tmp_path):
    save_masks(tmp_path, OBJECT, OBJECT * 255)
    (tmp_path / "names").write_text("background\nobject\n")
    (tmp_path / "map").write_text("background,x\nobject,y\n255,y\n")
    info = build(
        tmp_path,
        class_names=str(tmp_path / "names"),
        class_map=str(tmp_path / "map"),
    )
    assert info.pixel_counts == {"train": [32, 16]}


def test_no_classes_are_no_number(tmp_path):
    save_masks(tmp_path, OBJECT)
    with pytest.raises(DatasetError, match="Expected 1 to 255 classes.*Received: 0"):
        build(tmp_path, num_classes=0)


def test_many_classes_are_not_taken_for_black_and_white(tmp_path):
    ids = np.zeros([30, 30], int)
    ids[:2] = 120
    ids[2].flat[:] = np.arange(30)
    rest = np.resize(np.arange(30, 120), [30, 30])
    save_masks(tmp_path, ids, rest)
    assert build(tmp_path).num_classes == 121


def test_much_background_and_void_are_not_taken_for_black_and_white(tmp_path):
    """0 and 255 have nine tenths of the pixels, as in masks of VOC's kind."""
    ids = np.zeros([30, 30], int)
    ids[:4] = 255
    ids[4:7] = np.resize(np.arange(1, 7), [3, 30])
    save_masks(tmp_path, ids, ids)
    assert build(tmp_path).num_classes == 7


def test_ranges_are_read_as_they_are_written():
    assert as_ranges([0, 3, 4, 5, 255]) == "0,3-5,255"
    assert as_ranges([]) == ""


def test_what_was_found_is_printed(tmp_path, capsys):
    void = OBJECT.copy()
    void[0] = 255
    save_masks(tmp_path, OBJECT, void, OBJECT * 0)
    (tmp_path / "names").write_text("ground\na long name\n")
    build(tmp_path, class_names=str(tmp_path / "names"))
    table = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split() for line in table] == [
        ["id", "class", "colour", "pixels", "images", "of", "3"],
        ["0", "ground", table[1].split()[2], "72.222%", "3"],
        ["1", "a", "long", "name", table[2].split()[4], "19.444%", "2"],
        ["255", "(without", "a", "class)", "8.333%"],
    ]


# --- Files ---------------------------------------------------------------------------


def grey_tiff(ids: np.ndarray, bits: int, photometric: int = 1) -> bytes:
    """A grey TIFF put together by hand."""
    height, width = ids.shape
    shifts = np.arange(bits)[::-1]
    rows = np.packbits((ids[..., None] >> shifts & 1).reshape(height, -1), axis=1)
    if bits == 16:
        rows = ids.astype("<u2").view(np.uint8)
    data = rows.tobytes().ljust(-(-rows.size // 2) * 2, b"\0")
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric}
    tags.update({273: 8, 277: 1, 278: height, 279: rows.size})
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return head + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("write", [grey_png, grey_tiff])
def test_grey_masks_of_few_bits_give_what_they_store(tmp_path, bits, write):
    ids = np.arange(48).reshape(6, 8) % 2**bits
    path = tmp_path / "mask"
    path.write_bytes(write(ids, bits))
    np.testing.assert_array_equal(files.read_label(str(path)), ids)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_masks_that_are_shown_inverted_are_refused(tmp_path, bits):
    path = tmp_path / "mask.tif"
    path.write_bytes(grey_tiff(np.arange(4)[None], bits, photometric=0))
    with pytest.raises(ValueError, match="stores white as 0"):
        files.read_label(str(path))


def test_a_grey_bitmap_of_four_bits_is_refused(tmp_path):
    palette = b"".join(bytes([i, i, i, 0]) for i in range(16))
    rows = bytes([0x01, 0x23, 0, 0]) * 4
    sizes = (40, 4, 4, 1, 4, 0, len(rows), 0, 0, 16, 0)
    head = b"BM" + struct.pack("<IHHI", 118 + len(rows), 0, 0, 118)
    path = tmp_path / "mask.bmp"
    path.write_bytes(head + struct.pack("<IiiHHIIiiII", *sizes) + palette + rows)
    with pytest.raises(ValueError, match="Pillow reads wrongly"):
        files.read_label(str(path))


@pytest.mark.parametrize("extension", ["tif", "png", "gif"])
def test_masks_of_several_pages_are_refused(tmp_path, extension):
    path = tmp_path / f"mask.{extension}"
    pages = [Image.fromarray(OBJECT.astype(np.uint8) * i) for i in (1, 2)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="holds several pictures or pages"):
        files.read_label(str(path))


@pytest.mark.parametrize("extension", ["webp", "jpg", "avif"])
def test_lossy_masks_are_refused(tmp_path, extension):
    path = tmp_path / f"mask.{extension}"
    try:
        Image.fromarray(OBJECT.astype(np.uint8)).save(path)
    except (KeyError, ValueError):
        pytest.skip("Pillow writes no such files here")
    with pytest.raises(ValueError, match="which alters ids; expected a PNG mask"):
        files.read_label(str(path))


@pytest.mark.parametrize("write", [grey_png, grey_tiff])
def test_wide_masks_have_a_way(tmp_path, write):
    make_pairs(tmp_path, ["a"])
    path = tmp_path / "labels" / "a.png"
    path.write_bytes(write(OBJECT * 2, 16))
    sentence = "its values, 0 to 2, fit into 8 bits: .* --label_bits=16"
    with pytest.raises(DatasetError, match=sentence):
        build(tmp_path, num_classes=3)
    info = build(tmp_path, num_classes=3, label_bits=16)
    assert info.pixel_counts == {"train": [16, 0, 8]}
    path.write_bytes(write(OBJECT * 26001, 16))
    with pytest.raises(ValueError, match="are 0 to 26001, and ids end at 255"):
        files.read_label(str(path), 16)


# --- Lists of names ------------------------------------------------------------------

TWO = ("ground", "object")
LISTS = {
    "Roboflow's": ("Pixel Value, Class\n0, ground\n1, a, b\n", None),
    "a header": ("Pixel Value, Class\n0, ground\n1, object\n", ClassList(TWO, ())),
    "ids of its own": ("id;name\n0;ground\n255;object\n", ClassList(TWO, (0, 255))),
    "names first": ("Class,Pixel Value\nground,0\nobject,9\n", ClassList(TWO, (0, 9))),
    "more columns": (
        "name,id,colour\nground,0,#000000\nobject,1,#ff0000\n",
        ClassList(TWO, ()),
    ),
    "numbers": ("0: ground\n255: object\n", ClassList(TWO, (0, 255))),
    "numbers and blanks": ("0 ground\n1 object\n", ClassList(TWO, ())),
    "a headed column": ("class_name\nground\nobject\n", ClassList(TWO, ())),
    "names alone": ("ground\nobject\n", ClassList(TWO, ())),
    "names with numbers": (
        "2 wheeler\nobject\n",
        ClassList(("2 wheeler", "object"), ()),
    ),
    "a class called label": ("label\nobject\n", ClassList(("label", "object"), ())),
    "an id twice": ("0: ground\n0: object\n", None),
    "a name twice": ("ground\nground\n", None),
    "no id": ("id,name\nx,ground\n", None),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_names(tmp_path, kind):
    text, expected = LISTS[kind]
    path = tmp_path / "_classes.csv"
    path.write_text(text)
    if expected is None:
        with pytest.raises(DatasetError, match="_classes.csv"):
            read_class_list(path)
    else:
        assert read_class_list(path) == expected


def test_ids_of_a_list_are_those_of_the_masks(tmp_path):
    save_masks(tmp_path, OBJECT * 255)
    path = tmp_path / "_classes.csv"
    path.write_text("Pixel Value, Class\n0, ground\n255, object\n")
    info = build(tmp_path, class_names=str(path))
    assert info.class_names == TWO and info.pixel_counts == {"train": [16, 8]}
    with pytest.raises(DatasetError, match="Received: 0,255 in the file, 0-1 in the"):
        build(tmp_path, class_names=str(path), label_ids=(0, 1))
