"""What a run trains: a recipe, changed by flags and the network that it continues."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection

from deeplab_tf.command_names import call_of
from deeplab_tf.commands.sizes import parse_size
from deeplab_tf.config import (
    BACKBONE_FIELDS,
    BEFORE_THE_FIELD,
    NETWORK_FIELDS,
    TrainConfig,
    config_path,
    read_config,
)
from deeplab_tf.config_checks import check_fields
from deeplab_tf.networks.backbones import find_backbone
from deeplab_tf.networks.heads import scale_rates
from deeplab_tf.recipes import RECIPES, recipe_config
from deeplab_tf.training.compiling import has_trained_head
from deeplab_tf.training.resuming import has_begun
from deeplab_tf.weights.pretrained import (
    is_pretrained,
    nearest_names,
    pretrained_workdir,
)


def make_config(recipe: str, changes: dict) -> TrainConfig:
    """Completes a recipe by flags, and by the network that it continues.

    Args:
      recipe: row of RECIPES.
      changes: field of TrainConfig -> value; crop_size as ["SIZE"] or two of them.

    Raises:
      FileNotFoundError: there is nothing to begin from.
      ValueError: a value that does not make sense.
    """
    if changes.get("epochs") and "steps" not in changes:
        changes = {**changes, "steps": 0}
    if "crop_size" in changes:
        crop_size = parse_size("crop_size", changes["crop_size"])
        changes = {**changes, "crop_size": crop_size}
    config = dataclasses.replace(recipe_config(recipe), **changes)
    check_fields(config)
    config = dataclasses.replace(
        config,
        init=resolve_init(config.init),
        teacher=resolve_teacher(config.teacher),
    )
    if os.path.isdir(config.init):
        config = continue_network(config, changes)
    return config


def conventions_of(workdir: str) -> dict:
    """Fields that a resumed run keeps although no flag names them; {} of a new one.

    Their defaults changed since some workdirs were made.

    Raises:
      ValueError: a damaged configuration.
    """
    if not has_begun(workdir):
        return {}
    config = read_config(workdir)
    return {name: getattr(config, name) for name in BEFORE_THE_FIELD}


def resolve_init(init: str) -> str:
    """Lets a run begin from what is there, or is published under that name.

    Returns:
      The same, or the workdir of a published network.

    Raises:
      FileNotFoundError: there is none; of the workdir of a recipe says which.
      ImportError, OSError, ValueError: see `pretrained_workdir`.
    """
    if init in ("", "imagenet") or os.path.exists(init):
        return init
    if is_pretrained(init):
        return pretrained_workdir(init, backbones=True)
    recipe = os.path.basename(init)
    advice = (
        "Give the path of a weight file or of a workdir, or a published name. "
        f"{nearest_names(recipe)}"
    )
    if recipe in RECIPES:
        advice = f"Run first: {call_of('train')} --recipe={recipe}"
    raise FileNotFoundError(f"There is no {init} to start from. {advice}")


def resolve_teacher(teacher: str) -> str:
    """Lets a run be taught by what is there, or is published under that name.

    Returns:
      The same, or the workdir of a published network.

    Raises:
      FileNotFoundError, ImportError, OSError: see `pretrained_workdir`.
      ValueError: its head was never trained.
    """
    if is_pretrained(teacher) and not os.path.exists(teacher):
        teacher = pretrained_workdir(teacher)
    if os.path.isfile(config_path(teacher)) and not has_trained_head(teacher):
        raise ValueError(
            f"{teacher} cannot teach: only its backbone was trained. Give the workdir "
            "of a run that was trained on these classes."
        )
    return teacher


def continue_network(config: TrainConfig, chosen: Collection[str]) -> TrainConfig:
    """Takes what is to be trained from the workdir that a run begins from.

    Of a network whose head nothing has trained that is the backbone; the recipe's own
    head comes on it.

    Args:
      config: its `init` is the workdir of a run.
      chosen: fields that stay as they are.

    Raises:
      FileNotFoundError, ValueError: it is no such workdir.
    """
    trained = read_config(config.init)
    names = NETWORK_FIELDS
    if not has_trained_head(config.init):
        names = list(BACKBONE_FIELDS)
        units = find_backbone(trained.backbone).multi_grid_units
        if config.multi_grid and len(config.multi_grid) < units:
            names.append("multi_grid")  # the recipe's is of another backbone
    fields = {name: getattr(trained, name) for name in names if name not in chosen}
    if fields.get("atrous_rates"):
        fields["atrous_rates"] = scale_rates(
            fields["atrous_rates"], trained.output_stride, config.output_stride
        )
    return dataclasses.replace(config, **fields)
