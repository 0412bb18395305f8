"""A run from its start to its end: what it begins from, its folder, epochs, signals."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator

from deeplab_tf.command_names import call_of
from deeplab_tf.config import (
    NETWORK_FIELDS,
    TrainConfig,
    config_path,
    describe_difference,
    read_config,
    write_config,
)
from deeplab_tf.networks.heads import scale_rates
from deeplab_tf.recipes import RECIPES


def check_init(init: str) -> None:
    """Lets a run begin from what is there.

    Raises:
      FileNotFoundError: it is not; of the workdir of a recipe says which.
    """
    if init in ("", "imagenet") or os.path.exists(init):
        return
    recipe = os.path.basename(init)
    advice = "Give the path of a weight file or of a workdir."
    if recipe in RECIPES:
        advice = f"Run first: {call_of('train')} --recipe={recipe}"
    raise FileNotFoundError(f"There is no {init} to start from. {advice}")


def continue_network(config: TrainConfig, chosen: Collection[str]) -> TrainConfig:
    """Takes what is to be trained from the workdir that a run begins from.

    Args:
      config: its `init` is the workdir of a run.
      chosen: fields that stay as they are.

    Raises:
      FileNotFoundError, ValueError: it is no such workdir.
    """
    trained = read_config(config.init)
    fields = {
        name: getattr(trained, name) for name in NETWORK_FIELDS if name not in chosen
    }
    if fields.get("atrous_rates"):
        fields["atrous_rates"] = scale_rates(
            fields["atrous_rates"], trained.output_stride, config.output_stride
        )
    return dataclasses.replace(config, **fields)


def claim_workdir(config: TrainConfig, workdir: str, is_chief: bool = True) -> None:
    """Writes config.json, or checks that it is the one of this run.

    Raises:
      ValueError: the workdir belongs to another configuration.
      FileNotFoundError: a worker does not see what the chief wrote.
    """
    if not os.path.exists(config_path(workdir)):
        if not is_chief:
            raise FileNotFoundError(
                f"{workdir} is not the chief's: its config.json is absent here. Give "
                "a --workdir that all workers share."
            )
        write_config(config, workdir)
        return
    difference = describe_difference(read_config(workdir), config)
    if difference:
        raise ValueError(
            f"{workdir} belongs to a run of another configuration ({difference}). "
            "Give another --workdir, or the flags of that run to resume it."
        )


def epoch_spans(
    total_steps: int, epoch_steps: int, step: int
) -> list[tuple[int, int, int, int]]:
    """Splits what is left into the rest of an epoch, whole ones and a shorter last one.

    Args:
      total_steps: of the run.
      epoch_steps: of an epoch.
      step: steps done.

    Returns:
      (first step, epoch, epoch behind the last, steps per epoch) of each call of fit.
    """
    spans = []
    while step < total_steps:
        epoch, done = divmod(step, epoch_steps)
        steps = min(epoch_steps - done, total_steps - step)
        epochs = (total_steps - step) // epoch_steps if steps == epoch_steps else 1
        spans.append((step, epoch, epoch + epochs, steps))
        step += epochs * steps
    return spans


def validation_epochs(config: TrainConfig) -> list[int]:
    """Every `validate_every`-th epoch, counted from 1, and the last."""
    every = list(range(config.validate_every, config.epochs, config.validate_every))
    return every + [config.epochs]


@contextlib.contextmanager
def stop_on_signals(run) -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM save and stop a run; the second time they kill it.

    Args:
      run: a `resuming.ResumableRun`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only there can signals be handled
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def handle(number, frame):
        line_break = "\n" if sys.stdout.isatty() else ""  # behind the progress
        name = signal.Signals(number).name
        print(f"{line_break}{name}: stopping behind this step ...")
        run.request_stop(name)
        signal.signal(number, before[number])

    try:
        for number in signals:
            signal.signal(number, handle)
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])
