"""What class ids mean: names and colours, and which colours where none are given."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from deeplab_tf.class_tables import (
    ADE20K,
    CAMVID,
    CITYSCAPES,
    CLASS_TABLES,
    IGNORE_LABEL,
    VOC2012,
)
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


def colormap_for(
    class_names: Sequence[str], brought: Sequence[Color] = ()
) -> tuple[Color, ...]:
    """Chooses the colours of classes; all that has classes chooses them here.

    They are those that the data brings, by the palette of its masks or a table of
    colours; else, where the names are those of a published data set, its colours; else
    those of `distinct_colormap`.

    Args:
      class_names: in the order of the class ids, 1 to 256.
      brought: RGB triples in 0..255 that the data brings, one per class; or none.

    Returns:
      RGB triples in 0..255, one per class.
    """
    if brought:
        return tuple(brought)
    for table in CLASS_TABLES.values():
        if table.names == tuple(class_names):
            return table.colors
    return distinct_colormap(len(class_names))


def labels_for(num_classes: int) -> Labels:
    """Returns the labels of a network of which only the number of classes is known.

    11 are CamVid's, 19 Cityscapes', 21 VOC's, 150 ADE20K's. Other numbers get
    "class 0", "class 1", ... in the colours of `colormap_for`.

    Args:
      num_classes: 1 to 256.

    Raises:
      ValueError: another number.
    """
    known = {len(t.names): t.names for t in (CAMVID, CITYSCAPES, VOC2012, ADE20K)}
    numbered = tuple(f"class {index}" for index in range(num_classes))
    names = known.get(num_classes, numbered)
    return Labels(names, colormap_for(names))
