"""The folders of the PASCAL VOC devkits, which several data sets annotate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from deeplab_tf.data.building import files, pairs
from deeplab_tf.data.building.errors import DatasetError


def find_folder(
    folder: str | Path, years: Sequence[int], needed: str, advice: str = ""
) -> Path:
    """Returns the devkit's folder VOC<year>, given it or a folder above it.

    Args:
      folder: VOC<year>, its parent VOCdevkit, or the parent of that.
      years: in order of preference.
      needed: sub-folder that makes a folder a devkit, such as "JPEGImages".
      advice: sentence for the error.

    Raises:
      DatasetError: none of these folders has `needed`.
    """
    folder = Path(folder).expanduser()
    names = [f"{parent}VOC{year}" for parent in ("", "VOCdevkit/") for year in years]
    for candidate in (folder, *(folder / name for name in names)):
        if (candidate / needed).is_dir():
            return candidate
    expected = " or ".join(f"VOCdevkit/VOC{year}" for year in years)
    raise DatasetError(
        f"Expected the folder {expected} with {needed} in it. Received: {folder}. "
        f"{advice}".rstrip(". ")
    )


def find_2010(input_dir: str | Path, devkit_dir: str | Path | None = None) -> Path:
    """Returns the folder VOC2010, which has the images of several data sets.

    VOC2012, which has the same images among others, serves too.

    Args:
      input_dir: where to look by default.
      devkit_dir: as for `find_folder`.

    Raises:
      DatasetError: there is no such folder.
    """
    return find_folder(
        devkit_dir or input_dir,
        (2010, 2012),
        "JPEGImages",
        "Say where it is: --devkit_dir",
    )


def read_names(path: str | Path) -> list[str]:
    """Returns the names of a list: one a line, or the paths of an image and its mask.

    Raises:
      DatasetError: the file is absent or empty.
    """
    return [Path(line.split()[0]).stem for line in files.read_list(path)]


def find_lists(
    folders: Iterable[Path], file_names: dict[str, tuple[str, ...]]
) -> dict[str, Path]:
    """Returns split -> list, for the first of `folders` that has a list of any split.

    Args:
      folders: in order of preference.
      file_names: split -> names of its list, in order of preference.
    """
    for folder in folders:
        found = {}
        for split, names in file_names.items():
            paths = [folder / name for name in names if (folder / name).is_file()]
            if paths:
                found[split] = paths[0]
        if found:
            return found
    return {}


def list_samples(
    lists: dict[str, Path], split: str, labels: Path, suffix: str, devkit: Path
) -> list[pairs.Sample]:
    """Returns the samples of a split: the devkit's images, and labels of a folder.

    Args:
      lists: split -> list of its names.
      split: one of these.
      labels: folder of labels.
      suffix: of the labels.
      devkit: folder with JPEGImages.

    Raises:
      DatasetError: there is no such split, or its list is empty.
    """
    if split not in lists:
        raise DatasetError(
            f"Expected a split of: {', '.join(lists)}. Received: {split}"
        )
    return [
        pairs.Sample(name, image_path(devkit, name), str(labels / f"{name}{suffix}"))
        for name in read_names(lists[split])
    ]


def image_path(devkit: Path, name: str) -> str:
    """Returns the path of the devkit's image of that name."""
    return str(devkit / "JPEGImages" / f"{name}.jpg")


def file_names(folder: Path, suffix: str) -> list[str]:
    """Returns the sorted names, without suffix, of a folder's visible files."""
    paths = folder.glob(f"*{suffix}")
    return sorted(path.stem for path in paths if not path.name.startswith("."))
