"""Prediction at the image's own size: scales, flip, padding, windows, dense CRF."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.inference.crf import CRFParameters, dense_crf
from deeplab_tf.inference.input_checks import checked_image, checked_images
from deeplab_tf.inference.network import (
    Ensemble,
    KerasNetwork,
    Network,
    as_network,
    as_uint8,
)
from deeplab_tf.inference.padding import (
    checked_padding,
    cut_back,
    outgrows,
    pad_colors,
    pad_images,
)
from deeplab_tf.inference.predicted import Prediction
from deeplab_tf.inference.runtimes import is_runtime_file, load_network
from deeplab_tf.inference.saved_models import SavedModelNetwork
from deeplab_tf.inference.windows import blend_windows, check_window
from deeplab_tf.labels import Labels
from deeplab_tf.networks.folding import fold_batch_norm
from deeplab_tf.networks.models import MIN_IMAGE_SIZE, inference_model
from deeplab_tf.weights.pretrained import pretrained_workdir
from deeplab_tf.workdir import load_workdir

PAPER_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
MAX_SCALE = 16  # which takes 256 times the memory


class Segmenter:
    """Any-size images in, classes or probabilities at the same size out.

    `Segmenter.from_workdir("runs/demo").predict("photo.jpg").show()`

    Each of its functions is traced once, for images of any size and any batch: a trace
    for each size would not be quicker (`python -m benchmarks.inference`).

    Args:
      model: Keras model of this package, any function of tensors (image float32
        [B, h, w, 3] in 0..255 -> logits float32 [B, h, w, classes]), or a `Network`.
      scales: the image is also run at these factors; probabilities are averaged
        (DeepLabV3, section 4.1: `PAPER_SCALES`). No side gets smaller than 32 pixels.
      flip: also run each scale mirrored left-right.
      window: images larger than this many pixels a side are run in windows of that
        size; None runs each image whole. Memory is then bounded, but what the network
        sees of the whole image is cut off: image-level pooling is that of the window.
      overlap: pixels that neighbouring windows share at least; None is a quarter of
        the window. The outer quarter of it does not count: where that is more than the
        network reaches, the result is that of the whole image.
      window_batch: windows of an image that are run at once.
      crf: parameters of a dense CRF over the probabilities; None is no CRF.
      labels: what the classes are called; None is what the network says.
      pad_to: size, or (height, width), that smaller images are padded to below and to
        the right, before they are scaled; the scores are cut back. So the papers
        evaluate, at the crop of training (513 on VOC). A side that is longer stays as
        it is, see `outgrows_padding`; windows are padded, not the image. None pads
        nothing.
      pad_color: RGB in 0..255 to pad with; None is the mean colour of the network, of
        an ensemble each member's own.

    Attributes:
      network: the `Network` that is run.
      labels: as given, or those of the run or the exported model.
      probabilities_of: `tf.function` of scales and flip, without windows or CRF: image
        float32 [B, h, w, 3] -> probabilities float32 [B, h, w, classes].
      classes_of: the same, -> classes uint8 [B, h, w].

    Raises:
      ValueError: no scale, or one that is not in (0, 16]; windows that cannot be, or
        together with a CRF, which needs the whole image; scales, flip, windows or a
        CRF of a network that has no probabilities; a size to pad to that cannot be, or
        a network that does not tell its mean colour.
    """

    def __init__(
        self,
        model: Network | keras.Model | Callable[[tf.Tensor], tf.Tensor],
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: int | None = None,
        overlap: int | None = None,
        window_batch: int = 1,
        crf: CRFParameters | None = None,
        labels: Labels | None = None,
        pad_to: int | Sequence[int] | None = None,
        pad_color: Sequence[float] | None = None,
    ):
        if not scales or not all(0 < scale <= MAX_SCALE for scale in scales):
            raise ValueError(
                f"scales must be positive, and at most {MAX_SCALE}. "
                f"Received: {tuple(scales)}"
            )
        self.network = as_network(model)
        self.labels = self.network.labels if labels is None else labels
        self.scales = tuple(map(float, scales))
        self.flip = flip
        self.window, self.overlap = _checked_window(window, overlap, crf)
        self.window_batch = window_batch
        self.crf = crf
        self.pad_to = checked_padding(pad_to)
        own = [member.mean_color for member in self.network.members]
        self._pad_colors = pad_colors(own, self.pad_to, pad_color)
        if self.averages or window is not None or crf is not None:
            self.network.check_probabilities()
        self.probabilities_of = self._traced(self._mean)
        self.classes_of = self._traced(self._best)

    @classmethod
    def from_workdir(
        cls,
        path: str | os.PathLike,
        output_stride: int | None = None,
        precision: str = "float32",
        **options,
    ) -> Segmenter:
        """Loads the best weights of a run; see `load_workdir`.

        BatchNorm is folded into the convolutions, as in an export: quicker, and the
        same rounding.

        Args:
          path: workdir of train.py.
          output_stride: 8, 16 or 32 instead of the one it was trained with.
          precision: "float32", "bfloat16" or "float16".
          **options: those of `Segmenter`, but for labels.
        """
        return cls(_network_of_run(path, output_stride, precision), **options)

    @classmethod
    def from_workdirs(
        cls,
        paths: Sequence[str | os.PathLike],
        output_stride: int | None = None,
        precision: str = "float32",
        **options,
    ) -> Segmenter:
        """Loads several runs as one: the mean of their probabilities.

        It takes the sum of their times; see `Ensemble`.

        Args:
          paths: workdirs of runs of the same classes; names and colours are the
            first's.
          output_stride, precision, **options: as of `from_workdir`.

        Raises:
          ValueError: runs of other classes.
        """
        networks = [_network_of_run(path, output_stride, precision) for path in paths]
        return cls(Ensemble(networks, [os.fspath(path) for path in paths]), **options)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **options) -> Segmenter:
        """Loads a published network by its name, fetched where it is not there yet.

        Args:
          name: a row of `weights.published.PUBLISHED`, or a folder, address or
            hf:OWNER/NAME of a packed network; see `weights.pretrained`.
          **options: those of `from_workdir`.
        """
        return cls.from_workdir(pretrained_workdir(name), **options)

    @classmethod
    def from_saved_model(cls, path: str | os.PathLike, **options) -> Segmenter:
        """Loads a model of export.py: a version's folder, or the one above it.

        It takes whole numbers: an image scaled by `scales` is rounded to them.

        Args:
          path: folder written by export.py.
          **options: those of `Segmenter`.

        Raises:
          FileNotFoundError: there is no exported model.
        """
        return cls(SavedModelNetwork(path), **options)

    @classmethod
    def from_runtime_file(cls, path: str | os.PathLike, **options) -> Segmenter:
        """Loads a .tflite, .onnx or .xml file of export.py.

        It answers with classes alone, so what needs probabilities raises ValueError.

        Args:
          path: of the file; its labels lie beside it.
          **options: those of `Segmenter` that need no probabilities.

        Raises:
          FileNotFoundError: the file or its labels are not there.
          ValueError: it cannot be run here, or scales, flip, windows or a CRF.
        """
        return cls(load_network(path), **options)

    @property
    def averages(self) -> bool:
        """Whether probabilities are means, of networks, scales or mirrored images."""
        several = len(self.network.members) > 1
        return several or self.scales != (1.0,) or self.flip

    def outgrows_padding(self, size: Sequence[int]) -> bool:
        """Says whether an image is longer than `pad_to` on a side, which so stays.

        Args:
          size: height and width of the image, or a shape that begins with them. Where
            it is run in windows, it is these that may be longer.
        """
        return outgrows([min(s, self.window or s) for s in size[:2]], self.pad_to)

    def with_window(self, window: int, overlap: int | None = None) -> Segmenter:
        """Returns a segmenter of the same network, that runs large images in windows.

        Raises:
          ValueError: windows that cannot be; see `Segmenter`.
        """
        self.network.check_probabilities()
        other = copy.copy(self)
        other.window, other.overlap = _checked_window(window, overlap, self.crf)
        return other

    def predict(self, image, out: np.ndarray | None = None) -> np.ndarray:
        """Returns the class of every pixel of one image.

        Args:
          image: the path of an image file, which is turned upright; a PIL image of any
            colours, not turned; or RGB in 0..255, uint8 or float [height, width, 3], an
            array or a tensor. With windows, anything that can be sliced will do, such
            as a `numpy.memmap`.
          out: uint8 [height, width] to write to, such as a `numpy.memmap`; None makes
            an array.

        Returns:
          uint8 [height, width] in [0, num_classes): a `Prediction`, an array that can
          show itself; or `out`, where it was given.

        Raises:
          OSError: there is no such file, or it cannot be read.
          ValueError: another shape, a side under 32 pixels, values that cannot be
            those of an image in 0..255, or out of another size.
        """
        image = checked_image(image)
        size = tuple(image.shape[:2])
        is_ours = out is None
        out = np.empty(size, np.uint8) if is_ours else out
        if out.shape != size:
            raise ValueError(f"Expected out of shape {size}. Received: {out.shape}")
        if self._in_windows(image):
            for rows, columns, block in self._blocks(image):
                out[rows, columns] = block.argmax(-1)
        else:
            out[...] = self._predict_whole(np.asarray(image)[None])[0]
        return Prediction.of(out, image, self.labels) if is_ours else out

    def predict_batch(self, images) -> np.ndarray:
        """As `predict`, on images of one size, B of 0 too: uint8 [B, height, width]."""
        images = checked_images(images)
        if len(images) and self._in_windows(images[0]):
            return np.stack([self.predict(image) for image in images])
        return self._predict_whole(images)

    def probabilities(self, images) -> np.ndarray:
        """Returns float32 [B, height, width, num_classes] that sum to one.

        Args:
          images: RGB in 0..255, uint8 or float [B, height, width, 3].

        Raises:
          ValueError: as of `predict`.
        """
        images = checked_images(images)
        if not len(images):
            return self.probabilities(_one_black(images))[:0]
        if self._in_windows(images[0]):
            return np.stack([self._whole(image) for image in images])
        probabilities = self.probabilities_of(_as_float(images)).numpy()
        if self.crf is None:
            return probabilities
        return np.stack(
            [
                dense_crf(as_uint8(image), each, self.crf)
                for image, each in zip(images, probabilities)
            ]
        )

    def _predict_whole(self, images) -> np.ndarray:
        if not len(images):
            return self._predict_whole(_one_black(images))[:0]
        if self.crf is None:
            return self.classes_of(_as_float(images)).numpy()
        return self.probabilities(images).argmax(-1).astype(np.uint8)

    def _in_windows(self, image) -> bool:
        return self.window is not None and max(image.shape[:2]) > self.window

    def _blocks(self, image):
        """Yields (rows, columns, probabilities) that cover the image."""

        def predict(tiles):
            return self.probabilities_of(_as_float(tiles)).numpy()

        blocks = blend_windows(
            predict, image, self.window, self.overlap, self.window_batch
        )
        for top, left, block in blocks:
            rows, columns = block.shape[:2]
            yield slice(top, top + rows), slice(left, left + columns), block

    def _whole(self, image) -> np.ndarray:
        whole = None
        for rows, columns, block in self._blocks(image):
            if whole is None:
                whole = np.empty([*image.shape[:2], block.shape[-1]], np.float32)
            whole[rows, columns] = block
        return whole

    def _traced(self, function):
        if not self.network.traceable:
            return function
        images = tf.TensorSpec([None, None, None, 3], tf.float32)
        return tf.function(function, input_signature=[images])

    def _best(self, images):
        if self.averages:
            scores = self.probabilities_of(images)
            classes = tf.argmax(scores, -1, output_type=tf.int32)
        else:
            padded = pad_images(images, self.pad_to, *self._pad_colors)
            classes = cut_back(self.network.classes(padded), images, self.pad_to)
        return tf.cast(classes, tf.uint8)

    def _mean(self, images):
        """Mean of the softmax over networks, scales and flips."""
        runs = []
        for network, color in zip(self.network.members, self._pad_colors):
            runs += self._runs_of(network, pad_images(images, self.pad_to, color))
        return cut_back(sum(runs) / len(runs), images, self.pad_to)

    def _runs_of(self, network: Network, images):
        """Yields a network's softmax at each scale, and mirrored."""
        size = tf.shape(images)[1:3]
        for scale in self.scales:
            scaled = images
            if scale != 1.0:
                scaled = tf.image.resize(images, _scaled_size(size, scale))
            for mirrored in (False, True)[: 1 + self.flip]:
                # Not `[:, :, ::-1]`, which takes ten times as long.
                one = tf.reverse(scaled, [2]) if mirrored else scaled
                logits = network.logits(one)
                logits = tf.reverse(logits, [2]) if mirrored else logits
                if scale != 1.0:
                    logits = tf.image.resize(logits, size)
                yield tf.nn.softmax(logits)


def load_segmenter(
    workdir: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    saved_model: str | os.PathLike | None = None,
    output_stride: int | None = None,
    **options,
) -> Segmenter:
    """Chooses between a run and an exported model, as the scripts' flags do.

    Args:
      workdir: of train.py; of several the probabilities are averaged.
      saved_model: folder, or .tflite, .onnx or .xml file, of export.py, instead.
      output_stride: 8, 16 or 32 instead of that of the run.
      **options: those of `Segmenter`.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: both or neither, an output stride for an exported model, or options
        that cannot be.
    """
    if bool(workdir) == bool(saved_model):
        raise ValueError("Give either --workdir or --saved_model, or --pretrained.")
    if workdir:
        workdirs = [workdir] if isinstance(workdir, (str, os.PathLike)) else workdir
        if len(workdirs) > 1:
            return Segmenter.from_workdirs(workdirs, output_stride, **options)
        return Segmenter.from_workdir(workdirs[0], output_stride, **options)
    if output_stride:
        raise ValueError(
            "--output_stride needs --workdir: an exported model keeps its own."
        )
    if is_runtime_file(saved_model):
        return Segmenter.from_runtime_file(saved_model, **options)
    return Segmenter.from_saved_model(saved_model, **options)


def _network_of_run(path, output_stride: int | None, precision: str) -> KerasNetwork:
    model, config = load_workdir(path, output_stride, precision)
    model = fold_batch_norm(inference_model(model))
    return KerasNetwork(model, Labels.from_config(config))


def _scaled_size(size: tf.Tensor, scale: float) -> tf.Tensor:
    scaled = tf.cast(tf.round(tf.cast(size, tf.float32) * scale), tf.int32)
    return tf.maximum(scaled, MIN_IMAGE_SIZE)


def _checked_window(window, overlap, crf) -> tuple[int | None, int | None]:
    if window is None:
        if overlap is not None:
            raise ValueError(f"overlap needs a window. Received: overlap={overlap}")
        return None, None
    overlap = window // 4 if overlap is None else overlap
    check_window(window, overlap)
    if window < MIN_IMAGE_SIZE:
        raise ValueError(
            f"window must be at least {MIN_IMAGE_SIZE} pixels. Received: {window}"
        )
    if crf is not None:
        raise ValueError(
            "The dense CRF joins all pixels of an image, so it cannot be used with "
            "windows. Leave out either."
        )
    return window, overlap


def _one_black(images) -> np.ndarray:
    """One image instead of none, on which some of TensorFlow's operations fail."""
    return np.zeros([1, *images.shape[1:]], np.uint8)


def _as_float(images) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(images), tf.float32)
