"""Which tool wrote a folder: the table `TOOLS`, and what is understood by it.

| name | layout | `detect` | `read` |

A tool of one's own is a row: its title, how surely its files tell it, and two functions
of a folder. `tests/test_annotation_tools.py` builds a small folder for each row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from deeplab_tf.data.annotations import (
    coco_folder,
    folders,
    label_studio,
    labelme,
    lists,
    supervisely,
    voc,
    yolo,
)
from deeplab_tf.data.annotations.found import (
    Found,
    Options,
    join_odd_parts,
    json_files,
    sub_folders,
    unused_parts,
)
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.strangers_words import first_ten


class Tool(NamedTuple):
    """A row of the table.

    Attributes:
      title: what is said to be understood.
      is_sure: whether a file that only this tool writes tells it; the others are asked
        only where no such file is there.
      draws: whether its labels are regions in text, beside which masks may lie too.
      detect: folder -> whether it may be read so; reads names and heads of files.
      read: (folder, options) -> what is in it.
    """

    title: str
    is_sure: bool
    detect: Callable[[Path], bool]
    read: Callable[[Path, Options], Found]
    draws: bool = False


TOOLS: dict[str, Tool] = {
    "cvat": Tool("CVAT segmentation masks", True, voc.detect_cvat, voc.read_cvat),
    "roboflow": Tool(
        "Roboflow semantic masks", True, folders.detect_roboflow, folders.read_roboflow
    ),
    "coco": Tool("COCO JSON", True, coco_folder.detect, coco_folder.read, True),
    "labelme": Tool("LabelMe JSON", True, labelme.detect, labelme.read, True),
    "labelme_voc": Tool(
        "LabelMe's VOC export", True, voc.detect_labelme_voc, voc.read_labelme_voc
    ),
    "label_studio": Tool(
        "Label Studio brush PNGs", True, label_studio.detect, label_studio.read
    ),
    "yolo": Tool("YOLO polygons", True, yolo.detect, yolo.read, True),
    "supervisely": Tool(
        "Supervisely project", True, supervisely.detect, supervisely.read, True
    ),
    "paddleseg": Tool("PaddleSeg lists", True, lists.detect, lists.read),
    "ade20k": Tool("ADE20K", True, folders.detect_ade20k, folders.read_ade20k),
    "voc": Tool("VOC folders", True, voc.detect_voc, voc.read_voc),
    "folders": Tool(
        "images and masks in folders", False, folders.detect_trees, folders.read_trees
    ),
    "one_folder": Tool(
        "images and masks in one folder",
        False,
        folders.detect_one_folder,
        folders.read_one_folder,
    ),
}


_ARCHIVES = (".zip", ".tar", ".gz", ".tgz")


def the_only_folder(folder: Path) -> Path:
    """Returns the folder that an archive was unpacked to: the innermost alone one."""
    while folder.is_dir():
        paths = [p for p in folder.iterdir() if p.suffix.lower() not in _ARCHIVES]
        paths = [p for p in paths if p.name[0] != "." and p.name != "__MACOSX"]
        if len(paths) != 1 or not paths[0].is_dir():
            break
        folder = paths[0]
    return folder


def _check_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    if folder.suffix.lower() in _ARCHIVES:
        raise DatasetError(
            f"Expected a folder. Received: {folder}, an archive. Unpack it first, and "
            "give the folder that it becomes."
        )
    raise DatasetError(f"Expected a folder. Received: {folder}")


def detect(folder: Path, tools: Mapping[str, Tool] = TOOLS) -> str:
    """Returns the name of the row by which a folder is to be read.

    Args:
      folder: to look into.
      tools: the table.

    Raises:
      DatasetError: several rows fit, which are named with the flag that says which; or
        none does.
    """
    sure = [name for name, t in tools.items() if t.is_sure and t.detect(folder)]
    fitting = sure or [name for name, t in tools.items() if t.detect(folder)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        ways = [f"Read as {tools[n].title}: --format={n}" for n in fitting]
        raise DatasetError(
            f"Expected one way to read {folder}. Received several. {'. '.join(ways)}"
        )
    raise DatasetError(_nothing_found(folder))


def _nothing_found(folder: Path) -> str:
    """Says what was looked for, and what is there."""
    there = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    text = (
        f"Expected images and masks, or an export of an annotation tool, in {folder}. "
        f"Received: {', '.join(first_ten(there)) or 'an empty folder'}. "
    )
    if yolo.has_labels(folder):
        return text + (
            "labels/ holds .txt files, as YOLO's, and no data.yaml with names is "
            "there. Say the names: --format=yolo --class_names=NAME,NAME"
        )
    if (folder / "annotations.xml").is_file():
        return (
            text + "annotations.xml is 'CVAT for images': export 'Segmentation mask'."
        )
    if folders.jpeg_masks(folder):
        return text + (
            f"{', '.join(folders.jpeg_masks(folder))} holds JPEG files, which alter "
            "ids and colours: save masks as PNG, from what they were made of."
        )
    if json_files(folder) and any(folder.glob("*.json")):
        text += (
            "JSON files are there, of no kind that is read: of Label Studio export "
            "'Brush labels to PNG' or 'COCO' too. "
        )
    return text + (
        "Say where both are: --images_dir=FOLDER --labels_dir=FOLDER. Where names have "
        "endings, as 1_sat.jpg and 1_mask.png, add them: --image_ending=_X "
        "--label_ending=_Y. All layouts that are found: docs/annotation_tools.md"
    )


def understand(
    input_dir: str | Path, name: str = "auto", options: Options | None = None
) -> Found:
    """Reads a folder as the tool that wrote it, and says what was understood.

    Args:
      input_dir: what a tool exported, unpacked; a folder around it may be given too.
      name: a row of `TOOLS`, or "auto" to look for it.
      options: what is said of the folder.

    Returns:
      Pairs and classes; in a line each it is printed which.

    Raises:
      DatasetError: nothing is found, or several readings; or see the row's `read`.
    """
    folder, options = Path(input_dir).expanduser(), options or Options()
    _check_folder(folder)
    if options.images_dir:
        _check_folder(Path(options.images_dir).expanduser())
    inner = the_only_folder(folder)
    if inner != folder and not (sub_folders(folder) and _fits(folder)):
        folder = inner
    tool = TOOLS[detect(folder) if name == "auto" else name]
    masks = _masks_beside(folder) if name == "auto" and tool.draws else ""
    try:
        found = tool.read(folder, options)
    except DatasetError as error:
        if not masks:
            raise
        raise DatasetError(f"{str(error).rstrip('.')}. {masks}") from error
    if not found.num_pairs:
        raise DatasetError(f"Expected pairs of image and label in {folder}: none there")
    found = join_odd_parts(found)
    notes = (*found.notes, *unused_parts(folder, found), *([masks] if masks else []))
    found = dataclasses.replace(found, notes=notes)
    print(describe(tool.title, folder, found, options.class_names))
    return found


def _masks_beside(folder: Path) -> str:
    """Says how to read masks that lie beside the regions of a tool; "" for none."""
    fitting = [name for name, t in TOOLS.items() if not t.is_sure and t.detect(folder)]
    return ". ".join(
        f"Masks are there too. Read as {TOOLS[name].title}: --format={name}"
        for name in fitting
    )


def _fits(folder: Path) -> bool:
    return any(tool.detect(folder) for tool in TOOLS.values())


def describe(title: str, folder: Path, found: Found, class_names: str = "") -> str:
    """Returns one sentence on what was understood, and the notes.

    Args:
      title: of the row.
      folder: that was read.
      found: in it.
      class_names: what a person said of them; "" where nothing.
    """
    names = class_names or found.classes_from
    classes = f", classes from {names}" if names else ", classes by their numbers"
    where = found.splits_from
    has_val = where and list(found.splits) != ["train"]
    splits = f", split by {where}" if has_val else ", split by --val_fraction"
    lines = [f"{folder}: {title}: {found.num_pairs} pairs{classes}{splits}."]
    if not names:
        lines.append("  Names can be given: --class_names=a,b,... or a file of them.")
    return "\n".join([*lines, *(f"  {note}" for note in found.notes)])
