r"""Averages the weights of runs, and estimates BatchNorm of the result anew.

The last weights of one run and those of its continuation, or of runs that went out from
the same trained weights, average to a network that may be better than each ("SWA",
1803.05407; "model soups", 2203.05482). Runs from different first weights do not.

    python -m deeplab_tf.average runs/a runs/b --output_dir=runs/mean
    python -m deeplab_tf.average runs/a --output_dir=runs/precise --batches=200

Of each run the best weights are taken, or else the last; they must be of one network
with the same classes, whose order is mended by their names. BatchNorm's statistics are
those of the averaged weights on batches of the first run's training split, augmented as
its training was ("precise BatchNorm", 2105.07576); frozen BatchNorm is averaged alone.
The result is a workdir like any other: evaluate, predict, export and --init take it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence

import numpy as np

from deeplab_tf.command_names import as_typed, call_of, name_of
from deeplab_tf.config import (
    NETWORK_FIELDS,
    TrainConfig,
    config_path,
    read_config,
    write_config,
)
from deeplab_tf.files import InUse, sole_writer_in
from deeplab_tf.strangers_words import printable
from deeplab_tf.workdir import BEST_WEIGHTS, check_each_once, workdir_weights

Arrays = dict[str, np.ndarray]


def average(
    workdirs: Sequence[str],
    output_dir: str,
    num_batches: int = 100,
    data_dir: str = "",
) -> TrainConfig:
    """Writes a workdir of averaged weights.

    Args:
      workdirs: one or more runs; the first one's config.json goes with the result.
      output_dir: new workdir.
      num_batches: training batches to estimate BatchNorm from; 0 averages the
        statistics as the weights.
      data_dir: records instead of the first run's.

    Returns:
      The configuration of the result.

    Raises:
      FileNotFoundError: no run, weights or records there.
      InUse: another process writes there.
      ValueError: `output_dir` holds a run, the runs do not fit together, or a file is
        damaged.
    """
    from deeplab_tf.training.resuming import has_begun

    if os.path.exists(config_path(output_dir)) or has_begun(output_dir):
        raise ValueError(f"{output_dir} holds a run already: give another --output_dir")
    check_each_once(workdirs, "a mean")
    config = read_config(workdirs[0])
    if data_dir:
        config = dataclasses.replace(config, data_dir=data_dir)
    arrays = mean_weights(workdirs)
    with sole_writer_in(output_dir, "train", place=output_dir):
        _write_weights(config, arrays, output_dir, num_batches)
        write_config(config, output_dir)
    return config


def mean_weights(workdirs: Sequence[str]) -> Arrays:
    """The mean of the weights of runs, in the order of the first one's classes.

    Raises:
      FileNotFoundError: no run or no weights there.
      ValueError: they are not of one network, or do not know the same classes.
    """
    first = read_config(workdirs[0])
    total = _in_order_of(first, workdirs[0], workdirs[0])
    for workdir in workdirs[1:]:
        arrays = _in_order_of(first, workdirs[0], workdir)
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != {name: array.shape for name, array in total.items()}:
            raise ValueError(
                f"Expected weights of one network. {workdir} has others than "
                f"{workdirs[0]}"
            )
        total = {name: array + arrays[name] for name, array in total.items()}
    count = len(workdirs)
    return {name: (a / count).astype(np.float32) for name, a in total.items()}


def _in_order_of(first: TrainConfig, first_workdir: str, workdir: str) -> Arrays:
    """A run's weights, float64, its classifier in the order of another's classes."""
    from deeplab_tf.evaluation.class_order import same_ids
    from deeplab_tf.networks.weight_files import abbreviate, read_weights
    from deeplab_tf.training.compiling import in_class_order

    config = read_config(workdir)
    differ = [
        name for name in NETWORK_FIELDS if getattr(config, name) != getattr(first, name)
    ]
    if differ:
        raise ValueError(
            f"Expected runs of one network. {workdir} differs from {first_workdir} in "
            f"{', '.join(differ)}"
        )
    try:
        ids = same_ids(config.class_names, first.class_names)
    except ValueError:
        raise ValueError(
            f"Expected runs of the same classes. {first_workdir} knows "
            f"{abbreviate(first.class_names)}; {workdir} knows "
            f"{abbreviate(config.class_names)}"
        ) from None
    arrays = in_class_order(read_weights(workdir_weights(workdir)), ids)
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def _write_weights(config, arrays: Arrays, output_dir: str, num_batches: int) -> None:
    """Writes best.npz, its BatchNorm estimated."""
    from deeplab_tf.networks.models import build_model
    from deeplab_tf.networks.weight_files import copy_weights, save_weights

    model = build_model(config)
    copy_weights(model, arrays, output_dir)
    if num_batches:
        _estimate_batch_norm(model, config, num_batches)
    save_weights(model, os.path.join(output_dir, BEST_WEIGHTS))


def _estimate_batch_norm(model, config: TrainConfig, num_batches: int) -> None:
    """Gives a model BatchNorm statistics of its weights on its training split."""
    from deeplab_tf.commands.run_data import select_run_data
    from deeplab_tf.data.reading.bad_records import bad_records_named
    from deeplab_tf.training.averaging import BatchNormEstimate

    config, data = select_run_data(config)
    print(
        f"Estimating BatchNorm from {num_batches} batches of {config.batch_size} "
        f"images of {config.data_dir} ...",
        flush=True,
    )
    estimate = BatchNormEstimate(model, data.train_batches, num_batches)
    with bad_records_named(config.data_dir, [config.train_split]):
        statistics = estimate()
    for variable, value in zip(estimate.variables, statistics):
        variable.assign(value)


# --- Command line --------------------------------------------------------------------


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=name_of("average"),
        description=as_typed(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdirs", nargs="+", help="Workdirs of runs.")
    parser.add_argument("--output_dir", required=True, help="Workdir of the result.")
    parser.add_argument(
        "--batches",
        type=int,
        default=100,
        help="Training batches to estimate BatchNorm from; 0 averages it [100].",
    )
    parser.add_argument("--data_dir", default="", help="Records [the first run's].")
    args = parser.parse_args(argv)
    if args.batches < 0:
        parser.error(f"expected --batches of 0 or more. Received: {args.batches}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; a sentence ends it where something is wrong."""
    args = _parse(argv)
    try:
        average(args.workdirs, args.output_dir, args.batches, args.data_dir)
    except (ImportError, InUse, OSError, ValueError) as error:
        sys.exit(f"Error: {printable(as_typed(str(error)))}")
    print(f"Wrote {args.output_dir}")
    print(f"Next: {call_of('evaluate')} --workdir={args.output_dir}")
