"""One image or video in, class maps, overlays and probabilities as files out."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from deeplab_tf.files import atomic_write, sole_writer_in
from deeplab_tf.inference.padding import describe_outgrown
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.labels import Labels, hidden_classes
from deeplab_tf.networks.models import MIN_IMAGE_SIZE
from deeplab_tf.pictures import videos, visualize
from deeplab_tf.pictures.images import MAX_PIXELS, read_image
from deeplab_tf.prediction.input_files import KINDS, is_video, output_names, shown
from deeplab_tf.prediction.submissions import SUBMISSIONS
from deeplab_tf.strangers_words import table_cell

# Larger images are predicted in windows, and their overlays are drawn reduced.
LARGE_PIXELS = 16_000_000
LARGE_WINDOW = 513
SHARES_FILE = "shares.csv"


@dataclasses.dataclass(frozen=True)
class Output:
    """What is written, and where.

    Attributes:
      folder: made where needed.
      save: some of `KINDS`.
      alpha: opacity of the overlay.
      submission: key of `SUBMISSIONS`, or None.
      max_pixels: images of more are refused.
      hide: names of the classes that overlays leave clear; None is the background.
    """

    folder: str
    save: tuple[str, ...] = ("classes", "overlay")
    alpha: float = 0.5
    submission: str | None = None
    max_pixels: int = MAX_PIXELS
    hide: tuple[str, ...] | None = None

    def __post_init__(self):
        unknown = set(self.save) - set(KINDS)
        if unknown:
            raise ValueError(
                f"--save takes {', '.join(KINDS)}. Received: {', '.join(unknown)}"
            )

    def paths(self, name: str, path: str) -> dict[str, str]:
        """Returns {kind: path} of what is written for the input `path`.

        Args:
          name: of `output_names`.
          path: the input.
        """
        extensions = KINDS
        if is_video(path):
            extensions = {**KINDS, "classes": "", "overlay": ".mp4"}
        paths = {
            kind: os.path.join(self.folder, kind, name + extensions[kind])
            for kind in self.save
        }
        if self.submission:
            submission = SUBMISSIONS[self.submission]
            paths["submission"] = submission.output_path(self.folder, path)
        return paths


def predict_files(
    segmenter: Segmenter, paths: Sequence[str], output: Output
) -> list[str]:
    """Segments images and videos into `output.folder`.

    Predictions of the same classes that are there already stay, with their rows of
    shares.csv, but for those whose files are replaced.

    Args:
      segmenter: the model, with labels.
      paths: of `find_inputs`.
      output: what is asked for.

    Returns:
      One sentence for each input that could not be used; the others are done.

    Raises:
      InUse: another process predicts into the same folder.
      OSError: shares.csv or the archive cannot be written.
      ValueError: an output would overwrite an input, a submission that does not fit, or
        predictions of other classes are there.
    """
    hidden_classes(segmenter.labels.class_names, output.hide)  # names it knows
    if output.submission:
        num_classes = len(segmenter.labels.class_names)
        SUBMISSIONS[output.submission].check(num_classes, paths)
    names = output_names(paths)
    outputs = [output.paths(name, path) for name, path in zip(names, paths)]
    _check_inputs_stay(paths, outputs)
    with sole_writer_in(output.folder, "predictions"):
        before, failures = read_shares(output.folder, segmenter.labels), []
        outgrown = 0
        known = {name.lower() for name in names}
        rows = {k: row for k, row in before.items() if not _is_replaced(k, known)}
        if before:
            print(
                f"{output.folder} holds {len(before)} predictions of before: "
                f"{len(rows)} stay, {len(before) - len(rows)} are replaced."
            )
        try:
            for path, written in zip(tqdm(paths, unit="input", disable=None), outputs):
                predict = predict_video if is_video(path) else predict_image
                try:
                    row = predict(segmenter, path, written, output)
                    rows[row[0]] = row
                    outgrown += _outgrows_padding(segmenter, row[1:3])
                except (tf.errors.ResourceExhaustedError, MemoryError):
                    words = "too large for this machine's memory"
                    failures.append(f"{shown(path)}: {words}.")
                except (OSError, ValueError) as error:
                    failures.append(f"{shown(path)}: {_reason(error)}.")
        finally:  # after Ctrl-C too the rows are those of the files
            write_shares(output.folder, rows.values(), segmenter.labels)
    if outgrown:
        print(describe_outgrown(outgrown, segmenter.pad_to))
    return failures


def _outgrows_padding(segmenter: Segmenter, size: Sequence[int]) -> bool:
    is_in_windows = size[0] * size[1] > LARGE_PIXELS
    segmenter = in_windows(segmenter) if is_in_windows else segmenter
    return segmenter.outgrows_padding(size)


def segment(
    segmenter: Segmenter, image: np.ndarray, probabilities: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Segments one image, in windows where it is large.

    Args:
      segmenter: the model.
      image: RGB uint8 [height, width, 3].
      probabilities: whether they are wanted.

    Returns:
      (classes uint8 [height, width], probabilities float32 [height, width,
      num_classes] or None).

    Raises:
      ValueError: a large image together with a CRF or with probabilities.
    """
    if is_large(image):
        unfit = "the dense CRF needs" if segmenter.crf else "probabilities need"
        if segmenter.crf or probabilities:
            raise ValueError(
                f"{_megapixels(image)}, and {unfit} memory for them all; give an "
                f"image of at most {LARGE_PIXELS // 10**6}, or do without"
            )
        segmenter = in_windows(segmenter)
    if not probabilities:
        return segmenter.predict(image), None
    scores = segmenter.probabilities(image[None])[0]
    return scores.argmax(-1).astype(np.uint8), scores


def is_large(image: np.ndarray) -> bool:
    return image.shape[0] * image.shape[1] > LARGE_PIXELS


def in_windows(segmenter: Segmenter) -> Segmenter:
    """Returns a segmenter of the same model that takes large images in windows."""
    return segmenter if segmenter.window else segmenter.with_window(LARGE_WINDOW)


def predict_image(
    segmenter: Segmenter, path: str, paths: dict[str, str], output: Output
) -> list:
    """Segments one image and writes what is asked for.

    Args:
      segmenter: the model, with labels.
      path: the image.
      paths: of `Output.paths`; folders are made.
      output: what is asked for.

    Returns:
      The row of shares.csv.

    Raises:
      OSError: a file that cannot be read or written.
      ValueError: an image that cannot be used.
    """
    labels = segmenter.labels
    image = read_image(path, MIN_IMAGE_SIZE, output.max_pixels)
    if is_large(image):
        tqdm.write(
            f"{shown(path)}: {_megapixels(image)}, predicted in windows of "
            f"{in_windows(segmenter).window} pixels; overlays are drawn smaller."
        )
    classes, scores = segment(segmenter, image, "probabilities" in paths)
    for each in paths.values():
        os.makedirs(os.path.dirname(each), exist_ok=True)
    if "classes" in paths:
        save_classes(paths["classes"], classes, labels)
    if "overlay" in paths:
        small = visualize.shrink(image, classes, LARGE_PIXELS)
        names, ignore = labels.class_names, labels.ignore_label
        picture = visualize.overlay_with_legend(
            *(*small, labels.colormap, names, output.alpha, ignore),
            hidden=hidden_classes(names, output.hide),
        )
        visualize.save_png(paths["overlay"], picture)
    if "probabilities" in paths:
        save_probabilities(paths["probabilities"], scores, labels.class_names)
    if "submission" in paths:
        SUBMISSIONS[output.submission].save(paths["submission"], classes)
    return shares_row(path, classes.shape, visualize.class_counts(classes), labels)


def save_classes(path: str, classes: np.ndarray, labels: Labels) -> None:
    """Writes the class map, uint8 [height, width], as a palette PNG."""
    visualize.save_palette_png(path, classes, labels.colormap, labels.ignore_label)


def save_probabilities(
    path: str, probabilities: np.ndarray, class_names: Sequence[str]
) -> None:
    """Writes a compressed npz: `probabilities` float16 [h, w, classes], `class_names`.

    Raises:
      OSError: it cannot be written.
    """
    with atomic_write(path, "wb") as file:
        np.savez_compressed(
            file,
            probabilities=probabilities.astype(np.float16),
            class_names=np.array(class_names),
        )


def predict_video(
    segmenter: Segmenter, path: str, paths: dict[str, str], output: Output
) -> list:
    """Segments each frame of a video, as `predict_image` an image.

    Class maps are <paths["classes"]>/000000.png, ...; the legend under the frames of
    the overlay names all classes, as frames must not change their size.

    Returns:
      The row of shares.csv, over all frames.

    Raises:
      OSError: it cannot be written.
      ValueError: not a video, or an output that videos have not; or it ends long
        before its end, when the frames until there are written.
    """
    if not set(paths) <= {"classes", "overlay"}:
        raise ValueError("a video, of which only classes and overlay can be saved")
    labels = segmenter.labels
    hidden = hidden_classes(labels.class_names, output.hide)
    counts, num_frames = np.zeros(256, np.int64), 0
    for each in paths.values():
        os.makedirs(os.path.dirname(each), exist_ok=True)
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(videos.open_video(path))
        rate, total = video.frames_per_second, video.num_frames
        if "overlay" in paths:
            write = stack.enter_context(videos.create_video(paths["overlay"], rate))
        frames = tqdm(
            video.frames, total=total, unit="frame", leave=False, disable=None
        )
        for num_frames, frame in enumerate(frames, start=1):
            _check_frame(frame)
            classes, _ = segment(segmenter, frame)
            counts += visualize.class_counts(classes)
            if "classes" in paths:
                os.makedirs(paths["classes"], exist_ok=True)
                file = os.path.join(paths["classes"], f"{num_frames - 1:06d}.png")
                save_classes(file, classes, labels)
            if "overlay" in paths:
                write(draw_frame(frame, classes, labels, output.alpha, hidden))
        if not num_frames:
            raise ValueError("a video without frames")
    # Some files only estimate how many they have.
    if num_frames < 0.9 * (total or 0):
        raise ValueError(f"a truncated video, of which {num_frames} frames are done")
    return shares_row(path, classes.shape, counts, labels)


def draw_frame(
    frame: np.ndarray,
    classes: np.ndarray,
    labels: Labels,
    alpha: float,
    hidden: Collection[int] = (),
) -> np.ndarray:
    """Returns the overlay of a frame, uint8 RGB, above a legend of all it may paint."""
    colors, ignore = labels.colormap, labels.ignore_label
    picture = visualize.overlay(frame, classes, colors, alpha, ignore, hidden=hidden)
    painted = [i for i in range(len(colors)) if i not in hidden]
    names = [labels.class_names[i] for i in painted]
    strip = visualize.legend([colors[i] for i in painted], names, frame.shape[1])
    return visualize.above(picture, strip)


def shares_row(path: str, shape: Sequence[int], counts, labels: Labels) -> list:
    """Returns [name, height, width, share of each class in 0..1]."""
    shares = counts[: len(labels.class_names)] / counts.sum()
    return [table_cell(shown(path)), *shape, *(f"{share:.6f}" for share in shares)]


def _check_frame(frame: np.ndarray) -> None:
    height, width = frame.shape[:2]
    if min(height, width) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"frames must be at least {MIN_IMAGE_SIZE} pixels a side, these are "
            f"{height}x{width} (height x width)"
        )


def _megapixels(image: np.ndarray) -> str:
    return f"{image.shape[0] * image.shape[1] / 1e6:,.0f} megapixels"


def write_shares(folder: str, rows: Iterable[Sequence], labels: Labels) -> None:
    """Writes <folder>/shares.csv, a row for each image or video.

    Raises:
      OSError: it cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    with atomic_write(os.path.join(folder, SHARES_FILE), newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_shares_header(labels))
        writer.writerows(rows)


def read_shares(folder: str, labels: Labels) -> dict[str, list]:
    """Reads what earlier predictions left in a folder.

    Returns:
      {name of the input: its row} of shares.csv, {} where there is none.

    Raises:
      OSError: it cannot be read.
      ValueError: it is of other classes, and so are the class maps beside it.
    """
    path = os.path.join(folder, SHARES_FILE)
    if not os.path.isfile(path):
        return {}
    header = _shares_header(labels)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            found, *rows = list(csv.reader(file)) or [[]]
    except (csv.Error, UnicodeDecodeError):
        found, rows = [], []
    if found != header or any(len(row) != len(header) for row in rows):
        raise ValueError(
            f"{folder} holds predictions of other classes: {path} has the columns "
            f"{', '.join(found)[:200]}; these are {', '.join(header)[:200]}. Give "
            "another --output, or remove that folder."
        )
    return {row[0]: row for row in rows}


def _is_replaced(earlier: str, known: Collection[str]) -> bool:
    """Says whether an earlier input has one of the names of outputs, in lower case."""
    for path in (earlier, os.path.splitext(earlier)[0]):
        parts = path.lower().split(os.sep)
        if any(os.sep.join(parts[start:]) in known for start in range(len(parts))):
            return True
    return False


def _shares_header(labels: Labels) -> list[str]:
    return ["image", "height", "width", *map(table_cell, labels.class_names)]


def _reason(error: Exception) -> str:
    """One sentence without its full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip(".")


def _check_inputs_stay(paths, outputs) -> None:
    inputs = {os.path.realpath(path) for path in paths}
    for output in (path for written in outputs for path in written.values()):
        if os.path.realpath(output) in inputs:
            raise ValueError(
                f"{output} would be overwritten, and it is an input. Give another "
                "--output."
            )
