"""A thousand hostile requests: each is answered by a sentence, and nothing stays."""

from __future__ import annotations

import base64
import collections
import contextlib
import http.client
import io
import json
import random
import socket
import struct
import urllib.parse
import zlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from PIL import Image
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from deeplab_tf.exports.signatures import SIGNATURES
from serving.client import Client
from tests.support.predict_requests import predict_request
from tests.support.serving_stand_in import running
from tests.support.stand_in.rest import MAX_BODY_BYTES
from tests.support.stand_in.rpc import MAX_MESSAGE_BYTES

pytestmark = pytest.mark.two_lanes

MEBIBYTE = 2**20
# What a process may hold on to after all of them: threads' own memory and the pieces
# that the allocator keeps. One leaked tensor of each request would be far more.
MARGIN_BYTES = 64 * MEBIBYTE
TIMEOUT = 10  # seconds for any single answer
PREDICT = "/v1/models/deeplab:predict"
STRING, UINT8, FLOAT, INT32 = 7, 4, 1, 3
REFUSALS = {400, 404, 429, 501}
CODES = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}


@pytest.fixture(scope="module")
def server(exported):
    with running(f"--model_base_path={exported.parent}") as process:
        yield process


@pytest.fixture(scope="module")
def files(photos):
    """Content of a JPEG and of a PNG."""
    return [(photos / name).read_bytes() for name in ("drawn.jpg", "drawn.png")]


# ---- REST ---------------------------------------------------------------------------


def exchange(server, method, path, body=b"", headers=None):
    """-> (HTTP status, answer parsed from JSON)."""
    address = urllib.parse.urlsplit(server.rest)
    connection = http.client.HTTPConnection(address.netloc, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        data = response.read()
        return response.status, json.loads(data) if method != "HEAD" else None


def check_refused(status, answer):
    assert status in REFUSALS, (status, answer)
    assert isinstance(answer["error"], str) and len(answer["error"]) > 10, answer


def post(server, body):
    check_refused(*exchange(server, "POST", PREDICT, body))


def post_json(server, request):
    post(server, json.dumps(request).encode())


def post_image(server, data):
    """A damaged image is refused, or answered at its own size."""
    encoded = {"b64": base64.b64encode(data).decode()}
    body = json.dumps({"inputs": {"image_bytes": [encoded]}}).encode()
    status, answer = exchange(server, "POST", PREDICT, body)
    if status != 200:
        return check_refused(status, answer)
    outputs = answer["outputs"]
    png = base64.b64decode(outputs["classes_png_bytes"][0]["b64"])
    size = Image.open(io.BytesIO(png)).size
    assert size == (outputs["width"][0], outputs["height"][0])


def post_refused_image(server, data):
    encoded = {"b64": base64.b64encode(data).decode()}
    post_json(server, {"instances": [{"image_bytes": encoded}]})


def changed(generator, data):
    """Some bytes replaced."""
    array = bytearray(data)
    for _ in range(generator.randint(1, 20)):
        array[generator.randrange(len(array))] = generator.randrange(256)
    return bytes(array)


def huge(generator, data):
    """A header that promises more pixels than the server takes."""
    sides = [generator.choice([0, 1, 4097, 60_000, 65_535]) for _ in range(2)]
    if max(sides) < 4097 or min(sides) > 4096:
        sides = [65_535, generator.randint(257, 65_535)]
    if data.startswith(b"\x89PNG"):
        sides[0] = generator.choice([sides[0], 2**31 - 1, 2**32 - 1])
        header = data[12:16] + struct.pack(">II", *sides) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", *sides) + data[start + 4 :]


BAD_JSON = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe{}",
    b'{"instances": ' + b"[" * 100_000,
    b'{"instances": ' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"instances": [1e999999, -Infinity, NaN]}',
    b'{"instances": ' + b"9" * 5000 + b"}",
    b'{"instances": [], "inputs": []}',
    b'{"inputs": {"image_bytes": ["\\ud800"]}}',
    b'{"signature_name": 3, "inputs": []}',
]
BAD_BASE64 = [
    "",
    "a",
    "ab=c",
    "====",
    "\u00e9",
    "*" * 100,
    7,
    None,
    ["aa"],
    {"b64": "aa"},
]
BAD_VALUES = [
    ("serve_images", [[[[1.5, 2, 3]]]]),
    ("serve_images", [[[["1", "2", "3"]]]]),
    ("serve_images", [[[[256, 0, 0]]]]),
    ("serve_images", [[[[-1, 0, 0]]]]),
    ("serve_images", [[[[10**30, 0, 0]]]]),
    ("serve_images", [[[[True, False, True]]]]),
    ("serve_images", [[[[1, 2, 3]], [[1, 2]]]]),
    ("serve_images", [[[[1, 2, 3, 4]] * 40] * 40]),
    ("serve_images", [[[1, 2, 3]] * 40] * 40),
    ("serve_images", [[[[0, 0, 0]] * 31] * 31]),
    ("serve_images", 3),
    ("serve_images", {"b64": "aGFsbG8="}),
    ("serve_probabilities", [[], []]),
    ("serving_default", [[["a"]]]),
    ("serving_default", "a"),
    ("serving_default", [1, 2]),
    ("serving_default", [None]),
    ("metadata", ["nothing"]),
    ("metadata", [["model", "colormap"]] * 2),
    ("nobody", ["a"]),
    ("__saved_model_init_op", ["a"]),
]
INPUT_NAMES = {name: signature.input.name for name, signature in SIGNATURES.items()}
BAD_NAMES = [
    {"inputs": {"image": [""]}},
    {"inputs": {"image_bytes": [""], "more": [1]}},
    {"inputs": {}},
    {"inputs": None},
    {"instances": [{"image_bytes": {"b64": ""}}, {"image": {"b64": ""}}]},
    {"instances": [{"image_bytes": {"b64": ""}}, 3]},
    {"instances": [{}]},
    {"instances": {}},
    {"instances": 7},
    {"predictions": []},
    {"instances": []},
]
EMPTY = [  # answered: there is nothing to do
    ({"inputs": {"image_bytes": []}}, "classes_png_bytes"),
    ({"signature_name": "metadata", "inputs": {"keys": []}}, None),
]
PATHS = [
    "/",
    "/v1/models/deeplab",
    "/v1/models/other:predict",
    "/v1/models/deeplab:classify",
    "/v1/models/deeplab:predict/",
    "/v1/models//versions/1:predict",
    "/v1/models/deeplab/versions/99:predict",
    f"/v1/models/deeplab/versions/{'9' * 30}:predict",
    "/v1/models/deeplab/labels/none:predict",
    "/v1/models/deeplab%00:predict",
    "/../../../../etc/passwd",
    "/" + "a" * 5000,
]
GOOD_BODY = b'{"signature_name": "metadata", "inputs": {"keys": ["model"]}}'


def bad_values(server, signature, values):
    name = INPUT_NAMES.get(signature, "image_bytes")
    post_json(server, {"signature_name": signature, "inputs": {name: values}})


def empty(server, request, output):
    status, answer = exchange(server, "POST", PREDICT, json.dumps(request).encode())
    outputs = answer["outputs"]
    assert status == 200 and (outputs[output] if output else outputs) == []


def wrong_method(server, method, path):
    status, answer = exchange(server, method, path, GOOD_BODY)
    assert status in REFUSALS
    if method != "HEAD":
        check_refused(status, answer)


def oversized(server, length):
    check_refused(
        *exchange(server, "POST", PREDICT, b"x", {"Content-Length": str(length)})
    )


def raw(server, data):
    """Bytes that are no HTTP: an answer of HTTP, or the connection's end."""
    host, _, port = urllib.parse.urlsplit(server.rest).netloc.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
            if b"\r\n\r\n" in answer:
                body = json.loads(answer.partition(b"\r\n\r\n")[2])
                assert len(body["error"]) > 10


# ---- gRPC ---------------------------------------------------------------------------


def tensor(dtype, shape, **fields):
    proto = tensor_pb2.TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def call(channel, request):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return stub.Predict(request, timeout=TIMEOUT)


def refused_call(channel, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, request)
    assert caught.value.code().name in CODES, caught.value
    assert len(caught.value.details()) > 10


def call_image(channel, data):
    strings = tensor(STRING, [1], string_val=[data])
    request = predict_request("serving_default", image_bytes=strings)
    try:
        response = call(channel, request)
    except grpc.RpcError as error:
        assert error.code().name in CODES and len(error.details()) > 10
        return
    png = Image.open(io.BytesIO(response.outputs["classes_png_bytes"].string_val[0]))
    sides = [response.outputs[name].tensor_content for name in ("width", "height")]
    assert png.size == tuple(int.from_bytes(side, "little") for side in sides)


def raw_call(channel, method, data):
    """A message that is none, or a method that the server does not have."""
    ask = channel.unary_unary(f"/tensorflow.serving.{method}")
    with pytest.raises(grpc.RpcError) as caught:
        ask(data, timeout=TIMEOUT)
    # gRPC itself says INTERNAL to bytes that are no message.
    assert caught.value.code().name in CODES | {"INTERNAL"}
    assert len(caught.value.details()) > 10


BAD_TENSORS = [
    ("serving_default", "image_bytes", tensor(UINT8, [1], tensor_content=b"a")),
    ("serving_default", "image_bytes", tensor(STRING, [], string_val=[b"a"])),
    ("serving_default", "image_bytes", tensor(STRING, [2], string_val=[b"a"])),
    ("serving_default", "image_bytes", tensor(STRING, [1, 1], string_val=[b"a"])),
    ("serving_default", "image_bytes", tensor(STRING, [2**62], string_val=[b"a"])),
    ("serving_default", "images", tensor(STRING, [1], string_val=[b"a"])),
    ("serve_images", "images", tensor(FLOAT, [1, 40, 40, 3], float_val=[1.0])),
    ("serve_images", "images", tensor(INT32, [1, 40, 40, 3], int_val=[1])),
    ("serve_images", "images", tensor(UINT8, [1, 40, 40, 3], tensor_content=b"abc")),
    ("serve_images", "images", tensor(UINT8, [1, 40, 40, 3], int_val=[256])),
    ("serve_images", "images", tensor(UINT8, [1, 40, 40, 3])),
    ("serve_images", "images", tensor(UINT8, [1, 40, 40, 4], int_val=[1])),
    ("serve_images", "images", tensor(UINT8, [40, 40, 3], int_val=[1])),
    ("serve_images", "images", tensor(UINT8, [1, 31, 40, 3], int_val=[1])),
    ("serve_images", "images", tensor(UINT8, [1, 0, 0, 3])),
    ("serve_images", "images", tensor(UINT8, [1, -1, 40, 3], int_val=[1])),
    ("serve_images", "images", tensor(UINT8, [2**20, 2**20, 2**20, 3], int_val=[1])),
    ("serve_images", "images", tensor(UINT8, [2**40, 2**40, 0, 3])),
    ("serve_images", "images", tensor(UINT8, [1] * 300, int_val=[1])),
    ("serve_images", "images", tensor(UINT8, [1, 5000, 5000, 3], int_val=[1])),
    ("serve_probabilities", "images", tensor(9, [1, 40, 40, 3], int64_val=[1])),
    ("serve_probabilities", "images", tensor(0, [1])),
    ("metadata", "keys", tensor(STRING, [1], string_val=[b"\0" * 1000])),
    ("nobody", "keys", tensor(STRING, [1], string_val=[b"a"])),
    ("__saved_model_init_op", "keys", tensor(STRING, [1], string_val=[b"a"])),
]


def bad_requests():
    """Requests that gRPC takes and the model refuses."""
    requests = [predict_request(sign, **{name: t}) for sign, name, t in BAD_TENSORS]
    keys = tensor(STRING, [1], string_val=[b"model"])
    requests += [predict_request("metadata", keys=keys, more=keys)]
    requests += [predict_request("metadata"), predict_pb2.PredictRequest()]
    for field, value in (("name", "other"), ("version_label", "none")):
        requests.append(predict_request("metadata", keys=keys))
        setattr(requests[-1].model_spec, field, value)
    requests.append(predict_request("metadata", keys=keys))
    requests[-1].model_spec.version.value = -1
    requests.append(predict_request("metadata", keys=keys))
    requests[-1].output_filter.append("nothing")
    large = tensor(STRING, [1], string_val=[bytes(MAX_MESSAGE_BYTES)])
    return [*requests, predict_request("serving_default", image_bytes=large)]


# ---- All of them --------------------------------------------------------------------


def hostile_requests(server, channel, files):
    """A thousand calls without arguments, in an order of their own."""
    generator = random.Random(0)
    jpeg, png = files

    def some(count, function, target, make):
        return [(function, target, *make(generator)) for _ in range(count)]

    def cut(generator):
        data = generator.choice(files)
        # A JPEG's end marker, and a PNG's last chunk, do not carry pixels.
        return (data[: generator.randrange(len(data) - 40)],)

    def noise(generator):
        start = generator.choice([b"", b"GIF89a", b"BM", jpeg[:3], png[:8], png[:24]])
        return (start + generator.randbytes(generator.randrange(3000)),)

    def each(count, function, target, items):
        pairs = (items[index % len(items)] for index in range(count))
        return [(function, target, *pair) for pair in pairs]

    damaged = [lambda g: (changed(g, jpeg),), lambda g: (changed(g, png),)]
    return [
        *some(100, post, server, lambda g: (g.randbytes(g.randrange(5000)),)),
        *some(100, post_refused_image, server, noise),
        *some(100, post_refused_image, server, cut),
        *some(50, post_image, server, damaged[0]),
        *some(50, post_image, server, damaged[1]),
        *some(60, post_refused_image, server, lambda g: (huge(g, g.choice(files)),)),
        *each(65, post, server, [(body,) for body in BAD_JSON]),
        *each(
            40,
            post_json,
            server,
            [({"instances": [{"image_bytes": {"b64": b}}]},) for b in BAD_BASE64],
        ),
        *each(63, bad_values, server, BAD_VALUES),
        *each(33, post_json, server, [(request,) for request in BAD_NAMES]),
        *each(10, empty, server, EMPTY),
        *each(48, wrong_method, server, [("POST", path) for path in PATHS]),
        *each(
            31,
            wrong_method,
            server,
            [(m, PREDICT) for m in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW")],
        ),
        *each(
            20,
            oversized,
            server,
            [(MAX_BODY_BYTES + 1,), (10**17,), (10**40,), (-5,), ("many",)],
        ),
        *some(50, raw, server, lambda g: (g.randbytes(g.randrange(1, 2000)),)),
        *some(50, call_image, channel, noise),
        *some(30, call_image, channel, damaged[0]),
        *each(66, refused_call, channel, [(request,) for request in bad_requests()]),
        *some(
            24,
            raw_call,
            channel,
            lambda g: ("PredictionService/Predict", b"\xff" + g.randbytes(50)),
        ),
        *each(10, raw_call, channel, [("PredictionService/Nothing", b"")]),
    ]


def half_open(server, count):
    """Connections that promise a request and never send it all."""
    host, _, port = urllib.parse.urlsplit(server.rest).netloc.rpartition(":")
    starts = [
        b"",
        b"POST /v1/mod",
        b"POST /v1/models/deeplab:predict HTTP/1.1\r\nContent-Length: 100\r\n",
        b"POST /v1/models/deeplab:predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
    ]
    connections = []
    for index in range(count):
        connections.append(socket.create_connection((host, int(port)), timeout=TIMEOUT))
        connections[-1].sendall(starts[index % len(starts)])
    return connections


def lost(readings):
    """Bytes that the second half of six readings of memory has more than the first.

    What is under way, threads and pieces of the allocator come and go (78 MiB seen):
    what is lost stays in the least reading.
    """
    return min(readings[3:]) - min(readings[:3])


def ones(*shape):
    return np.ones(shape, np.uint8).tolist()


@pytest.mark.parametrize(
    "shape", [(40, 40, 3), (1, 40, 40, 1), (1, 40, 40, 4), (40, 40), (1, 3, 40, 40)]
)
@pytest.mark.parametrize("signature", ["serve_images", "serve_probabilities"])
def test_another_shape_than_the_signatures_is_told(server, signature, shape):
    """One channel was answered as if it were three."""
    request = {"signature_name": signature, "inputs": {"images": ones(*shape)}}
    body = json.dumps(request).encode()
    status, answer = exchange(server, "POST", PREDICT, body)
    shown = ", ".join(map(str, shape))
    assert status == 400
    assert "Expected RGB images [B, height, width, 3]" in answer["error"]
    assert f"Received: shape {shown}]" in answer["error"]


@pytest.mark.parametrize(
    "signature, inputs, words",
    [
        ("serving_default", {"image_bytes": {"b64": "eA=="}}, "files as a list [B]."),
        ("metadata", {"keys": [["model"]]}, "keys as a list [N]. Received: shape 1, 1"),
    ],
)
def test_another_shape_of_a_list_is_told(server, signature, inputs, words):
    body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    status, answer = exchange(server, "POST", PREDICT, body)
    assert status == 400 and words in answer["error"], answer


@pytest.mark.one_lane
def test_a_thousand_hostile_requests(server, files, photos):
    client = Client(server.rest)
    good = client.segment(photos / "drawn.png")
    failures = collections.Counter()

    def run(request):
        function, *arguments = request
        try:
            function(*arguments)
        except (Exception, pytest.fail.Exception) as error:
            failures[f"{function.__name__}: {error!r}"[:500]] += 1

    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(server.grpc))
        pool = stack.enter_context(ThreadPoolExecutor(8))
        opened = [stack.enter_context(each) for each in half_open(server, 10)]
        requests = hostile_requests(server, channel, files)
        assert len(requests) + len(opened) == 1010
        random.Random(1).shuffle(requests)
        readings = []
        for _ in range(6):
            list(pool.map(run, requests))
            readings.append(server.rss())
        assert not failures
        assert server.process.poll() is None
        for connection in opened:  # the server closes what stays silent
            assert connection.recv(1) == b""
    np.testing.assert_array_equal(client.segment(photos / "drawn.png"), good)
    assert lost(readings) < MARGIN_BYTES, readings


@pytest.mark.parametrize("signature", ["serve_images", "metadata"])
def test_tensors_are_freed(server, signature):
    """Each in turn of numbers and of strings; in and out, and as refused, too."""
    size = 3 * MEBIBYTE
    if signature == "serve_images":
        # Too small a side, so that the network does not run.
        name, bad = "images", tensor(UINT8, [1, 1, MEBIBYTE, 3])
        bad.tensor_content = bytes(size)
    else:
        name, bad = "keys", tensor(STRING, [1], string_val=[bytes(size)])
    strings = tensor(STRING, [100], string_val=[b"class_names"] * 100)
    good = predict_request("metadata", keys=strings)
    with grpc.insecure_channel(server.grpc) as channel:

        def ask(count):
            for _ in range(count):
                refused_call(channel, predict_request(signature, **{name: bad}))
                call(channel, good)

        readings = []
        for _ in range(6):
            ask(10)
            readings.append(server.rss())
    # A leak would be of 90 MiB.
    assert lost(readings) < 30 * MEBIBYTE, readings
