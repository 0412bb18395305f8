"""What class ids mean: names and colours, also of published data sets."""

from __future__ import annotations

import colorsys
import dataclasses
import json


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
_BY_COUNT = {len(labels): labels for labels in (VOC2012, CITYSCAPES)}


def labels_for(num_classes: int) -> dict[str, tuple[int, int, int]]:
    """Returns {name: RGB in 0..255}: VOC's for 21 classes, Cityscapes' for 19.

    Other counts get "class 0", "class 1", ... in black and evenly spaced hues.
    """
    if num_classes in _BY_COUNT:
        return dict(_BY_COUNT[num_classes])
    labels = {"class 0": (0, 0, 0)}
    for index in range(1, num_classes):
        color = colorsys.hsv_to_rgb(index / num_classes, 0.8, 0.9)
        labels[f"class {index}"] = tuple(round(255 * value) for value in color)
    return labels
