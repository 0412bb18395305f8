"""The notebook of the first hour: its cells run, and its file stays small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.notebooks import code_cells, read_notebook, run_cells

PATH = Path(__file__).resolve().parent.parent / "examples/first_hour.ipynb"
pytestmark = pytest.mark.skipif(not PATH.exists(), reason="needs the checkout")


def test_the_file_is_small_and_shows_its_outputs():
    assert PATH.stat().st_size < 300_000
    cells = code_cells(read_notebook(PATH))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [set(o.get("data", ())) for cell in cells for o in cell["outputs"]]
    assert sum("image/png" in kind for kind in kinds) == 2


@pytest.mark.slow
def test_its_cells_run_and_the_network_learns():
    notebook = read_notebook(PATH)
    namespace = run_cells(notebook)
    losses = namespace["history"]["loss"]
    assert losses[-1] < 0.8 * losses[0]
    said = "".join(
        "".join(output.get("text", ()))
        for cell in code_cells(notebook)
        for output in cell["outputs"]
    )
    assert (
        float(re.search(r"([\d.]+) per cent of the pixels are the same", said)[1]) > 99
    )


def test_a_cell_shows_its_last_value(tmp_path):
    cells = ["x = 3\nprint(x)", "x + 1", "y = x"]
    notebook = {"cells": [{"cell_type": "code", "source": [c]} for c in cells]}
    run_cells(notebook)
    outputs = [cell["outputs"] for cell in notebook["cells"]]
    assert outputs[0] == [{"name": "stdout", "output_type": "stream", "text": ["3\n"]}]
    assert outputs[1][0]["data"] == {"text/plain": ["4"]}
    assert outputs[2] == []
