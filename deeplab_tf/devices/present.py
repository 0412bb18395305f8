"""The first line of every run: which devices it has, and how much memory."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deeplab_tf.devices.system_files import text_of

BFLOAT16_CAPABILITY = (8, 0)  # Ampere: the first with bfloat16 in its tensor cores
_WSL_SMI = "/usr/lib/wsl/lib/nvidia-smi"
_SMI_SECONDS = 10.0


class Card(NamedTuple):
    """A GPU that TensorFlow computes on.

    Attributes:
      name: TensorFlow's: "GPU:0".
      model: "NVIDIA A100-SXM4-40GB"; "" where TensorFlow does not tell.
      capability: CUDA's compute capability, None of other makers' cards.
      megabytes: of its memory (MiB), None where nothing tells.
    """

    name: str
    model: str = ""
    capability: tuple[int, int] | None = None
    megabytes: int | None = None

    def __str__(self) -> str:
        text = f"{self.name} {self.model}".rstrip()
        return text + (f", {self.megabytes / 1024:.0f} GB" if self.megabytes else "")


def find_cards() -> list[Card]:
    """The GPUs that TensorFlow sees, in its order; it initializes none of them."""
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(device) for device in devices]
    memory = memory_of_models(ask_nvidia_smi()) if devices else {}
    return [
        Card(
            f"GPU:{index}",
            known.get("device_name", ""),
            known.get("compute_capability"),
            memory.get(known.get("device_name")),
        )
        for index, known in enumerate(details)
    ]


def ask_nvidia_smi() -> str:
    """Lines "MODEL, MEGABYTES" of all cards of the machine; "" without nvidia-smi."""
    program = shutil.which("nvidia-smi") or shutil.which(_WSL_SMI)
    if program is None:
        return ""
    query = ["--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=_SMI_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout


def memory_of_models(lines: str) -> dict[str, int]:
    """Model -> MiB, of those models whose cards all have as much.

    nvidia-smi counts all cards of the machine, TensorFlow those that
    CUDA_VISIBLE_DEVICES leaves it: only the model is common to both. A slice of a card
    (MIG) has a name of its own, and so no memory here.
    """
    sizes = {}
    for line in lines.splitlines():
        model, _, megabytes = line.rpartition(",")
        if megabytes.strip().isdigit():
            sizes.setdefault(model.strip(), set()).add(int(megabytes))
    return {model: size.pop() for model, size in sizes.items() if len(size) == 1}


def count_cores(root: str | os.PathLike = "/") -> int:
    """Cores that this process may use: by its affinity, and by its container's quota.

    Args:
      root: where /proc and /sys lie.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cpu_quota(Path(root))
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cpu_quota(root: Path) -> float | None:
    """Cores that the control group and those around it allow; None: no bound."""
    groups = root / "sys/fs/cgroup"
    own = re.search(r"^0::/(.*)$", text_of(root / "proc/self/cgroup"), re.MULTILINE)
    folder = groups / (own[1] if own else "")
    bounds = [text_of(path / "cpu.max") for path in (folder, *folder.parents)]
    first_version = groups / "cpu"
    bounds.append(
        f"{text_of(first_version / 'cpu.cfs_quota_us')} "
        f"{text_of(first_version / 'cpu.cfs_period_us')}"
    )
    quotas = [
        int(quota) / int(period)
        for quota, period in re.findall(r"^(\d+)\s+(\d+)\s*$", "\n".join(bounds), re.M)
        if int(period)
    ]
    return min(quotas, default=None)


def describe(
    cards: Sequence[Card], cores: int, *, all_cards: bool = False, parts: int = 1
) -> str:
    """Returns the first line of a run.

    Args:
      cards: that TensorFlow sees.
      cores: of the CPU, see `count_cores`.
      all_cards: whether the run computes on all of them, or on the first.
      parts: devices that the CPU is split into, which are then computed on.
    """
    plural = "core" if cores == 1 else "cores"
    if parts > 1:
        return f"On the CPU, {cores} {plural}, as {parts} devices."
    if not cards:
        return f"On the CPU, {cores} {plural}: no GPU found."
    if all_cards or len(cards) == 1:
        return f"On {'; '.join(map(str, cards))}."
    rest = ", ".join(card.name for card in cards[1:])
    return f"On {cards[0]}; idle: {rest}."


def offer_bfloat16(cards: Sequence[Card], precision: str) -> str:
    """Says that float32 is not the quickest on these cards; "" where it may be.

    TensorFlow computes float32 convolutions of such cards as TF32, at half the rate of
    bfloat16 (their makers' data sheets), and a bfloat16 has half the bytes.
    """
    able = cards and all(
        card.capability is not None and card.capability >= BFLOAT16_CAPABILITY
        for card in cards
    )
    if precision != "float32" or not able:
        return ""
    return (
        f"{'These cards compute' if len(cards) > 1 else 'This card computes'} bfloat16 "
        "up to twice as fast as float32, and activations take half the memory: "
        "--precision=bfloat16."
    )
