"""A folder with COCO's JSON: Roboflow's, CVAT's, Label Studio's, or COCO's own.

train/_annotations.coco.json beside the images      Roboflow
annotations/instances_default.json, images/         CVAT, COCO
result.json, images/                                Label Studio
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from deeplab_tf.data.annotations import coco, coco_regions
from deeplab_tf.data.annotations.found import (
    BACKGROUND_NAMES,
    VOID_NAMES,
    Drawn,
    Found,
    Options,
    check_once,
    expect,
    head_of,
    join_splits,
    json_files,
    refuse_class_names,
    split_folders,
)
from deeplab_tf.data.building import files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders.class_map import Classes
from deeplab_tf.data.records.info import IGNORE_LABEL, MAX_CLASSES

# --- Categories and classes ----------------------------------------------------------


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
      Names of the classes, background first, and category id -> class id, or 255 for
      names that mean void.

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
        elif name.lower() in VOID_NAMES:
            class_ids[category_id] = IGNORE_LABEL
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
            IGNORE_LABEL: " (pixels without a class)",
        }.get(class_id, "")
        lines.append(
            f"{category_id:8}  {'-' if class_id is None else class_id:>5}  "
            f"{counts.get(category_id, 0):11}  {category['name']}{remark}"
        )
    return "\n".join(lines)


# --- The folder ----------------------------------------------------------------------

_KEYS = ('"images"', '"annotations"', '"categories"')
_OTHER_TASKS = ("captions", "person_keypoints", "panoptic", "image_info", "stuff")


def _is_coco(path: Path) -> bool:
    head = head_of(path)
    known = head.startswith("{") and any(key in head for key in _KEYS)
    other = path.stem.lower().startswith(_OTHER_TASKS)
    return known and not other and '"shapes"' not in head and path.stem != "meta"


def _files(folder: Path) -> list[Path]:
    """Returns the JSON files of COCO's kind: of annotations/, or here and in splits."""
    inside = [p for p in json_files(folder / "annotations") if _is_coco(p)]
    if inside:
        return inside
    places = [folder, *split_folders(folder)]
    return [p for place in places for p in json_files(place) if _is_coco(p)]


def detect(folder: Path) -> bool:
    """Whether there are JSON files of COCO's kind."""
    return bool(_files(folder))


def _split_name(path: Path, folder: Path) -> str:
    """Returns what names a file's split: its folder, or the end of its own name."""
    if path.parent not in (folder, folder / "annotations"):
        return path.parent.name
    name = re.sub(
        r"^(instances|annotations)_|\d{4}$|_?annotations?\.coco$", "", path.stem
    )
    return "" if name.lower() in ("default", "result", "annotations", "") else name


def _images_folder(file: coco.Instances, split: str, folder: Path, options: Options):
    """Returns the folder in which a file's first image is; if in none, images/."""
    given = [Path(options.images_dir).expanduser()] if options.images_dir else []
    stem = file.path.stem.rpartition("_")[2]
    images = folder / "images"
    places = given or [
        *(images / split, images / stem, folder / split, folder / stem, images),
        *(file.path.parent, folder),
    ]
    name = next(iter(file.images.values()))["file_name"]
    name = coco.image_path(name)
    there = [p for p in places if Path(files.as_stored(str(p / name))).is_file()]
    return (there or given or [images if images.is_dir() else file.path.parent])[0]


def read(folder: Path, options: Options) -> Found:
    """Reads COCO's JSON, as `datasets.build_coco_json` does.

    Raises:
      DatasetError: see `coco.read_instances`, `choose_classes`.
    """
    coco_regions.require_pycocotools()
    refuse_class_names(options, "the categories of the JSON files")
    read_files = [coco.read_instances(path) for path in _files(folder)]
    expect(read_files, "COCO's JSON files", folder)
    categories = merge_categories(read_files)
    check_once([c["name"] for c in categories.values()], read_files[0].path)
    counts = count_annotations(read_files)
    names, class_ids = choose_classes(categories, counts)
    parts = []
    for file in read_files:
        split = _split_name(file.path, folder) if len(read_files) > 1 else ""
        split = split or ("" if len(read_files) == 1 else file.path.stem)
        images = _images_folder(file, split, folder, options)
        samples = coco.list_samples(file, images, class_ids, ignore_crowd=False)
        parts.append((split, samples))
    return Found(
        join_splits(parts),
        "the JSON files" if len(parts) > 1 else "",
        "categories",
        drawn=Drawn(Classes(names, tuple(range(256))), coco_regions.rasterize),
    )
