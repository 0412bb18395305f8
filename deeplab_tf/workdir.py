"""The folder that a run leaves behind: what lies where in it, and its trained model.

    config.json     the run's `TrainConfig`, see `config.read_config`
    best.npz        weights of the highest validation mean IoU, see `weight_files`
    last.npz        weights after the last epoch
    records.json    how many images and pixels the records had that the run began with
    checkpoints/    states from which the run goes on, see `training.checkpoints`
    log.csv         a row for each epoch, see `training.log`
    logs/           the same and more for TensorBoard
    summary.txt     what log.csv says, for people
    curves.png      the same, drawn
    evaluation/     what evaluate.py found

This module needs no TensorFlow; `load_workdir` does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deeplab_tf.config import TrainConfig, read_config

if TYPE_CHECKING:
    from tensorflow import keras

BEST_WEIGHTS = "best.npz"
LAST_WEIGHTS = "last.npz"
RECORDS_FILE = "records.json"
CHECKPOINT_FOLDER = "checkpoints"
LOG_FILE = "log.csv"
TENSORBOARD_FOLDER = "logs"
SUMMARY_FILE = "summary.txt"
CURVES_FILE = "curves.png"
EVALUATION_FOLDER = "evaluation"


def load_workdir(
    path: str | os.PathLike,
    output_stride: int | None = None,
    precision: str = "float32",
) -> tuple[keras.Model, TrainConfig]:
    """Builds the model of a run and loads its best weights, or else its last.

    Args:
      path: workdir of train.py.
      output_stride: 8, 16 or 32 instead of the one it was trained with.
      precision: "float32", "bfloat16" or "float16", whatever it was trained with.

    Returns:
      (model, config). The model takes float32 RGB [B, height, width, 3] in 0..255 and
      returns logits float32 [B, height, width, num_classes].

    Raises:
      FileNotFoundError: no run there, or one without weights yet.
      ValueError: weights and configuration do not fit.
    """
    # Here, so that the names above can be had without TensorFlow.
    from deeplab_tf.networks.models import build_model
    from deeplab_tf.networks.precision import precision_policy
    from deeplab_tf.networks.weight_files import load_weights

    config = read_config(path)
    with precision_policy(precision):
        model = build_model(config, output_stride=output_stride)
    load_weights(model, workdir_weights(path))
    return model, config


def workdir_weights(path: str | os.PathLike) -> str:
    """Returns the path of the best weights of a run, or else of its last.

    Raises:
      FileNotFoundError: the folder holds neither.
    """
    for name in (BEST_WEIGHTS, LAST_WEIGHTS):
        if os.path.isfile(os.path.join(path, name)):
            return os.path.join(path, name)
    raise FileNotFoundError(
        f"{os.fspath(path)} holds no weights yet ({BEST_WEIGHTS} or {LAST_WEIGHTS}). "
        "They appear after the first epoch of train.py."
    )


def check_each_once(workdirs: Sequence[str], what: str) -> None:
    """Refuses a folder that is given twice, under whatever path.

    Args:
      workdirs: paths.
      what: they are folders of, for the error.

    Raises:
      ValueError: as above.
    """
    places = list(map(os.path.realpath, workdirs))
    for index, place in enumerate(places):
        if place in places[:index]:
            raise ValueError(
                f"Expected each folder of {what} once. Received twice: "
                f"{workdirs[index]}"
            )
