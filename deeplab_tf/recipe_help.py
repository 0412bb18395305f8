"""The rows of `recipes.RECIPES` in, what train.py --recipe=help prints out."""

from __future__ import annotations

import os
import textwrap

from deeplab_tf.command_names import call_of
from deeplab_tf.recipes import RECIPES

_BFLOAT16 = (
    "--precision=bfloat16, on NVIDIA's cards from Ampere (A100, RTX 30) on; "
    "activations take half the memory"
)

# What a user has -> the flags of train.py to begin with.
CHOICES = {
    "nothing yet, five minutes": "--recipe=demo",
    "60 images or more, no GPU": "--recipe=finetune_mobilenet_v2",
    "your images, a GPU of 8 GB": "--recipe=finetune_resnet50 --precision=bfloat16",
    "the same, of 16 GB": "--recipe=finetune_resnet50 --batch_size=16",
    "the same, of 24 GB": (
        "--recipe=finetune_resnet50 --backbone=resnet101 --batch_size=16"
    ),
    "the same, several GPUs": (
        "--recipe=finetune_resnet50 --batch_size=32 --strategy=mirrored"
    ),
    "a trained workdir, new images": (
        "--recipe=finetune_resnet50 --init=WORKDIR --learning_rate=0.001"
    ),
    "CamVid, to compare": "--recipe=camvid_mobilenet_v2",
    "VOC 2012, a paper's protocol": "--recipe=deeplab_v3plus_voc2012",
    "Cityscapes, a paper's protocol": "--recipe=deeplab_v3_cityscapes",
}


def describe_choices() -> str:
    """Returns the table that says which recipe to begin with."""
    width = max(map(len, CHOICES))
    lines = [f"{'You have':{width}}  Take --recipe="]
    lines += [
        f"{have:{width}}  {take.removeprefix('--recipe=')}"
        for have, take in CHOICES.items()
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"These are flags of {call_of('train')}, with --data_dir and --workdir.",
            "Estimated is what an H200's figures for DeepLabV3-ResNet-50 say of the",
            "others, in float32 with XLA (docs/benchmarks.md): other cards are slower,",
            "separable networks (Xception, MobileNetV2) take several times as long.",
            "",
        ]
    )


def describe_data_sets() -> str:
    """Returns the recipes' names by the data set that they read."""
    names: dict[str, list[str]] = {}
    for name, recipe in RECIPES.items():
        data_set = os.path.basename(recipe.config.data_dir)
        names.setdefault(data_set, []).append(name)
    width = max(map(len, names))
    lines = [
        _filled(f"{data_set:{width}}  {', '.join(of_it)}", width + 2)
        for data_set, of_it in names.items()
    ]
    return "\n".join(["All of them, by the data set in --data_dir:", *lines, ""])


def describe_recipes() -> str:
    """Returns which recipe to choose, and all of them as text.

    What each trains, the paper's figure, what it needs and takes, what was measured.
    """
    blocks = [describe_choices(), describe_data_sets()]
    for name, recipe in RECIPES.items():
        lines = [name, f"  {recipe.what}"]
        facts = {
            "paper": recipe.paper,
            "needs": recipe.needs,
            **recipe.costs.describe(recipe.config),
            "measured": recipe.measured,
        }
        lines += [f"  {title + ':':9} {text}" for title, text in facts.items()]
        if recipe.needs_gpu:
            lines.append(f"  {'quicker:':9} {_BFLOAT16}")
        blocks += [
            _filled(line, 2 if index < 2 else 12) for index, line in enumerate(lines)
        ] + [""]
    return "\n".join(blocks)


def _filled(text: str, indent: int) -> str:
    """Text of at most 88 columns, its later lines indented; words stay whole."""
    return textwrap.fill(
        text,
        88,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
