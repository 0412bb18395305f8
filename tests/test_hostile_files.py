"""Weights, labels and configurations with random damage end in arrays or a sentence.

Some draws of each; `python -m benchmarks.mutated_files` takes hundreds, in a process of
its own.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks.mutated_files import ARRAYS, FORMATS, MUTATIONS
from deeplab_tf.config import read_config

pytestmark = pytest.mark.two_lanes

WEIGHTS = [name for name in FORMATS if name not in ("labels", "config")]
READ = {name: row.read for name, row in FORMATS.items()}
READ["config"] = lambda path: read_config(path.parent)  # without building it


@pytest.fixture(scope="module")
def whole():
    return {name: row.write() for name, row in FORMATS.items()}


@pytest.mark.parametrize("name", WEIGHTS)
def test_what_is_whole_is_read(whole, name, tmp_path):
    path = tmp_path / FORMATS[name].name
    path.write_bytes(whole[name])
    arrays = READ[name](path)
    if name in ("keras 2", "keras 3", "npz"):
        assert list(map(np.shape, arrays.values())) == [(3, 3, 3, 2), (2,)]
        np.testing.assert_array_equal(arrays["conv/kernel"], ARRAYS["conv/kernel"])
    elif name == "tflite":
        kernel = arrays["MobilenetV2/Conv/kernel"]
        assert kernel.shape == (3, 3, 3, 8) and (kernel == (1 - 3) * 0.5).all()
        assert arrays["output_stride"] == 8
    else:
        (array,) = arrays.values()
        count = {"torch": 6, "safetensors": 54}[name]
        np.testing.assert_array_equal(np.ravel(array), np.arange(count))


@pytest.mark.parametrize("kind", MUTATIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_a_sentence_with_the_path(whole, name, kind, tmp_path):
    refused = 0
    for seed in range(12):
        folder = tmp_path / str(seed)
        folder.mkdir()
        path = folder / FORMATS[name].name
        path.write_bytes(MUTATIONS[kind](whole[name], random.Random(seed)))
        try:
            READ[name](path)
        except ValueError as error:
            refused += 1
            assert str(folder) in str(error) and len(str(error)) < 2000
    # Damage may pass for other numbers, half a file for nothing.
    assert refused == 12 or kind != "cut"
