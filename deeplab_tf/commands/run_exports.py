"""Best weights of a run, exported: as a SavedModel, as a runtime's files, as all."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import numpy as np
from tensorflow import keras

from deeplab_tf.commands.run_images import NUM_IMAGES, int8_images, split_images
from deeplab_tf.config import TrainConfig, read_config
from deeplab_tf.exports.agreement import Agreement
from deeplab_tf.exports.calibration import describe_calibration
from deeplab_tf.exports.converters import CONVERTERS
from deeplab_tf.exports.runtime_files import check_converter, convert_model
from deeplab_tf.exports.saved_model import export_model
from deeplab_tf.exports.side_by_side import BASE
from deeplab_tf.exports.warmup import check_serving_api
from deeplab_tf.labels import Labels
from deeplab_tf.version import __version__
from deeplab_tf.workdir import load_workdir

# Of `export_all`: title -> options of `export_workdir`.
SAVED_MODELS = {
    BASE: {},
    f"{BASE}, constants": {"constants": True},
    "SavedModel bfloat16": {"precision": "bfloat16"},
    "SavedModel bfloat16, constants": {"precision": "bfloat16", "constants": True},
}
TITLES = {"tflite": "LiteRT", "onnx": "ONNX", "openvino": "OpenVINO"}


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
    run = _Run(workdir, output_stride, images)
    return run.to_saved_model(output_dir, version, precision, **options)


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
      format_: a key of `converters.CONVERTERS`: "tflite", "onnx" or "openvino".
      precision: a key of its bounds: "float32", "int8", and others.
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
    run = _Run(workdir, output_stride, images)
    return run.to_files(output_dir, format_, precision, input_size)


def export_all(
    workdir: str,
    output_dir: str,
    input_size: Sequence[int] | None = None,
    output_stride: int | None = None,
    images: Sequence[np.ndarray] | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Exports the best weights of a run in every format and precision.

    Args:
      workdir, input_size, output_stride, images: as of `convert_workdir`.
      output_dir: of the files; each SavedModel has a folder of its own in it.

    Returns:
      ({title: path}, {title: why there is none}).

    Raises:
      ImportError, OSError, ValueError, RuntimeError: not even a SavedModel in float32
        can be made, see `export_workdir`.
    """
    run = _Run(workdir, output_stride, images)
    calls = {}
    for title, options in SAVED_MODELS.items():
        folder = os.path.join(output_dir, title.replace(",", "").replace(" ", "_"))
        calls[title] = functools.partial(run.to_saved_model, folder, **options)
    for format_, converter in CONVERTERS.items():
        for precision in converter.bounds:
            calls[f"{TITLES[format_]} {precision}"] = functools.partial(
                run.to_files, output_dir, format_, precision, input_size
            )
    paths, refusals = {}, {}
    for title, call in calls.items():
        try:
            paths[title], _ = call()
        except (ImportError, RuntimeError, ValueError) as error:
            if title == BASE:
                raise
            refusals[title] = str(error)
    return paths, refusals


class _Run:
    """A run and the images for its exports; what several exports need is read once.

    Args:
      workdir, output_stride, images: as of `convert_workdir`.
    """

    def __init__(
        self,
        workdir: str,
        output_stride: int | None,
        images: Sequence[np.ndarray] | None,
    ):
        self._workdir, self._output_stride = workdir, output_stride
        self._images = images
        self._models = {}

    def to_saved_model(
        self, output_dir, version=None, precision="float32", **options
    ) -> tuple[str, Agreement]:
        """As `export_workdir`."""
        check_serving_api()
        model = self._model("float32")
        return export_model(
            model,
            self._labels,
            output_dir,
            version,
            optimized=None if precision == "float32" else self._model(precision),
            precision=precision,
            images=self._compared,
            about=self._about,
            **options,
        )

    def to_files(
        self, output_dir, format_, precision="float32", input_size=None
    ) -> tuple[str, Agreement]:
        """As `convert_workdir`."""
        check_converter(format_, precision)
        model = self._model("float32")
        name = f"{self._config.model}_{precision}{CONVERTERS[format_].ending}"
        path = os.path.join(output_dir, name)
        is_int8 = precision == "int8"
        calibration, images = self._for_int8 if is_int8 else ((), self._compared)
        agreement = convert_model(
            model,
            self._labels,
            path,
            precision,
            tuple(input_size) if input_size else None,
            calibration=calibration,
            images=images,
            about=self._about,
        )
        return path, agreement

    def _model(self, precision: str) -> keras.Model:
        if precision not in self._models:
            loaded = load_workdir(self._workdir, self._output_stride, precision)
            self._models[precision] = loaded[0]
        return self._models[precision]

    @functools.cached_property
    def _config(self) -> TrainConfig:
        return read_config(self._workdir)

    @property
    def _labels(self) -> Labels:
        return Labels.from_config(self._config)

    @property
    def _about(self) -> dict:
        return {
            "model": self._config.model,
            "backbone": self._config.backbone,
            "output_stride": self._output_stride or self._config.output_stride,
            "deeplab_tf": __version__,
        }

    @functools.cached_property
    def _compared(self) -> Sequence[np.ndarray]:
        if self._images is None:
            return split_images(self._config, self._config.eval_split)
        return self._images[:NUM_IMAGES]

    @functools.cached_property
    def _for_int8(self) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
        """Images to calibrate on and to compare on, of which it warns once."""
        calibration, compared = int8_images(self._config, self._images)
        warning = describe_calibration(calibration)
        if warning:
            print(warning)
        return calibration, compared[:NUM_IMAGES]
