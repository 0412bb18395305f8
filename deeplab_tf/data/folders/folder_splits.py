"""Which files of folders are pairs, and in which split: for `datasets.build_folder`.

Images and masks belong together by their stems, the file names without suffix.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

from deeplab_tf.data.building import files, pairs
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.image_kinds import IMAGE_SUFFIXES, skipped
from deeplab_tf.strangers_words import leads_out, printable

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
LIST_NAMES = ("train", "trainval", "val", "test")
# In the path of a folder, stands for the name of a split.
PLACEHOLDER = "{split}"

Splits = dict[str, list[pairs.Sample]]


# --- Pairs of two folders ------------------------------------------------------------


def find_stems(
    folder: Path, suffixes: Sequence[str], ending: str = "", but_ending: str = ""
) -> dict[str, str]:
    """Returns stem -> path of the files in a folder; hidden files do not count.

    Prints how many were left out for their endings.

    Args:
      folder: to look into, without its sub-folders.
      suffixes: of the files that count, in lower case.
      ending: stems must end in it, and lose it; others do not count.
      but_ending: stems that end in it do not count; "" is none.

    Raises:
      DatasetError: the folder is absent or has no such files, or two share a stem.
    """
    if not folder.is_dir():
        raise DatasetError(f"Expected a folder. Received: {folder}")
    stems: dict[str, str] = {}
    paths = sorted(folder.iterdir())
    for path in paths:
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if not path.stem.endswith(ending) or path.stem.endswith(but_ending or "\0"):
            continue
        # macOS takes characters apart that others put together.
        stem = normalize("NFC", path.stem[: len(path.stem) - len(ending)])
        if stem in stems:
            raise DatasetError(
                f"Expected one file for each name. Received: {stems[stem]} "
                f"and {path}. Remove or rename one."
            )
        stems[stem] = str(path)
    if not stems:
        raise DatasetError(
            f"Expected files that end in {' '.join(ending + s for s in suffixes)}. "
            f"Received: none in {folder}"
        )
    others = [path.name for path in paths if path.is_file()]
    others = skipped(others, (*IMAGE_SUFFIXES, *LABEL_SUFFIXES))
    if others:
        print(f"Skipped in {folder}: {others}.")
    return stems


def list_samples(
    images_dir: str | Path,
    labels_dir: str | Path,
    names: Sequence[str] | None = None,
    image_ending: str = "",
    label_ending: str = "",
) -> list[pairs.Sample]:
    """Pairs the files of two folders by their stems.

    Args:
      images_dir: folder of images.
      labels_dir: folder of masks.
      names: the stems to take; default: all, sorted. An image without a mask and a
        mask without an image are samples too: reading them says what is missing.
      image_ending: what images' stems have after the name, such as "_sat".
      label_ending: likewise for masks, such as "_mask".

    Raises:
      DatasetError: a folder is absent, has no such files, or has a stem twice.
    """
    # Of one folder, what ends as masks do is no image.
    masks = label_ending if Path(images_dir) == Path(labels_dir) else ""
    images = find_stems(Path(images_dir), IMAGE_SUFFIXES, image_ending, masks)
    labels = find_stems(Path(labels_dir), LABEL_SUFFIXES, label_ending)
    if names is None:
        names = sorted(images.keys() | labels.keys())

    def path(found, folder, name, ending, suffixes):
        # An absent file's path says in the error where it was looked for.
        return found.get(normalize("NFC", name)) or files.find_file(
            folder, name + ending, suffixes
        )

    return [
        pairs.Sample(
            name,
            path(images, images_dir, name, image_ending, IMAGE_SUFFIXES),
            path(labels, labels_dir, name, label_ending, LABEL_SUFFIXES),
        )
        for name in names
    ]


def read_names(list_path: Path) -> list[str]:
    """Returns the stems that a text file lists, one a line, with or without suffix.

    Raises:
      DatasetError: the file is absent or empty, or a name leads out of its folder.
    """
    names = []
    for line in files.read_list(list_path):
        if leads_out(line):
            raise DatasetError(
                f"Expected names of files in {list_path}. Received: "
                f"{printable(line)}, which leads out of the folder of images"
            )
        suffix = Path(line).suffix
        known = suffix.lower() in IMAGE_SUFFIXES
        names.append(line[: -len(suffix)] if known else line)
    return names


# --- Splits --------------------------------------------------------------------------


def split_by_fraction(
    samples: Sequence[pairs.Sample], val_fraction: float, seed: int
) -> Splits:
    """Splits samples into train and val by the order of a seeded hash of their names.

    The same names and seed give the same splits on every machine, and a name that is
    added later moves few others.

    Args:
      samples: two or more.
      val_fraction: in [0, 1). With 0 there is no val, else it has one sample or more.
      seed: another seed gives another choice.

    Raises:
      DatasetError: the fraction is out of range or leaves nothing to train on.
    """
    if not 0 <= val_fraction < 1:
        raise DatasetError(f"Expected val_fraction in [0, 1). Received: {val_fraction}")
    if not val_fraction:
        return {"train": list(samples)}
    count = max(1, round(val_fraction * len(samples)))
    if count >= len(samples):
        raise DatasetError(
            f"val_fraction={val_fraction} of {len(samples)} pairs leaves none to train "
            "on. Expected more pairs or a smaller fraction."
        )

    def order(sample):
        return hashlib.sha256(f"{seed}:{sample.name}".encode()).digest()

    chosen = {sample.name for sample in sorted(samples, key=order)[:count]}
    return {
        "train": [sample for sample in samples if sample.name not in chosen],
        "val": [sample for sample in samples if sample.name in chosen],
    }


def _sub_folders(images_dir: Path, labels_dir: Path) -> list[str]:
    """Returns the names of sub-folders, which must be the same in both folders."""
    names = []
    for folder in (images_dir, labels_dir):
        if not folder.is_dir():
            raise DatasetError(f"Expected a folder. Received: {folder}")
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
        names.append(sorted(path.name for path in paths if path.is_dir()))
    _check_same_splits(names, images_dir, labels_dir)
    suffixes = {path.suffix.lower() for path in images_dir.iterdir()}
    if names[0] and suffixes.intersection(IMAGE_SUFFIXES):
        raise DatasetError(
            f"Expected images or sub-folders (splits) in {images_dir}. Received both."
        )
    return names[0]


def _check_same_splits(names: Sequence[list[str]], images_dir, labels_dir) -> None:
    if names[0] != names[1]:
        raise DatasetError(
            "Expected the same sub-folders (splits) among images and labels. "
            f"Received: {names[0]} in {images_dir} and {names[1]} in {labels_dir}"
        )


def _find_splits(pattern: Path) -> list[str]:
    """Returns what the placeholder of a path stands for, by the folders there are."""
    # The glob stops at the component with the placeholder: other characters of the
    # path, such as brackets, are to mean themselves.
    index = next(i for i, part in enumerate(pattern.parts) if PLACEHOLDER in part)
    parent, rest = Path(*pattern.parts[:index]), pattern.parts[index:]
    before, _, after = rest[0].partition(PLACEHOLDER)
    wanted = re.compile(re.escape(before) + "(.+)" + re.escape(after))
    paths = sorted(parent.iterdir()) if parent.is_dir() else []
    matches = [wanted.fullmatch(path.name) for path in paths]
    found = [match[1] for match in matches if match and match[1][0] != "."]
    return [s for s in found if Path(str(pattern).replace(PLACEHOLDER, s)).is_dir()]


def _list_by_placeholder(
    images_dir: Path, labels_dir: Path, endings: Mapping[str, str]
) -> Splits:
    """Returns split -> samples of folders whose paths hold the placeholder."""
    folders = (images_dir, labels_dir)
    counts = [str(folder).count(PLACEHOLDER) for folder in folders]
    if counts != [1, 1]:
        raise DatasetError(
            f"Expected {PLACEHOLDER} once in the folder of images and once in that of "
            f"labels. Received: {images_dir} and {labels_dir}"
        )
    names = [_find_splits(folder) for folder in folders]
    _check_same_splits(names, *folders)
    if not names[0]:
        raise DatasetError(
            f"Expected folders {images_dir} for the name of a split. Received: none"
        )
    return {
        split: list_samples(
            *(str(folder).replace(PLACEHOLDER, split) for folder in folders), **endings
        )
        for split in names[0]
    }


def list_splits(
    images_dir: str | Path,
    labels_dir: str | Path,
    val_fraction: float = 0.1,
    seed: int = 0,
    image_ending: str = "",
    label_ending: str = "",
) -> Splits:
    """Returns split -> samples.

    Splits are found by the placeholder {split} in both paths, by sub-folders, by lists
    beside the folder of images, or by a seeded fraction.

    Args:
      images_dir: folder of images, or of sub-folders (splits) of images.
      labels_dir: folder of masks, or of sub-folders of masks.
      val_fraction: see `split_by_fraction`.
      seed: likewise.
      image_ending: see `list_samples`.
      label_ending: likewise.

    Raises:
      DatasetError: no pairs, or more than one way to read the folders.
    """
    images_dir = Path(images_dir).expanduser()
    labels_dir = Path(labels_dir).expanduser()
    endings = {"image_ending": image_ending, "label_ending": label_ending}
    if PLACEHOLDER in f"{images_dir} {labels_dir}":
        return _list_by_placeholder(images_dir, labels_dir, endings)
    folders = _sub_folders(images_dir, labels_dir)
    lists = [images_dir.parent / f"{name}.txt" for name in LIST_NAMES]
    lists = [path for path in lists if path.is_file()]
    if folders and lists:
        raise DatasetError(
            "Expected splits as sub-folders or as lists. Received both: "
            f"{images_dir / folders[0]} and {lists[0]}"
        )
    if folders:
        return {
            split: list_samples(images_dir / split, labels_dir / split, **endings)
            for split in folders
        }
    if lists:
        return {
            path.stem: list_samples(images_dir, labels_dir, read_names(path), **endings)
            for path in lists
        }
    samples = list_samples(images_dir, labels_dir, **endings)
    return split_by_fraction(samples, val_fraction, seed)
