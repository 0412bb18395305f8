"""Latency, throughput and memory of a model, however it is run.

    python -m benchmarks.latency --targets=runs/camvid,exported --image=photo.jpg
    python -m benchmarks.latency --targets=exported,model.tflite,model.onnx --load=0.7
    python -m benchmarks.latency --targets=grpc://127.0.0.1:8500 --pid=1234 \\
        --workers=2 --seconds=600

A target is a workdir (the Keras model), a folder or file of export.py (SavedModel,
LiteRT, ONNX), or the address of a server, which is sent the image's bytes. One JSON
line each, milliseconds and MiB:
  closed: every worker asks again as soon as it has its answer: what the target can do;
  open: requests come at random (Poisson), as many a second as --load times that, and
    the clock of each starts when it comes, whether or not a worker is free;
  memory: of this process, or of --pid, before the target is loaded, after the closed
    loop, and the smallest and largest in each tenth of the open loop.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.timing import cpu_description
from deeplab_tf.config import config_path
from deeplab_tf.inference.segmenter import load_segmenter
from deeplab_tf.pictures.images import read_image
from serving.client import Client

PERCENTILES = (50, 90, 95, 99, 99.9)


def open_target(target: str, image: str) -> Callable[[], object]:
    """Returns a function that segments the image once."""
    if "://" in target:
        client, data = Client(target), Path(image).read_bytes()
        return lambda: client.segment_png(data)
    is_run = os.path.isfile(config_path(target))
    segmenter = load_segmenter(*((target, None) if is_run else (None, target)))
    pixels = read_image(image)
    return lambda: segmenter.predict(pixels)


def run_workers(work: Callable[[int], None], workers: int) -> None:
    threads = [threading.Thread(target=work, args=[n]) for n in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def closed_loop(call, seconds: float, workers: int) -> dict:
    """Asks without a pause; returns latencies and answers a second."""
    latencies, end = [], time.perf_counter() + seconds

    def work(_):
        while time.perf_counter() < end:
            start = time.perf_counter()
            call()
            latencies.append(time.perf_counter() - start)

    start = time.perf_counter()
    run_workers(work, workers)
    rate = len(latencies) / (time.perf_counter() - start)
    return {"per_second": round(rate, 2), **summary(latencies)}


def open_loop(call, rate: float, seconds: float, workers: int, memory) -> dict:
    """Asks at random moments; a latency counts from the moment a request comes."""
    generator = np.random.default_rng(0)
    gaps = generator.exponential(1 / rate, round(rate * seconds))
    arrivals = iter(np.cumsum(gaps).tolist())
    lock, latencies, errors, samples = threading.Lock(), [], [], []
    begin = time.perf_counter()

    def work(_):
        while True:
            with lock:
                arrival = next(arrivals, None)
            if arrival is None:
                return
            time.sleep(max(0, begin + arrival - time.perf_counter()))
            try:
                call()
            except Exception as error:  # whatever it is, it is counted and shown
                errors.append(repr(error)[:200])
            latencies.append(time.perf_counter() - begin - arrival)
            samples.append((arrival / seconds, memory()))

    run_workers(work, workers)
    tenths = [[m for at, m in samples if int(10 * at) == n] for n in range(10)]
    return {
        "requests": len(latencies),
        "per_second": round(rate, 2),
        **summary(latencies),
        "errors": errors[:5],
        "num_errors": len(errors),
        "memory_mib": [[min(tenth), max(tenth)] for tenth in tenths if tenth],
    }


def summary(latencies: list[float]) -> dict:
    milliseconds = 1000 * np.array(latencies)
    values = np.percentile(milliseconds, PERCENTILES)
    result = {f"p{p:g}_ms": round(float(v), 1) for p, v in zip(PERCENTILES, values)}
    return {**result, "max_ms": round(float(milliseconds.max()), 1)}


def resident_mib(pid: str) -> int:
    """Memory of a process that is in RAM, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", required=True, help="separated by commas")
    parser.add_argument("--image", required=True, help="file to segment")
    parser.add_argument("--workers", type=int, default=1, help="requests at a time")
    parser.add_argument("--load", type=float, default=0.7, help="of the closed loop")
    parser.add_argument("--closed_seconds", type=float, default=10)
    parser.add_argument("--seconds", type=float, default=30, help="of the open loop")
    parser.add_argument("--pid", default="self", help="process whose memory counts")
    args = parser.parse_args()
    for target in args.targets.split(","):
        before = resident_mib(args.pid)
        start = time.perf_counter()
        call = open_target(target, args.image)
        call()
        first = time.perf_counter() - start
        for _ in range(3):
            call()
        closed = closed_loop(call, args.closed_seconds, args.workers)
        memory = {"before_mib": before, "after_mib": resident_mib(args.pid)}
        rate = args.load * closed["per_second"]
        opened = open_loop(
            call, rate, args.seconds, args.workers, lambda: resident_mib(args.pid)
        )
        print(
            json.dumps(
                {
                    "target": target,
                    "load_and_first_ms": round(1000 * first),
                    "closed": closed,
                    "open": opened,
                    "memory": memory,
                    "workers": args.workers,
                    **cpu_description(),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
