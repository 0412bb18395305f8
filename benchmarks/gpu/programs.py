"""What is lowered for a GPU: programs to time, and small ones whose numbers are known.

Plain tables; a row names a training configuration, so that what runs on the card is
what `train` would run there.
"""

from __future__ import annotations

import dataclasses

from deeplab_tf.config import TrainConfig
from deeplab_tf.networks.models import MODELS
from deeplab_tf.recipes import recipe_config


@dataclasses.dataclass(frozen=True)
class Program:
    """A row of `PROGRAMS` or `checks`.

    Attributes:
      config: the network, its precision, loss, batch and size.
      training: whether it is a training step or a forward pass to class ids.
      importance: 1 comes first; where time runs out, the highest are left out.
    """

    config: TrainConfig
    training: bool = True
    importance: int = 2


def _config(model: str, backbone: str, precision: str = "bfloat16", **changes):
    """A configuration of 21 classes at 513 x 513 and batch 16, as VOC's recipes."""
    return TrainConfig(
        **{
            "model": model,
            "backbone": backbone,
            "precision": precision,
            "num_classes": 21,
            **changes,
        }
    )


def _of_recipe(name: str, **changes):
    return dataclasses.replace(
        recipe_config(name), precision="bfloat16", num_classes=21, **changes
    )


_RESNET50 = ("deeplab_v3", "resnet50")
# Every row of MODELS is here (tests/test_gpu_lowering.py), the papers' and this
# project's usual settings; DeepLabV1 and V2 as their recipes have them.
PROGRAMS = {
    "v3_resnet50_train_bfloat16": Program(_config(*_RESNET50), importance=1),
    "v3_resnet50_train_float32": Program(_config(*_RESNET50, "float32"), importance=1),
    "v3_resnet50_forward_bfloat16": Program(
        _config(*_RESNET50), training=False, importance=1
    ),
    "v3_resnet50_os8_train_bfloat16": Program(_config(*_RESNET50, output_stride=8)),
    "v3_resnet50_os8_recompute_train_bfloat16": Program(
        _config(*_RESNET50, output_stride=8, recompute=True)
    ),
    "v3plus_resnet50_train_bfloat16": Program(_config("deeplab_v3plus", "resnet50")),
    "v3plus_xception65_train_bfloat16": Program(
        _config("deeplab_v3plus", "xception65")
    ),
    "v2_resnet101_train_bfloat16": Program(_of_recipe("deeplab_v2_voc2012")),
    "v3_mobilenet_v2_train_bfloat16": Program(
        _config(
            "deeplab_v3",
            "mobilenet_v2",
            num_classes=11,
            crop_size=(360, 480),
            batch_size=32,
        )
    ),
    "v3_resnet101_train_bfloat16": Program(_config("deeplab_v3", "resnet101")),
    "v1_vgg16_train_bfloat16": Program(_of_recipe("deeplab_v1_voc2012")),
    "v3_torchvision_resnet50_os8_train_bfloat16": Program(
        _config("deeplab_v3_torchvision", "resnet50_torchvision", output_stride=8),
        importance=3,
    ),
    "v3_cascade_resnet50_train_bfloat16": Program(
        _config("deeplab_v3_cascade", "resnet50", multi_grid=(1, 2, 1)), importance=3
    ),
    "v1_msc_vgg16_train_bfloat16": Program(
        _of_recipe("deeplab_v1_voc2012", multi_scale_features=True), importance=3
    ),
    "lr_aspp_mobilenet_v3_large_train_bfloat16": Program(
        _config("lr_aspp", "mobilenet_v3_large"), importance=3
    ),
    "v3_resnet50_forward_float32": Program(
        _config(*_RESNET50, "float32"), training=False, importance=3
    ),
}

# The networks whose numbers are compared: of every model a small one, and what a row
# of MODELS alone would leave out.
CHECK_BACKBONES = {"deeplab_v1": "vgg16", "lr_aspp": "mobilenet_v3_small"}
FURTHER_CHECKS = {
    "v1_multi_scale": {"model": "deeplab_v1", "multi_scale_features": True},
    "v3_mobilenet_v2": {"backbone": "mobilenet_v2"},
    "v3plus_xception41": {"model": "deeplab_v3plus", "backbone": "xception41"},
    "v3_efficientnet_v2_b0": {"backbone": "efficientnet_v2_b0"},
    "v3_convnext_tiny": {"backbone": "convnext_tiny"},
    "v3_all_losses": {
        "class_weights": (0.5, 1.0, 2.0, 1.0, 1.0),
        "label_stride": 2,
        "hard_pixel_fraction": 0.5,
    },
    "v3_recompute": {"recompute": True, "dropout_rate": 0.1},
    "v3_frozen_half_pixel": {"frozen_batch_norm": True, "resize": "half_pixel"},
}


def checks() -> dict[str, Program]:
    """Name -> float32 program of 4 images of 65 x 65 and 5 classes, to be compared."""
    rows = {name: {"model": name} for name in MODELS}
    rows.update(FURTHER_CHECKS)
    return {f"check_{name}": Program(_check(**row)) for name, row in rows.items()}


def _check(model: str = "deeplab_v3", **changes):
    backbone = changes.pop("backbone", CHECK_BACKBONES.get(model, "resnet18"))
    small = {"num_classes": 5, "crop_size": (65, 65), "batch_size": 4}
    return _config(model, backbone, "float32", **small, **changes)
