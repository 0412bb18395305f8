"""Files that people have: their kinds, their names, and what is left out is counted."""

from __future__ import annotations

import sys
import types
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import build_folder
from deeplab_tf import image_kinds
from deeplab_tf.data.building import files, image_files, pairs
from deeplab_tf.data.folders import folder_splits, pair_lists
from deeplab_tf.data.folders.label_rules import LabelRules
from deeplab_tf.pictures.images import read_image
from deeplab_tf.prediction.input_files import find_inputs, select_listed
from tests.support.pairs import exif, make_pairs, read_records, save_image, save_label

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
KINDS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jfif", ".jpe"), "JPEG"),
    **{".png": "PNG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP", ".avif": "AVIF"},
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pnm"), "PPM"),
    **{".pgm": "PPM", ".pbm": "PPM"},
}


def test_each_ending_is_known():
    assert {*KINDS, ".heic", ".heif"} == set(image_kinds.IMAGE_SUFFIXES)


@pytest.mark.parametrize("suffix", KINDS)
def test_each_kind_is_built_and_predicted(suffix, tmp_path):
    if KINDS[suffix] not in image_kinds.pillow_formats():
        pytest.skip("Pillow reads no such files here")
    mode = {".pgm": "L", ".pbm": "1"}.get(suffix, "RGB")
    path = tmp_path / "images" / f"a{suffix.upper()}"
    save_image(path, (48, 40), mode, format=KINDS[suffix])
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    tolerance = 20 if KINDS[suffix] == "JPEG" else 0  # another inverse transform
    np.testing.assert_allclose(
        read_image(str(path)).astype(int), expected, atol=tolerance
    )
    assert find_inputs(str(tmp_path / "images")) == [str(path)]
    save_label(tmp_path / "labels" / "a.png", np.tile([[0, 1]], (40, 24)))
    splits = folder_splits.list_splits(
        tmp_path / "images", tmp_path / "labels", val_fraction=0
    )
    build_folder.build_splits(splits, tmp_path / "out", num_processes=1)
    built = read_records(tmp_path / "out", "train")["a"]["image"]
    np.testing.assert_allclose(built.astype(int), expected, atol=tolerance)


def test_a_missing_package_is_named(tmp_path):
    path = tmp_path / "a.heic"
    path.write_bytes(HEIC)
    for read in (read_image, image_files.read_image):
        with pytest.raises(ValueError, match="a HEIC image.*pip install pillow-heif"):
            read(str(path))


def test_an_installed_package_is_asked(monkeypatch):
    asked = []
    package = types.ModuleType("pillow_heif")
    package.register_heif_opener = lambda: asked.append(True)
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setitem(Image.OPEN, "HEIF", (None, None))
    image_kinds.pillow_formats.cache_clear()
    assert "HEIF" in image_kinds.pillow_formats() and asked
    assert not image_kinds.missing_package(HEIC)
    image_kinds.pillow_formats.cache_clear()


def test_programs_are_not_started_for_an_image(tmp_path):
    """Pillow would ask Ghostscript."""
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ValueError, match="is not an image file"):
        files.open_image(path.read_bytes(), str(path))


# --- Names ---------------------------------------------------------------------------


def test_what_is_skipped_is_counted(tmp_path, capsys):
    make_pairs(tmp_path, "ab")
    for name in ("a.xml", "b.xml", "notes", "x.CR2", ".hidden.xml", "._a.png"):
        (tmp_path / "images" / name).touch()
    folder_splits.list_splits(tmp_path / "images", tmp_path / "labels", val_fraction=0)
    sentence = (
        f"Skipped in {tmp_path / 'images'}: 4 files of other kinds "
        "(2 .xml, 1 no ending, 1 .cr2).\n"
    )
    assert capsys.readouterr().out == sentence
    assert len(find_inputs(str(tmp_path / "images"))) == 2
    assert "4 files of other kinds" in capsys.readouterr().out


def test_leftovers_of_macos_are_no_images(tmp_path):
    for name in ("a.png", "._a.png"):
        (tmp_path / name).touch()
    for inputs in (tmp_path, tmp_path / "*.png"):
        assert find_inputs(str(inputs)) == [str(tmp_path / "a.png")]
    assert find_inputs(str(tmp_path), recursive=True) == [str(tmp_path / "a.png")]


def test_one_name_in_two_forms_of_unicode(tmp_path):
    taken_apart, together = (
        unicodedata.normalize(form, "größe") for form in ("NFD", "NFC")
    )
    save_image(tmp_path / "images" / f"{taken_apart}.png")
    save_label(tmp_path / "labels" / f"{together}.png")
    folders = (tmp_path / "images", tmp_path / "labels")
    expected = pairs.Sample(
        together,
        *(
            str(folder / f"{name}.png")
            for folder, name in zip(folders, (taken_apart, together))
        ),
    )
    splits = folder_splits.list_splits(*folders, val_fraction=0)
    assert splits == {"train": [expected]}
    for form in (taken_apart, together):
        (tmp_path / "val.txt").write_text(form, encoding="utf-8")
        (sample,) = folder_splits.list_splits(*folders)["val"]
        assert sample[1:] == expected[1:]
        assert Path(files.find_file(folders[0], form, [".png"])).is_file()
        found, missing = select_listed([expected.image], str(tmp_path / "val.txt"))
        assert found == [expected.image] and not missing
    path = tmp_path / "pairs.csv"
    path.write_text(f"image,label\nimages/{together}.png,labels/{taken_apart}.png\n")
    splits = pair_lists.read_lists([path], val_fraction=0)
    rules = LabelRules(num_classes=2)
    info = build_folder.build_splits(splits, tmp_path / "o", rules, num_processes=1)
    assert info.splits == {"train": 1}


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_orientations_that_mean_nothing_are_upright(tmp_path, orientation):
    path = save_image(tmp_path / "a.jpg", (6, 4), exif=exif(orientation))
    data = image_files.read_image(str(path))
    assert data == path.read_bytes()
    assert pairs.check_image(data, "a") == ("jpeg", 4, 6)
