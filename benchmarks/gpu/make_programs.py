"""Lowers this project's networks for a GPU, on a machine that has none.

    python -m benchmarks.gpu.make_programs --output_dir=programs
    python -m benchmarks.gpu.make_programs --output_dir=programs --only=check

Each program becomes NAME.mlirbc, portable StableHLO, and NAME.json, which says how its
arguments are made; a check also NAME.npz, the numbers that TensorFlow gives for it on
this CPU. `run_programs` takes the folder to the card.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tensorflow import keras

from benchmarks.gpu import lowering
from benchmarks.gpu.programs import PROGRAMS, Program, checks
from benchmarks.model_table import multiply_adds
from deeplab_tf.config import TrainConfig
from deeplab_tf.networks.models import build_model

TORCH_OUTPUT_STRIDES = (8, 16)


def make_program(name: str, program: Program, folder: Path) -> None:
    """Writes a row of `PROGRAMS`."""
    config, training = program.config, program.training
    model = lowering.build(program)
    if training:
        function = lowering.training_step(model, config)
    else:
        function = lowering.forward_pass(model)
    arguments = lowering.arguments_of(model, program, training, velocities=training)
    facts = {
        "kind": "training" if training else "forward",
        "importance": program.importance,
        "order": list(PROGRAMS).index(name),
        "precision": config.precision,
        "batch": config.batch_size,
        "size": config.crop_size,
        "multiply_adds": multiply_adds(model, *config.crop_size),
    }
    write(folder, name, function, arguments, facts)


def make_check(name: str, program: Program, folder: Path) -> None:
    """Writes a row of `checks`, with its numbers on this CPU."""
    model = lowering.build(program)
    function = lowering.check(model, program.config)
    arguments = lowering.arguments_of(model, program, True, velocities=False)
    numbers, sensitivities = lowering.references(function, arguments)
    np.savez_compressed(folder / f"{name}.npz", **numbers)
    with lowering.full_float32():
        facts = {
            "kind": "check",
            "importance": 0,
            "order": list(checks()).index(name),
            # A flat list of results is in the order of the sorted names.
            "results": sorted(numbers),
            "sensitivities": sensitivities,
        }
        write(folder, name, function, arguments, facts)


def write(folder: Path, name: str, function, arguments, facts: dict) -> None:
    """Lowers a function and writes its two files.

    Args:
      folder: where to.
      name: of the program.
      function, arguments: see `lowering`.
      facts: what the runner is to know of it.
    """
    flat = tf.nest.flatten(arguments)
    flat_function = lowering.flat_function(function, arguments)
    program, outputs = lowering.lower(flat_function, flat)
    (folder / f"{name}.mlirbc").write_bytes(program)
    facts = {
        **facts,
        "tensorflow": tf.__version__,
        "arguments": [dataclasses.asdict(argument) for argument in flat],
        "outputs": outputs,
    }
    (folder / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")


def torchvision_multiply_adds(size: int = 513) -> dict[str, int]:
    """Output stride -> multiply-adds of one image in torchvision's DeepLabV3."""
    config = TrainConfig(
        model="deeplab_v3_torchvision", backbone="resnet50_torchvision", num_classes=21
    )
    return {
        str(stride): multiply_adds(
            build_model(config, output_stride=stride), size, size
        )
        for stride in TORCH_OUTPUT_STRIDES
    }


def resized(program: Program, options) -> Program:
    """The program at the batch and size that were asked for, else as it is."""
    changes = {}
    if options.batch_size:
        changes["batch_size"] = options.batch_size
    if options.crop_size:
        changes["crop_size"] = (options.crop_size, options.crop_size)
    config = dataclasses.replace(program.config, **changes)
    return dataclasses.replace(program, config=config)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output_dir", required=True, help="Folder of the programs.")
    parser.add_argument(
        "--only", default="", help="Beginnings of names of programs, with commas."
    )
    parser.add_argument(
        "--batch_size", type=int, help="Instead of a timed program's own, for a trial."
    )
    parser.add_argument(
        "--crop_size", type=int, help="Pixels a side instead of its own, for a trial."
    )
    options = parser.parse_args()
    options.names = [
        name
        for name in [*checks(), *PROGRAMS]
        if name.startswith(tuple(options.only.split(",")))
    ]
    if not options.names:
        parser.error(f"--only begins no name of {[*checks(), *PROGRAMS]}")
    return options


def main():
    options = parse_arguments()
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    torch_facts = {"multiply_adds": torchvision_multiply_adds()}
    (folder / "torch.json").write_text(json.dumps(torch_facts), encoding="utf-8")
    for name in options.names:
        start = time.perf_counter()
        if name in PROGRAMS:
            make_program(name, resized(PROGRAMS[name], options), folder)
        else:
            make_check(name, checks()[name], folder)
        keras.backend.clear_session()
        size = os.path.getsize(folder / f"{name}.mlirbc")
        seconds = time.perf_counter() - start
        print(f"{name}: {size / 1e3:.0f} kB in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
