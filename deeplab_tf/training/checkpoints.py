"""Checkpoints of a run that survive a kill at any moment."""

from __future__ import annotations

import errno
import os
import re
import shutil

import tensorflow as tf

_NAME = re.compile(r"(\d{6})-step-(\d+)")
_STATE = "state"


def list_checkpoints(folder: str | os.PathLike) -> list[str]:
    """Returns the names of the checkpoints in a folder, the oldest first."""
    present = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name for name in present if _NAME.fullmatch(name))


def last_step(folder: str | os.PathLike) -> int:
    """The step of the newest checkpoint in a folder; 0 where there is none."""
    names = list_checkpoints(folder)
    return int(_NAME.fullmatch(names[-1])[2]) if names else 0


class CheckpointFolder:
    """Numbered checkpoints, each a folder that appears whole or not at all.

    `<folder>/000012-step-4000/`. A checkpoint is written under a temporary name and
    renamed; the oldest goes when a newer one is there.

    Args:
      folder: made where needed.
      checkpoint: what is saved and restored.
      keep: how many stay.
    """

    def __init__(
        self, folder: str | os.PathLike, checkpoint: tf.train.Checkpoint, keep: int = 3
    ):
        self.folder = os.fspath(folder)
        self.keep = keep
        self._checkpoint = checkpoint

    def save(self, step: int) -> str:
        """Writes a checkpoint; returns its path.

        Raises:
          OSError: the disk is full or cannot be written; those from before stay.
        """
        names = list_checkpoints(self.folder)
        number = int(_NAME.fullmatch(names[-1])[1]) + 1 if names else 0
        path = os.path.join(self.folder, f"{number:06d}-step-{step}")
        temporary = os.path.join(self.folder, ".temporary")
        shutil.rmtree(temporary, ignore_errors=True)
        os.makedirs(temporary)
        try:
            self._checkpoint.write(os.path.join(temporary, _STATE))
            os.rename(temporary, path)
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            full = os.strerror(errno.ENOSPC)  # in the middle of TensorFlow's message
            reason = full if full in str(error) else error
            last = (
                f"The last one there is {names[-1]}." if names else "There is no other."
            )
            raise OSError(
                f"The checkpoint of step {step} cannot be written to {self.folder}: "
                f"{reason}. {last}"
            ) from error
        for name in names[: max(0, len(names) + 1 - self.keep)]:
            shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)
        return path

    def restore(self) -> str | None:
        """Restores the newest checkpoint that can be read; None where there is none.

        Says so where it has to go back to an older one.

        Raises:
          ValueError: there are checkpoints, and none can be read.
        """
        names = list_checkpoints(self.folder)
        for name in reversed(names):
            path = os.path.join(self.folder, name)
            try:
                status = self._checkpoint.read(os.path.join(path, _STATE))
                status.assert_existing_objects_matched()
                return path
            # TensorFlow turns some errors of damaged files into Python's own.
            except (tf.errors.OpError, ValueError, AssertionError, IndexError) as error:
                print(f"{path} cannot be read, trying the one before it: {error}")
        if names:
            raise ValueError(
                f"None of the {len(names)} checkpoints in {self.folder} can be read. "
                "Remove the folder to begin again, or give another --workdir."
            )
        return None
