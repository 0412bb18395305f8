"""Images that occur more than once: in one split, or in two that should share none."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deeplab_tf.data.inspection.facts import ImageFacts


def find_duplicates(images: Iterable[ImageFacts]) -> list[dict]:
    """Groups images of equal pixels, within a split and across splits.

    Args:
      images: of all splits.

    Returns:
      One dictionary for each group: "images" in it as [split, name] each, whether
      also their files are the same ("same_file"; otherwise one was encoded anew), and
      whether their labels are ("same_label").
    """
    groups = collections.defaultdict(list)
    for image in images:
        groups[image.pixel_hash].append(image)
    return [
        {
            "images": [[image.split, image.name] for image in group],
            "same_file": len({image.file_hash for image in group}) == 1,
            "same_label": len({image.label_hash for image in group}) == 1,
        }
        for group in groups.values()
        if len(group) > 1
    ]


def within_split(duplicates: Sequence[dict], split: str) -> list[dict]:
    """Returns the groups with two images or more of one split."""
    return [
        group
        for group in duplicates
        if sum(split == other for other, _ in group["images"]) > 1
    ]


def _name_once(first: list[str], second: list[str]) -> str:
    """Returns the names of an image in two splits; one where they agree."""
    return " = ".join(dict.fromkeys([*first, *second]))


def shared(
    duplicates: Sequence[dict], names: Mapping[str, set[str]], first: str, second: str
) -> dict:
    """Returns what two splits have in common.

    Args:
      duplicates: what `find_duplicates` returned.
      names: split -> names of its images.
      first: name of a split.
      second: likewise.
    """
    both = [
        group
        for group in duplicates
        if {first, second} <= {split for split, _ in group["images"]}
    ]
    return {
        "splits": [first, second],
        "images": len(both),
        "same_images": [
            _name_once(
                [name for split, name in group["images"] if split == first],
                [name for split, name in group["images"] if split == second],
            )
            for group in both
        ],
        "encoded_anew": sum(not group["same_file"] for group in both),
        "other_label": sum(not group["same_label"] for group in both),
        "names": sorted(names[first] & names[second]),
    }
