"""The REST side: TF Serving's addresses, answered over HTTP."""

from __future__ import annotations

import http.server
import json
import re
import sys

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from tests.support.c_loader import CallError
from tests.support.stand_in.json_bodies import answer_of, request_of
from tests.support.stand_in.models import Models
from tests.support.stand_in.refusals import INVALID_ARGUMENT, words_of

HTTP_STATUS = {3: 400, 4: 504, 5: 404, 8: 429, 9: 400, 11: 400, 12: 501, 14: 503}
METRICS_PATH = "/monitoring/prometheus/metrics"
MAX_BODY_BYTES = 64 * 2**20
IDLE_SECONDS = 5  # after which a silent connection is closed

_PREDICT = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:predict"
)
_GET = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata)?"
)


class Handler(http.server.BaseHTTPRequestHandler):
    """REST. Every refusal is {"error": a sentence}."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    models: Models

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._predict)

    do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = do_POST

    def _answer(self, run) -> None:
        try:
            body = self._body()
            self._send(200, run(body))
        except CallError as error:
            status = HTTP_STATUS.get(error.code, 500)
            self._send(status, {"error": words_of(error)})

    def _body(self) -> bytes:
        """Reads the body; where that cannot be, the connection ends with the answer."""
        length = self.headers.get("Content-Length", "0")
        closes, self.close_connection = self.close_connection, True
        if "Transfer-Encoding" in self.headers or not re.fullmatch(
            r"[0-9]{1,18}", length
        ):
            raise CallError(INVALID_ARGUMENT, "Expected a Content-Length of the body.")
        if int(length) > MAX_BODY_BYTES:
            raise CallError(
                INVALID_ARGUMENT, f"The body must have at most {MAX_BODY_BYTES} bytes."
            )
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise CallError(INVALID_ARGUMENT, "The body is shorter than announced.")
        self.close_connection = closes
        return body

    def _get(self, body: bytes):
        path = self.path.partition("?")[0]
        if path == METRICS_PATH:
            return self.models.metrics()
        match = self._matched(_GET, "GET")
        spec = _spec(*match.groups()[:3])
        if not match.group(4):
            status = self.models.status(spec)
            return json_format.MessageToDict(
                status, preserving_proto_field_name=True, **_PRINT_ALL
            )
        with self.models.servable(spec) as (number, servable):
            spec.version.value = number
            signatures = get_model_metadata_pb2.SignatureDefMap(
                signature_def=servable.signatures
            )
        to_dict = json_format.MessageToDict
        return {
            "model_spec": to_dict(spec),
            "metadata": {
                "signature_def": to_dict(signatures, preserving_proto_field_name=True)
            },
        }

    def _predict(self, body: bytes):
        spec = _spec(*self._matched(_PREDICT, "POST").groups())
        request, columns = request_of(body, spec, self.models)
        return answer_of(self.models.predict(request), columns)

    def _matched(self, pattern, method: str):
        match = pattern.fullmatch(self.path.partition("?")[0])
        if not match or self.command != method:
            raise CallError(
                INVALID_ARGUMENT, f"Malformed request: {self.command} {self.path}"
            )
        return match

    def _send(self, status: int, answer) -> None:
        # On many lines, as TF Serving.
        text = answer if isinstance(answer, str) else json.dumps(answer, indent=4)
        kind = "text/plain" if isinstance(answer, str) else "application/json"
        data = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_error(self, code, message=None, explain=None):
        """What the base class refuses: a request line or headers that are none."""
        self.close_connection = True
        self._send(code, {"error": message or "Malformed request"})

    def log_message(self, *arguments):
        pass


# Its name changed in protobuf 5.
_PRINT_ALL = {
    name: True
    for name in (
        "always_print_fields_with_no_presence",
        "including_default_value_fields",
    )
    if name in json_format.MessageToDict.__code__.co_varnames
}


def _spec(name: str, version: str | None, label: str | None):
    spec = predict_pb2.PredictRequest().model_spec
    spec.name = name
    if version is not None and int(version) >= 2**63:
        raise CallError(
            INVALID_ARGUMENT, f"Failed to convert version: {version} to numeric."
        )
    if version is not None:
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = label
    return spec


class RestServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def rest_server(models: Models, port: int) -> RestServer:
    """A server that `serve_forever` starts; port 0 takes a free one."""
    handler = type("BoundHandler", (Handler,), {"models": models})
    return RestServer(("127.0.0.1", port), handler)
