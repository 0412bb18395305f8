"""Where the files of COCO lie: its folders as they are unpacked, by task and split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from deeplab_tf.command_names import call_of
from deeplab_tf.data.building.errors import DatasetError


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
            f"{call_of('build coco')} --help for the layout."
        )
    return sources


def find_folder(candidates: Sequence[Path], what: str) -> Path:
    """Returns the first of `candidates` that is there; `what` is for the error only.

    Raises:
      DatasetError: none is there.
    """
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise DatasetError(
        f"Expected {what} in one of {', '.join(map(str, candidates))}. "
        "Received: no such folder"
    )


def images_folder(input_dir: Path, release: str) -> Path:
    """Returns the folder of images of a release such as "train2017"."""
    candidates = [input_dir / release, input_dir / "images" / release]
    return find_folder(candidates, "the images")
