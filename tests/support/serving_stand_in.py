"""Speaks TF Serving's REST and gRPC over exported models, for tests without Docker.

    python -m tests.support.serving_stand_in --model_base_path=exported --port=0
    python -m tests.support.serving_stand_in --model_config_file=models.config ...

Prints "REST http://127.0.0.1:... gRPC 127.0.0.1:..." once the models are loaded. It
runs them in TensorFlow's C library, through the loader that TF Serving uses. It stands
in for what a client and an operator see: paths, formats, status codes, versions that
come and go, version labels, warm-up, batching. It has no classify or regress.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import collections
import contextlib
import dataclasses
import http.server
import importlib.util
import itertools
import json
import math
import operator
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    # The messages lie inside TensorFlow's package. As it is not executed, this process
    # is up at once, and its memory is that of the C library.
    _package = importlib.util.find_spec("tensorflow")
    sys.modules["tensorflow"] = importlib.util.module_from_spec(_package)

import grpc
import numpy as np
import psutil
from google.protobuf import json_format, text_format
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2, saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from tests.support.c_loader import TF_STRING, CallError, Session, Tensor, load_library
from tests.support.request_batching import BatchingSession, read_parameters

ROOT = Path(__file__).resolve().parents[2]
INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED = 3, 5, 8
HTTP_STATUS = {3: 400, 4: 504, 5: 404, 8: 429, 9: 400, 11: 400, 12: 501, 14: 503}
STATUSES = {status.value[0]: status for status in grpc.StatusCode}
METRICS_PATH = "/monitoring/prometheus/metrics"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_MESSAGE_BYTES = 4 * 2**20  # gRPC's default; TF Serving itself takes up to 2 GiB
MAX_BODY_BYTES = 64 * 2**20
MAX_TENSOR_BYTES = 256 * 2**20
IDLE_SECONDS = 5  # after which a silent connection is closed
_MAX_RANK = 254  # of TensorFlow
_MAX_WORDS = 1024  # of an error; they travel in a header

# tensorflow.DataType -> (numpy's, the field of TensorProto that holds values).
_DTYPES = {1: ("<f4", "float_val"), 3: ("<i4", "int_val"), 4: ("u1", "int_val")}
_PREDICT = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:predict"
)
_GET = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata)?"
)


class Servable:
    """One version of a model, loaded and warmed up.

    Args:
      library: of `c_loader.load_library`.
      path: folder of the version.
      session_config: a serialized tensorflow.ConfigProto.
      batching: of `request_batching.read_parameters`; None joins no requests.

    Raises:
      CallError: the folder holds no model, or the warm-up fails.
    """

    def __init__(self, library, path: Path, session_config: bytes, batching=None):
        self.session = Session(library, str(path), session_config)
        if batching:
            self.session = BatchingSession(self.session, batching)
        saved_model = saved_model_pb2.SavedModel()
        saved_model.ParseFromString((path / "saved_model.pb").read_bytes())
        self.signatures = saved_model.meta_graphs[0].signature_def
        self._users, self._change = 0, threading.Condition()
        for request in read_warmup(path / WARMUP_FILE):
            self.answer(request)

    def acquire(self) -> None:
        """Keeps the version loaded until `release`."""
        with self._change:
            self._users += 1

    def release(self) -> None:
        with self._change:
            self._users -= 1
            self._change.notify_all()

    def close(self) -> None:
        """Frees the version when its last request is answered."""
        with self._change:
            self._change.wait_for(lambda: not self._users)
        self.session.close()

    def signature(self, name: str):
        name = name or "serving_default"
        if name not in self.signatures:
            raise CallError(
                INVALID_ARGUMENT,
                f'Serving signature name: "{name}" not found in signature def',
            )
        # The operation that initialises the model is listed as a signature, too.
        if self.signatures[name].method_name != "tensorflow/serving/predict":
            raise CallError(INVALID_ARGUMENT, f'"{name}" is no signature to predict.')
        return self.signatures[name]

    def answer(self, request) -> predict_pb2.PredictResponse:
        """PredictRequest -> PredictResponse."""
        signature = self.signature(request.model_spec.signature_name)
        expected = set(signature.inputs)
        if set(request.inputs) != expected:
            raise CallError(
                INVALID_ARGUMENT,
                "input keys do not match the signature. Expected: "
                f"{', '.join(sorted(expected))}. "
                f"Received: {', '.join(sorted(request.inputs))}",
            )
        names = list(request.output_filter) or list(signature.outputs)
        for name in names:
            if name not in signature.outputs:
                raise CallError(
                    INVALID_ARGUMENT,
                    f"output tensor alias not found in signature: {name}",
                )
        feeds = {
            signature.inputs[name].name: tensor_of(proto)
            for name, proto in request.inputs.items()
        }
        fetches = [signature.outputs[name].name for name in names]
        response = predict_pb2.PredictResponse()
        for name, tensor in zip(names, self.session.run(feeds, fetches)):
            response.outputs[name].CopyFrom(proto_of(tensor))
        return response


def read_warmup(path: Path) -> Iterator[predict_pb2.PredictRequest]:
    """Reads the predict requests out of TFRecords of PredictionLog."""
    data = path.read_bytes() if path.is_file() else b""
    while data:
        size = int.from_bytes(data[:8], "little")
        log = prediction_log_pb2.PredictionLog.FromString(data[12 : 12 + size])
        yield log.predict_log.request
        data = data[16 + size :]


def tensor_of(proto: tensor_pb2.TensorProto) -> Tensor:
    """TensorProto -> Tensor, with the checks of TensorFlow's own."""
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank:
        raise CallError(INVALID_ARGUMENT, "Expected a tensor of known shape.")
    _check_shape(shape)
    elements = math.prod(shape)
    if proto.dtype == TF_STRING:
        values, size = list(proto.string_val), elements
    elif proto.dtype in _DTYPES:
        kind, field = _DTYPES[proto.dtype]
        size = elements * np.dtype(kind).itemsize
        values = proto.tensor_content or _packed(getattr(proto, field), kind, elements)
    else:
        raise CallError(
            INVALID_ARGUMENT, f"Tensors of type {proto.dtype} are not supported."
        )
    if len(values) != size:
        raise CallError(
            INVALID_ARGUMENT,
            f"Shape {shape} does not have as many values as the tensor holds.",
        )
    return Tensor(proto.dtype, shape, values)


def _check_shape(shape: Sequence[int]) -> None:
    """Refuses shapes that would end the process inside the library."""
    products = itertools.accumulate(shape, operator.mul, initial=1)
    if len(shape) > _MAX_RANK or min(shape, default=0) < 0 or max(products) >= 2**63:
        words = f"No tensor has the shape {shape[:8]}, of {len(shape)} dimensions."
        raise CallError(INVALID_ARGUMENT, words)


def _packed(values, kind: str, elements: int) -> bytes:
    """Values of a TensorProto -> bytes. The last value is repeated, as TensorFlow does.

    As there are few values for any shape, a small message may ask for much memory.
    """
    if elements * np.dtype(kind).itemsize > MAX_TENSOR_BYTES:
        raise CallError(
            RESOURCE_EXHAUSTED, f"A tensor of {elements} values is too large."
        )
    try:
        given = np.array(values, np.int64 if kind != "<f4" else kind)
        packed = given.astype(kind)
    except (OverflowError, ValueError) as error:
        raise CallError(INVALID_ARGUMENT, f"Bad tensor values: {error}") from error
    if kind != "<f4" and not np.array_equal(given, packed):
        raise CallError(INVALID_ARGUMENT, "Tensor values do not fit their type.")
    if 0 < len(packed) < elements:
        packed = np.pad(packed, (0, elements - len(packed)), "edge")
    return packed.tobytes()


def proto_of(tensor: Tensor) -> tensor_pb2.TensorProto:
    """Tensor -> TensorProto."""
    proto = tensor_pb2.TensorProto(dtype=tensor.dtype)
    for size in tensor.shape:
        proto.tensor_shape.dim.add(size=size)
    if tensor.dtype == TF_STRING:
        proto.string_val.extend(tensor.content)
    else:
        proto.tensor_content = tensor.content
    return proto


class Version(NamedTuple):
    """A version that the server knows: ended where `servable` is None."""

    servable: Servable | None
    error: CallError | None


class Models:
    """The models of a configuration, and the versions their folders hold.

    Args:
      read_config: gives a ModelServerConfig; asked again at every `poll`.
      labels_ahead: whether a new label may name a version that is not loaded.
      of_servable: what a `Servable` takes beside library and path.
    """

    def __init__(self, read_config, labels_ahead: bool, **of_servable):
        self.library = load_library()
        self.of_servable = of_servable
        self.read_config = read_config
        self.labels_ahead = labels_ahead
        self.versions: dict[str, dict[int, Version]] = {}
        self.labels: dict[str, dict[str, int]] = {}
        self.requests = collections.Counter()
        self._lock = threading.Lock()  # of `versions`: what is given out stays loaded

    def poll(self) -> None:
        """Loads and unloads what configuration and folders ask for."""
        configs = self.read_config().model_config_list.config
        for config in configs:
            self._assign_labels(config)
            self._load(config)
        for name in self.versions.keys() - {config.name for config in configs}:
            self._unload(name, set(self.versions[name]))

    def _assign_labels(self, config) -> None:
        old = self.labels.get(config.name, {})
        loaded = self.versions.get(config.name, {})
        new = {}
        for label, number in config.version_labels.items():
            available = number in loaded and loaded[number].servable
            if available or (self.labels_ahead and label not in old):
                new[label] = number
            elif label in old:
                new[label] = old[label]
            if label not in new or new[label] != number:
                _log(f"label {label}: version {number} is not available")
        self.labels[config.name] = new

    def _load(self, config) -> None:
        known = self.versions.setdefault(config.name, {})
        wanted = aspired_versions(config)
        for number in wanted - known.keys():
            try:
                path = version_folder(config.base_path, number)
                servable = Servable(self.library, path, **self.of_servable)
                version = Version(servable, None)
            except CallError as error:
                version = Version(None, error)
                _log(f"version {number}: {error}")
            with self._lock:
                known[number] = version
        # A version goes when another is there to take its place.
        if not wanted or any(known[number].servable for number in wanted):
            self._unload(config.name, known.keys() - wanted)

    def _unload(self, name: str, numbers: set[int]) -> None:
        for number in numbers:
            with self._lock:
                version = self.versions[name].pop(number)
            if version.servable:
                # It waits for requests under way.
                threading.Thread(target=version.servable.close, daemon=True).start()

    @contextlib.contextmanager
    def servable(self, spec) -> Iterator[tuple[int, Servable]]:
        """Gives (number, Servable) of a ModelSpec."""
        with self._lock:
            number, servable = self._find(spec)
            servable.acquire()
        try:
            yield number, servable
        finally:
            servable.release()

    def _find(self, spec) -> tuple[int, Servable]:
        known = self.versions.get(spec.name, {})
        available = {n: v.servable for n, v in known.items() if v.servable}
        number = self._number(spec, max(available, default=0))
        if number not in available:
            asked = (
                f"Specific({spec.name}, {number})" if number else f"Latest({spec.name})"
            )
            raise CallError(NOT_FOUND, f"Servable not found for request: {asked}")
        return number, available[number]

    def _number(self, spec, default: int) -> int:
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return spec.version.value
        if choice != "version_label":
            return default
        label = spec.version_label
        if label not in self.labels.get(spec.name, {}):
            raise CallError(
                INVALID_ARGUMENT, f"Unrecognized servable version label: {label}"
            )
        return self.labels[spec.name][label]

    def predict(self, request) -> predict_pb2.PredictResponse:
        """PredictRequest -> PredictResponse."""
        status = "OK"
        try:
            with self.servable(request.model_spec) as (number, servable):
                response = servable.answer(request)
        except CallError as error:
            status = STATUSES[error.code].name
            raise
        finally:
            self.requests[request.model_spec.name, status] += 1
        response.model_spec.CopyFrom(request.model_spec)
        response.model_spec.version.value = number
        return response

    def status(self, spec) -> get_model_status_pb2.GetModelStatusResponse:
        """ModelSpec -> GetModelStatusResponse."""
        with self._lock:
            known = dict(self.versions.get(spec.name, {}))
        number = self._number(spec, 0)
        if not known or (number and number not in known):
            missing = f"version {number}" if known else "any versions"
            raise CallError(NOT_FOUND, f"Could not find {missing} of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for each in sorted(known, reverse=True):
            if number in (0, each):
                status = response.model_version_status.add(version=each)
                error = known[each].error
                status.state = status.END if error else status.AVAILABLE
                status.status.error_code = error.code if error else 0
                status.status.error_message = str(error or "")
        return response

    def metrics(self) -> str:
        """Counts of requests as Prometheus reads them."""
        lines = ["# TYPE :tensorflow:serving:request_count counter"]
        for (model, status), count in sorted(self.requests.items()):
            labels = f'model_name="{model}",status="{status}"'
            lines.append(f":tensorflow:serving:request_count{{{labels}}} {count}")
        return "\n".join(lines) + "\n"


def aspired_versions(config) -> set[int]:
    """Versions that a ModelConfig asks for, of those that its folder holds."""
    names = os.listdir(config.base_path) if os.path.isdir(config.base_path) else []
    found = {int(name) for name in names if name.isdecimal()}
    policy = config.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return found
    if choice == "specific":
        return found & set(policy.specific.versions)
    return set(sorted(found)[-(policy.latest.num_versions or 1) :])


def version_folder(base_path: str, number: int) -> Path:
    """Folder of a version; its name may have leading zeros."""
    names = [name for name in os.listdir(base_path) if name.isdecimal()]
    return Path(base_path, next(name for name in names if int(name) == number))


def _log(words: str) -> None:
    print(f"stand-in: {words}", file=sys.stderr, flush=True)


def request_of(
    body: bytes, spec, models: Models
) -> tuple[predict_pb2.PredictRequest, bool]:
    """Body of :predict -> (PredictRequest, whether it asks for columns)."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallError(INVALID_ARGUMENT, f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise CallError(INVALID_ARGUMENT, "JSON Value: Is not object")
    request = predict_pb2.PredictRequest(model_spec=spec)
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise CallError(
            INVALID_ARGUMENT, "'signature_name' key must be a string value."
        )
    request.model_spec.signature_name = name
    with models.servable(spec) as (_, servable):
        infos = dict(servable.signature(name).inputs)
    columns = "inputs" in document
    if columns == ("instances" in document):
        raise CallError(
            INVALID_ARGUMENT, "Expected one of 'inputs' and 'instances' keys"
        )
    read = _columns if columns else _rows
    values = read(document["inputs" if columns else "instances"], sorted(infos))
    for name, value in values.items():
        if name not in infos:
            raise CallError(
                INVALID_ARGUMENT, f"JSON object: does not have named input: {name}"
            )
        tensor = json_tensor(value, infos[name].dtype)
        request.inputs[name].CopyFrom(proto_of(tensor))
    return request, columns


def _columns(value, names: Sequence[str]) -> dict:
    if isinstance(value, dict) and not _is_base64(value):
        return value
    if len(names) != 1:
        raise CallError(INVALID_ARGUMENT, "inputs is a plain value/list, not an object")
    return {names[0]: value}


def _rows(rows, names: Sequence[str]) -> dict:
    if not isinstance(rows, list) or not rows:
        raise CallError(INVALID_ARGUMENT, "Expected 'instances' to be a list of values")
    rows = [
        row if isinstance(row, dict) and not _is_base64(row) else {names[0]: row}
        for row in rows
    ]
    for index, row in enumerate(rows):
        if sorted(row) != list(names):
            raise CallError(
                INVALID_ARGUMENT,
                f"Failed to process element: {index} of 'instances' list. Its keys "
                f"must be equal to: {','.join(names)}",
            )
    return {name: [row[name] for row in rows] for name in names}


def _is_base64(value) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"]


def json_tensor(value, dtype: int) -> Tensor:
    """Nested lists -> Tensor."""
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    _check_shape(shape)
    flat = []
    _flatten(value, shape, flat)
    if dtype == TF_STRING:
        return Tensor(dtype, shape, [_json_string(item) for item in flat])
    wanted = (int, float) if dtype == 1 else (int,)
    for item in flat:
        if type(item) not in wanted:
            raise CallError(
                INVALID_ARGUMENT,
                f"JSON Value: {json.dumps(item)[:80]} is not of expected type {dtype}",
            )
    return Tensor(dtype, shape, _packed(flat, _DTYPES[dtype][0], len(flat)))


def _flatten(value, shape: Sequence[int], flat: list) -> None:
    if not shape:
        if isinstance(value, list):
            raise CallError(INVALID_ARGUMENT, "Encountered list at unexpected level")
        flat.append(value)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise CallError(
            INVALID_ARGUMENT,
            f"Encountered list at unexpected size: {shape[0]} expected",
        )
    for item in value:
        _flatten(item, shape[1:], flat)


def _json_string(item) -> bytes:
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass")
    if not _is_base64(item) or not isinstance(item["b64"], str):
        raise CallError(
            INVALID_ARGUMENT,
            f"JSON Value: {json.dumps(item)[:80]} is no base64 object",
        )
    try:
        return base64.b64decode(item["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise CallError(INVALID_ARGUMENT, "Unable to base64 decode") from error


def answer_of(response: predict_pb2.PredictResponse, columns: bool) -> dict:
    """PredictResponse -> what REST answers."""
    outputs = {n: _json_values(n, p) for n, p in sorted(response.outputs.items())}
    if columns:
        return {
            "outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))
        }
    rows = [dict(zip(outputs, values)) for values in zip(*outputs.values())]
    if len(outputs) == 1:
        rows = [next(iter(row.values())) for row in rows]
    return {"predictions": rows}


def _json_values(name: str, proto) -> list:
    tensor = tensor_of(proto)
    if tensor.dtype != TF_STRING:
        kind = _DTYPES[tensor.dtype][0]
        return np.frombuffer(tensor.content, kind).reshape(tensor.shape).tolist()
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(item).decode()} for item in tensor.content]
    return [item.decode(errors="replace") for item in tensor.content]


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
            self._send(status, {"error": str(error)[:_MAX_WORDS]})

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


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, models: Models):
        self.models = models

    def Predict(self, request, context):
        return _answered(context, lambda: self.models.predict(request))


class Status(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, models: Models):
        self.models = models

    def GetModelStatus(self, request, context):
        return _answered(context, lambda: self.models.status(request.model_spec))


def _answered(context, run):
    try:
        return run()
    except CallError as error:
        # As TF Serving, which bounds them, too.
        context.abort(STATUSES[error.code], str(error)[:_MAX_WORDS])


def start_grpc(models: Models, port: int) -> tuple[grpc.Server, int]:
    """Returns a started server and its port."""
    limit = MAX_MESSAGE_BYTES
    options = [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Prediction(models), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(models), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def config_reader(arguments):
    """Gives a function that reads the ModelServerConfig."""
    config = model_server_config_pb2.ModelServerConfig()
    if arguments.model_config_file:
        path = Path(arguments.model_config_file)
        return lambda: text_format.Parse(
            path.read_text(), model_server_config_pb2.ModelServerConfig()
        )
    config.model_config_list.config.add(
        name=arguments.model_name, base_path=arguments.model_base_path
    )
    return lambda: config


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model_name", default="deeplab")
    parser.add_argument("--model_base_path")
    parser.add_argument("--model_config_file")
    parser.add_argument("--port", type=int, default=8501, help="of REST")
    parser.add_argument("--grpc_port", type=int, default=8500)
    parser.add_argument("--poll_seconds", type=float, default=1)
    parser.add_argument(
        "--allow_version_labels_for_unavailable_models", action="store_true"
    )
    for pool in ("intra", "inter"):
        flag = f"--tensorflow_{pool}_op_parallelism"
        parser.add_argument(flag, type=int, default=0, help="threads [cores]")
    parser.add_argument("--enable_batching", choices=["true", "false"], default="false")
    parser.add_argument("--batching_parameters_file", type=Path)
    arguments = parser.parse_args(argv)
    session_config = config_pb2.ConfigProto(
        intra_op_parallelism_threads=arguments.tensorflow_intra_op_parallelism,
        inter_op_parallelism_threads=arguments.tensorflow_inter_op_parallelism,
    )
    batching = None
    if arguments.enable_batching == "true":
        file = arguments.batching_parameters_file
        batching = read_parameters(file.read_text() if file else "")
    models = Models(
        config_reader(arguments),
        arguments.allow_version_labels_for_unavailable_models,
        session_config=session_config.SerializeToString(),
        batching=batching,
    )
    models.poll()
    handler = type("BoundHandler", (Handler,), {"models": models})
    rest = RestServer(("127.0.0.1", arguments.port), handler)
    server, grpc_port = start_grpc(models, arguments.grpc_port)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    port = rest.server_address[1]
    print(f"REST http://127.0.0.1:{port} gRPC 127.0.0.1:{grpc_port}", flush=True)
    while True:
        time.sleep(arguments.poll_seconds)
        models.poll()


@dataclasses.dataclass(frozen=True)
class Running:
    """A stand-in in a process of its own."""

    rest: str
    grpc: str
    process: subprocess.Popen

    def rss(self) -> int:
        """Bytes of memory that the process holds."""
        return psutil.Process(self.process.pid).memory_info().rss


@contextlib.contextmanager
def running(*flags: str, log=subprocess.DEVNULL) -> Iterator[Running]:
    """Runs a stand-in on free ports until the block is left."""
    command = [
        *(sys.executable, "-m", "tests.support.serving_stand_in"),
        *("--port=0", "--grpc_port=0", *flags),
    ]
    # One arena: what threads free is used again, and memory tells of leaks alone.
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "MALLOC_ARENA_MAX": "1"}
    environment = {**os.environ, **quiet, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
    )
    try:
        words = process.stdout.readline().split()
        if not words:
            raise RuntimeError(f"The stand-in ended with {process.wait()}.")
        yield Running(words[1], words[3], process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    main()
