"""The images that a model does best and worst, kept small while scores are made."""

from __future__ import annotations

import bisect
import dataclasses
import math

import numpy as np
from PIL import Image

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.colors import IGNORE_COLOR

ERROR_COLOR = (214, 31, 31)
_PICTURE_SIDE = 480  # pixels at most; eight images then take 1 to 3 MB


@dataclasses.dataclass(frozen=True, order=True)
class Picture:
    """An image and what was made of it, small; in the order of its score.

    Attributes:
      score: mean IoU of the whole image, in 0..1.
      name: of the image.
      image: uint8 [height, width, 3], RGB.
      label: integers [height, width], class ids or the ignore label.
      classes: integers [height, width], class ids: the prediction.
    """

    score: float
    name: str
    image: np.ndarray = dataclasses.field(compare=False)
    label: np.ndarray = dataclasses.field(compare=False)
    classes: np.ndarray = dataclasses.field(compare=False)

    def errors(self, ignore_label: int = IGNORE_LABEL) -> np.ndarray:
        """The image in pale grey, wrong pixels and void in colour.

        Returns:
          uint8 [height, width, 3].
        """
        grey = 127 + self.image.mean(-1, keepdims=True) / 2
        shown = np.repeat(grey, 3, -1).astype(np.uint8)
        shown[self.label != self.classes] = ERROR_COLOR
        shown[self.label == ignore_label] = IGNORE_COLOR
        return shown


class BestAndWorst:
    """Keeps the images of the highest and of the lowest mean IoU, and no others.

    Args:
      keep: how many of each.
    """

    def __init__(self, keep: int = 4):
        self.keep = keep
        self._kept: list[Picture] = []

    def add(
        self,
        score: float,
        name: str,
        image: np.ndarray,
        label: np.ndarray,
        classes: np.ndarray,
    ) -> None:
        """Shows it an image; equal scores are ordered by name.

        Args:
          score: mean IoU of the image; where it is NaN, the image is left out.
          name: of the image.
          image: uint8 [height, width, 3], RGB.
          label: integers [height, width], class ids or the ignore label.
          classes: integers of the same shape, class ids.
        """
        if math.isnan(score):
            return
        whole = Picture(score, name, image, label, classes)
        place = bisect.bisect(self._kept, whole)
        full = len(self._kept) == 2 * self.keep
        if full and place == self.keep:  # it would be dropped at once
            return
        self._kept.insert(place, _shrunk(whole))
        if full:
            del self._kept[self.keep]

    def best(self) -> list[Picture]:
        """The best images, best first."""
        return self._kept[: -self.keep - 1 : -1]

    def worst(self) -> list[Picture]:
        """The worst images that are not among the best, worst first."""
        return self._kept[: -self.keep]


def _shrunk(picture: Picture) -> Picture:
    """Copies a picture at `_PICTURE_SIDE` at most; labels by the nearest pixel."""
    height, width = picture.label.shape
    scale = min(1, _PICTURE_SIDE / max(height, width))
    size = [max(1, round(side * scale)) for side in (height, width)]
    rows, columns = (
        ((np.arange(small) + 0.5) * side / small).astype(int)
        for small, side in zip(size, (height, width))
    )
    image = Image.fromarray(picture.image).resize(size[::-1], Image.Resampling.LANCZOS)
    return dataclasses.replace(
        picture,
        image=np.array(image),
        label=picture.label[np.ix_(rows, columns)],
        classes=picture.classes[np.ix_(rows, columns)],
    )
