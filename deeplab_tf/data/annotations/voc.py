"""Folders in the layout of VOC: the devkit's, CVAT's masks, LabelMe's export.

    JPEGImages/NAME.jpg  SegmentationClass/NAME.png  ImageSets/Segmentation/train.txt

CVAT's "Segmentation mask 1.1" adds labelmap.txt, where colours are classes;
labelme2voc.py adds class_names.txt, and puts masks into SegmentationClassPNG in older
releases, as .npy and not as PNG into SegmentationClass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from deeplab_tf.data.annotations.found import (
    Found,
    Options,
    expect,
    join_splits,
    refuse_class_names,
    sub_folders,
)
from deeplab_tf.data.annotations.pairing import Endings, find_endings
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.folders.folder_splits import (
    LABEL_SUFFIXES,
    list_samples,
    read_names,
)
from deeplab_tf.data.folders.label_rules import LabelRules
from deeplab_tf.image_kinds import IMAGE_SUFFIXES
from deeplab_tf.strangers_words import first_ten

IMAGES, MASKS = "JPEGImages", ("SegmentationClass", "SegmentationClassPNG")
LISTS = Path("ImageSets", "Segmentation")
LABELMAP, CLASS_NAMES = "labelmap.txt", "class_names.txt"


def masks_folder(folder: Path) -> Path | None:
    """Returns the folder of masks, None where there is none with images in it."""
    for name in MASKS[::-1]:
        paths = (folder / name).rglob("*") if (folder / name).is_dir() else ()
        if any(p.suffix.lower() in LABEL_SUFFIXES for p in paths):
            return folder / name
    return None


def detect_cvat(folder: Path) -> bool:
    """Whether this is CVAT's "Segmentation mask 1.1"."""
    return (folder / LABELMAP).is_file() and masks_folder(folder) is not None


def detect_labelme_voc(folder: Path) -> bool:
    """Whether labelme2voc.py wrote this."""
    return (folder / CLASS_NAMES).is_file() and masks_folder(folder) is not None


def detect_voc(folder: Path) -> bool:
    """Whether this has VOC's folders, and neither CVAT nor LabelMe wrote it."""
    others = detect_cvat(folder) or detect_labelme_voc(folder)
    has_images = (folder / IMAGES).is_dir()
    return has_images and masks_folder(folder) is not None and not others


def _images_folder(folder: Path, options: Options) -> Path:
    given = options.images_dir
    path = Path(given).expanduser() if given else folder / IMAGES
    if not path.is_dir():
        raise DatasetError(
            f"Expected the images of {folder} in {path}, which is no folder. Export "
            "again with the images (CVAT: tick 'Save images'), or say where they are: "
            "--images_dir=FOLDER"
        )
    return path


def _samples_below(images: Path, masks: Path, given: Endings) -> list[Sample]:
    """Pairs by names, in sub-folders of the same names too."""
    folders = [Path(), *(p.relative_to(masks) for p in sub_folders(masks))]
    samples = []
    for sub in folders:
        there = any(p.suffix.lower() in LABEL_SUFFIXES for p in (masks / sub).iterdir())
        if not there:
            continue
        # Images without a mask are VOC's for other tasks, and CVAT's not yet drawn.
        stems = sorted(p.stem for p in (masks / sub).iterdir() if _is_mask(p))
        endings = find_endings([(images / sub, masks / sub)], given)
        stems = [stem for stem in stems if stem.endswith(endings.label)]
        names = [stem[: len(stem) - len(endings.label)] for stem in stems]
        pairs = list_samples(images / sub, masks / sub, names, *endings)
        samples += [p._replace(name=(sub / p.name).as_posix()) for p in pairs]
    return samples


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() in LABEL_SUFFIXES and not path.name.startswith(".")


def _read_pairs(folder: Path, options: Options) -> Found:
    """Returns the pairs and splits; images without a mask are left out.

    Raises:
      DatasetError: there are no images, or lists name none with a mask.
    """
    masks, given = (
        masks_folder(folder),
        Endings(options.image_ending, options.label_ending),
    )
    expect(masks, f"masks in {' or '.join(MASKS)}", folder)
    images = _images_folder(folder, options)
    samples = {s.name: s for s in _samples_below(images, masks, given)}
    lists = sorted((folder / LISTS).glob("*.txt")) if (folder / LISTS).is_dir() else []
    names = {p.stem: _listed(p, samples) for p in lists}
    names = {split: found for split, found in names.items() if found}
    if {"train", "val"} <= names.keys():
        names.pop("trainval", None)  # It is both of them.
    notes = []
    num_images = sum(p.suffix.lower() in IMAGE_SUFFIXES for p in images.rglob("*"))
    if num_images > len(samples):
        notes.append(f"{num_images - len(samples)} images without a mask are left out.")
    if not names or list(names) == ["default"]:
        kept = names.get("default", samples)
        return Found({"": [samples[n] for n in kept]}, notes=tuple(notes))
    parts = [(split, [samples[n] for n in found]) for split, found in names.items()]
    return Found(join_splits(parts), "ImageSets", notes=tuple(notes))


def _listed(path: Path, samples: Sequence[str]) -> list[str]:
    """Returns the names of a list that have a mask; of none, where none has.

    Raises:
      DatasetError: some have none.
    """
    if not path.read_text("utf-8", "replace").strip():
        return []
    names = [
        name.split(" ")[0] if name not in samples else name for name in read_names(path)
    ]
    missing = [name for name in names if name not in samples]
    if missing and len(missing) < len(names):
        raise DatasetError(
            f"Expected a mask for each name in {path}. Received none for: "
            f"{', '.join(first_ten(missing))}"
        )
    return [] if missing else names


def _masks_are_grey(found: Found) -> bool:
    """Whether the first mask stores one channel without a palette."""
    first = next(iter(found.splits.values()))[0]
    try:
        with Image.open(first.label) as image:
            return image.mode in ("1", "L", "I;16")
    except (OSError, ValueError):
        return False  # Reading it says what is wrong.


def read_cvat(folder: Path, options: Options) -> Found:
    """Reads CVAT's "Segmentation mask 1.1": colours by labelmap.txt.

    Masks of one channel hold places in labelmap.txt instead of colours.

    Raises:
      DatasetError: see `_read_pairs`.
    """
    found, table = _read_pairs(folder, options), str(folder / LABELMAP)
    grey = _masks_are_grey(found)
    if not grey:
        refuse_class_names(options, LABELMAP)
    rules = LabelRules(class_names=table) if grey else LabelRules(label_colors=table)
    return Found(found.splits, found.splits_from, LABELMAP, rules, notes=found.notes)


def read_labelme_voc(folder: Path, options: Options) -> Found:
    """Reads what labelme2voc.py writes: ids by class_names.txt, 255 is __ignore__.

    Raises:
      DatasetError: see `_read_pairs`.
    """
    found = _read_pairs(folder, options)
    rules = LabelRules(class_names=str(folder / CLASS_NAMES), ignore_label=(255,))
    return Found(found.splits, found.splits_from, CLASS_NAMES, rules, notes=found.notes)


def read_voc(folder: Path, options: Options) -> Found:
    """Reads VOC's folders: ids 0 and up, 255 is the border that is no class.

    Raises:
      DatasetError: see `_read_pairs`.
    """
    found = _read_pairs(folder, options)
    rules = LabelRules(ignore_label=(255,))
    return Found(found.splits, found.splits_from, rules=rules, notes=found.notes)
