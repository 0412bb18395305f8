"""Predictions in the layout that the VOC and Cityscapes test servers take.

    voc2012      results/VOC2012/Segmentation/comp6_test_cls/NAME.png, in results.tgz:
                 palette PNGs of class ids.
    cityscapes   cityscapes/NAME.png, in cityscapes.zip: grey PNGs of label ids (7 is
                 road), not of the train ids that a network learns.

NAME is the input's. Files are below the folder of output that the caller gives.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from typing import IO

import numpy as np

from deeplab_tf.class_tables import CITYSCAPES, CITYSCAPES_LABEL_IDS, VOC2012
from deeplab_tf.files import atomic_write
from deeplab_tf.pictures.visualize import save_palette_png, save_png


@dataclasses.dataclass(frozen=True)
class Submission:
    """What a test server takes.

    Attributes:
      num_classes: of the model.
      folder: of the PNGs.
      archive: name of the file that is sent.
      save: (path, classes uint8 [height, width]) -> a PNG at the path.
      pack: (file, {name in the archive: path}) -> the archive.
    """

    num_classes: int
    folder: str
    archive: str
    save: Callable[[str, np.ndarray], None]
    pack: Callable[[IO[bytes], dict[str, str]], None]

    def check(self, num_classes: int, paths: Sequence[str]) -> None:
        """Refuses a model of other classes, and images of one name.

        Args:
          num_classes: of the model.
          paths: the inputs.

        Raises:
          ValueError: as above.
        """
        if num_classes != self.num_classes:
            raise ValueError(
                f"{self.archive} needs a model of {self.num_classes} classes. "
                f"Received: {num_classes}"
            )
        uses = collections.Counter(map(_name, paths))
        name, count = max(uses.items(), key=lambda item: item[1], default=("", 0))
        if count > 1:
            raise ValueError(
                f"{self.archive} takes one image of a name, and {count} inputs are "
                f"called {name}. Give one folder of images, or fewer with --list."
            )

    def output_path(self, output_dir: str, path: str) -> str:
        """Returns where the PNG of the input `path` belongs."""
        return os.path.join(output_dir, self.folder, f"{_name(path)}.png")

    def write_archive(self, output_dir: str, paths: Sequence[str]) -> str:
        """Packs the PNGs of the inputs `paths`; returns the path of the archive.

        Raises:
          OSError: a PNG is missing, or the disk is full.
        """
        archive = os.path.join(output_dir, self.archive)
        pngs = [self.output_path(output_dir, path) for path in paths]
        members = {os.path.relpath(png, output_dir): png for png in pngs}
        with atomic_write(archive, "wb") as file:
            self.pack(file, {k.replace(os.sep, "/"): v for k, v in members.items()})
        return archive


def _name(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _save_voc(path: str, classes: np.ndarray) -> None:
    save_palette_png(path, classes, VOC2012.colors)


def _save_cityscapes(path: str, classes: np.ndarray) -> None:
    save_png(path, np.array(CITYSCAPES_LABEL_IDS, np.uint8)[classes])


def _pack_tar(file: IO[bytes], members: dict[str, str]) -> None:
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, path in members.items():
            archive.add(path, name)


def _pack_zip(file: IO[bytes], members: dict[str, str]) -> None:
    with zipfile.ZipFile(file, "w") as archive:  # PNGs do not get smaller
        for name, path in members.items():
            # The server looks for images at the top.
            archive.write(path, os.path.basename(name))


SUBMISSIONS = {
    "voc2012": Submission(
        num_classes=len(VOC2012.names),
        folder="results/VOC2012/Segmentation/comp6_test_cls",
        archive="results.tgz",
        save=_save_voc,
        pack=_pack_tar,
    ),
    "cityscapes": Submission(
        num_classes=len(CITYSCAPES.names),
        folder="cityscapes",
        archive="cityscapes.zip",
        save=_save_cityscapes,
        pack=_pack_zip,
    ),
}
