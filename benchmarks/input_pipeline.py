"""Images per second of the input pipeline: stages, a plain chain, a profile.

    python -m benchmarks.input_pipeline --data_dir=runs/data/voc2012 --split=trainval
    python -m benchmarks.input_pipeline            draws records and measures on them
    python -m benchmarks.input_pipeline --alternatives ...    what else was tried
    python -m benchmarks.input_pipeline --cores=1 ...         what one core feeds

One JSON line a stage: reading the records, decoding them, the whole of
`make_train_dataset`, and for comparison the straightforward chain of tf.image in
float32. Stages take turns; a turn begins when the first batch has come, so that a full
shuffle buffer is not part of it. Images per second are medians over the turns, ratios
medians of the ratios within a turn. Beside them stands the processors' time an image,
which other work on the machine disturbs less.

With --cores=N the process keeps to N cores, and the training pipeline alone is timed at
policy "paper" and at "strong" where keras-cv is installed: images a second, and a core.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import statistics
import sys
import time
import zlib
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def keep_to_cores(arguments: list[str]) -> None:
    """Keeps this process to the --cores of its command line, or says it cannot.

    Before TensorFlow is imported, which counts the cores to make its threads.
    """
    given = re.search(r"--?cores[= ](\d+)", " ".join(arguments))
    if given is None:
        return
    mine = sorted(os.sched_getaffinity(0))
    if not 1 <= int(given[1]) <= len(mine):
        sys.exit(f"--cores must be 1 to {len(mine)} here. Received: {given[1]}")
    os.sched_setaffinity(0, mine[: int(given[1])])


if __name__ == "__main__":
    keep_to_cores(sys.argv)

import numpy as np
import tensorflow as tf
from absl import app, flags
from PIL import Image

from benchmarks.timing import cpu_description, measure, ratio
from deeplab_tf.data.reading import augment, pipeline
from deeplab_tf.data.reading.policies import Crop
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.data.records import frames, tfrecord
from deeplab_tf.data.records.info import DatasetInfo

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Records; default: drawn ones of three kinds.")
flags.DEFINE_string("drawn_dir", "runs/data/drawn", "Where drawn records are kept.")
flags.DEFINE_string("split", "train", "Split of the records.")
flags.DEFINE_integer("crop_size", 513, "Height and width of crops of --data_dir.")
flags.DEFINE_integer("batch_size", 8, "Images in a batch.")
flags.DEFINE_integer("images", 128, "Images of each stage in a turn.")
flags.DEFINE_integer("repeats", 7, "Turns of each stage.")
flags.DEFINE_bool("alternatives", False, "Time what else was tried.")
flags.DEFINE_integer("cores", None, "Cores to keep to; times the pipeline alone.")

MEAN_COLOR = 127.5
# Name -> (height, width, format, records, crop): sizes of VOC 2012 and Cityscapes.
DRAWN = {
    "voc_like_jpeg": (375, 500, "jpeg", 64, 513),
    "cityscapes_like_jpeg": (1024, 2048, "jpeg", 16, 769),
    "cityscapes_like_png": (1024, 2048, "png", 16, 769),
}
CLASSES = 19


# Drawn records ----------------------------------------------------------------------


def draw_texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth noise of all sizes down to 2 pixels: float32 [height, width, 3].

    Without it JPEGs and PNGs were a tenth of a photograph's and decoded too quickly.
    """
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(2, int(np.log2(width))):
        columns = 2**octave
        rows = max(2, columns * height // width)
        for channel in range(3):
            coarse = rng.normal(0, 20 * 0.8 ** (octave - 2), (rows, columns))
            smooth = Image.fromarray(coarse.astype(np.float32))
            total[..., channel] += smooth.resize((width, height), Image.BICUBIC)
    return total


def draw_scene(
    rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ellipses with a void border: uint8 [height, width, 3], [height, width]."""
    label = np.zeros((height, width), np.uint8)
    image = draw_texture(rng, height, width) + rng.normal(0, 1.5, (height, width, 3))
    color = np.full((height, width, 3), rng.uniform(60, 200, 3))
    y, x = np.mgrid[:height, :width]
    for _ in range(25):
        radii = rng.uniform(0.05, 0.3, 2) * height
        center = rng.uniform(0, (height, width))
        distance = ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2
        label[distance < 1.05] = 255
        label[distance < 1] = rng.integers(1, CLASSES)
        color[distance < 1] = rng.uniform(20, 230, 3)
    return np.clip(color + image, 0, 255).astype(np.uint8), label


def draw_records(name: str, folder: Path) -> None:
    """Writes the records of one row of DRAWN as split "train", in four shards."""
    height, width, image_format, count, _ = DRAWN[name]
    rng = np.random.default_rng(0)
    half_written = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(half_written, ignore_errors=True)
    half_written.mkdir(parents=True)
    paths = [half_written / tfrecord.shard_name("train", k, 4) for k in range(4)]
    writers = [tf.io.TFRecordWriter(str(path)) for path in paths]
    for index in range(count):
        image, label = draw_scene(rng, height, width)
        buffer = io.BytesIO()
        options = {"quality": 95} if image_format == "jpeg" else {}
        Image.fromarray(image).save(buffer, image_format, **options)
        example = tfrecord.encode_example(
            buffer.getvalue(), label, f"{index}", image_format, height, width
        )
        writers[index % len(writers)].write(example)
    for writer in writers:
        writer.close()
    names = tuple(f"class{index}" for index in range(CLASSES))
    info = DatasetInfo(name, names, splits={"train": count})
    (half_written / "info.json").write_text(info.to_json())
    half_written.rename(folder)


# Stages -----------------------------------------------------------------------------


def endless_records(data_dir: str, split: str) -> tf.data.Dataset:
    return frames.read_shards(tfrecord.shard_paths(data_dir, split)).repeat()


def in_batches(records: tf.data.Dataset, function) -> tf.data.Dataset:
    examples = records.map(function, num_parallel_calls=tf.data.AUTOTUNE)
    return examples.batch(FLAGS.batch_size).prefetch(tf.data.AUTOTUNE)


def decode_only(serialized: tf.Tensor) -> tf.Tensor:
    """Decodes image and label and gives their sizes, which are equal in all records."""
    example = tfrecord.parse_example(serialized)
    return tf.stack([tf.size(example["image"]), tf.size(example["label"])])


def straightforward(serialized: tf.Tensor, crop_size: int):
    """Scale, pad, crop and flip as most would write them, all in float32."""
    example = tfrecord.parse_example(serialized)
    image = tf.cast(example["image"], tf.float32)
    scale = tf.random.uniform([], 0.5, 2.0)
    size = tf.cast(tf.cast(tf.shape(image)[:2], tf.float32) * scale, tf.int32)
    image = tf.image.resize(image, size)
    label = tf.cast(tf.image.resize(example["label"], size, "nearest"), tf.float32)
    missing = tf.maximum(crop_size - size, 0)
    paddings = [[0, missing[0]], [0, missing[1]], [0, 0]]
    image = tf.pad(image, paddings, constant_values=MEAN_COLOR)
    label = tf.pad(label, paddings, constant_values=255.0)
    both = tf.concat([image, label], axis=2)
    both = tf.image.random_crop(both, [crop_size, crop_size, 4])
    both = tf.image.random_flip_left_right(both)
    return both[..., :3], tf.cast(both[..., 3], tf.int32)


def full(data_dir: str, split: str, crop_size: int, **options) -> tf.data.Dataset:
    return pipeline.make_train_dataset(
        select_records(data_dir, split),
        Crop((crop_size, crop_size), **options),
        batch_size=FLAGS.batch_size,
        seed=0,
    )


def make_stages(data_dir: str, split: str, crop_size: int) -> dict:
    """Returns stage -> endless dataset of batches."""
    records = endless_records(data_dir, split)
    return {
        "records": records.batch(FLAGS.batch_size).prefetch(tf.data.AUTOTUNE),
        "decode": in_batches(records, decode_only),
        "full": full(data_dir, split, crop_size),
        "straightforward": in_batches(
            records.shuffle(512),
            lambda serialized: straightforward(serialized, crop_size),
        ),
    }


def time_batches(dataset: tf.data.Dataset) -> tuple[float, float]:
    """Returns (seconds, processors' seconds) of --images images after the first."""
    batches = -(-FLAGS.images // FLAGS.batch_size)
    iterator = iter(dataset)
    next(iterator)
    start, processors = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(iterator)
    times = time.perf_counter() - start, time.process_time() - processors
    return tuple(seconds / (batches * FLAGS.batch_size) for seconds in times)


def time_by_turns(datasets: dict) -> dict:
    """Returns name -> ([seconds an image], [processors' seconds an image])."""
    times = {name: [] for name in datasets}
    for turn in range(FLAGS.repeats + 1):  # the first warms up
        for name, dataset in datasets.items():
            measured = time_batches(dataset)
            if turn:
                times[name].append(measured)
    return {name: tuple(zip(*pairs)) for name, pairs in times.items()}


def compare(times: dict, name: str, reference: str) -> dict:
    """How many times as quick `name` is as `reference`: by time and by processors."""
    return {
        f"{name}_over_{reference}": round(
            ratio(times[reference][0], times[name][0]), 3
        ),
        f"{name}_over_{reference}_processors": round(
            ratio(times[reference][1], times[name][1]), 3
        ),
    }


def print_rates(times: dict, context: dict) -> None:
    for name, (seconds, processors) in times.items():
        row = {
            "stage": name,
            "images_per_second": round(1 / statistics.median(seconds), 1),
            "processor_milliseconds": round(1000 * statistics.median(processors), 3),
        }
        print(json.dumps({**context, **row}), flush=True)


# Profile and alternatives: one thread -------------------------------------------------


def one_thread(dataset: tf.data.Dataset):
    """Returns a function that runs a dataset to its end, on one thread."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.with_options(options)
    # Counted by tf.data itself: Python would take a part of each element's time.
    return lambda: dataset.reduce(0, lambda count, *_: count + 1).numpy()


def milliseconds(variants: dict, count: int) -> dict:
    seconds = measure(variants, FLAGS.repeats)
    return {n: round(1000 * min(times) / count, 3) for n, times in seconds.items()}


def profile_steps(crop_size: int) -> dict:
    """Returns step -> function of what there is to what it makes, both dicts.

    They are the calls of `parse_example` and `augment`, one by one.
    """
    crop = (crop_size, crop_size)
    keys = {
        key: tf.io.FixedLenFeature([], tf.string)
        for key in (tfrecord.IMAGE, tfrecord.LABEL)
    }

    def parse(now):
        parts = tf.io.parse_single_example(now["serialized"], keys)
        return {"image": parts[tfrecord.IMAGE], "label": parts[tfrecord.LABEL]}

    def decode_image(now):
        image = tf.io.decode_image(now["image"], channels=3, expand_animations=False)
        return {"image": tf.ensure_shape(image, [None, None, 3])}

    def draw(now):
        seed = tf.stack([tf.constant(0, tf.int64), now["index"]])
        draws = tf.random.stateless_uniform([4], seed)
        size, scale = tf.shape(now["image"])[:2], 0.5 + 1.5 * draws[0]
        place = augment.crop_window(size, crop, scale, draws[1:3])
        names = ("offset", "window", "scaled")
        return {**dict(zip(names, place)), "mirrored": draws[3] < 0.5}

    def pad(now):
        return of_both(
            augment.pad_to(now["image"], now["label"], crop, (MEAN_COLOR,) * 3, 255)
        )

    def of_both(pair):
        return {"image": pair[0], "label": pair[1]}

    return {
        "parse": parse,
        "decode_label": lambda now: {"label": decode_grey(now["label"])},
        "decode_image": decode_image,
        "draw": draw,
        "crop": lambda now: of_both(
            augment.crop(now["image"], now["label"], now["offset"], now["window"])
        ),
        "mirror": lambda now: {"image": augment.mirror(now["image"], now["mirrored"])},
        "resize_image": lambda now: {
            "image": augment.resize_image(now["image"], now["scaled"])
        },
        "resize_label": lambda now: {
            "label": augment.resize_label(now["label"], now["scaled"], now["mirrored"])
        },
        "pad": pad,
        "cast_label": lambda now: {
            "image": tf.ensure_shape(now["image"], [*crop, 3]),
            "label": tf.cast(tf.ensure_shape(now["label"], [*crop, 1]), tf.int32),
        },
    }


def profile(data_dir: str, split: str, crop_size: int) -> dict:
    """Returns step -> milliseconds an image, each the growth that it brings."""
    records = endless_records(data_dir, split).take(FLAGS.images).cache().enumerate()
    steps = profile_steps(crop_size)

    def run_until(last):
        def run(index, serialized):
            now = {"index": index, "serialized": serialized}
            for step in list(steps.values())[:last]:
                now.update(step(now))
            return now

        return records.map(run)

    datasets = {"read": records}
    datasets.update({name: run_until(k) for k, name in enumerate(steps, start=1)})
    whole = run_until(len(steps)).map(lambda now: (now["image"], now["label"]))
    datasets["batch"] = whole.batch(FLAGS.batch_size)
    totals = milliseconds({n: one_thread(d) for n, d in datasets.items()}, FLAGS.images)
    values = list(totals.values())
    growth = np.diff([0.0, *values]).round(3).tolist()
    return {**dict(zip(totals, growth)), "all": values[-1]}


def png_without_filter(label: np.ndarray) -> bytes:
    """An 8-bit grey PNG whose rows are not predicted from one another."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return (
            len(content).to_bytes(4, "big")
            + kind
            + content
            + checksum.to_bytes(4, "big")
        )

    height, width = label.shape
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    rows = np.pad(label, [(0, 0), (1, 0)]).tobytes()
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def pillow_png(label: np.ndarray, level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def decode_zlib(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_raw(tf.io.decode_compressed(encoded, "ZLIB"), tf.uint8)


def decode_grey(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_png(encoded, channels=1)


# Encoding of a label -> (encoder, decoder).
LABEL_ENCODINGS = {
    "png": (tfrecord.encode_label, decode_grey),
    "png_level_1": (lambda label: pillow_png(label, 1), decode_grey),
    "png_level_9": (lambda label: pillow_png(label, 9), decode_grey),
    "png_no_filter": (png_without_filter, decode_grey),
    "zlib": (lambda label: zlib.compress(label.tobytes()), decode_zlib),
    "raw": (lambda label: label.tobytes(), lambda raw: tf.io.decode_raw(raw, tf.uint8)),
}


def label_encodings(labels: list[np.ndarray]) -> dict:
    """Returns encoding -> milliseconds to decode, and kilobytes, a label."""
    variants, sizes = {}, {}
    turns = -(-FLAGS.images // len(labels))
    for name, (encode, decode) in LABEL_ENCODINGS.items():
        encoded = [encode(label) for label in labels]
        sizes[name] = sum(map(len, encoded)) / len(encoded) / 1000
        labels_again = tf.data.Dataset.from_tensor_slices(encoded).repeat(turns)
        variants[name] = one_thread(labels_again.map(decode))
    times = milliseconds(variants, turns * len(labels))
    return {
        name: {"milliseconds": times[name], "kilobytes": round(size, 1)}
        for name, size in sizes.items()
    }


def jpeg_decoders(window: tuple) -> dict:
    """Returns name -> function from a JPEG to the pixels of a window."""
    offset, size = window

    def whole(**options):
        def decode(encoded):
            image = tf.io.decode_jpeg(encoded, channels=3, **options)
            return image[
                offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]
            ]

        return decode

    box = [*offset, *size]
    return {
        "whole": whole(),
        "window": lambda encoded: tf.image.decode_and_crop_jpeg(encoded, box, 3),
        "half_size": lambda encoded: tf.io.decode_jpeg(encoded, channels=3, ratio=2),
        "integer_fast": whole(dct_method="INTEGER_FAST"),
        "plain_upscaling": whole(fancy_upscaling=False),
    }


def resize_kernels(crop_size: int) -> dict:
    """Returns name -> function of (image, label) of the crop's half size."""
    size = tf.constant([crop_size, crop_size])

    return {
        "image_uint8": lambda image, label: tf.image.resize(image, size),
        "image_float32": lambda image, label: augment.resize_image(image, size),
        "label_tf_image": lambda image, label: tf.image.resize(label, size, "nearest"),
        "label_rows": lambda image, label: augment.resize_label(label, size),
    }


def tried_parts(data_dir: str, split: str, crop_size: int) -> dict:
    """Returns part -> alternative -> milliseconds an image on one thread."""
    records = endless_records(data_dir, split).take(FLAGS.images)
    keys = {tfrecord.IMAGE: tf.io.FixedLenFeature([], tf.string)}
    encoded = [
        tf.io.parse_single_example(record, keys)[tfrecord.IMAGE] for record in records
    ]
    examples = list(records.take(16).map(tfrecord.parse_example))
    labels = [example["label"].numpy()[..., 0] for example in examples]
    result = {"label_encodings": label_encodings(labels)}
    if tf.io.is_jpeg(encoded[0]):
        # A window in the middle, of a scale of 1, which all images hold.
        smallest = np.min([tf.image.extract_jpeg_shape(e)[:2] for e in encoded], axis=0)
        size = np.minimum(smallest, crop_size)
        decoders = jpeg_decoders(((smallest - size) // 2, size))
        images = tf.data.Dataset.from_tensor_slices(encoded).cache()
        runs = {n: one_thread(images.map(f)) for n, f in decoders.items()}
        result["jpeg_decoders"] = milliseconds(runs, len(encoded))
    half = crop_size // 2
    pair = tf.zeros([half, half, 3], tf.uint8), tf.zeros([half, half, 1], tf.uint8)
    pairs = tf.data.Dataset.from_tensors(pair).repeat(FLAGS.images)
    runs = {n: one_thread(pairs.map(f)) for n, f in resize_kernels(crop_size).items()}
    result["resize_to_twice_the_size"] = milliseconds(runs, FLAGS.images)
    return result


def tried_options(data_dir: str, split: str, crop_size: int) -> dict:
    """Returns name -> dataset: the full pipeline under other settings."""

    def with_options(**values):
        options = tf.data.Options()
        for path, value in values.items():
            group, _, name = path.partition("__")
            setattr(getattr(options, group), name, value)
        return full(data_dir, split, crop_size).with_options(options)

    with mock.patch.object(tf.data, "AUTOTUNE", os.cpu_count()):
        calls_like_cores = full(data_dir, split, crop_size)
    narrow = full(data_dir, split, crop_size).map(
        lambda image, label: (tf.cast(image + 0.5, tf.uint8), label)
    )
    cached = endless_records(data_dir, split).take(FLAGS.images).cache().repeat()
    return {
        "full": full(data_dir, split, crop_size),
        "calls_like_cores": calls_like_cores,
        "private_threads": with_options(
            threading__private_threadpool_size=os.cpu_count()
        ),
        "one_thread_an_op": with_options(threading__max_intra_op_parallelism=1),
        "batch_as_own_step": with_options(
            experimental_optimization__map_and_batch_fusion=False
        ),
        "uint8_batches": narrow,
        "unequal_mean_color": full(
            data_dir, split, crop_size, mean_color=(123.7, 116.8, 103.9)
        ),
        "records": endless_records(data_dir, split).batch(FLAGS.batch_size),
        "cached_records": cached.batch(FLAGS.batch_size),
    }


# What is run ------------------------------------------------------------------------


def run_stages(data_dir: str, split: str, crop_size: int, context: dict) -> None:
    times = time_by_turns(make_stages(data_dir, split, crop_size))
    print_rates(times, context)
    ratios = {
        **compare(times, "full", "decode"),
        **compare(times, "full", "straightforward"),
    }
    print(json.dumps({**context, **ratios}), flush=True)
    steps = profile(data_dir, split, crop_size)
    print(json.dumps({**context, "profile": steps}), flush=True)


def run_alternatives(data_dir: str, split: str, crop_size: int, context: dict) -> None:
    times = time_by_turns(tried_options(data_dir, split, crop_size))
    print_rates(times, context)
    for name in times:
        if name not in ("full", "records", "cached_records"):
            print(json.dumps({**context, **compare(times, name, "full")}), flush=True)
    ratios = compare(times, "cached_records", "records")
    parts = tried_parts(data_dir, split, crop_size)
    print(json.dumps({**context, **ratios, "alternatives": parts}), flush=True)


def run_on_cores(data_dir: str, split: str, crop_size: int, context: dict) -> None:
    """Prints what FLAGS.cores cores make of the training pipeline."""
    policies = ["paper"]
    if importlib.util.find_spec("keras_cv"):
        policies.append("strong")
    datasets = {p: full(data_dir, split, crop_size, policy=p) for p in policies}
    for policy, (seconds, processors) in time_by_turns(datasets).items():
        rate = 1 / statistics.median(seconds)
        row = {
            "policy": policy,
            "cores": FLAGS.cores,
            "images_per_second": round(rate, 1),
            "images_per_second_a_core": round(rate / FLAGS.cores, 1),
            "processor_milliseconds": round(1000 * statistics.median(processors), 3),
        }
        print(json.dumps({**context, **row}), flush=True)


def main(argv):
    del argv
    if FLAGS.data_dir:
        runs = [(FLAGS.data_dir, FLAGS.split, FLAGS.crop_size)]
    else:
        runs = []
        for name, (*_, crop_size) in DRAWN.items():
            folder = Path(FLAGS.drawn_dir).expanduser() / name
            if not folder.is_dir():
                draw_records(name, folder)
            runs.append((str(folder), "train", crop_size))
    machine = {"tensorflow": tf.__version__, **cpu_description()}
    print(json.dumps({"benchmark": "input_pipeline", **machine}), flush=True)
    run = run_alternatives if FLAGS.alternatives else run_stages
    if FLAGS.cores:
        run = run_on_cores
    for data_dir, split, crop_size in runs:
        run(
            data_dir, split, crop_size, {"data": Path(data_dir).name, "crop": crop_size}
        )


if __name__ == "__main__":
    app.run(main)
