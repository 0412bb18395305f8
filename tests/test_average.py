"""Workdirs in, the workdir of their mean out."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from deeplab_tf.commands import average, run_data
from deeplab_tf.config import read_config, write_config
from deeplab_tf.networks.blocks import is_of_head
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.weight_files import load_weights, read_weights, save_weights
from deeplab_tf.training.resuming import claim_workdir
from tests.support.networks import image_batch, randomize, small_config

pytestmark = pytest.mark.one_lane

NAMES = ("road", "car", "sky", "tree", "pole")
ORDER = [3, 0, 4, 1, 2]


def write_run(folder, seed, **changes):
    """A workdir of a random network; returns its weights."""
    config = small_config(**{"class_names": NAMES, **changes})
    write_config(config, folder)
    save_weights(randomize(build_model(config), seed), folder / "best.npz")
    return read_weights(folder / "best.npz")


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path / "a", 0)
    return tmp_path / "a"


def test_the_mean_of_two_runs_by_hand(run, tmp_path, capsys):
    """The second one's classes stand in another order."""
    ours = read_weights(run / "best.npz")
    theirs = write_run(tmp_path / "b", 1, class_names=[NAMES[i] for i in ORDER])
    runs = [str(run), str(tmp_path / "b")]
    average.main([*runs, f"--output_dir={tmp_path / 'mean'}", "--batches=0"])
    result = read_weights(tmp_path / "mean" / "best.npz")
    assert result.keys() == ours.keys()
    for name, value in result.items():
        second = theirs[name]
        if name.startswith("logits"):
            second = np.stack([second[..., ORDER.index(i)] for i in range(5)], -1)
        np.testing.assert_allclose(value, (ours[name] + second) / 2, atol=1e-7)
    assert read_config(tmp_path / "mean") == read_config(run)
    assert f"evaluate.py --workdir={tmp_path / 'mean'}" in capsys.readouterr().out


def test_a_workdir_counts_once(run, tmp_path):
    with pytest.raises(ValueError, match="of a mean once. Received twice: "):
        average.average([str(run), f"{run}/"], str(tmp_path / "mean"), num_batches=0)


@pytest.mark.parametrize("name", ["best.npz", "last.npz", "log.csv"])
def test_a_mean_replaces_nothing_of_a_run(name, run, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / name).write_bytes(b"of a run")
    with pytest.raises(ValueError, match="holds a run already"):
        average.average([str(run)], str(kept), num_batches=0)
    assert (kept / name).read_bytes() == b"of a run"
    assert [path.name for path in kept.iterdir()] == [name]


def test_training_does_not_replace_a_mean(run, tmp_path):
    """Its configuration is the first run's, but it has no state to go on from."""
    mean = str(tmp_path / "mean")
    config = average.average([str(run)], mean, num_batches=0)
    before = (tmp_path / "mean" / "best.npz").read_bytes()
    with pytest.raises(ValueError, match="would replace these weights.*--init="):
        claim_workdir(config, mean)
    assert (tmp_path / "mean" / "best.npz").read_bytes() == before


@pytest.mark.parametrize("frozen", [False, "backbone"])
def test_batch_norm_is_estimated_on_training_batches(frozen, tmp_path, monkeypatch):
    """By hand for the first layer: mean over batches, N / (N - 1). Frozen, it stays."""
    before = write_run(tmp_path / "a", 0, frozen_batch_norm=frozen)
    images = image_batch(33, 33, 6).reshape(3, 2, 33, 33, 3)
    data = types.SimpleNamespace(
        train_batches=lambda: tf.data.Dataset.from_tensor_slices((images, images))
    )
    monkeypatch.setattr(run_data, "select_run_data", lambda config: (config, data))
    average.average([str(tmp_path / "a")], str(tmp_path / "new"), num_batches=2)
    result = read_weights(tmp_path / "new" / "best.npz")
    changed = {name for name in result if (result[name] != before[name]).any()}
    moving = {name for name in before if "/moving_" in name}
    if frozen:
        assert changed == {name for name in moving if is_of_head(name)} != set()
        return
    assert changed == moving
    model = build_model(read_config(tmp_path / "new"))
    load_weights(model, tmp_path / "new" / "best.npz")
    stem = keras.Model(model.input, model.get_layer("tiny_stem_conv").output)
    features = [np.asarray(stem(i), np.float64).reshape(-1, 8) for i in images[:2]]
    expected = np.mean([f.var(0, ddof=1) for f in features], 0)
    np.testing.assert_allclose(
        result["tiny_stem_bn/moving_variance"], expected, rtol=2e-4
    )


def test_fewer_batches_than_asked_for_are_an_error(run, tmp_path, monkeypatch):
    images = image_batch(33, 33, 2)
    data = types.SimpleNamespace(
        train_batches=lambda: tf.data.Dataset.from_tensors((images, images))
    )
    monkeypatch.setattr(run_data, "select_run_data", lambda config: (config, data))
    with pytest.raises(ValueError, match="Expected 2 batches .* Received: 1"):
        average.average([str(run)], str(tmp_path / "new"), num_batches=2)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"multi_grid": (1,)}, "of one network. .*b differs from .*a in multi_grid"),
        ({"class_names": (*NAMES[:4], "bus")}, "same classes. .*pole; .*bus"),
        ({"num_classes": 4, "class_names": NAMES[:4]}, "same classes. .*pole; .*tree$"),
    ],
)
def test_runs_that_do_not_fit_together(changes, sentence, run, tmp_path):
    other = dataclasses.replace(read_config(run), **changes)
    write_config(other, tmp_path / "b")
    with pytest.raises(ValueError, match=sentence):
        average.average([str(run), str(tmp_path / "b")], str(tmp_path / "new"))


def test_a_run_is_never_written_over(run):
    with pytest.raises(SystemExit, match="holds a run already: give another --output"):
        average.main([str(run), f"--output_dir={run}"])
