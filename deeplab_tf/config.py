"""What a run is: `TrainConfig`, saved beside its checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.command_names import call_of, did_you_mean
from deeplab_tf.config_checks import check_fields, check_value
from deeplab_tf.files import atomic_write

IMPORTED = "_weights"  # how the "recipe" of an imported network ends


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run, flat. Everything a script needs to rebuild and judge its model.

    Attributes:
      recipe: the row of `recipes.RECIPES` it started from.
      model: a row of `models.MODELS`.
      backbone, output_stride, multi_grid, atrous_rates, image_pooling, separable,
        dropout_rate, input_scales, multi_scale_features, cascade_blocks, head_filters,
        decoder_output_stride: arguments of models, which take those they have; None is
        the model's own.
      auxiliary_head: whether DeepLabV3, V3+ and the cascade train with an FCN head in
        front of the last stage too, as torchvision's always does; it is left out
        afterwards.
      scale_losses: where DeepLabV2's scales have their losses: "input", at the size of
        the image, or "own", at each scale's resolution; see `models.DeepLabV2`.
      strided_padding, resize, normalization, scale_resize, multi_grid_rates: see
        `blocks.LayerDefaults`.
      num_classes, class_names, colormap, ignore_label: of the data set; one RGB triple
        per class.
      data_dir, train_split, eval_split: records and which of them to use.
      init: "", "imagenet", a keras.applications file, a workdir or a weight file.
      crop_size: (height, width) of training crops, pixels.
      policy: augmentation, a row of `data.reading.policies.POLICIES`.
      min_scale, max_scale, scale_step, flip, vertical_flip, quarter_turns,
        rotation_degrees, jpeg_quality, erasing, max_class_share, copy_paste,
        paste_classes, class_uniform: fields of a policy, see
        `data.reading.policies.Policy`; None is its own value.
      duplicate: (class name, factor) pairs: bootstrapping of hard classes, see
        `data.reading.bootstrap`.
      min_class_pixels: images with fewer pixels of such a class are not duplicated.
      min_labelled_pixels: images with fewer pixels that are not background are left
        out of training.
      skip_bad_records: whether corrupt records are left out instead of ending the run.
      batch_size: images a step over all replicas.
      epochs: passes over the training split; used when steps is 0.
      steps: training steps, batches, in all.
      validate_every: epochs between validations.
      patience: validations without a better mean IoU after which the run ends early;
        0 trains all steps.
      checkpoint_steps: training steps between checkpoints; there is one after every
        epoch as well.
      optimizer: a name for `optimizers.make_optimizer`: "sgd", the papers', "adam",
        quicker on short runs from scratch, ...
      auxiliary_weight: of the losses of outputs that only training has; torchvision
        weights its auxiliary head by 0.5, DeepLabV2 its scales by 1.
      learning_rate: at the start of the schedule.
      schedule: "poly", learning_rate * (1 - update / updates) ** poly_power; "cosine",
        half a cosine; or "step", a tenth of it every decay_steps updates, as DeepLabV1.
      poly_power, decay_steps: see schedule.
      end_fraction: the rate after the last update over learning_rate.
      warmup_steps: updates over which a factor of the rate rises to 1.
      warmup_fraction: that factor at the first update.
      decay_after_warmup: whether the schedule begins after the warm-up, at its full
        rate, instead of falling under it from the first update on.
      head_multiplier, head_bias_multiplier: learning rate of the head's weights and
        biases over that of the rest; 10 and 20 in DeepLabV2.
      head_layers: what these two cover: "classifier", the layers whose shape depends on
        the classes; or "head", as the authors' last_layer_gradient_multiplier: ASPP,
        projection, decoder and auxiliary layers too, BatchNorm included.
      backbone_multiplier: learning rate of the backbone over that of the rest.
      momentum: of SGD.
      clip_norm: largest global norm of the gradient.
      ema_momentum: of an average of the weights, which is validated and saved.
      batch_norm_batches: training batches from which BatchNorm's statistics are
        estimated anew for what is validated and saved; 0 takes those of training.
      accumulation_steps: batches to an update; `steps` counts batches.
      loss: a row of `training.losses.LOSSES` or its short name, or a sum such as
        "ce+0.5*lovasz". The fields up to weight_decay are options of losses: a loss
        takes those it has, and refuses the others.
      class_weights: one a class in the loss; train.py turns "balanced" and
        "balanced_sqrt" into numbers, see `losses.BALANCES`.
      label_stride: 8 compares at every 8th pixel, as DeepLabV1 and V2 do.
      hard_pixel_fraction, hard_mining_steps: see `losses.SegmentationLoss`.
      label_smoothing: see there.
      boundary_width, boundary_weight: see `losses.BoundaryLoss`.
      focal_gamma: see `losses.FocalLoss`.
      ohem_threshold, ohem_min_kept: see `losses.OhemLoss`.
      tversky_alpha, tversky_beta: see `losses.TverskyLoss`.
      teacher: workdir of a trained network of the same classes, or a published name: it
        is distilled into this one, see `training.teachers`.
      teacher_weight, teacher_temperature: of its term of the loss, see
        `losses.distillation.distillation_loss`.
      teacher_sha256: of the teacher's weights; train.py fills it in.
      weight_decay: lambda of the papers, in the loss; see `blocks.LayerDefaults`.
      decoupled_weight_decay: of optimizers that have one of their own (adamw), on the
        same weights; set weight_decay to 0 with it.
      batch_norm_momentum: decay of the moving statistics; None is each layer's own.
      frozen_batch_norm: BatchNorm stays in inference mode: the papers' second stage;
        "backbone" spares the head's, see `blocks.LayerDefaults`.
      precision: float32, bfloat16 or float16 (mixed, variables stay float32).
      jit_compile: whether XLA compiles the training step; "auto" is yes on one
        GPU, see `compiling.is_jit_compiled`.
      recompute: whether features are computed again for the gradient instead of kept:
        less memory for more time (docs/benchmarks.md); see `networks.recomputation`.
      deterministic: whether the same machine gives the same numbers, bit for bit, every
        time: TensorFlow's op determinism, which takes slower kernels, and no XLA.
      seed: of weights, data order and augmentation.
    """

    recipe: str = "custom"
    model: str = "deeplab_v3"
    backbone: str = "resnet50"
    output_stride: int = 16
    multi_grid: tuple[int, ...] | None = None
    atrous_rates: tuple[int, ...] | None = None
    image_pooling: bool = True
    separable: bool | None = None
    dropout_rate: float = 0.0
    input_scales: tuple[float, ...] | None = None
    multi_scale_features: bool = False
    cascade_blocks: int | None = None
    head_filters: int | None = None
    decoder_output_stride: tuple[int, ...] | None = None
    auxiliary_head: bool = False
    scale_losses: str = "input"
    strided_padding: str = "symmetric"
    resize: str = "aligned"
    normalization: str | None = None
    scale_resize: str = "aligned"
    multi_grid_rates: str = "stage"
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    colormap: tuple[tuple[int, int, int], ...] = ()
    ignore_label: int = IGNORE_LABEL
    data_dir: str = ""
    train_split: str = "train"
    eval_split: str = "val"
    init: str = ""
    crop_size: tuple[int, int] = (513, 513)
    policy: str = "paper"
    min_scale: float | None = None
    max_scale: float | None = None
    scale_step: float | None = None
    flip: bool | None = None
    vertical_flip: bool | None = None
    quarter_turns: bool | None = None
    rotation_degrees: float | None = None
    jpeg_quality: int | None = None
    erasing: float | None = None
    max_class_share: float | None = None
    copy_paste: float | None = None
    paste_classes: tuple[str, ...] | str | None = None
    class_uniform: bool | None = None
    duplicate: tuple[tuple[str, int], ...] = ()
    min_class_pixels: int = 1
    min_labelled_pixels: int = 0
    skip_bad_records: bool = False
    batch_size: int = 16
    epochs: int = 50
    steps: int = 0
    validate_every: int = 1
    patience: int = 0
    checkpoint_steps: int = 1000
    optimizer: str = "sgd"
    auxiliary_weight: float = 0.5
    learning_rate: float = 0.007
    schedule: str = "poly"
    poly_power: float = 0.9
    decay_steps: int = 2000
    end_fraction: float = 0.0
    warmup_steps: int = 0
    warmup_fraction: float = 0.0
    decay_after_warmup: bool = False
    head_multiplier: float = 1.0
    head_bias_multiplier: float = 1.0
    head_layers: str = "classifier"
    backbone_multiplier: float = 1.0
    momentum: float = 0.9
    clip_norm: float | None = None
    ema_momentum: float | None = None
    batch_norm_batches: int = 0
    accumulation_steps: int = 1
    loss: str = "cross_entropy"
    class_weights: tuple[float, ...] | str | None = None
    label_stride: int = 1
    hard_pixel_fraction: float = 1.0
    hard_mining_steps: int = 0
    label_smoothing: float = 0.0
    boundary_width: int = 3
    boundary_weight: float = 5.0
    focal_gamma: float = 2.0
    ohem_threshold: float = 0.7
    ohem_min_kept: int = 10_000
    tversky_alpha: float = 0.3
    tversky_beta: float = 0.7
    teacher: str = ""
    teacher_weight: float = 1.0
    teacher_temperature: float = 1.0
    teacher_sha256: str = ""
    weight_decay: float = 1e-4
    decoupled_weight_decay: float = 0.0
    batch_norm_momentum: float | None = None
    frozen_batch_norm: bool | str = False
    precision: str = "float32"
    jit_compile: bool | str = "auto"
    recompute: bool = False
    deterministic: bool = False
    seed: int = 0

    @property
    def is_imported(self) -> bool:
        """Whether it is of a network of another project, which no run of ours made."""
        return self.recipe.endswith(IMPORTED)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Reads `to_json`; lists become tuples again.

        Raises:
          ValueError: not JSON of a configuration, fields this version does not know, or
            values that a field cannot have.
        """
        try:
            values = json.loads(text)
        except RecursionError:
            raise ValueError("its lists are nested without end") from None
        if not isinstance(values, dict):
            raise ValueError(
                f"Expected the fields of TrainConfig. Received: {text[:80]!r}"
            )
        unknown = sorted(values.keys() - {field.name for field in _fields()})
        if unknown:
            raise ValueError(
                f"Expected the fields of TrainConfig. Unknown: {unknown[:10]}."
                f"{did_you_mean(unknown[0], [field.name for field in _fields()])}"
            )
        values = {**BEFORE_THE_FIELD, **values}
        config = cls(**{name: _tuples(value) for name, value in values.items()})
        check_fields(config)
        return config


def _fields() -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(TrainConfig)


# Fields that say what the network computes. A run that starts from a workdir takes them
# from there.
NETWORK_FIELDS = (
    "model backbone multi_grid atrous_rates image_pooling separable dropout_rate "
    "input_scales multi_scale_features cascade_blocks head_filters "
    "decoder_output_stride strided_padding resize normalization scale_resize "
    "multi_grid_rates"
).split()

# Those of them that a backbone was trained with, whatever head comes on it.
BACKBONE_FIELDS = ("backbone", "strided_padding", "normalization")

# What a network computes whose config.json does not say so: fields that came later, as
# the versions before them computed.
BEFORE_THE_FIELD = {"scale_resize": "half_pixel", "multi_grid_rates": "entry"}

# Fields that say how a run is computed, shown or ended, and change nothing of what a
# step learns: a run goes on with others.
EXECUTION_FIELDS = ("colormap", "jit_compile", "recompute", "deterministic", "patience")


def parse_changes(changes: Sequence[str]) -> dict:
    """["multi_grid=[1, 2, 1]", "init=imagenet"] -> {field: value}.

    Values are JSON; what is not JSON is text, and so is a number where a field takes
    text alone.

    Raises:
      ValueError: no such field, no "=", or a value that the field cannot have.
    """
    fields = {field.name: field for field in _fields()}
    parsed = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in fields:
            meant = did_you_mean(name, fields) if name not in fields else ""
            known = f" Fields: {', '.join(sorted(fields))}"
            raise ValueError(
                "Expected FIELD=VALUE with a field of TrainConfig. Received: "
                f"{change!r}.{meant or known}"
            )
        try:
            value = _tuples(json.loads(text))
        except (json.JSONDecodeError, RecursionError):
            value = text
        if fields[name].type == "str" and not isinstance(value, str):
            value = text
        check_value(fields[name], value)
        parsed[name] = value
    return parsed


def config_path(workdir: str | os.PathLike) -> str:
    return os.path.join(workdir, "config.json")


def write_config(config: TrainConfig, workdir: str | os.PathLike) -> None:
    """Writes `<workdir>/config.json`, atomically; makes the folder where needed."""
    os.makedirs(workdir, exist_ok=True)
    with atomic_write(config_path(workdir)) as file:
        file.write(config.to_json())


def read_config(workdir: str | os.PathLike) -> TrainConfig:
    """Reads `<workdir>/config.json`.

    Raises:
      FileNotFoundError: the folder is not the workdir of a run.
      ValueError: the file is damaged or of another version.
    """
    path = config_path(workdir)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{os.fspath(workdir)} is not a workdir: it has no config.json. "
            f"Run: {call_of('train')} --workdir=..."
        )
    with open(path, encoding="utf-8") as file:
        try:
            return TrainConfig.from_json(file.read())
        except ValueError as error:
            raise ValueError(f"{path} is not a configuration: {error}") from error


def describe_difference(old: TrainConfig, new: TrainConfig) -> str:
    """Lists the fields in which two configurations differ, a line each, or ""."""
    old_values, new_values = dataclasses.asdict(old), dataclasses.asdict(new)
    return "\n".join(
        f"  {name}: {old_values[name]!r} -> {new_values[name]!r}"
        for name in old_values
        if old_values[name] != new_values[name]
    )


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
