"""Draws scenes of textured shapes and their labels.

The class of an object is its outline and nothing else: objects of every class take
their colours and textures from the same random choice. That choice is of vivid colours,
while backgrounds and clutter are muted, so that a small network trained from scratch
finds the objects soon and has its time for their classes. Objects stand upright within
20 degrees. Scenes have objects of many sizes that hide one another, clutter that
belongs to the background (lines, specks, and lumps that are none of the classes),
uneven light, noise and blur, and a void border around every object as PASCAL VOC has.
"""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from deeplab_tf.data.records.info import IGNORE_LABEL

from .catalog import DATASETS

CLASS_NAMES = DATASETS["shapes"].class_names
SPLITS = ("train", "val")
SIDES = (144, 160, 176, 192)  # Heights and widths of scenes, in pixels.
SUPERSAMPLING = 4
MIN_VISIBLE = 0.8  # Share of an object that the objects before it leave visible.
MAX_TILT = 0.35  # Radians.
# Lowest and highest hue, saturation and value, 0..1.
MUTED = ((0, 0.0, 0.2), (1, 0.3, 0.85))
VIVID = ((0, 0.55, 0.45), (1, 1.0, 1.0))
TEXTURE_CONTRAST = 0.4  # How far a texture's second colour is from its first.
QUARTER_TURNS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # Cosine and sine.


# --- Outlines ------------------------------------------------------------------------


def regular_polygon(corners: int, radius: float | np.ndarray = 1.0) -> np.ndarray:
    """Returns the corners, float [corners, 2] (x, y), at `radius` from the origin."""
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def rectangle(half_width: float, half_height: float) -> np.ndarray:
    """Returns the corners, float [4, 2], of a rectangle around the origin."""
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (half_width, half_height)


def outline(name: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Returns polygons, float [corners, 2], of a shape of about radius 1.

    The first is the outline; a second, where there is one, is a hole.
    """
    if name == "disc":
        return [regular_polygon(72, 0.85)]
    if name == "triangle":
        return [regular_polygon(3) + rng.uniform(-0.15, 0.15, (3, 2))]
    if name == "star":
        inner = rng.uniform(0.38, 0.5)
        return [1.1 * regular_polygon(10, np.tile([1.0, inner], 5))]
    if name == "ring":
        return [regular_polygon(72), regular_polygon(72, rng.uniform(0.5, 0.68))]
    if name == "cross":
        arm = rng.uniform(0.2, 0.3)
        corner = np.array([[1, -arm], [1, arm], [arm, arm]])
        turns = [np.array([[c, s], [-s, c]]) for c, s in QUARTER_TURNS]
        return [1.05 * np.concatenate([corner @ turn for turn in turns])]
    if name == "bar":
        return [1.25 * rectangle(1.0, rng.uniform(0.13, 0.19))]
    raise ValueError(f"Expected a shape of {CLASS_NAMES[1:]}. Received: {name!r}")


def blob(rng: np.random.Generator) -> list[np.ndarray]:
    """Returns the outline of a lump that is none of the classes."""
    angles = 2 * np.pi * np.arange(72) / 72
    waves = np.arange(2, 6)[:, None]
    phases = rng.uniform(0, 2 * np.pi, (4, 1))
    heights = rng.uniform(0.08, 0.22, (4, 1))
    radius = 0.8 + np.sum(heights * np.cos(waves * angles + phases), axis=0)
    return [regular_polygon(72, radius)]


def pose(
    polygons: list[np.ndarray],
    radius: float,
    center: np.ndarray,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Scales, squeezes, tilts and moves polygons to pixel coordinates."""
    # Outlines point along x, to the right; a quarter turn back points them up.
    angle = rng.uniform(-MAX_TILT, MAX_TILT) - np.pi / 2
    cos, sin = np.cos(angle), np.sin(angle)
    squeeze = np.array([[1.0, 0.0], [0.0, rng.uniform(0.8, 1.0)]])
    matrix = radius * squeeze @ np.array([[cos, sin], [-sin, cos]])
    return [polygon @ matrix + center for polygon in polygons]


def coverage(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Returns float32 [height, width] in 0..1, how much of a pixel a shape covers."""
    size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    canvas = Image.new("L", size)
    draw = ImageDraw.Draw(canvas)
    for polygon, fill in zip(polygons, (255, 0)):
        draw.polygon((polygon * SUPERSAMPLING).ravel().tolist(), fill=fill)
    return np.asarray(canvas.reduce(SUPERSAMPLING), np.float32) / 255


# --- Colours and textures ------------------------------------------------------------


def smooth_noise(
    height: int, width: int, cells: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns float32 [height, width] in 0..1: random values, smoothly interpolated."""
    grid = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    noise = grid.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(noise, np.float32) / 255


def pattern(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Returns float32 [height, width] in 0..1: one of six kinds of texture."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 14)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)
    v = (y * np.cos(angle) - x * np.sin(angle)) * (2 * np.pi / period)
    kind = rng.integers(6)
    if kind == 0:
        return np.full((height, width), rng.uniform(), np.float32)
    if kind == 1:  # Stripes.
        return np.clip(0.5 + 1.5 * np.sin(u), 0, 1)
    if kind == 2:  # Checks.
        return np.clip(0.5 + 3 * np.sin(u / 2) * np.sin(v / 2), 0, 1)
    if kind == 3:  # Dots.
        return np.clip(2 * (np.cos(u) + np.cos(v)) - 0.5, 0, 1)
    if kind == 4:  # A gradient over about two objects.
        return 0.5 + 0.5 * np.sin(u * period / (width * rng.uniform(0.6, 1.2)))
    return smooth_noise(height, width, int(rng.integers(8, 30)), rng)


def random_color(palette: tuple, rng: np.random.Generator) -> np.ndarray:
    """Returns RGB, float32 [3] in 0..255, of `MUTED` or `VIVID`."""
    hue, saturation, value = rng.uniform(*palette)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32) * 255


def texture(
    height: int,
    width: int,
    palette: tuple,
    rng: np.random.Generator,
    unlike: np.ndarray | None = None,
) -> np.ndarray:
    """Draws a pattern in two random colours.

    Args:
      height: of the texture, in pixels.
      width: of the texture, in pixels.
      palette: `MUTED` or `VIVID`.
      rng: chooses pattern and colours.
      unlike: RGB, float [3]; the mean colour is kept away from it where it is given,
        so that an object can be told from what is below it.

    Returns:
      float32 [height, width, 3], 0..255.
    """
    mix = pattern(height, width, rng)[..., None]
    for _ in range(20):
        first, second = random_color(palette, rng), random_color(palette, rng)
        second = first + TEXTURE_CONTRAST * (second - first)
        mean = first + (second - first) * mix.mean()
        if unlike is None or np.linalg.norm(mean - unlike) > 85:
            break
    return first + (second - first) * mix


# --- Scenes --------------------------------------------------------------------------


def bounding_box(alpha: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Returns the rows and columns of what is above 0, and `margin` pixels around."""
    edges = []
    for axis in (1, 0):
        inside = np.flatnonzero(alpha.any(axis=axis))
        first, last = (inside[0], inside[-1]) if inside.size else (0, 0)
        edges.append(slice(max(first - margin, 0), last + margin + 1))
    return tuple(edges)


def paint(
    canvas: np.ndarray, alpha: np.ndarray, palette: tuple, rng: np.random.Generator
) -> None:
    """Paints a new texture and its shadow on the canvas, in place, where alpha says so.

    Args:
      canvas: float32 [height, width, 3], 0..255.
      alpha: float32 [height, width], 0..1.
      palette: `MUTED` or `VIVID`.
      rng: chooses texture, colours and shadow.
    """
    box = bounding_box(alpha, margin=8)  # As far as a shadow reaches.
    part, alpha = canvas[box], alpha[box]
    shade = np.roll(255 * alpha, rng.integers(1, 4, 2), (0, 1)).astype(np.uint8)
    shade = Image.fromarray(shade).filter(ImageFilter.GaussianBlur(2))
    shade = np.asarray(shade, np.float32)[..., None] / 255
    part *= 1 - np.float32(rng.uniform(0.2, 0.55)) * shade
    covered = alpha > 0.5
    below = part[covered].mean(0) if covered.any() else None
    new = texture(*alpha.shape, palette, rng, unlike=below)
    part += alpha[..., None] * (new - part)


def draw_clutter(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Draws blobs, lines and specks on the canvas, in place: background, all of it."""
    height, width = canvas.shape[:2]
    for _ in range(rng.integers(1, 4)):
        lump = pose(blob(rng), rng.uniform(8, 26), rng.uniform(0, (width, height)), rng)
        paint(canvas, coverage(lump, height, width), MUTED, rng)
    scratches = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(scratches)
    for _ in range(rng.integers(2, 7)):
        color = tuple(random_color(MUTED, rng).astype(int))
        points = rng.uniform(0, (width, height), (rng.integers(2, 5), 2))
        draw.line(points.ravel().tolist(), fill=color, width=int(rng.integers(1, 3)))
    for x, y in rng.uniform(0, (width, height), (rng.integers(10, 60), 2)):
        radius = rng.uniform(0.3, 1.6)
        color = tuple(random_color(MUTED, rng).astype(int))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    canvas[:] = np.asarray(scratches, np.float32)


def place_objects(
    height: int, width: int, rng: np.random.Generator
) -> list[tuple[int, np.ndarray]]:
    """Chooses what stands where, the largest at the back.

    An object may hide parts of others, but leaves `MIN_VISIBLE` of each: what is
    labelled can be recognised.

    Returns:
      (class id, coverage float32 [height, width] in 0..1) of each object.
    """
    objects, full_areas = [], []
    owner = np.full((height, width), -1)
    radii = np.exp(rng.uniform(np.log(16), np.log(52), rng.integers(3, 7)))
    for radius in sorted(radii, reverse=True):
        for _ in range(10):
            class_id = int(rng.integers(1, len(CLASS_NAMES)))
            polygons = outline(CLASS_NAMES[class_id], rng)
            center = rng.uniform(0.08, 0.92, 2) * (width, height)
            alpha = coverage(pose(polygons, radius, center, rng), height, width)
            covered = np.where(alpha >= 0.5, len(objects), owner)
            areas = np.bincount(covered[covered >= 0], minlength=len(objects) + 1)
            if np.all(areas[:-1] >= MIN_VISIBLE * np.array(full_areas)):
                objects.append((class_id, alpha))
                full_areas.append(areas[-1])
                owner = covered
                break
    return objects


def label_of(objects: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Labels a scene.

    Args:
      objects: what `place_objects` returned.

    Returns:
      uint8 [height, width]: class ids, and 255 on the two pixels where one object
      meets another or the background.
    """
    label = np.zeros(objects[0][1].shape, np.uint8)
    owner = np.zeros(label.shape, np.int64)
    for index, (class_id, alpha) in enumerate(objects, start=1):
        label[alpha >= 0.5] = class_id
        owner[alpha >= 0.5] = index
    rows = owner[1:] != owner[:-1]
    columns = owner[:, 1:] != owner[:, :-1]
    for border, change in (
        (label[1:], rows),
        (label[:-1], rows),
        (label[:, 1:], columns),
        (label[:, :-1], columns),
    ):
        border[change] = IGNORE_LABEL
    return label


def spoil(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the scene, uint8, under uneven light, a little blurred and noisy."""
    height, width = canvas.shape[:2]
    light = 0.65 + 0.6 * smooth_noise(height, width, 3, rng)
    lit = (canvas * light[..., None]).clip(0, 255).astype(np.uint8)
    lit = Image.fromarray(lit).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    noise = rng.normal(0, rng.uniform(1, 11), (height, width, 3))
    return (np.asarray(lit) + noise).round().clip(0, 255).astype(np.uint8)


def draw_scene(seed: int, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws scene `index` of a split: a pure function of its arguments.

    Returns:
      image: uint8 [height, width, 3], RGB.
      label: uint8 [height, width], class ids in [0, 8) or 255 along the outlines.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    height, width = (int(side) for side in rng.choice(SIDES, 2))
    canvas = texture(height, width, MUTED, rng)
    draw_clutter(canvas, rng)
    objects = place_objects(height, width, rng)
    for _, alpha in objects:
        paint(canvas, alpha, VIVID, rng)
    return spoil(canvas, rng), label_of(objects)
