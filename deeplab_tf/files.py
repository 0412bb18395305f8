"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike, mode: str = "w", newline: str | None = None
) -> Iterator[IO]:
    """Opens a temporary file beside `path`, which takes its place when all is written.

    After a failure `path` holds what it held before, and the temporary file is gone.

    Args:
      path: of the file; its folder must be there.
      mode: "w" for text, always UTF-8, or "wb" for bytes.
      newline: as of `open`.

    Raises:
      OSError: the disk is full or cannot be written.
    """
    temporary = f"{os.fspath(path)}.tmp"
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode, encoding=encoding, newline=newline) as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        if not isinstance(error, OSError):
            raise
        # An error of `write` does not say which file it was.
        raise OSError(
            f"{os.fspath(path)} cannot be written: {error.strerror or error}. What was "
            "there before is unchanged. Make room on the disk, then run again."
        ) from error
