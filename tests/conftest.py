"""What the tests share: quiet TensorFlow, the project on the path, real data."""

from __future__ import annotations

import gc
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


def pytest_collection_finish(session):
    """Spares the garbage collector what is imported by now, and stays."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Frees the models of a test before the next one builds others.

    A model is a circle of references, which waits for the collector; TensorFlow's
    allocator gives no memory back, so that a process grows by every model that waits.
    """
    start = time.perf_counter()
    yield
    if time.perf_counter() - start > 0.3:
        gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images that a developer's machine has, and a user's has not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real images of ../shared/data, which are absent here")
    return folder


@pytest.fixture(scope="session", autouse=True)
def tiny_backbone():
    """`tiny` in BACKBONES, in this process, and not among the rows that are tested."""
    from deeplab_tf.networks.backbones import BACKBONES
    from tests.support.networks import TINY_BACKBONE

    BACKBONES["tiny"] = TINY_BACKBONE


@pytest.fixture(scope="session")
def workdir(tmp_path_factory) -> Path:
    """Workdir of a run nobody trained: seeded weights that see several classes."""
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
    generator = np.random.default_rng(0)
    for name, weight in sorted(named_weights(model).items()):
        shape = tuple(weight.shape)
        if name.endswith("kernel"):
            inputs = np.prod(shape[:2] if "depthwise" in name else shape[:3])
            weight.assign(generator.normal(0, np.sqrt(2 / inputs), shape))
        elif name.endswith("beta"):
            weight.assign(generator.normal(0, 0.5, shape))
    path = tmp_path_factory.mktemp("workdir")
    write_config(config, path)
    save_weights(model, path / "best.npz")
    return path


@pytest.fixture(scope="session")
def exported(workdir, tmp_path_factory) -> Path:
    """Version 1 of the run of `workdir`, exported."""
    from deeplab_tf.commands import export

    output_dir = tmp_path_factory.mktemp("exported")
    return Path(export.export_workdir(workdir, output_dir)[0])


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
