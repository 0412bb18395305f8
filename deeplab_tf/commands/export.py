"""Exports a trained model for TF Serving, LiteRT, ONNX Runtime or OpenVINO.

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

--format=tflite, onnx and openvino write <output_dir>/<model>_<precision>.tflite, .onnx
or .xml with .bin, and labels, instead, compared in the same way: docs/runtimes.md.
--format=all writes all of them, runs them side by side, and says which to take.
"""

from __future__ import annotations

import sys

import numpy as np
from absl import flags, logging

from deeplab_tf.command_names import as_typed, name_of, refuse_arguments, run_with_flags
from deeplab_tf.commands.device_flags import begin_on_devices, define_device_flags
from deeplab_tf.commands.run_exports import convert_workdir, export_all, export_workdir
from deeplab_tf.commands.run_images import labelled_images, read_images
from deeplab_tf.commands.segmenter_flags import (
    define_pretrained_flag,
    parse_scales,
    pixels_of,
    workdir_of,
)
from deeplab_tf.commands.sizes import parse_size
from deeplab_tf.commands.steady_output import steady_output
from deeplab_tf.config import read_config
from deeplab_tf.devices.memory import OutOfMemory, out_of_memory_named
from deeplab_tf.exports.agreement import Agreement, example_images
from deeplab_tf.exports.converters import CONVERTERS
from deeplab_tf.exports.side_by_side import advice, as_table, measure_all
from deeplab_tf.exports.signatures import MAX_PIXELS
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.strangers_words import printable

FLAGS = flags.FLAGS
FORMATS = ("saved_model", *CONVERTERS, "all")
MEASURED_IMAGES = 100
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
        "Numeric precision: or bfloat16, float16, dynamic, int8, as the format has it.",
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
    logging.set_verbosity(logging.ERROR)  # below it TensorFlow tells its own affairs
    try:
        begin_on_devices(FLAGS)
        with out_of_memory_named(lambda: OUT_OF_MEMORY_ADVICE):
            if FLAGS.format == "all":
                export_and_measure(FLAGS)
                return
            path, agreement = export_as(FLAGS)
    except (OSError, ValueError, RuntimeError, ImportError, OutOfMemory) as error:
        sys.exit(f"{name_of('export')}: {as_typed(printable(str(error)))}")
    print(f"Reloaded and {agreement}")
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
    _refuse_servings_flags(values)
    return convert_workdir(
        *(_workdir_of(values), values.output_dir, values.format, values.precision),
        *(_size_of(values), values.output_stride, images_of(values)),
    )


def export_and_measure(values: flags.FlagValues) -> None:
    """Exports in every format, and prints what each is worth on this machine.

    Args:
      values: of `define_flags`, --format=all.

    Raises:
      OSError, ValueError, RuntimeError: as of `export_as`.
    """
    _refuse_servings_flags(values)
    if values.precision != "float32":
        raise ValueError("--format=all has every precision: leave --precision out.")
    workdir, stride = _workdir_of(values), values.output_stride
    images = images_of(values)
    paths, refusals = export_all(
        workdir, values.output_dir, _size_of(values), stride, images
    )
    try:
        if images is None:
            examples = labelled_images(read_config(workdir), MEASURED_IMAGES)
        else:
            examples = [(image, None) for image in images]
    except FileNotFoundError:
        examples = [(image, None) for image in example_images()]
    segmenter = Segmenter.from_workdir(workdir, output_stride=stride)
    measured = measure_all(paths, examples, segmenter.predict, segmenter.labels)
    print(f"{len(examples)} images, one at a time:\n\n{as_table(measured)}\n")
    for title, reason in refusals.items():
        print(f"No {title}: {reason}")
    print(advice(measured))


def _refuse_servings_flags(values: flags.FlagValues) -> None:
    given = values.version or values.flip or values.constants or values.scales != ["1"]
    if given or pixels_of(values.max_megapixels) != MAX_PIXELS:
        raise ValueError(
            "--version, --scales, --flip, --constants and --max_megapixels are TF "
            f"Serving's. Leave them out of --format={values.format}."
        )


def _size_of(values: flags.FlagValues) -> tuple[int, int] | None:
    return parse_size("--input_size", values.input_size) if values.input_size else None


def _workdir_of(values: flags.FlagValues) -> str:
    workdir = workdir_of(values)
    if not workdir:
        raise ValueError("Give --workdir, a run's folder, or --pretrained.")
    return workdir


def images_of(values: flags.FlagValues) -> list[np.ndarray] | None:
    """Reads --images; None where there is none."""
    return read_images(values.images) if values.images else None


def run() -> None:
    """Runs the command with the flags of the command line."""
    with steady_output():
        run_with_flags(define_flags, main)
