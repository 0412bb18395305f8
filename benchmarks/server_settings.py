"""Latencies of a server by its threads and its batching, at one and the same load.

    python -m benchmarks.server_settings --saved_model=exported --image=photo.jpg
    python -m benchmarks.server_settings --saved_model=exported --image=photo.jpg \\
        --signature=serve_images --settings="defaults;batching=8"
    python -m benchmarks.server_settings --saved_model=exported --image=photo.jpg \\
        --workers=1 --settings="frozen=0;defaults"

The export is served by tests/support/serving_stand_in.py, TensorFlow's C library behind
gRPC, with each setting at the same time; they are asked by turns. First as quickly as
--workers callers can (answers a second), then at random moments at --load times what
the first setting could do. `frozen=0` leaves out the variables that serving/ sets. One
JSON line each, milliseconds, medians over the turns, and the server's memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc

from benchmarks.latency import closed_loop, open_loop
from benchmarks.timing import cpu_description
from deeplab_tf.exports.signatures import SIGNATURES
from deeplab_tf.pictures.images import read_image
from tests.support.predict_requests import predict_request
from tests.support.serving_stand_in import SERVER_VARIABLES, running

SETTINGS = "defaults;intra=2,inter=1;intra=1,inter=2;intra=1,inter=1"
_BATCHING = """
max_batch_size {{ value: {size} }}
batch_timeout_micros {{ value: {wait} }}
num_batch_threads {{ value: {threads} }}
{allowed}
"""


def server_of(setting: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """`intra=1,inter=2,batching=8,wait=5000,threads=1,allowed=1/4/8,frozen=0` -> flags
    and variables."""
    if setting == "defaults":
        return [], SERVER_VARIABLES
    values = dict(part.split("=") for part in setting.split(","))
    variables = {} if values.pop("frozen", "1") == "0" else SERVER_VARIABLES
    flags = [
        f"--tensorflow_{pool}_op_parallelism={values.pop(pool)}"
        for pool in ("intra", "inter")
        if pool in values
    ]
    if size := values.pop("batching", None):
        path = folder / f"{setting.replace('/', '-')}.config"
        allowed = values.pop("allowed", "").split("/")
        path.write_text(
            _BATCHING.format(
                size=size,
                wait=values.pop("wait", 5000),
                threads=values.pop("threads", 1),
                allowed="\n".join(f"allowed_batch_sizes: {s}" for s in allowed if s),
            )
        )
        flags += ["--enable_batching=true", f"--batching_parameters_file={path}"]
    if values:
        raise SystemExit(f"Unknown in --settings: {', '.join(values)}")
    return flags, variables


def asker(address: str, signature: str, image: str) -> Callable[[], None]:
    """A function that asks for one image and waits for the answer."""
    options = [("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(address, options)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    if SIGNATURES[signature].input.dtype == tf.string:
        value = np.array([Path(image).read_bytes()], object)
    else:
        value = read_image(image)[None]
    tensors = {SIGNATURES[signature].input.name: tf.make_tensor_proto(value)}
    request = predict_request(signature, **tensors)
    return lambda: stub.Predict(request, timeout=600)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saved_model", required=True, help="folder of export.py")
    parser.add_argument("--image", required=True, help="file to segment")
    signatures = [name for name, signature in SIGNATURES.items() if signature.request]
    parser.add_argument("--signature", choices=signatures, default=signatures[0])
    parser.add_argument("--settings", default=SETTINGS, help="separated by ;")
    parser.add_argument("--workers", type=int, default=4, help="callers at a time")
    parser.add_argument("--load", type=float, default=0.7, help="of the first's rate")
    parser.add_argument("--seconds", type=float, default=20, help="of each loop")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    settings = args.settings.split(";")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "model").mkdir()
        (folder / "model/1").symlink_to(Path(args.saved_model).resolve())
        calls, servers = {}, {}
        for setting in settings:
            flags, variables = server_of(setting, folder)
            base = f"--model_base_path={folder / 'model'}"
            server = running(base, *flags, variables=variables)
            servers[setting] = server = stack.enter_context(server)
            calls[setting] = asker(server.grpc, args.signature, args.image)
            for _ in range(3):
                calls[setting]()
        measured = {setting: [] for setting in settings}
        for _ in range(args.turns):
            rate = None
            for setting, call in calls.items():
                closed = closed_loop(call, args.seconds, args.workers)
                rate = rate or args.load * closed["per_second"]
                # More callers than before: a queue may grow as long as it has to.
                opened = open_loop(
                    call, rate, args.seconds, 4 * args.workers, lambda: 0
                )
                measured[setting].append((closed, opened))
        gigabytes = {name: server.rss() / 1e9 for name, server in servers.items()}
    for setting, turns in measured.items():
        closed, opened = zip(*turns)

        def median(results, key):
            return round(statistics.median(result[key] for result in results), 2)

        row = {
            "setting": setting,
            "answers_a_second": median(closed, "per_second"),
            "asked_a_second": median(opened, "per_second"),
            **{f"p{p}_ms": median(opened, f"p{p}_ms") for p in (50, 90, 99)},
            "errors": sum(result["num_errors"] for result in opened),
            "gigabytes": round(gigabytes[setting], 2),
            **cpu_description(),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
