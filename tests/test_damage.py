"""More than forty kinds of damage: each is named, and nothing is left half-written.

A miniature of VOC's devkit is built after something was done to it. What kills a build
or fills its disk is in test_build_restart.py, damaged records in test_bad_records.py.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import build_voc2012
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import EXIF_ORIENTATION
from tests.support.pairs import files_of, grey_png, save_image, save_label

NAMES = ("a", "b", "c", "d")
SIZE = (24, 16)
IDS = np.tile(np.array([0, 1, 20, 255], np.uint8), (16, 6))


class Devkit:
    """A devkit of four pairs, of which c is going to be damaged."""

    def __init__(self, folder: Path):
        self.root = folder / "VOCdevkit" / "VOC2012"
        self.images = self.root / "JPEGImages"
        self.labels = self.root / "SegmentationClass"
        self.image, self.label = self.images / "c.jpg", self.labels / "c.png"
        self.list = self.root / "ImageSets" / "Segmentation" / "train.txt"
        self.list.parent.mkdir(parents=True)
        self.list.write_text("\n".join(NAMES) + "\n")
        for name in NAMES:
            save_image(self.images / f"{name}.jpg", SIZE)
            save_label(self.labels / f"{name}.png", IDS)


@pytest.fixture
def devkit(tmp_path) -> Devkit:
    return Devkit(tmp_path)


def build(devkit: Devkit, out: Path, **options):
    options = {"num_processes": 1, "num_shards": 2, **options}
    return build_voc2012.build_voc2012(devkit.root, out, ["train"], **options)


# --- One pair ------------------------------------------------------------------------


def cut(path: Path, keep: float):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def as_image(path: Path, **options):
    """Writes a picture of the size of the label in another way."""
    save_image(path, SIZE, **options)


def turned() -> Image.Exif:
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = 6
    return tags


def flip_bit(path: Path, chunk: bytes):
    """Changes a byte of a PNG chunk, whose checksum then is wrong."""
    data = bytearray(path.read_bytes())
    data[data.index(chunk) + 10] ^= 1
    path.write_bytes(bytes(data))


def huge_png(path: Path):
    """A PNG that says it has 60,000 x 60,000 pixels, and has none."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    length = struct.pack(">I", len(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + length + b"IHDR" + header + checksum)


def replace_by_loop(path: Path):
    path.unlink()
    path.symlink_to(path)


def replace_by_folder(path: Path):
    path.unlink()
    path.mkdir()


def png_image(devkit: Devkit, **options) -> Path:
    """Puts a PNG where the JPEG was: the name says nothing about the format."""
    path = save_image(devkit.images / "c.png", SIZE, **options)
    return path.rename(devkit.image)


def label_of(devkit: Devkit, ids, **options):
    save_label(devkit.label, ids, **options)


def with_id(value: int) -> np.ndarray:
    ids = IDS.copy()
    ids[3, 5] = value
    return ids


def save_as(path: Path, image: Image.Image, image_format: str, **options):
    image.save(path, format=image_format, **options)


GREY = Image.fromarray(IDS)
COLORED = Image.fromarray(np.dstack([IDS] * 3))

# What is done -> what the error says about c.
PAIR_DAMAGE = {
    "image: JPEG cut in its middle": (
        lambda d: cut(d.image, 0.6),
        "c.jpg cannot be decoded",
    ),
    "image: JPEG without its last bytes": (
        lambda d: cut(d.image, 0.95),
        "c.jpg cannot be decoded",
    ),
    "image: PNG cut": (
        lambda d: cut(png_image(d), 0.7),
        "c.jpg cannot be decoded",
    ),
    "image: PNG with a flipped bit": (
        lambda d: flip_bit(png_image(d), b"IDAT"),
        "c.jpg cannot be decoded",
    ),
    "image: header alone": (
        lambda d: d.image.write_bytes(d.image.read_bytes()[:20]),
        "c.jpg (cannot be decoded|is not an image file)",
    ),
    "image: no bytes": (
        lambda d: d.image.write_bytes(b""),
        "c.jpg is not an image file",
    ),
    "image: a web page with an error": (
        lambda d: d.image.write_text("<html>404 Not Found</html>"),
        "c.jpg is not an image file",
    ),
    "image: absent": (lambda d: d.image.unlink(), "there is no file .*c.jpg"),
    "image: a folder": (lambda d: replace_by_folder(d.image), "cannot read .*c.jpg"),
    "image: a link to itself": (
        lambda d: replace_by_loop(d.image),
        "(cannot read|there is no file) .*c.jpg",
    ),
    "image: CMYK": (
        lambda d: as_image(d.image, mode="CMYK"),
        "c.jpg has Pillow mode CMYK; expected RGB",
    ),
    "image: grey": (
        lambda d: as_image(d.image, mode="L"),
        "c.jpg has Pillow mode L; expected RGB",
    ),
    "image: grey of 16 bits": (
        lambda d: d.image.write_bytes(grey_png(IDS.astype(int) * 257, 16)),
        "c.jpg has Pillow mode I.*; expected RGB",
    ),
    "image: with an alpha channel": (
        lambda d: png_image(d, mode="RGBA"),
        "c.jpg has Pillow mode RGBA; expected RGB",
    ),
    "image: palette PNG": (
        lambda d: png_image(d, mode="P"),
        "c.jpg has Pillow mode P; expected RGB",
    ),
    "image: turned by EXIF": (
        lambda d: as_image(d.image, exif=turned()),
        r"c.jpg is stored turned \(EXIF orientation 6\)",
    ),
    "image: GIF": (
        lambda d: save_as(d.image, COLORED, "GIF"),
        "c.jpg is a GIF file; expected JPEG or PNG",
    ),
    "image: TIFF": (
        lambda d: save_as(d.image, COLORED, "TIFF"),
        "c.jpg is a TIFF file; expected JPEG or PNG",
    ),
    "image: WebP": (
        lambda d: save_as(d.image, COLORED, "WEBP"),
        "c.jpg is a WEBP file; expected JPEG or PNG",
    ),
    "image: a bomb of 3.6 gigapixels": (
        lambda d: huge_png(d.image),
        "c.jpg (cannot be decoded|is not an image file)",
    ),
    "image: one column less than the label": (
        lambda d: save_image(d.image, (23, 16)),
        r"image is 23x16 \(width x height\), label is 24x16; expected the same size",
    ),
    "label: turned by 90 degrees": (
        lambda d: label_of(d, IDS.T),
        "image is 24x16 .*, label is 16x24; expected the same size",
    ),
    "label: PNG cut": (lambda d: cut(d.label, 0.8), "c.png cannot be decoded"),
    "label: PNG with a flipped bit": (
        lambda d: flip_bit(d.label, b"IDAT"),
        "c.png cannot be decoded",
    ),
    "label: no bytes": (
        lambda d: d.label.write_bytes(b""),
        "c.png is not an image file",
    ),
    "label: text": (
        lambda d: d.label.write_text("0 0 1"),
        "c.png is not an image file",
    ),
    "label: absent": (lambda d: d.label.unlink(), "there is no file .*c.png"),
    "label: a folder": (lambda d: replace_by_folder(d.label), "cannot read .*c.png"),
    "label: JPEG": (
        lambda d: save_as(d.label, GREY, "JPEG"),
        "c.png is a JPEG, which alters ids",
    ),
    "label: RGB where ids are expected": (
        lambda d: save_as(d.label, COLORED, "PNG"),
        r"c.png has colours or more than 8 bits \(Pillow mode RGB\)",
    ),
    "label: RGBA": (
        lambda d: save_as(d.label, COLORED.convert("RGBA"), "PNG"),
        r"c.png has colours or more than 8 bits \(Pillow mode RGBA\)",
    ),
    "label: 16 bits": (
        lambda d: d.label.write_bytes(grey_png(IDS.astype(int), 16)),
        r"c.png has colours or more than 8 bits \(Pillow mode I",
    ),
    "label: floating point": (
        lambda d: save_as(d.label, GREY.convert("F"), "TIFF"),
        r"c.png has colours or more than 8 bits \(Pillow mode F\)",
    ),
    "label: an id above the last class": (
        lambda d: label_of(d, with_id(21)),
        r"label has the ids 21; expected 0 to 20 or 255 \(ignored\)",
    ),
    "label: void marked as 254": (
        lambda d: label_of(d, with_id(254)),
        "label has the ids 254; expected 0 to 20",
    ),
    "label: scaled greys instead of ids": (
        lambda d: label_of(d, with_id(0) // 20 * 120, palette=False),
        "label has the ids 120.*; expected 0 to 20",
    ),
}


@pytest.mark.parametrize("kind", PAIR_DAMAGE)
def test_a_damaged_pair_is_named_and_the_others_can_go_on(
    devkit, tmp_path, capsys, kind
):
    damage, sentence = PAIR_DAMAGE[kind]
    damage(devkit)
    with pytest.raises(DatasetError, match=f"train/c: .*{sentence}") as error:
        build(devkit, tmp_path / "out")
    assert "1 of 4 pairs cannot be used" in str(error.value)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*.part"))
    info = build(devkit, tmp_path / "out", skip_bad=True)
    assert info.splits == {"train": 3}
    assert info.pixel_counts["train"][20] == 3 * np.sum(IDS == 20)
    assert "train/c: " in capsys.readouterr().err
    assert set(files_of(tmp_path / "out")) == {
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
        "info.json",
    }


def test_files_that_may_not_be_read(devkit, tmp_path, monkeypatch):
    devkit.label.chmod(0)
    if os.access(devkit.label, os.R_OK):  # root may read everything
        read_bytes = Path.read_bytes

        def refuse(path):
            if path == devkit.label:
                raise PermissionError(13, "Permission denied")
            return read_bytes(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DatasetError, match="cannot read .*c.png .Permission denied"):
        build(devkit, tmp_path / "out")


# --- Lists, folders, requests --------------------------------------------------------


def overwrite_by_file(d: Devkit, out: Path):
    out.write_text("a file")


def keep_a_folder(d: Devkit, out: Path):
    out.mkdir()
    (out / "thesis.tex").write_text("not a data set")


# What is done -> what the error says.
SET_DAMAGE = {
    "no list": (lambda d, out: d.list.unlink(), "no file .*train.txt"),
    "empty list": (
        lambda d, out: d.list.write_text(""),
        "at least one name in .*train.txt",
    ),
    "list of blank lines": (
        lambda d, out: d.list.write_text("\n  \n\t\n"),
        "at least one name in .*train.txt",
    ),
    "list in another encoding": (
        lambda d, out: d.list.write_bytes("größe\n".encode("utf-16")),
        "Expected text in UTF-8 in .*train.txt",
    ),
    "duplicate names": (
        lambda d, out: d.list.write_text("a\nb\na\nb\n"),
        "each name once in split train. Received more than once: a, b",
    ),
    "a name without files": (
        lambda d, out: d.list.write_text("a\nnever\n"),
        "train/never: there is no file .*never",
    ),
    "no devkit": (
        lambda d, out: d.list.parent.rename(d.root / "Lists"),
        "Expected the folder VOCdevkit/VOC2012 with ImageSets/Segmentation",
    ),
    "output exists": (
        lambda d, out: build(d, out),
        "out exists already. Give another --output_dir, or --overwrite",
    ),
    "output is a file": (overwrite_by_file, "Expected a folder. Received: .*out"),
    "output holds something else": (keep_a_folder, "exists already"),
    "output below a file": (
        lambda d, out: out.parent.write_text("a file"),
        "Cannot write to .*made",
    ),
}


@pytest.mark.parametrize("kind", SET_DAMAGE)
def test_what_concerns_the_whole_set_is_one_sentence(devkit, tmp_path, kind):
    damage, sentence = SET_DAMAGE[kind]
    out = tmp_path / "made" / "out"
    if "below" not in kind:
        out.parent.mkdir()
    damage(devkit, out)
    before = {path: path.is_file() and path.read_bytes() for path in out.rglob("*")}
    with pytest.raises(DatasetError, match=sentence):
        build(devkit, out)
    assert {p: p.is_file() and p.read_bytes() for p in out.rglob("*")} == before
    assert not list(tmp_path.rglob("*.part"))
