"""NaN in one of two replicas, and a last batch that leaves one without images."""

import numpy as np
import pytest

from tests.support import run_script

pytestmark = pytest.mark.two_lanes


@pytest.fixture(scope="module")
def results():
    # TensorFlow's oneDNN gives a convolution of no images the shape of its input, and
    # the replica without images fails aloud; GPUs and other CPUs do not.
    return run_script.answer_of("run_replica_faults", TF_ENABLE_ONEDNN_OPTS="0")


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
    assert "Try a lower learning rate in another --workdir" in message
    assert f". The gradients of {words}" in message
    assert "--cross_device=one_device" in message


def test_a_batch_that_leaves_a_replica_empty_counts_as_on_one_device(results):
    """Five images in batches of two on two replicas, in a user's own `fit`.

    Keras weights the loss that it shows by a replica's images, after each replica has
    been given the share that makes their mean right: the last image counts twice there,
    but not in the gradient.
    """
    one, two = results["one"], results["two"]
    for name in ("mean_iou", "weights"):
        np.testing.assert_allclose(two[name], one[name], atol=1e-5, err_msg=name)
    shown = (5 * np.array(one["losses"]) + one["last_losses"]) / 5
    np.testing.assert_allclose(two["losses"], shown, atol=1e-5)
