"""A network of random weights and its steps, for the benchmarks that time them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from deeplab_tf.config import TrainConfig
from deeplab_tf.networks.folding import fold_batch_norm
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.precision import precision_policy
from deeplab_tf.training.compiling import compile_model

NUM_CLASSES = 21


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, and what it is given.

    Attributes:
      model, backbone, precision: as in `TrainConfig`.
      size: (height, width) of the images, pixels.
      batch_size: images of a training step.
    """

    model: str = "deeplab_v3"
    backbone: str = "resnet50"
    size: tuple[int, int] = (513, 513)
    batch_size: int = 2
    precision: str = "float32"

    @property
    def title(self) -> str:
        height, width = self.size
        network = f"{self.model}, {self.backbone}, {height} x {width}"
        return f"{network}, batch {self.batch_size}, {self.precision}"

    @property
    def config(self) -> TrainConfig:
        return TrainConfig(
            model=self.model,
            backbone=self.backbone,
            num_classes=NUM_CLASSES,
            crop_size=self.size,
            precision=self.precision,
            steps=1000,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each field of `Case`."""
    for field in dataclasses.fields(Case):
        if field.name != "size":
            parser.add_argument(
                f"--{field.name}", type=type(field.default), default=field.default
            )
    parser.add_argument("--size", default="513,513", help="height,width")


def case_of(args: argparse.Namespace) -> Case:
    """The case that the flags of `add_arguments` name."""
    values = {
        field.name: getattr(args, field.name) for field in dataclasses.fields(Case)
    }
    size = tuple(int(side) for side in args.size.split(","))
    return Case(**{**values, "size": size})


def training_step(case: Case) -> Callable[[], object]:
    """A function that trains one step on the same batch."""
    with precision_policy(case.precision):
        model = build_model(case.config, auxiliary_outputs=True)
        compile_model(model, case.config)
    image, label = batch(case.batch_size, case.size)
    return lambda: model.train_on_batch(image, label)


def forward_pass(case: Case) -> Callable[[], object]:
    """A function that asks for the classes of one image; BatchNorm is folded."""
    with precision_policy(case.precision):
        model = fold_batch_norm(build_model(case.config))
    image, _ = batch(1, case.size)
    classes = tf.function(
        lambda image: tf.argmax(model(image, training=False), -1, tf.int32)
    )
    return lambda: classes(image).numpy()


def batch(count: int, size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Random images float32 [B, h, w, 3], 0 to 255, and labels int32 [B, h, w]."""
    generator = np.random.default_rng(0)
    image = generator.uniform(0, 255, [count, *size, 3]).astype(np.float32)
    label = generator.integers(0, NUM_CLASSES, [count, *size], np.int32)
    return tf.constant(image), tf.constant(label)
