"""Trained networks of other projects, turned into a workdir.

    python -m deeplab_tf.weights torchvision deeplabv3_resnet50_coco-cd0a2569.pth \
        --output=runs/torchvision
    python predict.py --workdir=runs/torchvision --input=photos --output=predictions

SOURCE is one of
  torchvision       deeplabv3_resnet50 or deeplabv3_resnet101, a .pth file
  kazuto1011        DeepLabV2 on ResNet-101 (deeplab-pytorch), a .pth file
  bonlime           DeepLabV3+ on Xception or MobileNetV2 (keras-deeplab-v3-plus), .h5
  research_deeplab  a TensorFlow 1 checkpoint of tensorflow/models, research/deeplab; of
                    its ImageNet checkpoints the backbone, with --partial
  tflite            the authors' MobileNetV2 networks, float or quantised
Model, backbone, head and classes are read off the tensors. PyTorch is not needed, and
no code of a file is run. A tensor that is left over or missing is an error, unless
--partial is given. The workdir serves evaluate.py, predict.py, export.py and
train.py --init.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.command_names import as_typed, call_of, name_of
from deeplab_tf.config import TrainConfig, parse_changes, write_config
from deeplab_tf.labels import labels_for
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.weight_files import (
    WeightReport,
    abbreviate,
    copy_weights,
    read_weights,
    save_weights,
)
from deeplab_tf.weights import sources
from deeplab_tf.weights.tflite_files import read_tflite_weights
from deeplab_tf.weights.torch_files import read_torch_weights
from deeplab_tf.workdir import BEST_WEIGHTS

NEW_CLASSES = 21  # of a head that no file gives; train.py --init replaces it


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a TensorFlow checkpoint: its prefix, its .index file, or its folder.

    Returns:
      Variable name -> array.

    Raises:
      FileNotFoundError: no checkpoint there.
      ValueError: it is damaged.
    """
    prefix = os.fspath(path)
    if os.path.isdir(prefix):
        names = [name for name in os.listdir(prefix) if name.endswith(".index")]
        latest = tf.train.latest_checkpoint(prefix)
        if latest is None and len(names) == 1:
            latest = os.path.join(prefix, names[0])
        prefix = latest or prefix
    if prefix.endswith(".index"):
        prefix = prefix[: -len(".index")]
    if not os.path.isfile(f"{prefix}.index"):
        raise FileNotFoundError(
            f"No checkpoint at {os.fspath(path)}. Give its prefix, such as "
            "deeplabv3_pascal_trainval/model.ckpt, beside which .index and .data files "
            "lie."
        )
    try:
        reader = tf.train.load_checkpoint(prefix)
        return {
            name: np.asarray(reader.get_tensor(name))
            for name in reader.get_variable_to_shape_map()
        }
    # The reader turns some errors of TensorFlow into Python's own, such as IndexError.
    except (tf.errors.OpError, RuntimeError, ValueError, LookupError) as error:
        raise ValueError(
            f"{prefix} cannot be read: it is cut short or damaged ({error}). "
            "Download it again."
        ) from error


@dataclasses.dataclass(frozen=True)
class Source:
    """A row of `SOURCES`.

    Attributes:
      read: path -> arrays by the names in the file.
      translate: those -> `weight_sources.Network`.
    """

    read: Callable[[str], dict]
    translate: Callable[[dict], sources.Network]


SOURCES = {
    "torchvision": Source(read_torch_weights, sources.torchvision),
    "kazuto1011": Source(read_torch_weights, sources.kazuto1011),
    "bonlime": Source(read_weights, sources.bonlime),
    "research_deeplab": Source(read_checkpoint, sources.research_deeplab),
    "tflite": Source(read_tflite_weights, sources.tflite),
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
    row = SOURCES[source]
    network = row.translate(row.read(os.fspath(path)))
    num_classes = _num_classes(network)
    if num_classes is None and not partial:
        raise ValueError(
            f"{os.fspath(path)} holds a {network.config['backbone']} that classifies "
            f"images. To put a new head of {NEW_CLASSES} classes on it: --partial"
        )
    labels = labels_for(num_classes or NEW_CLASSES)
    config = TrainConfig(
        recipe=f"{source}_weights",
        num_classes=len(labels.class_names),
        class_names=labels.class_names,
        colormap=labels.colormap,
        **network.config,
    )
    config = dataclasses.replace(config, **changes)
    has_auxiliary = "logits_auxiliary/kernel" in network.arrays
    model = build_model(config, auxiliary_outputs=has_auxiliary)
    arrays = _unfold_batch_norms(model, network.arrays)
    report = copy_weights(
        model,
        arrays,
        f"{os.fspath(path)} ({source})",
        allow_missing=[layer.name for layer in model.layers] if partial else (),
    )
    report = dataclasses.replace(report, unused=report.unused + network.unused)
    if report.unused and not partial:
        raise ValueError(
            f"{os.fspath(path)} holds {len(report.unused)} tensors that "
            f"{config.model} on {config.backbone} does not have: "
            f"{abbreviate(report.unused)}. To leave them out: --partial"
        )
    return model, config, report


def import_weights(
    source: str,
    path: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    partial: bool = False,
    **changes,
) -> WeightReport:
    """Writes the workdir of another project's file; see `load_source`.

    It is written beside and renamed; after a failure nothing is left.

    Raises:
      FileExistsError: output_dir is there and not empty.
    """
    output_dir = os.path.abspath(output_dir)
    if os.path.exists(output_dir) and not _is_empty_folder(output_dir):
        raise FileExistsError(f"{output_dir} exists. Give another --output.")
    model, config, report = load_source(source, path, partial=partial, **changes)
    parent = os.path.dirname(output_dir)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".weights-", dir=parent)
    try:
        os.chmod(temporary, 0o755)  # as mkdir makes them
        write_config(config, temporary)
        save_weights(model, os.path.join(temporary, BEST_WEIGHTS))
        os.replace(temporary, output_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return report


def _num_classes(network) -> int | None:
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
    parser = argparse.ArgumentParser(
        prog=call_of("weights"),
        description=as_typed(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", choices=sorted(SOURCES), metavar="SOURCE")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--output", required=True, help="The workdir to write.")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="Accept tensors that are left over and weights that are missing.",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="Set a field of TrainConfig that tensors do not tell, such as "
        "output_stride=8, multi_grid=[1,2,4] or input_scales=[1].",
    )
    options = parser.parse_args(arguments)
    try:
        report = import_weights(
            options.source,
            options.file,
            options.output,
            partial=options.partial,
            **parse_changes(options.set),
        )
    except (OSError, ValueError) as error:
        sys.exit(f"{name_of('weights')}: {error}")
    print(report)
    print(f"Written: {options.output}")
    print(
        f"Next: {call_of('predict')} --workdir={options.output} "
        "--input=... --output=..."
    )
