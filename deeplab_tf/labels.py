"""What class ids mean: names and colours, also of published data sets."""

from __future__ import annotations

import dataclasses
import json

from deeplab_tf.class_tables import ADE20K, CAMVID, CITYSCAPES, IGNORE_LABEL, VOC2012
from deeplab_tf.colors import Color, distinct_colormap


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the class ids mean.

    Attributes:
      class_names: one name per class.
      colormap: one RGB triple (0..255) per class.
      ignore_label: id of void pixels in labels; predictions do not hold it.
    """

    class_names: tuple[str, ...]
    colormap: tuple[Color, ...]
    ignore_label: int = IGNORE_LABEL

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


def labels_for(num_classes: int) -> Labels:
    """Returns the labels of a network of which only the number of classes is known.

    11 are CamVid's, 19 Cityscapes', 21 VOC's, 150 ADE20K's. Other numbers get
    "class 0", "class 1", ... in the colours of `distinct_colormap`.

    Args:
      num_classes: 1 to 256.

    Raises:
      ValueError: another number.
    """
    for table in (CAMVID, CITYSCAPES, VOC2012, ADE20K):
        if len(table.names) == num_classes:
            return Labels(table.names, table.colors)
    names = tuple(f"class {index}" for index in range(num_classes))
    return Labels(names, distinct_colormap(num_classes))
