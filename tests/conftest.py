"""What the tests share: quiet TensorFlow, the project on the path, real data."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import sys
import time
from pathlib import Path

import pytest

# Before any test imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def pytest_addoption(parser):
    parser.addoption(
        "--reaching-keras",
        action="store_true",
        help="Skips tests that cannot notice which Keras is installed.",
    )


def pytest_collection_modifyitems(items):
    """Begins with the files that build networks, as the others are soon at an end.

    Two workers that take files from this list come to its end at the same time.
    """
    from tests.support.reached import module_reaches_keras

    items.sort(key=lambda item: not module_reaches_keras(item.path))


def pytest_collection_finish(session):
    """Adds `tiny` to the backbones; spares the garbage collector what is imported."""
    from deeplab_tf.networks.backbones import BACKBONES
    from tests.support.networks import TINY_BACKBONE

    # In this process, and not among the rows that are tested.
    BACKBONES["tiny"] = TINY_BACKBONE
    gc.collect()
    gc.freeze()


def reaches_keras(item) -> bool:
    """Whether something leads to Keras from a test's module, or from its fixtures."""
    from tests.support import reached

    if item.get_closest_marker("reaches_keras"):
        return True
    if reached.module_reaches_keras(item.path):
        return True
    here = Path(__file__)
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    return any(
        reached.source_reaches_keras(inspect.getsource(fixture.func), here)
        for fixture, *_ in fixtures
        if Path(inspect.getfile(fixture.func)) == here
    )


def pytest_runtest_setup(item):
    if item.config.getoption("--reaching-keras") and not reaches_keras(item):
        pytest.skip("nothing leads from it to Keras: lane a has run it")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    from tests.support.reached import keras_forbidden

    with contextlib.nullcontext() if reaches_keras(item) else keras_forbidden():
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Frees the models of a test before the next one builds others.

    A model is a circle of references, which waits for the collector; TensorFlow's
    allocator gives no memory back, so that a process grows by every model that waits.
    What is left then is spared the collector until the file is at its end: TensorFlow
    keeps the graphs of whatever was fitted, and every look at them takes longer.
    """
    start = time.perf_counter()
    yield
    is_last = nextitem is None or nextitem.path != item.path
    if is_last:
        gc.unfreeze()
    if is_last or time.perf_counter() - start > 0.3:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images that a developer's machine has, and a user's has not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real images of ../shared/data, which are absent here")
    return folder


@pytest.fixture(scope="session")
def workdir(tmp_path_factory) -> Path:
    """Workdir of a run nobody trained: seeded weights that see several classes."""
    return _write_run(tmp_path_factory.mktemp("workdir"), 0)


@pytest.fixture(scope="session")
def other_workdir(tmp_path_factory) -> Path:
    """As `workdir`, with other weights."""
    return _write_run(tmp_path_factory.mktemp("other_workdir"), 1)


def _write_run(path: Path, seed: int) -> Path:
    import numpy as np

    from deeplab_tf.config import TrainConfig, write_config
    from deeplab_tf.networks.models import build_model
    from deeplab_tf.networks.weight_files import named_weights, save_weights

    config = TrainConfig(
        backbone="tiny",
        num_classes=4,
        class_names=("background", "cat", "dog", "horse"),
        colormap=((0, 0, 0), (64, 0, 0), (64, 0, 128), (192, 0, 128)),
        precision="bfloat16",
    )
    model = build_model(config)
    generator = np.random.default_rng(seed)
    for name, weight in sorted(named_weights(model).items()):
        shape = tuple(weight.shape)
        if name.endswith("kernel"):
            inputs = np.prod(shape[:2] if "depthwise" in name else shape[:3])
            weight.assign(generator.normal(0, np.sqrt(2 / inputs), shape))
        elif name.endswith("beta"):
            weight.assign(generator.normal(0, 0.5, shape))
    write_config(config, path)
    save_weights(model, path / "best.npz")
    return path


@pytest.fixture(scope="session")
def exported(workdir, tmp_path_factory) -> Path:
    """Version 1 of the run of `workdir`, exported."""
    from deeplab_tf.commands.run_exports import export_workdir

    output_dir = tmp_path_factory.mktemp("exported")
    return Path(export_workdir(workdir, output_dir)[0])


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Folder with drawn.jpg, drawn.png, grey.png and palette.png of three sizes."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(1)
    sizes = {"drawn.jpg": (90, 70), "drawn.png": (64, 96), "grey.png": (33, 50)}
    for name, (width, height) in sizes.items():
        coarse = generator.integers(0, 256, [6, 8, 3], dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
        image.convert("L" if name == "grey.png" else "RGB").save(folder / name)
    Image.open(folder / "drawn.png").quantize(16).save(folder / "palette.png")
    return folder
