"""The command line that the builders of published data sets share.

Beside the flags of every builder: the folder of the data set as it is distributed, or
--download to fill it.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from deeplab_tf.data.building import command_line
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.downloads import download

# Flags that are defined here are the caller's: --help lists them among its own.
flags.disclaim_key_flags()


def define_flags(
    folder_help: str,
    folder: str = "input_dir",
    splits_help: str = "Splits to write; default: all that are there.",
) -> None:
    """Defines the flags of every builder and those of `flag_options`.

    Args:
      folder_help: what the folder has to be.
      folder: name of the flag for the data set as it is distributed.
      splits_help: what a split is.
    """
    command_line.define_flags()
    flags.DEFINE_bool(
        "download", False, "Download the data set's public archives and unpack them."
    )
    flags.DEFINE_string(
        "download_dir",
        download.DOWNLOAD_DIR,
        "Folder of the archives and of what is unpacked.",
    )
    flags.DEFINE_string(
        "download_mirror",
        "",
        "http address of a folder with the archives; default: their own addresses.",
    )
    flags.DEFINE_string(folder, None, folder_help)
    flags.DEFINE_list("splits", [], splits_help)


def _mirror() -> str:
    """Returns --download_mirror.

    Raises:
      DatasetError: it is no http address.
    """
    mirror = flags.FLAGS.download_mirror
    if mirror and not mirror.startswith(("http://", "https://")):
        raise DatasetError(
            "Expected --download_mirror to start with http:// or https://. Received: "
            f"{mirror.rpartition('@')[2]}"
        )
    return mirror


def flag_options(name: str, *folders: str) -> dict[str, Any]:
    """Returns the keyword arguments of a builder; downloads what is to be.

    Args:
      name: see `download.prepare`.
      *folders: flags of its folders, the one that it cannot do without first.

    Raises:
      DatasetError: see `download.prepare`; or --download_mirror is no http address.
    """
    args = flags.FLAGS
    found = download.prepare(
        name,
        args.splits,
        download=args.download,
        download_dir=args.download_dir,
        mirror=_mirror(),
        **{folder: args[folder].value for folder in folders},
    )
    return {
        "output_dir": args.output_dir,
        "splits": args.splits,
        **found,
        **command_line.flag_options(),
    }
