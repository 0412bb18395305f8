"""What a `CallError` is called on the wire: its number, gRPC's status, its words."""

from __future__ import annotations

import grpc

from tests.support.c_loader import CallError

INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED = 3, 5, 8
STATUSES = {status.value[0]: status for status in grpc.StatusCode}
_MAX_WORDS = 1024  # they travel in a header


def words_of(error: CallError) -> str:
    """The sentence that a client gets, bounded as TF Serving's are."""
    return str(error)[:_MAX_WORDS]
