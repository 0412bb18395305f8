"""Classes of an image in, the same array out, which can show itself."""

from __future__ import annotations

import io
import sys

import numpy as np
from PIL import Image

from deeplab_tf.colors import distinct_colormap
from deeplab_tf.labels import Labels
from deeplab_tf.pictures import visualize

_PICTURE_PIXELS = 1_000_000  # what a notebook keeps in its file


class Prediction(np.ndarray):
    """The class of every pixel of an image, uint8 [height, width].

    An array like any other, which also shows itself over its image: a notebook draws
    it where it is the last value of a cell. What is computed from it is a plain array,
    and a part or a copy of it knows no image.

    Attributes:
      image: RGB in 0..255 [height, width, 3], as the network got it; None of a part.
      labels: names and colours of the classes; None where nobody said.
    """

    image = None
    labels: Labels | None = None

    @classmethod
    def of(cls, classes: np.ndarray, image, labels: Labels | None) -> Prediction:
        """Makes one of classes uint8 [height, width]; nothing is copied."""
        prediction = np.asarray(classes).view(cls)
        prediction.image, prediction.labels = image, labels
        return prediction

    def __array_wrap__(self, array, context=None, return_scalar=False):
        array = np.asarray(array)
        return array if array.ndim else array[()]

    def picture(
        self, alpha: float = 0.5, max_pixels: int = _PICTURE_PIXELS
    ) -> Image.Image:
        """Draws the classes over the image, above a legend of those that it shows.

        Args:
          alpha: opacity of the colours, 0 to 1.
          max_pixels: larger images are drawn smaller, by a whole number.

        Raises:
          ValueError: it is a part or a copy of a prediction, and knows no image.
        """
        if self.image is None:
            raise ValueError(
                "Expected what Segmenter.predict returned. Received: a part or a copy "
                "of it, which knows no image. Draw the whole prediction, or use "
                "deeplab_tf.pictures.visualize.overlay_with_legend."
            )
        classes = np.asarray(self)
        image, classes = visualize.shrink(np.asarray(self.image), classes, max_pixels)
        labels = self.labels or _numbered(int(classes.max()) + 1)
        drawn = visualize.overlay_with_legend(
            image,
            classes,
            labels.colormap,
            labels.class_names,
            alpha,
            labels.ignore_label,
        )
        return Image.fromarray(drawn)

    def show(self, alpha: float = 0.5) -> None:
        """Shows `picture`: in a notebook below the cell, elsewhere in a window."""
        picture = self.picture(alpha)
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        if getattr(shell, "kernel", None) is None:
            picture.show()
            return
        from IPython.display import display

        display(picture)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows; None of a part, which is shown as numbers."""
        if self.image is None:
            return None
        file = io.BytesIO()
        self.picture().save(file, format="PNG")
        return file.getvalue()


def _numbered(num_classes: int) -> Labels:
    names = tuple(f"class {index}" for index in range(num_classes))
    return Labels(names, distinct_colormap(num_classes))
