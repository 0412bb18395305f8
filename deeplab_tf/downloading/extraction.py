"""Unpacks zip and tar files that came from elsewhere, wholly or not at all.

Nothing in an archive can write outside the folder it is unpacked to: absolute names,
names with `..` and links are refused, and nothing but bytes is taken over. An archive
that would become far larger than it is, as none of images does, is refused too.
"""

from __future__ import annotations

import functools
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from deeplab_tf.downloading.errors import DownloadError
from deeplab_tf.files import is_disk_full
from deeplab_tf.strangers_words import leads_out, printable

# What zipfile, tarfile and gzip raise for damage, encryption and unknown methods.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    NotImplementedError,
    RuntimeError,
)
CHUNK_BYTES = 1 << 20
# What an archive may become: lists of polygons shrink to a tenth, images hardly.
MAX_RATIO, FREE_BYTES = 30, 1 << 30
MAX_ENTRIES = 2_000_000


class _Entry(NamedTuple):
    """One file or folder in an archive; links, devices and sparse files are neither.

    Attributes:
      end: bytes that are unpacked of the archive when it is read, whether it is
        wanted or not; 0 where others need not be unpacked for it.
    """

    name: str
    is_folder: bool
    is_file: bool
    size: int
    open: Callable[[], BinaryIO]
    end: int = 0


def _zip_entries(path: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            is_file = not info.is_dir() and kind in (0, stat.S_IFREG)
            yield _Entry(
                info.filename,
                info.is_dir(),
                is_file,
                info.file_size,
                functools.partial(archive.open, info),
            )


def _tar_entries(path: Path) -> Iterator[_Entry]:
    with tarfile.open(path, "r:*") as archive:
        for info in archive:
            yield _Entry(
                info.name,
                info.isdir(),
                info.isreg() and not info.issparse(),
                info.size,
                functools.partial(archive.extractfile, info),
                info.offset_data + (0 if info.issparse() else info.size),
            )
        # gzip compares its checksum when it comes to the end.
        while archive.fileobj.read(CHUNK_BYTES):
            _check_growth(path, archive.fileobj.tell())


def relative_name(name: str, path: Path) -> str:
    """Returns the name of an entry without `./` and the like.

    Raises:
      DownloadError: it leads out of the folder, here or on Windows.
    """
    if leads_out(name):
        raise DownloadError(
            f"{path} names a file outside the folder it is unpacked to: "
            f"{printable(name)}. Such an archive is broken or malicious; nothing of it "
            "was kept."
        )
    return str(PurePosixPath(name))


def _check_growth(path: Path, size: int, count: int = 0) -> None:
    """Refuses what becomes far more than it is.

    Args:
      path: of the archive.
      size: bytes that come of it.
      count: files and folders, likewise.

    Raises:
      DownloadError: it is too much.
    """
    bound = FREE_BYTES + MAX_RATIO * path.stat().st_size
    if size > bound or count > MAX_ENTRIES:
        raise DownloadError(
            f"{path} has {path.stat().st_size:,} bytes and would become more than "
            f"{bound:,}, or {MAX_ENTRIES:,} files. Such an archive is broken or "
            "malicious; nothing of it was kept."
        )


def _write(entry: _Entry, target: Path) -> None:
    """Writes the bytes of a file.

    Raises:
      EOFError: there are fewer than the archive says.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with entry.open() as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, CHUNK_BYTES)
        if file.tell() != entry.size:
            raise EOFError(f"{entry.name} ends early")


def _extract(path: Path, folder: Path, members: Sequence[str]) -> None:
    """Writes those files of an archive to `folder` that are in `members`, or all."""
    prefixes = tuple(f"{member}/" for member in members)
    entries = _zip_entries(path) if path.suffix == ".zip" else _tar_entries(path)
    size = 0
    # disable=None: no bar where the output is no terminal.
    for count, entry in enumerate(
        tqdm(entries, path.name, unit=" files", disable=None)
    ):
        _check_growth(path, entry.end, count)
        name = relative_name(entry.name, path)
        if members and name not in members and not name.startswith(prefixes):
            continue
        if entry.is_file:
            size += entry.size
            _check_growth(path, size)
            _write(entry, folder / name)
        elif not entry.is_folder:
            raise DownloadError(
                f"{path} has a sparse file, link or device: {printable(entry.name)}. "
                "Expected files and folders only; nothing of it was kept."
            )


def _install(path: Path, temporary: Path, folder: Path, members: Sequence[str]) -> None:
    """Renames what was unpacked; what an earlier run had renamed stays."""
    missing = [name for name in members if not (temporary / name).exists()]
    if missing:
        raise DownloadError(
            f"Expected {', '.join(missing)} in {path}, which has no such entry. Remove "
            "the file if it is another archive of that name."
        )
    for name in members:
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(temporary / name, folder / name)


def unpack(
    path: Path,
    folder: Path,
    members: Sequence[str],
    inner: Sequence[str] = (),
    elsewhere: str = "another folder",
) -> None:
    """Unpacks parts of an archive; each appears under its name when all are whole.

    Args:
      path: zip file, or tar file of any compression.
      folder: where `members` go; on the disk of `path`.
      members: files and folders, as named in the archive; none stands for all.
      inner: zip files in the archive, unpacked where they are before `members` are
        taken.
      elsewhere: what to give where the disk is full, for the sentence.

    Raises:
      DownloadError: damaged, not such an archive, without one of `members`, or one
        that writes elsewhere; or the disk is full. Nothing is kept then.
    """
    temporary = path.with_name(f"{path.name}.unpacking")
    # From a run that was killed.
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _extract(path, temporary, [*members, *inner])
        for name in inner:
            if (temporary / name).is_file():
                _extract(temporary / name, (temporary / name).parent, ())
        _install(path, temporary, folder, members or sorted(os.listdir(temporary)))
    except DAMAGE as error:
        raise _damaged(path, error) from error
    except OSError as error:
        # gzip's errors are OSErrors that no system call raised.
        if error.errno is None:
            raise _damaged(path, error) from error
        if is_disk_full(error):
            raise DownloadError(
                f"No space left on the disk of {folder} to unpack {path.name}. Make "
                f"room and run the same command again, or give {elsewhere}."
            ) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _damaged(path: Path, error: Exception) -> DownloadError:
    # tarfile adds a line for each compression that it tried.
    reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
    return DownloadError(
        f"{path} is damaged or no archive ({reason}). Remove it and run the same "
        "command again."
    )
