"""A web server on this machine that misbehaves as it is told, and what it serves."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import http.server
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator

import numpy as np

CONTENT = np.random.default_rng(0).bytes(300_000)


@dataclasses.dataclass
class Reply:
    """What the server does with one request.

    Attributes:
      status: instead of 200 or 206.
      cut: bytes of the body after which the connection ends.
      stall: bytes of the body after which nothing comes any more.
      knows_ranges: whether it answers a Range with 206.
      etag: of the file.
      last_modified: likewise.
      shift: by how much a 206 begins elsewhere than it was asked to; None leaves
        Content-Range out.
      span_total: size of the file that a 206 tells, if another than it is.
      content: of the file.
      location: where a redirect leads.
      content_type: of the answer.
      has_length: whether it says how long the body is.
      reason: phrase of `status`.
      chunked: whether the body comes in chunks of 1,000 bytes, as HTTP 1.1 has them.
    """

    status: int = 0
    cut: int | None = None
    stall: int | None = None
    knows_ranges: bool = True
    etag: str = '"first"'
    last_modified: str = ""
    shift: int | None = 0
    span_total: int | None = None
    content: bytes = CONTENT
    location: str = ""
    content_type: str = "application/zip"
    has_length: bool = True
    chunked: bool = False
    reason: str | None = None


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
            self.send_response(reply.status, reply.reason)
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
        known = (reply.etag, reply.last_modified)
        same = self.headers.get("If-Range", reply.etag) in known
        if wanted and same and reply.knows_ranges:
            start = int(wanted[1]) + (reply.shift or 0)
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            if reply.shift is not None:
                span = f"{start}-{len(content) - 1}/{reply.span_total or len(content)}"
                self.send_header("Content-Range", f"bytes {span}")
        else:
            self.send_response(200)
        for name in ("etag", "last_modified"):
            if value := getattr(reply, name):
                self.send_header(name.replace("_", "-"), value)
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


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Runs a server in a thread; afterwards no answer is left waiting."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


# --- Archives to serve ---------------------------------------------------------------


def zip_bytes(files, kinds=None) -> bytes:
    """`kinds`: name -> mode of the entry, such as that of a link."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (kinds or {}).get(name, 0) << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def tar_bytes(files, kinds=None, mode="w:gz") -> bytes:
    """The same bytes every day.

    Args:
      files: name -> content.
      kinds: name -> type of the entry; its content is what it links to.
      mode: "w", or "w:gz" for a compressed one.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type = (kinds or {}).get(name, tarfile.REGTYPE)
            if info.isreg():
                info.size = len(content)
            else:
                info.linkname = content.decode()
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    data = buffer.getvalue()
    # gzip would store the time.
    return gzip.compress(data, mtime=0) if mode == "w:gz" else data
