"""What a command line says of places in, where an evaluation reads and writes out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from deeplab_tf.config import TrainConfig, read_config
from deeplab_tf.datasets.build_tfds import resolve_data_dir
from deeplab_tf.inference.runtimes import is_runtime_file
from deeplab_tf.inference.saved_models import find_version
from deeplab_tf.workdir import EVALUATION_FOLDER, workdir_weights

ENSEMBLE_FOLDER = "ensemble"  # in the first run's evaluation


@dataclasses.dataclass(frozen=True)
class Places:
    """Where an evaluation reads and writes.

    Attributes:
      data_dir, split: of the records.
      output: folder to write to.
      weights: path of the run's weights, or of the exported model's version; of several
        runs a list of them.
      output_stride: of the run, of several a list where they differ; None for an
        exported model, which does not tell.
    """

    data_dir: str
    split: str
    output: str
    weights: str | list[str]
    output_stride: int | list[int] | None


def find_places(
    workdirs: Sequence[str] | None,
    saved_model: str | None,
    data_dir: str | None,
    split: str | None,
    output: str | None,
    is_run: bool = True,
) -> Places:
    """Completes what the command line says by what the run says.

    Args:
      workdirs: of runs, whose probabilities are averaged.
      is_run: whether a workdir is a run's, with data of its own, rather than one of
        a published network.

    Raises:
      FileNotFoundError: no run there, or one without weights, or no exported model.
      ValueError: arguments that contradict each other, or too few.
    """
    if bool(workdirs) == bool(saved_model):
        raise ValueError("Give either --workdir or --saved_model, or --pretrained.")
    data_dir = resolve_data_dir(data_dir) if data_dir else None
    if not (is_run or (data_dir and output)):
        raise ValueError(
            "--pretrained needs --data_dir, the folder of the records, and --output, "
            "the folder to write to."
        )
    if workdirs:
        return _places_of_runs(workdirs, data_dir, split, output)
    if not data_dir or not output:
        raise ValueError(
            "--saved_model needs --data_dir, the folder of the records, and --output, "
            "the folder to write to."
        )
    path = saved_model if is_runtime_file(saved_model) else find_version(saved_model)
    return Places(data_dir, split or "val", output, path, None)


def _places_of_runs(
    workdirs: Sequence[str],
    data_dir: str | None,
    split: str | None,
    output: str | None,
) -> Places:
    configs = [read_config(workdir) for workdir in workdirs]
    folder = os.path.join(workdirs[0], EVALUATION_FOLDER)
    weights = [workdir_weights(workdir) for workdir in workdirs]
    strides = [config.output_stride for config in configs]
    if len(workdirs) > 1:
        # Not beside the first run's own scores, which are of the same name.
        folder = os.path.join(folder, ENSEMBLE_FOLDER)
    return Places(
        data_dir or _shared("data_dir", workdirs, configs),
        split or _shared("eval_split", workdirs, configs),
        output or folder,
        weights if len(weights) > 1 else weights[0],
        strides if len(set(strides)) > 1 else strides[0],
    )


def _shared(field: str, workdirs: Sequence[str], configs: Sequence[TrainConfig]) -> str:
    """The data or the split of several runs, which must be the same.

    Raises:
      ValueError: they are not.
    """
    values = [getattr(config, field) for config in configs]
    for workdir, value in zip(workdirs, values):
        if value != values[0]:
            flag = {"data_dir": "--data_dir", "eval_split": "--split"}[field]
            raise ValueError(
                f"The workdirs' {field} differ: {values[0]!r} of {workdirs[0]}, "
                f"{value!r} of {workdir}. Give {flag}."
            )
    return values[0]
