"""Printing that ends no work: a closed terminal, `| head`, letters it cannot show."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


class _SteadyStream:
    """A text stream whose failures to write are nobody's concern.

    After the first one nothing more is written there.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:  # of a terminal that shows ASCII alone
            encoding = self._stream.encoding or "ascii"
            plain = text.encode(encoding, "backslashreplace").decode(encoding)
            return self._stream.write(plain)
        except (OSError, ValueError):
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self):
        """Lets what is left in buffers, and Python's own flush at the end, go away."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def steady_output() -> Iterator[None]:
    """Lets no print inside the block raise: the work is worth more than its words."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_SteadyStream, before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before
