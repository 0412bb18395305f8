"""The command `weights`: imports a file, packs a workdir, or lists what is published.

TensorFlow is imported by the part that needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the part that arguments name; those of the command line where None is."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--list"]:
        from deeplab_tf.weights.published import describe_published

        print(describe_published())
    elif arguments[:1] == ["pack"]:
        from deeplab_tf.weights import packing

        packing.main(arguments[1:])
    else:
        from deeplab_tf.weights import importing

        importing.main(arguments)
