"""Commands of the checkout, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(module: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs `python -m datasets.MODULE ...` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", f"datasets.{module}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
