"""Says what lowered programs hold of the memory of the device that JAX sees.

    python -m benchmarks.gpu.memory PROGRAMS NAME ...

Compiles each and runs none, so that a CPU can do it for programs of a card's size: its
XLA fuses otherwise, and only the ratio of two programs tells something of a card.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("programs", type=Path, help="Folder of the programs.")
    parser.add_argument("names", nargs="+", help="Of programs in it.")
    options = parser.parse_args()
    # A help text needs no JAX.
    import jax

    from benchmarks.gpu.xla_rows import LoweredProgram

    print(f"{jax.devices()[0].device_kind}\n\n| program | temporaries, GB |\n|-|-|")
    for name in options.names:
        compiled, _ = LoweredProgram(options.programs, name).compile()
        temporaries = compiled.memory_analysis().temp_size_in_bytes
        print(f"| {name} | {temporaries / 1e9:.1f} |", flush=True)


if __name__ == "__main__":
    main()
