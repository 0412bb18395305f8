"""Images per second of train.py's loop over those of a bare model.fit.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --recipe=camvid_mobilenet_v2 --steps=45 --repeats=4

The same compiled model on the same batches, by turns of one epoch: with the callbacks
of train.py, which on a terminal too write checkpoints, weights, log.csv and TensorBoard
events, and with none. An epoch of the demo has 150 steps; the fewer they are, the more
its end weighs. With --validate both validate every epoch, one by `fit` alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks.timing import cpu_description, ratio
from deeplab_tf.commands import train
from deeplab_tf.networks.models import build_model
from deeplab_tf.recipes import RECIPES
from deeplab_tf.training import compiling, loop
from deeplab_tf.training.resuming import ResumableRun

WARM_UP_STEPS = 3


class Terminal(io.StringIO):
    """Takes what would be drawn, so that drawing is measured as well."""

    def isatty(self):
        return True


def make_variants(config, data, workdir: str, validate: bool) -> dict:
    """Returns name -> function(steps) that trains an epoch."""
    model = build_model(config, auxiliary_outputs=True)
    compiling.compile_model(model, config)
    run = ResumableRun(workdir, model, config.checkpoint_steps)
    with contextlib.redirect_stdout(Terminal()):
        callbacks = loop.make_callbacks(config, data, run)
    validation = loop.Validation(None, None)
    if validate:
        strategy = tf.distribute.get_strategy()
        validation = loop.make_validation(data, model, strategy)

    def fit(steps, callbacks):
        model.fit(
            compiling.label_outputs(model, data.train_batches()),
            initial_epoch=run.epochs,
            epochs=run.epochs + 1,
            steps_per_epoch=steps,
            shuffle=False,
            validation_data=validation.data,
            validation_steps=validation.steps,
            callbacks=callbacks,
            verbose=0,
        )

    return {
        "bare": lambda steps: fit(steps, []),
        "train_py": lambda steps: fit(steps, callbacks),
    }


def measure(variants: dict, steps: int, repeats: int) -> dict:
    """Runs the variants in turn, in changing order.

    Returns:
      name -> list of (seconds, seconds of CPU).
    """
    for run in variants.values():
        run(WARM_UP_STEPS)
    seconds = {name: [] for name in variants}
    for turn in range(repeats):
        for name in sorted(variants, reverse=bool(turn % 2)):
            start, cpu_start = time.perf_counter(), time.process_time()
            variants[name](steps)
            cpu = time.process_time() - cpu_start
            seconds[name].append((time.perf_counter() - start, cpu))
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="demo", choices=sorted(RECIPES))
    parser.add_argument("--steps", type=int, default=150, help="Of an epoch.")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--validate", action="store_true")
    options = parser.parse_args()
    # Random weights are as quick as trained ones.
    total_steps = 2 * WARM_UP_STEPS + 2 * options.steps * options.repeats
    changes = {"init": "", "steps": total_steps}
    config, data = train.make_run(options.recipe, changes)
    with tempfile.TemporaryDirectory() as workdir:
        variants = make_variants(config, data, workdir, options.validate)
        seconds = measure(variants, options.steps, options.repeats)
    images = options.steps * config.batch_size
    result = {
        "benchmark": "overhead",
        "tensorflow": tf.__version__,
        **vars(options),
        **cpu_description(),
    }
    for name, times in seconds.items():
        speed = images / statistics.median(wall for wall, _ in times)
        result[f"{name}_images_per_second"] = round(speed, 2)
    # By CPU time other programs on the machine disturb less.
    for index, suffix in enumerate(("", "_by_cpu_time")):
        bare, ours = ([t[index] for t in seconds[n]] for n in ("bare", "train_py"))
        result[f"train_py_over_bare{suffix}"] = round(ratio(bare, ours), 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
