"""Draws the regions of one image of COCO's JSON as a label, in a worker process.

pycocotools rasterises, so that the pixels are those of everybody who uses COCO. It is
imported only where it is needed. What it would draw wrongly, or crash on, is refused
before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.building import pairs
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.image_files import read_image
from deeplab_tf.data.records.info import IGNORE_LABEL


def require_pycocotools() -> None:
    """Raises DatasetError where pycocotools is absent."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise DatasetError(
            "pycocotools draws the polygons of COCO's JSON files and is not installed. "
            "Run: python -m pip install pycocotools"
        ) from error


def read_sample(
    sample: pairs.Sample, exif_orientation: str = "refuse"
) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and its regions, drawn.

    Raises:
      ValueError: see `image_files.read_image`, `rasterize`.
    """
    return read_image(sample.image, exif_orientation), rasterize(sample.label)


def rasterize(text: str) -> np.ndarray:
    """Draws the regions of one image.

    Ignored regions (crowds) lie behind all others, since they are drawn roughly around
    objects that may have a region of their own. Among the others the smaller one is in
    front: of two objects that overlap in COCO, it is mostly the one that is seen. Of
    two with equal areas, the later one in the file is in front.

    Args:
      text: from `coco.label_text`.

    Returns:
      uint8 [height, width]: class ids, 0 where no region is, 255 where ignored.

    Raises:
      ValueError: a segmentation is not COCO's, or does not fit the image.
    """
    from pycocotools import mask

    image = json.loads(text)
    height, width = image["height"], image["width"]
    regions = []
    for class_id, number, segmentation in image["regions"]:
        with shapes.named(f"annotation {number}"):
            rle = encode(segmentation, height, width)
        regions.append((class_id, rle))
    regions.sort(key=lambda r: (r[0] != IGNORE_LABEL, -int(mask.area(r[1]))))
    label = np.zeros((height, width), np.uint8)
    for class_id, rle in regions:
        label[mask.decode(rle) != 0] = class_id
    return label


def encode(segmentation: Any, height: int, width: int) -> dict:
    """Returns a segmentation as pycocotools' run-length encoding.

    Args:
      segmentation: list of polygons [x1, y1, x2, y2, ...] in pixels, or a dict of
        "size" and "counts" (lengths of runs, or their compressed text).
      height: of the image.
      width: of the image.

    Raises:
      ValueError: with the end of a sentence that begins "annotation 7 has".
    """
    from pycocotools import mask

    if isinstance(segmentation, dict):
        check_runs(segmentation, height, width)
        if isinstance(segmentation["counts"], str):
            return segmentation
        return mask.frPyObjects(segmentation, height, width)
    if not segmentation:
        raise ValueError("no segmentation (a box only); expected polygons or runs")
    check_polygons(segmentation, height, width)
    return mask.merge(mask.frPyObjects(segmentation, height, width))


def check_polygons(polygons: Any, height: int, width: int) -> None:
    """Raises ValueError where pycocotools would draw something else, or crash.

    It takes four numbers for a box rather than for two points, and a coordinate of 1e9
    for a line of as many steps. Polygons that leave the image a little are usual.
    """
    if not isinstance(polygons, list) or not all(isinstance(p, list) for p in polygons):
        raise ValueError(
            "a segmentation that is no list of polygons [[x1, y1, x2, y2, ...], ...]"
        )
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                f"a polygon of {len(polygon)} numbers; expected x and y of three "
                "points or more"
            )
        if not all(isinstance(value, (int, float)) for value in polygon):
            raise ValueError(f"a polygon with something other than numbers: {polygon}")
        for x, y in zip(polygon[::2], polygon[1::2]):
            near = -width <= x <= 2 * width and -height <= y <= 2 * height
            if not near:  # True for NaN as well.
                raise ValueError(
                    f"a polygon through x={x}, y={y}; expected pixels of an image of "
                    f"{width}x{height} (width x height)"
                )


def check_runs(segmentation: Mapping[str, Any], height: int, width: int) -> None:
    """Raises ValueError where runs do not fill the image exactly.

    pycocotools leaves pixels after the last run as they happen to be in memory, so a
    truncated encoding would give other ids in every process.
    """
    if segmentation.get("size") != [height, width]:
        raise ValueError(
            f"run lengths for an image of [height, width] {segmentation.get('size')}; "
            f"expected {[height, width]}"
        )
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = decompress(counts)
    if not isinstance(counts, list) or not all(isinstance(n, int) for n in counts):
        raise ValueError("no list and no text of run lengths in 'counts'")
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(
            f"run lengths of {sum(counts)} pixels in all; expected {height * width}"
        )


def decompress(text: str) -> list[int]:
    """Returns the lengths of the runs that a compressed text holds.

    A character holds five bits of a number, the lowest first; a sixth says that more
    follow. From the fourth on, a number is the difference to the one two before it.
    (rleToString in COCO's maskApi.c.)

    Raises:
      ValueError: the text is not such an encoding.
    """
    counts, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the character {character!r} in its compressed counts")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("compressed counts that end within a number")
    return counts
