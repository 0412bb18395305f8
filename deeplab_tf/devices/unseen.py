"""An NVIDIA card that TensorFlow does not see: why, and the command that cures it.

TensorFlow says little of it, at a level of its log that is off, and computes on the CPU
at a hundredth of the speed. The driver leaves files behind, which are looked at here.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from deeplab_tf.devices.system_files import text_of

# The oldest driver for programs of a CUDA version, by NVIDIA's release notes (Linux).
OLDEST_DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}
_NVIDIA = "0x10de"  # the maker, on the PCI bus
_DISPLAY = "0x03"  # begins the class of a graphics card or an accelerator there
_DRIVER_LIBRARY = "libcuda.so.1"
_LIBRARY_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/local/nvidia/lib64",
    "usr/local/cuda/compat",
    "run/opengl-driver/lib",  # NixOS
    "usr/lib/wsl/lib",
)


class Build(NamedTuple):
    """The installed TensorFlow.

    Attributes:
      version: "2.21.0".
      cuda: CUDA version that it is built with, "" where with none.
      has_libraries: whether CUDA's libraries came with it, as Python packages.
    """

    version: str
    cuda: str
    has_libraries: bool


def installed_build() -> Build:
    """What the TensorFlow of this process is."""
    import tensorflow as tf

    cuda = tf.sysconfig.get_build_info().get("cuda_version", "")
    return Build(
        tf.__version__, cuda if tf.test.is_built_with_cuda() else "", _has_libraries()
    )


def _has_libraries() -> bool:
    try:
        return importlib.util.find_spec("nvidia.cudnn") is not None
    except ModuleNotFoundError:
        return False


def explain_unseen_card(
    build: Build,
    root: str | os.PathLike = "/",
    environment: Mapping[str, str] = os.environ,
) -> str:
    """Says why TensorFlow sees no GPU where an NVIDIA card is; "" where none is.

    Args:
      build: the TensorFlow that sees none.
      root: where /proc, /dev and the rest lie.
      environment: variables of the process.
    """
    machine = _Machine(Path(root))
    if not machine.has_card():
        return ""
    cause = _cause(build, machine, environment)
    return f"TensorFlow does not see {machine.name_card()}: {cause}"


class _Machine:
    """Traces of a card and its driver in a file system."""

    def __init__(self, root: Path):
        self.root = root
        self.driver = self._driver_version()
        self.in_wsl = (root / "dev/dxg").exists()
        self.nodes = sorted((root / "dev").glob("nvidia[0-9]*"))
        self.in_container = any(
            (root / name).exists() for name in (".dockerenv", "run/.containerenv")
        )

    def has_card(self) -> bool:
        if self.in_wsl:  # /dev/dxg is any maker's card
            return self.has_driver_library()
        return bool(self.driver or self.nodes or self.is_on_bus())

    def has_driver_library(self) -> bool:
        return any(
            (self.root / folder / _DRIVER_LIBRARY).exists()
            for folder in _LIBRARY_FOLDERS
        )

    def is_on_bus(self) -> bool:
        return any(
            text_of(device / "vendor") == _NVIDIA
            and text_of(device / "class").startswith(_DISPLAY)
            for device in (self.root / "sys/bus/pci/devices").glob("*")
        )

    def name_card(self) -> str:
        known = self.root / "proc/driver/nvidia/gpus"
        texts = [text_of(path) for path in sorted(known.glob("*/information"))]
        names = [found[1] for text in texts if (found := _MODEL.search(text))]
        name = f"this machine's {names[0]}" if names else "this machine's NVIDIA card"
        return name + (f" (driver {self.driver})" if self.driver else "")

    def _driver_version(self) -> str:
        text = text_of(self.root / "proc/driver/nvidia/version")
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
        return found[1] if found else ""


_MODEL = re.compile(r"^Model:\s*(.+?)\s*$", re.MULTILINE)


def _cause(build: Build, machine: _Machine, environment: Mapping[str, str]) -> str:
    """The first cause that is found, with its cure."""
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and not re.match(r"\s*(\d|GPU-|MIG-)", hidden):
        return (
            f'CUDA_VISIBLE_DEVICES is "{hidden}", which hides all cards. Run: unset '
            "CUDA_VISIBLE_DEVICES"
        )
    if not build.cuda:
        return (
            f"this TensorFlow {build.version} is built without CUDA. Run: "
            f"{_install(build)}"
        )
    if not machine.in_wsl and not (machine.driver or machine.nodes):
        return (
            "its driver is not loaded. Install NVIDIA's driver, version "
            f"{_oldest_driver(build)} or newer, and start the machine again."
        )
    if not machine.in_wsl and not machine.nodes:
        if machine.in_container:
            return (
                "this container was started without it. Start it with: docker run "
                "--gpus all ..."
            )
        return "it has no /dev/nvidia0. Run, as root: nvidia-modprobe -u -c=0"
    oldest = _oldest_driver(build)
    if machine.driver and _numbers(machine.driver) < _numbers(oldest):
        return (
            f"its driver is too old for CUDA {build.cuda} of this TensorFlow "
            f"{build.version}. Install NVIDIA's driver, version {oldest} or newer."
        )
    if machine.nodes and not any(
        os.access(n, os.R_OK | os.W_OK) for n in machine.nodes
    ):
        return (
            f"this user may not open {_shown(machine)}. Run: sudo usermod -aG "
            "$(stat -c %G /dev/nvidia0) $USER, and log in again."
        )
    if not build.has_libraries:
        return f"CUDA's libraries are not installed. Run: {_install(build)}"
    return (
        "its driver and CUDA's libraries are there. nvidia-smi must name the card; and "
        f'TensorFlow says more in TF_CPP_MIN_LOG_LEVEL=0 python -c "{CHECK}"'
    )


# One line that shows what TensorFlow sees; docs/install.md has it too.
CHECK = "import tensorflow as tf; print(tf.config.list_physical_devices('GPU'))"


def _install(build: Build) -> str:
    return f'pip install "tensorflow[and-cuda]=={build.version}"'


def _oldest_driver(build: Build) -> str:
    newest = max(OLDEST_DRIVERS, key=int)
    return OLDEST_DRIVERS.get(build.cuda.partition(".")[0], OLDEST_DRIVERS[newest])


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _shown(machine: _Machine) -> str:
    return f"/{machine.nodes[0].relative_to(machine.root)}"
