"""Lets Keras know our classes wherever TensorFlow and this package are both imported.

Keras 3 imports the module that a .keras file names. Keras 2 asks its registry alone, in
which a class is once its module is imported; and `import deeplab_tf` imports no module
that needs TensorFlow. So they are imported as soon as TensorFlow is.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys

# The modules with classes that .keras files hold.
_MODULES = (
    "networks.layers",
    "evaluation.metrics",
    "training.losses",
    "training.schedules",
)


def install() -> None:
    """Registers the classes now, or as the last step of importing TensorFlow."""
    if hasattr(sys.modules.get("tensorflow"), "keras"):
        _register()
    else:
        sys.meta_path.insert(0, _AfterTensorFlow())


def _register() -> None:
    for name in _MODULES:
        importlib.import_module(f"{__package__}.{name}")


class _AfterTensorFlow(importlib.abc.MetaPathFinder):
    """Is asked first: finds TensorFlow as Python does, and adds to its import."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None:
            return None
        loader, execute = spec.loader, spec.loader.exec_module

        def exec_module(module):
            loader.exec_module = execute
            execute(module)
            sys.meta_path.remove(self)
            _register()

        loader.exec_module = exec_module
        return spec
