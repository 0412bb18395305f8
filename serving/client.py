"""Asks TF Serving for the classes of images, over REST or gRPC.

    python serving/client.py --url=http://127.0.0.1:8501 --input='photos/*.jpg' \\
        --output=out --concurrency=4
    python serving/client.py --url=grpc://127.0.0.1:8500 --input=photos --output=out

In Python:
    client = Client("http://127.0.0.1:8501")
    classes = client.segment("photo.jpg")          # uint8 [height, width]
    for path, classes in client.segment_many(paths):
        ...                                        # or a ServingError

One file, to be copied to where it is needed. REST needs the standard library alone;
numpy and Pillow where classes are wanted as an array, Pillow for `upright`, grpcio and
tensorflow-serving-api for grpc:// addresses.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import email.utils
import glob
import http.client
import io
import itertools
import json
import os
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse
import uuid
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

# What deeplab_tf's exports are asked for classes: signature, its input and output.
SIGNATURE, INPUT, OUTPUT = "serving_default", "image_bytes", "classes_png_bytes"
# And for what they tell of themselves.
METADATA, KEYS, VALUES = "metadata", "keys", "values"
METADATA_KEYS = ("class_names", "colormap", "ignore_label", "max_pixels", "model")
SUFFIXES = (".jfif", ".jpe", ".jpeg", ".jpg", ".png")
IGNORE_COLOR = (224, 224, 192)  # as deeplab_tf paints void
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds between tries
_RETRIED_HTTP = (429, 503)
_LONGEST_TIMEOUT = 10**6  # seconds; what sockets take ends somewhere above
_MAX_MESSAGE_BYTES = 2**25  # the classes of 16 megapixels, if nothing could be packed
_MAX_ANSWER_BYTES = 2**26  # the same in base64
_MAX_PIXELS = 2**27  # of a class map that is decoded
_MAX_WORDS = 2000  # of what a server says
_MOST_FAILURES = 10  # that are listed
_EXIF_ORIENTATION = 274


class ServingError(Exception):
    """A request that was not answered, in one sentence.

    Attributes:
      image: name of the image; None if it was about none.
      code: HTTP status (int), name of a gRPC status, or None if no server answered.
    """

    def __init__(self, words: str, code: int | str | None = None, image=None):
        super().__init__(f"{image}: {words}" if image else words)
        self.words, self.code, self.image = words, code, image


class _TryAgain(Exception):
    """What may be otherwise a moment later.

    Attributes:
      error: to raise if it is not.
      after: seconds that the server asks to wait.
    """

    def __init__(self, error: ServingError, after: float = 0):
        super().__init__(str(error))
        self.error, self.after = error, after


class Client:
    """A model behind TF Serving. Several threads may use it at once.

    Args:
      url: http://host:port, https://host/prefix or grpc://host:port.
      model: name of the model.
      version: its number, the label that models.config gives it ("stable"), or None
        for the highest.
      timeout: seconds that a request may take, all its tries together.
      retries: further tries where a try cannot have failed for the request itself: no
        connection or a lost one, HTTP 429 and 503, gRPC UNAVAILABLE. A prediction
        changes nothing, so asking twice is safe.
      upright: turn images as their EXIF orientation says, which the server does not
        read. Such an image is sent as PNG; all others are sent as they are.

    Raises:
      ValueError: the address is none of these, or a number is out of bounds.
      ImportError: a package that gRPC or `upright` needs is not installed.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8501",
        model: str = "deeplab",
        version: int | str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        upright: bool = False,
    ):
        if not 0 < timeout < _LONGEST_TIMEOUT or retries < 0:
            raise ValueError(
                "Expected a timeout above 0 and 0 or more retries. "
                f"Received: {timeout} and {retries}"
            )
        address = urllib.parse.urlsplit(url)
        if address.scheme not in _TRANSPORTS or not address.hostname:
            raise ValueError(
                "Expected an address like http://127.0.0.1:8501 or "
                f"grpc://127.0.0.1:8500. Received: {url}"
            )
        if upright:
            import PIL.Image  # noqa: F401
        self.url, self.timeout, self.retries = url, timeout, retries
        self._upright = upright
        self._transport = _TRANSPORTS[address.scheme](address, model, version)

    def segment(self, image: str | os.PathLike | bytes):
        """Asks for the classes of one image.

        Args:
          image: path of a JPEG or PNG file, or its content.

        Returns:
          uint8 numpy array [height, width] of class ids.

        Raises:
          ServingError: no answer, or a refusal; the image is named.
        """
        png = self.segment_png(image)
        try:
            return _decoded(png)
        except ServingError as error:
            name = None if isinstance(image, (bytes, bytearray)) else os.fspath(image)
            raise ServingError(error.words, error.code, name) from error

    def segment_png(self, image: str | os.PathLike | bytes) -> bytes:
        """As `segment`, as the single-channel PNG that the server answers with."""
        if not isinstance(image, (str, os.PathLike, bytes, bytearray)):
            raise ServingError(
                "Expected the path of a JPEG or PNG file, or its content as bytes. "
                f"Received: {type(image).__name__}. Encode an array first, such as by "
                "PIL.Image.fromarray(array).save(file, 'PNG')."
            )
        name = None if isinstance(image, (bytes, bytearray)) else os.fspath(image)
        try:
            data = bytes(image) if name is None else _read(name)
            data = turned_upright(data) if self._upright else data
            (png,) = self._predict(SIGNATURE, INPUT, [data], OUTPUT)
        except ServingError as error:
            raise ServingError(error.words, error.code, name) from error
        return png

    def segment_many(
        self, images: Sequence[str | os.PathLike], concurrency: int = 4
    ) -> Iterator[tuple[Any, Any]]:
        """Asks for the classes of several images, a few at once.

        Args:
          images: paths.
          concurrency: requests under way at once. Twice as many answers are in memory
            at most, if the caller is slow.

        Yields:
          (path, classes or the ServingError of this image), in the order given.
        """
        return _map_ordered(self.segment, images, concurrency)

    def metadata(self) -> dict:
        """Asks what the model tells of itself.

        Returns:
          {"class_names": [...], "colormap": [[r, g, b], ...], "ignore_label": int,
          "max_pixels": int, "model": {...}}.

        Raises:
          ServingError: no answer.
        """
        keys = [key.encode() for key in METADATA_KEYS]
        values = self._predict(METADATA, KEYS, keys, VALUES)
        try:
            return dict(zip(METADATA_KEYS, map(json.loads, values)))
        except (ValueError, RecursionError) as error:
            raise ServingError("The model's metadata are no JSON.") from error

    def status(self) -> list[dict]:
        """Asks for the state of the model's versions.

        Returns:
          {"version": int, "state": "AVAILABLE" and others, "error": str} of each.

        Raises:
          ServingError: no answer, or the server does not know the model.
        """
        return self._tried(self._transport.status, self.retries)

    def ready(self) -> bool:
        """Whether the model answers now: one try, no exception."""
        try:
            versions = self._tried(self._transport.status, retries=0)
        except ServingError:
            return False
        return any(version["state"] == "AVAILABLE" for version in versions)

    def close(self) -> None:
        """Closes what connections are open."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _predict(
        self, signature: str, name: str, values: list[bytes], output: str
    ) -> list[bytes]:
        def ask(seconds):
            return self._transport.predict(signature, name, values, output, seconds)

        answer = self._tried(ask, self.retries)
        if len(answer) != len(values):
            raise ServingError(
                f"The server gave {len(answer)} answers to {len(values)} values."
            )
        return answer

    def _tried(self, ask: Callable[[float], Any], retries: int):
        """ask(seconds left), again where that may help and there is time."""
        deadline = time.monotonic() + self.timeout
        for attempt in itertools.count():
            try:
                return ask(max(1e-3, deadline - time.monotonic()))
            except _TryAgain as failure:
                # Of a crowd that was refused together not all come back together.
                wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT)
                wait = max(failure.after, wait * random.uniform(0.5, 1))
                if attempt == retries or time.monotonic() + wait >= deadline:
                    tries = f" Tried {attempt + 1} times." if attempt else ""
                    error = failure.error
                    raise ServingError(error.words + tries, error.code) from failure
                time.sleep(wait)


class _Rest:
    """TF Serving's REST interface."""

    def __init__(self, address, model: str, version: int | str | None):
        self.address = address
        self.secure = address.scheme == "https"
        self.port = address.port or (443 if self.secure else 80)
        self.where = f"{address.scheme}://{address.netloc}"
        self.path = f"{address.path.rstrip('/')}/v1/models/{_quoted(model)}"
        if version is not None:
            kind = "versions" if isinstance(version, int) else "labels"
            self.path += f"/{kind}/{_quoted(version)}"

    def predict(self, signature, name, values, output, seconds) -> list[bytes]:
        named_bytes = name.endswith("_bytes")
        column = [_base64(v) if named_bytes else v.decode() for v in values]
        body = {"signature_name": signature, "inputs": {name: column}}

        def read(answer):
            # Of a signature with one output its values alone come back.
            outputs = answer["outputs"]
            values = outputs[output] if isinstance(outputs, dict) else outputs
            return [
                base64.b64decode(v["b64"]) if isinstance(v, dict) else v.encode()
                for v in values
            ]

        return self._ask("POST", f"{self.path}:predict", body, read, seconds)

    def status(self, seconds) -> list[dict]:
        def read(answer):
            return [
                {
                    "version": int(version["version"]),
                    "state": version["state"],
                    "error": version["status"].get("error_message", ""),
                }
                for version in answer["model_version_status"]
            ]

        return self._ask("GET", self.path, None, read, seconds)

    def close(self) -> None:
        """Each request has a connection of its own."""

    def _ask(self, method: str, path: str, body, read, seconds: float):
        """Gives read(JSON of the answer)."""
        expired = threading.Event()
        try:
            status, headers, text = self._exchange(method, path, body, seconds, expired)
        except (OSError, http.client.HTTPException) as error:
            if expired.is_set() or isinstance(error, TimeoutError):
                raise self._error(f"did not answer within {seconds:.3g} s") from error
            words = f"cannot be reached: {_reason(error)}"
            if isinstance(error, _PERMANENT):
                raise self._error(words) from error
            raise _TryAgain(self._error(words)) from error
        if status != 200:
            error = ServingError(_refusal(status, text), status)
            if status in _RETRIED_HTTP:
                raise _TryAgain(error, _seconds(headers.get("Retry-After")))
            raise error
        try:
            return read(json.loads(text))
        except _NO_ANSWER as error:
            raise self._error("does not answer as TF Serving does") from error

    def _exchange(self, method, path, body, seconds, expired):
        """One request -> (status, headers, body)."""
        kind = (
            http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        )
        connection = kind(self.address.hostname, self.port, timeout=seconds)
        deadline = time.monotonic() + seconds
        with contextlib.closing(connection), contextlib.ExitStack() as stack:

            def connect(address, *_):
                connected = _connected(*address, deadline)
                # A socket's timeout is for a single read; a server may dribble, also
                # while it agrees on a key.
                left = deadline - time.monotonic()
                stack.enter_context(_cut(connected, left, expired))
                return connected

            # Python's own would give each address of a name the whole time.
            connection._create_connection = connect
            data = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            text = response.read(_MAX_ANSWER_BYTES + 1)
            if len(text) > _MAX_ANSWER_BYTES:
                raise self._error(f"answers with more than {_MAX_ANSWER_BYTES} bytes")
            if response.length:  # which says how much is still to come
                raise http.client.IncompleteRead(text, response.length)
            return response.status, response.headers, text

    def _error(self, words: str) -> ServingError:
        return ServingError(f"{self.where} {words}.")


_NO_ANSWER = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_PERMANENT = (socket.gaierror, ssl.SSLError, http.client.InvalidURL)


class _Grpc:
    """TF Serving's gRPC interface."""

    def __init__(self, address, model: str, version: int | str | None):
        import grpc
        from tensorflow_serving.apis import (
            get_model_status_pb2,
            model_service_pb2_grpc,
            predict_pb2,
            prediction_service_pb2_grpc,
        )

        self.where = f"grpc://{address.netloc}"
        self.grpc, self.messages, self.states = grpc, predict_pb2, get_model_status_pb2
        options = [
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            # So that a server that comes back is found by the next try.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self.channel = grpc.insecure_channel(address.netloc, options=options)
        service = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.ask_predict = service.Predict
        service = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.ask_status = service.GetModelStatus
        self.model, self.version = model, version

    def predict(self, signature, name, values, output, seconds) -> list[bytes]:
        request = self.messages.PredictRequest()
        self._fill(request.model_spec)
        request.model_spec.signature_name = signature
        # No output_filter: TensorFlow compiles a graph for each set of outputs, and
        # the server has warmed up that of all.
        tensor = request.inputs[name]
        tensor.dtype = 7  # DT_STRING
        tensor.tensor_shape.dim.add(size=len(values))
        tensor.string_val.extend(values)
        response = self._ask(self.ask_predict, request, seconds)
        return list(response.outputs[output].string_val)

    def status(self, seconds) -> list[dict]:
        request = self.states.GetModelStatusRequest()
        self._fill(request.model_spec)
        name = self.states.ModelVersionStatus.State.Name
        return [
            {
                "version": version.version,
                "state": name(version.state),
                "error": version.status.error_message,
            }
            for version in self._ask(
                self.ask_status, request, seconds
            ).model_version_status
        ]

    def close(self) -> None:
        self.channel.close()

    def _fill(self, spec) -> None:
        spec.name = self.model
        if isinstance(self.version, int):
            spec.version.value = self.version
        elif self.version is not None:
            spec.version_label = self.version

    def _ask(self, call, request, seconds: float):
        try:
            return call(request, timeout=seconds)
        except self.grpc.RpcError as failure:
            code, words = failure.code(), _sentence(failure.details() or "")
            if code == self.grpc.StatusCode.DEADLINE_EXCEEDED:
                words = f"{self.where} did not answer within {seconds:.3g} s."
            if code == self.grpc.StatusCode.UNAVAILABLE:
                words = f"{self.where} cannot be reached: {words}"
                raise _TryAgain(ServingError(words, code.name)) from failure
            raise ServingError(words or code.name, code.name) from failure


_TRANSPORTS = {"http": _Rest, "https": _Rest, "grpc": _Grpc}


def _connected(host: str, port: int, deadline: float) -> socket.socket:
    """Connects to the first address of a host that answers, until the deadline.

    Raises:
      OSError: none does; TimeoutError where the time is over.
    """
    failure = None
    for family, kind, protocol, _, address in _addresses(host, port, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        candidate = socket.socket(family, kind, protocol)
        try:
            candidate.settimeout(left)
            candidate.connect(address)
            return candidate
        except OSError as error:
            candidate.close()
            failure = error
    raise failure or TimeoutError("timed out")


def _addresses(host: str, port: int, deadline: float) -> list:
    """socket.getaddrinfo, which knows no timeout, until the deadline."""
    found = []

    def look_up():
        try:
            found.append(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(max(0, deadline - time.monotonic()))
    if not found:
        raise TimeoutError("timed out")
    if isinstance(found[0], UnicodeError):
        raise socket.gaierror(f"{host[:80]} is no name of a host")
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


@contextlib.contextmanager
def _cut(connected: socket.socket, seconds: float, expired: threading.Event):
    """Ends a connection when its time is over, whatever it waits for."""
    # The same connection by another handle: TLS takes the first one over.
    same = connected.dup()

    def end():
        expired.set()
        with contextlib.suppress(OSError):
            same.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0, seconds), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        same.close()


def _quoted(name) -> str:
    return urllib.parse.quote(str(name), safe="")


def _base64(data: bytes) -> dict:
    return {"b64": base64.b64encode(data).decode("ascii")}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _refusal(status: int, text: bytes) -> str:
    """The sentence in the answer of a server that refused, or of a proxy before it."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return _sentence(json.loads(text)["error"])
    return f"HTTP {status} {http.client.responses.get(status, '')}.".replace(" .", ".")


def _sentence(words: str) -> str:
    """What a graph says, without the names of its operations."""
    words = words[:_MAX_WORDS]
    _, found, asserted = words.partition("assertion failed: [")
    if found:
        end = re.search(r"\][ \t\n]{0,9}(?:\[\[|$)", asserted)
        words = asserted[: end.start()] if end else asserted
    else:
        words = words.partition("\n")[0]
    return re.sub(r"\{\{[^{}]*\}\}\s*", "", words).strip()


def _decoded(png: bytes):
    """Returns a class map, uint8 [height, width].

    Raises:
      ServingError: it is none.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.mode not in ("L", "P") or image.width * image.height > _MAX_PIXELS:
                raise ValueError("another kind of image")
            return np.asarray(image)
    except Exception as error:  # of nearly any class, for a damaged file
        raise ServingError(_NO_CLASSES) from error


_NO_CLASSES = "The server did not answer with a PNG of 8-bit class ids."


def _seconds(retry_after: str | None) -> float:
    """Retry-After, seconds or a date -> seconds from now."""
    if not retry_after:
        return 0.0
    with contextlib.suppress(ValueError):
        return max(0.0, float(retry_after))
    with contextlib.suppress(ValueError, TypeError):
        date = email.utils.parsedate_to_datetime(retry_after)
        return max(0.0, date.timestamp() - time.time())
    return 0.0


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ServingError(f"cannot be read: {_reason(error)}.") from error


def turned_upright(data: bytes) -> bytes:
    """Turns an image if its EXIF orientation asks for it; otherwise gives it back."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as image:
            # A PNG's own `getexif` would decode the whole image.
            orientation = Image.Image.getexif(image).get(_EXIF_ORIENTATION, 1)
            if orientation not in range(2, 9):
                return data
            file = io.BytesIO()
            ImageOps.exif_transpose(image).convert("RGB").save(file, "PNG")
            return file.getvalue()
    except Exception:
        return data  # the server says what is wrong with it


def _map_ordered(function, items: Sequence, concurrency: int) -> Iterator[tuple]:
    """Yields (item, function(item) or its ServingError) in order."""
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1. Received: {concurrency}")

    def run(item):
        try:
            return function(item)
        except ServingError as error:
            return error

    def results():
        items_left, pending = iter(items), collections.deque()
        with ThreadPoolExecutor(concurrency) as pool:
            try:
                while True:
                    for item in items_left:
                        pending.append((item, pool.submit(run, item)))
                        if len(pending) == 2 * concurrency:
                            break
                    if not pending:
                        return
                    item, future = pending.popleft()
                    yield item, future.result()
            finally:
                for _, future in pending:
                    future.cancel()

    return results()


def with_palette(png: bytes, colormap: Sequence, ignore_label: int) -> bytes:
    """Gives a PNG of class ids colours, which viewers show; the ids stay.

    Args:
      png: single-channel, 8 bits.
      colormap: RGB triples in 0..255, one per class.
      ignore_label: shown in `IGNORE_COLOR`.

    Raises:
      ServingError: it is another PNG, or none.
    """
    palette = bytearray(3 * 256)
    for index, color in [*enumerate(colormap[:256]), (ignore_label, IGNORE_COLOR)]:
        palette[3 * index : 3 * index + 3] = bytes(color)
    if png[12:16] != b"IHDR" or png[24:26] != b"\x08\x00":
        raise ServingError(_NO_CLASSES)
    header = png[16:24] + b"\x08\x03" + png[26:29]
    return png[:8] + _chunk(b"IHDR", header) + _chunk(b"PLTE", palette) + png[33:]


def checked_colors(known: dict) -> tuple[list, int]:
    """Returns colormap and ignore label of what `Client.metadata` gave.

    Raises:
      ServingError: they are not what an export has.
    """
    colormap, ignore_label = known["colormap"], known["ignore_label"]
    numbers = [ignore_label]
    if isinstance(colormap, list) and 0 < len(colormap) <= 256:
        for color in colormap:
            numbers += color if isinstance(color, list) and len(color) == 3 else [None]
    if len(numbers) == 1 or not all(
        type(number) is int and 0 <= number <= 255 for number in numbers
    ):
        raise ServingError(
            "The model's colours are not those of an export: expected up to 256 "
            "[red, green, blue] in 0..255, and an ignore label."
        )
    return colormap, ignore_label


def _chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def find_images(pattern: str, recursive: bool = False) -> list[str]:
    """Paths of a file, of a folder's JPEGs and PNGs, or of a pattern.

    Args:
      pattern: a file, a folder or a pattern.
      recursive: also of folders inside the folder, but not through links.

    Raises:
      ValueError: there are none.
    """
    if os.path.isdir(pattern):
        inside = os.walk(pattern) if recursive else [next(os.walk(pattern))]
        paths = sorted(
            os.path.join(folder, name)
            for folder, _, names in inside
            for name in names
            if _is_image(name)
        )
    else:
        found = glob.glob(pattern, recursive=recursive)
        paths = [pattern] if os.path.isfile(pattern) else sorted(found)
    if not paths:
        raise ValueError(
            f"{pattern} matches no images. Give a file, a folder of JPEGs and PNGs, or "
            "a pattern in quotes."
        )
    return paths


def _is_image(name: str) -> bool:
    """By its ending; ._x.jpg is what macOS knows of x.jpg."""
    return name.lower().endswith(SUFFIXES) and not name.startswith("._")


def output_paths(
    paths: Sequence[str], folder: str, keep_folders: bool = False
) -> list[str]:
    """NAME.png of NAME.jpg; where two would be the same, NAME.jpg.png of each.

    Where those are the same too, or folders are to be kept, NAME has the folders below
    the one that all images lie in.

    Raises:
      ValueError: an output would replace an image, or an image is named twice.
    """
    names = _without_endings([os.path.basename(path) for path in paths])
    if keep_folders or _has_doubles(names):
        common = os.path.commonpath(
            [os.path.dirname(os.path.abspath(path)) for path in paths]
        )
        names = _without_endings([os.path.relpath(path, common) for path in paths])
    if _has_doubles(names):
        raise ValueError("Two images have the same name. Ask for them one by one.")
    outputs = [os.path.join(folder, f"{name}.png") for name in names]
    inputs = {os.path.realpath(path) for path in paths}
    for output in outputs:
        if os.path.realpath(output) in inputs:
            raise ValueError(f"{output} is an image of --input. Give another --output.")
    return outputs


def _without_endings(names: Sequence[str]) -> list[str]:
    """x of x.jpg, unless there is an x.png too."""
    stems = [os.path.splitext(name)[0] for name in names]
    # Some file systems take A.png and a.png for one.
    counts = collections.Counter(stem.lower() for stem in stems)
    counts.update(name.lower() for name in names)
    return [
        stem if counts[stem.lower()] == 1 else name for stem, name in zip(stems, names)
    ]


def _has_doubles(names: Sequence[str]) -> bool:
    return len({name.lower() for name in names}) < len(names)


def _write(path: str, data: bytes) -> None:
    """The file is there whole or not at all."""
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def run(
    client: Client,
    pattern: str,
    folder: str,
    concurrency: int,
    recursive: bool = False,
) -> list[str]:
    """Writes the classes of images.

    Returns:
      One sentence for each image that failed.

    Raises:
      ServingError: the server does not tell the model's colours.
      ValueError: no images, or outputs that would replace something.
      OSError: an output cannot be written.
    """
    paths = find_images(pattern, recursive)
    outputs = dict(zip(paths, output_paths(paths, folder, recursive)))
    colors = checked_colors(client.metadata())
    os.makedirs(folder, exist_ok=True)
    failures = []
    for path, png in _map_ordered(client.segment_png, paths, concurrency):
        try:
            if isinstance(png, ServingError):
                raise png
            content = with_palette(png, *colors)
        except ServingError as error:
            failures.append(str(ServingError(error.words, error.code, path)))
        else:
            _write(outputs[path], content)
    print(f"{len(paths) - len(failures)} of {len(paths)} images: {folder}")
    return failures


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Classes of images from TF Serving.")
    parser.add_argument("--url", default="http://127.0.0.1:8501")
    parser.add_argument("--model", default="deeplab")
    parser.add_argument("--version", help="number or label of the model's version")
    parser.add_argument("--input", required=True, help="file, folder or pattern")
    parser.add_argument("--output", required=True, help="folder of class PNGs")
    parser.add_argument("--concurrency", type=int, default=4, help="requests at once")
    parser.add_argument("--timeout", type=float, default=30, help="seconds an image")
    parser.add_argument("--retries", type=int, default=3)
    parser.add_argument(
        "--recursive", action="store_true", help="also folders inside the folder"
    )
    parser.add_argument("--upright", action="store_true", help="heed EXIF orientation")
    flags = parser.parse_args(argv)
    version = flags.version
    if version and version.isdecimal():
        version = int(version)
    try:
        with Client(
            flags.url, flags.model, version, flags.timeout, flags.retries, flags.upright
        ) as client:
            failures = run(
                *(client, flags.input, flags.output, flags.concurrency),
                flags.recursive,
            )
    except (ServingError, ValueError, OSError, ImportError) as error:
        sys.exit(f"client.py: {error}")
    if failures:
        more = len(failures) - _MOST_FAILURES
        rest = [f"... and {more} more."] if more > 0 else []
        sys.exit("\n".join([*failures[:_MOST_FAILURES], *rest]))


if __name__ == "__main__":
    main()
