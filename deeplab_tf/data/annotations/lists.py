"""Lists of "image label" lines: PaddleSeg's train.txt and val.txt.

    images/a.jpg labels/a.png

Paths start from the folder of the list. labels.txt has a class name a line.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from deeplab_tf.data.annotations.found import (
    SPLIT_WORDS,
    Found,
    Options,
    head_of,
    join_splits,
)
from deeplab_tf.data.building import files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.folders.folder_splits import LABEL_SUFFIXES
from deeplab_tf.data.folders.label_rules import LabelRules
from deeplab_tf.strangers_words import name_below

LABELS = "labels.txt"


def _lists(folder: Path) -> list[Path]:
    """Returns the lists of pairs in a folder, those that splits are named by."""
    paths = [p for p in sorted(folder.glob("*.txt")) if _split(p) in SPLIT_WORDS]
    return [p for p in paths if two_paths(head_of(p).partition("\n")[0].strip())]


def _split(path: Path) -> str:
    """Returns the split that names a list: train.txt, or PaddleX's train_list.txt."""
    return path.stem.lower().removesuffix("_list")


def two_paths(line: str) -> tuple[str, str] | None:
    """Splits a line into the path of an image and that of a mask.

    Names may have spaces: a line is split where its second part begins after a file
    ending of its first.

    Returns:
      None where the line has not two such parts.
    """
    for separator in ("\t", ",", " "):
        parts = line.split(separator)
        for i in range(1, len(parts)):
            image = separator.join(parts[:i]).strip()
            label = separator.join(parts[i:]).strip()
            kinds = [os.path.splitext(name)[1].lower() for name in (image, label)]
            if len(kinds[0]) in (4, 5) and kinds[1] in LABEL_SUFFIXES:
                return image, label
    return None


def detect(folder: Path) -> bool:
    """Whether there are lists whose lines have two paths."""
    return bool(_lists(folder))


def _read_list(path: Path, folder: Path) -> list[Sample]:
    samples = []
    for line in files.read_list(path):
        pair = two_paths(line)
        if pair is None:
            raise DatasetError(
                f"Expected 'image mask' in each line of {path}. Received: {line}"
            )
        try:
            image, label = (name_below(folder, name) for name in pair)
        except ValueError as error:
            raise DatasetError(f"{path}: {error}") from error
        name = os.path.splitext(image)[0]
        samples.append(Sample(name, str(folder / image), str(folder / label)))
    return _with_short_names(samples)


def _with_short_names(samples: list[Sample]) -> list[Sample]:
    """Names samples by their files alone, where that tells them apart."""
    short = [os.path.basename(sample.name) for sample in samples]
    if max(Counter(short).values()) > 1:
        return samples
    return [s._replace(name=name) for s, name in zip(samples, short)]


def read(folder: Path, options: Options) -> Found:
    """Reads PaddleSeg's lists; one list alone is split by a fraction.

    Raises:
      DatasetError: a line has not two paths, or one leads out of the folder.
    """
    lists = _lists(folder)
    parts = [(_split(p), _read_list(p, folder)) for p in lists]
    labels, rules = folder / LABELS, LabelRules(ignore_label=(255,))
    if labels.is_file():
        rules = rules._replace(class_names=str(labels))
    splits = join_splits(parts)
    if {"train", "val"} <= splits.keys():
        splits.pop("trainval", None)
    others = [p for p in sorted(folder.glob("*.txt")) if p not in lists]
    notes = [
        f"{path.name} lists images without masks, and is left out."
        for path in others
        if _split(path) in SPLIT_WORDS
    ]
    return Found(
        splits,
        ", ".join(p.name for p in lists),
        LABELS if labels.is_file() else "",
        rules,
        notes=tuple(notes),
    )
