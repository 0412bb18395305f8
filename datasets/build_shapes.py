"""Draws the embedded default data set: textured shapes in cluttered scenes.

    python -m datasets.build_shapes --output_dir=data/shapes

Nothing is downloaded. The class of an object is its outline and nothing else; colours
and textures say nothing of it. Objects of many sizes hide one another on a cluttered
background; see `sources.shapes`.
"""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from deeplab_tf.data.building import command_line
from deeplab_tf.data.building.dataset import build_dataset
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.records.info import DatasetInfo

from .sources.catalog import DATASETS
from .sources.shapes import draw_scene

JPEG_QUALITY = 92


def list_samples(split: str, num_scenes: int) -> list[Sample]:
    """Returns the samples of a split; their `image` says what `read_sample` draws."""
    names = [f"{split}_{index:05d}" for index in range(num_scenes)]
    return [Sample(name, image=name, label=name) for name in names]


def read_sample(sample: Sample, seed: int) -> tuple[bytes, np.ndarray]:
    """Draws the scene of a sample.

    Returns:
      The bytes of a JPEG file, and the label uint8 [height, width].
    """
    split, index = sample.image.split("_")
    image, label = draw_scene(seed, split, int(index))
    buffer = io.BytesIO()
    # Without subsampling: halved colour would bleed over the edges of thin parts.
    options = dict(quality=JPEG_QUALITY, subsampling=0)
    Image.fromarray(image).save(buffer, format="JPEG", **options)
    return buffer.getvalue(), label


def build(
    output_dir: str | Path,
    *,
    num_train: int = 1200,
    num_val: int = 150,
    seed: int = 0,
    **options: Any,
) -> DatasetInfo:
    """Draws the data set and writes its records.

    Args:
      output_dir: folder to make.
      num_train: scenes of the split "train".
      num_val: scenes of the split "val".
      seed: 0 or more; another seed, other scenes.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: as `build_dataset`; or the seed is negative.
    """
    if seed < 0:
        raise DatasetError(f"Expected a seed of 0 or more. Received: {seed}")
    splits = {
        "train": list_samples("train", num_train),
        "val": list_samples("val", num_val),
    }
    read = functools.partial(read_sample, seed=seed)
    return build_dataset(output_dir, DATASETS["shapes"], splits, read, **options)


def define_flags() -> None:
    command_line.define_flags()
    flags.DEFINE_integer("num_train", 1200, "Number of scenes in the split train.")
    flags.DEFINE_integer("num_val", 150, "Number of scenes in the split val.")
    flags.DEFINE_integer("seed", 0, "Seed of the scenes: another one draws others.")


def main() -> None:
    args = flags.FLAGS
    build(
        args.output_dir,
        num_train=args.num_train,
        num_val=args.num_val,
        seed=args.seed,
        **command_line.flag_options(),
    )


def run() -> None:
    command_line.run_builder(define_flags, main)


if __name__ == "__main__":
    run()
