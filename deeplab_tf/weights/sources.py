"""Which network a file of another project holds, read off its tensors.

Each function takes the arrays of a file by their names there and returns a `Network`:
the configuration that can be read off them, and the arrays by our names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from deeplab_tf.networks.backbones.mobilenet_v2 import width
from deeplab_tf.weights.layer_names import (
    HUGGINGFACE,
    KAZUTO1011,
    KERAS_HUB,
    TORCHVISION,
    folded,
    from_joined_scopes,
    from_keras,
    from_scopes,
    from_torch,
)

RESNET_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
XCEPTION_DEPTHS = {(3, 8): 41, (3, 16): 65, (5, 16): 71}  # entry, middle blocks
HEAD_EPSILON = 1.001e-5  # of `blocks.batch_norm`
# State that TensorFlow 1 checkpoints keep beside the weights.
_TRAINING_STATE = re.compile(
    r"global_step|.*/(?:Momentum|Adam(?:_1)?|RMSProp(?:_1)?|ExponentialMovingAverage)"
    r"|beta[12]_power"
)


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


def torchvision(tensors: dict[str, np.ndarray]) -> Network:
    """pytorch/vision's DeepLabV3 and LR-ASPP, on ResNets and MobileNetV3.

    Raises:
      ValueError: not such a network.
    """
    arrays, unused = from_torch(tensors, TORCHVISION)
    if "logits/kernel" not in arrays:
        kind = "torchvision's DeepLabV3 on a ResNet or MobileNetV3, or its LR-ASPP"
        raise _other_network(tensors, kind, "classifier.4.weight")
    _pooling_first(arrays)
    config = {"model": "deeplab_v3_torchvision", "resize": "half_pixel"}
    if "conv_1/kernel" in arrays:
        _swap_depthwise(arrays)
        config.update(
            backbone="mobilenet_v3_large_torchvision",
            output_stride=16,
            atrous_rates=(12, 24, 36),
        )
    else:
        config["backbone"] = f"resnet{_resnet_depth(arrays)}_torchvision"
        config["output_stride"] = 8
    if "aspp_gate/kernel" in arrays:
        config.update(model="lr_aspp", atrous_rates=None)
        filters = arrays["aspp_gate/kernel"].shape[3]  # its gate has no bias
        arrays["aspp_gate/bias"] = np.zeros(filters, np.float32)
    return Network(config, arrays, unused)


def kazuto1011(tensors: dict[str, np.ndarray]) -> Network:
    """kazuto1011/deeplab-pytorch's DeepLabV2 on ResNet-101, with or without MSC.

    Raises:
      ValueError: not such a network.
    """
    arrays, unused = from_torch(tensors, KAZUTO1011)
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
        "scale_resize": "half_pixel",
    }
    return Network(config, arrays, unused)


def bonlime(tensors: dict[str, np.ndarray]) -> Network:
    """bonlime/keras-deeplab-v3-plus on Xception-65 or MobileNetV2.

    Raises:
      ValueError: not such a network.
    """
    arrays, unused = from_joined_scopes(tensors)
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
    arrays, unused = from_scopes(weights)
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
    arrays, unused = from_scopes(weights)
    if "logits/kernel" not in arrays:
        kind = "a network of TensorFlow's research/deeplab"
        raise _other_network(tensors, kind, "logits/semantic/kernel")
    arrays = {folded(name): array for name, array in arrays.items()}
    config = _authors_network(arrays)
    config["output_stride"] = int(tensors["output_stride"])
    return Network(config, arrays, unused)


def huggingface(tensors: dict[str, np.ndarray]) -> Network:
    """transformers' MobileNetV2ForSemanticSegmentation.

    It answers with logits of an eighth of the image's size, and its processor
    stretches them over the image, as here.

    Raises:
      ValueError: not such a network.
    """
    # The last convolution of the classifier, which no segmentation runs.
    tensors = {
        name: array
        for name, array in tensors.items()
        if not name.startswith("mobilenet_v2.conv_1x1.")
    }
    arrays, unused = from_torch(tensors, HUGGINGFACE)
    if "logits/kernel" not in arrays:
        kind = "a MobileNetV2ForSemanticSegmentation of transformers"
        raise _other_network(
            tensors, kind, "segmentation_head.classifier.convolution.weight"
        )
    _swap_depthwise(arrays)
    config = {
        **_authors_network(arrays),
        "output_stride": 8,
        "strided_padding": "same",
        "resize": "half_pixel",
        "dropout_rate": 0.1,
    }
    return Network(config, arrays, unused)


def keras_hub(tensors: dict[str, np.ndarray]) -> Network:
    """Keras Hub's DeepLabV3ImageSegmenter with a decoder, on a ResNet.

    Its decoder is one 1x1 convolution, where DeepLabV3+ has two 3x3: it becomes the
    centre of the first, and the second hands its input on, which is the same function.

    Raises:
      ValueError: not such a network.
    """
    arrays, unused = from_keras(tensors, KERAS_HUB)
    if "logits/kernel" not in arrays or "decoder_conv3x3_1_conv/kernel" not in arrays:
        kind = "a DeepLabV3+ of Keras Hub (its task.weights.h5)"
        raise _other_network(tensors, kind, "segmentation_output/kernel")
    _pooling_first(arrays)
    for name in arrays:
        if name.endswith("/moving_variance") and name.startswith(("aspp", "decoder")):
            # Its heads' epsilon is 0.001, Keras' own.
            arrays[name] = arrays[name] + np.float32(1e-3 - HEAD_EPSILON)
    kernel = arrays["decoder_conv3x3_1_conv/kernel"]
    filters = kernel.shape[3]
    arrays["decoder_conv3x3_1_conv/kernel"] = _as_centre(kernel)
    identity = np.eye(filters, dtype=np.float32)[None, None]
    arrays["decoder_conv3x3_2_conv/kernel"] = _as_centre(identity)
    arrays["decoder_conv3x3_2_bn/folded_bias"] = np.zeros(filters, np.float32)
    classes = arrays["logits/kernel"].shape[3]
    arrays.setdefault("logits/bias", np.zeros(classes, np.float32))
    config = {
        "model": "deeplab_v3plus",
        "backbone": f"resnet{_resnet_depth(arrays)}_keras_hub",
        "multi_grid": (1, 1, 1),
        "atrous_rates": (6, 12, 18),
        "output_stride": 32,
        "separable": False,
        "resize": "half_pixel",
    }
    return Network(config, arrays, unused)


def _swap_depthwise(arrays: dict[str, np.ndarray]) -> None:
    """Depthwise kernels [h, w, 1, channels] as Keras has them, [h, w, channels, 1]."""
    for name in arrays:
        if name.endswith("_depthwise/kernel"):
            arrays[name] = arrays[name].swapaxes(2, 3)


def _as_centre(kernel: np.ndarray) -> np.ndarray:
    """A 1x1 kernel as a 3x3 one of the same function."""
    return np.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0)))


def _pooling_first(arrays: dict[str, np.ndarray]) -> None:
    """Reorders ASPP's projection: image-level pooling comes last there, first here."""
    projection = arrays.get("aspp_projection_conv/kernel")
    if projection is not None:
        rolled = np.roll(projection, projection.shape[3], axis=2)
        arrays["aspp_projection_conv/kernel"] = rolled


def _other_network(tensors, kind: str, expected: str) -> ValueError:
    """The error for a file without a classifier; all names are the file's own."""
    return ValueError(
        f"The file is not {kind}: expected a tensor {expected}. It holds "
        f"{len(tensors)} tensors, such as {', '.join(sorted(tensors)[:3])}"
    )


def _authors_network(arrays) -> dict:
    """Reads model, backbone and head of a network of the authors off its weights."""
    decoder = "decoder_low_level_conv/kernel" in arrays
    separable = bool(
        {"aspp_atrous1_depthwise/kernel", "decoder_conv3x3_1_depthwise/kernel"}
        & set(arrays)
    )
    has_rates = bool(
        {"aspp_atrous1_depthwise/kernel", "aspp_atrous1_conv/kernel"} & set(arrays)
    )
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
