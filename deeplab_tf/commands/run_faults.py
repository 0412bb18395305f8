"""What ends a training that a user can mend: one sentence, and what is kept."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import tensorflow as tf

from deeplab_tf.command_names import name_of
from deeplab_tf.config import TrainConfig
from deeplab_tf.data.reading.bad_records import DATA_ERRORS, bad_records_named
from deeplab_tf.data.reading.selection import SKIP_ADVICE
from deeplab_tf.devices.memory import OutOfMemory, out_of_memory_named
from deeplab_tf.files import InUse
from deeplab_tf.recipes import RECIPES
from deeplab_tf.strangers_words import printable
from deeplab_tf.training.resuming import NonFiniteLoss

# What says itself, in a sentence, what a user can mend.
_SENTENCES = (OSError, ValueError, ArithmeticError, ImportError, OutOfMemory, InUse)


@contextlib.contextmanager
def errors_as_sentences(workdir: str) -> Iterator[None]:
    """Ends the process with what an error says, where the user can mend its cause.

    Raises:
      SystemExit: of such an error.
    """
    name = name_of("train")
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" not in error.message:
            raise
        sys.exit(
            f"{name}: No space left on the disk of {workdir}. Make room, then run "
            "again: the same command resumes."
        )
    except _SENTENCES as error:
        sys.exit(f"{name}: {printable(str(error))}")


def name_bad_records(config: TrainConfig, workdir: str):
    """Returns a context that says of an error of training which records caused it."""
    return bad_records_named(
        config.data_dir,
        [config.train_split, config.eval_split],
        advice=SKIP_ADVICE,
        kept=f"{workdir} keeps what it holds: when the records are mended the same "
        "command resumes.",
        # Labels out of range make the loss NaN on GPUs.
        errors=(*DATA_ERRORS, NonFiniteLoss),
    )


def name_memory(config: TrainConfig, replicas: int):
    """Returns a context that says of too little memory what of a run to lower."""
    return out_of_memory_named(lambda: what_to_lower(config, replicas))


def what_to_lower(config: TrainConfig, replicas: int = 1) -> str:
    """Sentences on what of a run takes memory, as flags; and on its recipe's need.

    Args:
      config: of the run, complete.
      replicas: that share a batch.
    """
    ways = []
    half = config.batch_size // 2
    if half and config.batch_size % 2 == 0 and half % replicas == 0:
        ways.append(
            f"--batch_size={half} --set=accumulation_steps="
            f"{2 * config.accumulation_steps} --steps={2 * config.steps}"
        )
    if config.precision == "float32":
        ways.append("--precision=bfloat16")
    if not config.recompute:
        ways.append("--set=recompute=true")
    if config.output_stride == 8:
        ways.append("--output_stride=16")
    height, width = (max(33, side * 3 // 4 // 32 * 32 + 1) for side in config.crop_size)
    if (height, width) < config.crop_size:
        ways.append(f"--crop_size={height},{width}")
    recipe = RECIPES.get(config.recipe)
    needs = ""
    if recipe:
        memory = recipe.costs.describe(recipe.config)["memory"]
        needs = f" Recipe {config.recipe} needs: {recipe.needs}; {memory}."
    return f"Give another --workdir and one or more of: {'; '.join(ways)}.{needs}"
