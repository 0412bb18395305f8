"""Class maps as pictures: colours, overlays, legends, palette PNGs.

A colormap is one RGB triple (0..255) per class, in the order of the class ids.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.colors import IGNORE_COLOR, Color
from deeplab_tf.files import atomic_write
from deeplab_tf.labels import hidden_classes

OUTLINE_COLOR = (255, 255, 255)
_LEGEND_TEXT = (20, 20, 20)
_OUTLINE_SIDE = 1500  # pixels of an image for each pixel of its outlines
_BLOCK = 2**18  # values that are worked on at once, so that large images fit

Colormap = Sequence[Color]


# --- Colours -------------------------------------------------------------------------


def colorize(
    classes: ArrayLike, colormap: Colormap, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """Paints every pixel in the colour of its class.

    Args:
      classes: integers [..., height, width], in [0, len(colormap)) or ignore_label.
      colormap: RGB triples in 0..255, one per class.
      ignore_label: painted in `IGNORE_COLOR`.

    Returns:
      uint8 [..., height, width, 3].

    Raises:
      ValueError: an id without a colour.
    """
    classes = np.asarray(classes)
    colors = np.asarray(colormap, np.uint8).reshape(-1, 3)
    _check_classes(classes, len(colors), ignore_label)
    palette = np.concatenate([colors, [IGNORE_COLOR]]).astype(np.uint8)
    return palette[np.where(classes == ignore_label, len(colors), classes)]


def overlay(
    image: ArrayLike,
    classes: ArrayLike,
    colormap: Colormap,
    alpha: float = 0.5,
    ignore_label: int = IGNORE_LABEL,
    *,
    hidden: Collection[int] = (),
    outlined: bool = True,
) -> np.ndarray:
    """Blends the colours of the classes over an image, with thin outlines.

    Args:
      image: RGB in 0..255, uint8 or float [height, width, 3].
      classes: integers [height, width]; see `colorize`.
      colormap: RGB triples in 0..255, one per class.
      alpha: 0 shows the image, 1 the colours.
      ignore_label: such pixels show the image.
      hidden: class ids that show the image too, such as that of the background.
      outlined: whether the pixels of `outlines` are painted in `OUTLINE_COLOR`, if
        alpha is not 0.

    Returns:
      uint8 [height, width, 3].

    Raises:
      ValueError: sizes differ, alpha is not in [0, 1], or an id has no colour.
    """
    image, classes = np.asarray(image), np.asarray(classes)
    if image.shape != (*classes.shape, 3):
        raise ValueError(
            "Expected an image [height, width, 3] and classes [height, width] of the "
            f"same size. Received: {image.shape} and {classes.shape}"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1]. Received: {alpha}")
    picture = np.empty(image.shape, np.uint8)
    clear = (*hidden, ignore_label)
    for rows in row_blocks(classes.shape):
        shows_image = np.isin(classes[rows], clear)
        weight = np.where(shows_image, np.float32(0), np.float32(alpha))[..., None]
        colors = colorize(classes[rows], colormap, ignore_label)
        picture[rows] = _as_uint8(image[rows] * (1 - weight) + colors * weight)
        if outlined and alpha:
            picture[rows][_outlines_in(rows, classes, clear)] = OUTLINE_COLOR
    return picture


def outlines(classes: ArrayLike, clear: Collection[int] = ()) -> np.ndarray:
    """Finds the pixels on which the outlines of classes are drawn.

    Where two classes meet they are those at the left of and above the other class, so
    that an outline is one pixel wide, and wider in images of over 1,500 pixels a side.
    A clear class has none of its own: its neighbour has them.

    Args:
      classes: integers [height, width].
      clear: class ids, and the ignore label.

    Returns:
      bool [height, width].
    """
    classes = np.asarray(classes)
    found = np.empty(classes.shape, bool)
    for rows in row_blocks(classes.shape):
        found[rows] = _outlines_in(rows, classes, clear)
    return found


def _outlines_in(rows: slice, classes: np.ndarray, clear: Collection[int]):
    """Returns `outlines` of some rows, for which it sees a few around them."""
    width = 1 + max(classes.shape) // _OUTLINE_SIDE
    start, stop = max(0, rows.start - width), rows.stop + width
    block = classes[start:stop]
    is_clear = np.isin(block, tuple(clear))
    found = np.zeros(block.shape, bool)
    for distance in range(1, width + 1):
        for axis in (0, 1):
            here = (slice(None),) * axis + (slice(None, -distance),)
            there = (slice(None),) * axis + (slice(distance, None),)
            changes = block[here] != block[there]
            found[here] |= changes
            found[there] |= changes & is_clear[here]
    found &= ~is_clear
    return found[rows.start - start :][: rows.stop - rows.start]


def panel(
    image: ArrayLike,
    label: ArrayLike,
    prediction: ArrayLike,
    colormap: Colormap,
    ignore_label: int = IGNORE_LABEL,
) -> np.ndarray:
    """Sets image, label and prediction side by side, as TensorBoard shows them.

    Args:
      image: RGB in 0..255, uint8 or float [height, width, 3].
      label: integers [height, width], class ids or ignore_label.
      prediction: integers [height, width], class ids.
      colormap: RGB triples in 0..255, one per class.
      ignore_label: painted in `IGNORE_COLOR`.

    Returns:
      uint8 [height, 3 * width, 3].

    Raises:
      ValueError: sizes differ, or an id has no colour.
    """
    image = np.asarray(image)
    pictures = [_as_uint8(image)]
    for classes in (label, prediction):
        pictures.append(colorize(classes, colormap, ignore_label))
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(
            "image, label and prediction must have the same size. Received: "
            f"{image.shape}, {np.shape(label)} and {np.shape(prediction)}"
        )
    return np.concatenate(pictures, axis=1)


def _check_classes(classes: np.ndarray, num_classes: int, ignore_label: int) -> None:
    """Raises ValueError where there is an id without a colour."""
    for rows in row_blocks(classes.shape):
        block = classes[rows]
        known = (block >= 0) & (block < num_classes) | (block == ignore_label)
        if not known.all():
            raise ValueError(
                f"classes must hold ids in [0, {num_classes}), one per colour, or the "
                f"ignore label {ignore_label}. Received: {block[~known][0]}"
            )


def _as_uint8(image: ArrayLike) -> np.ndarray:
    """Rounds to the nearest of 0..255."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


# --- Legends -------------------------------------------------------------------------


def legend(colormap: Colormap, class_names: Sequence[str], width: int) -> np.ndarray:
    """Draws a strip of colour swatches with names, in as many rows as it takes.

    Args:
      colormap: RGB triples in 0..255.
      class_names: one name per triple.
      width: pixels of the picture the strip goes under; the text grows with it.

    Returns:
      uint8 [strip height, strip width, 3]; wider than `width` only where the longest
      name in the smallest readable text (12 pixels) does not fit.

    Raises:
      ValueError: not as many names as colours.
    """
    _check_names(colormap, class_names)
    text_size = int(np.clip(width // 40, 12, 64))
    font = ImageFont.load_default(text_size)
    gap, row_height = text_size // 2, 2 * text_size
    widths = [
        3 * gap + text_size + int(np.ceil(font.getlength(name))) for name in class_names
    ]
    positions, strip_width = _flow(widths, width)
    rows = positions[-1][1] + 1 if positions else 0
    strip = Image.new("RGB", (strip_width, rows * row_height), "white")
    draw = ImageDraw.Draw(strip)
    for (x, row), color, name in zip(positions, colormap, class_names):
        left, middle = x + gap, row * row_height + row_height // 2
        top = middle - text_size // 2
        box = (left, top, left + text_size - 1, top + text_size - 1)
        draw.rectangle(box, fill=tuple(map(int, color)), outline=_LEGEND_TEXT)
        text_at = (left + text_size + gap, middle)
        draw.text(text_at, name, fill=_LEGEND_TEXT, font=font, anchor="lm")
    return np.asarray(strip)


def _flow(widths: Sequence[int], width: int) -> tuple[list[tuple[int, int]], int]:
    """Sets boxes left to right in rows; returns (x, row) of each and the width used."""
    width = max([width, *widths])
    positions, x, row = [], 0, 0
    for box in widths:
        if x and x + box > width:
            x, row = 0, row + 1
        positions.append((x, row))
        x += box
    return positions, width


def _check_names(colormap: Colormap, class_names: Sequence[str]) -> None:
    if len(colormap) != len(class_names):
        raise ValueError(
            "Expected one class name per colour. Received: "
            f"{len(class_names)} names and {len(colormap)} colours"
        )


def overlay_with_legend(
    image: ArrayLike,
    classes: ArrayLike,
    colormap: Colormap,
    class_names: Sequence[str],
    alpha: float = 0.5,
    ignore_label: int = IGNORE_LABEL,
    *,
    hidden: Collection[int] | None = None,
    outlined: bool = True,
) -> np.ndarray:
    """Overlay at the image's own size, above a legend of the classes painted.

    Args:
      image: RGB in 0..255, uint8 or float [height, width, 3].
      classes: integers [height, width]; see `colorize`.
      colormap: RGB triples in 0..255, one per class.
      class_names: one name per class.
      alpha: see `overlay`.
      ignore_label: not drawn and not named.
      hidden: class ids that are neither; None is the background, where one of the
        names says so.
      outlined: see `overlay`.

    Returns:
      uint8 [height + strip, max(width, strip width), 3]; the overlay is its top left.

    Raises:
      ValueError: see `overlay` and `legend`.
    """
    if hidden is None:
        hidden = hidden_classes(class_names)
    picture = overlay(
        *(image, classes, colormap, alpha, ignore_label),
        hidden=hidden,
        outlined=outlined,
    )
    _check_names(colormap, class_names)
    present = np.flatnonzero(class_counts(np.asarray(classes))).tolist()
    painted = [i for i in present if i not in (*hidden, ignore_label)]
    names = [class_names[i] for i in painted]
    strip = legend([colormap[i] for i in painted], names, picture.shape[1])
    return above(picture, strip)


def above(picture: np.ndarray, strip: np.ndarray) -> np.ndarray:
    """Sets a picture above a strip, on white; both uint8 [height, width, 3]."""
    height, width = picture.shape[:2]
    shape = (height + strip.shape[0], max(width, strip.shape[1]), 3)
    canvas = np.full(shape, 255, np.uint8)
    canvas[:height, :width] = picture
    canvas[height:, : strip.shape[1]] = strip
    return canvas


# --- Files ---------------------------------------------------------------------------


def save_palette_png(
    path: str | os.PathLike,
    classes: ArrayLike,
    colormap: Colormap,
    ignore_label: int = IGNORE_LABEL,
) -> None:
    """Writes class ids as a PNG whose palette shows them in colour, as VOC's masks.

    Pillow reads the ids back; `tf.io.decode_png` would give colours or greys instead.
    The file appears whole or not at all.

    Args:
      path: file to write.
      classes: integers [height, width], in [0, len(colormap)) or ignore_label.
      colormap: RGB triples in 0..255, at most 256.
      ignore_label: shown in `IGNORE_COLOR`; its id is kept.

    Raises:
      ValueError: an id without a colour.
    """
    save_png(path, palette_picture(classes, colormap, ignore_label))


def palette_picture(
    classes: ArrayLike, colormap: Colormap, ignore_label: int = IGNORE_LABEL
) -> Image.Image:
    """Returns what `save_palette_png` writes, and raises what it does."""
    classes = np.asarray(classes)
    _check_classes(classes, len(colormap), ignore_label)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colormap)] = colormap
    palette[ignore_label] = IGNORE_COLOR
    picture = Image.fromarray(classes.astype(np.uint8, copy=False))
    picture.putpalette(palette.tobytes())
    return picture


def save_png(path: str | os.PathLike, picture: Image.Image | np.ndarray) -> None:
    """Writes a Pillow image, or uint8 [height, width, 3], as PNG, whole or not at all.

    Raises:
      OSError: the folder does not exist or cannot be written.
    """
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(picture)
    with atomic_write(path, "wb") as file:
        picture.save(file, format="PNG")


# --- Large images --------------------------------------------------------------------


def shrink(
    image: np.ndarray, classes: np.ndarray, max_pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Makes an image and its classes smaller by a whole number, where they are large.

    Args:
      image: uint8 [height, width, 3].
      classes: integers [height, width].
      max_pixels: most pixels of the result.

    Returns:
      (uint8 [height / k, width / k, 3], integers [height / k, width / k]), rounded
      down: means of k x k pixels, and the class in the middle of each; as given for
      k = 1.
    """
    factor = int(np.ceil(np.sqrt(classes.size / max_pixels)))
    if factor <= 1:
        return image, classes
    height, width = (side // factor for side in classes.shape)
    smaller = np.empty((height, width, 3), np.uint8)
    for row in range(height):
        strip = image[row * factor : (row + 1) * factor, : width * factor]
        cells = strip.reshape(factor, width, factor, 3)
        smaller[row] = _as_uint8(cells.mean((0, 2), dtype=np.float32))
    middle = classes[factor // 2 :: factor, factor // 2 :: factor]
    return smaller, middle[:height, :width]


def class_counts(classes: ArrayLike) -> np.ndarray:
    """Counts the pixels of each id.

    Args:
      classes: integers [height, width] in 0..255.

    Returns:
      int64 [256].
    """
    classes = np.asarray(classes)
    counts = np.zeros(256, np.int64)
    for rows in row_blocks(classes.shape):
        counts += np.bincount(classes[rows].ravel(), minlength=256)
    return counts


def row_blocks(shape: Sequence[int]) -> Iterator[slice]:
    """Yields slices of the first axis, of about 2**18 values each."""
    step = max(1, _BLOCK // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)
