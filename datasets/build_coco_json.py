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
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from deeplab_tf.data.building import command_line, dataset, image_files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.output_folder import full_path
from deeplab_tf.data.folders import folder_splits
from deeplab_tf.data.records.info import MAX_CLASSES, DatasetInfo

from .sources import coco, coco_regions

BACKGROUND_NAMES = ("background", "_background_")

# --- Which files, which classes ------------------------------------------------------


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


def merge_categories(files: Sequence[coco.Instances]) -> dict[int, dict]:
    """Returns id -> category of all files, in the order of ids.

    Raises:
      DatasetError: an id has two names, or a name two ids.
    """
    merged: dict[int, dict] = {}
    for file in files:
        for category_id, category in file.categories.items():
            known = merged.setdefault(category_id, category)
            if known["name"] != category["name"]:
                raise DatasetError(
                    f"Expected the same categories in all JSON files. Received: "
                    f"{category['name']} for id {category_id} in {file.path}, "
                    f"{known['name']} before"
                )
    counts = Counter(category["name"] for category in merged.values())
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise DatasetError(
            "Expected one id for each category in all JSON files. Received several "
            f"for {', '.join(repeated)}"
        )
    return dict(sorted(merged.items()))


def count_annotations(files: Sequence[coco.Instances]) -> Counter[int]:
    """Returns category id -> number of annotations in all files."""
    return Counter(
        annotation["category_id"]
        for file in files
        for group in file.annotations.values()
        for annotation in group
    )


def choose_classes(
    categories: Mapping[int, Mapping], counts: Mapping[int, int]
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Chooses a class for each category.

    Args:
      categories: id -> category, in the order of ids.
      counts: category id -> number of its annotations.

    Returns:
      Names of the classes, background first, and category id -> class id.

    Raises:
      DatasetError: no class is left, or more than a label can hold.
    """
    parents = [
        category.get("supercategory")
        for category in categories.values()
        if category.get("supercategory") != category["name"]
    ]
    names, class_ids = ["background"], {}
    for category_id, category in categories.items():
        name = category["name"]
        if name.lower() in BACKGROUND_NAMES:
            class_ids[category_id] = 0
        elif name not in parents or counts.get(category_id):
            class_ids[category_id] = len(names)
            names.append(name)
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DatasetError(
            f"Expected 1 to {MAX_CLASSES - 1} categories beside background (labels are "
            f"uint8 and 255 is ignored). Received: {len(names) - 1}"
        )
    return tuple(names), class_ids


def class_table(
    categories: Mapping[int, Mapping],
    counts: Mapping[int, int],
    class_ids: Mapping[int, int],
) -> str:
    """Returns lines that say which class each category became."""
    lines = ["category  class  annotations  name"]
    for category_id, category in categories.items():
        class_id = class_ids.get(category_id)
        remark = {
            None: " (left out: a supercategory without annotations)",
            0: " (is class 0)",
        }.get(class_id, "")
        lines.append(
            f"{category_id:8}  {'-' if class_id is None else class_id:>5}  "
            f"{counts.get(category_id, 0):11}  {category['name']}{remark}"
        )
    return "\n".join(lines)


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
