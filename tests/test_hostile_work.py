"""Small files that would hold a decoder for minutes are refused at once."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.data.building import image_files
from deeplab_tf.data.reading.bad_records import find_problem
from deeplab_tf.data.records.tfrecord import encode_example, parse_example
from deeplab_tf.image_work import MAX_SCANS, check_work, has_few_scans
from deeplab_tf.pictures.images import read_image
from tests.support.pairs import exif

pytestmark = pytest.mark.two_lanes

WIDE = (4000, 2000)  # width, height


def encoded(form: str, size=(64, 48), mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 99 if len(mode) < 3 else "red").save(file, form, **options)
    return file.getvalue()


def with_scans(count: int, size=WIDE) -> bytes:
    """A progressive JPEG whose last scan is repeated until it has `count`."""
    data = encoded("JPEG", size, "L", progressive=True)
    start, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    missing = count - data.count(b"\xff\xda")
    return data[:end] + data[start:end] * missing + data[end:]


def with_segments(segment: bytes, count: int) -> bytes:
    data = encoded("JPEG")
    return data[:2] + segment * count + data[2:]


def with_chunks(name: bytes, content: bytes, count: int) -> bytes:
    data = encoded("PNG")
    chunk = struct.pack(">I", len(content)) + name + content
    chunk += struct.pack(">I", zlib.crc32(name + content))
    return data[:33] + chunk * count + data[33:]


def with_extensions(extension: bytes) -> bytes:
    data = encoded("GIF")
    image = data.index(b",", 13)
    return data[:image] + extension + data[image:]


def rle_bitmap(width: int, height: int, pixels: bytes) -> bytes:
    sizes = (40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    header = struct.pack("<IiiHHIIiiII", *sizes) + bytes(1024)
    start = 14 + len(header)
    head = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    return head + header + pixels


def greedy_tags(size: int, count: int) -> bytes:
    """A TIFF of many tags that all claim the same bytes."""
    tags = b"".join(
        struct.pack("<HHII", 40_000 + tag, 7, size - 10, 8) for tag in range(count)
    )
    directory = struct.pack("<H", count) + tags + bytes(4)
    return b"II*\0" + struct.pack("<I", size) + bytes(size - 8) + directory


def profile(kind: bytes, tags: bytes) -> bytes:
    """A PNG with EXIF in digits, as ImageMagick writes it."""
    text = b"\nexif\n%8d\n" % len(tags) + (b"Exif\0\0" + tags).hex().encode()
    before = {b"tEXt": b"", b"zTXt": b"\0", b"iTXt": b"\1\0\0\0"}[kind]
    text = text if kind == b"tEXt" else zlib.compress(text)
    return with_chunks(kind, b"Raw profile type exif\0" + before + text, 1)


def many_strips(count: int) -> bytes:
    """A grey TIFF, one pixel wide, with a strip for each."""
    places = struct.pack(f"<{2 * count}I", *[8] * count, *[1] * count)
    tags = [(256, 1, 1), (257, 1, count), (258, 1, 8), (259, 1, 1), (262, 1, 1)]
    tags += [(273, count, 16), (277, 1, 1), (278, 1, 1), (279, count, 16 + 4 * count)]
    entries = b"".join(struct.pack("<HHII", tag, 4, *rest) for tag, *rest in tags)
    head = b"II*\0" + struct.pack("<I", 16 + len(places)) + bytes(8) + places
    return head + struct.pack("<H", len(tags)) + entries + bytes(4)


def deep_tags() -> bytes:
    """Tags that claim the same bytes, in the directory of EXIF below the first."""
    deep = greedy_tags(500_000, 20_000)
    entry = struct.pack("<HHHII", 1, 0x8769, 4, 1, 500_000) + bytes(4)
    return deep[:4] + struct.pack("<I", len(deep)) + deep[8:] + entry


def many_directories() -> bytes:
    """100 directories of 0x3030 tags each, all of them in the same bytes."""
    block = b"0" * 300_000
    entries = b"".join(
        struct.pack("<HHII", 0x8769, 4, 1, 8 + place) for place in range(100)
    )
    head = b"II*\0" + struct.pack("<I", 8 + len(block)) + block
    return head + struct.pack("<H", 100) + entries + bytes(4)


GREEDY = greedy_tags(200_000, 15_000)
HOSTILE = {
    "scans": (with_scans(1000), "8.0 megapixels in more than 100 scans"),
    "some scans of many pixels": (with_scans(90, (8000, 4000)), "more than 31 scans"),
    "fill bytes": (with_segments(b"\xff", 2**20), "filled up between its segments"),
    "junk": (with_segments(b"\xff\xfe\0\2" + bytes(2**17), 8), "filled up between"),
    "segments": (with_segments(b"\xff\xe1\0\2", 2**19), "a JPEG of far more parts"),
    "restarts": (with_segments(b"\xff\xd0", 2**19), "a JPEG of far more parts"),
    "chunks": (with_chunks(b"teSt", b"", 100_000), "a PNG of far more parts"),
    "texts": (with_chunks(b"tEXt", b"a\0b", 100_000), "a PNG of far more parts"),
    "one long comment": (
        with_extensions(b"!\xfe" + (b"\xff" + bytes(255)) * 20_000 + b"\0"),
        "comments of over a megabyte",
    ),
    "a comment in single bytes": (
        with_extensions(b"!\xfe" + b"\1x" * 500_000 + b"\0"),
        "a GIF of far more parts",
    ),
    "comments": (with_extensions(b"!\xfe\1x\0" * 200_000), "a GIF of far more parts"),
    "lines of nothing": (rle_bitmap(4000, 4000, b"\1\1\0\0" * 4000), "4000x4000"),
    "a jump": (rle_bitmap(8_000_000, 1, b"\1\1\0\2\xff\xff\0\1"), "1x8000000"),
    "tags": (greedy_tags(500_000, 20_000), "tags of far more bytes"),
    "strips": (many_strips(500_000), "a TIFF of far more parts"),
    "EXIF in text": (profile(b"tEXt", GREEDY), "tags of far more"),
    "EXIF in packed text": (profile(b"zTXt", GREEDY), "tags of far more"),
    "EXIF in international text": (profile(b"iTXt", GREEDY), "tags of far more"),
    "EXIF below": (with_chunks(b"eXIf", deep_tags(), 1), "tags of far more"),
    "directories": (many_directories(), "a TIFF of far more parts"),
    "EXIF": (with_chunks(b"eXIf", greedy_tags(500_000, 20_000), 1), "tags of far more"),
    "numbers in words": (b"P3 3000 3000 255 " + b"1 " * 9000, "3000x3000"),
    "a rare depth": (b"P6 3000 3000 254 " + bytes(9000), "3000x3000"),
    "a header of comments": (b"P3 " + b"#\n" * 5000, "a header without end"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_work_out_of_proportion_is_refused_at_once(kind, tmp_path):
    data, sentence = HOSTILE[kind]
    path = tmp_path / "image"
    path.write_bytes(data)
    start = time.process_time()
    for source in (data, str(path)):  # page, predict
        with pytest.raises(ValueError, match=sentence):
            read_image(source)
    with pytest.raises(ValueError, match=f"{path} is an? .*{sentence[2:]}"):
        image_files.read_image(str(path))  # builders
    assert time.process_time() - start < 1


HARMLESS = {
    "a strip for each row": many_strips(5000),
    "EXIF in text": profile(b"zTXt", exif(6).tobytes()[6:]),
    "progressive": encoded("JPEG", WIDE, progressive=True),
    "many scans of a small image": with_scans(MAX_SCANS, (64, 48)),
    "restart markers": encoded("JPEG", WIDE, restart_marker_blocks=1),
    "thumbnail and profile": encoded(
        "JPEG", exif=exif(1), icc_profile=bytes(300_000), comment=b"x" * 60_000
    ),
    "CMYK": encoded("JPEG", mode="CMYK"),
    "texts": with_chunks(b"tEXt", b"a\0b", 300),
    "a comment": with_extensions(b"!\xfe" + (b"\xff" + bytes(255)) * 4 + b"\0"),
    "a palette": encoded("GIF", mode="P"),
    "strips": encoded("TIFF", WIDE, compression="tiff_lzw", strip_size=4000),
    "tags": encoded("TIFF", software="x" * 1000),
    "damaged tag": greedy_tags(500_000, 1),
    "tags in a circle": greedy_tags(500_000, 1)[:-4] + struct.pack("<I", 500_000),
    "EXIF in WebP": encoded("WEBP", exif=exif(1)),
    "run lengths": rle_bitmap(64, 48, b"\x40\1\0\0" * 48 + b"\0\1"),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_programs_write_passes(kind):
    check_work(HARMLESS[kind])
    if kind not in ("damaged tag", "tags in a circle"):
        assert read_image(HARMLESS[kind]).shape[2] == 3


@pytest.mark.parametrize("cut", [0, 1, 4, 11, 20, 30, 200])
def test_what_is_cut_short_is_left_to_the_decoder(cut):
    for data in HARMLESS.values():
        check_work(data[:cut])


def test_graphs_count_scans_too():
    assert bool(has_few_scans(with_scans(MAX_SCANS)))
    assert not bool(has_few_scans(with_scans(MAX_SCANS + 1)))
    assert bool(has_few_scans(b"")) and bool(has_few_scans(b"\xff\xda\0"))
    # What motion photos hold after the image, and marks of scans by chance.
    noise = np.random.default_rng(0).bytes(2**20) + b"\xff\xda" * 1000
    assert bool(has_few_scans(encoded("JPEG") + noise))
    interleaved = encoded("JPEG")
    start = interleaved.index(b"\xff\xda")
    assert not bool(has_few_scans(interleaved + interleaved[start:] * MAX_SCANS))
    in_graph = tf.function(
        has_few_scans, input_signature=[tf.TensorSpec([], tf.string)]
    )
    assert not bool(in_graph(with_scans(1000)))


def test_records_of_other_builders_are_not_decoded_for_ever():
    """A builder of ours refuses such a file; TF-Models' converters do not."""
    label = np.zeros(WIDE[::-1], np.uint8)
    record = encode_example(with_scans(1000), label, "a.jpg", "jpeg", *label.shape)
    start = time.process_time()
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 100 scans"):
        parse_example(record)
    assert find_problem(record, 2, 255) == (
        "its image has more than 100 scans: save it anew"
    )
    assert time.process_time() - start < 5  # decoding it takes 12 on one core
