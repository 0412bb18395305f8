"""Downloads against a server on this machine that misbehaves as it is told."""

from __future__ import annotations

import base64
import dataclasses
import errno
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.downloads import archives, download
from deeplab_tf.downloading import fetching
from deeplab_tf.downloading.errors import DownloadError
from tests.support.file_server import CONTENT, Reply, Server, serving, zip_bytes

ROOT = Path(__file__).resolve().parent.parent
NO_WAITS = (0, 0, 0)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        yield server


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
    return fetching.fetch((archive or archive_of(server)).remote, folder, **options)


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
    with pytest.raises(DownloadError, match=r"Expected checksum .* Remove it"):
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
    with pytest.raises(DownloadError, match="100 bytes, which are kept"):
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
    with pytest.raises(DownloadError, match="Cannot download"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1 + len(NO_WAITS)


def test_changed_file_starts_anew(server, tmp_path):
    old = CONTENT[::-1]
    server.script = [Reply(content=old, etag='"old"', cut=100_000), Reply()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[1][1]["If-Range"] == '"old"'


def ignore_if_range(monkeypatch):
    """The server gets no If-Range, and answers 206 for another file."""
    add_header = fetching.urllib.request.Request.add_header
    monkeypatch.setattr(
        fetching.urllib.request.Request,
        "add_header",
        lambda self, key, value: key == "If-Range" or add_header(self, key, value),
    )


def test_changed_file_is_noticed_where_the_server_ignores_if_range(
    server, tmp_path, monkeypatch
):
    old = CONTENT[::-1]
    server.script = [Reply(content=old, etag='"old"', cut=100_000), Reply()]
    ignore_if_range(monkeypatch)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-", None]


@pytest.mark.parametrize("shift", [-1000, None])
def test_answer_that_begins_elsewhere_starts_anew(server, tmp_path, shift):
    server.script = [Reply(cut=100_000), Reply(shift=shift), Reply()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-", None]


def test_weak_etag_is_no_proof_but_the_date_is(server, tmp_path):
    date = "Mon, 25 May 2026 10:00:00 GMT"
    dated = Reply(etag='W/"first"', last_modified=date)
    server.script = [dataclasses.replace(dated, cut=100_000), dated]
    archive = archive_of(server, checksum=None)
    assert fetch(server, tmp_path, archive).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-"]
    assert server.requests[1][1]["If-Range"] == date


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
    with pytest.raises(DownloadError, match=f"{right}.* The file was removed"):
        fetch(server, tmp_path, archive)
    assert names(tmp_path) == []
    server.script = [Reply()]
    assert fetch(server, tmp_path, archive).read_bytes() == CONTENT


def test_wrong_size_is_refused_before_it_comes(server, tmp_path):
    server.script = [Reply(content=CONTENT + b"more")]
    with pytest.raises(DownloadError, match="300000 bytes of http.* Received: 300004"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_wrong_size_without_length(server, tmp_path):
    server.script = [Reply(content=CONTENT[:-5], has_length=False)]
    with pytest.raises(DownloadError, match="Expected 300000 bytes .*Received: 299995"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_part_longer_than_the_file_starts_anew(server, tmp_path):
    server.script = [Reply(content=CONTENT * 2, etag="", has_length=False, cut=350_000)]
    with pytest.raises(DownloadError, match="more.*The file there is another one"):
        fetch(server, tmp_path)
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
    with pytest.raises(DownloadError, match=sentence):
        fetch(server, tmp_path)
    assert len(server.requests) == 1 and names(tmp_path) == []


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_errors_pass(server, tmp_path, status, capsys):
    server.script = [Reply(status=status), Reply()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert str(status) in capsys.readouterr().out


def test_lasting_server_error(server, tmp_path):
    server.script = [Reply(status=502)]
    with pytest.raises(DownloadError, match="answers 502 Bad Gateway"):
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
    with pytest.raises(DownloadError, match="redirects in a circle"):
        fetch(server, tmp_path)


def test_web_page_instead_of_the_file(server, tmp_path):
    server.script = [Reply(content=b"<html>log in", content_type="text/html")]
    archive = archive_of(server, size=None, checksum=None)
    with pytest.raises(DownloadError, match="Received: a web page"):
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
    with pytest.raises(DownloadError, match="cannot reach the server .*refused"):
        fetch(server, tmp_path, archive, waits=waits)
    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    archive = archive_of(server, address="http://data.example/file.zip")
    with pytest.raises(DownloadError, match="service not known.*; check the net"):
        fetch(server, tmp_path, archive, waits=waits)


def test_too_little_room_is_told_before(server, tmp_path, monkeypatch):
    usage = fetching.shutil.disk_usage(tmp_path)._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="needs 300000 bytes .* Free: 299999"):
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

    monkeypatch.setattr(fetching, "open", open_file, raising=False)
    with pytest.raises(DownloadError, match="No space left on the disk of .*keeps"):
        fetch(server, tmp_path)
    assert (tmp_path / "file.zip.part").read_bytes() == CONTENT[:50_000]
    monkeypatch.delattr(fetching, "open")
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=50000-"]


# --- Servers that are not to be trusted -----------------------------------------------


@pytest.mark.parametrize("address", ["ftp://h/x.zip", "file:///etc/x", "gopher://h/x"])
def test_redirects_leave_the_web_for_nothing(server, tmp_path, address):
    server.script = [Reply(status=302, location=address)]
    with pytest.raises(DownloadError, match=f"redirects to {address}|in a circle"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1 and names(tmp_path) == []


def test_a_password_is_sent_to_its_server_alone_and_never_shown(
    server, tmp_path, capsys
):
    with serving() as other:
        server.script = [
            Reply(status=503),
            Reply(status=302, location=f"{other.address}/file.zip"),
        ]
        other.script = [Reply(status=404)]
        mirror = server.address.replace("//", "//me:s%3Acret@")
        with pytest.raises(DownloadError) as error:
            fetch(server, tmp_path, mirror=mirror)
    expected = f"Basic {base64.b64encode(b'me:s:cret').decode()}"
    assert [headers["Authorization"] for _, headers in server.requests] == [
        expected
    ] * 2
    assert "Authorization" not in other.requests[0][1]
    shown = capsys.readouterr().out + str(error.value)
    assert "cret" not in shown and f"Downloading {server.address}/file.zip" in shown


@pytest.mark.parametrize("status", [404, 503, 400])
def test_words_of_servers_do_not_reach_the_terminal(server, tmp_path, capsys, status):
    server.script = [Reply(status=status, reason="No\x1b[2J\x1b]0;x\x07")]
    with pytest.raises(DownloadError) as error:
        fetch(server, tmp_path)
    assert "\x1b" not in capsys.readouterr().out + str(error.value)


def test_more_than_the_known_size_is_cut_off(server, tmp_path):
    server.script = [Reply(content=CONTENT * 20, has_length=False)]
    with pytest.raises(
        DownloadError, match="Expected 300000 bytes of file.zip. .*more"
    ):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_more_than_any_file_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_UNKNOWN_BYTES", 100_000)
    server.script = [Reply(chunked=True)]
    with pytest.raises(DownloadError, match="Expected 100000 bytes"):
        fetch(server, tmp_path, archive_of(server, size=None, checksum=None))
    assert names(tmp_path) == []


def test_nothing_that_could_be_short_is_taken(server, tmp_path):
    server.script = [Reply(has_length=False, cut=200_000)]
    with pytest.raises(DownloadError, match="nobody could tell whether all of it came"):
        fetch(server, tmp_path, archive_of(server, size=None, checksum=None))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "second",
    [
        {"etag": ""},
        {"etag": 'W/"first"'},
        {"span_total": 300_001},
        {"shift": 1},
    ],
)
def test_two_files_do_not_become_one(server, tmp_path, second, monkeypatch):
    """Without a checksum the server must say that it still has the same file."""
    ignore_if_range(monkeypatch)
    archive = archive_of(server, checksum=None)
    server.script = [
        Reply(content=CONTENT[::-1], cut=100_000),
        Reply(**second),
        Reply(),
    ]
    assert fetch(server, tmp_path, archive).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-", None]


# --- Several processes ---------------------------------------------------------------


def archive_to_unpack(server: Server) -> archives.Archive:
    data = zip_bytes({"data/noise": CONTENT})
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


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks")
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
        "import sys; from deeplab_tf.data.downloads import archives; "
        "from deeplab_tf.downloading import fetching; "
        "fetching.fetch(archives.Archive(**eval(sys.argv[1])).remote, sys.argv[2])"
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
