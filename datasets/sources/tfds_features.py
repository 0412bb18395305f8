"""What is known of tensorflow-datasets' data sets, and which features hold the pixels.

`find_features` completes what `KNOWN` says of a data set, or a `Reading` of no known
one, by the features that `builder.info` lists. For `datasets.build_tfds`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from deeplab_tf.class_tables import CITYSCAPES, CITYSCAPES_TRAIN_IDS
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.records.info import IGNORE_LABEL

INSTALL = (
    "Run: pip install tensorflow-datasets importlib_resources (with TensorFlow 2.15 "
    "also: pip install tensorflow-metadata==1.15.0)"
)
LABEL_NAMES = re.compile(r"segmentation|semantic|annotation|label|mask|seg_?map")


# --- What is known -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the features of a TFDS example become image and label.

    Attributes:
      image_key: feature of the image; "" to find it.
      label_key: likewise, of the label.
      class_names: in the order of the class ids; () where they are not known.
      ids: stored id -> class id or 255; None where all stored ids plus `offset` are.
      offset: see there.
      channel: of the label that holds the ids, where it has several; else None.
      colormap: of the classes; () takes that of `labels.colormap_for`.
      note: what to know about this data set.
    """

    image_key: str = ""
    label_key: str = ""
    class_names: tuple[str, ...] = ()
    ids: Mapping[int, int] | None = None
    offset: int = 0
    channel: int | None = None
    colormap: tuple[tuple[int, int, int], ...] = ()
    note: str = ""


# Data sets whose stored ids are no class ids. "image" and "segmentation_mask" are the
# names of features that tensorflow-datasets 4.9 gives them.
KNOWN = {
    "oxford_iiit_pet": Reading(
        "image",
        "segmentation_mask",
        ("pet", "background", "border"),
        {1: 0, 2: 1, 3: 2},
    ),
    "cityscapes": Reading(
        "image_left",
        "segmentation_label",
        CITYSCAPES.names,
        CITYSCAPES_TRAIN_IDS,
        colormap=CITYSCAPES.colors,
    ),
    # gtCoarse: 0 is outside of what was labelled, 1 the free road, the others hazards.
    "lost_and_found": Reading(
        "image_left",
        "segmentation_label",
        ("free space", "obstacle"),
        {0: IGNORE_LABEL, 1: 0, **dict.fromkeys(range(2, 255), 1)},
    ),
    "caltech_birds2010": Reading(
        "image",
        "segmentation_mask",
        ("background", "bird"),
        {0: 0, **dict.fromkeys(range(1, 256), 1)},
    ),
    # The share of five annotators, of 255, who marked a pixel: a majority is a bird.
    "caltech_birds2011": Reading(
        "image",
        "segmentation_mask",
        ("background", "bird"),
        {value: value // 128 for value in range(256)},
    ),
    "scene_parse150": Reading(
        "image",
        "annotation",
        tuple(f"object_{index}" for index in range(1, 101)),
        {0: IGNORE_LABEL, **{index: index - 1 for index in range(1, 101)}},
        channel=0,
        note="TFDS's scene_parse150 has the masks of the instance benchmark: 100 kinds "
        "of objects, everything else ignored. For its 150 classes use "
        "datasets.build_ade20k.",
    ),
}


def known_reading(
    name: str,
    image_key: str | None,
    label_key: str | None,
    channel: int | None,
    offset: int | None,
) -> Reading:
    """Returns what `KNOWN` says of a data set, but for what is given."""
    given = {
        "image_key": image_key,
        "label_key": label_key,
        "channel": channel,
        "offset": offset,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if offset is not None:
        given.update(ids=None, class_names=(), colormap=())
    return dataclasses.replace(KNOWN.get(name, Reading()), **given)


# --- The features of a data set ------------------------------------------------------


def import_tfds():
    """Returns the module tensorflow_datasets.

    Raises:
      DatasetError: it is absent, or does not work beside this TensorFlow.
    """
    try:
        import tensorflow_datasets as tfds

        # Where one of its own imports fails, it logs that and lacks its functions.
        tfds.builder  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise DatasetError(
            f"tensorflow-datasets cannot be imported ({error}). {INSTALL}"
        ) from error
    return tfds


def _is_label(tfds, name: str, feature) -> bool:
    """Says whether a feature looks like class ids for each pixel."""
    if isinstance(feature, tfds.features.LabeledImage):
        return True
    one_channel = isinstance(feature, tfds.features.Image) and feature.shape[-1] == 1
    return one_channel and bool(LABEL_NAMES.search(name.lower()))


def _is_image(tfds, name: str, feature) -> bool:
    is_image = isinstance(feature, tfds.features.Image)
    return is_image and feature.shape[-1] == 3 and not LABEL_NAMES.search(name.lower())


def _describe(features: Mapping) -> str:
    return "; ".join(
        f"{name}: {type(feature).__name__} {getattr(feature, 'shape', '')}".strip()
        for name, feature in features.items()
    )


def _choose(features: Mapping, kind: str, given: str, candidates: list[str]) -> str:
    """Returns the feature that is meant.

    Raises:
      DatasetError: there is no such feature, or several.
    """
    if given in features:
        return given
    if not given and len(candidates) == 1:
        return candidates[0]
    received = given or ", ".join(candidates) or "none"
    raise DatasetError(
        f"Expected one feature with the {kind}; --{kind}_key names it. Received: "
        f"{received}. Features: {_describe(features)}"
    )


def find_features(tfds, features: Mapping, reading: Reading) -> Reading:
    """Completes a reading by the names of the features and the classes.

    Args:
      tfds: the module.
      features: name -> feature, as of `builder.info.features`.
      reading: what is known.

    Raises:
      DatasetError: image or label cannot be told.
    """
    labels = [name for name in features if _is_label(tfds, name, features[name])]
    images = [name for name in features if _is_image(tfds, name, features[name])]
    reading = dataclasses.replace(
        reading,
        image_key=_choose(features, "image", reading.image_key, images),
        label_key=_choose(features, "label", reading.label_key, labels),
    )
    label = features[reading.label_key]
    count = getattr(label, "num_classes", None)
    if reading.class_names or not count:
        return reading
    # Names may not be set, only their number.
    names = tuple(label.names or ()) or tuple(f"class_{i}" for i in range(count))
    return dataclasses.replace(reading, class_names=names)
