"""What runs on the machine with a card: arguments, the order of rows, its children."""

import argparse
import json
import subprocess
import time

import numpy as np
import pytest

from benchmarks.gpu import arguments, report, run_programs
from benchmarks.gpu.arguments import Argument
from benchmarks.gpu.rows import COMPILING, RUNNING, Results
from benchmarks.gpu.torch_table import TORCH_ROWS


def test_arguments_are_the_same_everywhere():
    # The first draws of RandomState(0), which NumPy never changes.
    value = arguments.make(Argument((2, 2), "float32", "normal", 0.5), seed=0)
    expected = np.array([[1.7640524, 0.4001572], [0.9787380, 2.2408932]]) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_arguments_follow_their_rules():
    label = arguments.make(Argument((2, 50, 50), "int32", "label", 5), seed=1)
    assert set(np.unique(label)) == {0, 1, 2, 3, 4, 255}
    assert 0.03 < (label == 255).mean() < 0.07
    image = arguments.make(Argument((4, 9, 9, 3), "float32", "image"), seed=2)
    assert 0 <= image.min() and image.max() <= 255
    # Images differ in their mean, by which a pooled feature can be normalised.
    assert image.mean((1, 2)).std(0).min() > 10
    with pytest.raises(ValueError, match="rule must be .*'ones'"):
        arguments.make(Argument((1,), "float32", "ones"), seed=0)


def test_differences_are_relative_and_gradients_are_one():
    references = {
        "loss": np.array(4.0),
        "gradient a": np.array([3.0, 0.0]),
        "gradient b": np.array([4.0]),
    }
    results = {**references, "loss": np.array(5.0), "gradient b": np.array([4.5])}
    found = arguments.differences(results, references)
    assert found == {"loss": 0.25, "gradients": 0.1}
    results["loss"] = np.array(np.nan)
    assert arguments.differences(results, references)["loss"] == np.inf


def test_the_share_of_a_cards_rate():
    row = {
        **{"kind": "training", "precision": "bfloat16", "batch": 2, "size": [5, 7]},
        **{"seconds": 0.5, "images_per_second": 4.0, "compile_seconds": 3.0},
        **{"flops": 312e12 / 8, "memory_bytes": 2e9},
    }
    result = {"rows": {"x": row, "y": {"error": "too large"}}}
    text = report.report({**result, "device": "NVIDIA A100-SXM4-80GB"})
    assert "| x | 2 of 5x7 | 500.0 | 4.0 | 3.0 | 2.0 | 25.0% |" in text
    assert "- y: too large" in text
    assert "| not known |" in report.report({**result, "device": "another"})


@pytest.fixture
def folder(tmp_path):
    """Programs of importance 0 to 2, two of them of 1."""
    rows = {"check_a": (0, 0), "second": (1, 1), "first": (1, 0), "last": (2, 2)}
    for name, (importance, order) in rows.items():
        (tmp_path / f"{name}.mlirbc").write_bytes(b"")
        facts = {"importance": importance, "order": order}
        (tmp_path / f"{name}.json").write_text(json.dumps(facts))
    return tmp_path


def test_rows_come_by_importance(folder):
    rows = run_programs.rows_of(folder, only=())
    names = [name for _, name in rows]
    torch_names = [name for name, row in TORCH_ROWS.items() if row.importance == 1]
    assert names[: 3 + len(torch_names)] == ["check_a", "first", "second", *torch_names]
    assert names.index("last") < names.index("torch_resnet50_os8_train_bfloat16")
    assert run_programs.rows_of(folder, only=["fir", "la"]) == [
        ("xla", "first"),
        ("xla", "last"),
    ]


class Child:
    """Stands for a child process: it writes states and ends with a code, or hangs."""

    def __init__(self, results, states, returncode):
        for name, state in states.items():
            results.write_row(name, state)
        self.returncode = returncode

    def poll(self):
        return self.returncode

    def kill(self):
        self.returncode = -9

    def wait(self):
        return self.returncode


def run_with(monkeypatch, tmp_path, endings, names=("a", "b", "c")):
    """Runs rows of which each child meets the next of `endings`."""
    options = argparse.Namespace(
        programs="programs",
        result=str(tmp_path / "result.json"),
        **{"seconds": 60, "row_seconds": 0.3, "together": 1},
        **{"torch_batch": 1, "torch_size": 33},
    )
    runner, asked = run_programs.Runner(options), []

    def start(command):
        asked.append([name for name in names if name in command])
        states, returncode = endings[len(asked) - 1]
        return Child(runner.results, states, returncode)

    monkeypatch.setattr(subprocess, "Popen", start)
    runner.run([("xla", name) for name in names])
    return runner.results.read()["rows"], asked


def test_a_child_that_ends_costs_the_row_it_was_in(monkeypatch, tmp_path):
    endings = [
        ({"a": {"kind": "check"}, "b": RUNNING, "c": COMPILING}, -11),
        ({"c": {"kind": "check"}}, 0),
    ]
    rows, asked = run_with(monkeypatch, tmp_path, endings)
    assert rows["b"] == {"error": "its process ended with -11"}
    assert rows["a"] == rows["c"] == {"kind": "check"}
    assert asked == [["a", "b", "c"], ["c"]]


def test_a_child_that_cannot_start_costs_all_its_rows_and_no_more_tries(
    monkeypatch, tmp_path
):
    rows, asked = run_with(monkeypatch, tmp_path, [({}, 1)])
    assert len(asked) == 1
    assert {row["error"] for row in rows.values()} == {"its process ended with 1"}


def test_a_row_that_hangs_is_ended(monkeypatch, tmp_path):
    start = time.monotonic()
    endings = [({"a": RUNNING}, None), ({"b": {"kind": "check"}}, 0)]
    rows, _ = run_with(monkeypatch, tmp_path, endings, names=("a", "b"))
    assert rows["a"] == {"error": "took more than 0.3 s"}
    assert rows["b"] == {"kind": "check"}
    assert time.monotonic() - start < 30


def test_results_survive_a_child_that_writes_beside_them(tmp_path):
    results = Results(tmp_path / "result.json")
    results.write(device="card")
    results.write_row("a", {"kind": "check"})
    results.write(torch="2")
    expected = {"device": "card", "torch": "2", "rows": {"a": {"kind": "check"}}}
    assert results.read() == expected
