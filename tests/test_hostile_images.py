"""Hundreds of inputs that are no images, or bad ones, among a few good ones."""

from __future__ import annotations

import gzip
import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.commands import predict
from deeplab_tf.inference.segmenter import load_segmenter
from deeplab_tf.prediction import input_files
from deeplab_tf.prediction.input_files import find_inputs
from deeplab_tf.prediction.outputs import Output, predict_files
from tests.support.commands import call

pytestmark = pytest.mark.two_lanes

PNG_START = b"\x89PNG\r\n\x1a\n"
MAGIC = {
    "jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "png": PNG_START,
    "gif": b"GIF89a",
    "bmp": b"BM",
    "tif": b"II*\0",
    "webp": b"RIFF\xff\0\0\0WEBPVP8 ",
}
FORMATS = {"jpg": "JPEG", "tif": "TIFF"}


def picture(width: int = 90, height: int = 70) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, [6, 8, 3], dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


def encoded(image: Image.Image, extension: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, FORMATS.get(extension, extension.upper()), **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def png(width: int, height: int, *chunks: bytes, bits: int = 8, color: int = 2):
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return PNG_START + chunk(b"IHDR", header) + b"".join(chunks)


IDAT = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
IEND = chunk(b"IEND", b"")


def truncated():
    """Each format, cut where header, tables and pixels are."""
    for extension, options in (
        ("jpg", {}),
        ("jpg", {"progressive": True}),
        ("png", {}),
        ("gif", {}),
        ("bmp", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("webp", {}),
    ):
        data = encoded(picture(), extension, **options)
        cuts = [1, 2, 4, 8, 12, 16, 24, 32, 64, 100]
        cuts += [len(data) * part // 10 for part in range(2, 10)] + [len(data) - 40]
        for cut in sorted(set(cuts)):
            name = f"cut_{'_'.join(options)}{cut:05d}.{extension}"
            yield name, data[:cut]


def damaged():
    data = bytearray(encoded(picture(), "png"))
    for index in range(20):  # any byte after the signature breaks a CRC
        place = 8 + index * (len(data) - 9) // 20
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        yield f"crc_{index:02d}.png", bytes(flipped)
    yield "no_idat.png", png(90, 70, IEND)
    yield "no_end.png", png(90, 70, IDAT)
    yield "short_idat.png", png(90, 70, IDAT, IEND)
    yield "bad_crc.png", PNG_START + chunk(b"IHDR", bytes(13), crc=1)
    yield "unknown_critical.png", png(90, 70, chunk(b"ABCD", b"x"), IDAT, IEND)
    yield "bad_bits.png", png(90, 70, IDAT, IEND, bits=7)
    yield "bad_color.png", png(90, 70, IDAT, IEND, color=5)
    yield "no_palette.png", png(90, 70, IDAT, IEND, color=3)
    yield "huge_chunk.png", png(90, 70, b"\x7f\xff\xff\xffIDAT")
    yield "zero_wide.png", png(0, 70, IDAT, IEND)
    yield "negative.png", png(2**32 - 5, 70, IDAT, IEND)
    text = zlib.compress(bytes(80 * 2**20))
    bomb = chunk(b"zTXt", b"Comment\0\0" + text)
    yield "text_bomb.png", png(90, 70, bomb, IDAT, IEND)
    jpeg = encoded(picture(), "jpg")
    start = jpeg.index(b"\xff\xda")
    yield "no_frame.jpg", jpeg[:2] + jpeg[start:]
    yield "no_end.jpg", jpeg[:-2]
    for part in range(1, 8):  # a decoder would fill up with grey
        half = jpeg[: start + 14 + (len(jpeg) - start) * part // 10]
        yield f"closed_{part}.jpg", half + b"\xff\xd9"
    yield "zeros_at_the_end.jpg", jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2)
    yield "start_twice.jpg", jpeg[:2] * 500


def bombs():
    """Sizes that the header claims and the file does not hold."""
    for side in (30_000, 60_000, 2**31 - 1):
        yield f"bomb_{side}.png", png(side, side, IDAT, IEND)
        yield f"bomb_grey_{side}.png", png(side, side, IDAT, IEND, bits=1, color=0)
    for side in (40_000, 2**31 - 1):
        header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        yield f"bomb_{side}.bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header
    gif = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b","
    gif += struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02L\x01\0;"
    yield "bomb.gif", gif
    jpeg = bytearray(encoded(picture(), "jpg"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65535, 65535)
    yield "bomb.jpg", bytes(jpeg)
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 9000, 9000)
    yield "claims_more.jpg", bytes(jpeg)
    # Within the bound: must fail for want of pixels, and take no long time for it.
    yield "claims_more.png", png(9000, 9000, IDAT, IEND)


def odd():
    image = picture()
    frames = [image.rotate(90), image.rotate(180)]
    for extension in ("gif", "png", "webp", "tif"):
        several = encoded(image, extension, save_all=True, append_images=frames)
        yield f"animated.{extension}", several
    for mode in ("F", "I"):
        yield f"mode_{mode}.tif", encoded(image.convert("L").convert(mode), "tif")
    yield "mode_LAB.tif", encoded(Image.new("LAB", (64, 64)), "tif")
    for width, height in ((1, 1), (31, 500), (500, 31), (30_000, 1), (1, 30_000)):
        for extension in ("jpg", "png", "webp", "bmp", "gif", "tif"):
            if extension != "webp" or max(width, height) < 16384:
                small = Image.new("RGB", (width, height))
                yield f"thin_{width}x{height}.{extension}", encoded(small, extension)


def no_images():
    generator = np.random.default_rng(0)
    texts = {
        "empty": b"",
        "one_byte": b"\xff",
        "text": b"This is a text.\n" * 50,
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="70"/>',
        "json": b'{"image": "x"}',
        "zip": b"PK\x03\x04" + bytes(60),
        "gzip": gzip.compress(encoded(picture(), "png"), mtime=0),
        "pdf": b"%PDF-1.7\n%\xe2\xe3\n",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 70\nquit\n",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        "icon": b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0" + bytes(100),
        "zeros": bytes(5000),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(100),
        "git_lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "random": generator.bytes(4000),
    }
    for name, data in texts.items():
        for extension in ("jpg", "png"):
            yield f"{name}.{extension}", data
    for extension, magic in MAGIC.items():
        for index, length in enumerate((0, 20, 300, 5000)):
            name = f"magic_{index}.{extension}"
            yield name, magic + generator.bytes(length)


def make_special(folder: Path) -> list[str]:
    """Makes what is no file with bytes in it; returns the names."""
    (folder / "folder.jpg").mkdir()
    (folder / "folder.png").mkdir()
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop_a.jpg").symlink_to(folder / "loop_b.jpg")
    (folder / "loop_b.jpg").symlink_to(folder / "loop_a.jpg")
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "to_folder.png").symlink_to(folder / "folder.png")
    (folder / "device.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "two\nlines.jpg").write_text("text")
    (folder / "name: with. stops.jpg").write_text("text")
    (folder / os.fsdecode(b"not_utf8_\xff.jpg")).write_text("text")
    return sorted(set(os.listdir(folder)))


GOOD = {
    "good.jpg": encoded(picture(), "jpg"),
    "good.webp": encoded(picture(64, 48), "webp"),
    "good_palette.gif": encoded(picture(40, 33).quantize(8), "gif"),
    "wrong_extension.png": encoded(picture(50, 60), "jpg"),
    "wrong_extension.jpg": encoded(picture(33, 70), "png"),
    "zz_last.tif": encoded(picture(70, 50), "tif"),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder, and the names of what is bad in it."""
    folder = tmp_path_factory.mktemp("hostile")
    bad = make_special(folder)
    for name, data in (*truncated(), *damaged(), *bombs(), *odd(), *no_images()):
        assert not (folder / name).exists(), name
        (folder / name).write_bytes(data)
        bad.append(name)
    for name, data in GOOD.items():
        (folder / name).write_bytes(data)
    return folder, sorted(bad)


@pytest.fixture(scope="module")
def answer(hostile, workdir, tmp_path_factory):
    """Failures, output folder and seconds of one run over all of them."""
    folder, _ = hostile
    output = tmp_path_factory.mktemp("output")
    segmenter = load_segmenter(str(workdir), None)
    start = time.perf_counter()
    failures = predict_files(segmenter, find_inputs(str(folder)), Output(str(output)))
    return failures, output, time.perf_counter() - start


def test_there_are_hundreds(hostile):
    assert len(hostile[1]) >= 200


def test_each_bad_input_is_named_in_one_sentence(hostile, answer):
    folder, bad = hostile
    named = {}
    for failure in answer[0]:
        path, _, reason = failure.rpartition(": ")
        assert failure.isprintable(), repr(failure)
        assert reason.endswith(".") and ". " not in reason, failure
        assert "Error" not in reason and "node" not in reason, failure
        named[path] = reason
    shown = [input_files.shown(str(folder / name)) for name in bad]
    assert sorted(named) == sorted(shown)
    assert len(answer[0]) == len(bad)


def test_the_good_ones_are_predicted(answer):
    _, output, _ = answer
    sizes = [Image.open(path).size for path in (output / "classes").iterdir()]
    assert sorted(sizes) == sorted(
        Image.open(io.BytesIO(data)).size for data in GOOD.values()
    )
    assert len(os.listdir(output / "overlay")) == len(GOOD)
    with open(output / "shares.csv", encoding="utf-8") as file:
        assert len(file.readlines()) == 1 + len(GOOD)


def test_no_bad_input_takes_long(hostile, answer):
    # 0.01 to 0.03 s each; what is decoded before it is refused takes a second.
    assert answer[2] < 0.2 * len(hostile[1])


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="root may read every file, so none can be made unreadable",
)
def test_an_unreadable_file_is_named(workdir, tmp_path):
    path = tmp_path / "secret.jpg"
    path.write_bytes(GOOD["good.jpg"])
    path.chmod(0)
    segmenter = load_segmenter(str(workdir), None)
    output = Output(str(tmp_path / "out"))
    failures = predict_files(segmenter, [str(path)], output)
    assert failures == [f"{path}: Permission denied."]


def test_the_exit_code_says_so(hostile, workdir, tmp_path):
    folder, bad = hostile
    patterns = f"{folder}/good*,{folder}/cut_0*,{folder}/bomb*"
    chosen = [name for name in bad if name.startswith(("cut_0", "bomb"))]
    flags = [f"--workdir={workdir}", f"--input={patterns}", f"--output={tmp_path}"]
    done = call(predict, *flags)
    assert done.returncode == 1
    assert f"3 of {len(chosen) + 3} inputs: {tmp_path}" in done.stdout
    assert "Traceback" not in done.stderr
    *lines, rest = done.stderr.splitlines()[-11:]
    assert [line.partition(": ")[0] for line in lines] == [
        str(folder / name) for name in chosen[:10]
    ]
    assert rest == f"... and {len(chosen) - 10} more."
