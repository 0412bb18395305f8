"""A Flask application in, a server for this machine alone out, with its bounds.

Each connection has a thread. There are so many of them and no more, a request must
have arrived in a given time, and whoever has left is noticed, so that neither memory
nor work is for nobody.
"""

from __future__ import annotations

import contextlib
import io
import json
import select
import socket
import threading
import time

HOST = "127.0.0.1"
MAX_CONNECTIONS = 16  # browsers open six at most
REQUEST_SECONDS = 60  # for a request to arrive; it comes from this machine
_BUSY = json.dumps(
    {"error": "The server has too many connections. Try again."}
).encode()
_BUSY_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BUSY), _BUSY)
)


def make_server(
    app,
    port: int,
    max_connections: int = MAX_CONNECTIONS,
    request_seconds: float = REQUEST_SECONDS,
):
    """Binds a Flask application to a port of 127.0.0.1.

    Args:
      app: the application.
      port: 0 takes a free one.
      max_connections: further ones are told that there are too many (503).
      request_seconds: a request that has not arrived by then is given up (408), and so
        is an answer that has not been taken.

    Returns:
      A werkzeug server with `port`, `serve_forever()` and `shutdown()`; it listens.

    Raises:
      OSError: the port cannot be had.
    """
    from werkzeug import serving

    places = threading.BoundedSemaphore(max_connections)

    class Handler(serving.WSGIRequestHandler):
        timeout = request_seconds

        def setup(self):
            super().setup()
            self.rfile.close()
            self._reader = _TimedReader(self.connection, request_seconds)
            self.rfile = io.BufferedReader(self._reader)

        def handle_one_request(self):
            self._reader.restart()
            super().handle_one_request()

        def log_request(self, *args):
            """Requests are not worth a line each; errors still are."""

    class Server(serving.ThreadedWSGIServer):
        def process_request(self, request, client_address):
            if not places.acquire(blocking=False):
                with contextlib.suppress(OSError):
                    request.sendall(_BUSY_ANSWER)
                self.shutdown_request(request)
                return
            try:
                super().process_request(request, client_address)
            except BaseException:  # no thread could be started
                places.release()
                raise

        def process_request_thread(self, request, client_address):
            try:
                super().process_request_thread(request, client_address)
            finally:
                places.release()

    # Bound here, since werkzeug would end the program where the port is taken.
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise OSError(
            f"Port {port} of {HOST} cannot be had: {error.strerror}. Give another one."
        ) from error
    with listening:
        return Server(HOST, port, app, handler=Handler, fd=listening.fileno())


def has_left(environ: dict) -> bool:
    """Whether whoever asked has closed the connection meanwhile.

    Args:
      environ: of the request.
    """
    connection = environ.get("werkzeug.socket")
    if connection is None:  # as in Flask's test client
        return False
    try:
        readable, _, _ = select.select([connection], [], [], 0)
        return bool(readable) and not connection.recv(1, socket.MSG_PEEK)
    except (OSError, ValueError):
        return True


class _TimedReader(io.RawIOBase):
    """Reads from a connection until a deadline, however slowly the bytes come."""

    def __init__(self, connection: socket.socket, seconds: float):
        self._connection, self._seconds = connection, seconds
        self.restart()

    def restart(self) -> None:
        """Begins the time anew, for the next request of the connection."""
        self._deadline = time.monotonic() + self._seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("The request did not arrive in time.")
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(self._seconds)
