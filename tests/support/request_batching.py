"""TF Serving's batching: requests that wait at the same time are run as one.

A batch is closed when it is full or when its first request has waited long enough. The
tensors of its requests are joined along their first axis, repeated up to the next
allowed size, and the results are cut again.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Mapping, Sequence

from google.protobuf import text_format

from tests.support.c_loader import TF_STRING, CallError, Tensor
from tests.support.serving_messages import message_type

INVALID_ARGUMENT, FAILED_PRECONDITION, UNAVAILABLE = 3, 9, 14


def read_parameters(text: str):
    """Text of a BatchingParameters -> the message, with TF Serving's defaults.

    Raises:
      ValueError: sizes that TF Serving refuses at its start.
    """
    parameters = text_format.Parse(text, message_type("BatchingParameters")())
    for name, default in (
        ("max_batch_size", 1000),
        ("batch_timeout_micros", 0),
        ("max_enqueued_batches", 10),
        ("num_batch_threads", 1),
    ):
        if not parameters.HasField(name):
            getattr(parameters, name).value = default
    sizes, largest = parameters.allowed_batch_sizes, parameters.max_batch_size.value
    if sizes and (sorted(set(sizes)) != list(sizes) or sizes[-1] != largest):
        raise ValueError(
            "Expected allowed_batch_sizes that grow up to max_batch_size "
            f"({largest}). Received: {list(sizes)}"
        )
    return parameters


@dataclasses.dataclass
class _Request:
    feeds: Mapping[str, Tensor]
    size: int
    done: threading.Event = dataclasses.field(default_factory=threading.Event)
    results: list[Tensor] | None = None
    error: Exception | None = None


@dataclasses.dataclass
class _Batch:
    fetches: Sequence[str]
    deadline: float
    requests: list[_Request] = dataclasses.field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(request.size for request in self.requests)


class BatchingSession:
    """A session whose `run` joins what several threads ask for at the same time.

    Args:
      session: what runs a batch, `c_loader.Session` or alike.
      parameters: of `read_parameters`.
    """

    def __init__(self, session, parameters):
        self.session = session
        self.parameters = parameters
        self._change = threading.Condition()
        self._waiting: list[tuple[tuple, _Batch]] = []  # with its key, oldest first
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(parameters.num_batch_threads.value)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Frees the session. No thread may be inside `run`."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()
        self.session.close()

    def run(self, feeds: Mapping[str, Tensor], fetches: Sequence[str]) -> list[Tensor]:
        """As the session's own, for as many images as the request holds."""
        request = _Request(feeds, self._size_of(feeds))
        with self._change:
            self._enqueue(request, fetches)
            self._change.notify_all()
        request.done.wait()
        if request.error:
            raise request.error
        return request.results

    def _size_of(self, feeds: Mapping[str, Tensor]) -> int:
        sizes = {tuple(tensor.shape[:1]) for tensor in feeds.values()}
        if len(sizes) != 1 or () in sizes:
            raise CallError(
                INVALID_ARGUMENT,
                "Batching session Run() input tensors must have equal 0th-dimension "
                "size, and at least one dimension",
            )
        (size,) = sizes.pop()
        largest = self.parameters.max_batch_size.value
        if size > largest:
            raise CallError(
                INVALID_ARGUMENT,
                f"Task size {size} is larger than maximum input batch size {largest}",
            )
        return size

    def _enqueue(self, request: _Request, fetches: Sequence[str]) -> None:
        key = (*sorted(request.feeds), None, *fetches)
        mine = [batch for other, batch in self._waiting if other == key]
        largest = self.parameters.max_batch_size.value
        if not mine or mine[-1].size + request.size > largest:
            if len(mine) >= self.parameters.max_enqueued_batches.value:
                raise CallError(
                    UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is "
                    "full",
                )
            if mine:
                mine[-1].deadline = 0  # nothing more fits: it waits no longer
            wait = self.parameters.batch_timeout_micros.value / 1e6
            mine.append(_Batch(fetches, time.monotonic() + wait))
            self._waiting.append((key, mine[-1]))
        mine[-1].requests.append(request)
        if mine[-1].size == largest:
            mine[-1].deadline = 0

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._run(batch)
            except Exception as error:  # whoever asked gets it
                for request in batch.requests:
                    request.error = error
            finally:
                for request in batch.requests:
                    request.done.set()

    def _next(self) -> _Batch | None:
        """The oldest batch that is full or has waited long enough; none at the end."""
        with self._change:
            while not self._closed:
                now = time.monotonic()
                for entry in self._waiting:
                    if entry[1].deadline <= now:
                        self._waiting.remove(entry)
                        return entry[1]
                deadlines = [batch.deadline for _, batch in self._waiting]
                self._change.wait(min(deadlines) - now if deadlines else None)

    def _run(self, batch: _Batch) -> None:
        requests, size = batch.requests, batch.size
        allowed = (s for s in self.parameters.allowed_batch_sizes if s >= size)
        padding = next(allowed, size) - size
        feeds = {
            name: _joined(name, [request.feeds[name] for request in requests], padding)
            for name in requests[0].feeds
        }
        results = self.session.run(feeds, batch.fetches)
        for tensor in results:
            if tensor.shape[:1] != [size + padding]:
                raise CallError(
                    FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of "
                    "the 0th dimension sizes of the input tensors",
                )
        ends = itertools.accumulate(request.size for request in requests)
        for request, end in zip(requests, ends):
            begin = end - request.size
            request.results = [_cut(tensor, begin, end) for tensor in results]


def _joined(name: str, tensors: Sequence[Tensor], padding: int) -> Tensor:
    """Tensors, one after the other, and copies of the first one's first row."""
    shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len(shapes) > 1 or len({tensor.dtype for tensor in tensors}) > 1:
        raise CallError(
            FAILED_PRECONDITION,
            f"Tensors with name '{name}' from different tasks have different shapes "
            "and padding is turned off.",
        )
    parts = [tensor.content for tensor in tensors]
    parts += [_cut(tensors[0], 0, 1).content] * padding
    is_text = tensors[0].dtype == TF_STRING
    content = (
        [value for part in parts for value in part] if is_text else b"".join(parts)
    )
    rows = sum(tensor.shape[0] for tensor in tensors) + padding
    return Tensor(tensors[0].dtype, [rows, *shapes.pop()], content)


def _cut(tensor: Tensor, begin: int, end: int) -> Tensor:
    """Some rows of a tensor."""
    row = len(tensor.content) // max(tensor.shape[0], 1)
    content = tensor.content[begin * row : end * row]
    return Tensor(tensor.dtype, [end - begin, *tensor.shape[1:]], content)
