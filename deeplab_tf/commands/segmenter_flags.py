"""Flags of the commands that predict: which model, and how it is run."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from absl import flags

from deeplab_tf.commands.device_flags import (
    begin_on_cpu,
    begin_on_devices,
    define_device_flags,
)
from deeplab_tf.commands.sizes import parse_size
from deeplab_tf.devices.memory import out_of_memory_named
from deeplab_tf.inference.crf import parse_crf
from deeplab_tf.inference.runtimes import is_runtime_file
from deeplab_tf.inference.segmenter import Segmenter, load_segmenter
from deeplab_tf.strangers_words import printable
from deeplab_tf.weights.pretrained import pretrained_workdir
from deeplab_tf.workdir import check_each_once

# --help shows them as flags of the command that defines them by this module.
flags.disclaim_key_flags()

SMALL_WINDOW = 257  # pixels, below which windows see too little around them


def define_segmenter_flags(default_window: str = "no windows") -> None:
    """Defines them.

    Args:
      default_window: what --help says of images without --window.
    """
    define_device_flags()
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of a run of train.py; of several, between commas, probabilities are "
        "averaged.",
    )
    flags.DEFINE_string(
        "saved_model", None, "Folder or file of export.py, instead of a run."
    )
    define_pretrained_flag()
    flags.DEFINE_integer(
        "output_stride", None, "Output stride: 8, 16 or 32 [the run's]."
    )
    flags.DEFINE_list("scales", ["1"], "Image scales to average over.")
    flags.DEFINE_bool("flip", False, "Average with the mirrored image.")
    flags.DEFINE_integer(
        "window", None, f"Side of the windows of larger images [{default_window}]."
    )
    flags.DEFINE_integer(
        "overlap", None, "Pixels that windows share [a quarter of a window]."
    )
    flags.DEFINE_list(
        "pad_to",
        None,
        "Size, or height,width, that smaller images are padded to, as the papers "
        "evaluate [own size].",
    )
    flags.DEFINE_bool("crf", False, "Sharpen with the dense CRF of DeepLabV1 and V2.")
    flags.DEFINE_list(
        "crf_parameters",
        None,
        "The CRF's w1,sigma_alpha,sigma_beta, and others by name "
        "[4,67,3,w2=3,sigma_gamma=3,iterations=10].",
    )


def define_hide_flag() -> None:
    flags.DEFINE_list(
        "hide",
        None,
        "Names of classes that pictures leave clear; --hide= paints all [background].",
    )


def hidden_names(values: flags.FlagValues) -> tuple[str, ...] | None:
    """The names of --hide; None where it is not given, which is the background."""
    return None if values.hide is None else tuple(filter(None, values.hide))


def segmenter_of(
    values: flags.FlagValues, workdirs: Sequence[str] | None = None
) -> Segmenter:
    """Loads what the flags ask for, and says so first; see `load_segmenter`.

    Args:
      values: of the flags.
      workdirs: of `workdirs_of`, where they are known already: a packed network's
        files are compared with their hashes each time.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: flags that contradict each other, or a value out of range.
    """
    workdirs = workdirs_of(values) if workdirs is None else workdirs
    place = ", ".join(workdirs) or values.saved_model
    if place:
        print(f"Loading {printable(place)} ...", flush=True)
    return load_segmenter(
        workdirs,
        values.saved_model,
        values.output_stride,
        scales=parse_scales(values.scales),
        flip=values.flip,
        window=values.window,
        overlap=values.overlap,
        crf=parse_crf(values.crf, values.crf_parameters),
        pad_to=parse_size("--pad_to", values.pad_to) if values.pad_to else None,
    )


def define_pretrained_flag() -> None:
    """Defines --pretrained."""
    flags.DEFINE_string(
        "pretrained",
        None,
        "Name of a published network (docs/zoo.md), or a packed one's folder, address "
        "or hf:OWNER/NAME.",
    )


def workdir_of(values: flags.FlagValues) -> str | None:
    """Returns --workdir, or that of --pretrained, which is fetched where needed.

    Raises:
      ImportError, OSError, ValueError: see `pretrained_workdir`; or more than one of
        the flags that name a network.
    """
    if not values.pretrained:
        return values.workdir
    if values.workdir or getattr(values, "saved_model", None):
        raise ValueError("Give --pretrained alone, without another network.")
    return pretrained_workdir(values.pretrained)


def workdirs_of(values: flags.FlagValues) -> list[str]:
    """Returns the folders of --workdir, or that of --pretrained; none of neither.

    A folder whose name holds commas is one.

    Raises:
      ImportError, OSError, ValueError: as of `workdir_of`; or one is given twice.
    """
    workdir = os.fspath(workdir_of(values) or "")
    if values.pretrained or os.path.isdir(workdir):
        return [workdir]
    workdirs = [part.strip() for part in workdir.split(",") if part.strip()]
    check_each_once(workdirs, "--workdir")
    return workdirs


def begin_segmenter(values: flags.FlagValues) -> None:
    """Prints what the network will be run on; call it before anything else."""
    if values.saved_model and is_runtime_file(values.saved_model):
        begin_on_cpu(os.path.splitext(values.saved_model)[1])
    else:
        begin_on_devices(values)


def out_of_memory_advised(values: flags.FlagValues):
    """Returns a context that says of too little memory which of the flags to lower."""
    return out_of_memory_named(lambda: _what_to_lower(values))


def _what_to_lower(values: flags.FlagValues) -> str:
    ways = []
    if getattr(values, "batch_size", 1) > 1:
        ways.append("--batch_size=1")
    if values.window is None:
        ways.append("--window=513, which runs larger images in pieces")
    elif values.window > SMALL_WINDOW:
        ways.append(f"a smaller --window than {values.window}")
    if getattr(values, "pad_to", None):
        ways.append("a smaller --pad_to, or none")
    largest = max(map(float, values.scales))
    if largest > 1:
        ways.append(f"--scales without {largest:g}")
    if values.output_stride == 8:
        ways.append("--output_stride=16")
    return f"Try {', or '.join(ways)}." if ways else "It needs another machine."


def parse_scales(scales: Sequence[str]) -> list[float]:
    """["0.5", "1"] -> [0.5, 1.0].

    Raises:
      ValueError: one is no number.
    """
    try:
        return [float(scale) for scale in scales]
    except ValueError:
        raise ValueError(
            "Expected --scales as numbers between commas, such as 0.75,1,1.25. "
            f"Received: {','.join(scales)}"
        ) from None


def pixels_of(megapixels: float) -> int:
    """Returns the pixels of --max_megapixels.

    Raises:
      ValueError: it is no number of pixels.
    """
    if not math.isfinite(megapixels):
        raise ValueError(f"Expected --max_megapixels=16, say. Received: {megapixels}")
    return int(megapixels * 1e6)
