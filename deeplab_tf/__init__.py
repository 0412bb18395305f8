"""deeplab_tf: the DeepLab family for TensorFlow 2 and Keras.

Names are imported when they are first used, so that what needs no TensorFlow (the
builders of data sets) does not wait for it.
"""

import importlib

from deeplab_tf import moved, registration

# Public name -> the module that has it.
_HOMES = {
    "BoundaryLoss": "training.losses",
    "DiceLoss": "training.losses",
    "FocalLoss": "training.losses",
    "LovaszLoss": "training.losses",
    "MODELS": "networks.models",
    "OhemLoss": "training.losses",
    "Prediction": "inference.predicted",
    "RECIPES": "recipes",
    "DeepLabV1": "networks.models",
    "DeepLabV2": "networks.models",
    "DeepLabV3": "networks.models",
    "DeepLabV3Cascade": "networks.models",
    "DeepLabV3Plus": "networks.models",
    "DeepLabV3Torchvision": "networks.models",
    "LRASPP": "networks.models",
    "MeanIoU": "evaluation.metrics",
    "SegmentationLoss": "training.losses",
    "Segmenter": "inference.segmenter",
    "SumOfLosses": "training.losses",
    "TrainConfig": "config",
    "TverskyLoss": "training.losses",
    "__version__": "version",
    "backbone_layers": "networks.freezing",
    "build_model": "networks.models",
    "freeze_backbone": "networks.freezing",
    "from_pretrained": "weights.pretrained",
    "inference_model": "networks.models",
    "layer_defaults": "networks.blocks",
    "load_weights": "networks.weight_files",
    "load_workdir": "workdir",
    "recipe_config": "recipes",
    "save_weights": "networks.weight_files",
}

__all__ = list(_HOMES)

moved.install()
registration.install()


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
