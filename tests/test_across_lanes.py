"""Networks are the same in every lane, so that one lane tests their arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from deeplab_tf.networks.models import MODELS
from tests.support.lanes import installed_lanes, run_in_lane
from tests.support.networks import SHALLOW_BACKBONES

pytestmark = pytest.mark.one_lane


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Lane -> what every network computes there."""
    folder = tmp_path_factory.mktemp("lanes")
    found = {}
    for lane in installed_lanes():
        path = folder / f"{lane}.npz"
        run_in_lane(lane, "-m", "tests.support.run_logits", path)
        with np.load(path) as file:
            found[lane] = dict(file)
    if len(found) < 2:
        pytest.skip("needs two lanes: run make environments")
    return found


@pytest.mark.parametrize("name", [*MODELS, *SHALLOW_BACKBONES])
def test_every_lane_computes_the_same(outputs, name):
    first, *others = (arrays[name] for arrays in outputs.values())
    assert np.ptp(first) > 0
    for other in others:
        assert other.shape == first.shape
        assert np.abs(other - first).max() <= 1e-3 * np.abs(first).max()
