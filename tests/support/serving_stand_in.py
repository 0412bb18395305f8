"""Speaks TF Serving's REST and gRPC over exported models, for tests without Docker.

    python -m tests.support.serving_stand_in --model_base_path=exported --port=0
    python -m tests.support.serving_stand_in --model_config_file=models.config ...

Prints "REST http://127.0.0.1:... gRPC 127.0.0.1:..." once the models are loaded. It
runs them in TensorFlow's C library, through the loader that TF Serving uses. It stands
in for what a client and an operator see: paths, formats, status codes, versions that
come and go, version labels, warm-up, batching. It has no classify or regress. Its parts
lie in `stand_in/`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    # The messages lie inside TensorFlow's package. As it is not executed, this process
    # is up at once, and its memory is that of the C library.
    _package = importlib.util.find_spec("tensorflow")
    sys.modules["tensorflow"] = importlib.util.module_from_spec(_package)

import psutil
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.config import model_server_config_pb2

from tests.support.request_batching import read_parameters
from tests.support.stand_in.models import Models
from tests.support.stand_in.rest import rest_server
from tests.support.stand_in.rpc import start_grpc

ROOT = Path(__file__).resolve().parents[2]
# What serving/docker-compose.yml sets for the server, besides its log's level.
SERVER_VARIABLES = {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}


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
    rest = rest_server(models, arguments.port)
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
def running(
    *flags: str, log=subprocess.DEVNULL, variables=SERVER_VARIABLES
) -> Iterator[Running]:
    """Runs a stand-in on free ports until the block is left."""
    command = [
        *(sys.executable, "-m", "tests.support.serving_stand_in"),
        *("--port=0", "--grpc_port=0", *flags),
    ]
    # One arena: what threads free is used again, and memory tells of leaks alone.
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "MALLOC_ARENA_MAX": "1"}
    environment = {**os.environ, **variables, **quiet, "PYTHONPATH": str(ROOT)}
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
