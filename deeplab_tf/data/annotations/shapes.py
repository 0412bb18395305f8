"""Regions -> label images: polygons, rectangles, circles and masks, drawn in order.

Pillow draws; a tool's pixels are those of its own exporter where that draws by Pillow
too, as LabelMe's does, and differ at outlines by a pixel where it draws otherwise. Used
in worker processes: without TensorFlow.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import math
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from deeplab_tf.data.building import files

Point = Sequence[float]
# A picture of a region that unpacks to more is no picture of a region.
_MAX_UNPACKED = 2**26


@contextlib.contextmanager
def named(region: str) -> Iterator[None]:
    """Says of which region the sentence of an error in the block is.

    Args:
      region: words for it, such as "object 3 of a.json".

    Raises:
      ValueError: that of the block, with these words before it.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{region} has {error}") from error


def points_of(values: object, width: int, height: int) -> list[tuple[float, float]]:
    """Checks the points of a region.

    Args:
      values: list of [x, y], pixels. They may leave the image by its own size.
      width: of the image.
      height: of the image.

    Raises:
      ValueError: something else.
    """
    if not isinstance(values, list):
        raise ValueError(f"{values!r:.60}; expected a list of points [x, y]")
    points = []
    for value in values:
        good = isinstance(value, (list, tuple)) and len(value) == 2
        if not good or not all(type(number) in (int, float) for number in value):
            raise ValueError(f"the point {value!r:.60}; expected [x, y]")
        x, y = value
        # False for NaN as well.
        if not (-width <= x <= 2 * width and -height <= y <= 2 * height):
            raise ValueError(
                f"a point at x={x}, y={y}; expected pixels of an image of "
                f"{width}x{height} (width x height)"
            )
        points.append((x, y))
    return points


def check_size(width: object, height: object, path: str) -> tuple[int, int]:
    """Checks the size of an image that a file claims; it costs memory before any image.

    Raises:
      ValueError: it is none, or larger than images that Pillow opens.
    """
    known = type(width) is int and type(height) is int and min(width, height) > 0
    if not known or width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{path} says that its image has {width}x{height} pixels (width x height); "
            "save it in the tool again"
        )
    return width, height


class Canvas:
    """A label image that regions are drawn on, the later over the earlier.

    Args:
      width: pixels.
      height: pixels.
    """

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self._image = Image.new("L", (width, height), 0)
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: Sequence[Point], class_id: int) -> None:
        """Draws a polygon with its outline.

        Raises:
          ValueError: it has fewer than three points.
        """
        if len(points) < 3:
            raise ValueError(f"a polygon of {len(points)} points; expected 3 or more")
        self._draw.polygon(points, fill=class_id, outline=class_id)

    def polygon_with_holes(
        self, points: Sequence[Point], holes: Sequence[Sequence[Point]], class_id: int
    ) -> None:
        """Draws a polygon; its holes leave what lies behind, their outlines do not."""
        if not holes:
            self.polygon(points, class_id)
            return
        region = Canvas(self.width, self.height)
        region.polygon(points, 1)
        for hole in holes:
            if len(hole) >= 3:
                region._draw.polygon(hole, fill=0, outline=1)
        self.mask(region.ids() != 0, 0, 0, class_id)

    def rectangle(self, points: Sequence[Point], class_id: int) -> None:
        """Draws the rectangle of two opposite corners, both inside.

        Raises:
          ValueError: there are not two corners.
        """
        if len(points) != 2:
            raise ValueError(f"a rectangle of {len(points)} points; expected 2")
        (x1, y1), (x2, y2) = points
        box = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
        self._draw.rectangle(box, fill=class_id, outline=class_id)

    def circle(self, points: Sequence[Point], class_id: int) -> None:
        """Draws the circle around the first point through the second.

        Raises:
          ValueError: there are not two points.
        """
        if len(points) != 2:
            raise ValueError(f"a circle of {len(points)} points; expected 2")
        (x, y), (px, py) = points
        r = math.hypot(x - px, y - py)
        self._draw.ellipse([x - r, y - r, x + r, y + r], fill=class_id)

    def line(self, points: Sequence[Point], width: int, class_id: int) -> None:
        """Draws a line through all points.

        Raises:
          ValueError: there are fewer than two.
        """
        if len(points) < 2:
            raise ValueError(f"a line of {len(points)} points; expected 2 or more")
        self._draw.line([tuple(p) for p in points], fill=class_id, width=width)

    def mask(self, mask: np.ndarray, left: int, top: int, class_id: int) -> None:
        """Draws the pixels of a mask, bool [h, w], that lie in the image."""
        box = self._image.crop((left, top, left + mask.shape[1], top + mask.shape[0]))
        ids = np.where(mask, np.uint8(class_id), np.asarray(box))
        self._image.paste(Image.fromarray(ids), (left, top))
        self._draw = ImageDraw.Draw(self._image)

    def ids(self) -> np.ndarray:
        """Returns what was drawn, uint8 [height, width]; 0 where nothing was."""
        return np.asarray(self._image)


def decode_mask(text: object, width: int, height: int) -> np.ndarray:
    """Reads a small picture of a region, as LabelMe and Supervisely store it.

    Args:
      text: base64 of a PNG, or of such a file packed by zlib. Pixels that are not 0
        are the region, and of an RGBA picture those that are not transparent.
      width: of the image that it is a part of; it may be no larger.
      height: likewise.

    Returns:
      bool [h, w].

    Raises:
      ValueError: it is none, or larger than the image.
    """
    if not isinstance(text, str):
        raise ValueError(f"the picture {text!r:.40}; expected base64 of a PNG")
    try:
        data = base64.b64decode(text, validate=True)
        if not data.startswith(b"\x89PNG"):
            data = zlib.decompressobj().decompress(data, _MAX_UNPACKED)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise ValueError(f"a picture that is no base64 of a PNG ({error})") from error
    head = files.open_head(data, "its picture")
    if head.width > width or head.height > height:
        raise ValueError(
            f"a picture of {head.width}x{head.height}; the image has {width}x{height}"
        )
    image = files.open_image(data, "its picture")
    if image.mode in ("RGBA", "LA"):
        return np.asarray(image.getchannel("A")) != 0
    pixels = np.asarray(image)
    return pixels.any(axis=-1) if pixels.ndim == 3 else pixels != 0


def upright_size(path: str) -> tuple[int, int]:
    """Returns (width, height) of an image as viewers show it, by its head.

    Raises:
      ValueError: the file cannot be read.
    """
    from deeplab_tf.data.building.pairs import orientation_of

    with files.open_head(files.read_file(path), path) as image:
        turned = orientation_of(image) >= 5
        return (image.height, image.width) if turned else image.size
