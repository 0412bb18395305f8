"""The command line that the builders of published data sets share.

Their folders are given by flags, or filled by --download; `downloads.download` says
how.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from deeplab_tf.data.building import dataset
from deeplab_tf.data.downloads import download


def define_flags(
    folder_help: str,
    folder: str = "input_dir",
    splits_help: str = "Splits to write; default: all that are there.",
) -> None:
    """Defines --splits, the folder and the flags of `dataset` and `download`.

    A builder's own `define_flags` calls it, then
    `flags.adopt_module_key_flags(command_line)` so that --help lists these flags too.

    Args:
      folder_help: what the folder has to be.
      folder: name of the flag for the data set as it is distributed.
      splits_help: what a split is.
    """
    for module in (dataset, download):
        module.define_flags()
        flags.adopt_module_key_flags(module)
    flags.DEFINE_string(folder, None, folder_help)
    flags.DEFINE_list("splits", [], splits_help)


def flag_options(name: str, *folders: str) -> dict[str, Any]:
    """Returns the keyword arguments of a builder; downloads what is to be.

    Args:
      name: see `download.prepare`.
      *folders: flags of its folders, the one that it cannot do without first.

    Raises:
      DatasetError: see `download.prepare`.
    """
    args = flags.FLAGS
    given = {folder: args[folder].value for folder in folders}
    found = download.prepare(name, args.splits, **given, **download.flag_options())
    return {
        "output_dir": args.output_dir,
        "splits": args.splits,
        **found,
        **dataset.flag_options(),
    }
