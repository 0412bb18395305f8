"""The gRPC side: TF Serving's PredictionService and ModelService."""

from __future__ import annotations

from concurrent import futures

import grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from tests.support.c_loader import CallError
from tests.support.stand_in.models import Models
from tests.support.stand_in.refusals import STATUSES, words_of

MAX_MESSAGE_BYTES = 4 * 2**20  # gRPC's default; TF Serving itself takes up to 2 GiB


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
        context.abort(STATUSES[error.code], words_of(error))


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
