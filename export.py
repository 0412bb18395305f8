"""Exports a trained model for TF Serving.

    python export.py --workdir=runs/demo --output_dir=runs/demo/exported
    python export.py --workdir=runs/demo --output_dir=exported --precision=bfloat16
    tensorflow_model_server --rest_api_port=8501 --model_name=deeplab \\
        --model_base_path=$PWD/runs/demo/exported

Writes <output_dir>/<version>/, a SavedModel whose signatures deeplab_tf/serving.py
describes: BatchNorm folded into the convolutions, in float32 unless --precision says
otherwise, whatever the precision of training. Before it gets its name it is reloaded
and compared with the Keras model on images of the run's evaluation split (of --images;
drawn ones where neither is there). docs/serving.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from absl import app, flags, logging

from datasets.pipeline import make_eval_dataset
from deeplab_tf.config import TrainConfig
from deeplab_tf.exporting import BOUNDS, Agreement, export_model
from deeplab_tf.images import read_image
from deeplab_tf.input_files import find_inputs, is_video
from deeplab_tf.labels import Labels
from deeplab_tf.models import MIN_IMAGE_SIZE
from deeplab_tf.serving import MAX_PIXELS
from deeplab_tf.version import __version__
from deeplab_tf.workdir import load_workdir

FLAGS = flags.FLAGS
NUM_IMAGES = 4  # to compare on


def define_flags():
    """Called by the script alone, so that tests can import several scripts."""
    flags.DEFINE_string("workdir", None, "Folder of a run of train.py.", required=True)
    flags.DEFINE_string(
        "output_dir", None, "Folder of the model's versions.", required=True
    )
    flags.DEFINE_integer("version", None, "Positive integer [highest there + 1].")
    flags.DEFINE_integer("output_stride", None, "8, 16 or 32 [the run's].")
    flags.DEFINE_enum("precision", "float32", list(BOUNDS), "Of the convolutions.")
    flags.DEFINE_bool("constants", False, "Weights inside the graph: see the docs.")
    flags.DEFINE_list("scales", ["1"], "Image scales that the server averages over.")
    flags.DEFINE_bool("flip", False, "The server averages with the mirrored image.")
    flags.DEFINE_float(
        "max_megapixels", MAX_PIXELS / 1e6, "The server refuses larger images.", 0
    )
    flags.DEFINE_string("images", None, "Images to compare on [the run's split].")


def export_workdir(
    workdir: str,
    output_dir: str,
    version: int | None = None,
    output_stride: int | None = None,
    precision: str = "float32",
    images: Sequence[np.ndarray] | None = None,
    **options,
) -> tuple[str, Agreement]:
    """Exports the best weights of a run; see `exporting.export_model`.

    Args:
      workdir: of train.py.
      output_dir: the model's folder for TF Serving.
      version: positive integer; None is one more than the highest there.
      output_stride: 8, 16 or 32 instead of the run's.
      precision: "float32", "bfloat16" or "float16".
      images: to compare on; None takes some of the run's evaluation split.
      **options: scales, flip, constants and max_pixels of `exporting.export_model`.

    Returns:
      (path of the version's folder, what the comparison found).
    """
    model, config = load_workdir(workdir, output_stride)
    optimized = None
    if precision != "float32":
        optimized = load_workdir(workdir, output_stride, precision)[0]
    return export_model(
        model,
        Labels.from_config(config),
        output_dir,
        version,
        optimized=optimized,
        precision=precision,
        images=split_images(config) if images is None else images,
        about={
            "model": config.model,
            "backbone": config.backbone,
            "output_stride": output_stride or config.output_stride,
            "deeplab_tf": __version__,
        },
        **options,
    )


def split_images(config: TrainConfig) -> list[np.ndarray]:
    """First images of a run's evaluation split; none where its records are not here."""
    try:
        dataset = make_eval_dataset(config.data_dir, config.eval_split)
        return [image[0] for image, _ in dataset.take(NUM_IMAGES).as_numpy_iterator()]
    except FileNotFoundError:
        return []


def read_images(pattern: str) -> list[np.ndarray]:
    """First images that a file, folder or pattern stands for, RGB uint8 [h, w, 3].

    Raises:
      OSError: there are none, or one cannot be read.
      ValueError: one cannot be used.
    """
    paths = [path for path in find_inputs(pattern) if not is_video(path)]
    return [read_image(path, MIN_IMAGE_SIZE) for path in paths[:NUM_IMAGES]]


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)  # at INFO TensorFlow tells every file
    try:
        path, agreement = export_workdir(
            FLAGS.workdir,
            FLAGS.output_dir,
            FLAGS.version,
            FLAGS.output_stride,
            FLAGS.precision,
            read_images(FLAGS.images) if FLAGS.images else None,
            scales=[float(scale) for scale in FLAGS.scales],
            flip=FLAGS.flip,
            constants=FLAGS.constants,
            max_pixels=int(FLAGS.max_megapixels * 1e6),
        )
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"export.py: {error}")
    print(
        f"Reloaded and compared with the Keras model on {agreement.images} images: "
        f"{agreement.classes:.3%} of the pixels have the same class, logits differ by "
        f"at most {agreement.logits:.1g} of the largest."
    )
    print(f"Exported: {path}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
