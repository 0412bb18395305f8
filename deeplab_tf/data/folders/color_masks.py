"""Masks whose colours are the classes: their ids by a table, and the colours they have.

Masks consist of long runs of one colour. Only the runs' colours are looked up, so that
a mask costs little more than its decoding.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab_tf.colors import IGNORE_COLOR
from deeplab_tf.data.building import files, worker_pool
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.image_files import RGB_CONVERTIBLE
from deeplab_tf.data.folders import found_ids
from deeplab_tf.data.folders.color_tables import (
    MAX_COLORS,
    ColorTable,
    NamedColor,
    format_color,
    parse_color,
)
from deeplab_tf.data.records.info import IGNORE_LABEL

BLACK = (0, 0, 0)
ADVICE = (
    "Colours of masks must be exact: save masks as PNG, not as JPEG, without "
    "anti-aliasing, and enlarge or reduce them by nearest neighbour only."
)


def read_colors(path: str) -> np.ndarray:
    """Reads a mask file as the colours that it shows, those of a palette too.

    Transparent pixels are black, whatever colour lies under them: nothing is painted
    there. A transparency that is the same everywhere says nothing, and pixels that are
    partly transparent have their colour.

    Returns:
      uint32 [height, width], 65536 * red + 256 * green + blue.

    Raises:
      ValueError: the file cannot be read, is a JPEG, or has more than 8 bits a
        channel.
    """
    data = files.read_file(path)
    image = files.open_image(data, path)
    if image.format == "JPEG":
        raise ValueError(f"{path} is a JPEG, which alters colours; expected a PNG mask")
    # Pillow reads PNGs of 16-bit colours as if they had 8.
    if image.format == "PNG" and data[24] > 8:
        raise ValueError(f"{path} has {data[24]} bits a channel; expected 8")
    rgb = _opaque(image, path)
    packed = np.zeros((*rgb.shape[:2], 4), np.uint8)
    packed[..., 2::-1] = rgb
    return packed.view("<u4")[..., 0]


def _opaque(image: Image.Image, path: str) -> np.ndarray:
    """Returns the colours of a mask, uint8 [height, width, 3]."""
    if image.mode not in (*RGB_CONVERTIBLE, "PA"):
        raise ValueError(
            f"{path} has Pillow mode {image.mode}; expected 8 bits of grey or colour"
        )
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA"))
    clear = rgba[..., 3:] == 0
    return rgba[..., :3] if clear.all() else np.where(clear, np.uint8(0), rgba[..., :3])


def _runs(colors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the sorted colours there are, each run's index into them, its length."""
    flat = colors.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    found, index = np.unique(flat[starts], return_inverse=True)
    return found, index, np.diff(starts, append=flat.size)


def _unpack(color: int) -> tuple[int, int, int]:
    return (int(color) >> 16, int(color) >> 8 & 255, int(color) & 255)


def is_colored(path: str) -> bool:
    """Returns whether a file is an image in RGB, by its header."""
    try:
        with files.open_head(files.read_file(path), path) as image:
            return image.mode in ("RGB", "RGBA") and image.format != "JPEG"
    except ValueError:
        return False


def read_greys(path: str) -> np.ndarray | None:
    """Reads a mask in RGB whose pixels are greys; None where one has a colour.

    Returns:
      uint8 [height, width], the value of red, of green and of blue.

    Raises:
      ValueError: see `read_colors`.
    """
    colors = read_colors(path)
    blue = colors & 255
    return blue.astype(np.uint8) if (colors == blue * 0x010101).all() else None


# --- Colours to ids ------------------------------------------------------------------


def read_rows(
    path: str, colors: Sequence[tuple[int, int, int]], other_colors: str = "refuse"
) -> np.ndarray:
    """Reads a colour-coded mask as places in a table of colours.

    Args:
      path: the mask.
      colors: at most 255 different colours.
      other_colors: for pixels of another colour, "ignore" gives 255 and "refuse"
        raises.

    Returns:
      uint8 [height, width], indices of `colors`, or 255.

    Raises:
      ValueError: see `read_colors`; or pixels of another colour.
    """
    image = read_colors(path)
    found, index, lengths = _runs(image)
    places = {(r << 16) + (g << 8) + b: i for i, (r, g, b) in enumerate(colors)}
    rows = np.array([places.get(c, IGNORE_LABEL) for c in found.tolist()], np.uint8)
    others = np.flatnonzero(rows == IGNORE_LABEL)
    if others.size and other_colors == "refuse":
        counts = np.bincount(index, lengths, len(found)).astype(np.int64)
        raise ValueError(f"{path} has {_describe_others(found, counts, others)}")
    return np.repeat(rows[index], lengths).reshape(image.shape)


def _describe_others(found: np.ndarray, counts: np.ndarray, others: np.ndarray) -> str:
    """Says how many pixels have colours that are not in the table, and which."""
    most = others[np.argsort(-counts[others], kind="stable")]
    named = [f"{format_color(_unpack(found[i]))} ({counts[i]} pixels)" for i in most]
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return (
        f"{counts[others].sum()} of {counts.sum()} pixels in colours that are not in "
        f"--label_colors: {', '.join(named[:5])}{more}; add them, or leave such pixels "
        "out: --other_colors=ignore"
    )


# --- Colours that masks have ---------------------------------------------------------


class ColorCounts(NamedTuple):
    """What one mask has; or why it cannot be read, which the builder says again."""

    pixels: dict[int, int]  # colour -> pixels
    num_colors: int  # where over MAX_COLORS, `pixels` is empty
    error: str = ""


def count_colors(path: str) -> ColorCounts:
    """Counts the colours of one mask; for worker processes."""
    try:
        found, index, lengths = _runs(read_colors(path))
    except ValueError as error:
        return ColorCounts({}, 0, str(error))
    if len(found) > MAX_COLORS:
        return ColorCounts({}, len(found))
    counts = np.bincount(index, lengths, len(found)).astype(np.int64)
    return ColorCounts(dict(zip(found.tolist(), counts.tolist())), len(found))


def _count_all(
    paths: Sequence[str], num_processes: int | None
) -> tuple[Counter, Counter]:
    """Returns colour -> pixels, and colour -> masks that have it; see `infer_table`."""
    pixels, masks, errors = Counter(), Counter(), []
    num_processes = num_processes or worker_pool.available_cpus()
    results = worker_pool.map_in_order(count_colors, paths, num_processes)
    with contextlib.closing(results):
        for path, result in zip(paths, results):
            pixels.update(result.pixels)
            masks.update(result.pixels.keys())
            errors += [result.error] if result.error else []
            num_colors = max(result.num_colors, len(pixels))
            if num_colors > MAX_COLORS:
                raise DatasetError(
                    f"Expected at most {MAX_COLORS} colours in all masks. Received: "
                    f"{num_colors} up to {path}. {ADVICE}"
                )
    if len(pixels) < 2:
        raise DatasetError(
            f"Expected masks of two colours or more. Received: {len(pixels)} in "
            f"{len(paths)} masks. {'; '.join(errors[:1])}".rstrip()
        )
    return pixels, masks


def infer_table(
    paths: Sequence[str], num_processes: int | None = None
) -> tuple[ColorTable, str]:
    """Makes a table of all colours of masks, sorted by red, green and blue.

    Args:
      paths: of the masks. Those that cannot be read do not count.
      num_processes: worker processes; default: as many as there are CPUs.

    Returns:
      The table, and a listing of the colours with their shares of pixels.

    Raises:
      DatasetError: fewer than 2 colours or more than 255; or no mask can be read; or
        black and white with grey edges.
    """
    pixels, masks = _count_all(paths, num_processes)
    _check_edges(pixels)
    total = sum(pixels.values())
    table, lines = [], []
    for packed in sorted(pixels):
        color = _unpack(packed)
        table.append(NamedColor(f"color_{bytes(color).hex()}", color))
        lines.append(
            f"  {format_color(color)}  {pixels[packed] / total:8.3%} of pixels, in "
            f"{masks[packed]} of {len(paths)} masks"
        )
    return tuple(table), "\n".join(lines)


def name_void(
    table: ColorTable, listing: str, void_colors: Sequence[str] | None
) -> ColorTable:
    """Calls colours void that mark pixels without a class.

    Args:
      table: of `infer_table`.
      listing: likewise, for the question.
      void_colors: what is said of them; None where nothing is.

    Raises:
      DatasetError: nothing is said, and black or VOC's border is one of several
        colours: black is a background in some sets and marks pixels without a class in
        others; or a colour is said that masks do not have.
    """
    if void_colors is None:
        doubtful = [e.color for e in table if e.color in (BLACK, IGNORE_COLOR)]
        if doubtful and len(table) > 2:
            shown = ",".join(map(format_color, doubtful))
            raise DatasetError(
                f"Expected to know whether {shown} is a class. Received the colours:\n"
                f"{listing}\nWhere it is one, such as background: --void_colors=none. "
                f"Where it marks pixels without a class: --void_colors={shown}"
            )
        return table
    wanted = [] if list(void_colors) == ["none"] else void_colors
    try:
        void = {parse_color(color) for color in wanted}
    except ValueError as error:
        raise DatasetError(
            f"Expected --void_colors=none, or colours such as #000000. Received: "
            f"{','.join(void_colors)} ({error})"
        ) from error
    absent = void - {entry.color for entry in table}
    if absent:
        raise DatasetError(
            "Expected --void_colors that masks have. Received: "
            f"{', '.join(map(format_color, sorted(absent)))}"
        )
    return tuple(e._replace(name="void") if e.color in void else e for e in table)


def _check_edges(pixels: Mapping[int, int]) -> None:
    """Refuses masks of black and white whose edges are grey.

    Raises:
      DatasetError: they are such.
    """
    greys = np.zeros(256, np.int64)
    for packed, count in pixels.items():
        red, green, blue = _unpack(packed)
        if not red == green == blue:
            return
        greys[red] = count
    two = found_ids.black_and_white(greys)
    if two is None:
        return
    low, high, share = two
    raise DatasetError(
        f"Expected a colour for each class. Received: {format_color([low] * 3)} and "
        f"{format_color([high] * 3)} in {share:.1%} of the pixels, and "
        f"{len(pixels) - 2} other greys, as smoothed edges have. Give a file of the "
        f"two lines {low},{low},{low},background and {high},{high},{high},object, and "
        "leave out the edges: --label_colors=FILE --other_colors=ignore"
    )


def row_reader(table: ColorTable, other_colors: str) -> Callable[[str], np.ndarray]:
    """Returns `read_rows` for a table, as a picklable function of a path."""
    colors = tuple(entry.color for entry in table)
    return functools.partial(read_rows, colors=colors, other_colors=other_colors)
