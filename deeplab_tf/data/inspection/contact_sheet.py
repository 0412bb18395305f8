"""A contact sheet: pictures beside their labels, and the colours of the classes.

Each cell shows an image and, beside it, its label painted over it, so that a label that
does not fit its image is seen at once. The legend names the classes of the sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deeplab_tf.colors import IGNORE_COLOR
from deeplab_tf.data.records.info import DatasetInfo

PAPER, INK, FAINT, EDGE = (
    (250, 250, 248),
    (28, 28, 30),
    (118, 118, 122),
    (206, 206, 204),
)
MARGIN, GAP, PAIR_GAP, CAPTION_GAP = 40, 24, 4, 7
PICTURE_AREA = 240 * 240  # pixels that a picture of the usual shape is given
MAX_ASPECT = 2.5
NUM_COLUMNS = 4
LABEL_ALPHA = 0.8
TITLE_SIZE, TEXT_SIZE, LEGEND_SIZE = 30, 15, 17
SWATCH = 22


class Example(NamedTuple):
    """One pair to show."""

    name: str
    image: np.ndarray  # uint8 [height, width, 3], RGB
    label: np.ndarray  # uint8 [height, width]


# --- Text ----------------------------------------------------------------------------


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Leaves out the middle of a text that is wider than `width` pixels.

    The ends of a file's name tell more than its middle.
    """
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = f"{text[: -(-kept // 2)]}...{text[len(text) - kept // 2 :]}"
        if font.getlength(shorter) <= width:
            return shorter
    return "..."


# --- Pictures ------------------------------------------------------------------------


def paint(label: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Gives each pixel the colour of its class.

    Args:
      label: uint8 [height, width], class ids or the ignore label.
      info: has the colours.

    Returns:
      uint8 [height, width, 3].
    """
    colors = np.full([256, 3], IGNORE_COLOR, np.uint8)
    colors[: info.num_classes] = info.colormap
    return colors[label]


def fit(pixels: np.ndarray, box: tuple[int, int]) -> Image.Image:
    """Scales a picture to the largest size that fits a box, without distortion.

    Args:
      pixels: uint8 [height, width, 3].
      box: width and height.
    """
    height, width = pixels.shape[:2]
    scale = min(box[0] / width, box[1] / height)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    # Drawn ids of a few pixels keep hard edges; photographs and labels are averaged.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return Image.fromarray(pixels).resize(size, method)


def _picture_box(examples: Sequence[Example]) -> tuple[int, int]:
    """Width and height of the place for a picture, by the usual shape of the images."""
    aspects = [image.shape[1] / image.shape[0] for _, image, _ in examples]
    aspect = float(np.clip(np.median(aspects), 1 / MAX_ASPECT, MAX_ASPECT))
    return round(math.sqrt(PICTURE_AREA * aspect)), round(
        math.sqrt(PICTURE_AREA / aspect)
    )


def _draw_cell(
    sheet: Image.Image,
    corner: tuple[int, int],
    box: tuple[int, int],
    example: Example,
    info: DatasetInfo,
) -> None:
    """Draws a pair and, under it, its name and size."""
    image = fit(example.image, box)
    colors = fit(paint(example.label, info), box)
    top = corner[1] + box[1] - image.height
    sheet.paste(image, (corner[0], top))
    painted = Image.blend(image, colors, LABEL_ALPHA)
    sheet.paste(painted, (corner[0] + image.width + PAIR_GAP, top))
    font, draw = _font(TEXT_SIZE), ImageDraw.Draw(sheet)
    size = f"{example.label.shape[1]} x {example.label.shape[0]}"
    room = 2 * box[0] + PAIR_GAP - font.getlength(size) - TEXT_SIZE
    name = shorten(example.name, font, room)
    bottom = corner[1] + box[1] + CAPTION_GAP
    draw.text((corner[0], bottom), name, INK, font)
    after = corner[0] + font.getlength(name) + TEXT_SIZE
    draw.text((after, bottom), size, FAINT, font)


# --- Legend --------------------------------------------------------------------------


def _legend_rows(
    examples: Sequence[Example], info: DatasetInfo, all_classes: bool
) -> list[tuple[str, str, tuple[int, int, int]]]:
    """Returns (id, name, colour) of the classes to name, the ignore label last."""
    present = np.zeros(256, bool)
    for example in examples:
        present |= np.bincount(example.label.ravel(), minlength=256) > 0
    rows = [
        (str(index), name, tuple(color))
        for index, (name, color) in enumerate(zip(info.class_names, info.colormap))
        if all_classes or present[index]
    ]
    if present[info.ignore_label]:
        rows.append((str(info.ignore_label), "ignored", IGNORE_COLOR))
    return rows


class _Legend:
    """Columns of swatch, id and name, filled from top to bottom."""

    def __init__(self, rows, width: int):
        self.rows = rows
        self.font = _font(LEGEND_SIZE)
        self.line = SWATCH + 10
        self.id_width = max(self.font.getlength(row[0]) for row in rows)
        longest = max(self.font.getlength(row[1]) for row in rows)
        self.column = min(int(SWATCH + self.id_width + longest) + 60, width)
        self.column_count = min(max(width // self.column, 1), len(rows))
        self.lines = -(-len(rows) // self.column_count)
        self.height = self.lines * self.line

    def draw(self, sheet: Image.Image, left: int, top: int) -> None:
        draw = ImageDraw.Draw(sheet)
        text_left = SWATCH + 10 + self.id_width
        for index, (number, name, color) in enumerate(self.rows):
            x = left + index // self.lines * self.column
            y = top + index % self.lines * self.line
            draw.rounded_rectangle((x, y, x + SWATCH, y + SWATCH), 4, color, EDGE)
            middle = y + SWATCH // 2
            draw.text((x + text_left, middle), number, FAINT, self.font, anchor="rm")
            name = shorten(name, self.font, self.column - text_left - 12)
            draw.text((x + text_left + 10, middle), name, INK, self.font, anchor="lm")


# --- The sheet -----------------------------------------------------------------------


def draw_contact_sheet(
    examples: Sequence[Example],
    info: DatasetInfo,
    title: str,
    subtitle: str = "",
    all_classes: bool = False,
) -> Image.Image:
    """Draws pairs of image and label in a grid, over a legend.

    Args:
      examples: one or more.
      info: names and colours of the classes.
      title: such as the name of the data set and of the split.
      subtitle: what else to say.
      all_classes: whether the legend names all classes, or those of the sheet alone.

    Returns:
      An RGB picture.
    """
    box = _picture_box(examples)
    cell_width, cell_height = 2 * box[0] + PAIR_GAP, box[1] + CAPTION_GAP + TEXT_SIZE
    columns = min(NUM_COLUMNS, len(examples))
    rows = -(-len(examples) // columns)
    width = max(columns * (cell_width + GAP) - GAP, 900)
    legend = _Legend(_legend_rows(examples, info, all_classes), width)
    header = TITLE_SIZE + 26
    legend_top = MARGIN + header + rows * (cell_height + GAP) + GAP
    size = width + 2 * MARGIN, legend_top + legend.height + MARGIN
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), _font(TITLE_SIZE)
    base = MARGIN + TITLE_SIZE - 6
    draw.text((MARGIN, base), title, INK, font, anchor="ls")
    after = MARGIN + font.getlength(title) + 20
    draw.text((after, base), subtitle, FAINT, _font(LEGEND_SIZE), anchor="ls")
    for index, example in enumerate(examples):
        x = MARGIN + index % columns * (cell_width + GAP)
        y = MARGIN + header + index // columns * (cell_height + GAP)
        _draw_cell(sheet, (x, y), box, example, info)
    line = legend_top - GAP
    draw.line((MARGIN, line, size[0] - MARGIN, line), EDGE)
    legend.draw(sheet, MARGIN, legend_top)
    return sheet
