"""NaN in one of two replicas, or in both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def results():
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.run_replica_faults"],
        env={**os.environ, "PYTHONPATH": "."},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "index, words",
    [
        (0, "replica 0 on CPU:0 of 2 replicas were not finite first"),
        (1, "replica 1 on CPU:1 of 2 replicas were not finite first"),
        (2, "all 2 replicas became not finite in the same step"),
    ],
)
def test_the_replica_whose_gradients_went_bad_is_named(results, index, words):
    message = results["messages"][index]
    assert message.startswith("The loss became nan at step 2. ")
    assert (
        f"Try a lower learning rate in another --workdir. The gradients of {words}"
        in (message)
    )
    assert "--cross_device=one_device" in message
