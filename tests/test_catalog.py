"""Every published data set has a builder, and every builder the same manners."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from datasets.sources.catalog import DATASETS
from tests.support.commands import ROOT

BUILDERS = sorted(path.stem for path in (ROOT / "datasets").glob("build_*.py"))
# Drawn or handed over by another package: without files to read.
NO_FILES = ("build_shapes", "build_tfds")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", DATASETS)
def test_each_row_has_a_builder(name):
    sources = [(ROOT / "datasets" / f"{b}.py").read_text("utf-8") for b in BUILDERS]
    assert any(f'"{name}"' in source for source in sources)


@pytest.mark.parametrize("module", ["unpack", "inspect_records"])
def test_help_of_the_other_commands(module):
    shown = run("-m", f"datasets.{module}", "--help").stdout
    assert f"python -m datasets.{module} " in shown and "--output_dir:" in shown


def test_the_old_spelling_of_inspect_says_the_new_one():
    done = run("-m", "datasets.inspect", "runs/data/camvid", "--output_dir=x")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == (
        "datasets.inspect is now called: python -m datasets.inspect_records RECORDS\n"
    )


def test_a_script_of_datasets_shadows_no_module_of_python():
    """Its folder comes first in sys.path: NumPy would import an inspect.py there."""
    script = str(ROOT / "datasets" / "build_folder.py")
    shown = run(script, "--help", PYTHONPATH=str(ROOT))
    assert "--label_colors:" in shown.stdout, shown.stderr


@pytest.mark.parametrize("builder", BUILDERS)
def test_help_lists_own_and_common_flags(builder):
    shown = run("-m", f"datasets.{builder}", "--help").stdout
    assert f"python -m datasets.{builder}" in shown
    common = ["--output_dir", "--num_shards", "--[no]overwrite"]
    if builder not in NO_FILES:
        common += ["--[no]skip_bad", "--runner"]
    assert [flag for flag in common if flag not in shown] == []


def test_builders_are_imported_without_tensorflow():
    # Worker processes import them, and would each wait for it.
    modules = ", ".join(f"datasets.{builder}" for builder in BUILDERS)
    code = f"import sys, {modules}; print('tensorflow' in sys.modules)"
    assert run("-c", code).stdout.strip() == "False"


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_missing_folder_is_a_sentence(builder, tmp_path):
    if builder in NO_FILES:
        pytest.skip("reads no folder")
    absent = tmp_path / "absent"
    flags = {
        "build_voc2012": [f"--devkit_dir={absent}"],
        "build_coco": [f"--input_dir={absent}", "--task=panoptic"],
        "build_coco_json": [f"--annotations={absent}.json"],
        "build_hf": [f"--name={absent}"],
    }.get(builder, [f"--input_dir={absent}"])
    done = run("-m", f"datasets.{builder}", *flags, f"--output_dir={tmp_path}/out")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ") and "absent" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
