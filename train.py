"""Trains a DeepLab network on TFRecords.

The embedded drawn scenes, made on the first run:
    python train.py --strategy=mirrored
CamVid from ImageNet weights:
    python -m datasets.build_camvid --input_dir=CamVid --output_dir=runs/data/camvid
    python train.py --recipe=camvid_mobilenet_v2
Your own images and masks:
    python -m datasets.build_folder --input_dir=my_data --output_dir=runs/data/mine
    python train.py --recipe=finetune_resnet50 --data_dir=runs/data/mine

The same command run again resumes, after a kill too; Ctrl-C and SIGTERM save first. A
recipe is a row of deeplab_tf/config.py; flags change single values of it. To watch it:
tensorboard --logdir=runs
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
import re
import signal
import sys
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if re.search(r"--?strategy[= ](multi_worker|tpu)\b", " ".join(sys.argv)):
    # Keras 3 cannot run these strategies; Keras 2 must be chosen before TensorFlow is
    # imported.
    if importlib.util.find_spec("tf_keras"):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf
from absl import app, flags, logging
from tensorflow import keras

from datasets import build_shapes
from datasets.bootstrap import count_pixels, describe_repeats, record_repeats
from datasets.info import read_info
from datasets.pipeline import fill_batch, make_eval_dataset, make_train_dataset
from deeplab_tf import callbacks as run_callbacks
from deeplab_tf import config as configs
from deeplab_tf import training
from deeplab_tf.backbones import find_backbone
from deeplab_tf.checkpoints import list_checkpoints
from deeplab_tf.heads import scale_rates
from deeplab_tf.layers import mean_color
from deeplab_tf.losses import balanced_class_weights
from deeplab_tf.models import MIN_IMAGE_SIZE, MODELS, build_model
from deeplab_tf.optimizers import AveragedEvaluation, averaged_weights
from deeplab_tf.workdir import POLICIES, precision_policy

FLAGS = flags.FLAGS

# Flags that are fields of TrainConfig of the same name.
CONFIG_FLAGS = (
    "data_dir init model backbone output_stride crop_size batch_size epochs steps "
    "learning_rate weight_decay precision seed"
).split()
NUM_PANELS = 4


def define_flags():
    """Called by the script alone, so that tests can import several scripts."""
    flags.DEFINE_enum("recipe", "demo", sorted(configs.RECIPES), "Where to start from.")
    flags.DEFINE_string("data_dir", None, "Folder of TFRecords and info.json.")
    flags.DEFINE_string("workdir", None, "Folder of the run [runs/RECIPE].")
    flags.DEFINE_string(
        "init", None, "imagenet, a keras.applications file, a workdir or an .npz file."
    )
    flags.DEFINE_enum("model", None, sorted(MODELS), "Row of deeplab_tf.MODELS.")
    flags.DEFINE_string(
        "backbone", None, "Row of deeplab_tf.backbones.BACKBONES, mobilenet_v2_ALPHA."
    )
    flags.DEFINE_integer("output_stride", None, "8, 16 or 32; the cascade to 256.")
    flags.DEFINE_list(
        "crop_size", None, "Training crop: SIZE or HEIGHT,WIDTH in pixels."
    )
    flags.DEFINE_integer("batch_size", None, "Images a step, over all replicas.")
    flags.DEFINE_integer("epochs", None, "Passes over the training split.")
    flags.DEFINE_integer("steps", None, "Optimizer steps, instead of epochs.")
    flags.DEFINE_float("learning_rate", None, "At the start of the poly schedule.")
    flags.DEFINE_float("weight_decay", None, "Lambda of the papers.")
    flags.DEFINE_enum("strategy", "default", training.STRATEGIES, "How to distribute.")
    flags.DEFINE_integer("logical_cpus", 1, "Split the CPU into so many devices.")
    flags.DEFINE_enum("precision", None, sorted(POLICIES), "Of the computation.")
    flags.DEFINE_integer("seed", None, "Of weights, data order and augmentation.")
    flags.DEFINE_multi_string(
        "set", [], "Any other field of TrainConfig, such as multi_grid=[1,2,1]."
    )


def make_config(recipe: str, changes: dict) -> configs.TrainConfig:
    """Completes a recipe by flags and by what the data set's info.json says.

    Args:
      recipe: row of RECIPES.
      changes: field of TrainConfig -> value.

    Raises:
      FileNotFoundError: no data set there.
      ValueError: a value that does not make sense.
    """
    if changes.get("epochs") and "steps" not in changes:
        changes["steps"] = 0
    if "crop_size" in changes:
        changes["crop_size"] = parse_crop_size(changes["crop_size"])
    config = dataclasses.replace(configs.RECIPES[recipe], **changes)
    if os.path.isdir(config.init):
        config = continue_network(config, changes)
    embedded = recipe == "demo" and "data_dir" not in changes
    if embedded and not os.path.exists(config.data_dir):
        print(f"Drawing the embedded scenes into {config.data_dir} ...")
        build_shapes.build(config.data_dir)
    info = read_info(config.data_dir)
    for split in (config.train_split, config.eval_split):
        if not info.splits.get(split):
            raise ValueError(
                f"{config.data_dir} has no examples in split {split!r}. It has: "
                f"{info.splits}"
            )
    if min(config.crop_size) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"crop_size must be at least {MIN_IMAGE_SIZE} pixels a side. "
            f"Received: {config.crop_size}"
        )
    if config.class_weights == "balanced":
        weights = balanced_class_weights(info.pixel_counts[config.train_split])
        config = dataclasses.replace(config, class_weights=tuple(weights))
    steps = config.steps or config.epochs * steps_per_epoch(config, info)
    return dataclasses.replace(
        config,
        num_classes=info.num_classes,
        class_names=info.class_names,
        colormap=info.colormap,
        ignore_label=info.ignore_label,
        steps=steps,
        epochs=-(-steps // steps_per_epoch(config, info)),
    )


def continue_network(config: configs.TrainConfig, changes: dict) -> configs.TrainConfig:
    """Takes what is to be trained from the workdir it starts from, but for changes.

    Raises:
      FileNotFoundError, ValueError: `config.init` is not the workdir of a run.
    """
    trained = configs.read_config(config.init)
    fields = {
        name: getattr(trained, name)
        for name in configs.NETWORK_FIELDS
        if name not in changes
    }
    if fields.get("atrous_rates"):
        rates = fields["atrous_rates"]
        fields["atrous_rates"] = scale_rates(
            rates, trained.output_stride, config.output_stride
        )
    return dataclasses.replace(config, **fields)


def parse_crop_size(sizes: list[str]) -> tuple[int, int]:
    """["513"] -> (513, 513), ["769", "1537"] -> (769, 1537)."""
    try:
        height, width = [int(size) for size in sizes] * (2 if len(sizes) == 1 else 1)
    except ValueError:
        raise ValueError(
            f"crop_size must be SIZE or HEIGHT,WIDTH. Received: {','.join(sizes)}"
        ) from None
    return height, width


def steps_per_epoch(config: configs.TrainConfig, info) -> int:
    """One pass over the training split, duplicates of hard classes included."""
    repeats = training_repeats(config)
    examples = info.splits[config.train_split] if repeats is None else repeats.sum()
    return max(1, int(examples) // config.batch_size)


def training_repeats(config: configs.TrainConfig):
    """How often each training record comes in an epoch; None where each comes once."""
    if not config.duplicate and not config.min_labelled_pixels:
        return None
    # Not by the configuration, which is completed after the first count.
    return _count_repeats(
        config.data_dir,
        config.train_split,
        config.duplicate,
        config.min_class_pixels,
        config.min_labelled_pixels,
    )


@functools.lru_cache(maxsize=4)
def _count_repeats(data_dir, split, duplicate, min_class_pixels, min_labelled_pixels):
    repeats = record_repeats(
        count_pixels(data_dir, split),
        read_info(data_dir).class_names,
        duplicate=dict(duplicate),
        min_class_pixels=min_class_pixels,
        min_labelled_pixels=min_labelled_pixels,
    )
    print(describe_repeats(repeats))
    return repeats


def claim_workdir(config: configs.TrainConfig, workdir: str) -> None:
    """Writes config.json, or checks that it is the one of this run.

    Raises:
      ValueError: the workdir belongs to another configuration.
    """
    if not os.path.exists(configs.config_path(workdir)):
        configs.write_config(config, workdir)
        return
    difference = configs.describe_difference(configs.read_config(workdir), config)
    if difference:
        raise ValueError(
            f"{workdir} belongs to a run of another configuration ({difference}). "
            "Give another --workdir, or the flags of that run to resume it."
        )


def train(config: configs.TrainConfig, workdir: str, strategy) -> float | None:
    """Trains up to `config.steps`, resuming what the workdir holds.

    Returns:
      The last validation mean IoU; None when all was done before.

    Raises:
      RunStopped: a signal stopped it; all is saved.
      NonFiniteLoss: the loss is NaN or infinite.
      OSError: the disk is full.
    """
    info = read_info(config.data_dir)
    epoch_steps = steps_per_epoch(config, info)

    # The model, on every replica.
    keras.utils.set_random_seed(config.seed)
    with strategy.scope(), precision_policy(config.precision):
        replicas = strategy.num_replicas_in_sync
        model = build_model(config, synchronized=replicas > 1, auxiliary_outputs=True)
        training.compile_model(model, config)
    if not list_checkpoints(run_callbacks.checkpoint_folder(workdir)):
        report = training.initialize(model, config)
        print(report or "Training from scratch.")
    with strategy.scope():
        run = run_callbacks.ResumableRun(workdir, model, config.checkpoint_steps)
    if run.restore():
        print(f"Resuming after step {run.step} of {config.steps}.")
    print(
        f"{config.model} on {config.backbone}, {model.count_params():,} parameters, "
        f"{config.steps} steps of {config.batch_size} images on {replicas} replica(s)."
    )

    # The loop is Keras'. Batch k depends on the seed and k alone, so that a resumed run
    # sees what it would have seen.
    num_examples = info.splits[config.eval_split]
    validation_data = training.label_outputs(
        model, make_validation_data(config, num_examples, replicas)
    )
    callbacks = make_callbacks(config, workdir, run)
    logs = {}
    with stop_on_signals(run):
        done = run.step == config.steps
        if run.epochs < (config.epochs if done else run.step // epoch_steps):
            logs = validate_epoch(model, config, validation_data, callbacks, run)
        for step, epoch, last_epoch, steps in epoch_spans(
            config.steps, epoch_steps, run.step
        ):
            history = model.fit(
                training.label_outputs(model, make_train_data(config, step)),
                initial_epoch=epoch,
                epochs=last_epoch,
                steps_per_epoch=steps,
                shuffle=False,
                validation_data=validation_data,
                validation_freq=validation_epochs(config),
                callbacks=callbacks,
                verbose=1 if sys.stdout.isatty() else 2,  # a line an epoch in log files
            ).history
            logs = {name: values[-1] for name, values in history.items()}
    return run_callbacks.validation_score(logs)


@contextlib.contextmanager
def stop_on_signals(run):
    """Lets Ctrl-C and SIGTERM save and stop the run; the second time they kill it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only there can signals be handled
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def handle(number, frame):
        print(f"{signal.Signals(number).name}: stopping behind this step ...")
        run.request_stop(signal.Signals(number).name)
        signal.signal(number, before[number])

    try:
        for number in signals:
            signal.signal(number, handle)
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])


def validate_epoch(model, config, validation_data, callbacks, run) -> dict:
    """Ends an epoch whose steps were done when the run was killed."""
    epoch, logs = run.epochs, {}
    if epoch + 1 in validation_epochs(config):
        with averaged_weights(model):  # as AveragedEvaluation does inside fit
            scores = model.evaluate(validation_data, return_dict=True, verbose=0)
        logs = {f"val_{name}": value for name, value in scores.items()}
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.TensorBoard):
            callback.set_model(model)
            callback.on_epoch_end(epoch, logs)
    return logs


def make_train_data(config: configs.TrainConfig, start_step: int) -> tf.data.Dataset:
    """The endless stream of training batches, from one step on."""
    mode = config.normalization or find_backbone(config.backbone).normalization
    return make_train_dataset(
        config.data_dir,
        config.train_split,
        crop_size=config.crop_size,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start_step,
        policy=config.policy,
        repeats=training_repeats(config),
        min_scale=config.min_scale,
        max_scale=config.max_scale,
        mean_color=mean_color(mode),
        ignore_label=config.ignore_label,
    )


def make_validation_data(config: configs.TrainConfig, num_examples: int, replicas: int):
    """Each image at its own size, alone; on several replicas one image for each."""
    if replicas == 1:
        dataset = make_eval_dataset(config.data_dir, config.eval_split)
        # Keras warns that data ran out where it cannot know how much there is.
        return dataset.apply(tf.data.experimental.assert_cardinality(num_examples))
    dataset = make_eval_dataset(config.data_dir, config.eval_split, batch_size=replicas)
    fill = functools.partial(
        fill_batch, batch_size=replicas, ignore_label=config.ignore_label
    )
    return dataset.map(fill)


def make_callbacks(config: configs.TrainConfig, workdir: str, run) -> list:
    """What happens at the end of an epoch, in order."""
    examples = make_eval_dataset(config.data_dir, config.eval_split).take(NUM_PANELS)
    panels = [(image[0].numpy(), label[0].numpy()) for image, label in examples]
    logs = os.path.join(workdir, "logs")
    return [
        run_callbacks.LearningRate(),
        run_callbacks.EpochLog(os.path.join(workdir, "log.csv")),
        run,
        AveragedEvaluation(),  # behind the run, which saves the weights of training
        run_callbacks.ImagePanels(os.path.join(logs, "images"), panels, config),
        keras.callbacks.TensorBoard(logs, write_graph=False),
    ]


def epoch_spans(
    total_steps: int, epoch_steps: int, step: int
) -> list[tuple[int, int, int, int]]:
    """Splits what is left into the rest of an epoch, whole ones and a shorter last one.

    Args:
      total_steps: of the run.
      epoch_steps: of an epoch.
      step: steps done.

    Returns:
      (first step, epoch, epoch behind the last, steps per epoch) of each call of fit.
    """
    spans = []
    while step < total_steps:
        epoch, done = divmod(step, epoch_steps)
        steps = min(epoch_steps - done, total_steps - step)
        epochs = (total_steps - step) // epoch_steps if steps == epoch_steps else 1
        spans.append((step, epoch, epoch + epochs, steps))
        step += epochs * steps
    return spans


def validation_epochs(config: configs.TrainConfig) -> list[int]:
    """Every `validate_every`-th epoch, counted from 1, and the last."""
    every = list(range(config.validate_every, config.epochs, config.validate_every))
    return every + [config.epochs]


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.INFO)
    try:
        strategy = training.make_strategy(FLAGS.strategy, FLAGS.logical_cpus)
        given = {name: getattr(FLAGS, name) for name in CONFIG_FLAGS}
        changes = {name: value for name, value in given.items() if value is not None}
        changes.update(configs.parse_changes(FLAGS.set))
        config = make_config(FLAGS.recipe, changes)
        workdir = FLAGS.workdir or os.path.join("runs", config.recipe)
        claim_workdir(config, workdir)
        score = train(config, workdir, strategy)
    except run_callbacks.RunStopped as stopped:
        print(stopped)
        return
    except (OSError, ValueError, ArithmeticError, ImportError) as error:
        sys.exit(f"train.py: {error}")
    if score is None:
        print(f"All {config.steps} steps are done already.")
    else:
        print(f"Validation mean IoU {score:.4f} after {config.steps} steps.")
    print(f"Next: python evaluate.py --workdir={workdir}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
