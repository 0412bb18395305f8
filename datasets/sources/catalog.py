"""What is known beforehand of the data sets that have a builder: `DATASETS`.

A row gives classes, colours and the published number of examples of each split. Classes
and colours are those of `deeplab_tf.class_tables`.
"""

from __future__ import annotations

from deeplab_tf.class_tables import CLASS_TABLES, VOC2012
from deeplab_tf.colors import voc_colormap
from deeplab_tf.data.records.info import DatasetInfo


def _published(name: str, **splits: int) -> DatasetInfo:
    """Returns the row of a class table, with the number of examples of each split."""
    names, colors = CLASS_TABLES[name]
    return DatasetInfo(name, class_names=names, splits=splits, colormap=colors)


_ROWS = (
    # trainaug is VOC's train and all of SBD's images that are not in val.
    _published("voc2012", train=1464, trainaug=10582, trainval=2913, val=1449),
    # train_extra has coarse labels only.
    _published("cityscapes", train=2975, val=500, train_extra=19998),
    # COCO's objects of VOC's classes, for pretraining.
    DatasetInfo("coco_voc", class_names=VOC2012.names, colormap=VOC2012.colors),
    _published("coco_panoptic", train=118287, val=5000),
    _published("coco_stuff", train=118287, val=5000),
    _published("pascal_context", train=4998, val=5105),
    _published("person_part", train=1716, val=1817),
    _published("ade20k", train=20210, val=2000),
    # 480 x 360, as SegNet's authors hand it out.
    _published("camvid", train=367, val=101, test=233),
    # Drawn by datasets.build_shapes; how many is up to its flags.
    DatasetInfo(
        "shapes",
        class_names=("background", "disc", "triangle", "star", "ring", "cross", "bar"),
        colormap=voc_colormap(7),
    ),
)
DATASETS = {row.name: row for row in _ROWS}
