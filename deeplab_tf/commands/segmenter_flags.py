"""Flags of the commands that predict: which model, and how it is run."""

from __future__ import annotations

from absl import flags

from deeplab_tf.inference.crf import parse_crf
from deeplab_tf.inference.segmenter import Segmenter, load_segmenter

# --help shows them as flags of the command that defines them by this module.
flags.disclaim_key_flags()


def define_segmenter_flags(default_window: str = "no windows") -> None:
    """Defines them.

    Args:
      default_window: what --help says of images without --window.
    """
    flags.DEFINE_string("workdir", None, "Folder of a run of train.py.")
    flags.DEFINE_string(
        "saved_model", None, "Folder or file of export.py, instead of a run."
    )
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
    flags.DEFINE_bool("crf", False, "Sharpen with the dense CRF of DeepLabV1 and V2.")
    flags.DEFINE_list(
        "crf_parameters", None, "The CRF's w1,sigma_alpha,sigma_beta [4,67,3]."
    )


def segmenter_of(values: flags.FlagValues) -> Segmenter:
    """Loads what the flags ask for; see `load_segmenter`.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: flags that contradict each other, or a value out of range.
    """
    return load_segmenter(
        values.workdir,
        values.saved_model,
        values.output_stride,
        scales=[float(scale) for scale in values.scales],
        flip=values.flip,
        window=values.window,
        overlap=values.overlap,
        crf=parse_crf(values.crf, values.crf_parameters),
    )
