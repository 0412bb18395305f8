"""Trains a DeepLab network on TFRecords.

The embedded drawn scenes, made on the first run:
    python train.py --strategy=mirrored
CamVid from ImageNet weights:
    python -m datasets.build_camvid --input_dir=CamVid --output_dir=runs/data/camvid
    python train.py --recipe=camvid_mobilenet_v2
Your own images and masks:
    python -m datasets.build_folder --input_dir=my_data --output_dir=runs/data/mine
    python train.py --recipe=finetune_resnet50 --data_dir=runs/data/mine

The same command run again resumes, after a kill too; Ctrl-C and SIGTERM save first.
--recipe=help lists the recipes (deeplab_tf/recipes.py); flags change single values of
one. To watch a run: tensorboard --logdir=runs
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import re
import sys

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
from datasets.build_tfds import resolve_data_dir
from deeplab_tf import config as configs
from deeplab_tf.data.reading.bad_records import DATA_ERRORS, bad_records_named
from deeplab_tf.data.reading.pipeline import (
    fill_batch,
    make_eval_dataset,
    make_eval_share,
    make_train_dataset,
)
from deeplab_tf.data.reading.selection import SKIP_ADVICE, Selection, select_records
from deeplab_tf.data.records.info import read_info
from deeplab_tf.networks.backbones import find_backbone
from deeplab_tf.networks.layers import mean_color
from deeplab_tf.networks.models import MIN_IMAGE_SIZE, MODELS, build_model
from deeplab_tf.networks.precision import PRECISIONS, precision_policy
from deeplab_tf.recipes import RECIPES, describe_recipes, recipe_config
from deeplab_tf.training import compiling, runs, strategies, watching
from deeplab_tf.training import resuming as run_callbacks
from deeplab_tf.training.averaging import AveragedEvaluation, averaged_weights
from deeplab_tf.training.checkpoints import last_step, list_checkpoints
from deeplab_tf.training.log import write_report
from deeplab_tf.training.losses import balanced_class_weights
from deeplab_tf.training.meter import RunMeter
from deeplab_tf.training.workers import Workers, find_workers
from deeplab_tf.workdir import LOG_FILE, TENSORBOARD_FOLDER

FLAGS = flags.FLAGS

# Flags that are fields of TrainConfig of the same name.
CONFIG_FLAGS = (
    "data_dir init model backbone output_stride crop_size batch_size epochs steps "
    "learning_rate weight_decay precision seed skip_bad_records"
).split()
NUM_PANELS = 4


def define_flags():
    """Called by the script alone, so that tests can import several scripts."""
    flags.DEFINE_enum(
        "recipe", "demo", ["help", *RECIPES], "Where to start from; help lists them."
    )
    flags.DEFINE_string("data_dir", None, "Folder of records, or tfds:NAME of TFDS.")
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
    flags.DEFINE_float("learning_rate", None, "At the start of the schedule.")
    flags.DEFINE_float("weight_decay", None, "Lambda of the papers.")
    flags.DEFINE_enum(
        "strategy", "default", strategies.STRATEGIES, "How to distribute."
    )
    flags.DEFINE_integer("logical_cpus", 1, "Split the CPU into so many devices.")
    flags.DEFINE_list(
        "workers", None, "HOST:PORT of all, for multi_worker [TF_CONFIG]."
    )
    flags.DEFINE_integer("worker_index", None, "Of this process among the workers.")
    flags.DEFINE_float("worker_timeout", 300, "Seconds to wait for all to start.")
    flags.DEFINE_string("tpu", "local", "Name or address of the TPU.")
    flags.DEFINE_enum("precision", None, sorted(PRECISIONS), "Of the computation.")
    flags.DEFINE_integer("seed", None, "Of weights, data order and augmentation.")
    flags.DEFINE_bool(
        "skip_bad_records", None, "Find corrupt records first and train without them."
    )
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
    config = dataclasses.replace(recipe_config(recipe), **changes)
    runs.check_init(config.init)
    if os.path.isdir(config.init):
        config = runs.continue_network(config, changes)
    embedded = recipe == "demo" and "data_dir" not in changes
    if embedded and not os.path.exists(config.data_dir):
        print(f"Drawing the embedded scenes into {config.data_dir} ...")
        build_shapes.build(config.data_dir)
    config = dataclasses.replace(config, data_dir=resolve_data_dir(config.data_dir))
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
    epoch_steps = steps_per_epoch(config)
    steps = config.steps or config.epochs * epoch_steps
    return dataclasses.replace(
        config,
        num_classes=info.num_classes,
        class_names=info.class_names,
        colormap=info.colormap,
        ignore_label=info.ignore_label,
        steps=steps,
        epochs=-(-steps // epoch_steps),
    )


def parse_crop_size(sizes: list[str]) -> tuple[int, int]:
    """["513"] -> (513, 513), ["769", "1537"] -> (769, 1537)."""
    try:
        height, width = [int(size) for size in sizes] * (2 if len(sizes) == 1 else 1)
    except ValueError:
        raise ValueError(
            f"crop_size must be SIZE or HEIGHT,WIDTH. Received: {','.join(sizes)}"
        ) from None
    return height, width


def training_records(config: configs.TrainConfig) -> Selection:
    """What one pass over the training split reads."""
    return select_records(
        config.data_dir,
        config.train_split,
        skip_bad_records=config.skip_bad_records,
        duplicate=config.duplicate,
        min_class_pixels=config.min_class_pixels,
        min_labelled_pixels=config.min_labelled_pixels,
    )


def validation_records(config: configs.TrainConfig) -> Selection:
    """What one pass over the validation split reads."""
    return select_records(
        config.data_dir, config.eval_split, skip_bad_records=config.skip_bad_records
    )


def steps_per_epoch(config: configs.TrainConfig) -> int:
    """One pass over the training split, duplicates of hard classes included."""
    return max(1, training_records(config).num_examples // config.batch_size)


def train(
    config: configs.TrainConfig, workdir: str, strategy, output: str | None = None
) -> float | None:
    """Trains up to `config.steps`, resuming what the workdir holds.

    Args:
      config: completed by `make_config`.
      workdir: folder of the run.
      strategy: made by `strategies.make_strategy`.
      output: folder to write to, the workdir unless given.

    Returns:
      The last validation mean IoU; None when all was done before.

    Raises:
      RunStopped: a signal stopped it; all is saved.
      NonFiniteLoss: the loss is NaN or infinite.
      OSError: the disk is full.
      ValueError: the replicas cannot share a batch, or the workers do not agree.
    """
    print(strategies.describe(strategy, config.batch_size))
    model, run = begin_or_resume(config, workdir, strategy, output)
    epoch_steps = steps_per_epoch(config)

    # The loop is Keras'. Batch k depends on the seed and k alone, so that a resumed run
    # sees what it would have seen.
    validation = make_validation_data(config, strategy, model)
    callbacks = make_callbacks(config, run.output, run)
    logs = {}
    with runs.stop_on_signals(run):
        done = run.step == config.steps
        if run.epochs < (config.epochs if done else run.step // epoch_steps):
            logs = validate_epoch(model, config, validation, callbacks, run)
        for step, epoch, last_epoch, steps in runs.epoch_spans(
            config.steps, epoch_steps, run.step
        ):
            history = model.fit(
                data_for_fit(strategy, model, make_train_data, config, step),
                initial_epoch=epoch,
                epochs=last_epoch,
                steps_per_epoch=steps,
                shuffle=False,
                validation_data=validation[0],
                validation_steps=validation[1],
                validation_freq=runs.validation_epochs(config),
                callbacks=callbacks,
                verbose=0,  # watching.Progress prints
            ).history
            logs = {name: values[-1] for name, values in history.items()}
    strategies.wait_for_workers(strategy)
    return run_callbacks.validation_score(logs)


def begin_or_resume(config: configs.TrainConfig, workdir: str, strategy, output):
    """Makes the model on every replica, with its first weights or those of the workdir.

    Returns:
      (compiled model, `resuming.ResumableRun`). Arguments and errors as of `train`.
    """
    keras.utils.set_random_seed(config.seed)
    with strategy.scope(), precision_policy(config.precision):
        replicas = strategy.num_replicas_in_sync
        model = build_model(config, synchronized=replicas > 1, auxiliary_outputs=True)
        compiling.compile_model(model, config)
    for warning in compiling.batch_norm_warnings(model, config):
        print(f"Warning: {warning}")
    if not list_checkpoints(run_callbacks.checkpoint_folder(workdir)):
        report = compiling.initialize(model, config)
        print(report or "Training from scratch.")
    with strategy.scope():
        run = run_callbacks.ResumableRun(
            workdir,
            model,
            config.checkpoint_steps,
            output=output,
            agree=functools.partial(strategies.any_worker, strategy),
        )
    restored = run.restore()
    strategies.check_same(
        strategy,
        run.step,
        "The workers have restored different steps: give a --workdir that all share.",
    )
    if restored:
        print(f"Resuming after step {run.step} of {config.steps}.")
    print(
        f"{config.model} on {config.backbone}, {model.count_params():,} parameters, "
        f"{config.steps} steps of {config.batch_size} images."
    )
    return model, run


def name_bad_records(config: configs.TrainConfig, workdir: str):
    """Returns a context that says of an error of training which records caused it."""
    return bad_records_named(
        config.data_dir,
        [config.train_split, config.eval_split],
        advice=SKIP_ADVICE,
        kept=f"{workdir} keeps what it holds: when the records are mended the same "
        "command resumes.",
        # Labels out of range make the loss NaN on GPUs.
        errors=(*DATA_ERRORS, run_callbacks.NonFiniteLoss),
    )


def validate_epoch(model, config, validation, callbacks, run) -> dict:
    """Ends an epoch whose steps were done when the run was killed."""
    data, steps = validation
    epoch, logs = run.epochs, {}
    if epoch + 1 in runs.validation_epochs(config):
        with averaged_weights(model):  # as AveragedEvaluation does inside fit
            scores = model.evaluate(data, steps=steps, return_dict=True, verbose=0)
        logs = {f"val_{name}": value for name, value in scores.items()}
    for callback in callbacks:
        callback.set_model(model)
        callback.on_epoch_end(epoch, logs)
    return logs


def make_train_data(
    config: configs.TrainConfig, start_step: int, **share
) -> tf.data.Dataset:
    """The endless stream of training batches, from one step on."""
    records = training_records(config)
    mode = config.normalization or find_backbone(config.backbone).normalization
    return make_train_dataset(
        config.data_dir,
        config.train_split,
        crop_size=config.crop_size,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start_step,
        policy=config.policy,
        repeats=records.repeats,
        good_frames=records.good_frames,
        min_scale=config.min_scale,
        max_scale=config.max_scale,
        mean_color=mean_color(mode),
        ignore_label=config.ignore_label,
        **share,
    )


def make_validation_data(config: configs.TrainConfig, strategy, model):
    """Each image at its own size, alone; on several replicas one image for each.

    Returns:
      (data for `fit` and `evaluate`, its steps; None where Keras can tell).
    """
    split = config.data_dir, config.eval_split
    records = validation_records(config)
    replicas = strategy.num_replicas_in_sync
    if strategies.workers_of(strategy).count > 1:
        make_dataset = functools.partial(
            make_eval_share,
            num_examples=records.num_examples,
            ignore_label=config.ignore_label,
            good_frames=records.good_frames,
        )
        data = data_for_fit(strategy, model, make_dataset, *split)
        return data, -(-records.num_examples // replicas)
    dataset = make_eval_dataset(
        *split, batch_size=replicas, good_frames=records.good_frames
    )
    if replicas == 1:
        # Keras warns that data ran out where it cannot know how much there is.
        exactly = tf.data.experimental.assert_cardinality(records.num_examples)
        dataset = dataset.apply(exactly)
    else:
        fill = functools.partial(
            fill_batch, batch_size=replicas, ignore_label=config.ignore_label
        )
        dataset = dataset.map(fill)
    return compiling.label_outputs(model, dataset), None


def data_for_fit(strategy, model, make_dataset, *arguments):
    """A label for every output of the model; of several workers, this one's share."""
    return strategies.distribute(
        strategy,
        lambda **share: compiling.label_outputs(
            model, make_dataset(*arguments, **share)
        ),
    )


def make_callbacks(config: configs.TrainConfig, workdir: str, run) -> list:
    """What happens at the end of an epoch, in order."""
    examples = make_eval_dataset(
        config.data_dir,
        config.eval_split,
        good_frames=validation_records(config).good_frames,
    ).take(NUM_PANELS)
    panels = [(image[0].numpy(), label[0].numpy()) for image, label in examples]
    logs = os.path.join(workdir, TENSORBOARD_FOLDER)
    meter = RunMeter(config, run.step, runs.validation_epochs(config))
    is_chief = run.output == run.workdir
    return [
        *count_skipped(config),
        meter,
        watching.EpochLog(os.path.join(workdir, LOG_FILE)),
        run,
        AveragedEvaluation(),  # behind the run, which saves the weights of training
        watching.Scalars(logs, meter),
        watching.ImagePanels(os.path.join(logs, "images"), panels, config, meter),
        *([watching.Progress(meter)] if is_chief else []),
    ]


def count_skipped(config: configs.TrainConfig) -> list:
    """A callback that logs how many bad records are skipped, where they are."""
    if not config.skip_bad_records:
        return []
    records = training_records(config), validation_records(config)
    skipped = sum(selection.num_skipped for selection in records)

    def on_epoch_end(epoch, logs):
        logs["skipped_records"] = skipped

    return [keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)]


def print_report(workdir: str) -> None:
    """Prints the summary of the epochs so far; writes it and their curves."""
    if not os.path.exists(os.path.join(workdir, LOG_FILE)):
        return  # stopped in the first epoch
    try:
        print(write_report(workdir))
    except (ImportError, OSError, ValueError) as error:
        print(f"No summary: {error}")  # the run itself is well


def run_workers(changes: dict, workdir: str, strategy) -> float | None:
    """Trains in one process or as one of several workers, see `train`.

    Raises:
      WorkerGone: another worker no longer answers; and what `train` raises.
    """
    checkpoints = run_callbacks.checkpoint_folder(workdir)
    chief = strategies.workers_of(strategy).is_chief
    with strategies.gone_workers_named(strategy, lambda: last_step(checkpoints)):
        with strategies.chief_first(strategy):  # who may have scenes to draw
            config = make_config(FLAGS.recipe, changes)
            runs.claim_workdir(config, workdir, chief)
        with strategies.output_folder(strategy, workdir) as output:
            with name_bad_records(config, workdir):
                return train(config, workdir, strategy, output)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)  # at INFO TensorFlow tells every checkpoint
    if FLAGS.recipe == "help":
        print(describe_recipes())
        return
    workdir = FLAGS.workdir or os.path.join("runs", FLAGS.recipe)
    workers = Workers()
    try:
        if FLAGS.strategy == "multi_worker":
            workers = find_workers(FLAGS.workers, FLAGS.worker_index)
        strategy = strategies.make_strategy(
            FLAGS.strategy,
            FLAGS.logical_cpus,
            workers=workers,
            worker_timeout_seconds=FLAGS.worker_timeout,
            tpu=FLAGS.tpu,
        )
        given = {name: getattr(FLAGS, name) for name in CONFIG_FLAGS}
        changes = {name: value for name, value in given.items() if value is not None}
        changes.update(configs.parse_changes(FLAGS.set))
        score = run_workers(changes, workdir, strategy)
    except run_callbacks.RunStopped as stopped:
        if workers.is_chief:
            print_report(workdir)
        print(stopped)
        return
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" not in error.message:  # but the memory of a device
            raise
        sys.exit(
            f"train.py: No space left on the disk of {workdir}. Make room, then run "
            "again: the same command resumes."
        )
    except (OSError, ValueError, ArithmeticError, ImportError) as error:
        sys.exit(f"train.py: {error}")
    if not workers.is_chief:
        return
    print_report(workdir)
    steps = configs.read_config(workdir).steps
    if score is None:
        print(f"All {steps} steps are done already.")
    else:
        print(f"Validation mean IoU {score:.4f} after {steps} steps.")
    print(f"Next: python evaluate.py --workdir={workdir}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
