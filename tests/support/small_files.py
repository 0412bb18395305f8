"""A disk that is full, as far as one process sees it."""

import contextlib

import pytest


@contextlib.contextmanager
def files_up_to(size: int):
    """Lets this process write no file beyond `size` bytes; needs no special rights."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
