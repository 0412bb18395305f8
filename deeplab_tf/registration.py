"""Lets Keras know our classes wherever TensorFlow and this package are both imported.

Keras finds the classes of a .keras file in its registry, where a class is once its
module is imported; and `import deeplab_tf` imports no module that needs TensorFlow. So
they are imported as soon as TensorFlow is; but where a module of ours is what imports
TensorFlow first, only when that one is whole, since they may need it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading

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
    """Registers the classes now, or after importing TensorFlow."""
    registration = _Registration()
    sys.meta_path.insert(0, registration)
    wrapt.register_post_import_hook(registration.register, "tensorflow")


class _Registration(importlib.abc.MetaPathFinder):
    """Imports the modules of `_MODULES`, once, amid no import of a module of ours."""

    def __init__(self):
        self._thread = threading.local()  # .depth: modules that it is importing
        self._waiting = False

    def register(self, tensorflow) -> None:
        if getattr(self._thread, "depth", 0):
            self._waiting = True
            return
        self._waiting = False
        for name in _MODULES:
            importlib.import_module(f"{__package__}.{name}")

    def find_spec(self, fullname, path=None, target=None):
        if not fullname.startswith(f"{__package__}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec

    def execute(self, loader, module) -> None:
        depth = getattr(self._thread, "depth", 0)
        self._thread.depth = depth + 1
        try:
            loader.exec_module(module)
        finally:
            self._thread.depth = depth
        if self._waiting and not depth:
            self.register(sys.modules["tensorflow"])


class _Loader:
    """A loader that has `_Registration` execute the module, and is then gone."""

    def __init__(self, loader, registration: _Registration):
        self._loader = loader
        self._registration = registration

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader
        self._registration.execute(self._loader, module)
