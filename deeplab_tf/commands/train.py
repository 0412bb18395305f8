"""Trains a DeepLab network on TFRecords.

The embedded drawn scenes, made on the first run:
    python train.py --strategy=mirrored
CamVid from ImageNet weights:
    python -m datasets.build_camvid --input_dir=CamVid --output_dir=runs/data/camvid
    python train.py --recipe=camvid_mobilenet_v2
Your own images and masks:
    python -m datasets.build_folder --input_dir=my_data --output_dir=runs/data/mine
    python train.py --recipe=finetune_resnet50 --data_dir=runs/data/mine

The same command run again resumes, after a kill too; Ctrl-C, SIGTERM and a closed
terminal save first.
--recipe=help lists the recipes (deeplab_tf/recipes.py); flags change single values of
one. To watch a run: tensorboard --logdir=runs
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
import sys

if re.search(r"--?strategy[= ](multi_worker|tpu)\b", " ".join(sys.argv)):
    # Keras 3 cannot run these strategies; Keras 2 must be chosen before TensorFlow is
    # imported.
    if importlib.util.find_spec("tf_keras"):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf
from absl import flags, logging

from deeplab_tf.command_names import call_of, refuse_arguments, run_with_flags
from deeplab_tf.commands.device_flags import begin_on_devices, define_device_flags
from deeplab_tf.commands.run_config import conventions_of, make_config
from deeplab_tf.commands.run_data import RunData, select_run_data
from deeplab_tf.commands.run_faults import (
    errors_as_sentences,
    name_bad_records,
    name_memory,
)
from deeplab_tf.commands.run_records import note_records, warn_of_other_records
from deeplab_tf.commands.steady_output import steady_output
from deeplab_tf.config import TrainConfig, config_path, parse_changes, read_config
from deeplab_tf.datasets import build_shapes
from deeplab_tf.datasets.build_tfds import resolve_data_dir
from deeplab_tf.devices.workers import Workers, find_workers
from deeplab_tf.files import sole_writer_in
from deeplab_tf.networks.models import MODELS
from deeplab_tf.networks.precision import PRECISIONS
from deeplab_tf.quiet import hear_onednn
from deeplab_tf.recipe_help import describe_recipes
from deeplab_tf.recipes import RECIPES
from deeplab_tf.training import loop, strategies
from deeplab_tf.training.advice import advice_on, format_advice, void_advice
from deeplab_tf.training.checkpoints import last_step
from deeplab_tf.training.compiling import check_packages
from deeplab_tf.training.log import write_report
from deeplab_tf.training.resuming import (
    RunStopped,
    checkpoint_folder,
    claim_workdir,
)
from deeplab_tf.training.teachers import check_teacher
from deeplab_tf.workdir import LOG_FILE

FLAGS = flags.FLAGS

# Flags that are fields of TrainConfig of the same name.
CONFIG_FLAGS = (
    "data_dir init model backbone output_stride crop_size batch_size epochs steps "
    "learning_rate weight_decay precision seed skip_bad_records"
).split()


def define_flags() -> None:
    flags.DEFINE_enum(
        "recipe", "demo", ["help", *RECIPES], "Where to start from; help lists them."
    )
    flags.DEFINE_string("data_dir", None, "Folder of records, tfds:NAME or hf:NAME.")
    flags.DEFINE_string("workdir", None, "Folder of the run [runs/RECIPE].")
    flags.DEFINE_string(
        "init",
        None,
        "Weights: imagenet, a file, a workdir or a published name (docs/zoo.md).",
    )
    flags.DEFINE_enum("model", None, sorted(MODELS), "Network: a row of MODELS.")
    flags.DEFINE_string(
        "backbone",
        None,
        "Backbone: a row of BACKBONES, mobilenet_v2_ALPHA or keras.NAME.",
    )
    flags.DEFINE_integer(
        "output_stride", None, "Output stride: 8, 16 or 32; the cascade to 256."
    )
    flags.DEFINE_list(
        "crop_size", None, "Training crop: SIZE or HEIGHT,WIDTH in pixels."
    )
    flags.DEFINE_integer("batch_size", None, "Images a step, over all replicas.")
    flags.DEFINE_integer("epochs", None, "Passes over the training split.")
    flags.DEFINE_integer("steps", None, "Optimizer steps, instead of epochs.")
    flags.DEFINE_float(
        "learning_rate", None, "Learning rate at the start of the schedule."
    )
    flags.DEFINE_float("weight_decay", None, "Weight decay, lambda of the papers.")
    flags.DEFINE_enum(
        "strategy", "default", strategies.STRATEGIES, "Strategy of distribution."
    )
    flags.DEFINE_enum(
        "cross_device",
        "auto",
        sorted(strategies.CROSS_DEVICE),
        "Sum of gradients over the devices of mirrored: docs/distributed.md.",
    )
    define_device_flags()
    flags.DEFINE_integer("logical_cpus", 1, "Devices to split the CPU into.")
    flags.DEFINE_list(
        "workers", None, "HOST:PORT of all workers, for multi_worker [TF_CONFIG]."
    )
    flags.DEFINE_integer(
        "worker_index", None, "Index of this process among the workers."
    )
    flags.DEFINE_float("worker_timeout", 300, "Seconds to wait for all to start.")
    flags.DEFINE_string("tpu", "local", "Name or address of the TPU.")
    flags.DEFINE_enum(
        "precision", None, sorted(PRECISIONS), "Numeric precision of training."
    )
    flags.DEFINE_integer("seed", None, "Seed of weights, data order and augmentation.")
    flags.DEFINE_bool(
        "skip_bad_records", None, "Find corrupt records first and train without them."
    )
    flags.DEFINE_multi_string(
        "set", [], "Any other field of TrainConfig, such as multi_grid=[1,2,1]."
    )


def main(argv: list[str]) -> None:
    """Trains as FLAGS say.

    Raises:
      app.UsageError: there are arguments that are no flags.
      SystemExit: with one sentence on what a user can mend.
    """
    refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)  # at INFO TensorFlow tells every checkpoint
    if FLAGS.recipe == "help":
        print(describe_recipes())
        return
    workdir = FLAGS.workdir or os.path.join("runs", FLAGS.recipe)
    with errors_as_sentences(workdir):
        changes = changes_of_flags()
        begin_on_devices(
            FLAGS,
            all_cards=FLAGS.strategy != "default",
            cpu_parts=FLAGS.logical_cpus,
            precision=precision_of_new_run(FLAGS.recipe, changes, workdir),
        )
        strategy = make_strategy_of_flags()
        hear_onednn()
        is_chief = strategies.workers_of(strategy).is_chief
        ending = ""
        try:
            score, void_share = run_workers(FLAGS.recipe, changes, workdir, strategy)
            if is_chief:
                ending = describe_end(score, workdir, void_share)
        except RunStopped as stopped:
            ending = str(stopped)
    if is_chief:
        print_report(workdir)
    if ending:
        print(ending)


def make_strategy_of_flags() -> tf.distribute.Strategy:
    """Makes the strategy; waits for the other workers, where there are some."""
    workers = Workers()
    if FLAGS.strategy == "multi_worker":
        workers = find_workers(FLAGS.workers, FLAGS.worker_index)
    return strategies.make_strategy(
        FLAGS.strategy,
        FLAGS.logical_cpus,
        workers=workers,
        worker_timeout_seconds=FLAGS.worker_timeout,
        tpu=FLAGS.tpu,
        cross_device=FLAGS.cross_device,
    )


def changes_of_flags() -> dict:
    """The fields of TrainConfig that flags change, with their values."""
    given = {name: getattr(FLAGS, name) for name in CONFIG_FLAGS}
    changes = {name: value for name, value in given.items() if value is not None}
    return {**changes, **parse_changes(FLAGS.set)}


def precision_of_new_run(recipe: str, changes: dict, workdir: str) -> str:
    """The precision that a run will have; "" where the workdir has one already."""
    if os.path.exists(config_path(workdir)):
        return ""
    return changes.get("precision", RECIPES[recipe].config.precision)


def run_workers(
    recipe: str, changes: dict, workdir: str, strategy: tf.distribute.Strategy
) -> tuple[float | None, float]:
    """Trains in one process or as one of several workers, see `loop.train`.

    Returns:
      The last validation mean IoU, None when all was done before; and the share of the
      training labels that is void.

    Raises:
      InUse: another process trains in the workdir.
      WorkerGone: another worker no longer answers; and what `loop.train` raises.
    """
    checkpoints = checkpoint_folder(workdir)
    is_chief = strategies.workers_of(strategy).is_chief
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            strategies.gone_workers_named(strategy, lambda: last_step(checkpoints))
        )
        with strategies.chief_first(strategy):  # who may have scenes to draw
            config, data = make_run(recipe, {**conventions_of(workdir), **changes})
            stack.enter_context(sole_trainer(workdir, is_chief))
            if is_chief:
                warn_of_other_records(config.data_dir, workdir)
            claim_workdir(config, workdir, is_chief)
            if is_chief:
                note_records(config.data_dir, workdir)
        with strategies.output_folder(strategy, workdir) as output:
            replicas = strategy.num_replicas_in_sync
            with name_bad_records(config, workdir), name_memory(config, replicas):
                score = loop.train(config, data, workdir, strategy, output)
                return score, data.void_share() if is_chief else 0.0


def sole_trainer(workdir: str, is_chief: bool):
    """Returns a context in which no other process trains in a workdir.

    Two of them would take each other's checkpoints away. Of several workers the chief
    alone writes, and holds it.

    Raises:
      InUse: another process does; says which, and since when.
    """
    if not is_chief:
        return contextlib.nullcontext()
    return sole_writer_in(workdir, "train", place=workdir)


# --- What is to be trained, and on what ----------------------------------------------


def make_run(recipe: str, changes: dict) -> tuple[TrainConfig, RunData]:
    """Completes a recipe by flags and by what its data set says, and selects the data.

    Prints what a user should know of the selection.

    Args:
      recipe: row of RECIPES.
      changes: field of TrainConfig -> value.

    Raises:
      FileNotFoundError: no data set there.
      ImportError: a package that the run needs is not installed.
      ValueError: a value that does not make sense.
    """
    config = make_config(recipe, changes)
    check_packages(config)
    is_embedded = recipe == "demo" and "data_dir" not in changes
    if is_embedded and not os.path.exists(config.data_dir):
        print(f"Drawing the embedded scenes into {config.data_dir} ...")
        build_shapes.build(config.data_dir)
    folder = resolve_data_dir(config.data_dir)
    config, data = select_run_data(dataclasses.replace(config, data_dir=folder))
    config = check_teacher(config)
    if data.report:
        print(data.report)
    return config, data


# --- What is said at the end ---------------------------------------------------------


def print_report(workdir: str) -> None:
    """Prints the summary of the epochs so far; writes it and their curves."""
    if not os.path.exists(os.path.join(workdir, LOG_FILE)):
        return  # stopped in the first epoch
    try:
        print(write_report(workdir))
    except (ImportError, OSError, ValueError) as error:
        print(f"There is no summary: {error}")  # the run itself is well


def describe_end(score: float | None, workdir: str, void_share: float = 0.0) -> str:
    """Says what came out of a run that is done, what to try, and what comes next."""
    steps = last_step(checkpoint_folder(workdir))
    wanted = read_config(workdir).steps
    result = f"All {steps} steps are done already."
    if steps < wanted:
        result = f"The run ended before, after {steps} of {wanted} steps."
    if score is not None:
        result = f"Validation mean IoU {score:.4f} after {steps} steps."
    advice = void_advice(void_share)
    with contextlib.suppress(OSError, ValueError):  # the run itself is well
        advice += advice_on(workdir)
    following = f"Next: {call_of('evaluate')} --workdir={workdir}"
    return "\n".join(filter(None, [result, format_advice(advice), following]))


def run() -> None:
    """Runs the command with the flags of the command line."""
    with steady_output():
        run_with_flags(define_flags, main)
