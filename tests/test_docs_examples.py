"""The curl and Python examples of docs/serving.md, run against the stand-in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.inference.segmenter import load_segmenter
from deeplab_tf.pictures.images import read_image
from serving.client import Client
from tests.support.serving_stand_in import running

pytestmark = pytest.mark.two_lanes

ROOT = Path(__file__).resolve().parent.parent
SERVING = (ROOT / "docs/serving.md").read_text()
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", SERVING, re.M | re.S)
CURL = [text for kind, text in BLOCKS if kind == "bash"]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    """A stand-in that serves as serving/models.config says."""
    config = tmp_path_factory.mktemp("config") / "models.config"
    text = (ROOT / "serving/models.config").read_text()
    config.write_text(text.replace("/models/deeplab", str(exported.parent)))
    flags = (
        f"--model_config_file={config}",
        "--allow_version_labels_for_unavailable_models",
    )
    with running(*flags) as process:
        yield process


@pytest.fixture
def run(server, photos, tmp_path):
    """run(command, example) -> its output; photo.jpg and no_image.jpg are there."""
    shutil.copy(photos / "drawn.jpg", tmp_path / "photo.jpg")
    (tmp_path / "no_image.jpg").write_bytes(b"no image")

    def run_example(command, example):
        ports = {"8501": server.rest.rpartition(":")[2]}
        ports["8500"] = server.grpc.rpartition(":")[2]
        for documented, actual in ports.items():
            example = example.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{actual}")
        done = subprocess.run(
            [*command, example],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert '"error"' not in done.stdout
        return done.stdout

    return run_example


@pytest.mark.parametrize("index", range(len(CURL)))
def test_curl(index, server, run, exported, tmp_path):
    for program in ("bash", "curl", "base64"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    example = CURL[index]
    if "metrics" in example:  # of requests: there is one
        Client(server.rest).metadata()
    said = run(["bash", "-euo", "pipefail", "-c"], example)
    if "classes.png" in example:
        segmenter = load_segmenter(None, str(exported))
        expected = segmenter.predict(read_image(tmp_path / "photo.jpg"))
        classes = np.asarray(Image.open(tmp_path / "classes.png"))
        np.testing.assert_array_equal(classes, expected)
    elif "metadata" in example:
        assert "horse" in said and "deeplab_v3" in said
    elif "metrics" in example:
        counted = r'request_count\{model_name="deeplab",status="OK"\} [1-9]'
        assert re.search(counted, said)
    else:
        assert '"state": "AVAILABLE"' in said


@pytest.mark.parametrize("index", range(len(PYTHON)))
def test_python(index, run):
    said = run([sys.executable, "-c"], PYTHON[index])
    assert "(70, 90)" in said
    if "no_image.jpg" in PYTHON[index]:
        assert "no_image.jpg: Expected a JPEG or PNG image." in said


def test_the_examples_were_found():
    assert (len(CURL), len(PYTHON)) == (5, 2)
