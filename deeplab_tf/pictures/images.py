"""Images as files -> RGB."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import mmap
import os
import stat
import threading
import warnings
from typing import IO

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_tf.image_kinds import KINDS, missing_package, pillow_formats
from deeplab_tf.image_work import check_work

MAX_PIXELS = 500_000_000  # 20,000 x 20,000 and a little more
_EXIF_ORIENTATION = 274
# Most pixels that TensorFlow decodes; a JPEG with several pictures is MPO to Pillow.
_TENSORFLOW_PIXELS = {"JPEG": 2**29 // 3, "MPO": 2**29 // 3, "PNG": 2**29 - 1}
_GREY_16 = ("I;16", "I;16B", "I;16L")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", *_GREY_16)
# Random, and without the 255 that begins a marker.
_NO_PIXELS = np.random.default_rng(0).integers(0, 255, 256, np.uint8).tobytes()
_pillow_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class _Header:
    """What is known of an image before its pixels are decoded."""

    format: str
    mode: str
    width: int
    height: int
    animated: bool
    orientation: int  # of EXIF: 1 is upright


def decode_image(image_bytes) -> tf.Tensor:
    """Decodes an image as the records, predict.py and the exported model all do.

    The stored pixels count: an EXIF orientation is not applied, as no TensorFlow
    operation reads it; `read_image` does. Greyscale and palettes become RGB,
    transparency is dropped, of 16 bits the upper 8 are taken.

    Args:
      image_bytes: string [], a JPEG or PNG (BMP and a GIF's first frame work too).

    Returns:
      uint8 [height, width, 3].

    Raises:
      tf.errors.InvalidArgumentError: another kind of file, or a damaged one.
    """
    image = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def read_image(
    source: str | os.PathLike | bytes, min_size: int = 1, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Reads an image, upright, after its header has shown that it can be read.

    JPEG and PNG are decoded by `decode_image`, so that the network sees the pixels it
    was trained on and will be served; other kinds (`image_kinds`) by Pillow, and so are
    the few JPEGs (over 178 megapixels) that are too large for TensorFlow. Greyscale,
    palettes and CMYK become RGB, transparency is dropped (what colour lies under it
    shows), of 16 bits the upper 8 are taken. The EXIF orientation is applied.

    Args:
      source: path of the file, or its content.
      min_size: fewest pixels a side.
      max_pixels: most pixels in all. Pillow's own bound does not count.

    Returns:
      uint8 [height, width, 3], perhaps read-only. Turned images are a view of the
      stored one, so that no image is in memory twice.

    Raises:
      OSError: the file cannot be read.
      ValueError: not an image, a damaged or animated one, one of pixels that have no
        8-bit colour, a size out of bounds, or out of proportion (`image_work`). Says
        which, without the file's name.
      MemoryError: the image does not fit.
    """
    with _opened(source) as file:
        _check_file(file)
        missing = missing_package(file.read(12))
        if missing:
            raise ValueError(missing)
        file.seek(0)
        with _pillow() as open_image:
            header = _read_header(open_image(file))
        _check_header(header, min_size, max_pixels)
        file.seek(0)
        pixels = _decode(file, header)
    return _upright(pixels, header.orientation)


@contextlib.contextmanager
def _opened(source):
    """Gives a binary file that is not empty."""
    if isinstance(source, bytes):
        size, file = len(source), io.BytesIO(source)
    else:
        status = os.stat(source)
        # Opening a pipe would wait for someone to write to it.
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
            raise ValueError(f"{kind}, not an image file")
        size, file = status.st_size, open(source, "rb")
    with file:
        if not size:
            raise ValueError("the file is empty")
        yield file


def _check_file(file: IO[bytes]) -> None:
    if isinstance(file, io.BytesIO):
        check_work(file.getvalue())
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check_work(data)


@contextlib.contextmanager
def _pillow(found: str | None = None):
    """Gives `Image.open` without Pillow's bound of pixels and without its warnings.

    Both are global to the process and are put back; hence the lock.

    Args:
      found: format of an image whose header was read; None says that it was not.
    """
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield lambda file: Image.open(file, formats=pillow_formats())
        except MemoryError:
            raise
        # On damaged files Pillow raises nearly anything, from struct.error to KeyError.
        except Exception as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the disk's
            raise ValueError(_damaged(found)) from error
        finally:
            Image.MAX_IMAGE_PIXELS = bound


def _damaged(found: str | None) -> str:
    if found is None:
        return f"not a {KINDS} image, or a damaged one"
    return f"a truncated or damaged {found} image"


def _read_header(image: Image.Image) -> _Header:
    return _Header(
        format=image.format,
        mode=image.mode,
        width=image.width,
        height=image.height,
        # Of the pictures in an MPO the first is the photo, and TensorFlow takes it.
        animated=image.format != "MPO" and getattr(image, "is_animated", False),
        orientation=_orientation(image),
    )


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow itself turns TIFFs
    try:
        # A PNG's own `getexif` would decode the whole image.
        orientation = Image.Image.getexif(image).get(_EXIF_ORIENTATION, 1)
    except Exception:  # EXIF that cannot be read says nothing about the pixels
        return 1
    return orientation if orientation in range(1, 9) else 1


def _check_header(header: _Header, min_size: int, max_pixels: int) -> None:
    size = f"{header.height}x{header.width} (height x width)"
    if min(header.width, header.height) < min_size:
        raise ValueError(
            f"images must be at least {min_size} pixels a side, this is {size}"
        )
    if header.width * header.height > max_pixels:
        raise ValueError(
            f"{size} are {header.width * header.height / 1e6:,.0f} megapixels, and no "
            f"more than {max_pixels / 1e6:,.0f} are read unless that bound is raised"
        )
    if header.animated:
        several = "several pages" if header.format == "TIFF" else "several frames"
        raise ValueError(
            f"a {header.format} of {several}; save the one that counts as an image"
        )
    if header.format not in _TENSORFLOW_PIXELS and header.mode not in MODES:
        raise ValueError(
            f"a {header.format} of 32-bit, floating-point or other pixels without an "
            f"8-bit colour (mode {header.mode}); save it with 8 or 16 bits"
        )


def _decode(file: IO[bytes], header: _Header) -> np.ndarray:
    # Before TensorFlow sees it, which writes to the terminal about damaged JPEGs.
    if header.format in ("JPEG", "MPO") and _ends_early(file.read()):
        raise ValueError(_damaged(header.format))
    file.seek(0)
    if header.width * header.height <= _TENSORFLOW_PIXELS.get(header.format, 0):
        return _tensorflow_pixels(file.read(), header.format)
    with _pillow(header.format) as open_image:
        return pillow_pixels(open_image(file))


def _tensorflow_pixels(data: bytes, found: str) -> np.ndarray:
    try:
        # `.numpy()` would copy it.
        return np.asarray(decode_image(data))
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(str(error)) from error
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(_damaged(found)) from error


def _ends_early(data: bytes) -> bool:
    """Whether a JPEG's end marker comes before all of its pixels.

    libjpeg then repeats the last colour down to the corner and reports nothing. What
    stands before the end marker of a whole image is skipped; a cut one takes it for
    pixels.

    Raises:
      ValueError: there is no end marker, or the image is damaged otherwise.
    """
    end = data.rfind(b"\xff\xd9")
    filled = data[:end] + _NO_PIXELS + data[end:]
    return not np.array_equal(_eighth(data), _eighth(filled))


def _eighth(data: bytes) -> np.ndarray:
    """Decodes a JPEG quickly, at an eighth of its size."""
    with _pillow("JPEG") as open_image:
        image = open_image(io.BytesIO(data))
        image.draft(None, [-(-side // 8) for side in image.size])
        return np.asarray(image)


def pillow_pixels(image: Image.Image, block_rows: int = 256) -> np.ndarray:
    """Decodes to uint8 [height, width, 3]; a whole converted image is never made."""
    image.load()
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, block_rows):
        bottom = min(top + block_rows, height)
        block = image.crop((0, top, width, bottom))
        if image.mode in _GREY_16:
            pixels[top:bottom] = (np.asarray(block) >> 8)[..., None]
        else:
            pixels[top:bottom] = np.asarray(block.convert("RGB"))
    return pixels


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns by EXIF's orientation: what the stored first row and column show."""
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if orientation >= 5 else pixels
