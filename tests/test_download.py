"""Downloads against a server on this machine that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import http.server
import inspect
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse
import zipfile
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from datasets import (
    archives,
    build_ade20k,
    build_camvid,
    build_cityscapes,
    build_coco,
    build_pascal_context,
    build_person_part,
    build_voc2012,
    download,
    extraction,
)
from datasets.catalog import DATASETS
from datasets.info import read_info
from datasets.pairs import DatasetError
from datasets.pipeline import make_eval_dataset

ROOT = Path(__file__).resolve().parent.parent
NO_WAITS = (0, 0, 0)
CONTENT = np.random.default_rng(0).bytes(300_000)


# --- The server ----------------------------------------------------------------------


@dataclasses.dataclass
class Reply:
    """What the server does with one request.

    Attributes:
        status: instead of 200 or 206.
        cut: bytes of the body after which the connection ends.
        stall: bytes of the body after which nothing comes any more.
        knows_ranges: whether it answers a Range with 206.
        etag: of the file.
        content: of the file.
        location: where a redirect leads.
        content_type: of the answer.
        has_length: whether it says how long the body is.
        chunked: whether the body comes in chunks of 1,000 bytes, as HTTP 1.1 has them.
    """

    status: int = 0
    cut: int | None = None
    stall: int | None = None
    knows_ranges: bool = True
    etag: str = '"first"'
    content: bytes = CONTENT
    location: str = ""
    content_type: str = "application/zip"
    has_length: bool = True
    chunked: bool = False


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *_):
        pass

    def do_GET(self):  # noqa: N802 (the name is http.server's)
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        script = server.script
        reply = script.pop(0) if len(script) > 1 else script[0]
        name = self.path.rpartition("/")[2]
        if name in server.files:
            reply = Reply(content=server.files[name])
        if reply.status:
            self.send_response(reply.status)
            if reply.location:
                self.send_header("Location", reply.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        # http.client reads chunks only of HTTP 1.1.
        self.protocol_version = "HTTP/1.1" if reply.chunked else "HTTP/1.0"
        self.close_connection = True
        self.send_file(reply)

    def send_file(self, reply: Reply):
        content, start = reply.content, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", reply.etag) == reply.etag
        if wanted and same and reply.knows_ranges:
            start = int(wanted[1])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        else:
            self.send_response(200)
        if reply.etag:
            self.send_header("ETag", reply.etag)
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.has_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", reply.content_type)
        self.end_headers()
        body = content[start:]
        if reply.chunked:
            parts = [body[i : i + 1000] for i in range(0, len(body), 1000)] + [b""]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        end = reply.stall if reply.cut is None else reply.cut
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body if end is None else body[:end])
        if reply.stall is not None:
            self.server.released.wait(20)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; else the replies of `script` in turn, the last one for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Reply] = [Reply()]
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]

    def handle_error(self, *_):
        pass  # A client that went away.


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def archive_of(server: Server, **fields) -> archives.Archive:
    fields = {
        "address": f"{server.address}/file.zip",
        "page": "http://example.com/terms",
        "file_name": "file.zip",
        "folder": "set",
        "members": ("data",),
        "size": len(CONTENT),
        "checksum": hashlib.sha256(CONTENT).hexdigest(),
        **fields,
    }
    return archives.Archive(**fields)


def fetch(server: Server, folder: Path, archive=None, **options) -> Path:
    options = {"waits": NO_WAITS, "timeout": 5.0, **options}
    return download.fetch(archive or archive_of(server), folder, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- One file ------------------------------------------------------------------------


def test_whole_file(server, tmp_path):
    path = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["file.zip"]
    assert server.ranges() == [None]


def test_no_request_for_what_is_there(server, tmp_path):
    (tmp_path / "file.zip").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert not server.requests


def test_file_that_was_there_is_checked_and_kept(server, tmp_path):
    (tmp_path / "file.zip").write_bytes(CONTENT[::-1])
    with pytest.raises(DatasetError, match=r"Expected checksum .* Remove it"):
        fetch(server, tmp_path)
    assert names(tmp_path) == ["file.zip"] and not server.requests


def test_cut_connections_go_on_where_they_ended(server, tmp_path):
    server.script = [*(Reply(cut=70_000) for _ in range(4)), Reply()]
    # Four cuts, but only one without new bytes is allowed.
    assert fetch(server, tmp_path, waits=(0,)).read_bytes() == CONTENT
    ends = [70_000, 140_000, 210_000, 280_000]
    assert server.ranges() == [None, *(f"bytes={end}-" for end in ends)]
    assert all(h["If-Range"] == '"first"' for _, h in server.requests[1:])


@pytest.mark.parametrize("cut", [1007 * 5, 1007 * 5 + 300], ids=["between", "within"])
def test_cut_in_chunks_is_noticed(server, tmp_path, cut):
    # No length, no size and no checksum: nothing but the last chunk tells the end.
    archive = archive_of(server, size=None, checksum=None)
    server.script = [Reply(chunked=True, cut=cut), Reply(chunked=True)]
    assert fetch(server, tmp_path, archive).read_bytes() == CONTENT
    assert len(server.requests) == 2 and server.ranges()[1].startswith("bytes=5")


def test_gives_up_when_nothing_new_comes(server, tmp_path):
    server.script = [Reply(cut=100), Reply(cut=0)]
    with pytest.raises(DatasetError, match="100 bytes, which are kept"):
        fetch(server, tmp_path)
    # The one that brought bytes, and as many without as there are waits.
    assert len(server.requests) == 1 + len(NO_WAITS)
    assert (tmp_path / "file.zip.part").read_bytes() == CONTENT[:100]
    server.script = [Reply()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges()[-1] == "bytes=100-"
    assert names(tmp_path) == ["file.zip"]


def test_server_without_ranges_starts_anew(server, tmp_path):
    server.script = [Reply(cut=200_000, knows_ranges=False), Reply(knows_ranges=False)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=200000-"]


def test_server_without_ranges_that_cuts_is_given_up(server, tmp_path):
    server.script = [Reply(cut=1000, knows_ranges=False)]
    with pytest.raises(DatasetError, match="Cannot download"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1 + len(NO_WAITS)


def test_changed_file_starts_anew(server, tmp_path):
    old = CONTENT[::-1]
    server.script = [Reply(content=old, etag='"old"', cut=100_000), Reply()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[1][1]["If-Range"] == '"old"'


def test_changed_file_is_noticed_where_the_server_ignores_if_range(
    server, tmp_path, monkeypatch
):
    old = CONTENT[::-1]
    server.script = [Reply(content=old, etag='"old"', cut=100_000), Reply()]
    # The server gets no If-Range, and answers 206 for the new file.
    add_header = download.urllib.request.Request.add_header
    monkeypatch.setattr(
        download.urllib.request.Request,
        "add_header",
        lambda self, key, value: key == "If-Range" or add_header(self, key, value),
    )
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-", None]


def test_without_checksum_and_etag_no_part_is_trusted(server, tmp_path):
    archive = archive_of(server, size=None, checksum=None)
    server.script = [Reply(etag="", cut=100_000), Reply(etag="")]
    assert fetch(server, tmp_path, archive).read_bytes() == CONTENT
    assert server.ranges() == [None, None]


def test_without_checksum_size_and_sha256_are_told(server, tmp_path, capsys):
    archive = archive_of(server, size=None, checksum=None)
    fetch(server, tmp_path, archive)
    said = capsys.readouterr().out
    assert hashlib.sha256(CONTENT).hexdigest() in said and str(len(CONTENT)) in said
    assert archive.page in said


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_wrong_checksum(server, tmp_path, algorithm):
    right = hashlib.new(algorithm, CONTENT).hexdigest()
    archive = archive_of(server, checksum=right)
    server.script = [Reply(content=CONTENT[:-1] + b"?")]
    with pytest.raises(DatasetError, match=f"{right}.* It was removed"):
        fetch(server, tmp_path, archive)
    assert names(tmp_path) == []
    server.script = [Reply()]
    assert fetch(server, tmp_path, archive).read_bytes() == CONTENT


def test_wrong_size_is_refused_before_it_comes(server, tmp_path):
    server.script = [Reply(content=CONTENT + b"more")]
    with pytest.raises(DatasetError, match="Expected 300000 bytes .* Received: 300004"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_wrong_size_without_length(server, tmp_path):
    server.script = [Reply(content=CONTENT[:-5], has_length=False)]
    with pytest.raises(DatasetError, match="Expected 300000 bytes .*Received: 299995"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_part_longer_than_the_file_starts_anew(server, tmp_path):
    server.script = [Reply(content=CONTENT * 2, etag="", has_length=False, cut=350_000)]
    with pytest.raises(DatasetError):
        fetch(server, tmp_path)  # The file was another one.
    (tmp_path / "file.zip.part").write_bytes(CONTENT + b"more")
    notes = {"validator": '"first"', "total": None}
    (tmp_path / "file.zip.part.json").write_text(json.dumps(notes))
    server.script = [Reply()]
    server.requests.clear()
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == ["bytes=300004-", None]


def test_killed_before_the_rename(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(CONTENT)
    notes = {"validator": '"first"', "total": len(CONTENT)}
    (tmp_path / "file.zip.part.json").write_text(json.dumps(notes))
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert not server.requests and names(tmp_path) == ["file.zip"]


@pytest.mark.parametrize("notes", [None, "", "[]", '{"validator": 1'])
def test_part_without_its_notes_is_not_trusted(server, tmp_path, notes):
    (tmp_path / "file.zip.part").write_bytes(b"something else")
    if notes is not None:
        (tmp_path / "file.zip.part.json").write_text(notes)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None]


@pytest.mark.parametrize(
    "status, sentence",
    [
        (404, "There is no file http.*example.com/terms"),
        (410, "There is no file"),
        (403, "refuses .*403 Forbidden.*example.com/terms"),
        (401, "refuses"),
        (400, "answers 400 Bad Request"),
    ],
)
def test_refusals_are_final(server, tmp_path, status, sentence):
    server.script = [Reply(status=status)]
    with pytest.raises(DatasetError, match=sentence):
        fetch(server, tmp_path)
    assert len(server.requests) == 1 and names(tmp_path) == []


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_errors_pass(server, tmp_path, status, capsys):
    server.script = [Reply(status=status), Reply()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert str(status) in capsys.readouterr().out


def test_lasting_server_error(server, tmp_path):
    server.script = [Reply(status=502)]
    with pytest.raises(DatasetError, match="answers 502 Bad Gateway"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1 + len(NO_WAITS)


def test_redirect_keeps_the_range(server, tmp_path):
    moved = Reply(status=301, location="/elsewhere.zip")
    server.script = [moved, Reply(cut=5), moved, Reply()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    paths = [path for path, _ in server.requests]
    assert paths == ["/file.zip", "/elsewhere.zip"] * 2
    assert server.ranges() == [None, None, "bytes=5-", "bytes=5-"]


def test_redirects_in_a_circle(server, tmp_path):
    server.script = [Reply(status=302, location="/file.zip")]
    with pytest.raises(DatasetError, match="redirects in a circle"):
        fetch(server, tmp_path)


def test_web_page_instead_of_the_file(server, tmp_path):
    server.script = [Reply(content=b"<html>log in", content_type="text/html")]
    archive = archive_of(server, size=None, checksum=None)
    with pytest.raises(DatasetError, match="Received: a web page"):
        fetch(server, tmp_path, archive)


def test_stalled_connection_goes_on(server, tmp_path, capsys):
    server.script = [Reply(stall=1000), Reply()]
    assert fetch(server, tmp_path, timeout=0.2).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=1000-"]
    assert "timed out" in capsys.readouterr().out


def test_no_name_and_no_server(server, tmp_path, monkeypatch):
    def no_name(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/file.zip"
    waits = (60,)  # To wait would be noticed.
    archive = archive_of(server, address=nobody)
    with pytest.raises(DatasetError, match="cannot reach the server .*refused"):
        fetch(server, tmp_path, archive, waits=waits)
    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    archive = archive_of(server, address="http://data.example/file.zip")
    with pytest.raises(DatasetError, match="Name or service not known.*Check the net"):
        fetch(server, tmp_path, archive, waits=waits)


def test_too_little_room_is_told_before(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DatasetError, match="needs 300000 bytes .* Free: 299999"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


class FullDisk(io.FileIO):
    """A file on a disk with room for 50,000 bytes."""

    def write(self, data):
        room = 50_000 - self.tell()
        if len(data) > room:
            super().write(data[:room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_disk_that_fills_up_keeps_what_has_come(server, tmp_path, monkeypatch):
    def open_file(path, mode="r"):
        return (FullDisk if "a" in mode else open)(path, mode)

    monkeypatch.setattr(download, "open", open_file, raising=False)
    with pytest.raises(DatasetError, match="No space left on the disk of .*keeps"):
        fetch(server, tmp_path)
    assert (tmp_path / "file.zip.part").read_bytes() == CONTENT[:50_000]
    monkeypatch.delattr(download, "open")
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=50000-"]


# --- Unpacking -----------------------------------------------------------------------

FILES = {"data/a.txt": b"a" * 70_000, "data/b/c.txt": b"c", "other/d.txt": b"d"}


def zip_bytes(files, kinds=None) -> bytes:
    """`kinds`: name -> mode of the entry, such as that of a link."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (kinds or {}).get(name, 0) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def tar_bytes(files, kinds=None, mode="w:gz") -> bytes:
    """`kinds`: name -> type of the entry; its content is what it links to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type = (kinds or {}).get(name, tarfile.REGTYPE)
            if info.isreg():
                info.size = len(content)
            else:
                info.linkname = content.decode()
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return buffer.getvalue()


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
    with pytest.raises(DatasetError, match="outside the folder"):
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
    with pytest.raises(DatasetError, match="link or device: data/l"):
        unpack(tmp_path, data, name)
    assert names(tmp_path) == [name]


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


NOISE = {"data/noise": CONTENT}


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
    with pytest.raises(DatasetError, match=r"is damaged or no archive .*Remove it"):
        unpack(tmp_path, data, name)
    assert names(tmp_path) == [name]


def test_archive_without_a_member(tmp_path):
    with pytest.raises(DatasetError, match="Expected labels in .*file.zip"):
        unpack(tmp_path, zip_bytes(FILES), members=("data", "labels"))
    assert names(tmp_path) == ["file.zip"]


def test_full_disk_while_unpacking(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(extraction.shutil, "copyfileobj", full)
    with pytest.raises(DatasetError, match="No space left .*--download_dir"):
        unpack(tmp_path, zip_bytes(FILES))
    assert names(tmp_path) == ["file.zip"]


def test_what_a_killed_run_left_is_replaced(tmp_path):
    (tmp_path / "file.zip.unpacking/data").mkdir(parents=True)
    (tmp_path / "file.zip.unpacking/data/stale.txt").write_text("stale")
    folder = unpack(tmp_path, zip_bytes(FILES))
    assert names(folder / "data") == ["a.txt", "b"]
    assert names(tmp_path) == ["file.zip", "set"]


# --- Several processes ---------------------------------------------------------------


def archive_to_unpack(server: Server) -> archives.Archive:
    data = zip_bytes({**FILES, **NOISE})
    server.script = [Reply(content=data)]
    checksum = hashlib.sha256(data).hexdigest()
    return archive_of(server, size=len(data), checksum=checksum)


def test_unpacked_once(server, tmp_path):
    archive = archive_to_unpack(server)
    download.obtain(archive, tmp_path)
    assert (tmp_path / "set/data/noise").read_bytes() == CONTENT
    (tmp_path / "file.zip").unlink()  # It may be removed.
    download.obtain(archive, tmp_path)
    assert len(server.requests) == 1


@pytest.mark.skipif(download.os.name == "nt", reason="there are no such locks")
def test_two_at_once(server, tmp_path):
    archive = archive_to_unpack(server)
    server.script = [dataclasses.replace(server.script[0], stall=1000), Reply()]
    server.script[1] = dataclasses.replace(server.script[0], stall=None)
    errors = []

    def first():
        try:
            download.obtain(archive, tmp_path, waits=NO_WAITS, timeout=10)
        except DatasetError as error:
            errors.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    while not server.requests:
        time.sleep(0.01)
    with pytest.raises(DatasetError, match="Another process is writing .*file.zip"):
        download.obtain(archive, tmp_path)
    server.released.set()
    thread.join()
    assert not errors and len(server.requests) == 2
    assert (tmp_path / "set/data/noise").read_bytes() == CONTENT


def test_killed_process_is_taken_up(server, tmp_path):
    archive = archive_of(server)
    server.script = [Reply(stall=123_456), Reply()]
    program = (
        "import sys; from datasets import archives, download; "
        "download.fetch(archives.Archive(**eval(sys.argv[1])), sys.argv[2])"
    )
    arguments = [repr(dataclasses.asdict(archive)), str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT)
    part = tmp_path / "file.zip.part"
    deadline = time.monotonic() + 20
    while not part.exists() or part.stat().st_size < 50_000:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    kept = part.stat().st_size
    assert CONTENT.startswith(part.read_bytes())
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, f"bytes={kept}-"]


# --- The table -----------------------------------------------------------------------

ALL_SOURCES = [
    (name, flag, source)
    for name, sources in archives.SOURCES.items()
    for flag, source in sources.items()
]
ALL_ARCHIVES = {a.file_name: a for _, _, source in ALL_SOURCES for a in source.archives}


def test_file_names_are_unique():
    listed = {archive for _, _, source in ALL_SOURCES for archive in source.archives}
    assert len(listed) == len(ALL_ARCHIVES)
    targets = [target for archive in listed for target in archive.targets]
    assert len(targets) == len(set(targets))


@pytest.mark.parametrize("archive", ALL_ARCHIVES.values(), ids=ALL_ARCHIVES)
def test_rows_are_well_formed(archive):
    for address in (archive.address, archive.page):
        parts = urllib.parse.urlsplit(address)
        assert parts.scheme in ("http", "https") and "." in parts.netloc
    name = archive.address.rpartition("/")[2]
    assert archive.file_name.endswith(name) and "/" not in archive.file_name
    assert archive.file_name.endswith((".zip", ".tar", ".tgz", ".tar.gz"))
    assert archive.size is None or archive.size > 10**6
    if archive.checksum is not None:
        assert re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}", archive.checksum)
        assert archive.new_hash().digest_size * 2 == len(archive.checksum)
    for path in (archive.folder, *archive.members, *archive.inner):
        assert path == extraction._relative_name(path, Path("x"))
    for path in archive.inner:
        assert path.endswith(".zip") and path[: -len(".zip")] in archive.members


@pytest.mark.parametrize("name, flag, source", ALL_SOURCES)
def test_folder_of_a_source_holds_its_archives(name, flag, source):
    assert name in DATASETS and flag.endswith("_dir")
    for archive in source.archives:
        for target in archive.targets:
            inside = target.startswith(f"{source.folder}/")
            assert inside or source.folder.startswith(f"{target}")
        assert (
            archive.split is None
            or archive.split in DATASETS[name].splits
            or (
                name == "coco_voc"  # Its sizes depend on min_pixels.
            )
        )


def test_login_sentences_say_where_and_which():
    sentence = archives.LOGIN["cityscapes"]
    assert "cityscapes-dataset.com" in sentence
    assert "leftImg8bit_trainvaltest.zip" in sentence
    assert "gtFine_trainvaltest.zip" in sentence
    assert not set(archives.LOGIN) & set(archives.SOURCES)
    assert set(archives.LOGIN) <= set(DATASETS)


# --- What a builder asks for ---------------------------------------------------------


def obtained(monkeypatch) -> list[str]:
    """Replaces `obtain`; returns the list that its archives go to."""
    asked = []
    monkeypatch.setattr(
        download, "obtain", lambda archive, *_, **__: asked.append(archive.file_name)
    )
    return asked


def test_prepare_without_download(monkeypatch):
    asked = obtained(monkeypatch)
    assert download.prepare("ade20k", input_dir="here") == {"input_dir": "here"}
    folders = download.prepare("voc2012", devkit_dir="here", sbd_dir=None)
    assert folders == {"devkit_dir": "here", "sbd_dir": None}
    with pytest.raises(DatasetError, match="Expected --input_dir, or --download"):
        download.prepare("ade20k", input_dir=None)
    assert not asked


@pytest.mark.parametrize("wanted", [False, True])
def test_prepare_where_a_login_is_needed(wanted):
    with pytest.raises(DatasetError, match="needs a login: .*gtFine_trainvaltest.zip"):
        download.prepare("cityscapes", input_dir=None, download=wanted)
    folders = download.prepare("cityscapes", input_dir="here", download=wanted)
    assert folders == {"input_dir": "here"}


def test_prepare_downloads_what_is_missing(monkeypatch, tmp_path):
    asked = obtained(monkeypatch)

    def prepare(name, splits=(), **folders):
        asked.clear()
        return download.prepare(
            name, splits, download=True, download_dir=tmp_path, **folders
        )

    folders = prepare("voc2012", devkit_dir=None, sbd_dir=None)
    assert folders == {
        "devkit_dir": str(tmp_path / "voc2012/VOCdevkit/VOC2012"),
        "sbd_dir": str(tmp_path / "sbd/benchmark_RELEASE"),
    }
    assert asked == ["VOCtrainval_11-May-2012.tar", "benchmark.tgz"]
    # A folder that is given, and one that no split needs, are not downloaded.
    folders = prepare("voc2012", devkit_dir="here", sbd_dir=None)
    assert folders["devkit_dir"] == "here" and asked == ["benchmark.tgz"]
    folders = prepare("voc2012", ["train", "val"], devkit_dir=None, sbd_dir=None)
    assert folders["sbd_dir"] is None and asked == ["VOCtrainval_11-May-2012.tar"]
    prepare("coco_stuff", ["val"], input_dir=None)
    assert asked == ["stuffthingmaps_trainval2017.zip", "val2017.zip"]


# --- A builder -----------------------------------------------------------------------


@contextlib.contextmanager
def parsed_flags(module, arguments):
    before = set(flags.FLAGS)
    try:
        module.define_flags()
        flags.FLAGS(["builder", *arguments])
        yield
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()


def test_builder_from_the_download_to_records(server, tmp_path):
    """A CamVid as GitHub packs it, by a mirror, through the builder's main()."""
    generator = np.random.default_rng(1)
    root = archives.CAMVID.members[0]
    files, labels = {}, {}
    for split in ("train", "val"):
        lines = []
        for index in range(2):
            name = f"0001TP_{split}{index}"
            labels[name] = generator.integers(0, 12, [6, 8], dtype=np.uint8)
            image = generator.integers(0, 256, [6, 8, 3], dtype=np.uint8)
            paths = (f"{split}/{name}.png", f"{split}annot/{name}.png")
            for path, pixels in zip(paths, (image, labels[name])):
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                files[f"{root}/{path}"] = buffer.getvalue()
            lines.append(" ".join(f"/SegNet/CamVid/{path}" for path in paths))
        files[f"{root}/{split}.txt"] = "\n".join(lines).encode()
    content = zip_bytes({**files, f"{root.split('/')[0]}/README.md": b""})
    # GitHub says no length and knows no ranges.
    server.script = [
        Reply(content=content, has_length=False, knows_ranges=False, etag='W/"1"')
    ]
    arguments = [
        "--download",
        f"--download_dir={tmp_path / 'downloads'}",
        f"--download_mirror={server.address}/sets/",
        f"--output_dir={tmp_path / 'records'}",
        "--num_processes=1",
    ]
    with parsed_flags(build_camvid, arguments):
        build_camvid.main()
    assert [path for path, _ in server.requests] == [
        f"/sets/{archives.CAMVID.file_name}"
    ]
    assert read_info(tmp_path / "records").splits == {"train": 2, "val": 2}
    for split in ("train", "val"):
        dataset = make_eval_dataset(tmp_path / "records", split, with_filename=True)
        for _, label, name in dataset:
            expected = labels.pop(name[0].numpy().decode()).astype(int)
            expected[expected == 11] = 255
            np.testing.assert_array_equal(label[0], expected)
    assert not labels


# File of the table -> files in it, as the real one has them: more than is needed.
IMAGE_SETS = "VOCdevkit/VOC{}/ImageSets/{}/{}.txt"
LAYOUTS = {
    "VOCtrainval_11-May-2012.tar": {
        "VOCdevkit/VOC2012/Annotations/2007_1.xml": b"",
        "VOCdevkit/VOC2012/JPEGImages/2007_1.jpg": b"",
        "VOCdevkit/VOC2012/JPEGImages/2008_2.jpg": b"",
        "VOCdevkit/VOC2012/SegmentationClass/2007_1.png": b"",
        "VOCdevkit/VOC2012/SegmentationObject/2007_1.png": b"",
        IMAGE_SETS.format(2012, "Segmentation", "train"): b"2007_1\n",
        IMAGE_SETS.format(2012, "Segmentation", "val"): b"2007_3\n",
    },
    "benchmark.tgz": {
        "benchmark_RELEASE/README": b"",
        "benchmark_RELEASE/dataset/cls/2008_2.mat": b"",
        "benchmark_RELEASE/dataset/img/2008_2.jpg": b"",
        "benchmark_RELEASE/dataset/inst/2008_2.mat": b"",
        "benchmark_RELEASE/dataset/train.txt": b"2008_2\n",
        "benchmark_RELEASE/dataset/val.txt": b"2007_3\n",
    },
    "VOCtrainval_03-May-2010.tar": {
        "VOCdevkit/VOC2010/JPEGImages/2008_2.jpg": b"",
        IMAGE_SETS.format(2010, "Main", "train"): b"2008_2\n",
        IMAGE_SETS.format(2010, "Main", "val"): b"2008_2\n",
    },
    "pascal_context_trainval.tar.gz": {"trainval/2008_2.mat": b""},
    "pascal_parts_trainval.tar.gz": {"Annotations_Part/2008_2.mat": b""},
    "train2017.zip": {"train2017/000000000009.jpg": b""},
    "val2017.zip": {"val2017/000000000139.jpg": b""},
    "annotations_trainval2017.zip": {
        f"annotations/{kind}_{split}2017.json": b"{}"
        for kind in ("captions", "instances", "person_keypoints")
        for split in ("train", "val")
    },
    "panoptic_annotations_trainval2017.zip": {
        f"annotations/panoptic_{name}": content
        for split, image in (("train", 9), ("val", 139))
        for name, content in (
            (f"{split}2017.json", b"{}"),
            (
                f"{split}2017.zip",
                zip_bytes({f"panoptic_{split}2017/{image:012}.png": b""}),
            ),
        )
    },
    "stuffthingmaps_trainval2017.zip": {
        "train2017/000000000009.png": b"",
        "val2017/000000000139.png": b"",
    },
    "ADEChallengeData2016.zip": {
        f"ADEChallengeData2016/{name}": b""
        for name in (
            "images/training/ADE_train_00000001.jpg",
            "annotations/training/ADE_train_00000001.png",
            "images/validation/ADE_val_00000001.jpg",
            "annotations/validation/ADE_val_00000001.png",
            "objectInfo150.txt",
            "sceneCategories.txt",
        )
    },
    archives.CAMVID.file_name: {
        f"{archives.CAMVID.members[0]}/{name}": content
        for name, content in (
            (
                "train.txt",
                b"/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png",
            ),
            ("train/a.png", b""),
            ("trainannot/a.png", b""),
        )
    },
}


def sources_of_coco(input_dir, split, task):
    """The JSON or the maps, the images, and panoptic's masks."""
    folder = Path(input_dir)
    source = build_coco.find_sources(input_dir, task)[split]
    image = next((folder / f"{split}2017").glob("*.jpg"))
    masks = {
        "voc": source,
        "panoptic": folder / f"annotations/panoptic_{split}2017/{image.stem}.png",
        "stuff": source / f"{image.stem}.png",
    }
    return [("name", str(image), str(masks[task]))]


@pytest.mark.parametrize(
    "name, split, list_samples",
    [
        ("voc2012", "trainaug", build_voc2012.list_samples),
        ("pascal_context", "val", build_pascal_context.list_samples),
        ("person_part", "val", build_person_part.list_samples),
        ("ade20k", "val", build_ade20k.list_samples),
        ("camvid", "train", build_camvid.list_samples),
        *(
            (f"coco_{task}", "train", functools.partial(sources_of_coco, task=task))
            for task in build_coco.TASKS
        ),
    ],
)
def test_builders_find_what_was_unpacked(
    name, split, list_samples, server, monkeypatch, tmp_path
):
    rows = {}
    for flag, source in archives.SOURCES[name].items():
        mine = [
            dataclasses.replace(archive, size=None, checksum=None)
            for archive in source.archives
        ]
        rows[flag] = dataclasses.replace(source, archives=tuple(mine))
        for archive in mine:
            pack = {"zip": zip_bytes, "tar": functools.partial(tar_bytes, mode="w")}
            pack = pack.get(archive.file_name[-3:], tar_bytes)
            server.files[archive.file_name] = pack(LAYOUTS[archive.file_name])
    monkeypatch.setitem(archives.SOURCES, name, rows)
    folders = download.prepare(
        name,
        download=True,
        download_dir=tmp_path,
        mirror=server.address,
        **dict.fromkeys(rows),
    )
    samples = list_samples(split=split, **folders)
    assert samples
    for _, image, label in samples:
        assert Path(image).is_file() and Path(label).is_file()


BUILDERS = [
    ("voc2012", build_voc2012.build_voc2012, []),
    ("pascal_context", build_pascal_context.build_pascal_context, []),
    ("person_part", build_person_part.build_person_part, []),
    *(
        (f"coco_{task}", build_coco.build_coco, [f"--task={task}"])
        for task in build_coco.TASKS
    ),
    ("ade20k", build_ade20k.build_ade20k, []),
    ("camvid", build_camvid.build_camvid, []),
    ("cityscapes", build_cityscapes.build_cityscapes, []),
]


def test_every_row_has_a_builder():
    rows = {*archives.SOURCES, *archives.LOGIN}
    assert {name for name, _, _ in BUILDERS} == rows


@pytest.mark.parametrize("name, build_it, arguments", BUILDERS)
def test_builders_pass_on_the_folders(name, build_it, arguments, monkeypatch, tmp_path):
    module, calls = sys.modules[build_it.__module__], []
    asked = obtained(monkeypatch)
    monkeypatch.setattr(module, build_it.__name__, lambda **given: calls.append(given))
    common = [*arguments, "--output_dir=out", f"--download_dir={tmp_path}"]
    with parsed_flags(module, [*common, "--download", "--splits=val"]):
        if name in archives.LOGIN:
            with pytest.raises(DatasetError, match="needs a login"):
                module.main()
            return
        module.main()
    sources = {
        flag: source
        for flag, source in archives.SOURCES[name].items()
        if source.archives != (archives.SBD,)
    }
    # What the builder gets fits its signature; only what val needs was asked for.
    given = inspect.signature(build_it).bind(**calls.pop()).arguments
    for flag, source in sources.items():
        assert given[flag] == str(tmp_path / source.folder)
    every = [archive for source in sources.values() for archive in source.archives]
    assert asked == [a.file_name for a in every if a.split in (None, "val")]
    # A folder that is given is used as it is, with --download or without.
    required = next(iter(sources))
    with parsed_flags(module, [*common, f"--{required}=here"]):
        module.main()
    assert calls.pop()[required] == "here"
    with parsed_flags(module, common):
        with pytest.raises(DatasetError, match=f"Expected --{required}, or --download"):
            module.main()


def test_download_is_of_coco_2017(monkeypatch, tmp_path):
    asked = obtained(monkeypatch)
    arguments = ["--task=voc", "--output_dir=out", "--download", "--year=2014"]
    with parsed_flags(build_coco, arguments):
        with pytest.raises(DatasetError, match="COCO 2017"):
            build_coco.main()
    assert not asked


def test_mirror_that_is_no_address():
    arguments = ["--output_dir=out", "--download", "--download_mirror=/mnt/data"]
    with parsed_flags(build_camvid, arguments):
        with pytest.raises(DatasetError, match="start with http.* Received: /mnt/data"):
            build_camvid.main()
