r"""Gives the classes of a run, or of records, other names and colours.

Nothing is trained again:

    python -m deeplab_tf.rename runs/mine --class_names=background,road,car
    python -m deeplab_tf.rename runs/mine --class_names=labelmap.txt
    python -m deeplab_tf.rename runs/mine --colors=#000000,#804080,#0000ff

Names are as many as there are classes, in the order of their ids: between commas, in a
file of any usual form, or those of a published data set. A file of colours and names
gives both. A run is renamed with the records that it was trained on, where these have
the same names, so that training goes on with them. What was exported, evaluated or
predicted before keeps the old names: the last lines say how to make it again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence

from deeplab_tf.colors import Color
from deeplab_tf.command_names import as_typed, call_of, name_of
from deeplab_tf.config import TrainConfig, read_config
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders.class_lists import ClassList, read_class_list
from deeplab_tf.data.folders.color_tables import parse_color
from deeplab_tf.data.records.info import INFO_FILE, DatasetInfo
from deeplab_tf.files import InUse, sole_writer_in, write_together
from deeplab_tf.labels import Labels
from deeplab_tf.strangers_words import printable

CONFIG_FILE, LABELS_FILE = "config.json", "labels.json"


def read_colors(text: str, class_names: Sequence[str]) -> tuple[Color, ...]:
    """Reads colours between commas, or those of a file with names and colours.

    Args:
      text: "#804080,#0000ff", or the path of a file.
      class_names: which colours of a file count, and in which order.

    Raises:
      ValueError: something else, or a class has no colour.
    """
    if text.startswith("#") and not os.path.isfile(text):
        return tuple(parse_color(color) for color in text.split(","))
    listed = read_class_list(text)
    colors = dict(zip(listed.names, listed.colors))
    missing = [name for name in class_names if name not in colors]
    if missing:
        raise ValueError(
            f"expected a colour for each class in {text}; none for {', '.join(missing)}"
        )
    return tuple(colors[name] for name in class_names)


def new_labels(old: Labels, class_names: str, colors: str) -> Labels:
    """Returns the labels that are asked for.

    Args:
      old: those there are.
      class_names: see `class_lists.read_class_list`; "" keeps the names.
      colors: see `read_colors`; "" takes those of the names' file, or keeps.

    Raises:
      ValueError: another number of names or colours than of classes, or two the same.
    """
    listed = read_class_list(class_names) if class_names else ClassList((), ())
    names = listed.names or old.class_names
    shown = read_colors(colors, names) if colors else listed.colors or old.colormap
    for what, values in (("names", names), ("colours", shown)):
        if len(values) != len(old.class_names):
            raise ValueError(
                f"expected {len(old.class_names)} {what}, one a class: "
                f"{', '.join(old.class_names)}. Received: {len(values)}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"expected names that differ. Received: {', '.join(names)}")
    return Labels(tuple(names), tuple(shown), old.ignore_label)


def renamed_config(config: TrainConfig, labels: Labels) -> TrainConfig:
    """Returns a configuration with other labels, wherever it names classes."""
    new = dict(zip(config.class_names, labels.class_names))
    pasted = config.paste_classes
    if isinstance(pasted, tuple):
        pasted = tuple(new.get(name, name) for name in pasted)
    return dataclasses.replace(
        config,
        class_names=labels.class_names,
        colormap=labels.colormap,
        duplicate=tuple((new.get(n, n), factor) for n, factor in config.duplicate),
        paste_classes=pasted,
    )


def rename(
    folder: str | os.PathLike, class_names: str = "", colors: str = ""
) -> list[str]:
    """Renames the classes of a run with its records, or of records alone.

    Args:
      folder: workdir of a run, or folder of records.
      class_names: see `new_labels`.
      colors: likewise.

    Returns:
      The paths of the files that were written; all of them, or none.

    Raises:
      FileNotFoundError: the folder is neither.
      InUse: a run is writing there.
      ValueError: see `new_labels`; or a file is damaged.
    """
    folder = os.fspath(folder)
    if not os.path.isfile(os.path.join(folder, CONFIG_FILE)):
        return _rename_records(folder, class_names, colors)
    config = read_config(folder)
    old = Labels.from_config(config)
    labels = new_labels(old, class_names, colors)
    text = renamed_config(config, labels).to_json()
    contents = {os.path.join(folder, CONFIG_FILE): text}
    labels_path = os.path.join(folder, LABELS_FILE)
    if os.path.isfile(labels_path):
        contents[labels_path] = labels.to_json()
    info_path = os.path.join(config.data_dir, INFO_FILE)
    if config.data_dir and os.path.isfile(info_path):
        info = _read_info(info_path)
        if info.class_names == old.class_names:
            contents[info_path] = _renamed_info(info, labels)
    with sole_writer_in(folder, "train", place=folder):
        write_together({path: text.encode() for path, text in contents.items()})
    return list(contents)


def _rename_records(folder: str, class_names: str, colors: str) -> list[str]:
    path = os.path.join(folder, INFO_FILE)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{folder} is neither the workdir of a run ({CONFIG_FILE}) nor a folder of "
            f"records ({INFO_FILE})"
        )
    info = _read_info(path)
    old = Labels(info.class_names, info.colormap, info.ignore_label)
    labels = new_labels(old, class_names, colors)
    write_together({path: _renamed_info(info, labels).encode()})
    return [path]


def _read_info(path: str) -> DatasetInfo:
    with open(path, encoding="utf-8") as file:
        return DatasetInfo.from_json(file.read())


def _renamed_info(info: DatasetInfo, labels: Labels) -> str:
    new = dataclasses.replace(
        info, class_names=labels.class_names, colormap=labels.colormap
    )
    return new.to_json()


# --- Command line --------------------------------------------------------------------


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=name_of("rename"),
        description=as_typed(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="Workdir of a run, or folder of records.")
    parser.add_argument(
        "--class_names", default="", help="Names: a,b,c, a file, or a data set."
    )
    parser.add_argument(
        "--colors", default="", help="Colours: #rrggbb,#rrggbb, or a file with names."
    )
    args = parser.parse_args(argv)
    if not args.class_names and not args.colors:
        parser.error("expected --class_names, --colors or both")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; a sentence ends it where something is wrong."""
    args = _parse(argv)
    try:
        written = rename(args.folder, args.class_names, args.colors)
    except (DatasetError, FileNotFoundError, InUse, OSError, ValueError) as error:
        sys.exit(f"Error: {printable(as_typed(str(error)))}")
    print("\n".join(f"Wrote {path}" for path in written))
    if os.path.basename(written[0]) == CONFIG_FILE:
        print(
            "Exports and evaluations keep the old names. Make them again:\n"
            f"  {call_of('export')} --workdir={args.folder}\n"
            f"  {call_of('evaluate')} --workdir={args.folder}"
        )
