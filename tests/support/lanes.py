"""The lanes of docs/lanes.md, for tests that compare what they compute."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Lane -> (environment of the checkout, TF_USE_LEGACY_KERAS).
_LANES = {"a": (".venv", "0"), "b": (".venv", "1"), "c": (".venv-tf215", "0")}


def all_in_lane_a(rows: Iterable, elsewhere: Collection) -> list:
    """Rows of a table: lane a runs all, the other lanes those of `elsewhere`."""
    return mark_rows(rows, pytest.mark.one_lane, but=elsewhere)


def mark_rows(rows: Iterable, mark, but: Collection) -> list:
    """Rows of a table for `parametrize`; all but some of them have a mark."""
    return [
        pytest.param(
            *(row if isinstance(row, tuple) else [row]),
            marks=() if row in but else mark,
        )
        for row in rows
    ]


def installed_lanes() -> dict[str, tuple[Path, str]]:
    """Lane -> (its Python, TF_USE_LEGACY_KERAS), of those that `make` has set up."""
    lanes = {
        lane: (ROOT / folder / "bin" / "python", legacy)
        for lane, (folder, legacy) in _LANES.items()
    }
    return {lane: found for lane, found in lanes.items() if found[0].exists()}


def run_in_lane(lane: str, *arguments: object) -> None:
    """Runs that lane's Python in the checkout, with what follows its name."""
    python, legacy = installed_lanes()[lane]
    done = subprocess.run(
        [python, *map(str, arguments)],
        env={**os.environ, "TF_USE_LEGACY_KERAS": legacy},
        cwd=ROOT,
        stdout=sys.stderr,
    )
    assert done.returncode == 0, f"lane {lane} ended with {done.returncode}"
