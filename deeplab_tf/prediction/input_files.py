"""Which images and videos a user means, and what their outputs are called."""

from __future__ import annotations

import collections
import glob
import os
from collections.abc import Iterator, Sequence
from unicodedata import normalize

from deeplab_tf.image_kinds import IMAGE_SUFFIXES, is_leftover, skipped
from deeplab_tf.pictures import videos
from deeplab_tf.strangers_words import printable

# What is written for an input, each into a folder of that name -> its extension.
KINDS = {"classes": ".png", "overlay": ".png", "probabilities": ".npz"}


def find_inputs(
    inputs: str, recursive: bool = False, output_dir: str = ""
) -> list[str]:
    """Returns the images and videos that --input stands for, sorted.

    Args:
      inputs: file names, folders and glob patterns, separated by commas.
      recursive: also look into folders inside folders, but not through links.
      output_dir: what an earlier run wrote there is not taken for input then.

    Returns:
      Paths, each once. What stands for nothing, among others that do, is one of them,
      to be named when it cannot be read.

    Raises:
      FileNotFoundError: there are none.
    """
    # A name that holds a comma is taken as it is.
    parts = [inputs] if os.path.lexists(inputs) else inputs.split(",")
    found = {part: _find(part, recursive, output_dir) for part in parts if part}
    if not any(found.values()):
        raise FileNotFoundError(
            f"No images at {inputs}. Expected an image or a video, a folder of them, "
            "or a pattern such as 'photos/*.jpg'."
        )
    paths = [path for part, matches in found.items() for path in matches or [part]]
    return sorted({os.path.abspath(path): path for path in paths}.values())


def _find(part: str, recursive: bool, output_dir: str) -> list[str]:
    if os.path.isdir(part):
        listed = list(_walk(part, output_dir) if recursive else _list(part))
        files = [path for path in listed if not os.path.isdir(path)]
        others = skipped(files, (*IMAGE_SUFFIXES, *videos.EXTENSIONS))
        if others:
            print(f"Skipped in {shown(part)}: {others}.")
        return list(filter(_looks_readable, listed))
    if os.path.lexists(part):
        return [part]
    # What a pattern matches is tried, but for folders that do not pretend.
    return [
        path
        for path in glob.glob(part, recursive=True)
        if _looks_readable(path) or not (os.path.isdir(path) or is_leftover(path))
    ]


def _list(folder: str) -> Iterator[str]:
    for name in os.listdir(folder):
        yield os.path.join(folder, name)


def _walk(folder: str, output_dir: str) -> Iterator[str]:
    written = {os.path.realpath(os.path.join(output_dir, kind)) for kind in KINDS}
    for inside, folders, names in os.walk(folder):
        paths = {name: os.path.realpath(os.path.join(inside, name)) for name in folders}
        folders[:] = [name for name in folders if paths[name] not in written]
        for name in names:
            yield os.path.join(inside, name)


def _looks_readable(path: str) -> bool:
    known = path.lower().endswith((*IMAGE_SUFFIXES, *videos.EXTENSIONS))
    return known and not is_leftover(path)


def is_video(path: str) -> bool:
    return path.lower().endswith(videos.EXTENSIONS)


def select_listed(paths: Sequence[str], list_file: str) -> tuple[list[str], list[str]]:
    """Keeps the inputs that a list names, as VOC's ImageSets do.

    Args:
      paths: the inputs.
      list_file: text; each line, or its first word, is a file name without extension.

    Returns:
      (the inputs named, in the list's order; one sentence for each name without one).

    Raises:
      OSError: the list cannot be read.
      ValueError: it names none of the inputs.
    """
    by_name = collections.defaultdict(list)
    for path in paths:
        by_name[_name(path)].append(path)
    with open(list_file, encoding="utf-8") as file:
        lines = [normalize("NFC", line.strip()) for line in file if line.strip()]
    # VOC's lists of one class have a second column.
    names = [line if line in by_name else line.split()[0] for line in lines]
    names = list(dict.fromkeys(names))
    found = [path for name in names for path in by_name.get(name, ())]
    if not found:
        raise ValueError(
            f"{list_file} names none of the images of --input. Expected a file name "
            "without extension on each line."
        )
    missing = [name for name in names if name not in by_name]
    return found, [f"{name}: in {list_file}, but not in --input." for name in missing]


def _name(path: str) -> str:
    """Returns a file's name without extension, of whatever form of Unicode."""
    return normalize("NFC", os.path.splitext(os.path.basename(path))[0])


def output_names(paths: Sequence[str]) -> list[str]:
    """Names the outputs: paths below the common folder, without their extension.

    Where that would give two inputs one name, they keep their extension: a.jpg and
    a.png become a.jpg and a.png, of which a.jpg.png and a.png.png are made.
    """
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
    names = [os.path.relpath(path, folder) for path in paths]
    stems = [os.path.splitext(name)[0] for name in names]
    # Without regard to case, as on the file systems of macOS and Windows.
    uses = collections.Counter(stem.lower() for stem in stems)
    uses.update(name.lower() for name in names)
    return [
        stem if uses[stem.lower()] == 1 else name for stem, name in zip(stems, names)
    ]


def shown(path: str) -> str:
    """Returns a file name on one line, in characters that can be printed."""
    return printable(path).replace("\n", r"\n")
