"""One version of a model: its folder in, loaded and warmed up, answers out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tests.support.c_loader import CallError, Session
from tests.support.request_batching import BatchingSession
from tests.support.stand_in.refusals import INVALID_ARGUMENT
from tests.support.stand_in.tensors import proto_of, tensor_of

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


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
