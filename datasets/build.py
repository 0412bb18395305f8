"""What all builders share: checking pairs, writing shards, flags and errors.

A builder lists its samples, says how one of them is read, and hands both over:

    def list_samples(folder, split) -> list[Sample]: ...
    def read_sample(sample) -> (image_bytes, label): ...     # ValueError: a bad pair

    build_dataset(output_dir, info, {"train": samples}, read_sample)

`build_dataset` checks every pair in parallel processes, writes shards and `info.json`
to a temporary folder beside `output_dir`, and renames that folder when all is well: a
folder named `output_dir` is always a whole data set. The same samples give the same
bytes, whatever the number of processes.

A builder's file ends in `if __name__ == "__main__": run(define_flags, main)`. Flags are
defined by a function rather than on import, so that other programs can import a builder
without getting its flags.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import io
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from datasets.info import INFO_FILE, DatasetInfo
from datasets.tfrecord import encode_label, serialize_example, shard_name

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind.
    fcntl = None

DEFAULT_NUM_SHARDS = 4

# EXIF tag that says how a viewer must turn the stored pixels; 1 is upright.
EXIF_ORIENTATION = 274


class DatasetError(ValueError):
    """Something the person who runs a builder can mend; the message says what."""


class Sample(NamedTuple):
    """One pair to read.

    Attributes:
        name: name of the example, unique in its split.
        image: path of the image, or whatever the builder's `read_sample` needs.
        label: path of the label, likewise.
    """

    name: str
    image: str
    label: str


ReadSample = Callable[[Sample], tuple[bytes, np.ndarray]]


# --- Reading files -------------------------------------------------------------------


def read_list(path: str | Path) -> list[str]:
    """Returns the non-empty lines of a text file, stripped.

    Raises:
        DatasetError: the file is absent or has no such line.
    """
    if not Path(path).is_file():
        raise DatasetError(f"Expected a list of names. Received: no file {path}")
    text = Path(path).read_text(encoding="utf-8-sig")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DatasetError(f"Expected at least one name in {path}. Received: none")
    return lines


def find_file(folder: str | Path, stem: str, suffixes: Sequence[str]) -> str:
    """Returns the path of `stem` with the first of `suffixes` that exists.

    Where none exists, returns the path with all suffixes in braces: reading it fails
    with a sentence that says where the file was looked for.
    """
    paths = [os.path.join(folder, stem + suffix) for suffix in suffixes]
    missing = os.path.join(folder, f"{stem}{{{','.join(suffixes)}}}")
    return next(filter(os.path.isfile, paths), paths[0] if len(paths) == 1 else missing)


def read_file(path: str) -> bytes:
    """Returns the bytes of a file.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror})") from error


def open_image(data: bytes, path: str) -> Image.Image:
    """Decodes the bytes of an image file; `path` is for the error only.

    Raises:
        ValueError: Pillow cannot decode all of it.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image file") from error
    # Damaged files make Pillow raise OSError, SyntaxError, struct.error and others.
    except Exception as error:
        raise ValueError(f"{path} cannot be decoded ({error})") from error
    return image


def read_label(path: str) -> np.ndarray:
    """Reads a mask file as the ids that it stores.

    A palette PNG gives its indices, not its colours. Grey PNGs of 1, 2 or 4 bits give
    their stored values, which Pillow scales to 0..255.

    Returns:
        uint8 [height, width].

    Raises:
        ValueError: the file cannot be read, or is not one channel of at most 8 bits.
    """
    data = read_file(path)
    image = open_image(data, path)
    if image.format == "JPEG":
        raise ValueError(f"{path} is a JPEG, which alters ids; expected a PNG mask")
    if image.mode not in ("1", "L", "P"):
        raise ValueError(
            f"{path} has colours or more than 8 bits (Pillow mode {image.mode}); "
            "expected one channel of class ids: a palette or 8-bit grey PNG"
        )
    label = np.asarray(image, dtype=np.uint8)
    bit_depth = data[24] if image.format == "PNG" and image.mode == "L" else 8
    return label // (255 // (2**bit_depth - 1))


# --- Checking one pair, in a worker process ------------------------------------------


class Pair(NamedTuple):
    """A pair that passed the checks, ready to be written."""

    image_bytes: bytes
    label_png: bytes
    image_format: str
    height: int
    width: int
    pixel_counts: np.ndarray  # int64 [num_classes]


def check_image(image_bytes: bytes, path: str) -> tuple[str, int, int]:
    """Checks that TensorFlow will show the image as every viewer does.

    Returns:
        ("jpeg" or "png", height, width).

    Raises:
        ValueError: no whole JPEG or PNG, not RGB, or to be turned by an EXIF tag.
    """
    image = open_image(image_bytes, path)
    # MPO is a JPEG with more pictures behind the first, as telephones write it.
    formats = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}
    if image.format not in formats:
        raise ValueError(f"{path} is a {image.format} file; expected JPEG or PNG")
    if image.mode != "RGB":
        raise ValueError(f"{path} has Pillow mode {image.mode}; expected RGB")
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if orientation != 1:
        raise ValueError(
            f"{path} is stored turned (EXIF orientation {orientation}) and its label "
            "may not be; expected upright pixels without this tag"
        )
    return formats[image.format], image.height, image.width


def check_label(label: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Counts the pixels of each class.

    Args:
        label: uint8 [height, width].
        info: says which ids are allowed.

    Returns:
        int64 [num_classes].

    Raises:
        ValueError: an id is neither a class nor the ignore label.
    """
    counts = np.bincount(label.ravel(), minlength=256)
    ids = np.flatnonzero(counts)
    wrong = ids[(ids >= info.num_classes) & (ids != info.ignore_label)]
    if wrong.size:
        raise ValueError(
            f"label has the ids {', '.join(map(str, wrong))}; expected 0 to "
            f"{info.num_classes - 1} or {info.ignore_label} (ignored)"
        )
    return counts[: info.num_classes]


def check_pair(sample: Sample, read_sample: ReadSample, info: DatasetInfo):
    """Reads and checks one pair.

    Returns:
        A `Pair`, or the sentence that says what is wrong with it.
    """
    try:
        image_bytes, label = read_sample(sample)
        image_format, height, width = check_image(image_bytes, sample.image)
        if label.shape != (height, width):
            raise ValueError(
                f"image is {width}x{height} (width x height), label is "
                f"{label.shape[1]}x{label.shape[0]}; expected the same size"
            )
        pixel_counts = check_label(label, info)
        label_png = encode_label(label)
    except ValueError as error:
        return str(error)
    return Pair(image_bytes, label_png, image_format, height, width, pixel_counts)


# --- Worker processes ----------------------------------------------------------------


def available_cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker() -> None:
    """Ties a worker's life to its parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent reports Ctrl-C, once.

    def exit_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def map_in_order(function: Callable, items: Iterable, num_processes: int) -> Iterator:
    """Yields `function(item)` for each item in order, computed in worker processes.

    Workers are spawned, not forked: TensorFlow's threads do not survive a fork. Only a
    bounded number of results waits, so that memory does not grow with the data set.

    Args:
        function: picklable.
        items: picklable.
        num_processes: with 1, everything happens in this process.
    """
    if num_processes == 1:
        yield from map(function, items)
        return
    pool = futures.ProcessPoolExecutor(
        num_processes, multiprocessing.get_context("spawn"), _start_worker
    )
    try:
        items = iter(items)
        pending = collections.deque(
            pool.submit(function, item)
            for item in itertools.islice(items, 16 * num_processes)
        )
        while pending:
            yield pending.popleft().result()
            for item in itertools.islice(items, 1):
                pending.append(pool.submit(function, item))
    finally:
        pool.shutdown(cancel_futures=True)


# --- The temporary folder ------------------------------------------------------------


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder; the system releases it however the process ends."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(
                f"Another process is writing {folder}. Wait for it to end."
            ) from error
        except OSError:
            pass  # Some network file systems cannot lock a folder; go on without.
        yield
    finally:
        os.close(descriptor)


def _check_output_dir(output_dir: Path, overwrite: bool) -> None:
    """Raises DatasetError where `output_dir` may not be written or replaced."""
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise DatasetError(f"Expected a folder. Received: {output_dir}, a file")
    if not any(output_dir.iterdir()):
        return
    if not overwrite:
        raise DatasetError(
            f"{output_dir} exists already. Give another --output_dir, or --overwrite "
            "to replace it."
        )
    # --overwrite deletes the folder: a mistyped path must not cost anything else.
    if not (output_dir / INFO_FILE).is_file():
        raise DatasetError(
            f"{output_dir} has no {INFO_FILE}, so it is no data set of ours and "
            "--overwrite does not replace it. Give another --output_dir."
        )


def _install(temporary: Path, output_dir: Path) -> None:
    """Renames `temporary` to `output_dir`, replacing what is there."""
    replaced = output_dir.with_name(output_dir.name + ".replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if output_dir.exists():
        output_dir.rename(replaced)
    temporary.rename(output_dir)
    shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def _temporary_folder(output_dir: Path, overwrite: bool) -> Iterator[Path]:
    """Yields an empty folder that becomes `output_dir` when the block succeeds.

    Raises:
        DatasetError: `output_dir` may not be replaced, or is being written.
    """
    _check_output_dir(output_dir, overwrite)
    temporary = output_dir.with_name(output_dir.name + ".incomplete")
    temporary.mkdir(parents=True, exist_ok=True)
    with _locked(temporary):
        # The folder may hold what a killed run left.
        for path in temporary.iterdir():
            path.unlink()
        try:
            yield temporary
            _check_output_dir(output_dir, overwrite)
            _install(temporary, output_dir)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


# --- The whole data set --------------------------------------------------------------


def _check_request(
    splits: Mapping[str, Sequence[Sample]], num_shards: int, num_processes: int
) -> None:
    """Raises DatasetError for what needs no file to be read."""
    if num_shards < 1 or num_processes < 1:
        raise DatasetError(
            "Expected num_shards and num_processes of 1 or more. "
            f"Received: {num_shards} and {num_processes}"
        )
    if not splits:
        raise DatasetError("Expected at least one split. Received: none")
    for split, samples in splits.items():
        if not samples:
            raise DatasetError(f"Split {split} is empty. Expected at least one pair.")
        counts = collections.Counter(sample.name for sample in samples)
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise DatasetError(
                f"Expected each name once in split {split}. Received more than once: "
                f"{', '.join(repeated)}"
            )


@dataclasses.dataclass
class _Written:
    """What one split's shards hold, and which pairs were left out."""

    num_examples: int
    pixel_counts: np.ndarray  # int64 [num_classes]
    offenders: list[str]


def _write_split(
    folder: Path,
    split: str,
    samples: Sequence[Sample],
    pairs: Iterator[Pair | str],
    num_shards: int,
    num_classes: int,
) -> _Written:
    """Writes one split; takes exactly `len(samples)` results from `pairs`.

    Shards hold consecutive samples. A sample's shard depends on its place in the list
    alone, so a skipped pair moves no other.
    """
    import tensorflow as tf

    written = _Written(0, np.zeros(num_classes, np.int64), [])
    num_shards = min(num_shards, len(samples))
    for index in range(num_shards):
        first = index * len(samples) // num_shards
        last = (index + 1) * len(samples) // num_shards
        path = str(folder / shard_name(split, index, num_shards))
        with tf.io.TFRecordWriter(path) as writer:
            for sample in samples[first:last]:
                pair = next(pairs)
                if isinstance(pair, str):
                    written.offenders.append(f"{split}/{sample.name}: {pair}")
                    continue
                writer.write(
                    serialize_example(
                        pair.image_bytes,
                        pair.label_png,
                        sample.name,
                        pair.image_format,
                        pair.height,
                        pair.width,
                    )
                )
                written.num_examples += 1
                written.pixel_counts += pair.pixel_counts
    return written


def _report_offenders(written: Mapping[str, _Written], skip_bad: bool) -> None:
    """Prints the pairs that were left out, or raises DatasetError with all of them."""
    offenders = [line for split in written.values() for line in split.offenders]
    if not offenders:
        return
    total = len(offenders) + sum(split.num_examples for split in written.values())
    listing = "\n  ".join(offenders)
    if not skip_bad:
        raise DatasetError(
            f"{len(offenders)} of {total} pairs cannot be used:\n  {listing}\n"
            "Mend or remove them, or go on without them: --skip_bad"
        )
    print(f"Skipped {len(offenders)} of {total} pairs:\n  {listing}", file=sys.stderr)
    for split, part in written.items():
        if not part.num_examples:
            raise DatasetError(f"Split {split} has no pair that can be used.")


def build_dataset(
    output_dir: str | Path,
    info: DatasetInfo,
    splits: Mapping[str, Sequence[Sample]],
    read_sample: ReadSample,
    *,
    num_shards: int = DEFAULT_NUM_SHARDS,
    num_processes: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
) -> DatasetInfo:
    """Checks every pair and writes shards and `info.json` to `output_dir`.

    Args:
        output_dir: folder to make; it appears only when the data set is whole.
        info: name, classes and colours; splits and pixel counts are filled in.
        splits: split name -> samples, in the order to be written.
        read_sample: picklable function from a sample to (bytes of a JPEG or PNG file,
            RGB; label uint8 [height, width] of ids in [0, num_classes) or the ignore
            label). Raises ValueError with a sentence for a bad pair.
        num_shards: shards for each split; never more than it has samples.
        num_processes: worker processes; default: as many as there are CPUs.
        skip_bad: leave out bad pairs and print them, rather than fail.
        overwrite: replace an existing data set.

    Returns:
        `info` with the splits and pixel counts that were written.

    Raises:
        DatasetError: with every bad pair by name; or `output_dir` exists; or a split is
            empty or has a name twice.
    """
    num_processes = available_cpus() if num_processes is None else num_processes
    output_dir = Path(output_dir).expanduser().resolve()
    _check_request(splits, num_shards, num_processes)
    samples = list(itertools.chain.from_iterable(splits.values()))
    check = functools.partial(check_pair, read_sample=read_sample, info=info)
    written = {}
    with _temporary_folder(output_dir, overwrite) as folder:
        with contextlib.closing(map_in_order(check, samples, num_processes)) as results:
            # disable=None: no bar where the output is no terminal.
            pairs = iter(tqdm(results, info.name, len(samples), disable=None))
            for split in splits:
                written[split] = _write_split(
                    folder, split, splits[split], pairs, num_shards, info.num_classes
                )
        _report_offenders(written, skip_bad)
        info = dataclasses.replace(
            info,
            splits={split: part.num_examples for split, part in written.items()},
            pixel_counts={s: part.pixel_counts.tolist() for s, part in written.items()},
        )
        (folder / INFO_FILE).write_text(info.to_json())
    print(f"Wrote {output_dir}: {info.splits}")
    return info


# --- Command line --------------------------------------------------------------------


def define_flags() -> None:
    """Defines the flags that all builders have.

    A builder's own `define_flags` calls it, then `flags.adopt_module_key_flags(build)`
    so that --help lists these flags too.
    """
    flags.DEFINE_string("output_dir", None, "Folder to write.", required=True)
    flags.DEFINE_integer("num_shards", DEFAULT_NUM_SHARDS, "Shards for each split.")
    flags.DEFINE_integer(
        "num_processes", None, "Worker processes; default: one for each CPU."
    )
    flags.DEFINE_bool("skip_bad", False, "Leave out bad pairs instead of failing.")
    flags.DEFINE_bool("overwrite", False, "Replace an existing data set.")


def flag_options() -> dict[str, Any]:
    """Returns the keyword arguments of `build_dataset` that `define_flags` defines."""
    names = ("num_shards", "num_processes", "skip_bad", "overwrite")
    return {name: flags.FLAGS[name].value for name in names}


def run(define_builder_flags: Callable[[], None], main: Callable[[], None]) -> None:
    """Runs a builder's `main()`; a DatasetError ends it with the sentence alone."""

    def checked_main(arguments):
        if arguments[1:]:
            raise app.UsageError(f"Expected flags only. Received: {arguments[1:]}")
        # SIGTERM raises SystemExit, so that the temporary folder is removed.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            main()
        except DatasetError as error:
            sys.exit(f"Error: {error}")

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    define_builder_flags()
    app.run(checked_main)
