"""Do many devices take the steps of one? Loss curves and weights, side by side.

    python -m benchmarks.replicas
    TF_USE_LEGACY_KERAS=1 python -m benchmarks.replicas      (with two workers too)

Trains the same network from the same seed on the same global batches on one device, on
two and four logical CPUs, and in two worker processes on 127.0.0.1, then compares each
with the one device: the largest difference of the loss over all steps, and the norm of
the difference of the trained weights over their norm. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

PLACES = {
    "one device": (),
    "2 logical CPUs": ("--logical_cpus=2",),
    "4 logical CPUs": ("--logical_cpus=4",),
    "2 workers": ("--worker_index=0", "--worker_index=1"),
}


def train(options) -> None:
    """One run, in a process of its own: writes its losses and weights."""
    import tensorflow as tf
    from tensorflow import keras

    from datasets import build_shapes
    from deeplab_tf.commands.train import make_run
    from deeplab_tf.devices.workers import find_workers
    from deeplab_tf.networks.models import build_model
    from deeplab_tf.networks.weight_files import named_weights
    from deeplab_tf.training import compiling, loop, strategies

    name, workers = "mirrored", None
    if options.worker_index is not None:
        name = "multi_worker"
        workers = find_workers(options.workers.split(","), options.worker_index)
    strategy = strategies.make_strategy(name, options.logical_cpus, workers=workers)
    with strategies.chief_first(strategy):
        if not os.path.exists(options.data_dir):
            build_shapes.build(options.data_dir)
    changes = {
        "data_dir": options.data_dir,
        "backbone": options.backbone,
        "init": options.init,
        "multi_grid": None,
        "crop_size": [str(options.crop_size)],
        "batch_size": options.batch_size,
        "steps": options.steps,
        "learning_rate": options.learning_rate,
        # Adam divides by the gradient's size: where that is rounding alone, steps part.
        "optimizer": "sgd",
    }
    config, data = make_run("demo", changes)
    keras.utils.set_random_seed(config.seed)
    keras.backend.set_floatx(options.dtype)
    keras.mixed_precision.set_global_policy(options.dtype)
    with strategy.scope():
        model = build_model(config, synchronized=strategy.num_replicas_in_sync > 1)
        compiling.compile_model(model, config)
    compiling.initialize(model, config)
    history = model.fit(
        loop.data_for_fit(data.train_batches, model, strategy),
        epochs=config.steps,  # an epoch each: its loss is that of the step
        steps_per_epoch=1,
        shuffle=False,
        verbose=0,
    ).history
    arrays = {name: tf.convert_to_tensor(v) for name, v in named_weights(model).items()}
    strategies.wait_for_workers(strategy)
    if options.output:
        np.savez(options.output, **{".losses": history["loss"]}, **arrays)


def run(place: str, options, folder: str) -> dict | None:
    """Runs one row of the table in processes of its own; None where Keras cannot."""
    command = [sys.executable, "-m", "benchmarks.replicas"]
    for name in FORWARDED:
        command.append(f"--{name}={getattr(options, name)}")
    path = os.path.join(folder, f"{options.dtype}-{place}.npz")
    addresses = []
    for _ in PLACES[place]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            addresses.append(f"127.0.0.1:{server.getsockname()[1]}")
    command.append(f"--workers={','.join(addresses)}")
    processes = [
        subprocess.Popen(
            [*command, "--train", f"--output={'' if index else path}", *extra.split()],
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, extra in enumerate(PLACES[place] or [""])
    ]
    errors = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"{place} failed:\n{errors[0][-3000:]}")
    with np.load(path) as file:
        return {name: file[name].astype("float64") for name in file.files}


def difference(one: dict, other: dict) -> tuple[float, float]:
    """(largest difference of the loss, relative difference of all weights)."""
    names = [name for name in one if name != ".losses"]
    distance = sum(((other[name] - one[name]) ** 2).sum() for name in names)
    norm = sum((one[name] ** 2).sum() for name in names)
    losses = np.abs(other[".losses"] - one[".losses"]).max()
    return float(losses), float(np.sqrt(distance / norm))


# What a run takes over from the command that compares.
FORWARDED = (
    "data_dir init backbone crop_size batch_size steps learning_rate dtype"
).split()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", default="runs/data/shapes")
    parser.add_argument("--init", default="", help="Weights to start from.")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--crop_size", type=int, default=65)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--learning_rate", type=float, default=0.001)
    parser.add_argument("--dtype", default="float64", choices=("float32", "float64"))
    parser.add_argument("--places", nargs="*", default=list(PLACES), choices=PLACES)
    for name in ("--train", "--output", "--workers"):  # of a process that trains
        action = "store_true" if name == "--train" else "store"
        parser.add_argument(name, action=action, help=argparse.SUPPRESS)
    for name, default in (("--logical_cpus", 1), ("--worker_index", None)):
        parser.add_argument(name, type=int, default=default, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = parse_arguments()
    if options.train:
        train(options)
        return
    from deeplab_tf.networks.layers import is_keras3

    places = [p for p in options.places if p != "2 workers" or not is_keras3()]
    print(
        f"{options.dtype}, {options.steps} steps of {options.batch_size} images, crop "
        f"{options.crop_size}, learning rate {options.learning_rate}:\n\n"
        "| where | largest loss difference | weight difference / weights |\n|-|-|-|"
    )
    with tempfile.TemporaryDirectory() as folder:
        one = run("one device", options, folder)
        for place in places:
            if place != "one device":
                loss, weights = difference(one, run(place, options, folder))
                print(f"| {place} | {loss:.1e} | {weights:.1e} |", flush=True)


if __name__ == "__main__":
    main()
