"""What class ids mean: names and colours, also of published data sets."""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np

IGNORE_COLOR = (224, 224, 192)  # VOC's void: not the colour of any of its classes


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the class ids mean.

    Attributes:
      class_names: one name per class.
      colormap: one RGB triple (0..255) per class.
      ignore_label: id of void pixels in labels; predictions do not hold it.
    """

    class_names: tuple[str, ...]
    colormap: tuple[tuple[int, int, int], ...]
    ignore_label: int = 255

    @classmethod
    def from_config(cls, config) -> Labels:
        """Takes them from a `TrainConfig`."""
        return cls(config.class_names, config.colormap, config.ignore_label)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Labels:
        values = json.loads(text)
        return cls(
            class_names=tuple(values["class_names"]),
            colormap=tuple(map(tuple, values["colormap"])),
            ignore_label=values["ignore_label"],
        )


VOC2012 = {
    "background": (0, 0, 0),
    "aeroplane": (128, 0, 0),
    "bicycle": (0, 128, 0),
    "bird": (128, 128, 0),
    "boat": (0, 0, 128),
    "bottle": (128, 0, 128),
    "bus": (0, 128, 128),
    "car": (128, 128, 128),
    "cat": (64, 0, 0),
    "chair": (192, 0, 0),
    "cow": (64, 128, 0),
    "diningtable": (192, 128, 0),
    "dog": (64, 0, 128),
    "horse": (192, 0, 128),
    "motorbike": (64, 128, 128),
    "person": (192, 128, 128),
    "pottedplant": (0, 64, 0),
    "sheep": (128, 64, 0),
    "sofa": (0, 192, 0),
    "train": (128, 192, 0),
    "tvmonitor": (0, 64, 128),
}
CITYSCAPES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
# SegNet's 11 classes.
CAMVID = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign_symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
# SceneParse150; the id 0 of its label files is void. Two of its colours are the same.
ADE20K = {
    "wall": (120, 120, 120),
    "building": (180, 120, 120),
    "sky": (6, 230, 230),
    "floor": (80, 50, 50),
    "tree": (4, 200, 3),
    "ceiling": (120, 120, 80),
    "road": (140, 140, 140),
    "bed": (204, 5, 255),
    "windowpane": (230, 230, 230),
    "grass": (4, 250, 7),
    "cabinet": (224, 5, 255),
    "sidewalk": (235, 255, 7),
    "person": (150, 5, 61),
    "earth": (120, 120, 70),
    "door": (8, 255, 51),
    "table": (255, 6, 82),
    "mountain": (143, 255, 140),
    "plant": (204, 255, 4),
    "curtain": (255, 51, 7),
    "chair": (204, 70, 3),
    "car": (0, 102, 200),
    "water": (61, 230, 250),
    "painting": (255, 6, 51),
    "sofa": (11, 102, 255),
    "shelf": (255, 7, 71),
    "house": (255, 9, 224),
    "sea": (9, 7, 230),
    "mirror": (220, 220, 220),
    "rug": (255, 9, 92),
    "field": (112, 9, 255),
    "armchair": (8, 255, 214),
    "seat": (7, 255, 224),
    "fence": (255, 184, 6),
    "desk": (10, 255, 71),
    "rock": (255, 41, 10),
    "wardrobe": (7, 255, 255),
    "lamp": (224, 255, 8),
    "bathtub": (102, 8, 255),
    "railing": (255, 61, 6),
    "cushion": (255, 194, 7),
    "base": (255, 122, 8),
    "box": (0, 255, 20),
    "column": (255, 8, 41),
    "signboard": (255, 5, 153),
    "chest of drawers": (6, 51, 255),
    "counter": (235, 12, 255),
    "sand": (160, 150, 20),
    "sink": (0, 163, 255),
    "skyscraper": (140, 140, 140),
    "fireplace": (250, 10, 15),
    "refrigerator": (20, 255, 0),
    "grandstand": (31, 255, 0),
    "path": (255, 31, 0),
    "stairs": (255, 224, 0),
    "runway": (153, 255, 0),
    "case": (0, 0, 255),
    "pool table": (255, 71, 0),
    "pillow": (0, 235, 255),
    "screen door": (0, 173, 255),
    "stairway": (31, 0, 255),
    "river": (11, 200, 200),
    "bridge": (255, 82, 0),
    "bookcase": (0, 255, 245),
    "blind": (0, 61, 255),
    "coffee table": (0, 255, 112),
    "toilet": (0, 255, 133),
    "flower": (255, 0, 0),
    "book": (255, 163, 0),
    "hill": (255, 102, 0),
    "bench": (194, 255, 0),
    "countertop": (0, 143, 255),
    "stove": (51, 255, 0),
    "palm": (0, 82, 255),
    "kitchen island": (0, 255, 41),
    "computer": (0, 255, 173),
    "swivel chair": (10, 0, 255),
    "boat": (173, 255, 0),
    "bar": (0, 255, 153),
    "arcade machine": (255, 92, 0),
    "hovel": (255, 0, 255),
    "bus": (255, 0, 245),
    "towel": (255, 0, 102),
    "light": (255, 173, 0),
    "truck": (255, 0, 20),
    "tower": (255, 184, 184),
    "chandelier": (0, 31, 255),
    "awning": (0, 255, 61),
    "streetlight": (0, 71, 255),
    "booth": (255, 0, 204),
    "television receiver": (0, 255, 194),
    "airplane": (0, 255, 82),
    "dirt track": (0, 10, 255),
    "apparel": (0, 112, 255),
    "pole": (51, 0, 255),
    "land": (0, 194, 255),
    "bannister": (0, 122, 255),
    "escalator": (0, 255, 163),
    "ottoman": (255, 153, 0),
    "bottle": (0, 255, 10),
    "buffet": (255, 112, 0),
    "poster": (143, 255, 0),
    "stage": (82, 0, 255),
    "van": (163, 255, 0),
    "ship": (255, 235, 0),
    "fountain": (8, 184, 170),
    "conveyer belt": (133, 0, 255),
    "canopy": (0, 255, 92),
    "washer": (184, 0, 255),
    "plaything": (255, 0, 31),
    "swimming pool": (0, 184, 255),
    "stool": (0, 214, 255),
    "barrel": (255, 0, 112),
    "basket": (92, 255, 0),
    "waterfall": (0, 224, 255),
    "tent": (112, 224, 255),
    "bag": (70, 184, 160),
    "minibike": (163, 0, 255),
    "cradle": (153, 0, 255),
    "oven": (71, 255, 0),
    "ball": (255, 0, 163),
    "food": (255, 204, 0),
    "step": (255, 0, 143),
    "tank": (0, 255, 235),
    "trade name": (133, 255, 0),
    "microwave": (255, 0, 235),
    "pot": (245, 0, 255),
    "animal": (255, 0, 122),
    "bicycle": (255, 245, 0),
    "lake": (10, 190, 212),
    "dishwasher": (214, 255, 0),
    "screen": (0, 204, 255),
    "blanket": (20, 0, 255),
    "sculpture": (255, 255, 0),
    "hood": (0, 153, 255),
    "sconce": (0, 41, 255),
    "vase": (0, 255, 204),
    "traffic light": (41, 0, 255),
    "tray": (41, 255, 0),
    "ashcan": (173, 0, 255),
    "fan": (0, 245, 255),
    "pier": (71, 0, 255),
    "crt screen": (122, 0, 255),
    "plate": (0, 255, 184),
    "monitor": (0, 92, 255),
    "bulletin board": (184, 255, 0),
    "shower": (0, 133, 255),
    "radiator": (255, 214, 0),
    "glass": (25, 194, 194),
    "clock": (102, 255, 0),
    "flag": (92, 0, 255),
}
COLORMAPS = {
    "voc2012": VOC2012,
    "cityscapes": CITYSCAPES,
    "camvid": CAMVID,
    "ade20k": ADE20K,
}

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


def labels_for(num_classes: int) -> dict[str, tuple[int, int, int]]:
    """Returns {name: RGB in 0..255} of the published data set of that many classes.

    11 are CamVid's, 19 Cityscapes', 21 VOC's, 150 ADE20K's. Other counts get
    "class 0", "class 1", ... in the colours of `distinct_colormap`.
    """
    for labels in COLORMAPS.values():
        if len(labels) == num_classes:
            return dict(labels)
    colors = distinct_colormap(num_classes)
    return {f"class {index}": color for index, color in enumerate(colors)}


def distinct_colormap(num_classes: int) -> tuple[tuple[int, int, int], ...]:
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
def _farthest_colors() -> tuple[tuple[int, int, int], ...]:
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
