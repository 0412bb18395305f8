"""What class ids mean: names and colours, and which colours where none are given."""

from __future__ import annotations

import dataclasses
import difflib
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

# As VOC, torchvision, LabelMe and others spell it.
_BACKGROUNDS = ("background", "__background__", "_background_", "bg")


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
        """Reads `to_json`; what else is there is left out.

        Raises:
          ValueError: it is something else, or names and colours are not as many.
        """
        try:
            values = json.loads(text)
            if isinstance(values["class_names"], str):
                raise TypeError("class_names is a text, not a list of them")
            labels = cls(
                class_names=tuple(values["class_names"]),
                colormap=tuple(tuple(map(int, c)) for c in values["colormap"]),
                ignore_label=int(values["ignore_label"]),
            )
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                "expected class_names, colormap and ignore_label, received "
                f"{text[:80]!r} ({type(error).__name__}: {error})"
            ) from error
        labels._check()
        return labels

    def _check(self) -> None:
        names, colors = self.class_names, self.colormap
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("expected class_names as a list of texts")
        numbers = [number for color in colors for number in color]
        if len(numbers) != 3 * len(colors) or not set(numbers) <= set(range(256)):
            raise ValueError(
                "expected colormap as a list of [red, green, blue], 0..255"
            )
        if len(names) != len(colors):
            raise ValueError(
                f"expected a colour for each class, received {len(names)} names and "
                f"{len(colors)} colours"
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


def hidden_classes(
    class_names: Sequence[str], hide: Sequence[str] | None = None
) -> tuple[int, ...]:
    """Chooses the classes that pictures over a photo leave clear.

    Args:
      class_names: in the order of the class ids.
      hide: their names, whatever their case; None is the background, by the names
        that data sets and networks give it.

    Returns:
      Class ids, in their order.

    Raises:
      ValueError: no class has such a name.
    """
    folded = [name.strip().casefold() for name in class_names]
    if hide is None:
        return tuple(i for i, name in enumerate(folded) if name in _BACKGROUNDS)
    for name in hide:
        if name.strip().casefold() not in folded:
            near = difflib.get_close_matches(name, class_names, 3, 0.4)
            listed = ", ".join(near or class_names[:20])
            raise ValueError(
                "Expected names of classes, to be left clear, such as "
                f"{listed}. Received: {name}"
            )
    wanted = {name.strip().casefold() for name in hide}
    return tuple(i for i, name in enumerate(folded) if name in wanted)


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
