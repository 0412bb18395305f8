"""Image files -> upright RGB: formats, modes, EXIF, bounds, what is refused."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.pictures import images
from deeplab_tf.pictures.images import decode_image, read_image

# Rows and columns differ, and so do all corners.
PIXELS = np.array(
    [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        [[10, 20, 30], [200, 100, 50], [7, 7, 7]],
    ],
    np.uint8,
)


def encoded(picture, format, **options) -> bytes:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def png_of_16_bits(values: np.ndarray) -> bytes:
    """Writes uint16 [h, w] or [h, w, 3] as PNG, without Pillow."""
    height, width = values.shape[:2]
    color_type = 0 if values.ndim == 2 else 2
    rows = values.astype(">u2").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    return png_of_chunks(
        (b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")
    )


def png_of_chunks(*chunks) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in chunks:
        crc = zlib.crc32(name + data)
        parts.append(struct.pack(">I", len(data)) + name + data)
        parts.append(struct.pack(">I", crc))
    return b"".join(parts)


LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}


@pytest.mark.parametrize("format", LOSSLESS)
def test_pixels_are_those_stored(format, tmp_path):
    data = encoded(PIXELS, format, **LOSSLESS[format])
    np.testing.assert_array_equal(read_image(data), PIXELS)
    path = tmp_path / "image.dat"  # the content counts, not the name
    path.write_bytes(data)
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, PIXELS)


def test_a_still_gif_and_a_palette_become_rgb():
    palette = Image.fromarray(PIXELS).quantize(6)
    for format in ("GIF", "PNG", "BMP", "TIFF"):
        data = encoded(palette, format)
        np.testing.assert_array_equal(read_image(data), PIXELS, format)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_pixels_are_those_of_the_records_and_the_export(mode, options):
    photo = smooth_picture().convert(mode)
    data = encoded(photo, "JPEG", **options)
    np.testing.assert_array_equal(read_image(data), decode_image(data))


def test_a_cmyk_jpeg_has_the_colours_it_shows():
    for color in ((255, 0, 0), (0, 128, 255), (255, 255, 255), (9, 9, 9)):
        picture = Image.new("RGB", (40, 40), color).convert("CMYK")
        image = read_image(encoded(picture, "JPEG", quality=100))
        difference = np.abs(image.astype(int) - color)
        assert difference.max() <= 4, color


def test_cmyk_tiff_bilevel_and_grey():
    cmyk = Image.frombytes("CMYK", (2, 1), bytes([0, 255, 255, 0, 0, 0, 0, 255]))
    image = read_image(encoded(cmyk, "TIFF"))
    np.testing.assert_array_equal(image, [[(255, 0, 0), (0, 0, 0)]])
    bilevel = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    for format in ("PNG", "TIFF", "BMP"):
        grey = read_image(encoded(bilevel, format))
        np.testing.assert_array_equal(grey[..., 1], [[0, 255], [255, 0]], format)
    levels = np.array([[0, 77, 255]], np.uint8)
    for format in ("PNG", "TIFF", "BMP", "GIF"):
        grey = read_image(encoded(levels, format))
        np.testing.assert_array_equal(grey, np.stack([levels] * 3, -1), format)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_dropped_not_blended(format):
    alpha = np.array([[0, 128, 255], [255, 0, 1]], np.uint8)
    rgba = Image.fromarray(np.dstack([PIXELS, alpha]))
    data = encoded(rgba, format, **LOSSLESS[format])
    np.testing.assert_array_equal(read_image(data), PIXELS)
    if format == "WEBP":  # has no grey
        return
    grey_alpha = Image.merge(
        "LA", [Image.fromarray(PIXELS[..., 0]), rgba.getchannel(3)]
    )
    image = read_image(encoded(grey_alpha, format))
    np.testing.assert_array_equal(image, np.stack([PIXELS[..., 0]] * 3, -1))


def test_of_16_bits_the_upper_8_count():
    values = np.array([[0, 255, 256], [0x1234, 0xFEFF, 0xFFFF]], np.uint16)
    expected = np.array([[0, 0, 1], [0x12, 0xFE, 0xFF]], np.uint8)
    grey = np.stack([expected] * 3, -1)
    np.testing.assert_array_equal(read_image(png_of_16_bits(values)), grey)
    np.testing.assert_array_equal(read_image(encoded(values, "TIFF")), grey)
    colors = np.stack([values, values[::-1], values[:, ::-1]], -1)
    expected = np.stack([expected, expected[::-1], expected[:, ::-1]], -1)
    np.testing.assert_array_equal(read_image(png_of_16_bits(colors)), expected)


# How a viewer turns the stored pixels; EXIF 2.32, tag 274.
TURNS = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: np.fliplr(np.rot90(image, -1)),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.fliplr(np.rot90(image, 1)),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("orientation", [*TURNS, 0, 9])
def test_an_image_stands_upright(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    expected = TURNS.get(orientation, TURNS[1])(PIXELS)
    for format, options in LOSSLESS.items():
        if format != "BMP":  # has no EXIF
            image = read_image(encoded(PIXELS, format, exif=exif, **options))
            np.testing.assert_array_equal(image, expected, format)
    photo = smooth_picture()
    plain = decode_image(encoded(photo, "JPEG")).numpy()
    turned = read_image(encoded(photo, "JPEG", exif=exif))
    np.testing.assert_array_equal(turned, TURNS.get(orientation, TURNS[1])(plain))


def test_damaged_exif_does_not_matter():
    data = encoded(PIXELS, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    np.testing.assert_array_equal(read_image(data), PIXELS)


def test_a_photo_with_a_second_picture_is_the_photo():
    photo = smooth_picture()
    data = encoded(photo, "MPO", save_all=True, append_images=[photo.resize((9, 9))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    np.testing.assert_array_equal(read_image(data), decode_image(data))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(format):
    picture = Image.fromarray(PIXELS)
    others = [picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    data = encoded(picture, format, save_all=True, append_images=others)
    several = "several pages" if format == "TIFF" else "several frames"
    with pytest.raises(ValueError, match=f"a {format} of {several}; save the one"):
        read_image(data)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_an_8_bit_colour_are_refused(dtype):
    with pytest.raises(ValueError, match="TIFF of 32-bit, floating-point or other"):
        read_image(encoded(np.ones((40, 40), dtype), "TIFF"))


def test_bounds_of_the_size_are_checked_before_decoding(monkeypatch):
    monkeypatch.setattr(images, "_decode", None)  # would raise a TypeError
    data = encoded(PIXELS, "PNG")
    with pytest.raises(ValueError, match="at least 3 pixels a side, this is 2x3 "):
        read_image(data, min_size=3)
    with pytest.raises(ValueError, match="2x3 .height x width. are 0 megapixels"):
        read_image(data, max_pixels=5)
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = png_of_chunks((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    with pytest.raises(ValueError, match="are 3,600 megapixels, and no more than 500"):
        read_image(bomb)


def test_pillows_bound_neither_counts_nor_changes(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for format, options in LOSSLESS.items():
            data = encoded(PIXELS, format, **options)
            np.testing.assert_array_equal(read_image(data), PIXELS, format)
            with pytest.raises(ValueError, match="damaged"):
                read_image(data[:-9])
    assert Image.MAX_IMAGE_PIXELS == 1


KINDS = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "bmp": ("BMP", {}),
    "gif": ("GIF", {}),
    "tiff": ("TIFF", {}),
    "tiff_lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "webp": ("WEBP", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_image_is_refused_or_whole(kind):
    format, options = KINDS[kind]
    data = encoded(smooth_picture(), format, **options)
    whole = read_image(data)
    cuts = np.linspace(0, len(data) - 1, 41).astype(int)
    for cut in [*cuts, len(data) - 2]:
        try:
            image = read_image(data[:cut])
        except ValueError as error:
            assert "\n" not in str(error)
        else:  # what was cut off, such as an end marker, holds no pixels
            assert cut >= len(data) - 2
            np.testing.assert_array_equal(image, whole)


def test_damaged_jpegs_leave_the_terminal_to_our_sentence(capfd):
    data = encoded(smooth_picture(), "JPEG")
    for part in range(1, 10):
        cut = data[: len(data) * part // 10]
        for bad in (cut, cut + b"\xff\xd9", cut + bytes(500)):
            with pytest.raises(ValueError, match="damaged"):
                read_image(bad)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_cut_jpeg_with_an_end_marker_is_not_half_grey(mode, options):
    photo = smooth_picture().convert(mode)
    data = encoded(photo, "JPEG", **options)
    start = data.index(b"\xff\xda") + 14
    for cut in np.linspace(start, len(data) - 60, 12).astype(int):
        with pytest.raises(ValueError, match="a truncated or damaged JPEG image"):
            read_image(data[:cut].rstrip(b"\xff") + b"\xff\xd9")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_a_jpeg_whose_corner_has_one_colour_is_not_taken_for_a_cut_one(options):
    for color in (0, 128, 255):
        picture = smooth_picture()
        picture.paste((color,) * 3, (0, 30, 90, 70))
        data = encoded(picture, "JPEG", quality=100, **options)
        assert not (read_image(data)[-8:, -8:] != color).any()
        # What follows the end marker does not matter either.
        for more in (b"", b"\0" * 9, b"camera\xff\xd9"):
            np.testing.assert_array_equal(read_image(data + more), decode_image(data))


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("<html></html>"), "not a JPEG, PNG, BMP"),
        (lambda path: path.mkdir(), "a folder, not an image file"),
        (os.mkfifo, "a device or a pipe"),
    ],
)
def test_what_is_no_image_is_refused(make, reason, tmp_path):
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(ValueError, match=reason):
        read_image(path)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.jpg"):
        read_image(tmp_path / "gone.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    with pytest.raises(OSError, match="symbolic links"):
        read_image(tmp_path / "loop.jpg")


def test_what_is_too_large_for_tensorflow_is_decoded_by_pillow(monkeypatch):
    data = encoded(smooth_picture(), "JPEG")
    monkeypatch.setattr(images, "_TENSORFLOW_PIXELS", {"JPEG": 10})
    image = read_image(data)
    np.testing.assert_array_equal(image, Image.open(io.BytesIO(data)))


def test_memory_is_that_of_one_image():
    height, width = 2000, 1500
    bytes_of_image = height * width * 3
    exif = Image.Exif()
    exif[274] = 6
    for format, most in (("PNG", 0.2), ("BMP", 1.7)):
        options = {"exif": exif} if format == "PNG" else {}
        picture = Image.new("RGB", (width, height), (1, 2, 3))
        data = encoded(picture, format, **options)
        tracemalloc.start()
        image = read_image(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert image[5, 7].tolist() == [1, 2, 3]
        # TensorFlow's own array is not traced: a copy of it would be.
        assert peak < most * bytes_of_image, format


def smooth_picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, [6, 8, 3], dtype=np.uint8)
    return Image.fromarray(coarse).resize((90, 70), Image.BICUBIC)
