"""Times `import deeplab_tf` against `import tensorflow`, in fresh processes by turns.

python -m benchmarks.import_time    prints one JSON line
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 5


def seconds_to_import(name: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", f"import {name}"],
        cwd=ROOT,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    # The package alone imports nothing heavy; its networks import TensorFlow.
    names = ("tensorflow", "deeplab_tf", "deeplab_tf.networks.models")
    for name in names:
        seconds_to_import(name)  # files into the cache of the system
    turns = [[seconds_to_import(name) for name in names] for _ in range(REPEATS)]
    tensorflow, package, networks = map(statistics.median, zip(*turns))
    result = {
        "benchmark": "import_time",
        "tensorflow_seconds": round(tensorflow, 3),
        "deeplab_tf_seconds": round(package, 3),
        "networks_seconds": round(networks, 3),
        "difference_seconds": round(networks - tensorflow, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
