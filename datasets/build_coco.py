r"""Writes COCO as TFRecords: VOC's classes, panoptic's classes, or COCO-Stuff's.

    python -m datasets.build_coco --task=voc --input_dir=coco --output_dir=data/coco_voc

Expects, from https://cocodataset.org/#download (no login):

    coco/train2017/*.jpg, coco/val2017/*.jpg           train2017.zip, val2017.zip
    coco/annotations/instances_{train,val}2017.json    annotations_trainval2017.zip
    coco/annotations/panoptic_{train,val}2017.json and
    coco/annotations/panoptic_{train,val}2017/*.png    panoptic_annotations_trainval2017
    coco/stuffthingmaps/{train,val}2017/*.png          stuffthingmaps_trainval2017.zip,
                                                       github.com/nightrome/cocostuff

Only a task's own annotations are needed. The folder panoptic_train2017 may lie beside
`annotations` too, the images in `coco/images`, and the maps in another --stuff_dir. A
split is there when its JSON file is, or its folder of maps. The release of 2014 works
with --task=voc: its files are found by their names.

--task=voc: the 20 classes of VOC and background, for pretraining. A region of any other
category is background. Crowds of VOC's classes become 255: their regions are drawn
around a group, with what is between its members. Where objects overlap, the smaller
one is in front of the larger. As in the paper of DeepLabV3, only training images with
more than 1,000 pixels of the 20 classes are kept: --min_pixels, counted in the final
labels, and --filtered_splits. Polygons are drawn by pycocotools, which is to be
installed: python -m pip install pycocotools

--task=panoptic: 133 classes, 80 of things and 53 of stuff, in the order of their ids,
which the JSON gives and which are compared with the names of `DATASETS`. Crowds keep
their class. Pixels of no segment become 255.

--task=stuff: 171 classes, 80 of things and 91 of stuff. The maps hold the category id
less one; 255 is unlabelled and stays so.

Masks fit the pixels as they are stored, so that EXIF orientations are not applied. The
few grey images are stored as RGB PNGs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from deeplab_tf.data.annotations import coco, coco_regions
from deeplab_tf.data.building import dataset, files, image_files, pairs, worker_pool
from deeplab_tf.data.building.command_line import run_builder
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.downloads import command_line
from deeplab_tf.data.folders import folder_splits
from deeplab_tf.data.records.info import IGNORE_LABEL, DatasetInfo

from .sources import coco_layout, coco_panoptic
from .sources.catalog import DATASETS

# Task -> name of its data set in DATASETS.
TASKS = {"voc": "coco_voc", "panoptic": "coco_panoptic", "stuff": "coco_stuff"}
# Where COCO's name of a VOC class is another one.
COCO_NAMES_OF_VOC = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
# Category ids of COCO-Stuff: things have 1 to 91, stuff has 92 to 182. These ids of
# things were never released.
UNUSED_STUFF_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
STUFF_IDS = tuple(i for i in range(1, 183) if i not in UNUSED_STUFF_IDS)
DEFAULT_MIN_PIXELS = 1000

# --- What is there -------------------------------------------------------------------


def list_splits(input_dir: str | Path, task: str, **where) -> list[str]:
    """Returns those of train and val that are there; see `coco_layout.find_sources`."""
    return list(coco_layout.find_sources(input_dir, task, **where))


def list_samples(
    input_dir: str | Path, split: str, task: str, **where
) -> list[pairs.Sample]:
    """Returns the samples of one split.

    Args:
      input_dir: folder in COCO's layout.
      split: "train" or "val".
      task: "voc", "panoptic" or "stuff".
      **where: see `coco_layout.find_sources`.

    Returns:
      The images of the JSON in its order; for stuff, those with a map or an image,
      sorted.

    Raises:
      DatasetError: the split is not there, or its files are not COCO's.
    """
    sources = coco_layout.find_sources(input_dir, task, **where)
    if split not in sources:
        raise DatasetError(
            f"Expected splits among {', '.join(sources)}. Received: {split}"
        )
    listers = {
        "voc": _list_voc,
        "panoptic": coco_panoptic.list_samples,
        "stuff": _list_stuff,
    }
    return listers[task](Path(input_dir).expanduser(), sources[split])


# --- VOC's classes -------------------------------------------------------------------


def voc_class_ids(categories: Mapping[int, Mapping], path: Path) -> dict[int, int]:
    """Returns category id -> class id of VOC, for the categories that VOC has.

    Raises:
      DatasetError: one of the 20 classes is not among the categories.
    """
    ids = {
        category["name"]: category_id for category_id, category in categories.items()
    }
    voc_names = DATASETS["coco_voc"].class_names[1:]
    names = [COCO_NAMES_OF_VOC.get(name, name) for name in voc_names]
    missing = [name for name in names if name not in ids]
    if missing:
        raise DatasetError(
            f"Expected COCO's categories in {path}. Received: none called "
            f"{', '.join(missing)}. For JSON files of your own there is "
            "python -m datasets.build_coco_json."
        )
    return {ids[name]: class_id for class_id, name in enumerate(names, start=1)}


def _list_voc(input_dir: Path, path: Path) -> list[pairs.Sample]:
    instances = coco.read_instances(path)
    folder = coco_layout.images_folder(input_dir, path.stem.replace("instances_", ""))
    class_ids = voc_class_ids(instances.categories, path)
    return coco.list_samples(instances, folder, class_ids, ignore_crowd=True)


def count_object_pixels(sample: pairs.Sample) -> int | None:
    """Returns how many pixels are of a class but background, or None: a bad pair."""
    try:
        label = coco_regions.rasterize(sample.label)
    except ValueError:
        return None  # build_dataset reads it again, and says what is wrong.
    return int(np.count_nonzero((label != 0) & (label != IGNORE_LABEL)))


def drop_small(
    samples: Sequence[pairs.Sample],
    split: str,
    min_pixels: int,
    num_processes: int | None = None,
) -> list[pairs.Sample]:
    """Returns the samples with more than `min_pixels` pixels of objects.

    Overlaps and crowds make the sum of the JSON's areas differ from what a label holds,
    so the labels are drawn and counted. Prints how many samples are dropped.
    """
    num_processes = num_processes or worker_pool.available_cpus()
    counts = worker_pool.map_in_order(count_object_pixels, samples, num_processes)
    # disable=None: no bar where the output is no terminal.
    counts = list(tqdm(counts, "pixels", len(samples), disable=None))
    kept = [
        sample
        for sample, count in zip(samples, counts)
        if count is None or count > min_pixels
    ]
    print(
        f"{split}: dropped {len(samples) - len(kept)} of {len(samples)} images with "
        f"{min_pixels} pixels of the classes or fewer"
    )
    return kept


# --- Stuff ---------------------------------------------------------------------------


def _list_stuff(input_dir: Path, folder: Path) -> list[pairs.Sample]:
    images_folder = coco_layout.images_folder(input_dir, folder.name)
    samples = folder_splits.list_samples(images_folder, folder)
    # Another project writes its own maps beside the original ones.
    return [sample for sample in samples if not sample.name.endswith("_labelTrainIds")]


def convert_stuff(label: np.ndarray) -> np.ndarray:
    """Maps the ids of a map of COCO-Stuff to class ids.

    Args:
      label: uint8 [height, width], category ids less one, or 255.

    Returns:
      uint8 [height, width], class ids in [0, 171), or 255.

    Raises:
      ValueError: the map has an id of no category.
    """
    stored = np.array(STUFF_IDS) - 1
    found = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    wrong = np.setdiff1d(found, [*stored, IGNORE_LABEL])
    if wrong.size:
        raise ValueError(
            f"map has the ids {', '.join(map(str, wrong))}, which COCO-Stuff does not "
            "use; expected category ids (1 to 182) less one, or 255"
        )
    table = np.full(256, IGNORE_LABEL, np.uint8)
    table[stored] = np.arange(len(stored))
    return table[label]


def read_stuff_sample(sample: pairs.Sample) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and the classes of its map."""
    label = convert_stuff(files.read_label(sample.label))
    return image_files.read_image(sample.image, "ignore"), label


READERS = {
    "voc": functools.partial(coco_regions.read_sample, exif_orientation="ignore"),
    "panoptic": coco_panoptic.read_sample,
    "stuff": read_stuff_sample,
}

# --- The whole data set --------------------------------------------------------------


def build_coco(
    input_dir: str | Path,
    output_dir: str | Path,
    splits: Sequence[str] = (),
    *,
    task: str,
    year: str = "",
    stuff_dir: str | Path = "",
    min_pixels: int = DEFAULT_MIN_PIXELS,
    filtered_splits: Sequence[str] = ("train",),
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
      input_dir: folder in COCO's layout.
      output_dir: folder to make.
      splits: of train and val; default: those that are there.
      task: "voc", "panoptic" or "stuff".
      year: see `coco_layout.find_sources`, as for `stuff_dir`.
      stuff_dir: likewise.
      min_pixels: for voc, images with so many pixels of objects or fewer are dropped.
      filtered_splits: the splits to which `min_pixels` applies.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: see `list_samples`, `dataset.build_dataset`.
    """
    if task == "voc":
        coco_regions.require_pycocotools()
    where = {"year": year, "stuff_dir": stuff_dir}
    samples = {
        split: list_samples(input_dir, split, task, **where)
        for split in splits or list_splits(input_dir, task, **where)
    }
    for split in samples if task == "voc" else ():
        if split in filtered_splits:
            samples[split] = drop_small(
                samples[split], split, min_pixels, options.get("num_processes")
            )
    info = DATASETS[TASKS[task]]
    return dataset.build_dataset(output_dir, info, samples, READERS[task], **options)


def define_flags() -> None:
    command_line.define_flags("Folder in COCO's layout.")
    flags.DEFINE_enum(
        "task",
        None,
        list(TASKS),
        "Classes to write: VOC's, panoptic's or COCO-Stuff's.",
        required=True,
    )
    flags.DEFINE_enum(
        "year", "", ["", "2014", "2017"], "Release of COCO, where both are there."
    )
    flags.DEFINE_string(
        "stuff_dir",
        "",
        "Folder of COCO-Stuff's maps; default: stuffthingmaps in input_dir.",
    )
    flags.DEFINE_integer(
        "min_pixels",
        DEFAULT_MIN_PIXELS,
        "With --task=voc: images with so many pixels of objects or fewer are dropped; "
        "-1 keeps all.",
    )
    flags.DEFINE_list(
        "filtered_splits",
        ["train"],
        "With --task=voc: splits that min_pixels applies to.",
    )


def main() -> None:
    args = flags.FLAGS
    if args.download and args.year == "2014":
        raise DatasetError("--download gets COCO 2017. Leave --year=2014 out.")
    build_coco(
        task=args.task,
        year=args.year,
        stuff_dir=args.stuff_dir,
        min_pixels=args.min_pixels,
        filtered_splits=args.filtered_splits,
        **command_line.flag_options(f"coco_{args.task}", "input_dir"),
    )


def run() -> None:
    run_builder(define_flags, main)


if __name__ == "__main__":
    run()
