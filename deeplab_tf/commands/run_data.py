"""What a run reads: its records are selected once, and carried to whoever reads."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from deeplab_tf.config import TrainConfig
from deeplab_tf.config_checks import check_fields
from deeplab_tf.data.reading.pipeline import (
    Share,
    fill_batch,
    make_eval_dataset,
    make_eval_share,
    make_train_dataset,
)
from deeplab_tf.data.reading.policies import (
    POLICY_FIELDS,
    Crop,
    find_policy,
    make_augmenter,
)
from deeplab_tf.data.reading.selection import Selection, select_records
from deeplab_tf.data.records.info import DatasetInfo, read_info
from deeplab_tf.networks.backbones import find_backbone
from deeplab_tf.networks.layers import mean_color
from deeplab_tf.training.losses import BALANCES, balanced_class_weights

NUM_PANELS = 4
NUM_LABELS_LOOKED_AT = 32


@dataclasses.dataclass(frozen=True, eq=False)
class RunData:
    """The data of a run, as `training.loop.Data` describes it.

    Attributes:
      training: the records of training.
      validation: the records of validation.
      crop: how an image of training is cropped and changed.
      batch_size: images of a training step, over all replicas.
      seed: of the order of the records and of their augmentation.
    """

    training: Selection
    validation: Selection
    crop: Crop
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """One pass over the training split, duplicates of hard classes included."""
        return max(1, self.training.num_examples // self.batch_size)

    @property
    def num_validation(self) -> int:
        return self.validation.num_examples

    @property
    def num_skipped(self) -> int:
        return self.training.num_skipped + self.validation.num_skipped

    @property
    def report(self) -> str:
        """What a user should know of how the records were selected; "" if nothing."""
        return "\n".join(filter(None, [self.training.report, self.validation.report]))

    def train_batches(self, start_step: int = 0, **share: int) -> tf.data.Dataset:
        """See `pipeline.make_train_dataset`; a share is the fields of `Share`."""
        return make_train_dataset(
            self.training,
            self.crop,
            batch_size=self.batch_size,
            seed=self.seed,
            start_step=start_step,
            share=Share(**share),
        )

    def validation_batches(self, batch_size: int = 1) -> tf.data.Dataset:
        """See `pipeline.make_eval_dataset`; batches are filled up with void images."""
        dataset = make_eval_dataset(self.validation, batch_size=batch_size)
        if batch_size == 1:
            # Keras warns that data ran out where it cannot know how much there is.
            return dataset.apply(
                tf.data.experimental.assert_cardinality(self.num_validation)
            )
        return dataset.map(
            functools.partial(
                fill_batch, batch_size=batch_size, ignore_label=self.crop.ignore_label
            )
        )

    def validation_share(self, **share: int) -> tf.data.Dataset:
        """See `pipeline.make_eval_share`; a share is the fields of `Share`."""
        return make_eval_share(
            self.validation, Share(**share), ignore_label=self.crop.ignore_label
        )

    def void_share(self) -> float:
        """The share of void pixels in the first training labels, 0 to 1."""
        examples = make_eval_dataset(self.training).take(NUM_LABELS_LOOKED_AT)
        void = pixels = 0
        for _, label in examples:
            void += int(np.sum(label.numpy() == self.crop.ignore_label))
            pixels += int(tf.size(label))
        return void / max(1, pixels)

    def panels(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The first images and labels of validation."""
        examples = make_eval_dataset(self.validation).take(NUM_PANELS)
        return [(image[0].numpy(), label[0].numpy()) for image, label in examples]


def select_run_data(config: TrainConfig) -> tuple[TrainConfig, RunData]:
    """Selects the records of a run, and completes its config by what they hold.

    Args:
      config: its `data_dir` is a folder of records.

    Returns:
      The config with the classes of its data set, and with both epochs and steps; and
      the data.

    Raises:
      FileNotFoundError: no data set there.
      ImportError: the policy needs keras-cv, which is not installed.
      ValueError: a split holds no examples, or an option does not fit the records.
    """
    info = read_info(config.data_dir)
    _check_splits(info, config)
    config = _with_classes(config, info)
    crop = _crop_of(config)
    make_augmenter(crop)  # says now, and not after the model is built, what it lacks
    skip, policy = config.skip_bad_records, crop.row
    data = RunData(
        training=select_records(
            config.data_dir,
            config.train_split,
            skip_bad_records=skip,
            duplicate=config.duplicate,
            min_class_pixels=config.min_class_pixels,
            min_labelled_pixels=config.min_labelled_pixels,
            class_uniform=policy.class_uniform,
            paste_classes=policy.paste_classes if policy.copy_paste else (),
        ),
        validation=select_records(
            config.data_dir, config.eval_split, skip_bad_records=skip
        ),
        crop=crop,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    steps = config.steps or config.epochs * data.steps_per_epoch
    epochs = -(-steps // data.steps_per_epoch)
    return dataclasses.replace(config, steps=steps, epochs=epochs), data


def _check_splits(info: DatasetInfo, config: TrainConfig) -> None:
    for split in (config.train_split, config.eval_split):
        if not info.splits.get(split):
            raise ValueError(
                f"{config.data_dir} has no examples in split {split!r}. It has: "
                f"{info.splits}"
            )
        counts = info.pixel_counts.get(split)
        if counts is not None and not any(counts):
            raise ValueError(
                f"{config.data_dir} has no labelled pixel in split {split!r}: all are "
                f"{info.ignore_label}, which counts nowhere. Look at the masks and at "
                "--ignore_label of the command that built the data set, or name "
                "another split by --set=eval_split=... or --set=train_split=..."
            )


def _with_classes(config: TrainConfig, info: DatasetInfo) -> TrainConfig:
    """Takes the classes of the records.

    Raises:
      ValueError: the config has other ones already, or weights of other classes.
    """
    for field in dataclasses.fields(config):
        if field.name not in ("num_classes", "class_names", "colormap", "ignore_label"):
            continue
        given, found = getattr(config, field.name), getattr(info, field.name)
        if given not in (field.default, found):
            raise ValueError(
                f"{field.name} is that of the records, {found!r} by the info.json of "
                f"{config.data_dir}. Received: {given!r}. Leave it out, or build the "
                "data set again with other classes."
            )
    weights = config.class_weights
    if isinstance(weights, str):
        counts = info.pixel_counts[config.train_split]
        weights = tuple(balanced_class_weights(counts, BALANCES[weights]))
    config = dataclasses.replace(
        config,
        class_weights=weights,
        num_classes=info.num_classes,
        class_names=info.class_names,
        colormap=info.colormap,
        ignore_label=info.ignore_label,
    )
    check_fields(config)
    return config


def _crop_of(config: TrainConfig) -> Crop:
    """Pads have the colour that the network's normalization makes zero."""
    mode = config.normalization or find_backbone(config.backbone).normalization
    return Crop(
        config.crop_size,
        find_policy(config.policy).but(
            **{name: getattr(config, name) for name in POLICY_FIELDS}
        ),
        mean_color=mean_color(mode),
        ignore_label=config.ignore_label,
    )
