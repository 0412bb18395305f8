"""An image file -> a refusal, where decoding it would cost far more than it shows.

Decoders work through all that a file holds: a progressive JPEG of 62 kB with 1,000
scans paints its pixels 1,000 times. Whoever decodes a file of unknown origin calls
`check_work` before. It reads what stands between the pixels and decodes nothing; a file
that is damaged passes, which its decoder says better.
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Union

# Encoders write about 10 scans, those that try hard under 30.
MAX_SCANS = 100
# Scans that any size may have; pixels that more scans than these may paint in all.
_COMMON_SCANS, _MAX_PAINTED = 20, 10**9
# Parts (segments, chunks, blocks) are read in Python, at some microseconds each.
_MAX_PARTS, _BYTES_A_PART = 20_000, 200
_MAX_PADDING = 2**16
_MAX_COMMENTS = 2**20
_MAX_TAG_COPIES = 8
# What Pillow decodes in Python: 0.2 and 1 microseconds a pixel.
_MAX_RLE_PIXELS, _MAX_RLE_SIDE = 2**23, 2**15
_MAX_PLAIN_PIXELS = 2**21
_ADVICE = "save it anew with any image program"

Content = Union[bytes, mmap.mmap]


def check_work(data: Content) -> None:
    """Refuses an image whose decoding is out of proportion to its bytes and pixels.

    Args:
      data: a whole image file; one of a kind that is not known here passes.

    Raises:
      ValueError: says which proportion, without the file's name.
    """
    for check, starts in _CHECKS.items():
        if any(data[: len(start)] == start for start in starts):
            check(data)


def has_few_scans(jpeg_bytes):
    """Whether a JPEG has no more than MAX_SCANS scans: graph code, bool [].

    For graphs that decode bytes themselves. Counts the heads of scans wherever they
    stand, in a thumbnail or a second picture too.

    Args:
      jpeg_bytes: string [].
    """
    import tensorflow as tf

    data = tf.io.decode_raw(jpeg_bytes, tf.uint8)
    marker, kind, high, low, channels = (
        data[i : tf.maximum(tf.size(data) - 4 + i, i)] for i in range(5)
    )
    # The length of a head is known by its channels, 1 to 4; noise seldom fits.
    fits = tf.equal(low, 2 * channels + 6) & (channels - 1 < 4)
    scans = tf.equal(marker, 0xFF) & tf.equal(kind, 0xDA) & tf.equal(high, 0) & fits
    return tf.math.count_nonzero(scans) <= MAX_SCANS


class _Parts:
    """Counts the parts of a file, up to what its size justifies."""

    def __init__(self, kind: str, data: Content):
        self.left = _MAX_PARTS + len(data) // _BYTES_A_PART
        self._kind = kind

    def add(self, count: int = 1) -> None:
        self.left -= count
        if self.left < 0:
            self.refuse()

    def refuse(self) -> None:
        raise ValueError(
            f"a {self._kind} of far more parts than its size needs; {_ADVICE}"
        )


# --- JPEG ----------------------------------------------------------------------------

_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_AFTER_PIXELS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), 0xCD, 0xCE, 0xCF)
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_EXIF = b"Exif\0\0"


def _segments(data: Content) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start, end) of each segment up to the end of the first image."""
    parts, padding = _Parts("JPEG", data), 0
    place, pattern = 2, _MARKER
    while match := pattern.search(data, place):
        parts.add()
        padding += match.start() - place if pattern is _MARKER else 0
        if padding > _MAX_PADDING:
            raise ValueError(f"a JPEG filled up between its segments; {_ADVICE}")
        marker, start = data[match.end() - 1], match.end()
        if marker == _END:
            return
        pattern = _AFTER_PIXELS if marker == _SCAN else _MARKER
        place = start
        if marker not in _WITHOUT_LENGTH:
            place += int.from_bytes(data[start : start + 2], "big")
        yield marker, start + 2, place


def _check_jpeg(data: Content) -> None:
    scans = pixels = 0
    for marker, start, end in _segments(data):
        if marker in _FRAMES:
            height, width = struct.unpack(">HH", data[start + 1 : start + 5].ljust(4))
            pixels = max(pixels, height * width)
        elif marker == _APP1 and data[start : start + len(_EXIF)] == _EXIF:
            _check_tags(data[start + len(_EXIF) : end])
        scans += marker == _SCAN
        if scans > MAX_SCANS or (
            scans > _COMMON_SCANS and scans * pixels > _MAX_PAINTED
        ):
            raise ValueError(
                f"a JPEG that paints its {pixels / 1e6:,.1f} megapixels in more than "
                f"{scans - 1} scans; {_ADVICE}"
            )


# --- PNG and WebP, in chunks ---------------------------------------------------------


def _check_png(data: Content) -> None:
    parts, place = _Parts("PNG", data), 8
    while len(head := data[place : place + 8]) == 8:
        parts.add()
        size = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            _check_tags(data[place + 8 : place + 8 + size])
        if head[4:] in (b"tEXt", b"zTXt", b"iTXt"):
            _check_tags(_profile(head[4:], data[place + 8 : place + 8 + size]))
        if head[4:] == b"IEND":
            return
        place += 12 + size


_PROFILE = b"Raw profile type exif\0"  # as ImageMagick writes it
_MAX_PROFILE = 2**21


def _profile(kind: bytes, text: bytes) -> bytes:
    """Returns the EXIF that a chunk of text holds in hexadecimal digits, or b""."""
    if not text.startswith(_PROFILE):
        return b""
    text = text[len(_PROFILE) :]
    is_packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if kind == b"iTXt":  # flag, method, language, translated keyword, text
        text = b"\0" + text[2:].split(b"\0", 2)[-1]
    try:
        if is_packed:
            text = zlib.decompressobj().decompress(text[1:], _MAX_PROFILE)
        digits = b"".join(text.split(b"\n")[3:]).decode("ascii")
        exif = bytes.fromhex(digits)
    except (ValueError, zlib.error):
        return b""
    return exif[len(_EXIF) :] if exif.startswith(_EXIF) else exif


def _check_webp(data: Content) -> None:
    parts, place = _Parts("WebP image", data), 12
    while len(head := data[place : place + 8]) == 8:
        parts.add()
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF":
            exif = data[place + 8 : place + 8 + size]
            _check_tags(exif[len(_EXIF) :] if exif.startswith(_EXIF) else exif)
        place += 8 + size + size % 2


# --- GIF -----------------------------------------------------------------------------


def _check_gif(data: Content) -> None:
    parts, comments = _Parts("GIF", data), 0
    place = 13 + _gif_colors(data, 10)
    while (kind := data[place : place + 1]) in (b"!", b","):
        parts.add()
        is_comment = data[place : place + 2] == b"!\xfe"
        place += 2 if kind == b"!" else 11 + _gif_colors(data, place + 9)
        while size := data[place] if place < len(data) else 0:
            parts.add()
            comments += size if is_comment else 0
            place += 1 + size
        place += 1
        if comments > _MAX_COMMENTS:
            raise ValueError(f"a GIF with comments of over a megabyte; {_ADVICE}")


def _gif_colors(data: Content, place: int) -> int:
    """Returns the bytes of the table of colours that the flags at `place` announce."""
    flags = data[place] if place < len(data) else 0
    return 3 * 2 ** (1 + flags % 8) if flags & 0x80 else 0


# --- TIFF, and EXIF, which is one ----------------------------------------------------

_TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4}
# Strips and tiles; EXIF's own directory, that of GPS and that of interoperability.
_PLACES_OF_PIXELS, _SUB_DIRECTORIES = (273, 324), (0x8769, 0x8825, 0xA005)
_TAG_BYTES.update({12: 8, 13: 4, 16: 8, 17: 8, 18: 8})
_TIFF = tuple(
    order + version.to_bytes(2, end)
    for order, end in ((b"II", "little"), (b"MM", "big"))
    for version in (42, 43)
)


def _check_tags(data: Content) -> None:
    """Refuses a TIFF whose tags share their values: a reader copies each of them."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[:4] in (_TIFF[1], _TIFF[3])
    pointer, counter, entry = ("Q", "Q", "HHQ8x") if is_big else ("I", "H", "HHI4x")
    parts = _Parts("TIFF", data)
    places, seen = [_number(data, 8 if is_big else 4, order, pointer)], {0}
    while places:
        place = places.pop()
        count = _number(data, place, order, counter)
        if place in seen or not count:
            continue
        seen.add(place)
        place += struct.calcsize(order + counter)
        size, needed = struct.calcsize(order + entry), 0
        if place + count * size > len(data):
            continue  # cut short
        parts.add(count)
        for at in range(place, place + count * size, size):
            tag, kind, values = struct.unpack_from(order + entry, data, at)
            if tag in _PLACES_OF_PIXELS and values > parts.left:
                parts.refuse()
            if tag in _SUB_DIRECTORIES:
                places.append(_number(data, at + size // 2 + 2, order, pointer))
            # A damaged tag may claim anything, and is harmless alone.
            needed += min(values * _TAG_BYTES.get(kind, 0), len(data))
        if needed > _MAX_TAG_COPIES * len(data) + _MAX_PADDING:
            raise ValueError(
                f"an image with tags of far more bytes than there are; {_ADVICE}"
            )
        places.append(_number(data, place + count * size, order, pointer))


def _number(data: Content, place: int, order: str, kind: str) -> int:
    """Returns the number at a place; 0 beyond the end."""
    size = struct.calcsize(order + kind)
    text = data[place : place + size]
    return struct.unpack(order + kind, text)[0] if len(text) == size else 0


# --- BMP and PNM, whose rare kinds are decoded in Python -----------------------------


def _check_bmp(data: Content) -> None:
    header = data[14:34].ljust(20, b"\0")
    width, height, _, _, compression = struct.unpack("<4xiiHHI", header)
    if compression not in (1, 2):
        return
    width, height = abs(width), abs(height)
    if max(width, height) > _MAX_RLE_SIDE or width * height > _MAX_RLE_PIXELS:
        raise ValueError(
            f"a run-length encoded BMP of {height}x{width} (height x width), and no "
            f"more than {_MAX_RLE_PIXELS / 1e6:.1f} megapixels of this kind are read; "
            "save it as PNG"
        )


def _check_pnm(data: Content) -> None:
    header = re.sub(rb"#[^\n\r]*", b"", data[:4096]).split()[:4]
    if len(header) < 4 and len(data) > 4096:
        raise ValueError(f"a PNM of a header without end; {_ADVICE}")
    if len(header) < 4 or not all(word[:9].isdigit() for word in header[1:]):
        return
    width, height, most = (int(word[:9]) for word in header[1:])
    quick = header[0] in (b"P4", b"P5", b"P6") and (header[0] == b"P4" or most == 255)
    if not quick and width * height > _MAX_PLAIN_PIXELS:
        raise ValueError(
            f"a plain or unusual PNM of {height}x{width} (height x width), and no more "
            f"than {_MAX_PLAIN_PIXELS / 1e6:.1f} megapixels of this kind are read; "
            "save it as PNG"
        )


_CHECKS = {
    _check_jpeg: (b"\xff\xd8\xff",),
    _check_png: (b"\x89PNG\r\n\x1a\n",),
    _check_webp: (b"RIFF",),
    _check_gif: (b"GIF87a", b"GIF89a"),
    _check_tags: _TIFF,
    _check_bmp: (b"BM",),
    _check_pnm: tuple(b"P%d" % kind for kind in range(1, 7)),
}
