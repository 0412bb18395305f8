"""Arrays by another project's names in, by ours out.

Each `from_...` returns the arrays that have a name here, kernels as [height, width, in,
out], and the names in the file that have none. They raise ValueError for a kernel that
has not four dimensions, off whose shape nothing could be read.
"""

from __future__ import annotations

import re

import numpy as np

Translated = tuple[dict[str, np.ndarray], tuple[str, ...]]

_TORCH_LEAVES = {"weight": "kernel", "bias": "bias"}
_TORCH_BATCH_NORM_LEAVES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def _unit(match) -> str:
    """conv{2..5}_block{1..} from a stage and a unit counted from 1 and 0."""
    return f"conv{int(match[1]) + 1}_block{int(match[2]) + 1}"


# Parts of MobileNetV3's blocks, with and without squeeze-and-excitation.
_MOBILENET_V3_PARTS = {"0": "expand", "1": "depthwise", "2": "project", "3": "project"}
_CONV_BN = {"0": "", "1": "_bn"}


def _mobilenet_v3_layer(match) -> str:
    part = _MOBILENET_V3_PARTS[match[2]]
    return f"expanded_conv_{int(match[1]) - 1}_{part}{_CONV_BN[match[3]]}"


_TORCHVISION_MOBILENET_V3 = (
    (r"backbone\.0\.([01])", lambda match: f"conv{_CONV_BN[match[1]]}"),
    (
        r"backbone\.1\.block\.0\.([01])",  # the first block expands nothing
        lambda match: f"expanded_conv_depthwise{_CONV_BN[match[1]]}",
    ),
    (
        r"backbone\.1\.block\.1\.([01])",
        lambda match: f"expanded_conv_project{_CONV_BN[match[1]]}",
    ),
    (r"backbone\.(\d+)\.block\.([0-3])\.([01])", _mobilenet_v3_layer),
    (
        r"backbone\.(\d+)\.block\.2\.fc([12])",
        lambda match: (
            f"expanded_conv_{int(match[1]) - 1}_squeeze_excite_conv"
            f"{'_1' if match[2] == '2' else ''}"
        ),
    ),
    (r"backbone\.16\.([01])", lambda match: f"conv_1{_CONV_BN[match[1]]}"),
)
# (pattern of a layer's whole name there, our name).
TORCHVISION = (
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
    *_TORCHVISION_MOBILENET_V3,
    (r"classifier\.cbr\.0", "aspp_1x1_conv"),
    (r"classifier\.cbr\.1", "aspp_1x1_bn"),
    (r"classifier\.scale\.1", "aspp_gate"),
    (r"classifier\.low_classifier", "logits_low_level"),
    (r"classifier\.high_classifier", "logits"),
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
KAZUTO1011 = (
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
_HUGGINGFACE_PARTS = {
    "expand_1x1": "expand",
    "conv_3x3": "depthwise",
    "reduce_1x1": "project",
}


def _huggingface_block(match) -> str:
    """Layer i of transformers' MobileNetV2 is block i + 1; its stem is block 0."""
    block = "expanded_conv" if match[1] is None else f"block_{int(match[1]) + 1}"
    batch_norm = "_BN" if match[3] == "normalization" else ""
    return f"{block}_{_HUGGINGFACE_PARTS[match[2]]}{batch_norm}"


HUGGINGFACE = (
    (r"mobilenet_v2\.conv_stem\.first_conv\.convolution", "Conv1"),
    (r"mobilenet_v2\.conv_stem\.first_conv\.normalization", "bn_Conv1"),
    (
        r"mobilenet_v2\.(?:conv_stem|layer\.(\d+))\.(expand_1x1|conv_3x3|reduce_1x1)"
        r"\.(convolution|normalization)",
        _huggingface_block,
    ),
    (
        r"segmentation_head\.conv_(pool|aspp|projection)\.(convolution|normalization)",
        lambda match: (
            f"aspp_{'1x1' if match[1] == 'aspp' else match[1]}"
            f"_{'conv' if match[2] == 'convolution' else 'bn'}"
        ),
    ),
    (r"segmentation_head\.classifier\.convolution", "logits"),
)
# (pattern of a layer's name in Keras Hub, our name).
KERAS_HUB = (
    (r"(conv1_(?:conv|bn))", r"\1"),
    (
        r"stack(\d)_block(\d+)_([0-3]_(?:conv|bn))",
        lambda match: f"conv{int(match[1]) + 2}_block{int(match[2]) + 1}_{match[3]}",
    ),
    (r"aspp_(conv|bn)_1", r"aspp_1x1_\1"),
    (
        r"aspp_(conv|bn)_(\d+)",
        lambda match: f"aspp_atrous{int(match[2]) - 1}_{match[1]}",
    ),
    (r"(conv|bn)_pooling", r"aspp_pool_\1"),
    (r"(conv|bn)_projection", r"aspp_projection_\1"),
    (r"decoder_conv", "decoder_low_level_conv"),
    (r"decoder_norm", "decoder_low_level_bn"),
    (r"segmentation_head_conv", "decoder_conv3x3_1_conv"),
    (r"segmentation_head_norm", "decoder_conv3x3_1_bn"),
    (r"segmentation_output", "logits"),
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


def from_torch(tensors: dict[str, np.ndarray], rules) -> Translated:
    """Translates a state_dict.

    Args:
      tensors: "<layer>.<leaf>" -> array, kernels [out, in, height, width].
      rules: `TORCHVISION`, `KAZUTO1011` or `HUGGINGFACE`.
    """
    arrays, unused = {}, []
    for name, array in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        is_batch_norm = f"{layer}.running_mean" in tensors
        leaves = _TORCH_BATCH_NORM_LEAVES if is_batch_norm else _TORCH_LEAVES
        ours = _translate(rules, layer)
        if ours is None or leaf not in leaves:
            unused.append(name)
            continue
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        arrays[f"{ours}/{leaves[leaf]}"] = array
    _check_kernels(arrays)
    return arrays, tuple(unused)


def from_keras(tensors: dict[str, np.ndarray], rules) -> Translated:
    """Translates "<layer>/<leaf>" of a Keras model.

    Args:
      tensors: of the file.
      rules: `KERAS_HUB`.
    """
    arrays, unused = {}, []
    for name, array in tensors.items():
        layer, _, leaf = name.rpartition("/")
        ours = _translate(rules, layer)
        if ours is None:
            unused.append(name)
        else:
            arrays[f"{ours}/{leaf}"] = array
    _check_kernels(arrays)
    return arrays, tuple(unused)


def from_scopes(tensors: dict[str, np.ndarray]) -> Translated:
    """Translates variables of TF-slim, as the authors' own code names them."""
    return from_joined_scopes(
        {_join_scopes(name): array for name, array in tensors.items()}
    )


def from_joined_scopes(tensors: dict[str, np.ndarray]) -> Translated:
    """Translates "<scopes joined by underscores>/<leaf>", as bonlime names them."""
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


def folded(name: str) -> str:
    """A bias in front of BatchNorm -> its "folded_bias"; a classifier's stays."""
    layer, _, leaf = name.rpartition("/")
    if leaf != "bias" or layer == "logits":
        return name
    if layer == "Conv1":
        return "bn_Conv1/folded_bias"
    if layer.endswith("_conv"):
        return f"{layer[: -len('conv')]}bn/folded_bias"
    return f"{layer}_BN/folded_bias"


def _translate(rules, layer: str) -> str | None:
    for pattern, ours in rules:
        match = re.fullmatch(pattern, layer)
        if match:
            return ours(match) if callable(ours) else match.expand(ours)
    return None


def _check_kernels(arrays) -> None:
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
