"""What the benchmarks share: variants that take turns, and ratios of their times."""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path


def measure(variants: dict, repeats: int) -> dict:
    """Runs all variants in turn; returns variant -> list of seconds."""
    seconds = {name: [] for name in variants}
    for turn in range(repeats + 2):  # the first two compile and warm up
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: list, fast: list) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast))


def cpu_description() -> dict:
    """Model name and whether the CPU computes in bfloat16 itself."""
    text = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    names = [line for line in text.splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    wanted = ("avx512_bf16", "amx_bf16")
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "bfloat16": [flag for flag in wanted if flag in text],
    }
