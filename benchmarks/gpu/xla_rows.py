"""Compiles and times lowered programs on the device that JAX sees, by PJRT.

    python -m benchmarks.gpu.xla_rows RESULT PROGRAMS DEADLINE TOGETHER NAME ...

A child of `run_programs`; needs jax and numpy alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

# PyTorch's turn comes in another process, but the memory is the same.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from benchmarks.gpu.arguments import (
    Argument,
    differences,
    is_gradient,
    make_all,
    relative_difference,
)
from benchmarks.gpu.rows import COMPILING, Results, one_line, run_row, seconds_of

# Checks are not timed: without autotuning they compile in a fraction of the time.
CHECK_OPTIONS = {"xla_gpu_autotune_level": "0"}
# Largest relative differences of the same numbers, by the norm. A ReLU whose input is
# within rounding of 0 opens or closes: of some 100 pixels one moves gradients so far.
TOLERANCES = {
    "loss": 1e-4,
    "logits": 1e-4,
    "statistics": 1e-4,
    "norms": 2e-2,
    "gradients": 3e-2,
}


class LoweredProgram:
    """A program of the folder that `make_programs` wrote.

    Attributes:
      facts: of its JSON file.
      name: of the program.
    """

    def __init__(self, folder: Path, name: str):
        self.name = name
        self.facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        self._artifact = (folder / f"{name}.mlirbc").read_bytes()
        self._references = folder / f"{name}.npz"

    def compile(self):
        """Compiles it; returns (JAX's compiled program, seconds)."""
        inputs = [
            jax.ShapeDtypeStruct(argument["shape"], argument["dtype"])
            for argument in self.facts["arguments"]
        ]
        options = CHECK_OPTIONS if self.is_check else None
        start = time.perf_counter()
        lowered = jax.jit(self._exported(inputs).call).lower(*inputs)
        compiled = lowered.compile(options)
        return compiled, time.perf_counter() - start

    @property
    def is_check(self) -> bool:
        return self.facts["kind"] == "check"

    def arguments(self) -> list:
        """Its arguments, on the device."""
        rules = [Argument(**argument) for argument in self.facts["arguments"]]
        return [jax.device_put(value) for value in make_all(rules)]

    def references(self) -> dict:
        """A check's numbers by TensorFlow on a CPU."""
        with np.load(self._references) as arrays:
            return dict(arrays)

    def _exported(self, inputs):
        """The artifact as JAX's own export: one of the same types, its program ours."""

        def of_the_same_types(*_):
            return [jnp.zeros(*output) for output in self.facts["outputs"]]

        platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
        stand_in = export.export(jax.jit(of_the_same_types), platforms=[platform])
        return dataclasses.replace(
            stand_in(*inputs),
            mlir_module_serialized=self._artifact,
            module_kept_var_idx=tuple(range(len(inputs))),
        )


def time_program(program: LoweredProgram, compiled, compile_seconds: float) -> dict:
    """The facts of a timed row."""
    arguments = program.arguments()

    def run():
        return jax.block_until_ready(compiled(*arguments))

    seconds = seconds_of(run)
    facts = program.facts
    passes = 3 if facts["kind"] == "training" else 1
    return {
        **{key: facts[key] for key in ("kind", "precision", "batch", "size")},
        "seconds": seconds,
        "images_per_second": facts["batch"] / seconds,
        "flops": 2.0 * passes * facts["batch"] * facts["multiply_adds"],
        "compile_seconds": compile_seconds,
        **_memory(compiled),
        "first_result": float(np.ravel(np.asarray(run()[0]))[0]),
    }


def _memory(compiled) -> dict:
    """Bytes that the program asks for, and the process' peak so far."""
    analysis = compiled.memory_analysis()
    parts = {
        part: getattr(analysis, f"{part}_size_in_bytes")
        for part in ("argument", "output", "temp")
    }
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "memory_bytes": sum(parts.values()),
        "memory_parts": parts,
        "process_peak_bytes": stats.get("peak_bytes_in_use"),
    }


def compare(program: LoweredProgram, compiled) -> dict:
    """The facts of a check: its largest relative differences, and whether they pass."""
    outputs = jax.block_until_ready(compiled(*program.arguments()))
    results = dict(zip(program.facts["results"], map(np.asarray, outputs)))
    references = program.references()
    found = differences(results, references)
    each = {
        name: relative_difference(results[name], references[name])
        for name in filter(is_gradient, references)
    }
    worst = max(each, key=each.get)
    return {
        "kind": "check",
        "numbers": sum(value.size for value in references.values()),
        "differences": found,
        "sensitivities": program.facts["sensitivities"],
        "worst_gradient": [worst.partition(" ")[2], each[worst]],
        "passes": all(value <= TOLERANCES[name] for name, value in found.items()),
    }


def run(results: Results, folder: Path, names, deadline: float, together: int):
    """Runs rows in their order, `together` of them compiled at the same time.

    Checks, which are not timed, compile on half of the cores.
    """
    programs = [LoweredProgram(folder, name) for name in names]
    checks = [program for program in programs if program.is_check]
    timed = [program for program in programs if not program.is_check]
    groups = _groups(checks, max(together, os.cpu_count() // 2))
    for group in [*groups, *_groups(timed, together)]:
        if time.time() > deadline:
            return
        for program in group:
            results.write_row(program.name, COMPILING)
        with ThreadPoolExecutor(len(group)) as pool:
            futures = [pool.submit(program.compile) for program in group]
        for program, future in zip(group, futures):
            run_row(results, program.name, lambda p=program, f=future: _row(p, f))


def _groups(programs: list, size: int) -> list[list]:
    return [programs[i : i + size] for i in range(0, len(programs), size)]


def _row(program: LoweredProgram, future: Future) -> dict:
    compiled, seconds = future.result()
    if program.is_check:
        return compare(program, compiled)
    return time_program(program, compiled, seconds)


def main(argv):
    result, folder, deadline, together, *names = argv
    results, device = Results(result), jax.local_devices()[0]
    results.write(jax=jax.__version__, device=one_line(device.device_kind))
    run(results, Path(folder), names, float(deadline), int(together))


if __name__ == "__main__":
    main(sys.argv[1:])
