"""Lets Keras know our classes wherever TensorFlow and this package are both imported.

Keras finds the classes of a .keras file in its registry, where a class is once its
module is imported; and `import deeplab_tf` imports no module that needs TensorFlow. So
they are imported as soon as TensorFlow is.
"""

from __future__ import annotations

import importlib

import wrapt

# The modules with classes that .keras files hold.
_MODULES = (
    "networks.backbones.activations",
    "networks.batch_normalization",
    "networks.layers",
    "networks.segmentation_model",
    "evaluation.metrics",
    "training.losses.at_features",
    "training.losses",
    "training.schedules",
)


def install() -> None:
    """Registers the classes now, or as the last step of importing TensorFlow."""
    wrapt.register_post_import_hook(_register, "tensorflow")


def _register(tensorflow) -> None:
    for name in _MODULES:
        importlib.import_module(f"{__package__}.{name}")
