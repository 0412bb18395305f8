"""A page in the browser: drop an image, see its classes over it.

    serve(Segmenter.from_workdir("runs/demo"), "runs/demo")

The page and all it loads are files of this package: it works without a network. Only
this machine reaches it: the server listens on 127.0.0.1, refuses requests that name
another host (a web site whose name was made to point here) and posts of other pages.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import re
import threading
import time
import webbrowser
import zlib
from collections.abc import Collection

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from deeplab_tf.labels import hidden_classes
from deeplab_tf.networks.models import MIN_IMAGE_SIZE
from deeplab_tf.pictures.images import read_image
from deeplab_tf.pictures.visualize import class_counts, palette_picture
from deeplab_tf.prediction.page_server import HOST, has_left, make_server

PORT = 8502  # TensorFlow Serving's own are 8500 and 8501
MAX_PIXELS = 16_000_000
MAX_SIDE = 16384  # of a picture that browsers can paint
_JPEG_QUALITY = 92
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def check_flask() -> None:
    """Says before a model is loaded that there would be no page.

    Raises:
      ImportError: Flask is not installed.
    """
    if importlib.util.find_spec("flask") is None:
        raise ImportError(
            "The page needs Flask, and it is not installed. Run: pip install flask"
        )


def serve(
    segmenter,
    title: str,
    port: int = PORT,
    max_pixels: int = MAX_PIXELS,
    open_browser: bool = True,
    hidden: Collection[int] | None = None,
) -> None:
    """Serves the page on this machine until Ctrl-C.

    Args:
      segmenter: a `Segmenter` with labels.
      title: headline of the page, such as the workdir.
      port: of 127.0.0.1; 0 takes a free one.
      max_pixels: images of more are refused.
      open_browser: also open the page in the user's browser.
      hidden: see `make_app`.

    Raises:
      OSError: the port cannot be had.
      ValueError: the segmenter has no labels.
    """
    server = make_server(
        make_app(segmenter, title, max_pixels=max_pixels, hidden=hidden), port
    )
    # Traces it, which the time of the first image would hold otherwise.
    segmenter.predict(np.zeros([MIN_IMAGE_SIZE, MIN_IMAGE_SIZE, 3], np.uint8))
    url = f"http://{HOST}:{server.port}/"
    print(f"{title} is at {url} until Ctrl-C.", flush=True)
    if open_browser:
        # In a thread: a browser in the terminal would keep the server from starting.
        threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
    server.serve_forever()


def make_app(
    segmenter,
    title: str,
    max_upload_bytes: int = 32 * 2**20,
    max_pixels: int = MAX_PIXELS,
    hidden: Collection[int] | None = None,
):
    """Builds the Flask application of the page.

    `GET /` is the page. `POST /segment` takes an image as the body or as the file
    "image" of a form, and answers as `describe` does, with `milliseconds` each step
    took; where it refuses, with the status and {"error": sentence}.

    Args:
      segmenter: `predict(image)` gives uint8 [height, width]; `labels` has names and
        colours, as a `Segmenter` of a run or of an exported model has.
      title: headline of the page.
      max_upload_bytes: larger uploads are refused (413).
      max_pixels: images of more pixels are refused (422) by what their header says.
        Such an image costs about 6 GB with a MobileNetV2 and 11 classes, more with
        larger networks; a segmenter with a `window` needs less.
      hidden: class ids that are left clear until asked for; None is the background,
        where one of the names says so.

    Returns:
      A `flask.Flask`.

    Raises:
      ValueError: the segmenter has no labels.
    """
    import flask

    if segmenter.labels is None:
        raise ValueError(
            "The page names the classes, and this segmenter has no labels. Make it by "
            "from_workdir or from_saved_model, or give it labels=Labels(...)."
        )
    if hidden is None:
        hidden = hidden_classes(segmenter.labels.class_names)
    files = os.path.join(os.path.dirname(__file__), "page_files")
    app = flask.Flask(
        __name__,
        template_folder=files,
        static_folder=os.path.join(files, "static"),
        static_url_path="/static",
    )
    app.config["MAX_CONTENT_LENGTH"] = max_upload_bytes
    _guard(app)
    one_at_a_time = threading.Lock()  # the memory is for one image

    @app.get("/")
    def page():
        return flask.render_template(
            "page.html",
            title=title,
            max_upload_bytes=max_upload_bytes,
            max_upload=_mebibytes(max_upload_bytes),
            megapixels=f"{max_pixels / 1e6:g}",
            min_side=MIN_IMAGE_SIZE,
        )

    @app.post("/segment")
    def segment():
        image_bytes = _uploaded_bytes(flask.request)
        watch = _Stopwatch()
        with one_at_a_time:
            watch.lap("waiting")
            if has_left(flask.request.environ):
                flask.abort(408, "Nobody waits for the answer any more.")
            try:
                image = _decoded(image_bytes, max_pixels)
                watch.lap("decode")
                classes = segmenter.predict(image)
                watch.lap("network")
            except (tf.errors.ResourceExhaustedError, MemoryError):
                flask.abort(503, "This machine's memory is too small for the image.")
            answer = describe(image, classes, segmenter.labels, hidden)
            watch.lap("encode")
        return {**answer, "milliseconds": watch.milliseconds}

    return app


def _guard(app) -> None:
    """Refuses other hosts and origins, sets headers, makes errors JSON."""
    import flask
    from werkzeug.exceptions import HTTPException

    app.config["TRUSTED_HOSTS"] = [HOST, "localhost"]
    most = _mebibytes(app.config["MAX_CONTENT_LENGTH"])
    sentences = {
        413: f"At most {most} are taken, this file has more.",
        500: "The server failed on this image. Its terminal says why.",
    }

    @app.before_request
    def refuse_other_origins():
        # Browsers name the origin of every post; programs such as curl name none.
        origin = flask.request.headers.get("Origin")
        ours = f"http://{flask.request.host}"
        if flask.request.method == "POST" and origin not in (None, ours):
            flask.abort(403, "Images are taken from this server's own page alone.")

    @app.after_request
    def add_headers(response):
        response.headers.update(_HEADERS)
        return response

    @app.errorhandler(HTTPException)
    def answer_error(error):
        sentence = sentences.get(error.code, error.description)
        return {"error": sentence}, error.code


def describe(
    image: np.ndarray, classes: np.ndarray, labels, hidden: Collection[int] = ()
) -> dict:
    """Says for the page what was found in an image.

    Args:
      image: RGB uint8 [height, width, 3].
      classes: uint8 [height, width], class ids.
      labels: a `Labels`.
      hidden: class ids that are left clear until asked for.

    Returns:
      Values for JSON. width, height; legend: of the classes present, by share, dicts
      of id, name, color (RGB in 0..255), pixels, share (0..1) and hidden. In base64:
      image_jpeg, the image as it was segmented; classes_png, the ids as a PNG whose
      palette is the colormap; class_ids, the ids row by row, packed by zlib (a browser
      may disturb the pixels that it lets scripts read out of a PNG).

    Raises:
      ValueError: an id without a colour.
    """
    # Colours at full size too: JPEG's default halves their width and height.
    jpeg = {"quality": _JPEG_QUALITY, "subsampling": 0}
    ids = palette_picture(classes, labels.colormap, labels.ignore_label)
    return {
        "width": classes.shape[1],
        "height": classes.shape[0],
        "legend": _legend(classes, labels, hidden),
        "image_jpeg": _base64(_encoded(Image.fromarray(image), "JPEG", **jpeg)),
        "classes_png": _base64(_encoded(ids, "PNG")),
        "class_ids": _base64(zlib.compress(classes.tobytes(), 1)),
    }


def _legend(classes, labels, hidden) -> list[dict]:
    pixels = class_counts(classes)
    present = sorted(np.flatnonzero(pixels).tolist(), key=lambda i: (-pixels[i], i))
    return [
        {
            "id": i,
            "name": labels.class_names[i],
            "color": list(map(int, labels.colormap[i])),
            "pixels": int(pixels[i]),
            "share": float(pixels[i] / classes.size),
            "hidden": i in hidden,
        }
        for i in present
    ]


def _encoded(picture: Image.Image, format_: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, format_, **options)
    return file.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _uploaded_bytes(request) -> bytes:
    import flask
    from werkzeug.exceptions import ClientDisconnected

    try:
        return _read_upload(request)
    except (OSError, ClientDisconnected):
        flask.abort(408, "The upload did not arrive whole, or not in time.")


def _read_upload(request) -> bytes:
    import flask

    # Werkzeug would cut what has no length at the limit, and not say so; other words
    # than a number are no length to it either.
    if not re.fullmatch("[0-9]{1,18}", request.headers.get("Content-Length", "")):
        flask.abort(411, "An upload must say its length, as a number of bytes.")
    if request.mimetype != "multipart/form-data":
        return request.get_data()
    if "image" not in request.files:
        flask.abort(422, "The form has no file named image.")
    return request.files["image"].read()


def _decoded(image_bytes: bytes, max_pixels: int) -> np.ndarray:
    """Decodes an upload, or answers the request with what is wrong with it."""
    import flask

    try:
        image = read_image(image_bytes, MIN_IMAGE_SIZE, max_pixels)
    except ValueError as error:
        unknown = isinstance(error.__cause__, UnidentifiedImageError)
        flask.abort(415 if unknown else 422, _sentence(str(error)))
    height, width = image.shape[:2]
    if max(height, width) > MAX_SIDE:
        flask.abort(
            422,
            f"No side may have more than {MAX_SIDE} pixels, this image is "
            f"{height}x{width} (height x width).",
        )
    return image


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:g} MiB"


class _Stopwatch:
    """Milliseconds of one step after the other, by name."""

    def __init__(self):
        self.milliseconds = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.milliseconds[name] = round(1000 * (now - self._last), 2)
        self._last = now
