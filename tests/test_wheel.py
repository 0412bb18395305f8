"""The wheel in an environment of its own: all that the checkout can do, without it.

The environment sees the packages that this one has, as downloading them again takes
minutes; `make wheel-test` installs them and names its environment in WHEEL_ENVIRONMENT.
The commands that train, evaluate, export and predict are run there alone: those of the
checkout are tested in every lane.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BIN = "Scripts" if os.name == "nt" else "bin"
DATA_FILES = ("prediction/page_files", "evaluation/report_files")


def run(*command, cwd) -> str:
    """Runs a command as a user does who has no checkout; returns what it prints."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The sdist, the wheel made of it, and the wheel made of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for pattern in ("*.py", "*.toml", "*.in", "*.md", "*.txt", "LICENSE"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, source)
    for name in ("deeplab_tf", "datasets", "tests"):
        # Not what an editable install or a run has left there.
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    build = sys.executable, "-m", "build", "--no-isolation", "--outdir"
    run(*build, folder / "dist", cwd=source)
    run(*build, folder / "direct", "--wheel", cwd=source)
    found = {
        "sdist": (folder / "dist").glob("*.tar.gz"),
        "wheel": (folder / "dist").glob("*.whl"),
        "direct": (folder / "direct").glob("*.whl"),
    }
    return {name: next(paths) for name, paths in found.items()}


def contents(wheel: Path) -> dict[str, int]:
    """Name of each file -> checksum of its bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.CRC for info in archive.infolist()}


def test_the_sdist_makes_the_wheel_that_the_checkout_makes(built):
    assert contents(built["wheel"]) == contents(built["direct"])


def test_the_wheel_holds_every_module_and_nothing_else(built):
    expected = {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("deeplab_tf/**/*.py")
    }
    for pattern in ("*.py", "sources/*.py"):
        for path in ROOT.glob(f"datasets/{pattern}"):
            expected.add(f"deeplab_tf/{path.relative_to(ROOT).as_posix()}")
    for folder in DATA_FILES:
        for path in (ROOT / "deeplab_tf" / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(path.relative_to(ROOT).as_posix())
    names = {name for name in contents(built["wheel"]) if ".dist-info/" not in name}
    assert names == expected


def test_the_sdist_holds_what_belongs_to_it(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "requirements.txt"} <= names
    assert {"datasets/build_folder.py", "datasets/sources/voc_devkit.py"} <= names
    assert not any(name.startswith("tests") for name in names)


def test_an_index_shows_no_links_into_the_checkout(built):
    with zipfile.ZipFile(built["wheel"]) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(name).decode()
    assert "The DeepLab family for TensorFlow 2 and Keras: a folder of images" in text
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []


def test_twine_accepts_both(built):
    said = run(
        *(sys.executable, "-m", "twine", "check", "--strict"),
        *(built["sdist"], built["wheel"]),
        cwd=built["sdist"].parent,
    )
    assert said.count("PASSED") == 2


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory) -> Path:
    """An environment with the wheel, beside a package of the name `datasets`."""
    given = os.environ.get("WHEEL_ENVIRONMENT")
    folder = Path(given).resolve() if given else tmp_path_factory.mktemp("environment")
    python = folder / BIN / "python"
    if not given:
        venv.create(folder, with_pip=False)
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", show, cwd=folder).strip())
    (packages / "datasets").mkdir(exist_ok=True)
    (packages / "datasets" / "__init__.py").write_text("owner = 'another project'")
    if not given:
        shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (packages / "shared.pth").write_text("\n".join(sorted(shared)))
        run(
            *(sys.executable, "-m", "pip", "--python", python, "install"),
            *("--no-deps", "--no-index", built["wheel"]),
            cwd=folder,
        )
    return folder


@pytest.fixture(scope="module")
def console(environment, tmp_path_factory):
    """console(words) runs `deeplab-tf WORDS` in one folder; console.folder is it."""

    def call(words: str) -> str:
        program = environment / BIN / "deeplab-tf"
        return run(program, *words.split(), cwd=call.folder)

    call.folder = tmp_path_factory.mktemp("elsewhere")
    return call


@pytest.fixture(scope="module")
def records(console) -> str:
    console("build shapes --output_dir=scenes --num_train=8 --num_val=2")
    return "scenes"


@pytest.fixture(scope="module")
def trained(console, records) -> str:
    """A workdir of two steps of the demo's network."""
    if not os.environ.get("WHEEL_ENVIRONMENT"):
        pytest.skip("`make wheel-test` runs the commands that train")
    said = console(
        f"train --recipe=demo --data_dir={records} --workdir=run --steps=2 "
        "--batch_size=2 --crop_size=65"
    )
    assert "after 2 steps" in said and "Next: deeplab-tf evaluate" in said
    return "run"


IMPORTS = """
import sys
import datasets
import deeplab_tf.commands.command_line
import deeplab_tf.data.building.dataset
import deeplab_tf.datasets.build_folder
from deeplab_tf.datasets.sources.catalog import DATASETS
from deeplab_tf import moved

assert not {"tensorflow", "keras"} & sys.modules.keys()
assert datasets.owner == "another project"
print(deeplab_tf.datasets.build_folder.__file__)
"""


def test_builders_are_imported_from_the_wheel_and_without_tensorflow(
    environment, tmp_path
):
    path = run(environment / BIN / "python", "-c", IMPORTS, cwd=tmp_path).strip()
    assert Path(path).parts[-3:] == ("deeplab_tf", "datasets", "build_folder.py")
    assert environment in Path(path).parents


def test_the_commands_are_listed(console):
    said = console("--help")
    for command in "train evaluate predict export build inspect weights".split():
        assert f"\n  {command} " in said
    assert "\n  folder " in console("build --help")
    assert "SOURCE" in console("weights --help")


def test_inspect(console, records):
    said = console(f"inspect {records} --output_dir=inspection")
    assert "Split train" in said and "8 images" in said
    assert (console.folder / "inspection" / "train.png").is_file()


def test_train_and_report(console, trained):
    assert (console.folder / trained / "log.csv").is_file()
    assert list((console.folder / trained / "logs").rglob("events.*"))
    console(f"report --workdir={trained}")
    assert (console.folder / trained / "curves.png").is_file()


def test_evaluate(console, trained):
    assert "mean IoU" in console(f"evaluate --workdir={trained}")
    assert (console.folder / trained / "evaluation" / "val.html").is_file()


def test_export_and_predict(console, trained, records):
    console(f"unpack --data_dir={records} --output_dir=pictures --limit=1")
    console(f"export --workdir={trained} --output_dir=exported")
    console("predict --saved_model=exported --input=pictures/images --output=out")
    (classes,) = (console.folder / "out" / "classes").glob("*.png")
    (label,) = (console.folder / "pictures" / "labels").glob("*.png")
    with Image.open(classes) as predicted, Image.open(label) as true:
        assert predicted.size == true.size and predicted.mode == "P"
