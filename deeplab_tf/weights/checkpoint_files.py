"""The variables of a TensorFlow checkpoint, by the names they were saved with."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a TensorFlow checkpoint: its prefix, its .index file, or its folder.

    Returns:
      Variable name -> array.

    Raises:
      FileNotFoundError: no checkpoint there.
      ValueError: it is damaged.
    """
    prefix = os.fspath(path)
    if os.path.isdir(prefix):
        names = [name for name in os.listdir(prefix) if name.endswith(".index")]
        latest = tf.train.latest_checkpoint(prefix)
        if latest is None and len(names) == 1:
            latest = os.path.join(prefix, names[0])
        prefix = latest or prefix
    if prefix.endswith(".index"):
        prefix = prefix[: -len(".index")]
    if not os.path.isfile(f"{prefix}.index"):
        raise FileNotFoundError(
            f"No checkpoint at {os.fspath(path)}. Give its prefix, such as "
            "deeplabv3_pascal_trainval/model.ckpt, beside which .index and .data files "
            "lie."
        )
    try:
        reader = tf.train.load_checkpoint(prefix)
        return {
            name: np.asarray(reader.get_tensor(name))
            for name in reader.get_variable_to_shape_map()
        }
    # The reader turns some errors of TensorFlow into Python's own, such as IndexError.
    except (tf.errors.OpError, RuntimeError, ValueError, LookupError) as error:
        raise ValueError(
            f"{prefix} cannot be read: it is cut short or damaged ({error}). "
            "Download it again."
        ) from error
