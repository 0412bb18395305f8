"""Exports a trained model for TF Serving, LiteRT or ONNX Runtime.

    python export.py --workdir=runs/demo --output_dir=runs/demo/exported
    python export.py --workdir=runs/demo --output_dir=exported --precision=bfloat16
    python export.py --workdir=runs/demo --output_dir=exported --format=tflite \\
        --precision=int8 --input_size=129,129
    python export.py --pretrained=xception65_cityscapes --output_dir=exported
    tensorflow_model_server --rest_api_port=8501 --model_name=deeplab \\
        --model_base_path=$PWD/runs/demo/exported

Writes <output_dir>/<version>/, a SavedModel whose signatures docs/serving.md
describes: BatchNorm folded into the convolutions, in float32 unless --precision says
otherwise, whatever the precision of training. Before it gets its name it is reloaded
and compared with the Keras model on images of the run's evaluation split (of --images;
drawn ones where neither is there). docs/serving.md.

--format=tflite and onnx write <output_dir>/<model>_<precision>.tflite or .onnx and its
labels instead, compared in the same way: docs/runtimes.md.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags, logging

from deeplab_tf.command_names import as_typed, name_of, refuse_arguments, run_with_flags
from deeplab_tf.commands.device_flags import begin_on_devices, define_device_flags
from deeplab_tf.commands.run_config import parse_size
from deeplab_tf.commands.segmenter_flags import (
    define_pretrained_flag,
    parse_scales,
    pixels_of,
    workdir_of,
)
from deeplab_tf.commands.steady_output import steady_output
from deeplab_tf.config import TrainConfig
from deeplab_tf.data.reading.pipeline import make_eval_dataset
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.devices.memory import OutOfMemory, out_of_memory_named
from deeplab_tf.exports.calibration import describe_calibration, hold_out, others
from deeplab_tf.exports.runtime_files import (
    CALIBRATION_IMAGES,
    check_converter,
    convert_model,
)
from deeplab_tf.exports.saved_model import Agreement, example_images, export_model
from deeplab_tf.exports.signatures import MAX_PIXELS
from deeplab_tf.exports.warmup import check_serving_api
from deeplab_tf.labels import Labels
from deeplab_tf.networks.models import MIN_IMAGE_SIZE
from deeplab_tf.pictures.images import read_image
from deeplab_tf.prediction.input_files import find_inputs, is_video
from deeplab_tf.strangers_words import printable
from deeplab_tf.version import __version__
from deeplab_tf.workdir import load_workdir

FLAGS = flags.FLAGS
FORMATS = ("saved_model", "tflite", "onnx")
NUM_IMAGES = 4  # to compare on
OUT_OF_MEMORY_ADVICE = (
    "An export is compared on images of the run's split: give smaller ones by "
    "--images, or hide a busy GPU by CUDA_VISIBLE_DEVICES=-1."
)


def define_flags() -> None:
    define_device_flags()
    flags.DEFINE_string("workdir", None, "Folder of a run of train.py.")
    define_pretrained_flag()
    flags.DEFINE_string(
        "output_dir", None, "Folder of the model's versions.", required=True
    )
    flags.DEFINE_integer(
        "version", None, "Number of the version [one more than the highest there]."
    )
    flags.DEFINE_integer(
        "output_stride", None, "Output stride: 8, 16 or 32 [the run's]."
    )
    flags.DEFINE_enum("format", "saved_model", FORMATS, "Format of what is written.")
    flags.DEFINE_string(
        "precision",
        "float32",
        "Numeric precision: or bfloat16, float16; of .tflite float16, dynamic, int8.",
    )
    flags.DEFINE_list(
        "input_size", None, "Size of a file's images: SIZE or HEIGHT,WIDTH [any]."
    )
    flags.DEFINE_bool("constants", False, "Weights inside the graph: docs/serving.md.")
    flags.DEFINE_list("scales", ["1"], "Image scales that the server averages over.")
    flags.DEFINE_bool("flip", False, "The server averages with the mirrored image.")
    flags.DEFINE_float(
        "max_megapixels", MAX_PIXELS / 1e6, "The server refuses larger images.", 0
    )
    flags.DEFINE_string("images", None, "Images to compare on [the run's split].")


def main(argv: list[str]) -> None:
    """Exports as FLAGS say.

    Raises:
      app.UsageError: there are arguments that are no flags.
      SystemExit: with one sentence on what a user can mend.
    """
    refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)  # at INFO TensorFlow tells every file
    try:
        begin_on_devices(FLAGS)
        with out_of_memory_named(lambda: OUT_OF_MEMORY_ADVICE):
            path, agreement = export_as(FLAGS)
    except (OSError, ValueError, RuntimeError, ImportError, OutOfMemory) as error:
        sys.exit(f"{name_of('export')}: {as_typed(printable(str(error)))}")
    print(
        f"Reloaded and compared with the Keras model on {agreement.images} images: "
        f"{agreement.classes:.3%} of the pixels have the same class, logits differ by "
        f"at most {agreement.logits:.1g} of the largest."
    )
    print(f"Exported: {path}")


def export_as(values: flags.FlagValues) -> tuple[str, Agreement]:
    """Exports as flags say.

    Args:
      values: of `define_flags`.

    Returns:
      (path of what was written, what the comparison found).

    Raises:
      ImportError: a package is not installed.
      OSError: there is no run, no image or no room.
      RuntimeError: it cannot be converted, or answers differently.
      ValueError: flags that contradict each other.
    """
    if values.format == "saved_model":
        if values.input_size:
            raise ValueError("--input_size needs --format: TF Serving takes any size.")
        return export_workdir(
            *(_workdir_of(values), values.output_dir, values.version),
            *(values.output_stride, values.precision, images_of(values)),
            scales=parse_scales(values.scales),
            flip=values.flip,
            constants=values.constants,
            max_pixels=pixels_of(values.max_megapixels),
        )
    if values.version or values.flip or values.constants or values.scales != ["1"]:
        raise ValueError(
            "--version, --scales, --flip and --constants are TF Serving's. Leave them "
            f"out of --format={values.format}."
        )
    size = parse_size("--input_size", values.input_size) if values.input_size else None
    return convert_workdir(
        *(_workdir_of(values), values.output_dir, values.format, values.precision),
        *(size, values.output_stride, images_of(values)),
    )


def _workdir_of(values: flags.FlagValues) -> str:
    workdir = workdir_of(values)
    if not workdir:
        raise ValueError("Give --workdir, a run's folder, or --pretrained.")
    return workdir


def images_of(values: flags.FlagValues) -> list[np.ndarray] | None:
    """Reads --images; None where there is none."""
    return read_images(values.images) if values.images else None


def export_workdir(
    workdir: str,
    output_dir: str,
    version: int | None = None,
    output_stride: int | None = None,
    precision: str = "float32",
    images: Sequence[np.ndarray] | None = None,
    **options,
) -> tuple[str, Agreement]:
    """Exports the best weights of a run; see `saved_model.export_model`.

    Args:
      workdir: of train.py.
      output_dir: the model's folder for TF Serving.
      version: positive integer; None is one more than the highest there.
      output_stride: 8, 16 or 32 instead of the run's.
      precision: "float32", "bfloat16" or "float16".
      images: to compare on; None takes some of the run's evaluation split.
      **options: scales, flip, constants and max_pixels of `saved_model.export_model`.

    Returns:
      (path of the version's folder, what the comparison found).

    Raises:
      ImportError: tensorflow-serving-api is not installed.
      OSError, ValueError, RuntimeError: see `load_workdir` and `export_model`.
    """
    check_serving_api()
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
        images=(
            split_images(config, config.eval_split)
            if images is None
            else images[:NUM_IMAGES]
        ),
        about=_about(config, output_stride),
        **options,
    )


def convert_workdir(
    workdir: str,
    output_dir: str,
    format_: str,
    precision: str = "float32",
    input_size: Sequence[int] | None = None,
    output_stride: int | None = None,
    images: Sequence[np.ndarray] | None = None,
) -> tuple[str, Agreement]:
    """Converts the best weights of a run; see `runtime_files.convert_model`.

    Args:
      workdir: of train.py.
      output_dir: folder of the file; made where needed.
      format_: "tflite" or "onnx".
      precision: "float32"; for "tflite" also "float16", "dynamic" and "int8".
      input_size: (height, width) of the file's images; None is any.
      output_stride: 8, 16 or 32 instead of the run's.
      images: to compare on and, for "int8", to calibrate on, each of them for one of
        the two; None takes some of the run's evaluation split, and its first training
        images to calibrate.

    Returns:
      (path of the file, what the comparison found).

    Raises:
      ImportError: a package that the format needs is not installed.
      OSError, ValueError, RuntimeError: see `load_workdir` and `convert_model`.
    """
    check_converter(format_, precision)
    model, config = load_workdir(workdir, output_stride)
    path = os.path.join(output_dir, f"{config.model}_{precision}.{format_}")
    calibration = ()
    if precision == "int8":
        calibration, images = int8_images(config, images)
        warning = describe_calibration(calibration)
        if warning:
            print(warning)
    elif images is None:
        images = split_images(config, config.eval_split)
    agreement = convert_model(
        model,
        Labels.from_config(config),
        path,
        precision,
        tuple(input_size) if input_size else None,
        calibration=calibration,
        images=images[:NUM_IMAGES],
        about=_about(config, output_stride),
    )
    return path, agreement


def int8_images(
    config: TrainConfig, images: Sequence[np.ndarray] | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Chooses images to calibrate on, and others to compare on.

    Args:
      config: of the run.
      images: the user's, or None.

    Returns:
      (calibration, comparison); where nothing is left to compare on, the images of the
      run's evaluation split, and drawn ones where its records are not here.
    """
    if images is None:
        calibration = split_images(config, config.train_split, CALIBRATION_IMAGES)
        compared = []
        if config.train_split == config.eval_split:
            calibration, compared = hold_out(calibration, NUM_IMAGES)
    else:
        calibration, compared = hold_out(images, NUM_IMAGES)
    for other in (
        functools.partial(split_images, config, config.eval_split),
        example_images,
    ):
        compared = compared or others(other(), calibration)
    return calibration, compared


def _about(config: TrainConfig, output_stride: int | None) -> dict:
    return {
        "model": config.model,
        "backbone": config.backbone,
        "output_stride": output_stride or config.output_stride,
        "deeplab_tf": __version__,
    }


def split_images(
    config: TrainConfig, split: str, count: int = NUM_IMAGES
) -> list[np.ndarray]:
    """First images of a split of a run; none where its records are not here."""
    try:
        dataset = make_eval_dataset(select_records(config.data_dir, split))
        return [image[0] for image, _ in dataset.take(count).as_numpy_iterator()]
    except FileNotFoundError:
        return []


def read_images(pattern: str, count: int = CALIBRATION_IMAGES) -> list[np.ndarray]:
    """First images that a file, folder or pattern stands for, RGB uint8 [h, w, 3].

    Raises:
      OSError: there are none, or one cannot be read.
      ValueError: one cannot be used.
    """
    paths = [path for path in find_inputs(pattern) if not is_video(path)]
    return [read_image(path, MIN_IMAGE_SIZE) for path in paths[:count]]


def run() -> None:
    """Runs the command with the flags of the command line."""
    with steady_output():
        run_with_flags(define_flags, main)
