"""The command line that all builders share: flags, errors, and how one is run.

A builder's file ends in

    def define_flags() -> None:
        command_line.define_flags()
        flags.DEFINE_...

    def main() -> None:
        build_...(flags.FLAGS.output_dir, ..., **command_line.flag_options())

    def run() -> None:
        run_builder(define_flags, main)

    if __name__ == "__main__":
        run()

Flags are defined by a function rather than on import, so that other programs can import
a builder without getting its flags.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags

from deeplab_tf import quiet
from deeplab_tf.command_names import as_typed, run_with_flags
from deeplab_tf.data.building import beam
from deeplab_tf.data.building.dataset import LOCAL
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.strangers_words import printable

# Flags that are defined here are the caller's: --help lists them among its own.
flags.disclaim_key_flags()


def define_flags() -> None:
    """Defines the flags that all builders have; a builder's own function calls it."""
    flags.DEFINE_string("output_dir", None, "Folder of records to make.", required=True)
    flags.DEFINE_integer(
        "num_shards",
        None,
        "Number of files for each split; default: 4, or more so that none holds over "
        "1,000 pairs.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "num_processes",
        None,
        "Number of worker processes; default: one for each CPU.",
        lower_bound=1,
    )
    flags.DEFINE_bool("skip_bad", False, "Leave out bad pairs instead of failing.")
    flags.DEFINE_bool("overwrite", False, "Replace an existing data set.")
    flags.DEFINE_enum(
        "runner",
        LOCAL,
        [LOCAL, *beam.RUNNERS],
        "Who writes the shards: worker processes here, or a runner of Apache Beam.",
    )
    flags.DEFINE_string(
        "beam_options", "", "Options of Beam's runner, as on a command line."
    )


def flag_options() -> dict[str, Any]:
    """Returns the keyword arguments of `build_dataset` that `define_flags` defines."""
    names = "num_shards num_processes skip_bad overwrite runner beam_options"
    return {name: flags.FLAGS[name].value for name in names.split()}


def run_builder(
    define_builder_flags: Callable[[], None], main: Callable[[], None]
) -> None:
    """Runs a builder with the flags of the command line; does not return.

    Args:
      define_builder_flags: defines them.
      main: builds; a DatasetError ends the process with its sentence alone.
    """

    def checked_main(arguments):
        if arguments[1:]:
            received = " ".join(arguments[1:])
            raise app.UsageError(f"Expected flags only. Received: {received}")
        # SIGTERM raises SystemExit, so that the half-written shard is removed.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            main()
        except DatasetError as error:
            sys.exit(f"Error: {printable(as_typed(str(error)))}")

    quiet.install()
    run_with_flags(define_builder_flags, checked_main)
