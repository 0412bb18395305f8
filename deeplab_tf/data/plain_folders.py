"""Folders of images and masks -> batches for `model.fit`, without records in between.

    from deeplab_tf.data import from_folder
    train = from_folder("my_set", split="train", crop_size=257, batch_size=8)
    model = DeepLabV3(num_classes=train.num_classes)
    model.fit(train, validation_data=from_folder("my_set", split="val"), epochs=50)

Pairs are found, read and checked as `datasets.build_folder` does it. Each epoch decodes
the files again: for large sets, and for runs that go on where they were broken off,
build records.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab_tf.data.annotations import pairing, tools
from deeplab_tf.data.annotations.found import Found, Options
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.image_files import read_image
from deeplab_tf.data.building.pairs import Sample, check_image, check_pair
from deeplab_tf.data.folders import class_map, folder_splits
from deeplab_tf.data.folders.label_rules import (
    LabelRules,
    choose_classes,
    merged_classes,
)
from deeplab_tf.data.reading.pipeline import batch_by_size
from deeplab_tf.data.reading.policies import Crop, make_augmenter
from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.strangers_words import first_ten

Read = Callable[[Sample], tuple[np.ndarray, np.ndarray]]


def from_folder(
    images: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    *,
    split: str | None = None,
    batch_size: int = 8,
    crop_size: int | tuple[int, int] | None = None,
    policy: str = "paper",
    class_names: str | os.PathLike | Sequence[str] | None = None,
    num_classes: int | None = None,
    label_ids: Sequence[int] = (),
    ignore_label: Sequence[int] = (),
    label_colors: str | os.PathLike | None = None,
    class_map_file: str | os.PathLike | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    exif_orientation: str = "refuse",
) -> tf.data.Dataset:
    """Reads pairs of images and labels from plain folders, in batches for `model.fit`.

    With `crop_size` the batches are for training: in another order each epoch, scaled,
    cropped and mirrored at random by `policy`. Without it they are for validation:
    whole images in their order, each batch of one size.

    Args:
      images: folder of images; or, without `labels`, a folder with both in it, such as
        an annotation tool exports (`data.annotations.tools`).
      labels: folder of masks that are named as the images are.
      split: "train", "val" or another one that the folders name; where they name none,
        `val_fraction` of the pairs are "val" and the others "train". None takes all.
      batch_size: images in a batch; the last one may be smaller.
      crop_size: pixels of a side, or (height, width).
      policy: a row of `data.reading.policies.POLICIES`.
      class_names: names, or a file of them, or a published data set; see `class_lists`.
      num_classes: default: that of the names, or the highest id plus 1.
      label_ids: stored ids of class 0, of class 1 and so on; (0, 255) for masks of
        black and white.
      ignore_label: stored ids of pixels without a class; 255 is one too.
      label_colors: file that says which colour of a mask is which class.
      class_map_file: file that merges and drops classes; see `class_map`.
      val_fraction: see `split`.
      seed: 0 or more; of the choice of pairs for val, of order and augmentation.
      exif_orientation: "refuse", "apply" or "ignore"; see `image_files.read_image`.

    Returns:
      (image float32 [n, height, width, 3], RGB in 0..255; label int32 [n, height,
      width], ids in [0, num_classes) or 255 where ignored). The dataset has the
      attributes class_names, num_classes, colormap and num_examples.

    Raises:
      DatasetError: nothing is found, or several readings; there is no such split; or
        pairs that cannot be read or do not fit, the first ten by name. It is a
        ValueError.
      ImportError: the policy needs keras-cv, which is not installed.
      ValueError: a size, the seed or the policy is out of range.
    """
    if batch_size < 1 or seed < 0:
        raise ValueError(
            "Expected a batch_size of 1 or more and a seed of 0 or more. Received: "
            f"batch_size={batch_size}, seed={seed}"
        )
    names = class_names
    if names is not None and not isinstance(names, (str, os.PathLike)):
        names = ",".join(names)
    rules = LabelRules(
        class_names=None if names is None else os.fspath(names),
        num_classes=num_classes,
        label_ids=tuple(label_ids),
        ignore_label=tuple(ignore_label),
        label_colors=None if label_colors is None else os.fspath(label_colors),
        class_map=None if class_map_file is None else os.fspath(class_map_file),
    )
    found = _find(images, labels, rules, val_fraction, seed, split)
    samples = _samples_of(found, split)
    classes, read_ids = _classes(found, os.fspath(images))
    info = DatasetInfo("folder", classes.names, colormap=classes.colors)
    read = _reader(read_ids, classes.class_ids, exif_orientation)
    _check(samples, read, info)
    dataset = _batches(samples, read, batch_size, crop_size, policy, seed)
    dataset.class_names, dataset.colormap = info.class_names, info.colormap
    dataset.num_classes, dataset.num_examples = info.num_classes, len(samples)
    return dataset


# --- Pairs and classes ---------------------------------------------------------------


def _find(images, labels, rules, val_fraction, seed, split) -> Found:
    """Returns the pairs, and all that is said of their classes."""
    if labels is not None:
        # Without a fraction to choose, all pairs of two flat folders are train.
        fraction = val_fraction if split else 0
        places = [(Path(images).expanduser(), Path(labels).expanduser())]
        known = all(folder.is_dir() for folder in places[0])
        endings = pairing.find_endings(places) if known else pairing.UNSAID
        splits = folder_splits.list_splits(images, labels, fraction, seed, *endings)
        return Found(splits, rules=rules)
    options = Options(class_names=rules.class_names or "")
    found = tools.understand(images, options=options).with_rules(rules)
    if list(found.splits) == [""] and split:
        splits = folder_splits.split_by_fraction(found.splits[""], val_fraction, seed)
        return found.with_splits(splits)
    return found


def _samples_of(found: Found, split: str | None) -> list[Sample]:
    """Returns the pairs of a split, or of all.

    Raises:
      DatasetError: there is no such split.
    """
    if split is None:
        # Lists such as trainval hold what others hold too.
        every = itertools.chain.from_iterable(found.splits.values())
        return list({sample.image: sample for sample in every}.values())
    if not found.splits.get(split):
        raise DatasetError(
            f"Expected a split of {', '.join(found.splits)}. Received: {split}"
        )
    return found.splits[split]


def _classes(found: Found, folder: str):
    """Returns the classes, and the function that reads a sample's stored ids."""
    if found.drawn is not None:
        return merged_classes(found.drawn.classes, found.rules), found.drawn.read_ids
    # In this process: a script or notebook need not guard its main module.
    samples = itertools.chain.from_iterable(found.splits.values())
    paths = [sample.label for sample in samples]
    return choose_classes(found.rules, paths, folder, num_processes=1)


def _reader(read_ids, class_ids: Sequence[int], exif_orientation: str) -> Read:
    """Returns a function: sample -> (image's bytes, label uint8 [height, width])."""

    def read(sample):
        label = class_map.convert_label(read_ids(sample.label), class_ids)
        return read_image(sample.image, exif_orientation), label

    return read


def _check(samples: Sequence[Sample], read: Read, info: DatasetInfo) -> None:
    """Reads every pair once.

    Raises:
      DatasetError: some cannot be used.
    """
    with ThreadPoolExecutor() as threads:
        results = threads.map(lambda sample: check_pair(sample, read, info), samples)
        bad = [f"{s.name}: {r}" for s, r in zip(samples, results) if isinstance(r, str)]
    if bad:
        listing = "\n  ".join(first_ten(bad))
        raise DatasetError(
            f"{len(bad)} of {len(samples)} pairs cannot be used:\n  {listing}"
        )


# --- Batches -------------------------------------------------------------------------


def _batches(
    samples: Sequence[Sample],
    read: Read,
    batch_size: int,
    crop_size: int | tuple[int, int] | None,
    policy: str,
    seed: int,
) -> tf.data.Dataset:
    """Returns batches of training where there is a size to crop to, or whole images."""

    def load(index):
        data, label = read(samples[index])
        check_image(data, samples[index].image)
        return data, label[..., np.newaxis]

    def decode(index):
        data, label = tf.numpy_function(load, [index], [tf.string, tf.uint8])
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
        label.set_shape([None, None, 1])
        return image, label

    indices = tf.data.Dataset.range(len(samples))
    if crop_size is None:
        examples = indices.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        return batch_by_size(examples.map(_as_fit_takes_it), batch_size).prefetch(2)
    size = (crop_size, crop_size) if isinstance(crop_size, int) else tuple(crop_size)
    crop = Crop(size, policy)
    if crop.row.needs_records:
        raise ValueError(
            "from_folder reads images one by one, in passes. Received: policy="
            f"{policy!r}, which chooses them. Build records, and train with train.py: "
            "python -m datasets.build_folder"
        )
    augment = make_augmenter(crop)

    def decode_and_augment(index, number):
        image, label = decode(index)
        example_seed = tf.stack([tf.constant(seed, tf.int64), number])
        return _as_fit_takes_it(*augment(image, label, example_seed))

    shuffled = indices.shuffle(len(samples), seed=seed, reshuffle_each_iteration=True)
    numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    examples = tf.data.Dataset.zip((shuffled, numbers)).map(
        decode_and_augment, num_parallel_calls=tf.data.AUTOTUNE
    )
    return examples.batch(batch_size).prefetch(2)


def _as_fit_takes_it(image: tf.Tensor, label: tf.Tensor):
    return tf.cast(image, tf.float32), tf.cast(tf.squeeze(label, 2), tf.int32)
