"""Files of /proc and /sys, which are there on some systems only."""

from __future__ import annotations

from pathlib import Path


def text_of(path: Path) -> str:
    """What a file says; "" where it is not there or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
