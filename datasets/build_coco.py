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
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from deeplab_tf.data.building import dataset, image_files, pairs, worker_pool
from deeplab_tf.data.building.command_line import run_builder
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.downloads import command_line
from deeplab_tf.data.folders import folder_splits
from deeplab_tf.data.records.info import IGNORE_LABEL, DatasetInfo

from .sources import coco
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
PANOPTIC_KEYS = {"image_id": (int, str), "file_name": str, "segments_info": list}

# --- What is there -------------------------------------------------------------------


def find_sources(
    input_dir: str | Path, task: str, year: str = "", stuff_dir: str | Path = ""
) -> dict[str, Path]:
    """Returns split -> its JSON file, or for stuff its folder of maps.

    Args:
      input_dir: folder in COCO's layout.
      task: "voc", "panoptic" or "stuff".
      year: "2014" or "2017"; needed only where both are there.
      stuff_dir: folder of the folders of maps; default: in `input_dir`.

    Raises:
      DatasetError: no split is there, or one of two years.
    """
    input_dir = Path(input_dir).expanduser()
    folder = Path(stuff_dir).expanduser() if stuff_dir else input_dir / "stuffthingmaps"
    prefix, suffix = "", ""
    if task != "stuff":
        folder, suffix = input_dir / "annotations", ".json"
        prefix = {"voc": "instances_", "panoptic": "panoptic_"}[task]
    pattern = re.compile(rf"{prefix}(train|val)({year or '[0-9]{4}'}){suffix}")
    sources: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if not match:
            continue
        split = match.group(1)
        if split in sources:
            raise DatasetError(
                f"Expected one year. Received: {sources[split]} and {path}. "
                f"Choose one: --year={match.group(2)}"
            )
        sources[split] = path
    if not sources:
        wanted = folder / f"{prefix}{{train,val}}{year or '2017'}{suffix}"
        raise DatasetError(
            f"Expected {wanted} for task {task}. Received: none of them. See "
            "python -m datasets.build_coco --help for the layout."
        )
    return sources


def list_splits(input_dir: str | Path, task: str, **where) -> list[str]:
    """Returns those of train and val that are there; see `find_sources`."""
    return list(find_sources(input_dir, task, **where))


def _find_folder(candidates: Sequence[Path], what: str) -> Path:
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise DatasetError(
        f"Expected {what} in one of {', '.join(map(str, candidates))}. "
        "Received: no such folder"
    )


def _images_folder(input_dir: Path, release: str) -> Path:
    """Returns the folder of images of a release such as "train2017"."""
    candidates = [input_dir / release, input_dir / "images" / release]
    return _find_folder(candidates, "the images")


def list_samples(
    input_dir: str | Path, split: str, task: str, **where
) -> list[pairs.Sample]:
    """Returns the samples of one split.

    Args:
      input_dir: folder in COCO's layout.
      split: "train" or "val".
      task: "voc", "panoptic" or "stuff".
      **where: see `find_sources`.

    Returns:
      The images of the JSON in its order; for stuff, those with a map or an image,
      sorted.

    Raises:
      DatasetError: the split is not there, or its files are not COCO's.
    """
    sources = find_sources(input_dir, task, **where)
    if split not in sources:
        raise DatasetError(
            f"Expected splits among {', '.join(sources)}. Received: {split}"
        )
    listers = {"voc": _list_voc, "panoptic": _list_panoptic, "stuff": _list_stuff}
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
            f"{', '.join(missing)}. For other files: datasets.build_coco_json"
        )
    return {ids[name]: class_id for class_id, name in enumerate(names, start=1)}


def _list_voc(input_dir: Path, path: Path) -> list[pairs.Sample]:
    instances = coco.read_instances(path)
    folder = _images_folder(input_dir, path.stem.replace("instances_", ""))
    class_ids = voc_class_ids(instances.categories, path)
    return coco.list_samples(instances, folder, class_ids, ignore_crowd=True)


def count_object_pixels(sample: pairs.Sample) -> int | None:
    """Returns how many pixels are of a class but background, or None: a bad pair."""
    try:
        label = coco.rasterize(sample.label)
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


# --- Panoptic ------------------------------------------------------------------------


def panoptic_class_ids(categories: Mapping[int, Mapping], path: Path) -> dict[int, int]:
    """Returns category id -> class id, in the order of category ids.

    Raises:
      DatasetError: the names are not those of `DATASETS["coco_panoptic"]`.
    """
    expected = DATASETS["coco_panoptic"].class_names
    names = [category["name"] for category in categories.values()]
    if len(names) != len(expected):
        raise DatasetError(
            f"Expected the {len(expected)} panoptic categories in {path}. "
            f"Received: {len(names)}"
        )
    for name, wanted in zip(names, expected):
        if name != wanted:
            raise DatasetError(
                f"Expected COCO's panoptic categories in {path}, in the order of their "
                f"ids. Received: {name} instead of {wanted}"
            )
    return {category_id: i for i, category_id in enumerate(categories)}


def _list_panoptic(input_dir: Path, path: Path) -> list[pairs.Sample]:
    document = coco.read_json(path)
    class_ids = panoptic_class_ids(coco.read_categories(document, path), path)
    images = coco.read_images(document, path)
    annotations = coco.read_items(document, "annotations", PANOPTIC_KEYS, path)
    release = path.stem.replace("panoptic_", "")
    images_folder = _images_folder(input_dir, release)
    masks_folder = _find_folder(
        [
            # The archive within the archive, unzipped to a folder of its own name.
            path.parent / path.stem / path.stem,
            path.parent / path.stem,
            input_dir / path.stem,
        ],
        "the PNG files of panoptic segments",
    )
    samples = []
    for annotation in annotations:
        image = images.get(annotation["image_id"])
        if image is None:
            raise DatasetError(
                f"Expected annotations of the images in {path}. Received: "
                f"{annotation['file_name']} with image_id {annotation['image_id']!r}"
            )
        text = segments_text(
            masks_folder / annotation["file_name"],
            annotation["segments_info"],
            class_ids,
        )
        name = coco.sample_name(image["file_name"])
        image_path = images_folder / coco.image_path(image["file_name"])
        samples.append(pairs.Sample(name, str(image_path), text))
    return samples


def segments_text(
    png: Path, segments_info: Iterable[Mapping], class_ids: Mapping[int, int]
) -> str:
    """Returns what `read_panoptic_sample` needs of one image as JSON text.

    Raises:
      DatasetError: a segment lacks its id, or is of a category that is not there.
    """
    segments = {}
    for segment in segments_info:
        try:
            segments[segment["id"]] = class_ids[segment["category_id"]]
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"Expected segments with 'id' and a known 'category_id' for {png}. "
                f"Received: {json.dumps(segment):.150}"
            ) from error
    return json.dumps({"png": str(png), "segments": segments}, separators=(",", ":"))


def convert_panoptic(colors: np.ndarray, segments: Mapping[int, int]) -> np.ndarray:
    """Maps segments to classes.

    Args:
      colors: uint8 [height, width, 3]; red + 256 green + 65536 blue is a segment's
        id, 0 is none.
      segments: id of a segment -> class id.

    Returns:
      uint8 [height, width], class ids, or 255 where no segment is.

    Raises:
      ValueError: the image holds a segment that is not in `segments`.
    """
    ids = colors.astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)
    found, inverse = np.unique(ids, return_inverse=True)
    table = {0: IGNORE_LABEL, **segments}
    unknown = [str(i) for i in found.tolist() if i not in table]
    if unknown:
        raise ValueError(
            "the PNG holds segments that the JSON does not name: "
            f"{', '.join(unknown[:5])}; expected files of the same release"
        )
    classes = np.array([table[i] for i in found.tolist()], np.uint8)
    return classes[inverse].reshape(ids.shape)


def read_panoptic_sample(sample: pairs.Sample) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and the classes of its segments."""
    label = json.loads(sample.label)
    image = pairs.open_image(pairs.read_file(label["png"]), label["png"])
    if image.mode != "RGB":
        raise ValueError(
            f"{label['png']} has Pillow mode {image.mode}; expected RGB, whose three "
            "channels together are the id of a segment"
        )
    segments = {int(i): class_id for i, class_id in label["segments"].items()}
    image_bytes = image_files.read_image(sample.image, "ignore")
    return image_bytes, convert_panoptic(np.asarray(image), segments)


# --- Stuff ---------------------------------------------------------------------------


def _list_stuff(input_dir: Path, folder: Path) -> list[pairs.Sample]:
    images_folder = _images_folder(input_dir, folder.name)
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
    label = convert_stuff(pairs.read_label(sample.label))
    return image_files.read_image(sample.image, "ignore"), label


READERS = {
    "voc": functools.partial(coco.read_sample, exif_orientation="ignore"),
    "panoptic": read_panoptic_sample,
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
      year: see `find_sources`, as for `stuff_dir`.
      stuff_dir: likewise.
      min_pixels: for voc, images with so many pixels of objects or fewer are dropped.
      filtered_splits: the splits to which `min_pixels` applies.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: see `list_samples`, `dataset.build_dataset`.
    """
    if task == "voc":
        coco.require_pycocotools()
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
    flags.DEFINE_enum("task", None, list(TASKS), "Which classes.", required=True)
    flags.DEFINE_enum("year", "", ["", "2014", "2017"], "Where both are there.")
    flags.DEFINE_string("stuff_dir", "", "Default: stuffthingmaps in input_dir.")
    flags.DEFINE_integer(
        "min_pixels",
        DEFAULT_MIN_PIXELS,
        "voc: drop images with so many pixels of objects or fewer; -1 keeps all.",
    )
    flags.DEFINE_list("filtered_splits", ["train"], "voc: where min_pixels applies.")


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
