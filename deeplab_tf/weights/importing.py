r"""Trained networks of other projects, turned into a workdir.

    python -m deeplab_tf.weights torchvision deeplabv3_resnet50_coco-cd0a2569.pth \
        --output=runs/torchvision
    python predict.py --workdir=runs/torchvision --input=photos --output=predictions

SOURCE is one of
  torchvision       deeplabv3_resnet50, deeplabv3_resnet101,
                    deeplabv3_mobilenet_v3_large or lraspp_mobilenet_v3_large, a .pth or
                    .safetensors file, also a checkpoint of its training script
  kazuto1011        DeepLabV2 on ResNet-101 (deeplab-pytorch), a .pth file
  bonlime           DeepLabV3+ on Xception or MobileNetV2 (keras-deeplab-v3-plus), .h5
  research_deeplab  a TensorFlow 1 checkpoint of tensorflow/models, research/deeplab; of
                    its ImageNet checkpoints the backbone, with --partial
  tflite            the authors' MobileNetV2 networks, float or quantised
  huggingface       MobileNetV2ForSemanticSegmentation of transformers, a .bin or
                    .safetensors file
  keras_hub         DeepLabV3+ on a ResNet of Keras Hub, its task.weights.h5
Model, backbone, head and classes are read off the tensors. PyTorch is not needed, and
no code of a file is run. A tensor that is left over or missing is an error, unless
--partial is given. The workdir serves evaluate.py, predict.py, export.py and
train.py --init.

    python -m deeplab_tf.weights --list             published networks, by name
    python -m deeplab_tf.weights pack runs/mine --output=packed \
        --licence=cc-by-4.0 --data="500 photographs of one town"
A name of the list is fetched and imported by --pretrained and --init themselves;
`pack` writes a network of your own for others (pack --help).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Sequence

import numpy as np

from deeplab_tf.command_names import as_typed, call_of, name_of, one_of
from deeplab_tf.config import (
    IMPORTED,
    TrainConfig,
    parse_changes,
    read_config,
    write_config,
)
from deeplab_tf.config_checks import check_fields
from deeplab_tf.files import InUse, sole_writer_in
from deeplab_tf.labels import Labels, colormap_for, labels_for
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.weight_files import (
    WeightReport,
    abbreviate,
    copy_weights,
    read_weights,
    save_weights,
)
from deeplab_tf.weights import sources
from deeplab_tf.weights.checkpoint_files import read_checkpoint
from deeplab_tf.weights.tflite_files import read_tflite_weights
from deeplab_tf.weights.torch_format.files import read_torch_weights
from deeplab_tf.workdir import BEST_WEIGHTS

NEW_CLASSES = 21  # of a head that no file gives; train.py --init replaces it


@dataclasses.dataclass(frozen=True)
class Source:
    """A row of `SOURCES`.

    Attributes:
      read: path -> arrays by the names in the file.
      translate: those -> `sources.Network`.
    """

    read: Callable[[str], dict]
    translate: Callable[[dict], sources.Network]


SOURCES = {
    "torchvision": Source(read_torch_weights, sources.torchvision),
    "kazuto1011": Source(read_torch_weights, sources.kazuto1011),
    "bonlime": Source(read_weights, sources.bonlime),
    "research_deeplab": Source(read_checkpoint, sources.research_deeplab),
    "tflite": Source(read_tflite_weights, sources.tflite),
    "huggingface": Source(read_torch_weights, sources.huggingface),
    "keras_hub": Source(read_weights, sources.keras_hub),
}


def load_source(
    source: str, path: str | os.PathLike, *, partial: bool = False, **changes
):
    """Builds the network of another project's file, with its weights.

    Args:
      source: a row of `SOURCES`.
      path: the file.
      partial: whether tensors may be left over, and weights missing, which then keep
        their random values.
      **changes: fields of `TrainConfig` to set instead, such as output_stride=8 or
        input_scales=(1.0,).

    Returns:
      (model, config, report): the model with all its outputs, auxiliary ones too.

    Raises:
      FileNotFoundError: no such file.
      ValueError: unknown source, a damaged file, or one that does not fit.
    """
    if source not in SOURCES:
        raise ValueError(
            f"source must be one of {sorted(SOURCES)}. Received: {source!r}"
        )
    path, row = os.fspath(path), SOURCES[source]
    network, other_head = _without_other_head(row.translate(row.read(path)))
    if _num_classes(network) is None and not partial:
        raise ValueError(
            f"{path} holds a {network.config['backbone']} that classifies images. To "
            f"put a new head of {NEW_CLASSES} classes on it: --partial"
        )
    config = _config(source, network, changes)
    has_auxiliary = "logits_auxiliary/kernel" in network.arrays
    model = build_model(config, auxiliary_outputs=has_auxiliary)
    report = copy_weights(
        model,
        _unfold_batch_norms(model, network.arrays),
        f"{path} ({source})",
        allow_missing=[layer.name for layer in model.layers] if partial else (),
    )
    report = dataclasses.replace(report, unused=report.unused + network.unused)
    if report.unused and not partial:
        raise ValueError(
            f"{path} holds {len(report.unused)} tensors that {config.model} on "
            f"{config.backbone} does not have: {abbreviate(report.unused)}. To leave "
            "them out: --partial"
        )
    return model, config, dataclasses.replace(report, unused=report.unused + other_head)


def import_weights(
    source: str,
    path: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    partial: bool = False,
    **changes,
) -> WeightReport:
    """Writes the workdir of another project's file, whole or not at all.

    Args:
      source, path, partial, changes: as of `load_source`.
      output_dir: folder to write, which must be empty or not there.

    Returns:
      Which weights the file gave; see `load_source` for errors.

    Raises:
      FileExistsError: output_dir is there and not empty.
      InUse: another process writes it.
    """
    output_dir = os.path.abspath(output_dir)
    if os.path.exists(output_dir) and not _is_empty_folder(output_dir):
        raise FileExistsError(f"{output_dir} exists. Give another --output.")
    parent, name = os.path.split(output_dir)
    with sole_writer_in(parent, name):
        model, config, report = load_source(source, path, partial=partial, **changes)
        temporary = os.path.join(parent, f".weights-{name}")
        shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed
        try:
            write_config(config, temporary)
            save_weights(model, os.path.join(temporary, BEST_WEIGHTS))
            os.replace(temporary, output_dir)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return report


def _config(source: str, network: sources.Network, changes: dict) -> TrainConfig:
    """What can be read off the file, changed, and labels by the number of classes.

    Raises:
      ValueError: changes that a field cannot have, or of another number of classes
        than the file's network has.
    """
    names = changes.get("class_names", ())
    count = _num_classes(network)
    if count is None:
        count = changes.get("num_classes") or len(names) or NEW_CLASSES
    given = {"num_classes": changes.get("num_classes")}
    given["class_names"] = len(names) or None
    for name, number in given.items():
        if number not in (None, count):
            raise ValueError(
                f"The file's network has {count} classes. Received: {number} as "
                f"{name}. Give a name for each, in the order of their ids: "
                "'--set=class_names=[\"road\",...]'"
            )
    labels = labels_for(count)
    if names:
        labels = Labels(names, colormap_for(names))
    fields = {"recipe": f"{source}{IMPORTED}", **network.config, **changes}
    fields.update(
        num_classes=count,
        class_names=labels.class_names,
        colormap=changes.get("colormap") or labels.colormap,
    )
    config = TrainConfig(**fields)
    check_fields(config)
    return config


def describe_classes(config: TrainConfig, given: bool) -> str:
    """Says what the classes of a file are called, and that nobody said so.

    Args:
      config: of the file.
      given: whether the names are the user's.
    """
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(config.class_names))
    if given:
        return f"Classes: {listed}"
    return (
        f"Classes, ASSUMED by their number, {config.num_classes}; the file does not "
        f"name them: {listed}\nIf they are others, import it again with "
        "'--set=class_names=[\"road\",...]'"
    )


def _without_other_head(
    network: sources.Network,
) -> tuple[sources.Network, tuple[str, ...]]:
    """Leaves out an auxiliary head of another number of classes.

    Who trains torchvision's network on data of their own often exchanges the classifier
    alone; its other head then still has the classes of COCO, and no use.

    Returns:
      (the network, names of what was left out).
    """
    kernel = network.arrays.get("logits_auxiliary/kernel")
    if kernel is None or kernel.shape[-1] == _num_classes(network):
        return network, ()
    dropped = tuple(name for name in network.arrays if "auxiliary" in name)
    arrays = {k: v for k, v in network.arrays.items() if k not in dropped}
    return dataclasses.replace(network, arrays=arrays), dropped


def _num_classes(network: sources.Network) -> int | None:
    """Filters of the classifier, None where there is only a backbone."""
    for name in ("logits/kernel", "logits_1/kernel"):
        if name in network.arrays:
            return int(network.arrays[name].shape[-1])
    return None


def _unfold_batch_norms(model, arrays) -> dict[str, np.ndarray]:
    """Gives BatchNorms that were folded away weights that leave only the bias.

    (x - 0) * 1 / sqrt(variance + epsilon) + bias, with a variance of 1 - epsilon.
    """
    unfolded = dict(arrays)
    for name in arrays:
        layer, _, leaf = name.rpartition("/")
        if leaf != "folded_bias":
            continue
        bias = unfolded.pop(name)
        epsilon = model.get_layer(layer).epsilon
        unfolded[f"{layer}/gamma"] = np.ones_like(bias)
        unfolded[f"{layer}/beta"] = bias
        unfolded[f"{layer}/moving_mean"] = np.zeros_like(bias)
        unfolded[f"{layer}/moving_variance"] = np.full_like(bias, 1 - epsilon)
    return unfolded


def _is_empty_folder(path) -> bool:
    return os.path.isdir(path) and not os.listdir(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; arguments are those of the command line where None is given."""
    parser = argparse.ArgumentParser(
        prog=call_of("weights"),
        description=as_typed(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        type=one_of(sorted(SOURCES)),
        metavar="SOURCE",
        help="Project that the file comes from, one of those above.",
    )
    parser.add_argument(
        "file", metavar="FILE", help="File of weights, or a checkpoint's prefix."
    )
    parser.add_argument(
        "--output", required=True, help="Workdir to write; empty or not there yet."
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="Accept tensors that the network does not have, and weights that the "
        "file lacks, which stay random.",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="Value of a field of TrainConfig that tensors do not tell, such as "
        "output_stride=8, multi_grid=[1,2,4] or input_scales=[1].",
    )
    options = parser.parse_args(arguments)
    try:
        changes = parse_changes(options.set)
        report = import_weights(
            options.source,
            options.file,
            options.output,
            partial=options.partial,
            **changes,
        )
    except (OSError, ValueError, InUse) as error:
        sys.exit(f"{name_of('weights')}: {error}")
    print(report)
    print(describe_classes(read_config(options.output), "class_names" in changes))
    print(f"Written: {options.output}")
    print(
        f"Next: {call_of('predict')} --workdir={options.output} "
        "--input=... --output=..."
    )
