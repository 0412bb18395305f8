"""Modules that lie elsewhere: under another name, or beside this package.

Old names are for code that was written with them. The builders of data sets are
`deeplab_tf.datasets` wherever Python imports them: a wheel has them in this package, as
a top-level `datasets` would shadow Hugging Face's, and a checkout beside it, for
`python -m datasets.build_X`.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from pathlib import Path

# Old module -> new one, both below this package.
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
    """Lets Python's import find modules of `MOVED`, and `datasets` of a checkout."""
    sys.meta_path += [_MovedModules(), _DatasetsOfCheckout()]


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


class _DatasetsOfCheckout(importlib.abc.MetaPathFinder):
    """Is asked last too: an installed package has found its own `datasets` before."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != f"{__package__}.datasets":
            return None
        folder = Path(__file__).resolve().parents[1] / "datasets"
        return importlib.util.spec_from_file_location(
            fullname,
            folder / "__init__.py",
            submodule_search_locations=[str(folder)],
        )
