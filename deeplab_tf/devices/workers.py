"""The processes of a run on several machines: who they are, and whether all are there.

Worker 0 is the chief. For a worker that never starts TensorFlow waits without end and
deaf to signals, so the workers meet here first, where a missing one has a name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence

_GO = "go"
_RETRY_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Workers:
    """The workers of a run, as one of them sees them.

    Attributes:
      addresses: "host:port" of each; none where the run is a single process.
      index: of this process among them.
    """

    addresses: tuple[str, ...] = ()
    index: int = 0

    @property
    def count(self) -> int:
        return max(1, len(self.addresses))

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    def name(self, index: int) -> str:
        """worker 1 (10.0.0.2:12345)"""
        return f"worker {index} ({self.addresses[index]})"


def find_workers(
    addresses: Sequence[str] | None = None,
    index: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Workers:
    """Completes the workers from what the user gave, or from TF_CONFIG.

    Args:
      addresses: "host:port" of every worker, the same list on all of them.
      index: of this process among them, from 0.
      environment: holds TF_CONFIG where neither is given.

    Raises:
      ValueError: one of the two is missing, or a value does not make sense.
    """
    if not addresses and index is None:
        return _read_tf_config(environment.get("TF_CONFIG", ""))
    if not addresses or index is None:
        raise ValueError(
            "Expected both --workers=HOST:PORT,HOST:PORT and --worker_index=N. "
            f"Received: workers={list(addresses or [])}, worker_index={index}"
        )
    return _checked(addresses, index)


def _read_tf_config(text: str) -> Workers:
    example = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", '
    example += '"index": 0}}'
    try:
        settings = json.loads(text)
        cluster, task = settings["cluster"], settings["task"]
        chiefs = list(cluster.get("chief", []))
        addresses = chiefs + list(cluster.get("worker", []))
        index = int(task["index"])
        if task["type"] == "worker":
            index += len(chiefs)
        elif task["type"] != "chief":
            raise ValueError(f"a task of type {task['type']!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "strategy multi_worker needs --workers=HOST:PORT,HOST:PORT and "
            f"--worker_index=N, or the variable TF_CONFIG={example}. Received: "
            f"TF_CONFIG={text!r}"
        ) from error
    return _checked(addresses, index)


def _checked(addresses, index: int) -> Workers:
    for address in addresses:
        host, _, port = str(address).rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(
                "Expected workers as HOST:PORT, with a port from 1 to 65535. Received: "
                f"{address!r}"
            )
    if len(set(addresses)) < len(addresses):
        raise ValueError(
            "Expected workers of different addresses: those on one machine need a port "
            f"each. Received: {','.join(addresses)}"
        )
    if not 0 <= index < len(addresses):
        raise ValueError(
            f"Expected a worker_index from 0 to {len(addresses) - 1} for "
            f"{len(addresses)} workers. Received: {index}"
        )
    return Workers(tuple(addresses), index)


def call_roll(workers: Workers, timeout_seconds: float) -> None:
    """Returns once every worker has called this, on the chief's port.

    Raises:
      TimeoutError: one of them did not come in time; the message names it.
      ValueError: the workers do not agree on who they are.
      OSError: the chief's port is taken.
    """
    deadline = time.monotonic() + timeout_seconds
    if workers.count == 1:
        return
    if workers.is_chief:
        _gather(workers, deadline, timeout_seconds)
    else:
        _report(workers, deadline, timeout_seconds)


def _gather(workers: Workers, deadline: float, timeout_seconds: float) -> None:
    """The chief's part: hears every worker, then lets all of them go."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(workers))
        present = {0: None}
        answer = _GO
        while len(present) < workers.count and answer == _GO:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                answer = _missing(workers, set(present), timeout_seconds)
                break
            stack.enter_context(connection)
            caller = _hear(connection)
            if caller is not None:
                answer = _objection(workers, caller, present)
                present[caller["index"]] = connection
        for connection in filter(None, present.values()):
            with contextlib.suppress(OSError):
                connection.sendall(f"{answer}\n".encode())
    if answer != _GO:
        raise _as_error(answer)


def _listen(workers: Workers) -> socket.socket:
    port = int(workers.addresses[0].rpartition(":")[2])
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True
            )
        return socket.create_server(("", port))
    except OSError as error:
        raise OSError(
            f"The chief cannot listen on port {port}: {error}. Is another run using "
            "it? Give another port in --workers."
        ) from error


def _hear(connection: socket.socket) -> dict | None:
    """What a worker says of itself; None where something else called."""
    connection.settimeout(5)
    try:
        caller = json.loads(connection.makefile().readline())
        return caller if {"index", "addresses"} <= set(caller) else None
    except (OSError, ValueError, TypeError):
        return None


def _objection(workers: Workers, caller: dict, present: dict) -> str:
    if caller["addresses"] != list(workers.addresses):
        return (
            "Expected the same workers on all of them. Received: "
            f"{','.join(workers.addresses)} on the chief, "
            f"{','.join(caller['addresses'])} on another"
        )
    if caller["index"] in present:
        return (
            "Expected another worker_index on each worker. Received: "
            f"{caller['index']} twice"
        )
    return _GO


def _missing(workers: Workers, present: set, timeout_seconds: float) -> str:
    missing = [workers.name(i) for i in range(workers.count) if i not in present]
    return (
        f"After {timeout_seconds:.0f} s these workers are missing: "
        f"{', '.join(missing)}. Start the same command on all workers, each with its "
        "own worker_index, and see that they reach the chief's port."
    )


def _report(workers: Workers, deadline: float, timeout_seconds: float) -> None:
    """A worker's part: calls until the chief hears, then waits for its word."""
    call = json.dumps({"index": workers.index, "addresses": workers.addresses})
    host, _, port = workers.addresses[0].rpartition(":")
    while time.monotonic() < deadline:
        left = deadline - time.monotonic()
        try:
            # The chief's clock began earlier or later than ours: let it speak first.
            with socket.create_connection((host.strip("[]"), int(port)), left) as chief:
                chief.settimeout(left + timeout_seconds)
                chief.sendall(f"{call}\n".encode())
                answer = chief.makefile(errors="replace").readline().strip()
        except OSError:
            answer = ""
        if answer == _GO:
            return
        if answer.startswith(("After ", "Expected ")):
            raise _as_error(answer)
        time.sleep(_RETRY_SECONDS)
    raise _as_error(_missing(workers, set(range(1, workers.count)), timeout_seconds))


def _as_error(answer: str) -> Exception:
    return (TimeoutError if answer.startswith("After ") else ValueError)(answer)
