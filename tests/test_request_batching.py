"""Requests joined into batches: serving/batching.config on the wire, and by hand."""

from __future__ import annotations

import re
import threading
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc

from deeplab_tf.exports.signatures import SIGNATURES
from deeplab_tf.pictures.images import read_image
from serving.client import Client
from tests.support.c_loader import TF_STRING, CallError, Tensor
from tests.support.predict_requests import predict_request
from tests.support.request_batching import BatchingSession, read_parameters
from tests.support.serving_stand_in import running

pytestmark = pytest.mark.two_lanes

CONFIG = Path(__file__).resolve().parent.parent / "serving/batching.config"
UINT8 = 4


class Rows:
    """A session that gives what it is fed, and remembers the batches."""

    def __init__(self):
        self.batches, self.free = [], threading.Event()
        self.free.set()

    def run(self, feeds, fetches):
        self.free.wait(20)
        (tensor,) = feeds.values()
        self.batches.append(tensor)
        return [tensor] * len(fetches)

    def close(self):
        self.free = None


def parameters(**fields):
    lines = [
        f"{name} {{ value: {value} }}" if isinstance(value, int) else f"{name}: {value}"
        for name, value in fields.items()
    ]
    return read_parameters("\n".join(lines))


def rows(*values, width=2):
    content = b"".join(bytes([value] * width) for value in values)
    return {"x": Tensor(UINT8, [len(values), width], content)}


def ask_together(session, requests):
    """Results or errors of requests that come one by one, and wait together."""
    with futures.ThreadPoolExecutor(len(requests)) as pool:
        asked = []
        for feeds in requests:
            asked.append(pool.submit(session.run, feeds, ["y"]))
            count = len(asked)
            waiting = session._waiting
            for _ in range(1000):
                if sum(len(batch.requests) for _, batch in waiting) >= count:
                    break
                threading.Event().wait(0.001)
        return [future.exception() or future.result() for future in asked]


def test_what_waits_together_is_one_batch_padded_to_an_allowed_size():
    inner = Rows()
    limits = parameters(
        max_batch_size=8, batch_timeout_micros=300_000, allowed_batch_sizes="[2, 4, 8]"
    )
    session = BatchingSession(inner, limits)
    found = ask_together(session, [rows(1), rows(2, 3)])
    assert found == [[rows(1)["x"]], [rows(2, 3)["x"]]]
    # The first row of the first request fills up.
    assert inner.batches == [rows(1, 2, 3, 1)["x"]]
    session.close()
    assert inner.free is None


def test_a_full_batch_does_not_wait():
    inner = Rows()
    limits = parameters(max_batch_size=2, batch_timeout_micros=60_000_000)
    session = BatchingSession(inner, limits)
    with futures.ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(session.run, rows(value), ["y"]) for value in (1, 2)]
        assert [future.result(20) for future in asked] == [
            [rows(1)["x"]],
            [rows(2)["x"]],
        ]
    assert [tensor.shape for tensor in inner.batches] == [[2, 2]]


def test_strings_and_none():
    inner = Rows()
    session = BatchingSession(inner, parameters(batch_timeout_micros=200_000))
    texts = [{"x": Tensor(TF_STRING, [len(t)], t)} for t in ([b"a"], [], [b"b", b""])]
    found = ask_together(session, texts)
    assert found == [[feeds["x"]] for feeds in texts]
    assert inner.batches == [Tensor(TF_STRING, [3], [b"a", b"b", b""])]


def test_what_is_refused():
    inner = Rows()
    limits = parameters(
        max_batch_size=2, max_enqueued_batches=1, batch_timeout_micros=200_000
    )
    session = BatchingSession(inner, limits)
    with pytest.raises(CallError, match="size 3 is larger than .* 2") as caught:
        session.run(rows(1, 2, 3), ["y"])
    assert caught.value.code == 3
    with pytest.raises(CallError, match="at least one dimension"):
        session.run({"x": Tensor(UINT8, [], b"a")}, ["y"])
    # Two shapes in one batch: both fail, the next ones do not.
    first, second = ask_together(session, [rows(1), rows(2, width=3)])
    assert first.code == second.code == 9 and "padding is turned off" in str(first)
    assert session.run(rows(4), ["y"]) == [rows(4)["x"]]
    inner.free.clear()
    with futures.ThreadPoolExecutor(4) as pool:
        running_batch = pool.submit(session.run, rows(1, 1), ["y"])
        while session._waiting or not running_batch.running():
            threading.Event().wait(0.001)
        waiting = pool.submit(session.run, rows(2, 2), ["y"])
        while not session._waiting:
            threading.Event().wait(0.001)
        with pytest.raises(CallError, match="queue .* is full") as caught:
            session.run(rows(3), ["y"])
        assert caught.value.code == 14
        inner.free.set()
        assert running_batch.result(20) and waiting.result(20)


def test_sizes_that_tf_serving_refuses():
    with pytest.raises(ValueError, match=r"up to max_batch_size \(8\).*\[2, 4\]"):
        parameters(max_batch_size=8, allowed_batch_sizes="[2, 4]")


# ---- On the wire --------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    """Started with the file of serving/, whose requests wait long for each other."""
    text, changes = re.subn(
        r"(batch_timeout_micros \{ value: )\d+", r"\g<1>400000", CONFIG.read_text()
    )
    assert changes == 1
    config = tmp_path_factory.mktemp("batching") / "batching.config"
    config.write_text(text)
    flags = ("--enable_batching=true", f"--batching_parameters_file={config}")
    with running(f"--model_base_path={exported.parent}", *flags) as process:
        yield process


def ask(server, signature, value):
    """-> {output name: array}, or the error of gRPC."""
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        tensors = {SIGNATURES[signature].input.name: tf.make_tensor_proto(value)}
        try:
            answer = stub.Predict(predict_request(signature, **tensors), timeout=60)
        except grpc.RpcError as error:
            return error
    return {name: tf.make_ndarray(proto) for name, proto in answer.outputs.items()}


def asked_at_once(server, signature, values):
    with futures.ThreadPoolExecutor(len(values)) as pool:
        return list(pool.map(lambda value: ask(server, signature, value), values))


ASKED = [name for name, signature in SIGNATURES.items() if signature.request]


@pytest.mark.parametrize("signature", ASKED)
def test_joined_answers_are_those_of_one_by_one(server, photos, signature):
    image = read_image(photos / "drawn.png")
    images = [image, image[::-1].copy(), image[:, ::-1].copy()]
    requests = [SIGNATURES[signature].request(i) for i in images]
    values = [np.asarray(request) for request in requests]
    one_by_one = [ask(server, signature, value) for value in values]
    for joined, alone in zip(asked_at_once(server, signature, values), one_by_one):
        assert joined.keys() == alone.keys()
        for name, value in alone.items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(joined[name], value, atol=1e-5)
            else:
                np.testing.assert_array_equal(joined[name], value)


def test_the_client_reads_metadata_from_a_server_that_joins(server):
    assert Client(server.rest).metadata()["class_names"]


def test_images_of_two_sizes_in_one_batch_are_refused(server, photos):
    """As serving/batching.config says of serve_images."""
    image = read_image(photos / "drawn.png")
    values = [image[None], image[None, 1:]]
    for error in asked_at_once(server, "serve_images", values):
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert ask(server, "serve_images", values[1])["classes"].shape == (
        1,
        *values[1].shape[1:3],
    )


def test_an_undecodable_image_fails_its_batch(server, photos):
    """As serving/batching.config says of serving_default."""
    good = (photos / "drawn.png").read_bytes()
    values = [np.array([data], object) for data in (good, good[:8])]
    for error in asked_at_once(server, "serving_default", values):
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert ask(server, "serving_default", values[0])["height"]
