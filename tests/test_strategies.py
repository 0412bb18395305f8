"""Workers: who they are, what each reads, and that they do what one device does."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from datasets import build_shapes
from deeplab_tf.data.reading import pipeline
from deeplab_tf.data.reading.pipeline import Share
from deeplab_tf.data.reading.policies import Crop
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.devices.workers import Workers, call_roll, find_workers
from deeplab_tf.networks.layers import is_keras3
from deeplab_tf.networks.weight_files import read_weights
from deeplab_tf.training import strategies
from tests.support import run_workers

ROOT = Path(__file__).resolve().parent.parent
NUM_VALIDATED = 5


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    build_shapes.build(folder, num_train=16, num_val=NUM_VALIDATED, num_processes=1)
    return str(folder)


def free_addresses(count):
    """Ports that nobody listens on, as "127.0.0.1:PORT"."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]
    for server in servers:
        server.close()
    return addresses


def tf_config(task_type, index, **cluster):
    task = {"type": task_type, "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def test_workers_come_from_flags_or_from_tf_config():
    expected = Workers(("a:1", "b:2", "c:3"), 1)
    assert find_workers(["a:1", "b:2", "c:3"], 1, {}) == expected
    config = tf_config("worker", 1, worker=["a:1", "b:2", "c:3"])
    assert find_workers(None, None, config) == expected
    config = tf_config("worker", 0, chief=["a:1"], worker=["b:2", "c:3"])
    assert find_workers(None, None, config) == expected
    config = tf_config("chief", 0, chief=["a:1"], worker=["b:2", "c:3"])
    assert find_workers(None, None, config).is_chief


@pytest.mark.parametrize(
    "addresses, index, environment, message",
    [
        (["a:1", "b:2"], 2, {}, "worker_index from 0 to 1 for 2 workers. Received: 2"),
        (["a:1", "b:2"], -1, {}, "worker_index from 0 to 1.*-1"),
        (["a:1", "b"], 0, {}, "HOST:PORT.*Received: 'b'"),
        (["a:1", "b:99999"], 0, {}, "port from 1 to 65535. Received: 'b:99999'"),
        (["a:1", "a:1"], 0, {}, "different addresses.*a:1,a:1"),
        (["a:1"], None, {}, "both --workers.*worker_index=None"),
        (None, 0, {}, "both --workers.*workers=\\[\\], worker_index=0"),
        (None, None, {}, "--worker_index=N, or the variable TF_CONFIG.*''"),
        (None, None, {"TF_CONFIG": "{"}, "TF_CONFIG=.*Received: TF_CONFIG='{'"),
        (None, None, {"TF_CONFIG": "[]"}, "TF_CONFIG=.*Received"),
        (None, None, tf_config("ps", 0, worker=["a:1"]), "TF_CONFIG=.*Received"),
    ],
)
def test_bad_workers_are_named_in_a_sentence(addresses, index, environment, message):
    with pytest.raises(ValueError, match=message):
        find_workers(addresses, index, environment)


def roll_calls(calls, timeout_seconds):
    """Lets threads call the roll; returns what each raised, as text, or None."""
    outcomes = [None] * len(calls)

    def call(place, workers):
        try:
            call_roll(workers, timeout_seconds)
        except (OSError, ValueError) as error:
            outcomes[place] = f"{type(error).__name__}: {error}"

    threads = [threading.Thread(target=call, args=call_) for call_ in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_roll_call_ends_when_all_are_there():
    addresses = tuple(free_addresses(3))
    stray = socket.socket()
    chief = threading.Thread(target=call_roll, args=(Workers(addresses, 0), 30))
    chief.start()
    port = int(addresses[0].rpartition(":")[2])
    while stray.connect_ex(("127.0.0.1", port)):
        pass
    stray.sendall(b"GET / HTTP/1.1\n")  # no worker: is not counted, and does no harm
    assert roll_calls([Workers(addresses, 1), Workers(addresses, 2)], 30) == [None] * 2
    chief.join()
    stray.close()


def test_roll_call_names_the_worker_that_does_not_come():
    addresses = tuple(free_addresses(3))
    present = [Workers(addresses, 0), Workers(addresses, 2)]
    absent = (
        f"TimeoutError: After 1 s these workers are missing: worker 1 ({addresses[1]})"
    )
    for outcome in roll_calls(present, 1):
        assert outcome.startswith(absent)
    (outcome,) = roll_calls([Workers(addresses, 1)], 0.3)
    assert f"workers are missing: worker 0 ({addresses[0]})" in outcome


def test_workers_that_do_not_agree_are_told_so():
    first, second, third = free_addresses(3)
    calls = [Workers((first, second), 0), Workers((first, third), 1)]
    for outcome in roll_calls(calls, 20):
        assert "Expected the same workers on all of them" in outcome
    server = socket.create_server(("", int(first.rpartition(":")[2])))
    with server:
        (outcome,) = roll_calls([Workers((first, second), 0)], 1)
    assert "The chief cannot listen" in outcome and "another port" in outcome


def batches(dataset, count):
    return [(image.numpy(), label.numpy()) for image, label in dataset.take(count)]


def test_workers_share_the_batches_of_one_device(scenes):
    num_replicas, num_workers = 4, 2

    def stream(share=pipeline.ALONE):
        return pipeline.make_train_dataset(
            select_records(scenes, "train"),
            Crop((33, 33)),
            batch_size=4,
            seed=1,
            share=share,
        )

    per_worker = num_replicas // num_workers
    shares = [
        batches(
            stream(Share(num_replicas, num_workers, index)),
            2 * per_worker,
        )
        for index in range(num_workers)
    ]
    for step, whole in enumerate(batches(stream(), 2)):
        parts = [
            part
            for share in shares
            for part in share[step * per_worker : (step + 1) * per_worker]
        ]
        for expected, pieces in zip(whole, zip(*parts)):
            np.testing.assert_array_equal(np.concatenate(pieces), expected)


def test_a_worker_decodes_its_share_alone(scenes, monkeypatch):
    decoded = []
    parse = pipeline.parse_example

    def count():
        decoded.append(1)
        return np.int64(0)

    def counting(serialized):
        tf.numpy_function(count, [], tf.int64)
        return parse(serialized)

    monkeypatch.setattr(pipeline, "parse_example", counting)
    selection = select_records(scenes, "train")
    data = pipeline.make_eval_share(selection, Share(4, 4, 3), ignore_label=255)
    assert len(batches(data, 99)) == len(decoded) == 4


def test_evaluation_counts_every_example_once_over_all_workers(scenes):
    """Five images over two workers: three rounds, the last filled with a void one."""
    selection = select_records(scenes, "val")
    whole = batches(pipeline.make_eval_dataset(selection), 99)
    shares = [
        batches(pipeline.make_eval_share(selection, Share(2, 2, index)), 99)
        for index in range(2)
    ]
    assert [len(share) for share in shares] == [3, 3]
    dealt = [pair for round_ in zip(*shares) for pair in round_]
    for (image, label), (expected_image, expected_label) in zip(dealt, whole):
        np.testing.assert_array_equal(image, expected_image)
        np.testing.assert_array_equal(label, expected_label)
    assert (dealt[-1][1] == 255).all() and not (dealt[0][1] == 255).all()


def test_batches_that_replicas_cannot_share_are_refused(scenes):
    class Three:
        num_replicas_in_sync = 3

    with pytest.raises(ValueError, match="3 replicas: take 6 or 9. Received: 8"):
        strategies.describe(Three(), 8)
    with pytest.raises(ValueError, match="divisible.*batch_size=4, num_replicas=3"):
        pipeline.make_train_dataset(
            select_records(scenes, "train"),
            Crop((33, 33)),
            batch_size=4,
            seed=0,
            share=Share(num_replicas=3),
        )


@pytest.fixture(scope="module")
def two_workers(scenes, tmp_path_factory):
    """What two processes print, what they leave, and how they end."""
    folder = tmp_path_factory.mktemp("workers")
    addresses = ",".join(free_addresses(2))
    command = [
        sys.executable,
        "-m",
        "tests.support.run_workers",
        scenes,
        str(folder / "run"),
    ]
    processes = []
    for index in range(2):
        temporary = folder / f"temporary{index}"
        temporary.mkdir()
        environment = {**os.environ, "PYTHONPATH": ".", "TMPDIR": str(temporary)}
        processes.append(
            subprocess.Popen(
                [*command, addresses, str(index)],
                env=environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    texts = [process.communicate(timeout=300) for process in processes]
    return folder, [process.returncode for process in processes], texts


def printed(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.mark.skipif(is_keras3(), reason="Keras 3 cannot run multi_worker")
def test_two_workers_that_stop_and_resume_equal_one_device(
    two_workers, scenes, tmp_path
):
    folder, _, texts = two_workers
    run = folder / "run"
    run_workers.train_tiny(scenes, str(tmp_path), tf.distribute.get_strategy())
    expected, actual = (
        read_weights(tmp_path / "last.npz"),
        read_weights(run / "last.npz"),
    )
    for name, value in expected.items():
        np.testing.assert_allclose(
            actual[name], value, rtol=1e-6, atol=1e-7, err_msg=f"{name} {texts}"
        )
    last_rows = [
        list(csv.DictReader((path / "log.csv").open()))[-1] for path in (tmp_path, run)
    ]
    for column in ("loss", "mean_iou", "val_mean_iou"):
        values = [float(row[column]) for row in last_rows]
        assert values[0] == pytest.approx(values[1], abs=1e-6), column


@pytest.mark.skipif(is_keras3(), reason="Keras 3 cannot run multi_worker")
def test_a_signal_to_one_worker_stops_all_after_the_same_step(two_workers):
    _, _, ((chief, _), (other, _)) = two_workers
    assert "Stopped by a signal to another worker after step 3." in chief
    assert "Stopped by SIGTERM after step 3." in other
    for text in (chief, other):
        assert printed(text)[0]["saved"] == ["000000-step-3"]
        assert "Resuming after step 3 of 6." in text


@pytest.mark.skipif(is_keras3(), reason="Keras 3 cannot run multi_worker")
def test_only_the_chief_writes(two_workers):
    folder, _, ((chief, _), (other, _)) = two_workers
    assert printed(chief)[0]["output"] == str(folder / "run")
    assert printed(other)[0]["output"].startswith(str(folder / "temporary1"))
    assert not list((folder / "temporary1").glob("worker-*"))  # removed at the end


@pytest.mark.skipif(is_keras3(), reason="Keras 3 cannot run multi_worker")
def test_a_dead_worker_ends_the_others_with_a_sentence(two_workers):
    _, codes, ((chief, errors), _) = two_workers
    assert codes == [1, -signal.SIGKILL]
    gone = printed(chief)[-1]
    assert gone["gone"].startswith("A worker is gone: worker 1 (127.0.0.1:")
    assert gone["gone"].endswith("on all workers resumes from step 6.")
    assert gone["seconds"] < 40
    assert "Traceback" not in errors
