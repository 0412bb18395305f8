"""Latency of the first requests to a fresh server, with and without warm-up.

    python -m benchmarks.warmup --workdir=runs/camvid --image=photo.jpg

Exports the run twice, once without its warm-up requests, and starts the stand-in of the
tests (TensorFlow's C loader) on each by turns, a fresh process each time. One JSON
line: medians of the milliseconds until it is ready, of the first and of later requests.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.timing import cpu_description
from deeplab_tf.commands.run_exports import export_workdir
from serving.client import Client
from tests.support import serving_stand_in


def time_server(folder: str, image: bytes) -> dict[str, float]:
    """Milliseconds of a fresh server: ready, first request, median of ten later."""
    start = time.perf_counter()
    with serving_stand_in.running(f"--model_base_path={folder}") as server:
        ready = time.perf_counter() - start
        client = Client(f"grpc://{server.grpc}")
        client.status()  # connects
        moments = [time.perf_counter()]
        for _ in range(11):
            client.segment_png(image)
            moments.append(time.perf_counter())
    first, *later = (1000 * (b - a) for a, b in zip(moments, moments[1:]))
    return {"ready": 1000 * ready, "first": first, "later": statistics.median(later)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True, help="folder of a run of train.py")
    parser.add_argument("--image", required=True, help="file to segment")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    image = Path(args.image).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        warm, cold = (os.path.join(folder, name) for name in ("warm", "cold"))
        export_workdir(args.workdir, warm)
        ignore = shutil.ignore_patterns("assets.extra")
        shutil.copytree(warm, cold, ignore=ignore)
        times = {"with warm-up": [], "without": []}
        for _ in range(args.repeats):
            for name, each in zip(times, (warm, cold)):
                times[name].append(time_server(each, image))
    result = {
        name: {
            key: round(statistics.median(t[key] for t in runs), 1) for key in runs[0]
        }
        for name, runs in times.items()
    }
    print(json.dumps({**result, **cpu_description()}))


if __name__ == "__main__":
    main()
