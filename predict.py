"""Segments images with a trained or an exported model.

    python predict.py --workdir=runs/demo --input=photos --output=predictions
    python predict.py --saved_model=exported/1 --input='photos/*.jpg' --output=out
    python predict.py --workdir=runs/voc --input=cat.jpg --output=out \\
        --output_stride=8 --flip --scales=0.5,0.75,1,1.25,1.5,1.75 --crf

For every image, at its own size:
    <output>/classes/NAME.png   class ids; the palette shows them in colour
    <output>/overlay/NAME.png   the colours over the image, and a legend under it
Images that cannot be used are named at the end, and the exit code is 1 then.
"""

from __future__ import annotations

import collections
import dataclasses
import glob
import os
import sys
from collections.abc import Callable, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from absl import app, flags
from tqdm import tqdm

from deeplab_tf import visualize
from deeplab_tf.crf import CRFParameters, dense_crf, parse_crf
from deeplab_tf.images import decode_image
from deeplab_tf.inference import Segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.models import MIN_IMAGE_SIZE
from deeplab_tf.saved_models import find_version, load_saved_model, read_labels
from deeplab_tf.workdir import load_workdir

FLAGS = flags.FLAGS
EXTENSIONS = (".jpg", ".jpeg", ".png")


def define_flags():
    """Called by the script alone, so that tests can import several scripts."""
    flags.DEFINE_string("workdir", None, "Folder of a run of train.py.")
    flags.DEFINE_string("saved_model", None, "Folder written by export.py, instead.")
    flags.DEFINE_string("input", None, "Image, folder or pattern.", required=True)
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)
    flags.DEFINE_integer("output_stride", None, "8, 16 or 32 [the run's].")
    flags.DEFINE_list("scales", ["1"], "Image scales to average over.")
    flags.DEFINE_bool("flip", False, "Average with the mirrored image.")
    flags.DEFINE_bool("crf", False, "Sharpen with the dense CRF of DeepLabV1 and V2.")
    flags.DEFINE_list("crf_parameters", None, "Its w1,sigma_alpha,sigma_beta [4,67,3].")
    flags.DEFINE_float("alpha", 0.5, "Opacity of the colours in overlays.", 0, 1)


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model and what its classes mean.

    Attributes:
      predict: JPEG or PNG bytes -> classes uint8 [height, width].
      labels: names and colours of the classes.
    """

    predict: Callable[[bytes], np.ndarray]
    labels: Labels


def workdir_predictor(
    workdir: str,
    output_stride: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: CRFParameters | None = None,
) -> Predictor:
    """Predicts with the best weights of a run; see `Segmenter`."""
    model, config = load_workdir(workdir, output_stride)
    segmenter = Segmenter(model, scales, flip)
    labels = Labels.from_config(config)
    if crf:
        return crf_predictor(segmenter.probabilities, labels, crf)
    return Predictor(
        lambda image_bytes: segmenter.predict(decode_image(image_bytes)), labels
    )


def saved_model_predictor(path: str, crf: CRFParameters | None = None) -> Predictor:
    """Predicts with `serving_default` of an exported model, or of its last version.

    The CRF needs probabilities: with it, `serve_probabilities` is asked.
    """
    path = find_version(path)
    labels = read_labels(path)
    loaded = load_saved_model(path)

    def probabilities(images):
        answer = loaded.signatures["serve_probabilities"](images=tf.constant(images))
        return answer["probabilities"].numpy()

    def predict(image_bytes):
        image_bytes = tf.constant([image_bytes])
        answer = loaded.signatures["serving_default"](image_bytes=image_bytes)
        return tf.io.decode_png(answer["classes_png"][0], channels=1).numpy()[..., 0]

    if crf:
        return crf_predictor(probabilities, labels, crf)
    return Predictor(predict, labels)


def crf_predictor(
    probabilities: Callable[[np.ndarray], np.ndarray],
    labels: Labels,
    crf: CRFParameters,
) -> Predictor:
    """Predicts with the dense CRF on top.

    Args:
      probabilities: uint8 [B, height, width, 3] -> float32 [B, height, width, classes].
      labels: names and colours of the classes.
      crf: parameters of the CRF.
    """

    def predict(image_bytes):
        image = decode_image(image_bytes).numpy()
        marginals = dense_crf(image, probabilities(image[None])[0], crf)
        return np.argmax(marginals, -1).astype(np.uint8)

    return Predictor(predict, labels)


def find_images(pattern: str) -> list[str]:
    """Returns the images a file name, a folder or a glob pattern stands for, sorted.

    Raises:
      FileNotFoundError: there are none.
    """
    paths = [pattern]
    if os.path.isdir(pattern):
        paths = [
            os.path.join(pattern, name)
            for name in os.listdir(pattern)
            if name.lower().endswith(EXTENSIONS)
        ]
    elif not os.path.exists(pattern):
        paths = filter(os.path.isfile, glob.glob(pattern, recursive=True))
    paths = sorted(paths)
    if not paths:
        raise FileNotFoundError(
            f"No images at {pattern}. Expected a JPEG or PNG file, a folder of them, "
            "or a pattern such as 'photos/*.jpg'."
        )
    return paths


def output_names(paths: Sequence[str]) -> list[str]:
    """Names the outputs: paths below the common folder, without their extension.

    Where that would give two images one name, they keep their extension: a.jpg and
    a.png become a.jpg.png and a.png.png.
    """
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
    names = [os.path.relpath(path, folder) for path in paths]
    stems = [os.path.splitext(name)[0] for name in names]
    # Without regard to case, as on the file systems of macOS and Windows.
    uses = collections.Counter(stem.lower() for stem in stems)
    uses.update(name.lower() for name in names)
    return [
        f"{stem if uses[stem.lower()] == 1 else name}.png"
        for stem, name in zip(stems, names)
    ]


def predict_file(predictor: Predictor, path: str, outputs, alpha: float) -> None:
    """Segments one image and writes the class map and the overlay.

    Args:
      predictor: the model.
      path: the image.
      outputs: paths of the class map and of the overlay; folders are made.
      alpha: opacity of the overlay.

    Raises:
      OSError: a file that cannot be read or written.
      ValueError: not an image, or one that is too small.
    """
    with open(path, "rb") as file:
        image_bytes = file.read()
    image = read_image(image_bytes)
    classes, labels = predictor.predict(image_bytes), predictor.labels
    for output in outputs:
        os.makedirs(os.path.dirname(output), exist_ok=True)
    visualize.save_palette_png(
        outputs[0], classes, labels.colormap, labels.ignore_label
    )
    picture = visualize.overlay_with_legend(
        image, classes, labels.colormap, labels.class_names, alpha, labels.ignore_label
    )
    visualize.save_png(outputs[1], picture)


def read_image(image_bytes: bytes) -> np.ndarray:
    """Decodes and checks an image, uint8 [height, width, 3].

    Raises:
      ValueError: not an image, or one that is too small.
    """
    try:
        image = decode_image(image_bytes).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError("not a JPEG or PNG image, or a damaged one") from error
    if min(image.shape[:2]) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"images must be at least {MIN_IMAGE_SIZE} pixels a side, this is "
            f"{image.shape[0]}x{image.shape[1]} (height x width)"
        )
    return image


def predict_files(
    predictor: Predictor, paths: Sequence[str], output_dir: str, alpha: float = 0.5
) -> list[str]:
    """Segments images into `<output_dir>/classes` and `<output_dir>/overlay`.

    Returns:
      One sentence for each image that could not be used; the others are done.

    Raises:
      ValueError: an output would overwrite an input.
    """
    names = output_names(paths)
    outputs = [
        [os.path.join(output_dir, kind, name) for kind in ("classes", "overlay")]
        for name in names
    ]
    _check_inputs_stay(paths, outputs)
    failures = []
    for path, pair in zip(tqdm(paths, unit="image", disable=None), outputs):
        try:
            predict_file(predictor, path, pair, alpha)
        except (tf.errors.ResourceExhaustedError, MemoryError):
            failures.append(f"{path}: too large for this machine's memory.")
        except (OSError, ValueError) as error:
            failures.append(f"{path}: {error}.")
    return failures


def _check_inputs_stay(paths, outputs) -> None:
    inputs = {os.path.realpath(path) for path in paths}
    for output in (path for pair in outputs for path in pair):
        if os.path.realpath(output) in inputs:
            raise ValueError(
                f"{output} would be overwritten, and it is an input. Give another "
                "--output."
            )


def make_predictor(
    workdir: str | None,
    saved_model: str | None,
    output_stride: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: CRFParameters | None = None,
) -> Predictor:
    """Chooses between a run and an exported model.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: arguments that contradict each other.
    """
    if bool(workdir) == bool(saved_model):
        raise ValueError("Give either --workdir or --saved_model.")
    if workdir:
        return workdir_predictor(workdir, output_stride, scales, flip, crf)
    if output_stride or flip or tuple(scales) != (1.0,):
        raise ValueError(
            "--output_stride, --scales and --flip need --workdir: an exported model "
            "is fixed."
        )
    return saved_model_predictor(saved_model, crf)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(
            f"Unexpected arguments: {' '.join(argv[1:])}. Is --input='*.jpg' quoted?"
        )
    try:
        paths = find_images(FLAGS.input)
        predictor = make_predictor(
            FLAGS.workdir,
            FLAGS.saved_model,
            FLAGS.output_stride,
            [float(scale) for scale in FLAGS.scales],
            FLAGS.flip,
            parse_crf(FLAGS.crf, FLAGS.crf_parameters),
        )
        failures = predict_files(predictor, paths, FLAGS.output, FLAGS.alpha)
    except (OSError, ValueError) as error:
        sys.exit(f"predict.py: {error}")
    print(f"{len(paths) - len(failures)} of {len(paths)} images: {FLAGS.output}")
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    define_flags()
    app.run(main)
