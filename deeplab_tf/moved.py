"""Old names of modules, for code and .keras files that were written with them."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings

# Old module -> new one, both below this package. `.keras` files name the first four.
MOVED = {
    "layers": "networks.layers",
    "losses": "training.losses",
    "metrics": "evaluation.metrics",
    "optimizers": "training.optimizers",
    "backbones": "networks.backbones",
    "blocks": "networks.blocks",
    "crf": "inference.crf",
    "heads": "networks.heads",
    "images": "pictures.images",
    "models": "networks.models",
    "videos": "pictures.videos",
    "visualize": "pictures.visualize",
    "weight_files": "networks.weight_files",
}


def install() -> None:
    """Lets Python's import find modules of `MOVED` under their old names."""
    sys.meta_path.append(_MovedModules())


class _MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Is asked last, for modules that nothing else has found."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.rpartition(".")
        if package == __package__ and name in MOVED:
            return importlib.machinery.ModuleSpec(fullname, self)
        return None

    def exec_module(self, module):
        new = f"{__package__}.{MOVED[module.__name__.rpartition('.')[2]]}"
        warnings.warn(
            f"{module.__name__} has moved to {new}.", DeprecationWarning, stacklevel=2
        )
        # The import system hands out what it finds under the name afterwards.
        sys.modules[module.__name__] = importlib.import_module(new)
