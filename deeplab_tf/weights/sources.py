"""What other projects call their layers, and what we call them.

Each function takes the arrays of a file by their names there and returns a `Network`:
the configuration that can be read off them, and the arrays by our names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from deeplab_tf.networks.backbones.mobilenet_v2 import width

RESNET_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
XCEPTION_DEPTHS = {(3, 8): 41, (3, 16): 65, (5, 16): 71}  # entry, middle blocks


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of another project.

    Attributes:
      config: fields of `TrainConfig` that say what it is.
      arrays: by our names. Where BatchNorm is folded into the convolution in front of
        it, "<batch norm>/folded_bias" stands for its four weights.
      unused: names in the file that mean nothing to us.
    """

    config: dict
    arrays: dict[str, np.ndarray]
    unused: tuple[str, ...]


def _unit(match) -> str:
    """conv{2..5}_block{1..} from a stage and a unit counted from 1 and 0."""
    return f"conv{int(match[1]) + 1}_block{int(match[2]) + 1}"


# (pattern of a layer's whole name there, our name).
_TORCHVISION = (
    (r"backbone\.(conv|bn)1", r"conv1_\1"),
    (
        r"backbone\.layer(\d)\.(\d+)\.(conv|bn)([123])",
        lambda match: f"{_unit(match)}_{match[4]}_{match[3]}",
    ),
    (
        r"backbone\.layer(\d)\.(\d+)\.downsample\.0",
        lambda match: f"{_unit(match)}_0_conv",
    ),
    (
        r"backbone\.layer(\d)\.(\d+)\.downsample\.1",
        lambda match: f"{_unit(match)}_0_bn",
    ),
    (r"classifier\.0\.convs\.0\.0", "aspp_1x1_conv"),
    (r"classifier\.0\.convs\.0\.1", "aspp_1x1_bn"),
    (r"classifier\.0\.convs\.([123])\.0", r"aspp_atrous\1_conv"),
    (r"classifier\.0\.convs\.([123])\.1", r"aspp_atrous\1_bn"),
    (r"classifier\.0\.convs\.4\.1", "aspp_pool_conv"),
    (r"classifier\.0\.convs\.4\.2", "aspp_pool_bn"),
    (r"classifier\.0\.project\.0", "aspp_projection_conv"),
    (r"classifier\.0\.project\.1", "aspp_projection_bn"),
    (r"classifier\.1", "aspp_3x3_conv"),
    (r"classifier\.2", "aspp_3x3_bn"),
    (r"classifier\.4", "logits"),
    (r"aux_classifier\.0", "auxiliary_conv"),
    (r"aux_classifier\.1", "auxiliary_bn"),
    (r"aux_classifier\.4", "logits_auxiliary"),
)
_KAZUTO1011_PARTS = {"reduce": 1, "conv3x3": 2, "increase": 3, "shortcut": 0}
# "base." is the multi-scale wrapper, in older files "scale.".
_KAZUTO1011 = (
    (r"(?:base\.|scale\.)?layer1\.conv1\.(conv|bn)", r"conv1_\1"),
    (
        r"(?:base\.|scale\.)?layer([2-5])\.block(\d+)\."
        r"(reduce|conv3x3|increase|shortcut)\.(conv|bn)",
        lambda match: (
            f"conv{match[1]}_block{match[2]}_{_KAZUTO1011_PARTS[match[3]]}_{match[4]}"
        ),
    ),
    (
        r"(?:base\.|scale\.)?aspp\.c(\d)",
        lambda match: f"logits_{int(match[1]) + 1}",
    ),
)
# The authors' heads, as bonlime calls them: scopes joined by underscores.
_AUTHORS_HEADS = {
    "image_pooling": "aspp_pool",
    "aspp0": "aspp_1x1",
    "aspp1": "aspp_atrous1",
    "aspp2": "aspp_atrous2",
    "aspp3": "aspp_atrous3",
    "concat_projection": "aspp_projection",
    "feature_projection0": "decoder_low_level",
    "decoder_conv0": "decoder_conv3x3_1",
    "decoder_conv1": "decoder_conv3x3_2",
    # Not separable, they come from slim.repeat, which nests and counts from 1.
    "decoder_conv0_decoder_conv0_1": "decoder_conv3x3_1",
    "decoder_conv0_decoder_conv0_2": "decoder_conv3x3_2",
}
_AUTHORS_BACKBONES = (
    (r"Conv", "Conv1"),
    (r"Conv_BN", "bn_Conv1"),
    (r"expanded_conv_((?:depthwise|project)(?:_BN)?)", r"expanded_conv_\1"),
    (r"expanded_conv_(\d+_(?:expand|depthwise|project)(?:_BN)?)", r"block_\1"),
    (r"((?:entry|middle|exit)_flow_.+)", r"\1"),
    (r"conv1_([123])", r"conv1_\1_conv"),
    (r"conv1_([123])_BN", r"conv1_\1_bn"),
    (
        r"block(\d)_unit_(\d+)_(?:conv([123])|shortcut)(_BN)?",
        lambda match: (
            f"conv{int(match[1]) + 1}_block{match[2]}_{match[3] or 0}"
            f"_{'bn' if match[4] else 'conv'}"
        ),
    ),
    (r"(?:custom_)?logits_semantic", "logits"),
)
# State that TensorFlow 1 checkpoints keep beside the weights.
_TRAINING_STATE = re.compile(
    r"global_step|.*/(?:Momentum|Adam(?:_1)?|RMSProp(?:_1)?|ExponentialMovingAverage)"
    r"|beta[12]_power"
)


def torchvision(tensors: dict[str, np.ndarray]) -> Network:
    """pytorch/vision's deeplabv3_resnet50 and deeplabv3_resnet101.

    Raises:
      ValueError: not such a network.
    """
    arrays, unused = _from_torch(tensors, _TORCHVISION)
    if "logits/kernel" not in arrays:
        kind = "torchvision's DeepLabV3 on a ResNet"
        raise _other_network(tensors, kind, "classifier.4.weight")
    projection = arrays.get("aspp_projection_conv/kernel")
    if projection is not None:
        # Image-level pooling comes last there and first here.
        rolled = np.roll(projection, projection.shape[3], axis=2)
        arrays["aspp_projection_conv/kernel"] = rolled
    config = {
        "model": "deeplab_v3_torchvision",
        "backbone": f"resnet{_resnet_depth(arrays)}_torchvision",
        "output_stride": 8,
        "resize": "half_pixel",
    }
    return Network(config, arrays, unused)


def kazuto1011(tensors: dict[str, np.ndarray]) -> Network:
    """kazuto1011/deeplab-pytorch's DeepLabV2 on ResNet-101, with or without MSC.

    Raises:
      ValueError: not such a network.
    """
    arrays, unused = _from_torch(tensors, _KAZUTO1011)
    if "logits_1/kernel" not in arrays:
        kind = "DeepLabV2 of kazuto1011/deeplab-pytorch"
        raise _other_network(tensors, kind, "aspp.c0.weight")
    multi_scale = any(name.startswith(("base.", "scale.")) for name in tensors)
    config = {
        "model": "deeplab_v2",
        "backbone": f"resnet{_resnet_depth(arrays)}",
        "output_stride": 8,
        "input_scales": (1.0, 0.75, 0.5) if multi_scale else (1.0,),
        "normalization": "caffe_deeplab",
        "strided_padding": "caffe",
        "resize": "half_pixel",
    }
    return Network(config, arrays, unused)


def bonlime(tensors: dict[str, np.ndarray]) -> Network:
    """bonlime/keras-deeplab-v3-plus on Xception-65 or MobileNetV2.

    Raises:
      ValueError: not such a network.
    """
    arrays, unused = _from_joined_scopes(tensors)
    if "logits/kernel" not in arrays:
        kind = "DeepLabV3+ of bonlime/keras-deeplab-v3-plus"
        raise _other_network(tensors, kind, "logits_semantic/kernel")
    config = _authors_network(arrays)
    mobile = config["backbone"].startswith("mobilenet")
    config.update(
        output_stride=8 if mobile else 16,
        strided_padding="same",
        resize="half_pixel",
        dropout_rate=0.1,
    )
    return Network(config, arrays, unused)


def research_deeplab(tensors: dict[str, np.ndarray]) -> Network:
    """A checkpoint of tensorflow/models research/deeplab.

    One with an ImageNet classifier is a backbone for DeepLabV3+, without a head.

    Raises:
      ValueError: not such a network, or a backbone that is not here.
    """
    weights = {
        name: array
        for name, array in tensors.items()
        if not _TRAINING_STATE.fullmatch(name)
    }
    arrays, unused = _from_scopes(weights)
    config = {"output_stride": 16, "dropout_rate": 0.1}
    if "logits/kernel" in arrays:
        config.update(_authors_network(arrays))
    elif any(re.match("conv5_|exit_flow_|block_16_", name) for name in arrays):
        config.update(model="deeplab_v3plus", backbone=_authors_backbone(arrays))
    else:
        kind = "a network of TensorFlow's research/deeplab"
        raise _other_network(tensors, kind, "logits/semantic/weights")
    return Network(config, arrays, unused)


def tflite(tensors: dict[str, np.ndarray]) -> Network:
    """A .tflite file of the authors' MobileNetV2 networks, BatchNorm folded.

    The arrays are those of `tflite_files.read_tflite_weights`.

    Raises:
      ValueError: not such a network.
    """
    weights = {name: array for name, array in tensors.items() if "/" in name}
    arrays, unused = _from_scopes(weights)
    if "logits/kernel" not in arrays:
        kind = "a network of TensorFlow's research/deeplab"
        raise _other_network(tensors, kind, "logits/semantic/kernel")
    arrays = {_folded(name): array for name, array in arrays.items()}
    config = _authors_network(arrays)
    config["output_stride"] = int(tensors["output_stride"])
    return Network(config, arrays, unused)


def _other_network(tensors, kind: str, expected: str) -> ValueError:
    """The error for a file without a classifier; all names are the file's own."""
    return ValueError(
        f"The file is not {kind}: expected a tensor {expected}. It holds "
        f"{len(tensors)} tensors, such as {', '.join(sorted(tensors)[:3])}"
    )


def _translate(rules, layer: str) -> str | None:
    for pattern, ours in rules:
        match = re.fullmatch(pattern, layer)
        if match:
            return ours(match) if callable(ours) else match.expand(ours)
    return None


def _from_torch(tensors, rules) -> tuple[dict, tuple[str, ...]]:
    """PyTorch's leaves and [out, in, height, width] kernels, as Keras has them."""
    arrays, unused = {}, []
    for name, array in tensors.items():
        layer, _, leaf = name.rpartition(".")
        ours = _translate(rules, layer)
        if leaf == "num_batches_tracked":
            continue
        if f"{layer}.running_mean" in tensors:
            leaves = {
                "weight": "gamma",
                "bias": "beta",
                "running_mean": "moving_mean",
                "running_var": "moving_variance",
            }
        else:
            leaves = {"weight": "kernel", "bias": "bias"}
        if ours is None or leaf not in leaves:
            unused.append(name)
            continue
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        arrays[f"{ours}/{leaves[leaf]}"] = array
    _check_kernels(arrays)
    return arrays, tuple(unused)


def _from_scopes(tensors) -> tuple[dict, tuple[str, ...]]:
    """As `_from_joined_scopes`, for variables of TF-slim."""
    return _from_joined_scopes(
        {_join_scopes(name): array for name, array in tensors.items()}
    )


def _from_joined_scopes(tensors) -> tuple[dict, tuple[str, ...]]:
    arrays, unused = {}, []
    for name, array in tensors.items():
        layer, _, leaf = name.rpartition("/")
        ours = _authors_layer(layer)
        if ours is None:
            unused.append(name)
        else:
            arrays[f"{ours}/{leaf}"] = array
    _check_kernels(arrays)
    return arrays, tuple(unused)


def _check_kernels(arrays) -> None:
    """Refuses kernels off whose shapes nothing could be read."""
    for name, array in arrays.items():
        if name.endswith("/kernel") and array.ndim != 4:
            raise ValueError(
                f"{name} has the shape {array.shape}. Expected the four dimensions of "
                "a convolution's kernel: the file is another network's, or damaged."
            )


def _authors_layer(layer: str) -> str | None:
    """Our name of a layer of the authors' code, scopes joined by underscores."""
    match = re.fullmatch(r"(.+?)(_depthwise|_pointwise)?(_BN)?", layer)
    if match and match[1] in _AUTHORS_HEADS:
        half = match[2] or ""
        kind = "_bn" if match[3] else "" if half == "_depthwise" else "_conv"
        return f"{_AUTHORS_HEADS[match[1]]}{half}{kind}"
    return _translate(_AUTHORS_BACKBONES, layer)


def _join_scopes(name: str) -> str:
    """A TF-slim variable's scopes as one layer name, its leaf as Keras'.

    xception_65/entry_flow/block1/unit_1/xception_module/shortcut/BatchNorm/gamma ->
    entry_flow_block1_shortcut_BN/gamma
    """
    name = re.sub(r"^(MobilenetV2|xception_\d+|resnet_v1_\d+)/", "", name)
    name = re.sub(r"(entry|exit)_flow/(block\d)/unit_1/", r"\1_flow_\2_", name)
    name = re.sub(r"middle_flow/block1/(unit_\d+)/", r"middle_flow_\1_", name)
    name = re.sub(r"(xception_module|bottleneck_v1|decoder)/", "", name)
    name = name.replace("/BatchNorm/", "_BN/")
    scopes, _, leaf = name.rpartition("/")
    leaf = re.sub("(depthwise_)?weights", "kernel", leaf).replace("biases", "bias")
    return f"{scopes.replace('/', '_')}/{leaf}"


def _folded(name: str) -> str:
    """A bias in front of BatchNorm -> its "folded_bias"; a classifier's stays."""
    layer, _, leaf = name.rpartition("/")
    if leaf != "bias" or layer == "logits":
        return name
    if layer == "Conv1":
        return "bn_Conv1/folded_bias"
    if layer.endswith("_conv"):
        return f"{layer[: -len('conv')]}bn/folded_bias"
    return f"{layer}_BN/folded_bias"


def _authors_network(arrays) -> dict:
    """Reads model, backbone and head of a network of the authors off its weights."""
    decoder = "decoder_low_level_conv/kernel" in arrays
    separable = "aspp_atrous1_depthwise/kernel" in arrays
    has_rates = separable or "aspp_atrous1_conv/kernel" in arrays
    return {
        "model": "deeplab_v3plus" if decoder else "deeplab_v3",
        "backbone": _authors_backbone(arrays),
        "multi_grid": (1, 1, 1),
        "atrous_rates": None if has_rates else (),
        "image_pooling": "aspp_pool_conv/kernel" in arrays,
        "separable": separable,
    }


def _authors_backbone(arrays) -> str:
    if "block_16_project/kernel" in arrays and "block_1_project/kernel" in arrays:
        alpha = arrays["block_16_project/kernel"].shape[3] / 320
        rounded = width(24, alpha) == arrays["block_1_project/kernel"].shape[3]
        if alpha == 1:
            return "mobilenet_v2"
        return f"mobilenet_v2_{alpha:g}{'' if rounded else '_unrounded'}"
    if "conv1_1_conv/kernel" in arrays:
        return f"resnet{_resnet_depth(arrays)}_beta"
    blocks = (
        _highest(arrays, r"entry_flow_block(\d+)_.*"),
        _highest(arrays, r"middle_flow_unit_(\d+)_.*"),
    )
    if blocks in XCEPTION_DEPTHS:
        return f"xception{XCEPTION_DEPTHS[blocks]}"
    raise ValueError(
        "The file's backbone is none of MobileNetV2, Xception-41, -65, -71 and ResNet "
        "with the beta stem."
    )


def _resnet_depth(arrays) -> int:
    units = tuple(_highest(arrays, rf"conv{i}_block(\d+)_.*") for i in (2, 3, 4, 5))
    if units not in RESNET_DEPTHS:
        raise ValueError(
            "The file's backbone is no ResNet-50, -101 or -152: expected (3, 4, 6, 3), "
            f"(3, 4, 23, 3) or (3, 8, 36, 3) residual units. It has {units}"
        )
    return RESNET_DEPTHS[units]


def _highest(names: Iterable[str], pattern: str) -> int:
    matches = (re.fullmatch(pattern, name) for name in names)
    return max((int(match[1]) for match in matches if match), default=0)
