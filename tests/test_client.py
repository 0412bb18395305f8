"""serving/client.py: against the exported model on the wire, and bad servers."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import itertools
import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from deeplab_tf.exports.signatures import METADATA_KEYS, SIGNATURES
from deeplab_tf.inference.saved_models import read_labels
from deeplab_tf.inference.segmenter import load_segmenter
from deeplab_tf.pictures.images import read_image
from deeplab_tf.pictures.visualize import save_palette_png
from serving import client as client_module
from serving.client import Client, ServingError, find_images, output_paths
from tests.support.serving_stand_in import running
from tests.support.stand_in.rpc import MAX_MESSAGE_BYTES

pytestmark = pytest.mark.one_lane

CLIENT = Path(client_module.__file__)
PNG = (  # one pixel of class 0
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVQIHWNgAAAAAgABz8g15QAAAABJ"
    "RU5ErkJggg=="
)
GOOD = {"outputs": {"classes_png_bytes": [{"b64": PNG}], "height": [1], "width": [1]}}


def test_the_client_asks_by_the_names_of_the_exports():
    segment, metadata = (
        SIGNATURES[name] for name in (client_module.SIGNATURE, client_module.METADATA)
    )
    assert segment.input.name == client_module.INPUT
    assert f"`{client_module.OUTPUT}`" in segment.gives
    assert metadata.input.name == client_module.KEYS
    assert f"`{client_module.VALUES}`" in metadata.gives
    assert client_module.METADATA_KEYS == METADATA_KEYS


@pytest.fixture(scope="module")
def server(exported):
    with running(f"--model_base_path={exported.parent}") as process:
        yield process


@pytest.fixture(scope="module", params=["rest", "grpc"])
def client(request, server):
    url = server.rest if request.param == "rest" else f"grpc://{server.grpc}"
    with Client(url) as made:
        yield made


@pytest.fixture(scope="module")
def expected(exported):
    """expected(path) -> classes as predict.py gives them."""
    segmenter = load_segmenter(None, str(exported))
    return lambda path: segmenter.predict(read_image(path))


# ---- The exported model, over both transports ---------------------------------------


def test_classes_are_those_of_predict(client, expected, photos):
    paths = sorted(photos.iterdir())
    assert len(paths) == 4
    for path in paths:
        classes = client.segment(path)
        assert classes.dtype == np.uint8 and len(np.unique(classes)) > 1
        np.testing.assert_array_equal(classes, expected(path))


def test_real_photos_too(client, expected, shared_data):
    folders = ("camvid/val", "VOCdevkit/VOC2012/JPEGImages")
    for folder in folders:
        paths = sorted((shared_data / folder).glob("*.jpg"))[:2]
        assert len(paths) == 2
        for path in paths:
            np.testing.assert_array_equal(client.segment(path), expected(path))


def test_bytes_are_an_image_too(client, photos):
    path = photos / "drawn.png"
    np.testing.assert_array_equal(
        client.segment(path.read_bytes()), client.segment(str(path))
    )


def test_metadata_and_status(client, exported):
    labels, known = read_labels(exported), client.metadata()
    assert known["class_names"] == list(labels.class_names)
    assert known["colormap"] == [list(color) for color in labels.colormap]
    assert known["ignore_label"] == labels.ignore_label
    assert known["max_pixels"] == 2**24
    assert known["model"]["backbone"] == "tiny"
    assert client.status() == [{"version": 1, "state": "AVAILABLE", "error": ""}]
    assert client.ready()


@pytest.mark.parametrize(
    "change, words, codes",
    [
        ({"model": "other"}, "Servable not found .*other", {404, "NOT_FOUND"}),
        ({"version": 9}, "Servable not found .*9", {404, "NOT_FOUND"}),
        ({"version": "canary"}, "label: canary", {400, "INVALID_ARGUMENT"}),
    ],
)
def test_what_the_server_does_not_have(client, photos, change, words, codes):
    with Client(client.url, **change) as other:
        assert not other.ready()
        with pytest.raises(ServingError, match=words) as caught:
            other.segment(photos / "drawn.png")
    assert caught.value.code in codes


def test_a_version_by_its_number(client, photos):
    with Client(client.url, version=1) as other:
        assert other.ready() and other.segment(photos / "grey.png").shape == (50, 33)


@pytest.mark.parametrize(
    "data, words",
    [
        (
            b"GIF89a" + bytes(40),
            "Expected a JPEG or PNG image. Received bytes of neither",
        ),
        (b"", "Expected a JPEG or PNG image. Received bytes of neither"),
        ("small", "Images must be at least 32 pixels a side. Received .*: 4 x 5"),
    ],
)
def test_refusals_are_the_graphs_own_sentence(client, tmp_path, data, words):
    path = tmp_path / "bad.png"
    if data == "small":
        Image.new("RGB", (5, 4)).save(path)
    else:
        path.write_bytes(data)
    with pytest.raises(ServingError, match=words) as caught:
        client.segment(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and caught.value.image == str(path)
    assert caught.value.code in {400, "INVALID_ARGUMENT"}
    assert "\n" not in text and "{{" not in text and "[" not in text


def test_a_file_that_is_not_there_is_named(client, tmp_path):
    with pytest.raises(ServingError, match="absent.jpg: cannot be read: No such file"):
        client.segment(tmp_path / "absent.jpg")


def test_many_keep_their_order_and_their_errors(client, photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    paths = [*sorted(photos.iterdir()), tmp_path / "bad.jpg"] * 3
    answers = list(client.segment_many(paths, concurrency=3))
    assert [path for path, _ in answers] == paths
    for path, classes in answers:
        if path.name == "bad.jpg":
            assert isinstance(classes, ServingError) and classes.image == str(path)
        else:
            assert classes.shape == Image.open(path).size[::-1]


def test_a_message_above_grpcs_bound_is_one_sentence(server):
    with Client(f"grpc://{server.grpc}", retries=5) as other:
        with pytest.raises(ServingError, match="larger than max") as caught:
            other.segment(bytes(MAX_MESSAGE_BYTES))
    assert caught.value.code == "RESOURCE_EXHAUSTED"


def test_upright_turns_only_images_whose_exif_asks(server, photos, tmp_path):
    picture = Image.open(photos / "drawn.jpg")
    exif = Image.Exif()
    exif[274] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    stored = Image.open(tmp_path / "turned.jpg")
    stored.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "by_hand.png")
    with Client(server.rest) as plain, Client(server.rest, upright=True) as upright:
        sideways = plain.segment(tmp_path / "turned.jpg")
        assert sideways.shape == (70, 90)
        turned = upright.segment(tmp_path / "turned.jpg")
        np.testing.assert_array_equal(turned, plain.segment(tmp_path / "by_hand.png"))
        same = upright.segment_png(photos / "drawn.jpg")
        assert same == plain.segment_png(photos / "drawn.jpg")
        with pytest.raises(ServingError, match="Expected a JPEG or PNG"):
            upright.segment(b"no image")
    data = (photos / "drawn.jpg").read_bytes()
    assert client_module.turned_upright(data) is data


# ---- Command line -------------------------------------------------------------------


def command(*flags):
    return subprocess.run(
        [sys.executable, *flags], capture_output=True, text=True, timeout=60
    )


def test_command_line_writes_what_predict_writes(
    server, expected, exported, photos, tmp_path
):
    output = tmp_path / "out"
    done = command(
        CLIENT, f"--url={server.rest}", f"--input={photos}/*", f"--output={output}"
    )
    assert done.returncode == 0 and "4 of 4 images" in done.stdout, done.stderr
    labels = read_labels(exported)
    names = {"drawn.jpg": "drawn.jpg.png", "drawn.png": "drawn.png.png"}
    written = {path.name for path in output.iterdir()}
    assert written == {"drawn.jpg.png", "drawn.png.png", "grey.png", "palette.png"}
    for path in photos.iterdir():
        save_palette_png(
            tmp_path / "ours.png", expected(path), labels.colormap, labels.ignore_label
        )
        ours = Image.open(tmp_path / "ours.png")
        theirs = Image.open(output / names.get(path.name, path.name))
        assert theirs.mode == ours.mode == "P"
        np.testing.assert_array_equal(np.asarray(theirs), np.asarray(ours))
        assert theirs.getpalette() == ours.getpalette()


def test_command_line_names_failures(server, photos, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.png").write_bytes((photos / "drawn.png").read_bytes())
    (tmp_path / "in/bad.jpg").write_bytes(b"no image")
    output = tmp_path / "out"
    flags = (f"--url={server.rest}", f"--input={tmp_path}/in", f"--output={output}")
    done = command(CLIENT, *flags, "--version=1")
    assert done.returncode == 1 and "1 of 2 images" in done.stdout
    assert done.stderr.startswith(f"{tmp_path}/in/bad.jpg: Expected a JPEG or PNG")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in output.iterdir()] == ["good.png"]


def test_rest_needs_the_standard_library_alone(server, photos, tmp_path):
    # -S hides what is installed.
    flags = (f"--url={server.rest}", f"--input={photos}/*.jpg", f"--output={tmp_path}")
    done = command("-I", "-S", CLIENT, *flags)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_command_line_without_a_server_is_one_sentence(photos, tmp_path):
    flags = (f"--input={photos}", f"--output={tmp_path}/out", "--retries=0")
    done = command(CLIENT, f"--url=http://127.0.0.1:{unused_port()}", *flags)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "client.py: http://127.0.0.1:" in done.stderr
    assert "cannot be reached: Connection refused." in done.stderr


def test_outputs_replace_nothing(tmp_path):
    assert output_paths(["a/x.jpg", "a/y.jpg"], "o") == ["o/x.png", "o/y.png"]
    assert output_paths(["a/X.jpg", "b/x.png"], "o") == ["o/X.jpg.png", "o/x.png.png"]
    with pytest.raises(ValueError, match="same name"):
        output_paths(["a/x.jpg", "a/x.jpg"], "o")
    with pytest.raises(ValueError, match="is an image of --input"):
        output_paths([f"{tmp_path}/x.png"], f"{tmp_path}/../{tmp_path.name}")
    with pytest.raises(ValueError, match="matches no images"):
        find_images(f"{tmp_path}/*.jpg")


def test_equal_names_keep_their_folders():
    assert output_paths(["a/x.jpg", "b/x.jpg"], "o") == ["o/a/x.png", "o/b/x.png"]
    paths = ["p/a/x.jpg", "p/b/x.jpg", "p/b/x.png"]
    names = ["o/a/x.png", "o/b/x.jpg.png", "o/b/x.png.png"]
    assert output_paths(paths, "o") == names
    assert output_paths(["p/a/x.jpg", "p/y.jpg"], "o", keep_folders=True) == [
        "o/a/x.png",
        "o/y.png",
    ]


def test_folders_inside_folders_and_endings(tmp_path):
    names = ["a.jpg", "b.JFIF", "c.jpe", "._a.jpg", "d.gif", "in/side/e.png"]
    (tmp_path / "in" / "side").mkdir(parents=True)
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    flat = [f"{tmp_path}/{name}" for name in names[:3]]
    assert find_images(str(tmp_path)) == flat
    found = [*flat, f"{tmp_path}/in/side/e.png"]
    assert find_images(str(tmp_path), recursive=True) == found
    assert find_images(f"{tmp_path}/**/*.png", recursive=True) == found[-1:]


def test_recursion_writes_into_folders(server, photos, tmp_path, capsys):
    (tmp_path / "in" / "b").mkdir(parents=True)
    for place in ("drawn.png", "b/drawn.png"):
        shutil.copy(photos / "drawn.png", tmp_path / "in" / place)
    flags = [f"--url={server.rest}", f"--input={tmp_path / 'in'}", "--recursive"]
    client_module.main([*flags, f"--output={tmp_path / 'out'}"])
    assert "2 of 2 images" in capsys.readouterr().out
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in written)
    assert written == ["b/drawn.png", "drawn.png"]


@pytest.mark.parametrize("image", [np.zeros([40, 40, 3], np.uint8), None, 3, ["x"]])
def test_what_is_neither_path_nor_bytes_is_told(client, image):
    words = "Expected the path of a JPEG or PNG file, or its content as bytes"
    with pytest.raises(ServingError, match=f"{words}.*{type(image).__name__}"):
        client.segment(image)
    ((_, error),) = client.segment_many([image])
    assert isinstance(error, ServingError)


# ---- Bad servers --------------------------------------------------------------------


def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers by the server's `script`: (status, headers, body), or an action."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.counted():
            step = next(self.server.script)
            if callable(step):
                return step(self)
            status, headers, body = step
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(
                body if isinstance(body, bytes) else json.dumps(body).encode()
            )

    def log_message(self, *arguments):
        pass


class ScriptedServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments):
        pass

    @contextlib.contextmanager
    def counted(self):
        with self.lock:
            self.requests += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        yield
        with self.lock:
            self.at_once -= 1


@pytest.fixture
def scripted():
    """scripted(step, ...) -> a server; it repeats the last step."""
    servers = []

    def start(*steps):
        server = ScriptedServer(("127.0.0.1", 0), Scripted)
        server.script = itertools.chain(steps[:-1], itertools.repeat(steps[-1]))
        server.lock, server.requests = threading.Lock(), 0
        server.at_once = server.most_at_once = 0
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refused(status, **headers):
    return status, headers, {"error": "a sentence"}


def reset(handler):
    linger = b"\x01\0\0\0\0\0\0\0"  # close with RST
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def cut(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    handler.close_connection = True


def dribble(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    with contextlib.suppress(OSError):
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.05)


@pytest.mark.parametrize(
    "step", [refused(503), refused(429), reset, cut], ids=["503", "429", "reset", "cut"]
)
def test_what_may_pass_is_tried_again(scripted, step):
    server = scripted(step, step, (200, {}, GOOD))
    assert Client(server.url).segment(b"image").tolist() == [[0]]
    assert server.requests == 3


@pytest.mark.parametrize("status", [400, 404, 409, 413, 500, 501, 504])
def test_other_refusals_are_not(scripted, status):
    server = scripted(refused(status), (200, {}, GOOD))
    with pytest.raises(ServingError, match="^a sentence$") as caught:
        Client(server.url).segment(b"image")
    assert server.requests == 1 and caught.value.code == status


def test_tries_end(scripted):
    server = scripted(refused(503))
    with pytest.raises(ServingError, match=r"^a sentence Tried 3 times\.$") as caught:
        Client(server.url, retries=2).segment(b"image")
    assert server.requests == 3 and caught.value.code == 503


def test_retry_after_is_respected(scripted):
    server = scripted(refused(503, **{"Retry-After": "0.4"}), (200, {}, GOOD))
    start = time.monotonic()
    Client(server.url).segment(b"image")
    assert time.monotonic() - start >= 0.4


@pytest.mark.parametrize("after", ["60", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_wait_beyond_the_deadline_is_not_begun(scripted, after):
    server = scripted(refused(429, **{"Retry-After": after}))
    start = time.monotonic()
    with pytest.raises(ServingError, match="^a sentence$"):
        Client(server.url, timeout=5).segment(b"image")
    assert server.requests == 1 and time.monotonic() - start < 4


@pytest.mark.parametrize(
    "steps",
    [(lambda handler: time.sleep(3),), (dribble,), (refused(503), dribble)],
    ids=["silent", "dribbling", "after a try"],
)
def test_the_deadline_holds_over_all_tries(scripted, steps):
    server = scripted(*steps)
    start = time.monotonic()
    with pytest.raises(
        ServingError, match=r"did not answer within 0\.\d+ s\."
    ) as caught:
        Client(server.url, timeout=0.5).segment(b"image")
    assert 0.45 < time.monotonic() - start < 2.5
    assert server.requests == len(steps) and caught.value.code is None


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_no_server_is_tried_again_and_named(scheme):
    url = f"{scheme}://127.0.0.1:{unused_port()}"
    words = rf"{url} cannot be reached: .*[Cc]onnection refused.* Tried 3 times\."
    with Client(url, retries=2) as client:
        with pytest.raises(ServingError, match=words):
            client.segment(b"image")
        assert not client.ready()


def test_a_server_that_comes_up_meanwhile_is_found():
    port = unused_port()
    listener = socket.socket()
    listener.bind(("127.0.0.1", port))  # refuses, as nothing listens

    def start():
        listener.close()
        server = http.server.HTTPServer(("127.0.0.1", port), Scripted)
        server.script, server.counted = iter([(200, {}, GOOD)]), contextlib.nullcontext
        server.handle_request()
        server.server_close()

    timer = threading.Timer(0.25, start)
    timer.start()
    assert Client(f"http://127.0.0.1:{port}", retries=6).segment(b"x").shape == (1, 1)
    timer.join()


@pytest.mark.parametrize(
    "body", [b"<html>hello</html>", {"predictions": []}, {"outputs": [3]}, [1]]
)
def test_another_kind_of_server_is_recognised(scripted, body):
    server = scripted((200, {}, body))
    with pytest.raises(ServingError, match="does not answer as TF Serving does"):
        Client(server.url).segment(b"image")


def test_a_refusal_without_json_says_its_status(scripted):
    server = scripted((502, {}, b"<html>Bad Gateway</html>"))
    with pytest.raises(ServingError, match=r"^HTTP 502 Bad Gateway\.$"):
        Client(server.url).segment(b"image")


def answer_of(png: bytes):
    return {"outputs": {"classes_png_bytes": [{"b64": base64.b64encode(png).decode()}]}}


def png_of(mode, size=(2, 2)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


def huge_png() -> bytes:
    """A header of 10^10 pixels."""
    content = bytearray(png_of("L"))
    content[16:24] = struct.pack(">II", 10**5, 10**5)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


WRONG_PNGS = {
    "none": b"no picture",
    "empty": b"",
    "cut": png_of("L", (99, 99))[:60],
    "color": png_of("RGB"),
    "huge": huge_png(),
}


@pytest.mark.parametrize("name", WRONG_PNGS)
def test_a_wrong_png_is_one_failure_of_many(scripted, tmp_path, name, capsys):
    wrong = (200, {}, answer_of(WRONG_PNGS[name]))
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path in paths:
        path.write_bytes(b"image")
    server = scripted((200, {}, GOOD), wrong, (200, {}, GOOD))
    answers = list(Client(server.url).segment_many(paths, concurrency=1))
    assert [type(answer) for _, answer in answers] == [
        *(np.ndarray, ServingError, np.ndarray)
    ]
    assert str(answers[1][1]).startswith(f"{paths[1]}: The server did not answer with")


def metadata_of(**changes):
    values = {
        "class_names": ["a"],
        "colormap": [[0, 0, 0]],
        "ignore_label": 255,
        "max_pixels": 1,
        "model": {},
        **changes,
    }
    return (200, {}, {"outputs": [json.dumps(value) for value in values.values()]})


def test_wrong_class_maps_do_not_end_a_batch(scripted, tmp_path, capsys):
    """12 of 14 answers are no class map: ten are named, the others written."""
    (tmp_path / "in").mkdir()
    for index in range(14):
        (tmp_path / "in" / f"{index:02}.png").write_bytes(b"image")
    wrong = [(200, {}, answer_of(png_of("RGB")))] * 12
    good = (200, {}, answer_of(png_of("L")))
    server = scripted(metadata_of(), good, *wrong, good)
    flags = [f"--url={server.url}", f"--input={tmp_path / 'in'}", "--concurrency=1"]
    with pytest.raises(SystemExit) as end:
        client_module.main([*flags, f"--output={tmp_path / 'out'}"])
    lines = str(end.value).splitlines()
    assert len(lines) == 11 and lines[-1] == "... and 2 more."
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00.png",
        "13.png",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"colormap": [10**9]},
        {"colormap": [[10**9, 0, 0]]},
        {"colormap": [[0, 0, 0]] * 257},
        {"colormap": []},
        {"colormap": {"a": 1}},
        {"colormap": [[0, 0, True]]},
        {"ignore_label": -1},
        {"ignore_label": 10**9},
    ],
    ids=range(8),
)
def test_colors_that_no_export_has_are_refused(scripted, tmp_path, changes):
    (tmp_path / "0.png").write_bytes(b"image")
    server = scripted(metadata_of(**changes), (200, {}, GOOD))
    with pytest.raises(ServingError, match="colours are not those of an export"):
        client_module.run(Client(server.url), str(tmp_path), str(tmp_path / "out"), 1)
    assert not (tmp_path / "out").exists()


def test_metadata_that_are_no_json_are_told(scripted):
    for text in ("{", "[" * 100_000):
        server = scripted((200, {}, {"outputs": [text] * 5}))
        with pytest.raises(ServingError, match="metadata are no JSON"):
            Client(server.url).metadata()


def test_an_answer_without_bound_is_cut(scripted, monkeypatch):
    monkeypatch.setattr(client_module, "_MAX_ANSWER_BYTES", 2**20)

    def endless(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(64):
                handler.wfile.write(bytes(2**20))
            pytest.fail("all of it was read")

    server = scripted(endless)
    with pytest.raises(ServingError, match="answers with more than 1048576 bytes"):
        Client(server.url).segment(b"image")
    assert server.requests == 1


@pytest.mark.parametrize(
    "text",
    [
        "assertion failed: [" * 100_000,
        "assertion failed: [" + "] " * 1_000_000,
        "{{" * 1_000_000,
        "assertion failed: [a]" + " " * 1_000_000,
    ],
    ids=range(4),
)
def test_a_long_refusal_takes_no_time(scripted, text):
    server = scripted((400, {}, {"error": text}))
    start = time.monotonic()
    with pytest.raises(ServingError) as caught:
        Client(server.url).segment(b"image")
    assert time.monotonic() - start < 2 and len(str(caught.value)) <= 2000


def test_the_deadline_holds_while_keys_are_agreed_on():
    """A server that dribbles the beginning of TLS."""

    def dribble_keys(listening):
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x10\x00")  # a handshake of 4 kB
            for _ in range(100):
                connection.sendall(b"x")
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=dribble_keys, args=[listening], daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(ServingError, match="127.0.0.1"):
            Client(url, timeout=0.5, retries=0).segment(b"image")
        assert time.monotonic() - start < 2


def test_the_deadline_holds_over_all_addresses_of_a_name(monkeypatch):
    """Two addresses that never answer; and a name that is never found."""
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket())
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        for _ in range(3):  # more than the queue holds: further ones wait
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(busy.getsockname())
        found = (socket.AF_INET, socket.SOCK_STREAM, 6, "", busy.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [found] * 4)
        start = time.monotonic()
        with pytest.raises(ServingError, match="did not answer within"):
            Client("http://many", timeout=0.5).segment(b"image")
        assert time.monotonic() - start < 1.5
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: time.sleep(5))
        start = time.monotonic()
        with pytest.raises(ServingError, match="did not answer within"):
            Client("http://never", timeout=0.5).segment(b"image")
        assert time.monotonic() - start < 1.5


def test_concurrency_is_bounded_and_used(scripted, tmp_path):
    def slow(handler):
        time.sleep(0.05)
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(json.dumps(GOOD).encode())

    server = scripted(slow)
    paths = [tmp_path / f"{index}.png" for index in range(12)]
    for path in paths:
        path.write_bytes(b"image")
    answers = Client(server.url).segment_many(paths, concurrency=3)
    assert server.requests == 0  # nothing before the first is asked for
    assert next(answers)[0] == paths[0]
    time.sleep(0.3)
    assert server.requests <= 7  # twice as many as at once, and one was taken
    assert [path for path, _ in answers] == paths[1:]
    assert server.most_at_once == 3
    with pytest.raises(ValueError, match="at least 1. Received: 0"):
        Client(server.url).segment_many(paths, concurrency=0)


class ScriptedPrediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, *codes):
        self.codes, self.requests = codes, 0

    def Predict(self, request, context):
        self.requests += 1
        if self.requests <= len(self.codes):
            context.abort(self.codes[self.requests - 1], "a sentence")
        response = predict_pb2.PredictResponse()
        response.outputs["classes_png_bytes"].string_val.append(base64.b64decode(PNG))
        return response


@contextlib.contextmanager
def grpc_server(servicer):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        servicer, server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}"
    server.stop(None)


def test_grpc_tries_again_when_the_server_is_unavailable():
    servicer = ScriptedPrediction(*[grpc.StatusCode.UNAVAILABLE] * 2)
    with grpc_server(servicer) as url, Client(url) as client:
        assert client.segment(b"image").tolist() == [[0]]
    assert servicer.requests == 3


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL"])
def test_grpc_does_not_otherwise(code):
    servicer = ScriptedPrediction(grpc.StatusCode[code])
    with grpc_server(servicer) as url, Client(url) as client:
        with pytest.raises(ServingError, match="^a sentence$") as caught:
            client.segment(b"image")
    assert servicer.requests == 1 and caught.value.code == code


def test_grpc_deadline():
    class Silent(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            time.sleep(1)

    with grpc_server(Silent()) as url, Client(url, timeout=0.3) as client:
        with pytest.raises(ServingError, match="did not answer within 0.3 s") as caught:
            client.segment(b"image")
    assert caught.value.code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"url": "127.0.0.1:8501"}, "Expected an address like .* 127.0.0.1:8501"),
        ({"url": "ftp://host"}, "Expected an address like"),
        ({"timeout": 0}, "timeout above 0 and 0 or more retries. Received: 0 and 3"),
        (
            {"retries": -1},
            "timeout above 0 and 0 or more retries. Received: 30.0 and -1",
        ),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, words):
    with pytest.raises(ValueError, match=words):
        Client(**arguments)


def test_palettes_keep_the_ids(tmp_path):
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    file = io.BytesIO()
    Image.fromarray(ids).save(file, "PNG")
    colors = [(index, 0, 255 - index) for index in range(11)]
    coloured = client_module.with_palette(file.getvalue(), colors, 255)
    picture = Image.open(io.BytesIO(coloured))
    np.testing.assert_array_equal(np.asarray(picture), ids)
    assert picture.convert("RGB").getpixel((3, 0)) == (3, 0, 252)
    assert picture.convert("RGB").getpixel((15, 15)) == (224, 224, 192)
    with pytest.raises(ServingError, match="8-bit class ids"):
        client_module.with_palette(coloured, colors, 255)
