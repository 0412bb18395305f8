"""The kinds of image files that are read: their endings, and which packages they need.

JPEG, PNG, BMP, GIF, TIFF, WebP and PNM need nothing but Pillow, AVIF Pillow 11.3 or
later, and HEIC, a telephone's, the optional package pillow-heif.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
from collections.abc import Iterable, Sequence

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".tif", ".tiff"),
    *(".webp", ".avif", ".heic", ".heif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
KINDS = "JPEG, PNG, BMP, GIF, TIFF, WebP, AVIF, HEIC or PNM"
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF", "HEIF")
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIF"),
    **dict.fromkeys((b"mif1", b"msf1"), "HEIF"),
}
_NEEDED = {
    "AVIF": "an AVIF image, which needs Pillow 11.3 or later (pip install -U Pillow)",
    "HEIF": "a HEIC image, which needs a package (pip install pillow-heif)",
}


@functools.lru_cache(maxsize=1)
def pillow_formats() -> tuple[str, ...]:
    """Returns the formats for `PIL.Image.open`: those that are installed of ours.

    Others that Pillow knows stay out: some start other programs.
    """
    from PIL import Image

    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(kind for kind in _FORMATS if kind in Image.OPEN)


def missing_package(head: bytes) -> str:
    """Says what a file needs that is not installed; "" where that is not the reason.

    Args:
      head: its first 12 bytes or more.
    """
    kind = _BRANDS.get(head[8:12], "") if head[4:8] == b"ftyp" else ""
    return "" if kind in pillow_formats() else _NEEDED.get(kind, "")


def is_leftover(name: str) -> bool:
    """Whether a file is what macOS leaves beside another on foreign disks: ._NAME."""
    return os.path.basename(name).startswith("._")


def skipped(names: Iterable[str], taken: Sequence[str]) -> str:
    """Says how many files of a folder do not count, by their endings; "" for none.

    Args:
      names: of all files; hidden ones are not told.
      taken: endings, in lower case, of those that count.
    """
    endings = collections.Counter(
        os.path.splitext(name)[1].lower() or "no ending"
        for name in map(os.path.basename, names)
        if not name.startswith(".") and not name.lower().endswith(tuple(taken))
    )
    if not endings:
        return ""
    most = [f"{count} {ending}" for ending, count in endings.most_common(5)]
    more = " and others" if len(endings) > 5 else ""
    return f"{sum(endings.values())} files of other kinds ({', '.join(most)}{more})"
