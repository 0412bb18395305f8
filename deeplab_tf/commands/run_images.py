"""Images that a run's exports are calibrated on, compared on and measured on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from deeplab_tf.config import TrainConfig
from deeplab_tf.data.reading.pipeline import make_eval_dataset
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.exports.agreement import example_images
from deeplab_tf.exports.calibration import hold_out, others
from deeplab_tf.networks.models import MIN_IMAGE_SIZE
from deeplab_tf.pictures.images import read_image
from deeplab_tf.prediction.input_files import find_inputs, is_video

NUM_IMAGES = 4  # to compare on
CALIBRATION_IMAGES = 100


def read_images(pattern: str, count: int = CALIBRATION_IMAGES) -> list[np.ndarray]:
    """First images that a file, folder or pattern stands for, RGB uint8 [h, w, 3].

    Raises:
      OSError: there are none, or one cannot be read.
      ValueError: one cannot be used.
    """
    paths = [path for path in find_inputs(pattern) if not is_video(path)]
    return [read_image(path, MIN_IMAGE_SIZE) for path in paths[:count]]


def labelled_images(
    config: TrainConfig, count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """First images and labels of the run's evaluation split; -1 is all.

    Raises:
      FileNotFoundError: its records are not here.
    """
    dataset = make_eval_dataset(select_records(config.data_dir, config.eval_split))
    pairs = dataset.take(count).as_numpy_iterator()
    return [(image[0], label[0]) for image, label in pairs]


def split_images(
    config: TrainConfig, split: str, count: int = NUM_IMAGES
) -> list[np.ndarray]:
    """First images of a split of a run; none where its records are not here."""
    config = dataclasses.replace(config, eval_split=split)
    try:
        return [image for image, _ in labelled_images(config, count)]
    except FileNotFoundError:
        return []


def int8_images(
    config: TrainConfig, images: Sequence[np.ndarray] | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Chooses images to calibrate on, and others to compare on.

    Args:
      config: of the run.
      images: the user's, or None.

    Returns:
      (calibration, comparison); where nothing is left to compare on, the images of the
      run's evaluation split, and drawn ones where its records are not here.
    """
    if images is None:
        calibration = split_images(config, config.train_split, CALIBRATION_IMAGES)
        compared = []
        if config.train_split == config.eval_split:
            calibration, compared = hold_out(calibration, NUM_IMAGES)
    else:
        calibration, compared = hold_out(images, NUM_IMAGES)
    for other in (
        functools.partial(split_images, config, config.eval_split),
        example_images,
    ):
        compared = compared or others(other(), calibration)
    return calibration, compared
