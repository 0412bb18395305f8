"""Colours of classes: the VOC devkit's, and such as colour-blind people tell apart."""

from __future__ import annotations

import functools

import numpy as np

Color = tuple[int, int, int]  # red, green and blue in 0..255
IGNORE_COLOR = (224, 224, 192)  # VOC's void: not the colour of any of its classes

# Machado, Oliveira and Fernandes (2009), severity 1, of linear RGB.
VISIONS = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
_RGB_TO_XYZ = (  # sRGB's, D65
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)


def voc_colormap(num_classes: int) -> tuple[Color, ...]:
    """Returns the colours of the PASCAL VOC devkit (VOClabelcolormap.m).

    The bits of the class id are dealt in turn to red, green and blue, highest bit of
    the colour first, so that neighbouring ids get distant colours.

    Args:
      num_classes: number of colours, at most 256 (then all of them differ).

    Returns:
      One (red, green, blue) triple of ints in 0..255 for each class.
    """

    def channel(class_id: int, offset: int) -> int:
        bits = (class_id >> (3 * i + offset) & 1 for i in range(8))
        return sum(bit << (7 - i) for i, bit in enumerate(bits))

    return tuple(
        (channel(class_id, 0), channel(class_id, 1), channel(class_id, 2))
        for class_id in range(num_classes)
    )


def distinct_colormap(num_classes: int) -> tuple[Color, ...]:
    """Makes colours that also colour-blind people tell apart, as far as colours go.

    Each colour is, of a grid of 4,913, the one farthest from those before and from
    `IGNORE_COLOR`: by its least distance in CIELAB as seen with normal vision,
    protanopia, deuteranopia and tritanopia. So the first colours are the most
    different ones, and more classes do not change them.

    Args:
      num_classes: 1 to 256.

    Returns:
      RGB triples in 0..255; the first is black.

    Raises:
      ValueError: another number.
    """
    if not 1 <= num_classes <= 256:
        raise ValueError(f"Expected 1 to 256 classes. Received: {num_classes}")
    return _farthest_colors()[:num_classes]


@functools.lru_cache(maxsize=1)
def _farthest_colors() -> tuple[Color, ...]:
    levels = np.round(np.linspace(0, 255, 17))
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)
    candidates = candidates.reshape(-1, 3)  # black comes first
    seen = _seen_lab(candidates)
    nearest = _distances(seen, _seen_lab(np.array([IGNORE_COLOR])))
    chosen = [0]
    while len(chosen) < 256:
        nearest = np.minimum(nearest, _distances(seen, seen[chosen[-1:]]))
        chosen.append(int(nearest.argmax()))
    return tuple(tuple(map(int, candidates[index])) for index in chosen)


def _seen_lab(colors: np.ndarray) -> np.ndarray:
    """RGB [N, 3] in 0..255 -> CIELAB [N, visions, 3] under each of `VISIONS`."""
    values = colors / 255.0
    linear = np.where(
        values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4
    )
    seen = np.einsum("vij,nj->nvi", np.array(list(VISIONS.values())), linear)
    xyz = np.clip(seen, 0, 1) @ np.transpose(_RGB_TO_XYZ)
    ratio = xyz / np.sum(_RGB_TO_XYZ, axis=1)  # white's
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * 841 / 108 + 4 / 29)
    lightness = 116 * f[..., 1] - 16
    red_green = 500 * (f[..., 0] - f[..., 1])
    yellow_blue = 200 * (f[..., 1] - f[..., 2])
    return np.stack([lightness, red_green, yellow_blue], -1)


def _distances(seen: np.ndarray, other: np.ndarray) -> np.ndarray:
    """CIELAB distance to one colour, under the vision that tells least: [N]."""
    return np.linalg.norm(seen - other, axis=-1).min(-1)
