"""Which mask belongs to which image, by their names: endings that nobody had to say.

A mask's name is an image's name and an ending: `1.jpg` and `1_mask.png`, `7.png` and
`7_L.png`, `aachen_gtFine_labelIds.png`. Where masks have several endings that fit, a
person is asked.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.folders.folder_splits import LABEL_SUFFIXES
from deeplab_tf.image_kinds import IMAGE_SUFFIXES

# Endings of images that data sets use, for sets of one pair.
IMAGE_ENDINGS = ("_leftImg8bit", "_sat", "_image", "_img", "_rgb")
# An ending begins where a name ends, and is no number.
_ENDING = re.compile(r"[_\-. ][^\d].*|\(.*")
# Endings of masks that people and tools use; of one folder's files they tell the masks.
KNOWN_ENDINGS = {
    *("mask", "masks", "l", "gt", "label", "labels", "labelids", "labeltrainids"),
    *("gtfine_labelids", "gtfine_labeltrainids", "seg", "segmentation", "p", "matte"),
    *("annotation", "annotations", "groundtruth", "ground_truth", "target", "anno"),
    *("lab", "semantic", "manual1", "segmap"),
}


class Endings(NamedTuple):
    """What the names of images and of masks have after the name they share."""

    image: str
    label: str


UNSAID = Endings("", "")


def stems_in(folder: Path, suffixes: Sequence[str]) -> list[str]:
    """Returns the stems of the files of some kinds, in NFC, sorted."""
    return sorted(
        normalize("NFC", path.stem)
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def common_ending(stems: Sequence[str]) -> str:
    """Returns what all stems end in, from its last separator on; "" if nothing."""
    if len(stems) < 2:
        return ""
    shared = os.path.commonprefix([stem[::-1] for stem in stems])[::-1]
    starts = [i for i in range(len(shared)) if _ENDING.fullmatch(shared[i:])]
    return shared[starts[0] :] if starts else ""


def count_endings(names: Iterable[str], label_stems: Sequence[str]) -> Counter[str]:
    """Counts what label stems have after the longest image name that they begin with.

    Args:
      names: of the images, without their ending.
      label_stems: of the masks.
    """
    known, counts = set(names), Counter()
    for stem in label_stems:
        for end in range(len(stem), 0, -1):
            rest = stem[end:]
            if stem[:end] in known and (not rest or _ENDING.fullmatch(rest)):
                counts[rest] += 1
                break
    return counts


def find_endings(
    places: Sequence[tuple[Path, Path]], given: Endings = UNSAID
) -> Endings:
    """Finds the endings by which the files of two folders are pairs.

    Args:
      places: (folder of images, another of its masks), one or one a split.
      given: endings that are said; where any is, nothing is looked for.

    Raises:
      DatasetError: no ending, or several, pair the files.
    """
    image_stems = [s for images, _ in places for s in stems_in(images, IMAGE_SUFFIXES)]
    label_stems = [s for _, labels in places for s in stems_in(labels, LABEL_SUFFIXES)]
    if any(given) or not image_stems or not label_stems:
        return given
    images, labels = places[0]
    best, image_ending = Counter(), ""
    for ending in dict.fromkeys(["", common_ending(image_stems), *IMAGE_ENDINGS]):
        stems = [stem for stem in image_stems if stem.endswith(ending)]
        names = [stem[: len(stem) - len(ending)] for stem in stems]
        counts = count_endings(names, label_stems)
        if max(counts.values(), default=0) > max(best.values(), default=0):
            best, image_ending = counts, ending
    if not best:
        raise DatasetError(
            f"Expected masks that are named after images. Received: {image_stems[0]} "
            f"first in {images}, {label_stems[0]} first in {labels}. Say what follows "
            "the names: --image_ending=_X --label_ending=_Y. Where names differ "
            "otherwise, list the pairs: --list=FILE of the columns image,label"
        )
    # The same endings and as many of them: which are meant, nobody can tell.
    likely = [ending for ending, n in best.items() if 2 * n >= max(best.values())]
    if len(likely) > 1:
        ask_for_ending(likely, labels)
    return Endings(image_ending, likely[0])


def ask_for_ending(endings: Sequence[str], folder: Path) -> None:
    """Raises DatasetError that names the endings that masks may have."""
    ways = [
        f"Masks that end in {ending}: --label_ending={ending}"
        for ending in sorted(endings)
        if ending
    ]
    if "" in endings:
        ways.append("Masks of the images' own names: move the others elsewhere")
    raise DatasetError(
        f"Expected one mask for each image. Received several kinds in {folder}. "
        f"{'. '.join(ways)}"
    )


# --- Images and masks in one folder --------------------------------------------------


def endings_in(folder: Path, kinds: Sequence[str] = LABEL_SUFFIXES) -> Counter[str]:
    """Counts what masks may have after the names of images in the same folder.

    "" stands for a PNG that has the name of a JPEG. Of other endings those of
    `KNOWN_ENDINGS` count where there are any.

    Args:
      folder: to look into.
      kinds: suffixes of masks.
    """
    stems = stems_in(folder, IMAGE_SUFFIXES)
    photos = {normalize("NFC", path.stem) for path in _photos(folder)}
    found: Counter[str] = Counter()
    known = set(stems)
    for stem in stems_in(folder, kinds):
        found[""] += stem in photos
        ends = [i for i in range(len(stem) - 1, 0, -1) if stem[:i] in known]
        rests = [stem[i:] for i in ends if _ENDING.fullmatch(stem[i:])]
        found.update(rests[:1])
    found = +found
    usual = {ending: n for ending, n in found.items() if is_known(ending)}
    return Counter(usual) or found


def is_known(ending: str) -> bool:
    """Whether people and tools let masks end so."""
    return ending.strip("_-. ()").lower() in KNOWN_ENDINGS


def _photos(folder: Path) -> list[Path]:
    """Returns the files that cannot be masks, since their kind is none of masks."""
    kinds = set(IMAGE_SUFFIXES) - set(LABEL_SUFFIXES)
    paths = sorted(folder.iterdir())
    return [p for p in paths if p.suffix.lower() in kinds and p.name[0] != "."]


def pair_one_folder(folder: Path, label_ending: str) -> list[Sample]:
    """Pairs the images and masks of one folder.

    Args:
      folder: of both.
      label_ending: what masks have after the image's name; "" where masks are the
        PNGs and images the files of other kinds.

    Raises:
      DatasetError: two images, or two masks, have the same name.
    """
    images, labels = {}, {}
    for path in sorted(folder.iterdir()):
        stem, suffix = normalize("NFC", path.stem), path.suffix.lower()
        if suffix not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        is_label = suffix in LABEL_SUFFIXES and stem.endswith(label_ending)
        paths = labels if is_label else images
        name = stem[: len(stem) - len(label_ending)] if is_label else stem
        if name in paths:
            raise DatasetError(
                f"Expected one file for each name. Received: {paths[name]} and {path}. "
                "Remove or rename one."
            )
        paths[name] = str(path)
    missing = [f"{{{','.join(s)}}}" for s in (IMAGE_SUFFIXES, LABEL_SUFFIXES)]
    return [
        Sample(
            name,
            images.get(name, f"{folder / name}{missing[0]}"),
            labels.get(name, f"{folder / name}{label_ending}{missing[1]}"),
        )
        for name in sorted(images.keys() | labels.keys())
    ]
