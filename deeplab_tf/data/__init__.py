"""Files in, tf.data of (image, label) out. Knows nothing of networks.

Names are imported when they are first used: builders start without TensorFlow.
"""

import importlib

# Public name -> the module that has it.
_HOMES = {"from_folder": "plain_folders"}

__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
