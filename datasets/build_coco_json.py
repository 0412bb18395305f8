r"""Writes anyone's COCO-style JSON of instances as TFRecords.

    python -m datasets.build_coco_json --annotations=instances.json \
        --images_dir=images --output_dir=data/my_set

Reads what CVAT, Label Studio, Roboflow and the converters of LabelMe export as "COCO",
with polygons or run lengths. `file_name` is looked up in --images_dir (default: the
folder of the JSON file, where Roboflow puts the images) and may hold sub-folders.

Splits: of one JSON file, --val_fraction of the images chosen by --seed are for
validation. Of several, each is a split by the name of its file, or by a name given
(a single file with a name is that split, whole):

    --annotations=train.json,val.json
    --annotations=train=train/_annotations.coco.json,val=valid/_annotations.coco.json

Classes: 0 is background, for all pixels without a region; then the categories in the
order of their ids. A category called background becomes class 0. A category without
annotations that is only the supercategory of others (Roboflow adds one with id 0) is
left out. The table of classes is printed before anything is written.

Where regions overlap, the smaller is in front of the larger: `coco_regions.rasterize`.
Regions with "iscrowd" have their class like all others, since exporters set it for any
region that is stored as run lengths; --ignore_crowd makes them 255.

Polygons are drawn by pycocotools: python -m pip install pycocotools. For the JSON files
of COCO itself see datasets.build_coco.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from deeplab_tf.data.annotations import coco, coco_regions
from deeplab_tf.data.annotations.coco_folder import (
    choose_classes,
    class_table,
    count_annotations,
    merge_categories,
)
from deeplab_tf.data.building import command_line, dataset, image_files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.output_folder import full_path
from deeplab_tf.data.folders import folder_splits
from deeplab_tf.data.records.info import DatasetInfo

# --- Which files ------------------------------------------------------


def parse_annotations(values: Sequence[str]) -> dict[str, Path]:
    """Returns split -> JSON file; a single file without a name is split "".

    Args:
      values: paths, or "split=path".

    Raises:
      DatasetError: two files have the same split, or none is given.
    """
    files: dict[str, Path] = {}
    for value in values:
        # A path may hold "=" too; a split's name holds no slash.
        split, equals, path = value.partition("=")
        if not equals or "/" in split or "\\" in split:
            path = value
            split = Path(value).stem if len(values) > 1 else ""
        if split in files:
            raise DatasetError(
                f"Expected one JSON file for each split. Received: {files[split]} and "
                f"{path} for {split}. Name the splits: --annotations=train=...,val=..."
            )
        files[split] = Path(path).expanduser()
    if not files:
        raise DatasetError("Expected --annotations=FILE.json. Received: none")
    return files


# --- The whole data set --------------------------------------------------------------


def build_coco_json(
    annotations: Sequence[str],
    output_dir: str | Path,
    *,
    images_dir: str | Path = "",
    val_fraction: float = 0.1,
    seed: int = 0,
    ignore_crowd: bool = False,
    skip_empty: bool = False,
    exif_orientation: str = "refuse",
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
      annotations: see `parse_annotations`.
      output_dir: folder to make; its name becomes that of the data set.
      images_dir: folder of the images; default: that of each JSON file.
      val_fraction: of one JSON file, see `folder_splits.split_by_fraction`.
      seed: likewise.
      ignore_crowd: see `coco.list_samples`.
      skip_empty: likewise.
      exif_orientation: see `image_files.read_image`.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: see `parse_annotations`, `coco.read_instances`,
        `merge_categories`, `choose_classes`, `dataset.build_dataset`.
    """
    coco_regions.require_pycocotools()
    files = {
        split: coco.read_instances(path)
        for split, path in parse_annotations(annotations).items()
    }
    categories = merge_categories(list(files.values()))
    counts = count_annotations(list(files.values()))
    names, class_ids = choose_classes(categories, counts)
    print(class_table(categories, counts, class_ids))
    splits = {
        split: coco.list_samples(
            file,
            images_dir or file.path.parent,
            class_ids,
            ignore_crowd=ignore_crowd,
            skip_empty=skip_empty,
        )
        for split, file in files.items()
    }
    if list(splits) == [""]:
        splits = folder_splits.split_by_fraction(splits[""], val_fraction, seed)
    info = DatasetInfo(os.path.basename(full_path(output_dir)), class_names=names)
    read = functools.partial(
        coco_regions.read_sample, exif_orientation=exif_orientation
    )
    return dataset.build_dataset(output_dir, info, splits, read, **options)


def define_flags() -> None:
    command_line.define_flags()
    flags.DEFINE_list(
        "annotations",
        None,
        "COCO JSON files, each with or without the name of its split: "
        "train=a.json,val=b.json.",
        required=True,
    )
    flags.DEFINE_string(
        "images_dir", "", "Folder of the images; by default that of each JSON file."
    )
    flags.DEFINE_float(
        "val_fraction", 0.1, "Share of the images for val, of one JSON file."
    )
    flags.DEFINE_integer("seed", 0, "Seed of the choice of images for val.")
    flags.DEFINE_bool("ignore_crowd", False, "Whether regions with iscrowd become 255.")
    flags.DEFINE_bool(
        "skip_empty", False, "Whether images without annotations are left out."
    )
    image_files.define_exif_flag()


def main() -> None:
    args = flags.FLAGS
    build_coco_json(
        args.annotations,
        args.output_dir,
        images_dir=args.images_dir,
        val_fraction=args.val_fraction,
        seed=args.seed,
        ignore_crowd=args.ignore_crowd,
        skip_empty=args.skip_empty,
        exif_orientation=args.exif_orientation,
        **command_line.flag_options(),
    )


def run() -> None:
    command_line.run_builder(define_flags, main)


if __name__ == "__main__":
    run()
