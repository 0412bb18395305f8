"""Where the parts of a chart lie; the SVG files in `report_files` draw them there."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

_MOST_NUMBERS = 30  # classes; the numbers of a larger matrix could not be read
_MATRIX_COLOR = (31, 91, 160)
_LONGEST_NAME = 24  # characters beside the matrix; the whole name is a tooltip


def confusion_matrix(shares: np.ndarray, names: Sequence[str]) -> dict:
    """Lays out `confusion_matrix.svg`: colours, few enough of them as numbers too.

    The colour is transparent where the share is small, so that it fits any background.

    Args:
      shares: float [classes, classes] in 0..1, of the row's pixels.
      names: of the classes.

    Returns:
      "image": data URI of the colours, one pixel per pair; "margin": of the names, at
      the left and on top; "size": of the colours, "side": of it all; "font"; "names":
      ("middle", "short", "whole") of each; "numbers": ("x", "y", "share") of those
      that are shown. All lengths are pixels.
    """
    count = len(names)
    numbered = count <= _MOST_NUMBERS
    cell, font = (30, 12) if numbered else (12, 10)
    short = [_shortened(name) for name in names]
    margin = round(0.6 * font * max(map(len, short))) + 12
    middles = [margin + cell * (index + 0.5) for index in range(count)]
    pixels = np.empty((count, count, 4), np.uint8)
    pixels[..., :3] = _MATRIX_COLOR
    pixels[..., 3] = np.rint(255 * shares)
    return {
        "image": data_uri(pixels, "PNG"),
        "margin": margin,
        "size": cell * count,
        "side": margin + cell * count,
        "font": font,
        "names": [
            {"middle": middle, "short": name, "whole": whole}
            for middle, name, whole in zip(middles, short, names)
        ],
        "numbers": [
            {"x": middles[column], "y": middles[row], "share": shares[row, column]}
            for row, column in np.argwhere(shares >= 0.005)
            if numbered
        ],
    }


def curves(widths: Sequence[int], scores: dict[str, Sequence[float | None]]) -> dict:
    """Lays out `curves.svg`: scores over the widths of the bands around boundaries.

    Args:
      widths: in pixels, positive and increasing.
      scores: name of a curve -> one score in 0..1 per width, or None.

    Returns:
      "xs" and "ys": ("place", "value") of each tick, values in pixels and per cent;
      "curves": name -> its points (x, y). Empty where no score is defined.
    """
    defined = [100 * y for ys in scores.values() for y in ys if y is not None]
    if not defined:
        return {}
    xs, ys = ticks(0, max(widths)), ticks(min(defined), max(defined))

    def across(width):
        return 44 + 400 * (width - xs[0]) / (xs[-1] - xs[0])

    def down(score):
        return 210 - 195 * (score - ys[0]) / (ys[-1] - ys[0])

    return {
        "xs": [{"place": across(x), "value": x} for x in xs],
        "ys": [{"place": down(y), "value": y} for y in ys],
        "curves": {
            name: [
                (across(x), down(100 * y))
                for x, y in zip(widths, values)
                if y is not None
            ]
            for name, values in scores.items()
        },
    }


def ticks(low: float, high: float) -> list[float]:
    """Round numbers, at most eight, from below `low` to above `high`."""
    rough = max(high - low, 1e-3) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * index for index in range(first, max(last, first + 1) + 1)]


def data_uri(picture: np.ndarray, file_format: str) -> str:
    """Encodes a picture for a page that fetches nothing.

    Args:
      picture: uint8 [height, width, 3], or 4 with the opacity.
      file_format: "PNG", or "JPEG" for photographs; red is not blurred in it.
    """
    options = {"quality": 85, "subsampling": 0} if file_format == "JPEG" else {}
    file = io.BytesIO()
    Image.fromarray(picture).save(file, file_format, **options)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{file_format.lower()};base64,{text}"


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
