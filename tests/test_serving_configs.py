"""serving/: what TF Serving, Docker and Kubernetes read fits together and works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from deeplab_tf.commands.run_exports import export_workdir
from deeplab_tf.exports.signatures import SIGNATURES
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.pictures.images import read_image
from serving.client import Client, ServingError
from tests.support.serving_messages import message_type
from tests.support.serving_stand_in import SERVER_VARIABLES, running
from tests.support.stand_in.rest import METRICS_PATH

pytestmark = pytest.mark.two_lanes

SERVING = Path(__file__).resolve().parent.parent / "serving"
MODEL_PATH = "/v1/models/deeplab"


def parse(file_name: str, message):
    return text_format.Parse((SERVING / file_name).read_text(), message)


@pytest.fixture(scope="module")
def models():
    config = parse("models.config", model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    return model


@pytest.fixture(scope="module")
def compose():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((SERVING / "docker-compose.yml").read_text())["services"]
    return services["deeplab"]


@pytest.fixture(scope="module")
def kubernetes():
    """(Deployment, Service)."""
    yaml = pytest.importorskip("yaml")
    return tuple(yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text()))


def flags_of(arguments) -> dict[str, str]:
    return dict(argument[2:].split("=", 1) for argument in arguments)


def container_of(deployment) -> dict:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


# ---- Each file ----------------------------------------------------------------------


def test_models_config(models):
    assert (models.name, models.base_path) == ("deeplab", "/models/deeplab")
    assert models.model_platform == "tensorflow"
    versions = list(models.model_version_policy.specific.versions)
    assert set(models.version_labels) == {"stable", "canary"}
    assert set(models.version_labels.values()) <= set(versions)


def test_batching_config():
    batching = parse("batching.config", message_type("BatchingParameters")())
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        assert getattr(batching, name).value >= 1
    assert 0 < batching.batch_timeout_micros.value < 1e5
    # Padded images would get other classes at their borders.
    assert not batching.pad_variable_length_inputs


def test_monitoring_config(kubernetes):
    monitoring = parse("monitoring.config", message_type("MonitoringConfig")())
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == METRICS_PATH
    annotations = kubernetes[0]["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8501",
        "prometheus.io/path": METRICS_PATH,
    }


def test_a_misspelt_field_is_noticed():
    with pytest.raises(text_format.ParseError, match="max_batches"):
        text_format.Parse("max_batches: 1", message_type("BatchingParameters")())


# ---- The files together -------------------------------------------------------------


def test_compose_and_kubernetes_start_the_same_server(compose, kubernetes):
    container = container_of(kubernetes[0])
    assert compose["image"] == container["image"]
    ours, theirs = flags_of(compose["command"]), flags_of(container["args"])
    cores = ours.pop("tensorflow_intra_op_parallelism")
    assert cores == f"${{CORES:-{theirs.pop('tensorflow_intra_op_parallelism')}}}"
    assert ours == theirs
    for flag in ("model_config_file", "monitoring_config_file"):
        folder, _, name = ours[flag].rpartition("/")
        assert folder == "/config" and (SERVING / name).is_file()
    # Otherwise the labels of the first configuration would keep it from starting.
    assert ours["allow_version_labels_for_unavailable_models"] == "true"
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables == compose["environment"]
    del variables["TF_CPP_MIN_LOG_LEVEL"]
    assert variables == SERVER_VARIABLES


def test_volumes_are_where_the_configuration_looks(compose, kubernetes, models):
    mounted = [volume.rsplit(":", 2)[1:] for volume in compose["volumes"]]
    assert sorted(mounted) == [["/config", "ro"], [models.base_path, "ro"]]
    mounts = container_of(kubernetes[0])["volumeMounts"]
    assert {m["mountPath"]: m["name"] for m in mounts} == {
        models.base_path: "models",
        "/config": "config",
    }
    volumes = kubernetes[0]["spec"]["template"]["spec"]["volumes"]
    assert {volume["name"] for volume in volumes} == {"models", "config"}
    text = (SERVING / "kubernetes.yaml").read_text()
    for volume in volumes:  # what the header says to create
        source = volume.get("configMap") or volume["persistentVolumeClaim"]
        assert text.count(source.get("name") or source["claimName"]) == 2


def test_ports_and_probes(compose, kubernetes, models):
    deployment, service = kubernetes
    container = container_of(deployment)
    # Not on all interfaces: TF Serving asks nobody who he is.
    assert compose["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    for port in service["spec"]["ports"]:
        assert port["port"] == ports[port["targetPort"]]
    pod = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= pod.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= pod.items()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {
            "path": f"/v1/models/{models.name}",
            "port": "rest",
        }


def test_threads_and_memory_fit_the_resources(compose, kubernetes):
    container = container_of(kubernetes[0])
    flags, resources = flags_of(container["args"]), container["resources"]
    cores = flags["tensorflow_intra_op_parallelism"]
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"] == cores
    assert resources["limits"]["memory"] == compose["mem_limit"].upper() + "i"


# ---- On the wire --------------------------------------------------------------------


def wait_until(condition, seconds: float = 20):
    """Polls; fails after too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def get(url: str):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def rolling(exported, tmp_path_factory):
    """(server over a copy of models.config, folder of versions, the copy)."""
    folder = tmp_path_factory.mktemp("rolling")
    shutil.copytree(exported, folder / "models/1")
    text = (SERVING / "models.config").read_text()
    config = folder / "models.config"
    config.write_text(text.replace("/models/deeplab", f"{folder}/models"))
    flags = (
        f"--model_config_file={config}",
        "--allow_version_labels_for_unavailable_models",
        "--poll_seconds=0.1",
    )
    with running(*flags) as server:
        yield server, folder / "models", config


def test_the_health_check_of_docker(rolling, compose):
    bash = shutil.which("bash") or pytest.skip("needs bash")
    *_, name, option, script = compose["healthcheck"]["test"]
    assert (name, option) == ("bash", "-c")
    port = rolling[0].rest.rpartition(":")[2]
    for model, healthy in (("deeplab", True), ("other", False)):
        changed = script.replace("/8501", f"/{port}").replace("deeplab", model)
        done = subprocess.run([bash, "-c", changed], timeout=10, capture_output=True)
        assert (done.returncode == 0) == healthy, done.stderr


def test_metrics(rolling):
    server = rolling[0]
    assert Client(server.rest).metadata()["class_names"]
    metrics = get(server.rest + METRICS_PATH)
    assert re.search(r'request_count\{model_name="deeplab",status="OK"\} \d', metrics)


def test_an_update_and_back(rolling, photos):
    """The steps of docs/serving.md, with requests all the while."""
    server, folder, config = rolling
    image = (photos / "drawn.png").read_bytes()
    stable = Client(server.rest, version="stable")
    canary = Client(f"grpc://{server.grpc}", version="canary")

    def loaded():
        return {version["version"] for version in Client(server.rest).status()}

    def edit(old, new):
        text = config.read_text()
        assert old in text
        config.with_suffix(".new").write_text(text.replace(old, new))
        os.replace(config.with_suffix(".new"), config)

    def names(client):
        assert client.segment_png(image).startswith(b"\x89PNG")
        return client.metadata()["class_names"]

    old, new = names(stable), ["background", "cat", "dog", "zebra"]
    # 1. Exported: half of it is not seen, all of it is not loaded before it is listed.
    half = folder / ".export-2-1"
    shutil.copytree(folder / "1", half)
    graph = (half / "saved_model.pb").read_bytes()
    changed = graph.replace(b'"horse"', b'"zebra"')
    assert changed != graph
    (half / "saved_model.pb").write_bytes(changed)
    half.rename(folder / "2")
    time.sleep(0.3)
    assert loaded() == {1} and names(stable) == names(canary) == old
    # 2. Listed: loaded beside the first, and nobody is sent there.
    edit("versions: 1", "versions: 1\n        versions: 2")
    wait_until(lambda: loaded() == {1, 2})
    assert names(stable) == names(canary) == old
    # 3. and 4. The labels move, one by one.
    edit('"canary"\n      value: 1', '"canary"\n      value: 2')
    wait_until(lambda: names(canary) == new)
    assert names(stable) == old
    edit('"stable"\n      value: 1', '"stable"\n      value: 2')
    wait_until(lambda: names(stable) == new)
    # 5. And back at once, as version 1 is still loaded.
    edit('"stable"\n      value: 2', '"stable"\n      value: 1')
    wait_until(lambda: names(stable) == old)
    # A label does not move to a version that is not there.
    edit('"stable"\n      value: 1', '"stable"\n      value: 9')
    time.sleep(0.3)
    assert names(stable) == old
    edit('"stable"\n      value: 9', '"stable"\n      value: 2')
    wait_until(lambda: names(stable) == new)
    # 6. Version 1 goes.
    edit("versions: 1\n", "")
    wait_until(lambda: loaded() == {2})
    with pytest.raises(ServingError, match="Servable not found"):
        Client(server.rest, version=1).segment(image)
    canary.close()


def test_versions_keep_their_own_weights(exported, other_workdir, photos, tmp_path):
    """Weights are ordered once, for images of any size, by `SERVER_VARIABLES`."""
    shutil.copytree(exported, tmp_path / "models/1")
    export_workdir(other_workdir, tmp_path / "models")
    text = (SERVING / "models.config").read_text()
    text = text.replace("/models/deeplab", f"{tmp_path}/models")
    config = tmp_path / "models.config"
    config.write_text(text.replace("versions: 1", "versions: 1\n        versions: 2"))
    expected = {
        version: Segmenter.from_saved_model(tmp_path / f"models/{version}")
        for version in (1, 2)
    }
    with running(f"--model_config_file={config}") as server:
        for name in ("drawn.jpg", "grey.png", "drawn.png", "drawn.jpg"):
            classes = {
                version: Client(server.rest, version=version).segment(photos / name)
                for version in expected
            }
            assert np.mean(classes[1] == classes[2]) < 0.9
            image = read_image(str(photos / name))
            for version, segmenter in expected.items():
                np.testing.assert_array_equal(
                    classes[version], segmenter.predict(image)
                )


def test_a_folder_is_polled_as_tf_serving_does(exported, tmp_path, photos):
    """The highest whole number that loads; other names and broken ones do not count."""
    shutil.copytree(exported, tmp_path / "3")
    shutil.copytree(exported, tmp_path / ".export-9-1")
    with running(f"--model_base_path={tmp_path}", "--poll_seconds=0.1") as server:
        client = Client(server.rest)

        def states():
            return {v["version"]: v["state"] for v in client.status()}

        assert states() == {3: "AVAILABLE"}
        (tmp_path / "7").mkdir()
        wait_until(lambda: states() == {7: "END", 3: "AVAILABLE"})
        broken = client.status()[0]
        assert broken["error"] and broken["version"] == 7
        assert client.segment(photos / "grey.png").shape == (50, 33)
        shutil.copytree(exported, tmp_path / "copied")
        (tmp_path / "copied").rename(tmp_path / "0010")
        (tmp_path / "7").rmdir()
        wait_until(lambda: states() == {10: "AVAILABLE"})
        assert client.segment(photos / "grey.png").shape == (50, 33)


def test_warm_up_that_fails_keeps_a_version_from_serving(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "1")
    shutil.copytree(exported, tmp_path / "2")
    path = tmp_path / "2/assets.extra/tf_serving_warmup_requests"
    data = path.read_bytes()
    assert data.count(b"serve_images") == 2
    path.write_bytes(data.replace(b"serve_images", b"serve_nobody"))
    with running(f"--model_base_path={tmp_path}", "--poll_seconds=0.1") as server:
        with pytest.raises(ServingError, match="Servable not found"):
            Client(server.rest).metadata()
        (version,) = Client(server.rest).status()
        assert "serve_nobody" in version["error"] and version["state"] == "END"


def test_metadata_names_every_signature(rolling):
    answer = json.loads(get(f"{rolling[0].rest}{MODEL_PATH}/labels/stable/metadata"))
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    inputs = {n: list(s["inputs"]) for n, s in signatures.items() if "inputs" in s}
    assert inputs == {name: [s.input.name] for name, s in SIGNATURES.items()}
