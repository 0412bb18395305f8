"""What is known about a data set: its classes, colours, splits and pixel counts.

Every builder writes this description, completed by what it counted, as `info.json`
beside the shards; `read_info` reads it back. What is known beforehand stands in
`datasets.sources.catalog`. Code that trains or evaluates should read the file,
which also exists for a data set made by `datasets.build_folder`.
"""

from __future__ import annotations

import dataclasses
import json
import os

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.colors import Color, voc_colormap
from deeplab_tf.command_names import call_of
from deeplab_tf.labels import colormap_for

INFO_FILE = "info.json"
MAX_CLASSES = IGNORE_LABEL  # their ids are below it


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Description of one data set.

    Attributes:
      name: short name, such as "voc2012".
      class_names: one name for each class id, in order.
      ignore_label: the id of pixels that belong to no class.
      splits: split name -> number of examples. In `catalog.DATASETS` the published
        sizes, in `info.json` the examples that were written.
      colormap: one (red, green, blue) triple in 0..255 for each class; where none are
        given, those of `labels.colormap_for`.
      pixel_counts: split name -> number of pixels of each class (ignored pixels are
        not counted); empty in `catalog.DATASETS`.
    """

    name: str
    class_names: tuple[str, ...]
    ignore_label: int = IGNORE_LABEL
    splits: dict[str, int] = dataclasses.field(default_factory=dict)
    colormap: tuple[Color, ...] = ()
    pixel_counts: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise ValueError(
                f"Expected 1 to {MAX_CLASSES} classes (labels are uint8 and "
                f"{IGNORE_LABEL} is ignored). Received: {self.num_classes}"
            )
        colormap = colormap_for(self.class_names, self.colormap)
        object.__setattr__(self, "colormap", colormap)
        if len(self.colormap) != self.num_classes:
            raise ValueError(
                f"Expected one colour for each of {self.num_classes} classes. "
                f"Received: {len(self.colormap)} colours"
            )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def to_json(self) -> str:
        """Returns the text of `info.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> DatasetInfo:
        """Returns the description that `to_json` wrote.

        Raises:
          ValueError: `text` is not JSON of the fields above.
        """
        try:
            fields = json.loads(text)
            fields["class_names"] = tuple(fields["class_names"])
            colors = tuple(tuple(color) for color in fields["colormap"])
            # Who wrote a file by hand without colours has seen these so far.
            fields["colormap"] = colors or voc_colormap(len(fields["class_names"]))
            return cls(**fields)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                "Expected JSON with the fields of DatasetInfo. "
                f"Received: {text[:80]!r} ({error!r})"
            ) from error


def read_info(data_dir: str) -> DatasetInfo:
    """Reads `<data_dir>/info.json`.

    Args:
      data_dir: folder that a builder wrote; anything that tf.io.gfile can open.

    Raises:
      FileNotFoundError: there is no `info.json`.
      ValueError: `info.json` was not written by a builder.
    """
    # Imported here because a builder's worker processes import this module and do
    # without TensorFlow.
    import tensorflow as tf

    path = os.path.join(os.fspath(data_dir), INFO_FILE)
    if not tf.io.gfile.exists(path):
        raise FileNotFoundError(
            f"No {INFO_FILE} in {data_dir}. Expected a folder written by a builder. "
            f"Run: {call_of('build folder')} --help (or another builder)."
        )
    with tf.io.gfile.GFile(path) as file:
        return DatasetInfo.from_json(file.read())
