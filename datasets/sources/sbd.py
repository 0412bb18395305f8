"""SBD, the Semantic Boundaries Dataset: masks of 11,355 VOC images as .mat files.

Hariharan et al., Semantic contours from inverse detectors, ICCV 2011. The archive
benchmark.tgz (1.3 GB, no login) is at the authors' page
home.bharathh.info/pubs/codes/SBD/download.html. It unpacks to

    benchmark_RELEASE/dataset/{train.txt, val.txt, img/NAME.jpg, cls/NAME.mat, inst/}

and a `cls/NAME.mat` holds the struct GTcls, with ids 0 to 20 in its field Segmentation.
SBD divides the images into train (8,498) and val (2,857) in its own way; both hold
images of VOC's val.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from deeplab_tf.data.building.errors import DatasetError

from . import matlab, voc_devkit

LISTS = ("train.txt", "val.txt")


def find_folder(sbd_dir: str | Path) -> Path:
    """Returns SBD's folder `dataset`, given it, benchmark_RELEASE, or its parent.

    Raises:
      DatasetError: none of them has cls, train.txt and val.txt.
    """
    sbd_dir = Path(sbd_dir).expanduser()
    for name in (".", "dataset", "benchmark_RELEASE/dataset"):
        folder = sbd_dir / name
        if (folder / "cls").is_dir() and all((folder / n).is_file() for n in LISTS):
            return folder
    raise DatasetError(
        "Expected SBD's folder benchmark_RELEASE/dataset with cls, train.txt and "
        f"val.txt in it. Received: {sbd_dir}. Unpack benchmark.tgz of SBD anew."
    )


def list_names(folder: Path) -> set[str]:
    """Returns the names in SBD's train and val.

    Raises:
      DatasetError: a list is absent or empty.
    """
    return {n for name in LISTS for n in voc_devkit.read_names(folder / name)}


def label_path(folder: Path, name: str) -> str:
    """Returns the path of the annotation of that name."""
    return str(folder / "cls" / f"{name}.mat")


def image_path(folder: Path, name: str) -> str:
    """Returns the path of SBD's own copy of the image of that name."""
    return str(folder / "img" / f"{name}.jpg")


def read_label(path: str | os.PathLike) -> np.ndarray:
    """Returns an annotation as uint8 [height, width]: VOC's ids, without void.

    Raises:
      ValueError: the file is absent, damaged, or not of SBD's cls.
    """
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path}; unpack benchmark.tgz of SBD anew")
    value = matlab.read_variable(path, "GTcls")
    with matlab.errors_about(path):
        found = matlab.structs(value)
        if len(found) != 1:
            raise ValueError(f"expected one struct GTcls, received {len(found)}")
        label = matlab.label_map(matlab.field(found[0], "Segmentation"))
        if label.max(initial=0) > 255:
            raise ValueError(f"expected ids 0 to 20, received {label.max()}")
    return label.astype(np.uint8)
