"""Old names of modules: in code, and in .keras files that were written with them."""

import importlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tensorflow import keras

from deeplab_tf.evaluation.metrics import MeanIoU
from deeplab_tf.moved import MOVED
from deeplab_tf.networks import layers
from deeplab_tf.networks.blocks import conv_bn_relu
from deeplab_tf.training.losses import SegmentationLoss
from deeplab_tf.training.schedules import PolySchedule
from tests.support.networks import image_batch, randomize

ROOT = Path(__file__).resolve().parent.parent
# Where a .keras file of before the rooms says that a class is.
OLD_MODULES = {
    "deeplab_tf.networks.batch_normalization": "deeplab_tf.layers",
    "deeplab_tf.networks.layers": "deeplab_tf.layers",
    "deeplab_tf.training.losses.cross_entropy": "deeplab_tf.losses",
    "deeplab_tf.evaluation.metrics": "deeplab_tf.metrics",
    "deeplab_tf.training.schedules": "deeplab_tf.optimizers",
}
# In the two orders that a user's imports may have.
IMPORTS = {
    "first": "import deeplab_tf\nfrom tensorflow import keras\n",
    "last": "from tensorflow import keras\nimport deeplab_tf\n",
}
LOAD = """
import sys

import numpy as np

folder = sys.argv[1]
model = keras.models.load_model(f"{folder}/old.keras")
batch = np.load(f"{folder}/batch.npz")
np.savez(
    f"{folder}/loaded.npz",
    logits=model.predict(batch["images"], verbose=0),
    scores=model.evaluate(batch["images"], batch["labels"], verbose=0),
    updates=int(model.optimizer.iterations.numpy()),
    schedule=str(model.optimizer.get_config()["learning_rate"]["config"]),
)
"""


def make_model():
    """One layer of each kind, compiled with our loss, metric and schedule."""
    image = keras.Input([16, 16, 3])
    x = layers.ImageNormalization("torch")(image)
    x = layers.ScaleImage(0.5)(x)
    x = conv_bn_relu(x, 8, 3, rate=2, name="conv")
    x = layers.AtrousDepthwiseConv2D(3, padding="same", dilation_rate=2)(x)
    x = layers.StatelessDropout(0.5)(x)
    x = layers.AtrousConv2D(3, 1, name="logits")(x)
    model = keras.Model(image, layers.ResizeLike(2)([x, image]))
    optimizer = keras.optimizers.SGD(PolySchedule(0.5, 10), momentum=0.9)
    model.compile(optimizer, SegmentationLoss(label_stride=2), metrics=[MeanIoU(3)])
    return randomize(model)


def with_old_modules(source, target) -> set[str]:
    """Copies a .keras file under the module names of before; returns those it has."""
    found = set()

    def rename(value):
        if isinstance(value, list):
            return [rename(part) for part in value]
        if not isinstance(value, dict):
            return value
        renamed = {key: rename(part) for key, part in value.items()}
        if str(value.get("module")).startswith("deeplab_tf."):
            renamed["module"] = OLD_MODULES[value["module"]]
            found.add(renamed["module"])
        return renamed

    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                data = json.dumps(rename(json.loads(data))).encode()
            new.writestr(name, data)
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder of old.keras and what to ask it, what the model answers)."""
    folder = tmp_path_factory.mktemp("keras")
    model = make_model()
    images = image_batch(16, 16, batch=2)
    labels = np.random.default_rng(0).integers(0, 3, [2, 16, 16])
    model.fit(images, labels, epochs=2, verbose=0)  # the file holds this state
    model.save(folder / "new.keras")
    renamed = with_old_modules(folder / "new.keras", folder / "old.keras")
    assert renamed == set(OLD_MODULES.values())
    np.savez(folder / "batch.npz", images=images, labels=labels)
    return folder, {
        "logits": model.predict(images, verbose=0),
        "scores": model.evaluate(images, labels, verbose=0),
        "updates": 2,
        "schedule": str(PolySchedule(0.5, 10).get_config()),
    }


@pytest.mark.two_lanes
@pytest.mark.parametrize("order", IMPORTS)
def test_keras_files_of_before_load_after_importing_deeplab_tf_alone(order, written):
    folder, expected = written
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS[order] + LOAD, os.fspath(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = np.load(folder / "loaded.npz")
    for name in ("logits", "scores"):
        np.testing.assert_allclose(loaded[name], expected[name], rtol=1e-5, atol=1e-5)
    for name in ("updates", "schedule"):
        assert loaded[name] == expected[name]


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_imports_and_warns(old, monkeypatch):
    name = f"deeplab_tf.{old}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{name} has moved to deeplab_tf"):
        module = importlib.import_module(name)
    assert module is importlib.import_module(f"deeplab_tf.{MOVED[old]}")


def test_an_unknown_name_is_still_an_error():
    with pytest.raises(ModuleNotFoundError, match="deeplab_tf.nothing"):
        importlib.import_module("deeplab_tf.nothing")
