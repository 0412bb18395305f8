"""What a run says of its devices, and of cards that TensorFlow does not see."""

import errno
import os

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.commands import device_flags, run_faults
from deeplab_tf.config import TrainConfig
from deeplab_tf.devices import memory, present, replicas, unseen
from deeplab_tf.devices.expected_time import (
    convolution_rate,
    readable_time,
    warn_of_cpu,
)
from deeplab_tf.devices.memory import OutOfMemory, out_of_memory_named
from deeplab_tf.devices.present import Card
from deeplab_tf.recipes import RECIPES
from deeplab_tf.training import loop, strategies

H100 = Card("GPU:0", "NVIDIA H100 80GB HBM3", (9, 0), 81559)
T4 = Card("GPU:1", "Tesla T4", (7, 5), 15360)


@pytest.mark.parametrize(
    "cards, options, line",
    [
        ([], {}, "On the CPU, 2 cores: no GPU found."),
        ([H100], {}, "On GPU:0 NVIDIA H100 80GB HBM3, 80 GB."),
        ([H100, T4], {}, "On GPU:0 NVIDIA H100 80GB HBM3, 80 GB; idle: GPU:1."),
        (
            [H100, T4],
            {"all_cards": True},
            "On GPU:0 NVIDIA H100 80GB HBM3, 80 GB; GPU:1 Tesla T4, 15 GB.",
        ),
        ([H100], {"parts": 2}, "On the CPU, 2 cores, as 2 devices."),
        ([Card("GPU:0")], {}, "On GPU:0."),
    ],
)
def test_the_first_line_names_devices_and_memory(cards, options, line):
    assert present.describe(cards, 2, **options) == line


def test_one_core_is_no_cores():
    assert present.describe([], 1) == "On the CPU, 1 core: no GPU found."


def test_bfloat16_is_offered_where_the_card_has_it():
    assert "--precision=bfloat16" in present.offer_bfloat16([H100], "float32")
    for cards, precision in [
        ([H100], "bfloat16"),
        ([H100], ""),
        ([H100, T4], "float32"),
        ([Card("GPU:0", "AMD")], "float32"),
        ([], "float32"),
    ]:
        assert present.offer_bfloat16(cards, precision) == ""


def test_memory_is_that_of_the_model():
    lines = (
        "NVIDIA H100 80GB HBM3, 81559\nTesla T4, 15360\nTesla T4, 15360\n"
        "GRID, 8192\nGRID, 4096\nNVIDIA GB10, [N/A]\n"
    )
    assert present.memory_of_models(lines) == {
        "NVIDIA H100 80GB HBM3": 81559,
        "Tesla T4": 15360,
    }


def put(root, name, text=""):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, 64),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 64),
        ({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "5000 100000"}, 1),
        ({"sys/fs/cgroup/cpu.max": "9900000 100000"}, 64),
        (
            {
                "proc/self/cgroup": "0::/pods/mine\n",
                "sys/fs/cgroup/pods/mine/cpu.max": "max 100000",
                "sys/fs/cgroup/pods/cpu.max": "400000 100000",
            },
            4,
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            64,
        ),
    ],
)
def test_cores_are_those_the_process_may_use(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    for name, text in files.items():
        put(tmp_path, name, text)
    assert present.count_cores(tmp_path) == cores


# --- Cards that TensorFlow does not see ----------------------------------------------

VERSION = (
    "NVRM version: NVIDIA UNIX {}  {}  Sat Aug 19 01:15:15 UTC 2023\n"
    "GCC version:  gcc version 12.2.0\n"
)
PLAIN = VERSION.format("x86_64 Kernel Module", "535.104.05")
OPEN = VERSION.format("Open Kernel Module for x86_64", "570.124.06")
OLD = VERSION.format("x86_64 Kernel Module", "470.82.01")
CARD = {"dev/nvidia0": "", "proc/driver/nvidia/version": PLAIN}
MODEL = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 110\n"
BARE = unseen.Build("2.21.0", "12.5.1", has_libraries=False)
WHOLE = BARE._replace(has_libraries=True)
WITH_CUDA = 'Run: pip install "tensorflow[and-cuda]==2.21.0"'


@pytest.mark.parametrize(
    "files, build, environment, sentence",
    [
        ({}, BARE, {}, ""),
        (CARD, BARE, {}, f"CUDA's libraries are not installed. {WITH_CUDA}"),
        (
            {**CARD, "proc/driver/nvidia/gpus/0000:01:00.0/information": MODEL},
            BARE,
            {},
            "does not see this machine's NVIDIA H100 80GB HBM3 (driver 535.104.05): "
            "CUDA's",
        ),
        (
            {**CARD, "proc/driver/nvidia/version": OPEN},
            BARE,
            {},
            "NVIDIA card (driver 570.124.06): CUDA's",
        ),
        (
            CARD,
            BARE._replace(cuda=""),
            {},
            f"this TensorFlow 2.21.0 is built without CUDA. {WITH_CUDA}",
        ),
        (
            {**CARD, "proc/driver/nvidia/version": OLD},
            WHOLE,
            {},
            "(driver 470.82.01): its driver is too old for CUDA 12.5.1 of this "
            "TensorFlow 2.21.0. Install NVIDIA's driver, version 525.60.13 or newer.",
        ),
        (
            CARD,
            WHOLE,
            {"CUDA_VISIBLE_DEVICES": ""},
            'CUDA_VISIBLE_DEVICES is "", which hides all cards. Run: unset CUDA_VIS',
        ),
        (CARD, WHOLE, {"CUDA_VISIBLE_DEVICES": "-1"}, 'is "-1", which hides all'),
        (CARD, WHOLE, {"CUDA_VISIBLE_DEVICES": "0"}, "nvidia-smi must name the card"),
        (CARD, WHOLE, {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}, "nvidia-smi must name"),
        (
            {"proc/driver/nvidia/version": PLAIN, ".dockerenv": ""},
            WHOLE,
            {},
            "this container was started without it. Start it with: docker run --gpus",
        ),
        (
            {"proc/driver/nvidia/version": PLAIN},
            WHOLE,
            {},
            "it has no /dev/nvidia0. Run, as root: nvidia-modprobe -u -c=0",
        ),
        (
            {
                "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
                "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n",
            },
            WHOLE,
            {},
            "its driver is not loaded. Install NVIDIA's driver, version 525.60.13",
        ),
        (  # NVIDIA's sound on the bus is no card, nor is another maker's card
            {
                "sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n",
                "sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n",
                "sys/bus/pci/devices/0000:02:00.0/vendor": "0x1002\n",
                "sys/bus/pci/devices/0000:02:00.0/class": "0x030000\n",
            },
            WHOLE,
            {},
            "",
        ),
        (
            {"dev/dxg": "", "usr/lib/wsl/lib/libcuda.so.1": ""},
            BARE,
            {},
            f"NVIDIA card: CUDA's libraries are not installed. {WITH_CUDA}",
        ),
        ({"dev/dxg": ""}, BARE, {}, ""),
    ],
)
def test_an_unseen_card_is_told_with_its_cure(
    tmp_path, files, build, environment, sentence
):
    for name, text in files.items():
        put(tmp_path, name, text)
    told = unseen.explain_unseen_card(build, tmp_path, environment)
    assert sentence in told and bool(sentence) == bool(told)
    assert not told or told.startswith("TensorFlow does not see this machine's ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every file")
def test_a_card_that_this_user_may_not_open_is_told(tmp_path):
    for name, text in CARD.items():
        put(tmp_path, name, text)
    (tmp_path / "dev/nvidia0").chmod(0)
    told = unseen.explain_unseen_card(WHOLE, tmp_path, {})
    assert "this user may not open /dev/nvidia0" in told


def test_the_installed_tensorflow_is_known():
    build = unseen.installed_build()
    assert build.version == tf.__version__
    assert build.cuda.partition(".")[0] in {"", *unseen.OLDEST_DRIVERS}


# --- The start of a command ----------------------------------------------------------


class Flags:
    gpu_memory_limit = None


def test_a_command_begins_with_its_devices(monkeypatch, capsys):
    monkeypatch.setattr(device_flags, "find_cards", lambda: [H100])
    device_flags.begin_on_devices(Flags, precision="float32")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "On GPU:0 NVIDIA H100 80GB HBM3, 80 GB."
    assert second.endswith("--precision=bfloat16.")
    monkeypatch.setattr(Flags, "gpu_memory_limit", 4096)
    device_flags.begin_on_devices(Flags)
    assert capsys.readouterr().out.endswith(" At most 4096 MB of each are taken.\n")


def test_a_card_that_is_missed_is_told_in_the_second_line(monkeypatch, capsys):
    monkeypatch.setattr(device_flags, "find_cards", list)
    monkeypatch.setattr(device_flags, "explain_unseen_card", lambda build: "Missed.")
    device_flags.begin_on_devices(Flags)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("On the CPU, ") and second == "Missed."


@pytest.mark.parametrize("limit", [None, 4096])
def test_memory_grows_or_has_a_limit(monkeypatch, limit):
    done = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind, kind])
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda *given: done.append(given)
    )
    monkeypatch.setattr(
        tf.config,
        "set_logical_device_configuration",
        lambda device, parts: done.append((device, parts[0].memory_limit)),
    )
    memory.set_memory(limit)
    assert done == [("GPU", True if limit is None else limit)] * 2


# --- Recipes that need a GPU ---------------------------------------------------------


def test_the_expected_time_is_computed_as_it_is_told():
    told = warn_of_cpu("deeplab_v3_voc2012", 30_000, 16, int(75e9), 30e9)
    # 30,000 x 16 x 3 x 75e9 / 30e9 = 3.6e6 s = 41.7 days
    assert told.startswith(
        "Recipe deeplab_v3_voc2012 needs a GPU, and there is none: its 30,000 steps "
        "will take about 42 days or more on this CPU (16 images a step, 3 x 75e9 "
    )
    assert readable_time(9000) == "2 hours" and readable_time(5400) == "90 minutes"
    assert readable_time(7200) == "2 hours" and readable_time(1) == "2 minutes"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_convolution_is_timed(precision):
    assert 1e8 < convolution_rate(precision, seconds=0.0) < 1e14


def test_a_gpu_recipe_on_a_cpu_warns(monkeypatch):
    needing = {name for name, recipe in RECIPES.items() if recipe.needs_gpu}
    assert needing == {
        "finetune_resnet50",
        *(name for name in RECIPES if name.startswith("deeplab_v")),
    }
    monkeypatch.setattr(loop, "convolution_rate", lambda precision: 3e9)
    image = tf.keras.Input((None, None, 3))
    model = tf.keras.Model(image, tf.keras.layers.Conv2D(10, 1)(image))
    config = TrainConfig(recipe="finetune_resnet50", steps=1000, crop_size=(1000, 1000))
    # 1,000 steps x 16 images x 3 passes x 30e6 multiply-adds / 3e9 = 480 s
    (told,) = loop.cpu_warnings(model, config, ["CPU:0"])
    assert "its 1,000 steps will take about 8 minutes or more on this CPU" in told
    assert loop.cpu_warnings(model, config, ["GPU:0"]) == []
    assert loop.cpu_warnings(model, TrainConfig(recipe="demo"), ["CPU:0"]) == []
    dense = tf.keras.Model(image, tf.keras.layers.Dense(2)(image))
    assert loop.cpu_warnings(dense, config, ["CPU:0"]) == []


# --- Out of memory -------------------------------------------------------------------

OOM = (
    "OOM when allocating tensor with shape[16,513,513,256] and type float on "
    "/job:localhost/replica:0/task:0/device:GPU:1 by allocator GPU_1_bfc\n\t [[node]]"
)


@pytest.mark.parametrize(
    "error, sentence",
    [
        (
            tf.errors.ResourceExhaustedError(None, None, OOM),
            "Out of memory on GPU:1: a tensor float32 [16, 513, 513, 256], 4.0 GB, did "
            "not fit. Lower it.",
        ),
        (
            tf.errors.ResourceExhaustedError(
                None, None, OOM.replace("float", "bfloat16").replace("GPU:1", "CPU:0")
            ),
            "on this machine: a tensor bfloat16 [16, 513, 513, 256], 2.0 GB, did not",
        ),
        (
            tf.errors.ResourceExhaustedError(
                None, None, "Out of memory while trying to allocate 12884901888 bytes."
            ),
            "Out of memory on this machine: 12.0 GB did not fit. Lower it.",
        ),
        (
            tf.errors.InternalError(
                None, None, "Failed to allocate request for 1.50GiB (1610612736B) on "
                "device ordinal 0"
            ),
            "Out of memory on GPU:0: 1.5 GB did not fit. Lower it.",
        ),
        (
            tf.errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: x"),
            "Out of memory on this machine. Lower it.",
        ),
        (MemoryError(), "Out of memory on this machine. Lower it."),
        (
            MemoryError(
                "Unable to allocate 3.73 GiB for an array with shape (1000, 1000, 1000)"
                " and data type float32"
            ),
            "a tensor float32 [1000, 1000, 1000], 3.7 GB, did not fit. Lower it.",
        ),
        (
            OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
            "Out of memory on this machine. Lower it.",
        ),
    ],
)  # fmt: skip
def test_out_of_memory_is_one_sentence(error, sentence):
    with pytest.raises(OutOfMemory) as told:
        with out_of_memory_named(lambda: "Lower it."):
            raise error
    assert sentence in str(told.value)


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "a; No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "a; Too many open files"),
        tf.errors.InvalidArgumentError(None, None, "Incompatible shapes"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("something else"),
    ],
)
def test_other_errors_are_not_taken_for_it(error):
    with pytest.raises(type(error)) as kept:
        with out_of_memory_named(lambda: "Lower it."):
            raise error
    assert kept.value is error


def test_numpy_is_understood():
    with pytest.raises(OutOfMemory, match=r"float64 \[1073741824, 1048576\], 8388608"):
        with out_of_memory_named(lambda: "Lower it."):
            np.zeros([2**30, 2**20])


def test_what_to_lower_is_what_the_run_has():
    config = TrainConfig(
        recipe="deeplab_v3_voc2012_stage1", batch_size=16, steps=100, output_stride=8
    )
    told = run_faults.what_to_lower(config)
    for way in (
        "--batch_size=8 --set=accumulation_steps=2 --steps=200",
        "--precision=bfloat16",
        "--output_stride=16",
        "--crop_size=385,385",
        "Recipe deeplab_v3_voc2012_stage1 needs: ",
        "14.4 GB of a GPU",
    ):
        assert way in told
    least = TrainConfig(batch_size=2, precision="bfloat16", crop_size=(33, 33))
    for way in ("batch_size", "precision", "output_stride", "crop_size"):
        assert f"--{way}" not in run_faults.what_to_lower(least, replicas=2)


# --- Several devices -----------------------------------------------------------------


@pytest.mark.parametrize(
    "since, words",
    [
        ([None, 2], "of replica 1 on GPU:1 of 2 replicas were not finite first"),
        ([0, 5], "of replica 1 on GPU:1 of 2 replicas were not finite first"),
        ([3, 3], "of all 2 replicas became not finite in the same step"),
        ([None, None], "of each of the 2 replicas were finite: look at their sum"),
    ],
)
def test_the_replica_that_went_bad_is_named(since, words):
    told = replicas.explain_not_finite(since, ["GPU:0", "GPU:1"])
    assert words in told
    for way in ("--cross_device=one_device", "NCCL_P2P_DISABLE=1", "TensorFlow 2.15"):
        assert way in told
    assert replicas.explain_not_finite([], ["GPU:0"]) == ""
    assert "NCCL" not in replicas.explain_not_finite(since, ["CPU:0", "CPU:1"])
    assert replicas.explain_not_finite([], ["GPU:0", "GPU:1"]).startswith("On several")


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("default", {"cross_device": "nccl"}, "Only strategy mirrored takes cross_dev"),
        ("mirrored", {"cross_device": "nccl"}, "sums over NVIDIA's GPUs alone: take"),
        ("mirrored", {"cross_device": "hierarchical"}, "even number of devices.*: 1$"),
        ("mirrored", {"cross_device": "ring"}, "cross_device must be one of"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        strategies.make_strategy(name, **options)
