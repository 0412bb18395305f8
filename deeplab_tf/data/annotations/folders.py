"""Images and masks in folders, whatever these are called: readers of plain layouts.

    images/a.jpg  masks/a.png              images/train/  masks/train/
    train/images/ train/masks/             train/  trainannot/
    train/a.jpg   train/a_mask.png         a.png  a_L.png

mmsegmentation's img_dir and ann_dir, ADE20K's images and annotations and Roboflow's
semantic masks are of these kinds too.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from deeplab_tf.data.annotations import pairing
from deeplab_tf.data.annotations.found import (
    SPLIT_WORDS,
    Found,
    Options,
    expect,
    join_splits,
    split_folders,
    sub_folders,
)
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.folders.folder_splits import (
    LABEL_SUFFIXES,
    LIST_NAMES,
    list_samples,
    read_names,
)
from deeplab_tf.data.folders.label_rules import LabelRules
from deeplab_tf.image_kinds import IMAGE_SUFFIXES
from deeplab_tf.strangers_words import first_ten

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "photos")
IMAGE_FOLDERS += ("input", "inputs", "pictures", "rgb")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "ann_dir", "annotations")
LABEL_FOLDERS += ("annotation", "anns", "segmentationclass", "segmentations", "seg")
LABEL_FOLDERS += ("segmentation", "gt", "groundtruth", "ground_truth", "targets")
# After the name of a split: train_images, trainannot.
_IMAGE_ENDS = ("", "_images", "_imgs", "_img", "images", "_image")
_LABEL_ENDS = ("annot", "_labels", "_masks", "_annotations", "_mask", "masks", "labels")
_LABEL_ENDS += ("_gt", "_segmentations", "_annot", "_label")
OBJECT_INFO = "objectInfo150.txt"
CLASSES_CSV = "_classes.csv"

Place = tuple[str, Path, Path]  # name of the part, folder of images, folder of masks


def jpeg_masks(folder: Path) -> list[str]:
    """Returns the folders that are called as those of masks are, and hold JPEGs."""
    kinds = (".jpg", ".jpeg")
    places = [folder, *split_folders(folder)]
    found = [p for place in places for p in _called(place, LABEL_FOLDERS, kinds)]
    found += [
        p for p in places if any(map(pairing.is_known, pairing.endings_in(p, kinds)))
    ]
    return [p.relative_to(folder.parent).as_posix() for p in found]


def has_files(folder: Path, suffixes: Sequence[str]) -> bool:
    """Whether a folder, or a folder in it, has files of some kinds."""
    paths = itertools.chain(
        folder.iterdir(), *(sub.iterdir() for sub in sub_folders(folder))
    )
    return any(p.suffix.lower() in suffixes and p.name[0] != "." for p in paths)


def _called(folder: Path, names: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """Returns the sub-folders that have one of the names, and files of some kinds."""
    found = [p for p in sub_folders(folder) if p.name.lower() in names]
    return [p for p in found if has_files(p, suffixes)]


# --- Two trees -----------------------------------------------------------------------


def _both(folder: Path, images_dir: str = "") -> tuple[list[Path], list[Path]]:
    """Returns the folders in a folder that may hold images, and those of masks."""
    given = [Path(images_dir).expanduser()] if images_dir else []
    return (
        given or _called(folder, IMAGE_FOLDERS, IMAGE_SUFFIXES),
        _called(folder, LABEL_FOLDERS, LABEL_SUFFIXES),
    )


def _one_each(images: Sequence[Path], labels: Sequence[Path]) -> tuple[Path, Path]:
    """Returns the folder of images and that of masks.

    Raises:
      DatasetError: there are several of a kind.
    """
    if len(images) == len(labels) == 1:
        return images[0], labels[0]
    ways = [
        f"Images of {i.name} with masks of {m.name}: --images_dir={i} --labels_dir={m}"
        for i, m in itertools.product(images, labels)
    ]
    raise DatasetError(
        f"Expected one folder of images and one of masks in {images[0].parent}. "
        f"Received {len(images)} and {len(labels)}. {'. '.join(ways)}"
    )


def _places_below(images: Path, labels: Path) -> list[Place]:
    """Returns the splits in two folders; where none are, the folders and their groups.

    Raises:
      DatasetError: there are images beside folders that are called as splits.
    """
    subs = [p.name for p in sub_folders(images) if (labels / p.name).is_dir()]
    splits = [name for name in subs if name.lower() in SPLIT_WORDS]
    loose = any(p.suffix.lower() in IMAGE_SUFFIXES for p in images.iterdir())
    if splits and loose:
        raise DatasetError(
            f"Expected images or sub-folders (splits) in {images}. Received both."
        )
    both = [(images / name, labels / name) for name in subs]
    if splits:
        return [(name, *pair) for name, pair in zip(subs, both)]
    return [("", *pair) for pair in [(images, labels)] * (loose or not subs) + both]


def _split_pairs(folder: Path) -> list[Place]:
    """Returns the parts of train and trainannot, or train_images and train_masks."""
    by_name = {p.name.lower(): p for p in sub_folders(folder)}
    places = []
    for split in SPLIT_WORDS:
        images = [by_name[n] for e in _IMAGE_ENDS if (n := split + e) in by_name]
        labels = [by_name[n] for e in _LABEL_ENDS if (n := split + e) in by_name]
        if images and labels:
            places.append((split, *_one_each(images, labels)))
    return places


def _places(folder: Path, images_dir: str = "") -> tuple[list[Place], str]:
    """Returns the folders that belong together, and what names them.

    Raises:
      DatasetError: several folders may be meant.
    """
    images, labels = _both(folder, images_dir)
    if images and labels:
        images, labels = _one_each(images, labels)
        what = f"Images are in {images.name}, masks in {labels.name}."
        return _places_below(images, labels), what
    parts = [(p.name, *_both(p)) for p in split_folders(folder)]
    parts = [(name, i, m) for name, i, m in parts if i and m]
    if parts:
        places = [(name, *_one_each(i, m)) for name, i, m in parts]
        what = f"Images are in {places[0][1].name}, masks in {places[0][2].name}."
        return places, what
    places = _split_pairs(folder)
    named = [f"{images.name} and {labels.name}" for _, images, labels in places]
    return places, f"Pairs of folders: {', '.join(named)}."


def detect_trees(folder: Path) -> bool:
    """Whether there are folders of images and of masks."""
    try:
        return bool(_places(folder)[0])
    except DatasetError:  # Which it is, the reader asks.
        return True


def read_trees(folder: Path, options: Options) -> Found:
    """Reads folders of images and folders of masks; the names pair the files.

    Raises:
      DatasetError: several folders or endings may be meant, or see `list_samples`.
    """
    places, what = _places(folder, options.images_dir)
    given = pairing.Endings(options.image_ending, options.label_ending)
    expect(places, "folders of images and of masks", folder)
    notes = []
    endings = pairing.find_endings([(i, m) for _, i, m in places], given)
    if places[0][0]:
        parts = [(n, list_samples(i, m, None, *endings)) for n, i, m in places]
        splits_from = "the names of folders"
    else:
        parts, splits_from = _flat(folder, places, endings)
    if any(endings):
        notes.append(
            f"Names end in {endings.image or 'nothing'} (images) and "
            f"{endings.label or 'nothing'} (masks)."
        )
    lonely = _without_partner(places)
    if lonely:
        notes.append(f"Without images or without masks: {', '.join(lonely)}; left out.")
    return Found(
        join_splits(parts), splits_from, rules=LabelRules(), notes=(what, *notes)
    )


def _without_partner(places: Sequence[Place]) -> list[str]:
    """Returns the sub-folders of images or masks alone, such as images/test."""
    name, images, labels = places[-1]
    if images.name == labels.name:
        parents = (images.parent, labels.parent)
    elif not name:
        parents = (images, labels)
    else:
        return []  # Nothing but a pair lies beside them.
    used = {images.name for _, images, _ in places}
    found = [p for parent in parents for p in sub_folders(parent)]
    return [f"{p.parent.name}/{p.name}" for p in found if p.name not in used]


def _flat(folder: Path, pairs: Sequence[Place], endings: pairing.Endings):
    """Returns the parts of folders without splits in them, and what names them."""
    (_, images, labels), *groups = pairs
    root = groups[0][1].parent if groups else images
    places = (root.parent, folder, folder / "splits", folder / "ImageSets")
    lists = [p / f"{name}.txt" for p in dict.fromkeys(places) for name in LIST_NAMES]
    lists = [path for path in lists if path.is_file()]
    lists = [path for path in lists if path.parent == lists[0].parent]
    if lists and not groups:
        parts = [
            (p.stem, list_samples(images, labels, read_names(p), *endings))
            for p in lists
        ]
        return parts, ", ".join(p.name for p in lists)
    samples = {}
    for _, i, m in pairs:
        for s in list_samples(i, m, None, *endings):
            # Groups may use the same names.
            name = (i.relative_to(root) / s.name).as_posix()
            samples[name] = s._replace(name=name)
    if lists:
        parts = [(p.stem, _listed(p, samples)) for p in lists]
        return parts, ", ".join(p.name for p in lists)
    return [("", list(samples.values()))], ""


def _listed(path: Path, samples: Mapping[str, Sample]) -> list[Sample]:
    """Returns the samples that a list names.

    Raises:
      DatasetError: some are not there.
    """
    names = read_names(path)
    missing = [name for name in names if name not in samples]
    if missing:
        raise DatasetError(
            f"Expected names of images with their folders in {path}. Received: "
            f"{', '.join(first_ten(missing))}"
        )
    return [samples[name] for name in names]


def detect_ade20k(folder: Path) -> bool:
    """Whether this is SceneParse150, or was made from it."""
    return (folder / OBJECT_INFO).is_file() and detect_trees(folder)


def read_ade20k(folder: Path, options: Options) -> Found:
    """Reads SceneParse150: 150 classes, stored as 1 to 150; 0 is none of them.

    Raises:
      DatasetError: see `read_trees`.
    """
    found = read_trees(folder, options)
    rules = LabelRules("ade20k", label_ids=range(1, 151), ignore_label=(0,))
    return Found(
        found.splits, found.splits_from, OBJECT_INFO, rules, notes=found.notes[1:]
    )


# --- One folder ----------------------------------------------------------------------


def _folders_of_pairs(folder: Path) -> list[Path]:
    """Returns the folder, or its splits, that hold images and masks side by side."""
    folders = [folder, *split_folders(folder)]
    return [p for p in folders if pairing.endings_in(p)]


def detect_one_folder(folder: Path) -> bool:
    """Whether files of one folder have names of which one begins with another."""
    return bool(_folders_of_pairs(folder))


def read_one_folder(folder: Path, options: Options) -> Found:
    """Reads images and masks that lie side by side.

    Raises:
      DatasetError: masks may have several endings, or see `pairing.pair_one_folder`.
    """
    ending, folders = options.label_ending, _folders_of_pairs(folder)
    expect(folders or ending, "images, and masks that are named after them,", folder)
    if not ending:
        counts = sum((pairing.endings_in(p) for p in folders), Counter())
        if len(counts) > 1:
            pairing.ask_for_ending(list(counts), folder)
        ending = next(iter(counts))
        if ending and not pairing.is_known(ending):
            pairing.ask_for_ending([ending], folder)
    folders = folders or [folder]
    parts = [("" if p == folder else p.name, _pairs(p, ending)) for p in folders]
    note = f"Masks end in {ending}." if ending else "Masks are the PNG files."
    named = len(parts) > 1 or bool(parts[0][0])
    if named and not all(name for name, _ in parts):
        raise DatasetError(
            f"Expected images and masks in {folder} or in its sub-folders (splits). "
            "Received both."
        )
    return Found(
        join_splits(parts),
        "the names of folders" if named else "",
        notes=(note,),
    )


def _pairs(folder: Path, ending: str) -> list[Sample]:
    samples = pairing.pair_one_folder(folder, ending)
    if not samples:
        raise DatasetError(
            f"Expected images, and masks that end in {ending}, in {folder}. Received: "
            "none"
        )
    return samples


# --- Roboflow ------------------------------------------------------------------------


def _roboflow_folders(folder: Path) -> list[Path]:
    """Returns the folders with masks, where one or more have _classes.csv."""
    folders = [folder, *split_folders(folder)]
    folders = [p for p in folders if next(p.glob("*_mask.png"), None)]
    return folders if any((p / CLASSES_CSV).is_file() for p in folders) else []


def detect_roboflow(folder: Path) -> bool:
    """Whether this is Roboflow's export of semantic segmentation masks."""
    return bool(_roboflow_folders(folder))


def read_roboflow(folder: Path, options: Options) -> Found:
    """Reads Roboflow's semantic masks: NAME.jpg, NAME_mask.png and _classes.csv.

    Raises:
      DatasetError: the splits have other classes, or see `pairing.pair_one_folder`.
    """
    folders = _roboflow_folders(folder)
    expect(folders, "NAME_mask.png and _classes.csv", folder)
    tables = [p / CLASSES_CSV for p in folders if (p / CLASSES_CSV).is_file()]
    texts = [table.read_text("utf-8", "replace").split() for table in tables]
    for table, text in zip(tables, texts):
        if text != texts[0]:
            raise DatasetError(
                f"Expected the same classes in all splits. Received: other ones in "
                f"{table} than in {tables[0]}"
            )
    parts = [("" if p == folder else p.name, _pairs(p, "_mask")) for p in folders]
    return Found(
        join_splits(parts),
        "the names of folders" if parts[0][0] else "",
        CLASSES_CSV,
        LabelRules(str(tables[0])),
    )
