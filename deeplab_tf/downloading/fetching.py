"""One file over the network, taken up where it broke off.

A download that breaks off goes on where it stopped, by itself or with the same command
again, after a kill too; a file gets its name when its size and checksum are right.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import http.client
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from deeplab_tf.downloading.addresses import (
    shown_address,
    web_opener,
    without_password,
)
from deeplab_tf.downloading.errors import DownloadError
from deeplab_tf.downloading.progress import Progress
from deeplab_tf.files import is_disk_full
from deeplab_tf.strangers_words import printable

# Seconds before each new try. As many tries in a row may bring nothing new.
WAITS = (1, 2, 4, 8, 16, 32, 60)
TIMEOUT_SECONDS = 60.0
CHUNK_BYTES = 1 << 20
# Errors of servers that pass: too slow, too many requests, and all of 500 and more.
PASSING_ERRORS = (408, 425, 429)
RANGE_NOT_SATISFIABLE = 416
# Of a file whose size nobody tells.
MAX_UNKNOWN_BYTES = 1 << 35


@dataclasses.dataclass(frozen=True)
class Advice:
    """What a person may do, in the words of what downloads.

    Attributes:
      by_hand: what to do with a file that a browser fetched.
      folder: what to give where a disk is full.
      otherwise: what to do where there is no network.
    """

    by_hand: str
    folder: str
    otherwise: str


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """One file to download.

    Attributes:
      address: where it is, without a login.
      page: page that describes it and has its terms.
      file_name: name to store it under.
      advice: see `Advice`.
      size: bytes, or None.
      checksum: hexadecimal MD5, SHA-1 or SHA-256 (told by its length), or the
        beginning of a SHA-256, or None.
    """

    address: str
    page: str
    file_name: str
    advice: Advice
    size: int | None = None
    checksum: str | None = None

    def new_hash(self):
        """Returns the hashlib object of `checksum`; of SHA-256 where there is none."""
        name = {32: "md5", 40: "sha1"}.get(len(self.checksum or ""), "sha256")
        # Some systems forbid MD5 unless it is for nothing but finding damage.
        return hashlib.new(name, usedforsecurity=False)


class _BrokenOff(Exception):
    """A try that did not end well but may the next time.

    Attributes:
      unreachable: there is no way to the server, so that waiting helps little.
    """

    def __init__(self, sentence: str, unreachable: bool = False):
        super().__init__(sentence)
        self.unreachable = unreachable


# --- One request ---------------------------------------------------------------------


def _validator(headers: http.client.HTTPMessage) -> str:
    """Returns what If-Range compares: a strong ETag, or the date of the file."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _refusal(wanted: RemoteFile, address: str, error: urllib.error.HTTPError):
    """Returns the exception for a status other than 200 and 206."""
    address, reason = shown_address(address), printable(str(error.reason))
    by_hand = (
        f"Get {wanted.file_name} by hand (see {wanted.page}) and "
        f"{wanted.advice.by_hand}."
    )
    if error.code in PASSING_ERRORS or error.code >= 500:
        return _BrokenOff(f"the server answers {error.code} {reason}")
    if error.code in (404, 410):
        return DownloadError(f"There is no file {address} any more. {by_hand}")
    if error.code in (401, 403, 407):
        return DownloadError(
            f"The server or a proxy refuses {address} ({error.code} {reason}). "
            f"{by_hand}"
        )
    if 300 <= error.code < 400:
        return DownloadError(f"{address} redirects in a circle. {by_hand}")
    return DownloadError(
        f"The server answers {error.code} {reason} for {address}. {by_hand}"
    )


def _open(wanted: RemoteFile, address: str, progress: Progress, timeout: float):
    """Asks for the bytes after those of `progress`; returns the response.

    Raises:
      _BrokenOff: no answer, or one that may be another the next time.
      DownloadError: the answer is no.
    """
    clean, words = without_password(address)
    request = urllib.request.Request(clean, headers={"User-Agent": "deeplab_tf"})
    if words:
        # Not for the server that a redirect leads to.
        code = base64.b64encode(urllib.parse.unquote_to_bytes(words)).decode()
        request.add_unredirected_header("Authorization", f"Basic {code}")
    if progress.size:
        request.add_header("Range", f"bytes={progress.size}-")
        if progress.validator:
            request.add_header("If-Range", progress.validator)
    try:
        return web_opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == RANGE_NOT_SATISFIABLE and progress.size:
            progress.remove()
            raise _BrokenOff("the server has another file by now") from error
        raise _refusal(wanted, address, error) from error
    except urllib.error.URLError as error:
        reason = error.reason
        lasting = (socket.gaierror, ConnectionRefusedError, ssl.SSLError)
        raise _BrokenOff(
            f"cannot reach the server ({printable(str(reason))})",
            isinstance(reason, lasting),
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(
            f"no answer from the server ({printable(repr(error))})"
        ) from error


def _offset_of(response, progress: Progress, has_checksum: bool) -> int:
    """Returns where in the file the body of a response begins.

    Args:
      response: of the server.
      progress: what is there.
      has_checksum: whether a file of two halves would be noticed in the end; where
        not, the server must say that it still has the same file.

    Raises:
      _BrokenOff: not where it should; the next try starts anew.
    """
    if response.status != http.client.PARTIAL_CONTENT:
        return 0  # The server knows no ranges, or has another file by now.
    content_range = response.headers.get("Content-Range", "")
    match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    new = _validator(response.headers)
    changed = new != progress.validator and not (has_checksum and not new)
    if match and progress.total and match[2] not in ("*", str(progress.total)):
        changed = True
    if changed or not match or int(match[1]) != progress.size:
        progress.remove()
        raise _BrokenOff("the server has another file by now")
    return progress.size


def _length(headers) -> int | None:
    """Returns the bytes that a response says it has, where it says it in digits."""
    length = headers.get("Content-Length", "").strip()
    return int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _check_offer(
    wanted: RemoteFile, address: str, response, offset: int, total: int | None, folder
) -> None:
    """Raises DownloadError where what comes is not the file, or has no room."""
    headers, address = response.headers, shown_address(address)
    if headers.get_content_type() == "text/html":
        raise DownloadError(
            f"Expected a file at {address}. Received: a web page, as of a login or "
            f"a proxy. See {wanted.page}"
        )
    if None not in (wanted.size, total) and total != wanted.size:
        raise DownloadError(
            f"Expected {wanted.size} bytes of {address}. Received: {total}. The file "
            f"there is another one; see {wanted.page}"
        )
    if total is None and not response.chunked and not (wanted.size or wanted.checksum):
        raise DownloadError(
            f"The server does not say how long {address} is, and neither size nor "
            "checksum of it are known: nobody could tell whether all of it came. Get "
            f"{wanted.file_name} by hand (see {wanted.page}), compare it with that of "
            f"others, and {wanted.advice.by_hand}."
        )
    needed, free = (total or 0) - offset, shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{wanted.file_name} needs {needed} bytes on the disk of {folder}. Free: "
            f"{free}. Make room, or give {wanted.advice.folder}."
        )


def _read(response) -> bytes:
    """Returns what has come, or b"" at the end."""
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(
            f"the connection broke off ({printable(repr(error))})"
        ) from error


def _write(
    response, offset: int, total: int | None, limit: int, progress: Progress
) -> None:
    """Writes the body of a response to FILE.part, from `offset` on.

    Raises:
      DownloadError: the disk is full, and what is written stays; or there come more
        than `limit` bytes, and nothing does.
    """
    size = offset
    try:
        progress.start(offset, _validator(response.headers), total)
        with (
            open(progress.path, "ab") as file,
            tqdm(
                desc=progress.path.stem,
                total=progress.total,
                initial=progress.size,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):
            while chunk := _read(response):
                size += len(chunk)
                if size > limit:
                    break
                file.write(chunk)
                bar.update(len(chunk))
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DownloadError(
            f"No space left on the disk of {progress.path}, which keeps what has come. "
            "Make room and run the same command again."
        ) from error
    if size > limit:
        progress.remove()
        raise DownloadError(
            f"Expected {limit} bytes of {progress.path.stem}. Received: more, which "
            "were not taken; what had come was removed. The file there is another one."
        )


def _continue(
    wanted: RemoteFile, address: str, progress: Progress, timeout: float
) -> None:
    """Makes one request, for what is missing of FILE.part.

    Raises:
      _BrokenOff: not all came.
      DownloadError: see `fetch`.
    """
    if progress.size and not (progress.validator or wanted.checksum):
        progress.remove()  # Nothing would tell that the rest is of another file.
    total = wanted.size if progress.total is None else progress.total
    if total is not None and progress.size == total:
        return
    with _open(wanted, address, progress, timeout) as response:
        offset = _offset_of(response, progress, bool(wanted.checksum))
        length = _length(response.headers)
        total = None if length is None else offset + length
        _check_offer(wanted, address, response, offset, total, progress.path.parent)
        limit = next(filter(None, (wanted.size, total)), MAX_UNKNOWN_BYTES)
        _write(response, offset, total, limit, progress)
    if total is not None and progress.size < total:
        raise _BrokenOff(f"the connection broke off at byte {progress.size} of {total}")


# --- One file ------------------------------------------------------------------------


def _download(
    wanted: RemoteFile,
    address: str,
    progress: Progress,
    waits: Sequence[float],
    timeout: float,
) -> None:
    """Makes requests until FILE.part is whole; see `fetch`."""
    before = furthest = progress.size
    failures = 0
    while True:
        try:
            return _continue(wanted, address, progress, timeout)
        except _BrokenOff as error:
            failures = 0 if progress.size > furthest else failures
            furthest = max(furthest, progress.size)
            hopeless = error.unreachable and furthest == before
            if hopeless or failures == len(waits):
                kept = f", {progress.size} bytes, which are kept," * bool(progress.size)
                raise DownloadError(
                    f"Cannot download {shown_address(address)}{kept}: {error}; check "
                    "the network and run the same command again, or "
                    f"{wanted.advice.otherwise}."
                ) from error
            print(f"{wanted.file_name}: {error}; next try in {waits[failures]} s.")
            time.sleep(waits[failures])
            failures += 1


def _digest(path: Path, wanted: RemoteFile) -> str:
    digest = wanted.new_hash()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def difference_of(path: Path, wanted: RemoteFile) -> str:
    """Says in what a file is not the one of the table; "" where it is."""
    size = path.stat().st_size
    if wanted.size not in (None, size):
        return f"Expected {wanted.size} bytes in {path}. Received: {size}."
    digest = _digest(path, wanted)
    if wanted.checksum and not digest.startswith(wanted.checksum):
        return f"Expected checksum {wanted.checksum} of {path}. Received: {digest}."
    if not wanted.checksum:
        print(
            f"{path} has {size} bytes and the SHA-256 {digest}. No checksum of it is "
            "published; compare it with that of others."
        )
    return ""


def fetch(
    wanted: RemoteFile,
    folder: str | Path,
    *,
    mirror: str = "",
    waits: Sequence[float] = WAITS,
    timeout: float = TIMEOUT_SECONDS,
) -> Path:
    """Returns the path of a file, which is downloaded where it is not there.

    Nothing else may fetch the same file into that folder at the same time.

    Args:
      wanted: what to fetch.
      folder: where to put it.
      mirror: address of a folder with the file; default: the file's own address.
      waits: seconds before each new try.
      timeout: seconds that the server may be silent.

    Raises:
      DownloadError: no network; the server refuses or stays silent; the size or the
        checksum is wrong (the file is removed, unless it was there before); or the
        disk is full.
    """
    folder = Path(folder)
    path = folder / wanted.file_name
    if path.exists():
        if difference := difference_of(path, wanted):
            raise DownloadError(f"{difference} Remove it to download it anew.")
        return path
    address = f"{mirror.rstrip('/')}/{wanted.file_name}" if mirror else wanted.address
    print(f"Downloading {shown_address(address)} to {folder}. Its terms: {wanted.page}")
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(folder / f"{wanted.file_name}.part")
    progress.read()
    _download(wanted, address, progress, waits, timeout)
    if difference := difference_of(progress.path, wanted):
        progress.remove()
        raise DownloadError(
            f"{difference} The file was removed. Run the same command again; if that "
            f"ends in the same way, {shown_address(address)} is another file, or "
            "something on the way damages it."
        )
    os.replace(progress.path, path)
    progress.remove()
    return path
