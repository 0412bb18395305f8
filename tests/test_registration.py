"""Keras knows our classes, whatever of the package a process imports first."""

from __future__ import annotations

import subprocess
import sys

import pytest

import deeplab_tf
from deeplab_tf import registration
from tests.support.commands import ROOT
from tests.support.lanes import mark_rows

pytestmark = pytest.mark.one_lane

# What has a public name, what is registered, and two whose imports get to TensorFlow:
# a process each, of which these are enough to notice what is wrong with most.
QUICK = ("commands.average", "config", "networks.layers", "training.losses")
FIRST = {
    *deeplab_tf._HOMES.values(),
    *registration._MODULES,
    "commands.average",
    "evaluation",
}
PROGRAM = """
import importlib, sys
importlib.import_module("deeplab_tf.{}")
from tensorflow import keras
known = keras.utils.get_registered_object
assert known("deeplab_tf>MeanIoU") and known("deeplab_tf>LovaszLoss")
module = sys.modules["deeplab_tf.evaluation.metrics"]
assert known("deeplab_tf>MeanIoU") is module.MeanIoU
assert "registration" not in type(module.__spec__.loader).__module__
"""


@pytest.mark.parametrize(
    "module", mark_rows(sorted(FIRST), pytest.mark.slow, but=QUICK)
)
def test_any_module_may_be_the_first(module):
    """One that imports TensorFlow is half made when TensorFlow is there."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
