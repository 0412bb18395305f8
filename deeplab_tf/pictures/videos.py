"""Videos in and out: by OpenCV where it is installed, else by the ffmpeg program.

Either turns frames upright as the file asks, writes MP4 and leaves sound out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import numpy as np

EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


@dataclasses.dataclass(frozen=True)
class Video:
    """A video that is open for reading.

    Attributes:
      frames: uint8 RGB [height, width, 3] each; read once.
      frames_per_second: positive.
      num_frames: as far as the file tells; None where it does not.
    """

    frames: Iterator[np.ndarray]
    frames_per_second: float
    num_frames: int | None


@contextlib.contextmanager
def open_video(path: str, backend: str | None = None) -> Iterator[Video]:
    """Opens a video file.

    Args:
      path: the file.
      backend: "opencv" or "ffmpeg"; None takes the first that is installed.

    Raises:
      ValueError: not a video, or neither OpenCV nor ffmpeg is installed.
    """
    reader = {"opencv": _opencv_reader, "ffmpeg": _ffmpeg_reader}
    with reader[backend or find_backend()](path) as video:
        yield video


@contextlib.contextmanager
def create_video(
    path: str, frames_per_second: float, backend: str | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes an MP4, which is at `path` whole or not at all.

    Args:
      path: of the file; its folder must be there.
      frames_per_second: positive.
      backend: see `open_video`.

    Yields:
      Function that adds a frame, uint8 RGB [height, width, 3], all of one size. Of an
      odd side the last pixels are left out: the codecs take even ones.

    Raises:
      ValueError: neither OpenCV nor ffmpeg is installed.
      OSError: it cannot be written.
    """
    writer = {"opencv": _OpenCVWriter, "ffmpeg": _FFmpegWriter}[
        backend or find_backend()
    ]
    temporary = f"{path}.tmp.mp4"
    video = None

    def write(frame: np.ndarray) -> None:
        nonlocal video
        height, width = (side // 2 * 2 for side in frame.shape[:2])
        if video is None:
            video = writer(temporary, frames_per_second, (width, height))
        video.write(np.ascontiguousarray(frame[:height, :width]))

    try:
        try:
            yield write
        finally:
            if video is not None:
                video.close()
        if not (os.path.isfile(temporary) and os.path.getsize(temporary)):
            raise OSError(f"{path} cannot be written")
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def find_backend() -> str:
    """Returns "opencv" or "ffmpeg".

    Raises:
      ValueError: neither is installed.
    """
    if importlib.util.find_spec("cv2"):
        return "opencv"
    if shutil.which("ffmpeg"):
        return "ffmpeg"
    raise ValueError(
        "a video needs OpenCV (pip install opencv-python-headless) or the ffmpeg "
        "program, and neither is installed"
    )


# --- By OpenCV -----------------------------------------------------------------------


def _import_opencv():
    # Its codecs would write to the terminal what our sentences say.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    import cv2

    return cv2


@contextlib.contextmanager
def _opencv_reader(path: str) -> Iterator[Video]:
    cv2 = _import_opencv()
    capture = cv2.VideoCapture(path)

    def frames():
        while True:
            found, frame = capture.read()
            if not found:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    try:
        rate = capture.get(cv2.CAP_PROP_FPS)
        if not capture.isOpened() or not rate > 0:
            raise ValueError("not a video that OpenCV can read, or a damaged one")
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        yield Video(frames(), rate, count if count > 0 else None)
    finally:
        capture.release()


class _OpenCVWriter:
    def __init__(self, path: str, frames_per_second: float, size: tuple[int, int]):
        self._cv2 = _import_opencv()
        code = self._cv2.VideoWriter_fourcc(*"mp4v")
        self._writer = self._cv2.VideoWriter(path, code, frames_per_second, size)

    def write(self, frame: np.ndarray) -> None:
        self._writer.write(self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()


# --- By ffmpeg -----------------------------------------------------------------------

_FFMPEG = ("ffmpeg", "-nostdin", "-v", "error")


@contextlib.contextmanager
def _ffmpeg_reader(path: str) -> Iterator[Video]:
    width, height, rate = _ffmpeg_header(path)
    command = [*_FFMPEG, "-i", f"file:{path}"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )

    def frames():
        size = height * width * 3
        while len(data := process.stdout.read(size)) == size:
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)

    try:
        yield Video(frames(), rate, None)
    finally:
        process.stdout.close()
        process.kill()
        process.wait()


def _ffmpeg_header(path: str) -> tuple[int, int, float]:
    """Asks for width, height and frames per second, upright.

    The header of a YUV4MPEG2 stream has them (`YUV4MPEG2 W640 H480 F30:1 ...`), so
    that ffprobe, which is not always installed, is not needed.
    """
    command = [*_FFMPEG, "-i", f"file:{path}", "-frames:v", "1"]
    command += ["-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    words = done.stdout.partition(b"\n")[0].decode("ascii", "replace").split()
    if not words or words[0] != "YUV4MPEG2":
        raise ValueError("not a video that ffmpeg can read, or a damaged one")
    values = {word[0]: word[1:] for word in words[1:]}
    numerator, denominator = map(int, values["F"].split(":"))
    return int(values["W"]), int(values["H"]), numerator / denominator


class _FFmpegWriter:
    def __init__(self, path: str, frames_per_second: float, size: tuple[int, int]):
        width, height = size
        command = [*_FFMPEG, "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", str(frames_per_second)]
        command += ["-i", "-", "-pix_fmt", "yuv420p", f"file:{path}"]
        # A file, as a pipe that nobody reads would stop ffmpeg when it is full.
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=self._errors
        )

    def write(self, frame: np.ndarray) -> None:
        with contextlib.suppress(BrokenPipeError):  # `close` says why
            self._process.stdin.write(frame)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        failed = self._process.wait()
        with self._errors as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").strip().splitlines()
        if failed:
            raise OSError(f"ffmpeg cannot write the video: {(lines or ['?'])[-1]}")
