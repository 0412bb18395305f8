"""Segments images and videos with a trained or an exported model.

    python predict.py --workdir=runs/demo --input=photos --output=predictions
    python predict.py --saved_model=exported/1 --input='photos/*.jpg,cat.png' \\
        --output=out --save=classes,overlay,probabilities
    python predict.py --workdir=runs/voc --input=cat.jpg --output=out \\
        --output_stride=8 --flip --scales=0.5,0.75,1,1.25,1.5,1.75 --crf
    python predict.py --workdir=runs/voc --input=VOC2012/JPEGImages --output=out \\
        --list=VOC2012/ImageSets/Segmentation/test.txt --submission=voc2012

For every image, upright and at its own size:
    <output>/classes/NAME.png         class ids; the palette shows them in colour
    <output>/overlay/NAME.png         the colours over the image, and a legend
    <output>/probabilities/NAME.npz   only if asked for
    <output>/shares.csv               share of each class, a row per image
For a video: classes/NAME/000000.png, ... and overlay/NAME.mp4. docs/prediction.md says
more. Inputs that cannot be used are named at the end, and the exit code is 1 then.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import csv
import dataclasses
import glob
import os
import sys
from collections.abc import Iterator, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from absl import app, flags
from tqdm import tqdm

from deeplab_tf import videos, visualize
from deeplab_tf.crf import parse_crf
from deeplab_tf.files import atomic_write
from deeplab_tf.images import MAX_PIXELS, read_image
from deeplab_tf.inference import Segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.models import MIN_IMAGE_SIZE
from deeplab_tf.submissions import SUBMISSIONS

FLAGS = flags.FLAGS
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
KINDS = {"classes": ".png", "overlay": ".png", "probabilities": ".npz"}
# Larger images are predicted in windows, and their overlays are drawn reduced.
LARGE_PIXELS = 16_000_000
LARGE_WINDOW = 513


def define_flags():
    """Called by the script alone, so that tests can import several scripts."""
    flags.DEFINE_string("workdir", None, "Folder of a run of train.py.")
    flags.DEFINE_string("saved_model", None, "Folder written by export.py, instead.")
    flags.DEFINE_string(
        "input",
        None,
        "Images, videos, folders and patterns, separated by commas.",
        required=True,
    )
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)
    flags.DEFINE_bool("recursive", False, "Also look into folders inside folders.")
    flags.DEFINE_string("list", None, "File of names: only these images of --input.")
    flags.DEFINE_list("save", ["classes", "overlay"], f"Of {', '.join(KINDS)}.")
    flags.DEFINE_enum(
        "submission", None, list(SUBMISSIONS), "Also pack what a test server takes."
    )
    flags.DEFINE_integer("output_stride", None, "8, 16 or 32 [the run's].")
    flags.DEFINE_list("scales", ["1"], "Image scales to average over.")
    flags.DEFINE_bool("flip", False, "Average with the mirrored image.")
    flags.DEFINE_integer(
        "window", None, f"Predict in windows [{LARGE_WINDOW} above 16 megapixels]."
    )
    flags.DEFINE_integer("overlap", None, "Of windows, in pixels [a quarter of one].")
    flags.DEFINE_bool("crf", False, "Sharpen with the dense CRF of DeepLabV1 and V2.")
    flags.DEFINE_list("crf_parameters", None, "Its w1,sigma_alpha,sigma_beta [4,67,3].")
    flags.DEFINE_float("alpha", 0.5, "Opacity of the colours in overlays.", 0, 1)
    flags.DEFINE_float(
        "max_megapixels", MAX_PIXELS / 1e6, "Refuse images of more pixels.", 0
    )


@dataclasses.dataclass(frozen=True)
class Output:
    """What is written, and where.

    Attributes:
      folder: made where needed.
      save: some of `KINDS`.
      alpha: opacity of the overlay.
      submission: key of `SUBMISSIONS`, or None.
      max_pixels: images of more are refused.
    """

    folder: str
    save: tuple[str, ...] = ("classes", "overlay")
    alpha: float = 0.5
    submission: str | None = None
    max_pixels: int = MAX_PIXELS

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


# ---- Which inputs -------------------------------------------------------------------


def find_inputs(
    inputs: str, recursive: bool = False, output_dir: str = ""
) -> list[str]:
    """Returns the images and videos that --input stands for, sorted.

    Args:
      inputs: file names, folders and glob patterns, separated by commas.
      recursive: also look into folders inside folders, but not through links.
      output_dir: what an earlier run wrote there is not taken for input then.

    Returns:
      Paths, each once. What stands for nothing, among others that do, is one of them,
      to be named when it cannot be read.

    Raises:
      FileNotFoundError: there are none.
    """
    # A name that holds a comma is taken as it is.
    parts = [inputs] if os.path.lexists(inputs) else inputs.split(",")
    found = {part: _find(part, recursive, output_dir) for part in parts if part}
    if not any(found.values()):
        raise FileNotFoundError(
            f"No images at {inputs}. Expected an image or a video, a folder of them, "
            "or a pattern such as 'photos/*.jpg'."
        )
    paths = [path for part, matches in found.items() for path in matches or [part]]
    return sorted({os.path.abspath(path): path for path in paths}.values())


def _find(part: str, recursive: bool, output_dir: str) -> list[str]:
    if os.path.isdir(part):
        listed = _walk(part, output_dir) if recursive else _list(part)
        return list(filter(_looks_readable, listed))
    if os.path.lexists(part):
        return [part]
    # What a pattern matches is tried, but for folders that do not pretend.
    return [
        path
        for path in glob.glob(part, recursive=True)
        if _looks_readable(path) or not os.path.isdir(path)
    ]


def _list(folder: str) -> Iterator[str]:
    for name in os.listdir(folder):
        yield os.path.join(folder, name)


def _walk(folder: str, output_dir: str) -> Iterator[str]:
    written = {os.path.realpath(os.path.join(output_dir, kind)) for kind in KINDS}
    for inside, folders, names in os.walk(folder):
        paths = {name: os.path.realpath(os.path.join(inside, name)) for name in folders}
        folders[:] = [name for name in folders if paths[name] not in written]
        for name in names:
            yield os.path.join(inside, name)


def _looks_readable(path: str) -> bool:
    return path.lower().endswith((*EXTENSIONS, *videos.EXTENSIONS))


def is_video(path: str) -> bool:
    return path.lower().endswith(videos.EXTENSIONS)


def select_listed(paths: Sequence[str], list_file: str) -> tuple[list[str], list[str]]:
    """Keeps the inputs that a list names, as VOC's ImageSets do.

    Args:
      paths: the inputs.
      list_file: text; each line, or its first word, is a file name without extension.

    Returns:
      (the inputs named, in the list's order; one sentence for each name without one).

    Raises:
      OSError: the list cannot be read.
      ValueError: it names none of the inputs.
    """
    by_name = collections.defaultdict(list)
    for path in paths:
        by_name[os.path.splitext(os.path.basename(path))[0]].append(path)
    with open(list_file, encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip()]
    # VOC's lists of one class have a second column.
    names = [line if line in by_name else line.split()[0] for line in lines]
    names = list(dict.fromkeys(names))
    found = [path for name in names for path in by_name.get(name, ())]
    if not found:
        raise ValueError(
            f"{list_file} names none of the images of --input. Expected a file name "
            "without extension on each line."
        )
    missing = [name for name in names if name not in by_name]
    return found, [f"{name}: in {list_file}, but not in --input." for name in missing]


def output_names(paths: Sequence[str]) -> list[str]:
    """Names the outputs: paths below the common folder, without their extension.

    Where that would give two inputs one name, they keep their extension: a.jpg and
    a.png become a.jpg and a.png, of which a.jpg.png and a.png.png are made.
    """
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
    names = [os.path.relpath(path, folder) for path in paths]
    stems = [os.path.splitext(name)[0] for name in names]
    # Without regard to case, as on the file systems of macOS and Windows.
    uses = collections.Counter(stem.lower() for stem in stems)
    uses.update(name.lower() for name in names)
    return [
        stem if uses[stem.lower()] == 1 else name for stem, name in zip(stems, names)
    ]


# ---- One input ----------------------------------------------------------------------


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
    if segmenter.window is None:
        segmenter = copy.copy(segmenter)
        segmenter.window, segmenter.overlap = LARGE_WINDOW, LARGE_WINDOW // 4
    return segmenter


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
            *small, labels.colormap, names, output.alpha, ignore
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
                write(draw_frame(frame, classes, labels, output.alpha))
        if not num_frames:
            raise ValueError("a video without frames")
    # Some files only estimate how many they have.
    if num_frames < 0.9 * (total or 0):
        raise ValueError(f"a truncated video, of which {num_frames} frames are done")
    return shares_row(path, classes.shape, counts, labels)


def draw_frame(
    frame: np.ndarray, classes: np.ndarray, labels: Labels, alpha: float
) -> np.ndarray:
    """Returns the overlay of a frame, uint8 RGB, above a legend of all classes."""
    picture = visualize.overlay(
        frame, classes, labels.colormap, alpha, labels.ignore_label
    )
    strip = visualize.legend(labels.colormap, labels.class_names, frame.shape[1])
    return visualize.above(picture, strip)


def shares_row(path: str, shape: Sequence[int], counts, labels: Labels) -> list:
    """Returns [name, height, width, share of each class in 0..1]."""
    shares = counts[: len(labels.class_names)] / counts.sum()
    return [shown(path), *shape, *(f"{share:.6f}" for share in shares)]


def shown(path: str) -> str:
    """Returns a file name on one line, in characters that can be printed."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _check_frame(frame: np.ndarray) -> None:
    height, width = frame.shape[:2]
    if min(height, width) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"frames must be at least {MIN_IMAGE_SIZE} pixels a side, these are "
            f"{height}x{width} (height x width)"
        )


def _megapixels(image: np.ndarray) -> str:
    return f"{image.shape[0] * image.shape[1] / 1e6:,.0f} megapixels"


# ---- All inputs ---------------------------------------------------------------------


def predict_files(
    segmenter: Segmenter, paths: Sequence[str], output: Output
) -> list[str]:
    """Segments images and videos into `output.folder`.

    Args:
      segmenter: the model, with labels.
      paths: of `find_inputs`.
      output: what is asked for.

    Returns:
      One sentence for each input that could not be used; the others are done.

    Raises:
      OSError: shares.csv or the archive cannot be written.
      ValueError: an output would overwrite an input, or a submission that does not
        fit.
    """
    if output.submission:
        num_classes = len(segmenter.labels.class_names)
        SUBMISSIONS[output.submission].check(num_classes, paths)
    outputs = [
        output.paths(name, path) for name, path in zip(output_names(paths), paths)
    ]
    _check_inputs_stay(paths, outputs)
    rows, failures = [], []
    for path, written in zip(tqdm(paths, unit="input", disable=None), outputs):
        predict = predict_video if is_video(path) else predict_image
        try:
            rows.append(predict(segmenter, path, written, output))
        except (tf.errors.ResourceExhaustedError, MemoryError):
            failures.append(f"{shown(path)}: too large for this machine's memory.")
        except (OSError, ValueError) as error:
            failures.append(f"{shown(path)}: {_reason(error)}.")
    write_shares(output.folder, rows, segmenter.labels)
    return failures


def write_shares(folder: str, rows: Sequence[Sequence], labels: Labels) -> None:
    """Writes <folder>/shares.csv, a row for each image or video.

    Raises:
      OSError: it cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    with atomic_write(os.path.join(folder, "shares.csv"), newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "height", "width", *labels.class_names])
        writer.writerows(rows)


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


def make_segmenter(
    workdir: str | None,
    saved_model: str | None,
    output_stride: int | None = None,
    **options,
) -> Segmenter:
    """Chooses between a run and an exported model.

    Args:
      workdir: of train.py.
      saved_model: folder written by export.py.
      output_stride: of a run.
      **options: those of `Segmenter`.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: arguments that contradict each other.
    """
    if bool(workdir) == bool(saved_model):
        raise ValueError("Give either --workdir or --saved_model.")
    if workdir:
        return Segmenter.from_workdir(workdir, output_stride, **options)
    if output_stride:
        raise ValueError(
            "--output_stride needs --workdir: an exported model keeps its own."
        )
    return Segmenter.from_saved_model(saved_model, **options)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(
            f"Unexpected arguments: {' '.join(argv[1:])}. Is --input='*.jpg' quoted?"
        )
    try:
        output = Output(
            FLAGS.output,
            tuple(FLAGS.save),
            FLAGS.alpha,
            FLAGS.submission,
            int(FLAGS.max_megapixels * 1e6),
        )
        paths, failures = find_inputs(FLAGS.input, FLAGS.recursive, FLAGS.output), []
        if FLAGS.list:
            paths, failures = select_listed(paths, FLAGS.list)
        segmenter = make_segmenter(
            FLAGS.workdir,
            FLAGS.saved_model,
            FLAGS.output_stride,
            scales=[float(scale) for scale in FLAGS.scales],
            flip=FLAGS.flip,
            window=FLAGS.window,
            overlap=FLAGS.overlap,
            crf=parse_crf(FLAGS.crf, FLAGS.crf_parameters),
        )
        failed = predict_files(segmenter, paths, output)
        print(f"{len(paths) - len(failed)} of {len(paths)} inputs: {FLAGS.output}")
        failures += failed
        if FLAGS.submission and not failures:
            submission = SUBMISSIONS[FLAGS.submission]
            print(f"Written: {submission.write_archive(FLAGS.output, paths)}")
    except (OSError, ValueError) as error:
        sys.exit(f"predict.py: {error}")
    if failures:
        if FLAGS.submission:
            failures.append("No archive was written, as it would lack images.")
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    define_flags()
    app.run(main)
