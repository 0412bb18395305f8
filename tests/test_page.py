"""The page: what the server answers and refuses, and what a person sees in Chromium."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import io
import json
import re
import shutil
import socket
import struct
import threading
import time
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.pictures.images import read_image
from deeplab_tf.pictures.visualize import outlines
from deeplab_tf.prediction import page, page_server

pytestmark = pytest.mark.one_lane

LABELS = Labels(
    class_names=("background", "<b>cat</b>", "dog & horse", "a <script>"),
    colormap=((0, 0, 0), (200, 0, 0), (0, 100, 0), (0, 100, 0)),
)
FILES = Path(page.__file__).parent / "page_files"


class Stripes:
    """Class 1 left, 3 in the last quarter, 2 in one pixel; says what went on."""

    def __init__(self, labels=LABELS):
        self.labels = labels
        self.images = []
        self.at_once = self.most_at_once = 0

    def predict(self, image):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.02)  # for others to come in
        self.images.append(image)
        self.at_once -= 1
        classes = np.full(image.shape[:2], 1, np.uint8)
        classes[:, -(image.shape[1] // 4) :] = 3
        classes[0, 0] = 2
        return classes


class Failing(Stripes):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def predict(self, image):
        raise self.error


def encoded(width=100, height=80, kind="PNG", **options) -> bytes:
    """A picture whose left half is darker than its right half."""
    pixels = np.full([height, width, 3], (90, 120, 150), np.uint8)
    pixels[:, width // 2 :] = (180, 150, 120)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def png_header(width, height) -> bytes:
    """A PNG that says its size and holds no pixels."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def ids_of(answer) -> np.ndarray:
    ids = zlib.decompress(base64.b64decode(answer["class_ids"]))
    return np.frombuffer(ids, np.uint8).reshape(answer["height"], answer["width"])


def picture_of(answer, key) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer[key])))


@pytest.fixture()
def segmenter():
    return Stripes()


@pytest.fixture()
def client(segmenter):
    app = page.make_app(segmenter, "runs/<i>x</i>", 2**20, 100_000)
    return app.test_client()


@contextlib.contextmanager
def running(app):
    """Gives the address of a server in a thread."""
    server = page.make_server(app, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/"
    finally:
        server.shutdown()
        thread.join(10)


# --- Answers -------------------------------------------------------------------------


def test_the_answer_says_what_was_predicted(client, segmenter):
    answer = client.post("/segment", data=encoded()).get_json()
    (image,) = segmenter.images
    assert image[0, 0].tolist() == [90, 120, 150]
    classes = segmenter.predict(image)
    assert (answer["width"], answer["height"]) == (100, 80)
    np.testing.assert_array_equal(ids_of(answer), classes)
    png = picture_of(answer, "classes_png")
    assert png.mode == "P"
    np.testing.assert_array_equal(np.asarray(png), classes)
    assert png.convert("RGB").getpixel((99, 0)) == (0, 100, 0)
    jpeg = np.asarray(picture_of(answer, "image_jpeg"), int)
    assert np.abs(jpeg - image).max() <= 6
    # 80 rows of 100: the last 25 columns are class 3, one pixel is class 2.
    assert answer["legend"] == [
        entry(1, "<b>cat</b>", [200, 0, 0], 5999),
        entry(3, "a <script>", [0, 100, 0], 2000),
        entry(2, "dog & horse", [0, 100, 0], 1),
    ]
    assert set(answer["milliseconds"]) == {"waiting", "decode", "network", "encode"}
    assert answer["milliseconds"]["network"] >= 20


def entry(number, name, color, pixels):
    values = {"id": number, "name": name, "color": color, "pixels": pixels}
    return {**values, "share": pixels / 8000, "hidden": False}


@pytest.mark.parametrize("hidden, ids", [(None, {2}), ((), set()), ((1, 3), {1, 3})])
def test_the_answer_says_what_is_left_clear(hidden, ids):
    labels = Labels(("cat", "dog", "Background", "horse"), LABELS.colormap)
    app = page.make_app(Stripes(labels), "run", hidden=hidden)
    legend = app.test_client().post("/segment", data=encoded()).get_json()["legend"]
    assert {entry["id"] for entry in legend if entry["hidden"]} == ids


def test_the_port_is_none_of_tensorflow_servings():
    assert page.PORT not in (8500, 8501)
    assert f"PORT:-{page.PORT}" in (FILES.parents[2] / "serving/page.yaml").read_text()


def test_a_form_is_answered_as_the_bytes_are(client):
    form = {"image": (io.BytesIO(encoded()), "photo.png")}
    by_form = client.post("/segment", data=form).get_json()
    by_bytes = client.post("/segment", data=encoded()).get_json()
    for answer in (by_form, by_bytes):
        del answer["milliseconds"]
    assert by_form == by_bytes


def test_a_real_network_answers_as_it_predicts(workdir, photos):
    segmenter = Segmenter.from_workdir(workdir)
    client = page.make_app(segmenter, "run").test_client()
    for name in ("drawn.jpg", "drawn.png", "grey.png", "palette.png"):
        answer = client.post("/segment", data=(photos / name).read_bytes()).get_json()
        classes = segmenter.predict(read_image(photos / name))
        assert len(np.unique(classes)) > 1, "the fixture should see several classes"
        np.testing.assert_array_equal(ids_of(answer), classes)
        shares = {each["name"]: each["share"] for each in answer["legend"]}
        for number, class_name in enumerate(segmenter.labels.class_names):
            share = (classes == number).mean()
            assert shares.get(class_name, 0) == pytest.approx(share, abs=1e-12)


def test_photos_are_shown_and_segmented_upright(client, segmenter):
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees, clockwise: what was left is at the top
    photo = encoded(kind="JPEG", exif=exif, quality=95)
    answer = client.post("/segment", data=photo).get_json()
    assert (answer["width"], answer["height"]) == (80, 100)
    assert segmenter.images[0].shape == (100, 80, 3)
    shown = picture_of(answer, "image_jpeg").convert("RGB")
    assert shown.size == (80, 100)
    assert shown.getpixel((40, 5))[0] < 100 < shown.getpixel((40, 95))[0]


# --- Refusals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "upload, status, sentence",
    [
        (b"", 422, "The file is empty"),
        (b"plain text", 415, "Not a JPEG, PNG.* image"),
        (b"%PDF-1.7\n", 415, "Not a JPEG, PNG.* image"),
        (encoded()[:120], 422, "truncated or damaged PNG"),
        (encoded(31, 100), 422, "at least 32 pixels a side, this is 100x31"),
        (encoded(400, 251), 422, "251x400 .*megapixels, and no more than"),
        # A size that would not fit, from the header: there is nothing to decode.
        (png_header(30_000, 30_000), 422, "30000x30000 .*900 megapixels"),
        (bytes(2**20 + 1), 413, "At most 1 MiB are taken, this file has more"),
    ],
    ids="empty text pdf truncated small pixels bomb bytes".split(),
)
def test_refused_uploads_are_told_why(client, segmenter, upload, status, sentence):
    answer = client.post("/segment", data=upload, content_length=len(upload))
    assert answer.status_code == status
    assert re.search(sentence, answer.get_json()["error"])
    assert re.fullmatch("[A-Z0-9].*[^.][.]", answer.get_json()["error"])
    assert segmenter.images == []


def test_a_picture_that_browsers_cannot_paint_is_refused(segmenter):
    client = page.make_app(segmenter, "run").test_client()
    answer = client.post("/segment", data=encoded(page.MAX_SIDE + 1, 32))
    assert answer.status_code == 422
    assert answer.get_json()["error"].startswith("No side may have more than 16384")
    assert segmenter.images == []


def test_a_form_without_the_file_is_told_so(client):
    form = {"picture": (io.BytesIO(encoded()), "photo.png")}
    answer = client.post("/segment", data=form)
    assert answer.status_code == 422
    assert answer.get_json() == {"error": "The form has no file named image."}


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80"]
)
def test_other_hosts_are_refused(client, segmenter, host):
    for answer in (
        client.get("/", headers={"Host": host}),
        client.get("/static/page.js", headers={"Host": host}),
        client.post("/segment", data=encoded(), headers={"Host": host}),
    ):
        assert answer.status_code == 400
        assert "not trusted" in answer.get_json()["error"]
    assert segmenter.images == []


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://localhost:8501", "http://localhost:9000"],
)
def test_posts_of_other_pages_are_refused(client, segmenter, origin):
    headers = {"Host": "localhost:8501", "Origin": origin}
    answer = client.post("/segment", data=encoded(), headers=headers)
    assert answer.status_code == 403
    assert "own page alone" in answer.get_json()["error"]
    assert segmenter.images == []


@pytest.mark.parametrize("host", ["localhost:8501", "127.0.0.1:8501", "localhost"])
def test_posts_of_the_page_itself_are_taken(client, host):
    headers = {"Host": host, "Origin": f"http://{host}"}
    answer = client.post("/segment", data=encoded(), headers=headers)
    assert answer.status_code == 200


def test_other_addresses_and_methods_are_json_errors(client):
    for answer, status in (
        (client.get("/nothing"), 404),
        (client.get("/static/../page.html"), 404),
        (client.get("/segment"), 405),
    ):
        assert answer.status_code == status
        assert list(answer.get_json()) == ["error"]


@pytest.mark.parametrize(
    "error, status, sentence",
    [
        (MemoryError(), 503, "memory is too small"),
        (ValueError("a fault of ours"), 500, "Its terminal says why"),
    ],
    ids=["memory", "fault"],
)
def test_failures_of_the_server_are_told(error, status, sentence, caplog):
    client = page.make_app(Failing(error), "run").test_client()
    for _ in range(2):  # the next image finds the lock free
        answer = client.post("/segment", data=encoded())
        assert answer.status_code == status
        assert sentence in answer.get_json()["error"]
    assert ("a fault of ours" in caplog.text) == (status == 500)


def test_a_segmenter_without_labels_is_refused():
    with pytest.raises(ValueError, match="has no labels. Make it by from_workdir"):
        page.make_app(Stripes(labels=None), "run")


# --- The page and the server ---------------------------------------------------------


def test_the_page_says_its_limits_and_loads_nothing_from_elsewhere(client):
    answer = client.get("/")
    html = answer.get_data(as_text=True)
    assert "<h1>runs/&lt;i&gt;x&lt;/i&gt;</h1>" in html
    assert "up to 1 MiB and\n        0.1 megapixels" in html
    links = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert {"/static/page.js", "/static/page.css", "/static/icon.svg"} == set(links)
    for link in links:
        assert client.get(link).status_code == 200
    assert not re.search(r"<script>|\son\w+=|\sstyle=", html), "refused by the policy"
    sources = [path.read_text("utf-8") for path in FILES.rglob("*.*")]
    assert set(re.findall(r"\w+://[^\"' ]+", " ".join(sources))) == {
        "http://www.w3.org/2000/svg"  # a name, which nobody loads
    }


@pytest.mark.parametrize("address", ["/", "/static/page.js", "/nothing"])
def test_every_answer_has_the_headers_that_shut_others_out(client, address):
    headers = client.get(address).headers
    policy = dict(
        each.split(maxsplit=1) for each in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert not any(name.startswith("Access-Control") for name in headers.keys())


def test_one_image_is_predicted_at_a_time(segmenter):
    app = page.make_app(segmenter, "run")
    threads = [
        threading.Thread(
            target=lambda: app.test_client().post("/segment", data=encoded())
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(segmenter.images) == 4
    assert segmenter.most_at_once == 1


@pytest.mark.parametrize(
    "chunked, status, sentence",
    [(False, 413, "At most 1 MiB are taken"), (True, 411, "must say its length")],
    ids=["length", "chunked"],
)
def test_a_client_that_sends_too_much_reads_why_not(
    segmenter, chunked, status, sentence
):
    with running(page.make_app(segmenter, "run", 2**20)) as url:
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=20)
        body = bytes(3 * 2**20)
        # An iterator has no length, so http.client sends it in chunks.
        connection.request("POST", "/segment", iter([body]) if chunked else body)
        answer = connection.getresponse()
        assert answer.status == status
        assert sentence in json.loads(answer.read())["error"]
        connection.close()


# --- Connections that are kept busy, or left -----------------------------------------


@contextlib.contextmanager
def bounded(segmenter, **bounds):
    """(address, server) of a page with other bounds than a user's."""
    server = page_server.make_server(page.make_app(segmenter, "run"), 0, **bounds)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield ("127.0.0.1", server.port)
    finally:
        server.shutdown()
        thread.join(20)


def head_of(address, length, path="/segment") -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{address[1]}"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def answer_of(connection) -> tuple[int, str]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read())["error"]


@pytest.mark.parametrize(
    "length", ["abc", "-5", "", "1e3", "+5", "5 5", "5, 6", "0x5", "\xb2", "9" * 5000]
)
def test_a_length_that_is_no_number_is_told(segmenter, length):
    with bounded(segmenter) as address, socket.create_connection(address, 20) as client:
        client.sendall(head_of(address, length).decode().encode("latin-1") + b"abc")
        status, sentence = answer_of(client)
    assert (status, sentence[:30]) == (411, "An upload must say its length,")
    assert not segmenter.images


@pytest.mark.parametrize("slowly", [0, 3])
def test_an_upload_that_does_not_end_is_given_up(segmenter, slowly):
    """Also where each byte alone comes in time: after 1.5 s here, and not 2.4."""
    start = time.monotonic()
    with bounded(segmenter, request_seconds=1.5 if slowly else 0.3) as address:
        with socket.create_connection(address, 20) as client:
            client.sendall(head_of(address, 10**6))
            for _ in range(slowly):
                time.sleep(0.3)
                client.sendall(b"x")
            status, sentence = answer_of(client)
    assert time.monotonic() - start < 2.3 and not segmenter.images
    assert status == 408 and sentence.startswith("The upload did not arrive whole")


@pytest.mark.parametrize(
    "sent", [b"", b"POST /segm", b"POST /segment HTTP/1.1\r\nA: b"]
)
def test_a_connection_that_asks_nothing_is_closed(segmenter, sent):
    start = time.monotonic()
    with bounded(segmenter, request_seconds=0.3) as address:
        with socket.create_connection(address, 20) as client:
            client.sendall(sent)
            assert not client.recv(1)
    assert time.monotonic() - start < 5


def test_connections_without_end_leave_room_when_they_are_closed(segmenter):
    with bounded(segmenter, max_connections=3) as address:
        idle = [socket.create_connection(address, 20) for _ in range(3)]
        time.sleep(0.2)  # until each has its thread
        with socket.create_connection(address, 20) as client:
            status, sentence = answer_of(client)
        assert (status, sentence[:34]) == (503, "The server has too many connection")
        for connection in idle:
            connection.close()
        deadline = time.monotonic() + 10
        while True:
            with socket.create_connection(address, 20) as client:
                client.sendall(head_of(address, 3) + b"abc")
                status, _ = answer_of(client)
            if status != 503 or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        assert status == 415


def test_nothing_is_computed_for_who_has_left(segmenter):
    """The first holds the network; two more wait, and one of them leaves."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        labels, sizes = segmenter.labels, []

        def predict(self, image):
            self.sizes.append(image.shape[1])
            begun.set()
            go_on.wait(20)
            return np.zeros(image.shape[:2], np.uint8)

    slow = Slow()
    with bounded(slow) as address:
        clients = []
        for width in (40, 41, 42):
            client = socket.create_connection(address, 20)
            data = encoded(width, 40)
            client.sendall(head_of(address, len(data)) + data)
            clients.append(client)
            begun.wait(20)
            time.sleep(0.1)
        clients[1].close()
        time.sleep(0.1)
        go_on.set()
        for client in (clients[0], clients[2]):
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.status == 200
            client.close()
    assert sorted(slow.sizes) == [40, 42]


def test_serve_opens_the_browser_at_a_server_for_this_machine_alone(
    segmenter, monkeypatch, capsys
):
    servers, opened = [], []
    make_server = page.make_server

    def remember(*arguments):
        servers.append(make_server(*arguments))
        return servers[0]

    monkeypatch.setattr(page, "make_server", remember)
    monkeypatch.setattr(page.webbrowser, "open", opened.append)
    serve = functools.partial(page.serve, segmenter, "my run", 0)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not opened and time.monotonic() < deadline:
        time.sleep(0.01)
    address, port = servers[0].socket.getsockname()
    assert address == "127.0.0.1"
    assert opened == [f"http://127.0.0.1:{port}/"]
    with urllib.request.urlopen(opened[0], timeout=20) as answer:
        assert b"<h1>my run</h1>" in answer.read()
    servers[0].shutdown()
    thread.join(20)
    assert not thread.is_alive()
    captured = capsys.readouterr()
    assert captured.out == f"my run is at {opened[0]} until Ctrl-C.\n"
    assert captured.err == ""  # no line for a request
    assert len(segmenter.images) == 1, "traced before the first image comes"


def test_a_port_that_is_taken_is_one_sentence(segmenter):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"Port {port} of 127.0.0.1 .*another one"):
            page.serve(segmenter, "run", port, open_browser=False)


# --- In Chromium ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium that keeps what it logs."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    driver_path = shutil.which("chromedriver")
    if not (binary and driver_path):
        pytest.skip("needs chromium and chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    logs = {"browser": "ALL", "performance": "ALL"}
    options.set_capability("goog:loggingPrefs", logs)
    driver = webdriver.Chrome(options, Service(driver_path))
    yield driver
    driver.quit()


class Screen:
    """What a person does with the page, and sees."""

    def __init__(self, driver):
        self.driver = driver

    def __call__(self, script, *arguments):
        return self.driver.execute_script(f"return {script}", *arguments)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector):
        script = "[...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        return self(script, selector)

    def wait(self, condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.find("body").text
            time.sleep(0.02)

    def choose(self, *paths):
        self.find("#file").send_keys("\n".join(map(str, paths)))
        self.wait(lambda: not self.find("#progress").is_displayed())

    def send(self, event, name, content=b""):
        """Drops or pastes a file, or something that is none."""
        script = """
          const [event, name, content] = arguments;
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          if (name) transfer.items.add(new File([bytes], name));
          const [kind, field] = event === "drop"
            ? [DragEvent, "dataTransfer"] : [ClipboardEvent, "clipboardData"];
          document.dispatchEvent(new kind(event, {[field]: transfer}));
        """
        content = base64.b64encode(content).decode()
        self.driver.execute_script(script, event, name, content)
        self.wait(lambda: not self.find("#progress").is_displayed())

    def press(self, *keys, shift=False):
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        actions = ActionChains(self.driver)
        if shift:
            actions.key_down(Keys.SHIFT).send_keys(*keys).key_up(Keys.SHIFT).perform()
        else:
            actions.send_keys(*keys).perform()

    def emulate(self, width, scheme="light"):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def check_no_overflow(self):
        for width in (360, 390, 600, 899, 900, 1280, 1600):
            self.emulate(width)
            widths = self("[document.documentElement.scrollWidth, innerWidth]")
            assert widths[0] <= widths[1] == width
        self.emulate(1280)

    def errors(self):
        """What the console shows, but for refused uploads and these tests' doing."""
        expected = re.compile(r"/segment - Failed to load .* status of 4|getImageData")
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in messages if not expected.search(message)]

    def requests(self):
        """Addresses that were asked for."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                yield message["params"]["request"]["url"]


@pytest.fixture()
def screen(browser, segmenter):
    """The page of a running server; afterwards, that all went well behind it."""
    screen = Screen(browser)
    app = page.make_app(segmenter, "runs/" + 30 * "long", 2**20)
    with running(app) as url:
        for kind in ("browser", "performance"):
            browser.get_log(kind)  # gone with the page before
        screen.emulate(1280)
        browser.get(url)
        yield screen
        requests = list(screen.requests())
        assert f"{url}static/page.js" in requests
        assert all(each.startswith((url, f"blob:{url}")) for each in requests)
        assert screen.errors() == []


@pytest.fixture()
def photo(tmp_path):
    path = tmp_path / "my <b>photo.png"
    path.write_bytes(encoded())
    return path


def test_a_person_sees_the_classes_of_an_image(screen, photo):
    assert not screen.find("#result").is_displayed()
    screen.check_no_overflow()
    screen.choose(photo)
    assert screen.texts("#name") == ["my <b>photo.png"]
    assert screen.texts("#size") == ["100 × 80 pixels, 0.01 megapixels"]
    assert screen.texts("#legend .name") == ["<b>cat</b>", "a <script>", "dog & horse"]
    assert screen.texts("#legend .share") == ["75.0 %", "25.0 %", "< 0.1 %"]
    assert screen.texts("#times dt") == [
        *("Decoding", "Neural network", "Encoding the answer"),
        *("Upload and answer", "Drawing", "Total"),
    ]
    times = screen.texts("#times dd")
    assert len(times) == 6 and all(re.fullmatch(r"[\d.]+ m?s", t) for t in times)
    pixels = screen(
        "[[0, 0], [1, 0], [99, 79]].map(([x, y]) => "
        "[...classes.getContext('2d').getImageData(x, y, 1, 1).data])"
    )
    assert pixels == [[0, 100, 0, 255], [200, 0, 0, 255], [0, 100, 0, 255]]
    screen.check_no_overflow()


def test_the_slider_sets_the_opacity(screen, photo):
    from selenium.webdriver.common.keys import Keys

    screen.choose(photo)
    opacity = "Number(getComputedStyle(classes).opacity)"
    assert screen(opacity) == 0.5
    screen.find("#opacity").send_keys(Keys.END)
    assert screen(opacity) == 1 and screen.texts("output") == ["100 %"]
    screen.find("#opacity").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    assert screen(opacity) == 0.01 and screen.texts("output") == ["1 %"]


def test_pixels_are_named_under_the_pointer_and_by_arrow_keys(screen, photo):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    screen.choose(photo)
    stage = screen.find("#stage")
    for share, name in ((0.74, "<b>cat</b>"), (0.76, "a <script>")):
        offset = int((share - 0.5) * stage.size["width"])
        pointer = ActionChains(screen.driver)
        pointer.move_to_element_with_offset(stage, offset, 0).perform()
        assert screen.texts("#tip") == [name]
    ActionChains(screen.driver).move_to_element(screen.find("h1")).perform()
    assert not screen.find("#tip").is_displayed()

    # Again, so that the keys begin in the middle, at column 50 of 100.
    screen.choose(photo)
    screen("stage.focus()")
    for columns, name in ((20, "<b>cat</b>"), (5, "a <script>")):
        screen.press(*[Keys.ARROW_RIGHT] * (columns // 5), shift=True)
        assert screen.texts("#tip") == [name]
    assert screen.find("#cross").is_displayed()
    screen.press(Keys.ARROW_LEFT)
    assert screen("spoken.textContent") == "<b>cat</b>, 74 across, 40 down"
    screen.press(*[Keys.ARROW_LEFT] * 20, *[Keys.ARROW_UP] * 20, shift=True)
    assert screen.texts("#tip") == ["dog & horse"]
    screen.press(Keys.ESCAPE)
    assert not screen.find("#tip").is_displayed()


def test_a_class_is_seen_alone(screen, photo):
    screen.choose(photo)
    alphas = (
        "[1, 99].map(x => classes.getContext('2d').getImageData(x, 0, 1, 1).data[3])"
    )
    first = screen.find("#legend button")
    for pressed, expected in (("true", [255, 0]), ("false", [255, 255])):
        first.click()
        assert first.get_attribute("aria-pressed") == pressed
        assert screen(alphas) == expected


class Background(Stripes):
    """0 at the left, 1 in the middle, 3 at the right."""

    def predict(self, image):
        classes = super().predict(image)
        classes[:, : image.shape[1] // 4] = 0
        return classes


ALPHAS = """[classes, outlines].map(c => [0, 24, 25, 26, 74, 75, 99].map(
    x => c.getContext('2d').getImageData(x, 9, 1, 1).data[3]))"""


def test_the_background_is_clear_until_it_is_asked_for(browser, photo, tmp_path):
    screen, segmenter = Screen(browser), Background()
    saved = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Page.setDownloadBehavior", saved)
    with running(page.make_app(segmenter, "run")) as url:
        screen.emulate(1280)
        browser.get(url)
        screen.choose(photo)
        # Column 25 is the first of class 1, 74 its last; both are painted.
        colors, outlines = screen(ALPHAS)
        assert colors == [0, 0, 255, 255, 255, 255, 255]
        assert outlines == [0, 0, 255, 0, 255, 0, 0]
        screen.find("#save-overlay").click()
        screen.wait(lambda: list(tmp_path.glob("*_overlay.png")))
        assert screen.texts("#clear > span") == ["Paint background too"]
        screen.find("#paint-hidden").click()
        colors, outlines = screen(ALPHAS)
        assert colors == [255] * 7
        assert outlines == [0, 255, 0, 0, 255, 0, 0]
        screen.check_no_overflow()
    (path,) = tmp_path.glob("*_overlay.png")
    overlay, photo = np.asarray(Image.open(path)).astype(int), segmenter.images[0]
    assert np.abs(overlay[:, :25, :3] - photo[:, :25]).max() <= 5  # of the JPEG
    assert (overlay[9, [25, 74], :3] == 255).all()
    assert (overlay[9, 26:74, 1:3] < photo[9, 26:74, 1:3]).all()  # red over it


def test_class_map_and_overlay_are_saved(screen, photo, segmenter, tmp_path):
    saved = {"behavior": "allow", "downloadPath": str(tmp_path)}
    screen.driver.execute_cdp_cmd("Page.setDownloadBehavior", saved)
    screen.choose(photo)
    screen("opacity.value = 25")
    screen("opacity.dispatchEvent(new Event('input'))")
    for kind in ("classes", "overlay"):
        screen.find(f"#save-{kind}").click()
        screen.wait(lambda kind=kind: list(tmp_path.glob(f"*_{kind}.png")))
    # Chromium sees to it that the name fits a file system.
    (classes,), (overlay,) = (
        [np.asarray(Image.open(path)) for path in tmp_path.glob(f"my*photo_{kind}.png")]
        for kind in ("classes", "overlay")
    )
    image = segmenter.images[0]
    np.testing.assert_array_equal(classes, segmenter.predict(image))
    colors = np.array(LABELS.colormap)[classes]
    difference = overlay[..., :3] - (0.75 * image + 0.25 * colors)
    outline = outlines(classes)
    assert (overlay[outline, :3] == 255).all() and outline.any()
    difference[outline] = 0
    assert np.abs(difference).max() <= 5  # of the JPEG
    assert (overlay[..., 3] == 255).all()


def test_images_come_one_after_the_other_and_refusals_are_told(screen, photo, tmp_path):
    wide, text = tmp_path / "wide.jpg", tmp_path / "notes <i>.png"
    wide.write_bytes(encoded(300, 90, "JPEG"))
    text.write_text("no image")
    screen.choose(photo, text, wide)
    assert screen.texts("#size") == ["300 × 90 pixels, 0.03 megapixels"]
    (refusal,) = screen.texts("#errors li")
    assert re.fullmatch("notes <i>.png: Not a JPEG, PNG, .* damaged one.", refusal)
    screen.check_no_overflow()
    screen.find("#dismiss").click()
    assert not screen.find("#errors").is_displayed()

    # Back to the first.
    assert screen.texts("#history button") == ["my <b>photo.png", "wide.jpg"]
    screen.find("#history button").click()
    assert screen.texts("#name") == ["my <b>photo.png"]
    assert screen("classes.width") == 100

    screen.send("drop", "dropped.png", encoded(64, 64))
    assert screen.texts("#name") == ["dropped.png"]
    screen.send("paste", "pasted.png", encoded(65, 64))
    assert screen.texts("#name") == ["pasted.png"]
    screen.send("drop", "large.png", bytes(2**20 + 1))
    assert screen.texts("#errors li") == [
        "large.png: At most 1 MiB are taken, this file has 1.0 MiB."
    ]
    screen.send("drop", None)
    assert "holds no file" in screen.texts("#errors li")[-1]


def test_only_so_many_results_are_kept(screen, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(14)]
    for path in paths:
        path.write_bytes(encoded(32, 32))
    screen.choose(*paths)
    names = screen.texts("#history button")
    assert names == [path.name for path in paths[-12:]]
    screen.check_no_overflow()


def test_a_server_that_is_gone_is_one_sentence(browser, segmenter, photo):
    screen = Screen(browser)
    with running(page.make_app(segmenter, "run")) as url:
        browser.get(url)
    screen.choose(photo)
    assert screen.texts("#errors li") == [
        "my <b>photo.png: The server does not answer. Is it still running?"
    ]


def test_the_page_follows_the_dark_mode(screen, photo):
    screen.choose(photo)
    lightness = []
    for scheme in ("light", "dark"):
        screen.emulate(1280, scheme)
        for property in ("backgroundColor", "color"):
            color = screen(f"getComputedStyle(document.body).{property}")
            lightness.append(sum(map(int, re.findall(r"\d+", color)[:3])) / 3)
    background, text, dark_background, dark_text = lightness
    assert text < 60 < 200 < background
    assert dark_background < 60 < 200 < dark_text
