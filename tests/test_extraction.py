"""Unpacking: what is wanted, and nothing outside; damage has a sentence."""

from __future__ import annotations

import errno
import os
import tarfile
from pathlib import Path

import pytest

from deeplab_tf.downloading import extraction
from deeplab_tf.downloading.errors import DownloadError
from tests.support.file_server import CONTENT, tar_bytes, zip_bytes

FILES = {"data/a.txt": b"a" * 70_000, "data/b/c.txt": b"c", "other/d.txt": b"d"}


NOISE = {"data/noise": CONTENT}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def unpack(folder: Path, data: bytes, name="file.zip", members=("data",), inner=()):
    (folder / name).write_bytes(data)
    extraction.unpack(folder / name, folder / "set", members, inner)
    return folder / "set"


@pytest.mark.parametrize(
    "name, data",
    [
        ("file.zip", zip_bytes(FILES)),
        ("file.tgz", tar_bytes(FILES)),
        ("file.tar", tar_bytes(FILES, mode="w")),
        ("dotted.tar", tar_bytes({f"./{n}": c for n, c in FILES.items()}, mode="w")),
    ],
)
def test_only_members_are_unpacked(tmp_path, name, data):
    folder = unpack(tmp_path, data, name)
    assert {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    } == {n: c for n, c in FILES.items() if n.startswith("data/")}
    assert names(tmp_path) == [name, "set"]


def test_zip_in_a_zip(tmp_path):
    inner = zip_bytes({"masks/1.png": b"1", "__MACOSX/._1.png": b""})
    data = zip_bytes({"notes/a.json": b"{}", "notes/masks.zip": inner})
    members = ("notes/a.json", "notes/masks")
    folder = unpack(tmp_path, data, members=members, inner=("notes/masks.zip",))
    assert names(folder / "notes") == ["a.json", "masks"]
    assert (folder / "notes/masks/1.png").read_bytes() == b"1"


OUTSIDE = ["../evil", "data/../../evil", "/evil", "C:/evil", "data\\..\\..\\evil"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("suffix, pack", [("zip", zip_bytes), ("tgz", tar_bytes)])
def test_names_that_lead_outside(tmp_path, name, suffix, pack):
    folder = tmp_path / "downloads"
    folder.mkdir()
    with pytest.raises(DownloadError, match="outside the folder"):
        unpack(folder, pack({**FILES, name: b"evil"}), f"file.{suffix}")
    assert names(folder) == [f"file.{suffix}"] and names(tmp_path) == ["downloads"]
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    "name, data",
    [
        ("a.zip", zip_bytes({**FILES, "data/l": b"/etc"}, {"data/l": 0o120777})),
        ("a.tgz", tar_bytes({**FILES, "data/l": b"/etc"}, {"data/l": tarfile.SYMTYPE})),
        ("b.tgz", tar_bytes({**FILES, "data/l": b"/x"}, {"data/l": tarfile.LNKTYPE})),
        ("c.tgz", tar_bytes({**FILES, "data/l": b""}, {"data/l": tarfile.CHRTYPE})),
    ],
)
def test_links_and_devices(tmp_path, name, data):
    with pytest.raises(DownloadError, match="link or device: data/l"):
        unpack(tmp_path, data, name)
    assert names(tmp_path) == [name]


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


@pytest.mark.parametrize(
    "name, data",
    [
        ("text.zip", b"<html>not found</html>"),
        ("text.tgz", b"<html>not found</html>"),
        ("empty.tar", b""),
        ("cut.zip", zip_bytes(NOISE)[:-100]),
        ("cut.tgz", tar_bytes(NOISE)[:-100]),
        ("cut.tar", tar_bytes(NOISE, mode="w")[:200_000]),
        ("flipped.zip", flip(zip_bytes(NOISE), 150_000)),
        ("flipped.tgz", flip(tar_bytes(NOISE), 150_000)),
    ],
)
def test_damaged_archives(tmp_path, name, data):
    with pytest.raises(DownloadError, match=r"is damaged or no archive .*Remove it"):
        unpack(tmp_path, data, name)
    assert names(tmp_path) == [name]


def test_archive_without_a_member(tmp_path):
    with pytest.raises(DownloadError, match="Expected labels in .*file.zip"):
        unpack(tmp_path, zip_bytes(FILES), members=("data", "labels"))
    assert names(tmp_path) == ["file.zip"]


def sparse_tar(size: int) -> bytes:
    """A tar of a file that claims `size` bytes of nothing, as GNU tar writes it."""
    info = tarfile.TarInfo("data/holes")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


BOMBS = {
    "sparse.tar": (sparse_tar(2**32 - 1), "has a sparse file, link or device"),
    "zeros.zip": (zip_bytes({"data/x": bytes(3 << 20)}), "would become more than"),
    "zeros.tgz": (tar_bytes({"data/x": bytes(3 << 20)}), "would become more than"),
    # Not wanted, but on the way to what is.
    "before.tgz": (
        tar_bytes({"a": bytes(3 << 20), **FILES}),
        "would become more than",
    ),
    "many.zip": (
        zip_bytes({f"data/{i}": bytes(100_000) for i in range(30)}),
        "would become more than",
    ),
    "nested.zip": (
        zip_bytes({"data/in.zip": zip_bytes({"x": bytes(3 << 20)})}),
        "would become more than",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_archives_grow_to_a_bound(tmp_path, name, monkeypatch):
    monkeypatch.setattr(extraction, "FREE_BYTES", 1 << 20)
    data, sentence = BOMBS[name]
    inner = ("data/in.zip",) if name == "nested.zip" else ()
    with pytest.raises(DownloadError, match=sentence):
        unpack(tmp_path, data, name, inner=inner)
    assert names(tmp_path) == [name]


def test_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "MAX_ENTRIES", 2)
    with pytest.raises(DownloadError, match="or 2 files"):
        unpack(tmp_path, zip_bytes({f"data/{i}": b"" for i in range(9)}))


def test_full_disk_while_unpacking(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(extraction.shutil, "copyfileobj", full)
    with pytest.raises(DownloadError, match="No space left .* or give another folder"):
        unpack(tmp_path, zip_bytes(FILES))
    assert names(tmp_path) == ["file.zip"]


def test_what_a_killed_run_left_is_replaced(tmp_path):
    (tmp_path / "file.zip.unpacking/data").mkdir(parents=True)
    (tmp_path / "file.zip.unpacking/data/stale.txt").write_text("stale")
    folder = unpack(tmp_path, zip_bytes(FILES))
    assert names(folder / "data") == ["a.txt", "b"]
    assert names(tmp_path) == ["file.zip", "set"]
