"""Files that are there whole or not at all, and places that one process writes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind.
    fcntl = None

_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.tmp")
# Where the system cannot lock, an unfinished file that old belongs to nobody.
_ABANDONED_SECONDS = 3600.0
_swept: set[str] = set()

# --- Files ---------------------------------------------------------------------------


def is_disk_full(error: BaseException) -> bool:
    """Says whether an OSError came of a full disk or a used up quota."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike, mode: str = "w", newline: str | None = None
) -> Iterator[IO]:
    """Opens a temporary file beside `path`, which takes its place when all is written.

    After a failure `path` holds what it held before, and the temporary file is gone.
    Several that write one path at the same time do not meet: the last one wins. What
    a killed process left is removed by the next that writes into the folder.

    Args:
      path: of the file; its folder must be there.
      mode: "w" for text, always UTF-8, or "wb" for bytes.
      newline: as of `open`.

    Raises:
      OSError: the disk is full or cannot be written.
    """
    path = os.fspath(path)
    encoding = None if "b" in mode else "utf-8"
    with _written_beside(path) as temporary, contextlib.ExitStack() as lock:
        with open(temporary, mode, encoding=encoding, newline=newline) as file:
            lock.enter_context(_in_use(file.fileno()))
            yield file
        os.replace(temporary, path)


def write_together(contents: Mapping[str, bytes]) -> None:
    """Writes files that belong together: after a failure all hold what they held.

    All are written beside, and only then take their places, one after the other.

    Args:
      contents: path -> content.

    Raises:
      OSError: the disk is full or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        temporaries = {}
        for path, content in contents.items():
            temporaries[path] = stack.enter_context(_written_beside(path))
            with _error_named(path), open(temporaries[path], "wb") as file:
                stack.enter_context(_in_use(file.fileno()))
                file.write(content)
        for path, temporary in temporaries.items():
            with _error_named(path):
                os.replace(temporary, path)


@contextlib.contextmanager
def _written_beside(path: str) -> Iterator[str]:
    """Gives the name of a temporary file beside `path`, which is gone at the end."""
    _sweep(os.path.dirname(os.path.abspath(path)))
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with _error_named(path):
            yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


class _NotWritten(OSError):
    """It says already which file it is about."""


@contextlib.contextmanager
def _error_named(path: str) -> Iterator[None]:
    """Names the file in errors, as an error of `write` does not."""
    try:
        yield
    except OSError as error:
        if isinstance(error, _NotWritten):
            raise
        raise _NotWritten(
            f"{path} cannot be written: {error.strerror or error}. What was "
            "there before is unchanged. Make room on the disk, then run again."
        ) from error


@contextlib.contextmanager
def _in_use(descriptor: int) -> Iterator[None]:
    """Locks an open file until the block ends, though the file be closed before."""
    if fcntl is None:
        yield  # Windows does not rename open files.
        return
    descriptor = os.dup(descriptor)
    try:
        _try_lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool | None:
    """Locks a file; False where another process has, None where nobody can."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None  # as on some network file systems
    return True


def _sweep(folder: str) -> None:
    """Removes temporary files of processes that were killed: once for each folder."""
    if folder in _swept or not os.path.isdir(folder):
        return
    _swept.add(folder)
    with os.scandir(folder) as entries:
        left = [entry.path for entry in entries if _TEMPORARY.fullmatch(entry.name)]
    for path in left:
        with contextlib.suppress(OSError):
            if _is_abandoned(path):
                os.remove(path)


def _is_abandoned(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        locked = _try_lock(descriptor)
        age = time.time() - os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
    # A file is locked an instant after it was made.
    return age > (_ABANDONED_SECONDS if locked is None else 1.0) and locked is not False


# --- Places --------------------------------------------------------------------------


class InUse(RuntimeError):
    """Another process writes to the same place; says which, and since when."""


@contextlib.contextmanager
def sole_writer(
    lock_path: str | os.PathLike, place: str | os.PathLike
) -> Iterator[None]:
    """Makes this process the only one that writes to a place while the block runs.

    The system gives the lock back however the process ends, so that no stale one
    stands in the way. Where it cannot lock, as on some network file systems, the
    process that is named in the file counts while it runs, on this machine.

    Args:
      lock_path: file that says who writes; removed at the end.
      place: what is written, for the sentence.

    Raises:
      InUse: another process has it.
      OSError: the file cannot be made.
    """
    lock_path = os.fspath(lock_path)
    descriptor = _take(lock_path, os.fspath(place))
    try:
        yield
    finally:
        # Removed while it is held: nobody else's file is taken away.
        with contextlib.suppress(OSError):
            os.remove(lock_path)
        os.close(descriptor)


@contextlib.contextmanager
def sole_writer_in(
    folder: str | os.PathLike, name: str, place: str | os.PathLike | None = None
) -> Iterator[None]:
    """Makes a folder where needed, and this process the only one that writes `name`.

    Args:
      folder: made where it is not there; removed again if it is empty at the end.
      name: what is written there, a file or a folder.
      place: what is written, for the sentence; folder/name unless given.

    Raises:
      InUse: another process writes it.
      OSError: the folder cannot be made.
    """
    folder = os.fspath(folder)
    made = not os.path.isdir(folder)
    try:
        os.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"{folder} cannot be a folder to write to: it, or a part of it, is a file. "
            "Give the path of a folder."
        ) from error
    try:
        lock_path = os.path.join(folder, f".{name}.lock")
        with sole_writer(lock_path, place or os.path.join(folder, name)):
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # which takes empty ones alone


def _take(lock_path: str, place: str) -> int:
    """Returns the descriptor of a lock that is held; see `sole_writer`."""
    while True:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o666)
        locked = _try_lock(descriptor)
        holder = _read_holder(descriptor)
        if locked is False or (locked is None and _is_alive(holder)):
            os.close(descriptor)
            raise InUse(_who_holds(holder, place))
        with contextlib.suppress(OSError):
            # Not so where the one before has removed it just now.
            if os.path.samestat(os.fstat(descriptor), os.stat(lock_path)):
                break
        os.close(descriptor)
    holder = {
        "process": os.getpid(),
        "machine": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(map(os.path.basename, sys.argv[:1])),
    }
    # A full disk is told by what is to be written, whose lock this is.
    with contextlib.suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())
    return descriptor


def _read_holder(descriptor: int) -> dict:
    """Returns what a lock's file says of its holder; nothing where that is unclear."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with contextlib.suppress(ValueError):
        holder = json.loads(os.read(descriptor, 4096))
        return holder if isinstance(holder, dict) else {}
    return {}


def _is_alive(holder: dict) -> bool:
    """Whether the process that a lock names may still run, where nothing else tells."""
    process = holder.get("process")
    # On Windows this call would end the process.
    if os.name == "nt" or not isinstance(process, int):
        return False
    if holder.get("machine") != socket.gethostname():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()


def _who_holds(holder: dict, place: str) -> str:
    who = "another process"
    if holder:
        who = (
            f"process {holder.get('process')} ({holder.get('command')}) on "
            f"{holder.get('machine')} since {holder.get('since')}"
        )
    return (
        f"{place} is being written by {who}. Wait for it to end, or end it, or give "
        "another place."
    )
