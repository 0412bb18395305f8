"""deeplab_tf: the DeepLab family for TensorFlow 2 and Keras."""

from deeplab_tf.blocks import layer_defaults
from deeplab_tf.config import TrainConfig
from deeplab_tf.inference import Segmenter
from deeplab_tf.losses import SegmentationLoss
from deeplab_tf.metrics import MeanIoU
from deeplab_tf.models import (
    MODELS,
    DeepLabV1,
    DeepLabV2,
    DeepLabV3,
    DeepLabV3Cascade,
    DeepLabV3Plus,
    DeepLabV3Torchvision,
    build_model,
    inference_model,
)
from deeplab_tf.recipes import RECIPES, recipe_config
from deeplab_tf.version import __version__
from deeplab_tf.weight_files import load_weights, save_weights
from deeplab_tf.workdir import load_workdir

__all__ = [
    "MODELS",
    "RECIPES",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Cascade",
    "DeepLabV3Plus",
    "DeepLabV3Torchvision",
    "MeanIoU",
    "SegmentationLoss",
    "Segmenter",
    "TrainConfig",
    "__version__",
    "build_model",
    "inference_model",
    "layer_defaults",
    "load_weights",
    "load_workdir",
    "recipe_config",
    "save_weights",
]
