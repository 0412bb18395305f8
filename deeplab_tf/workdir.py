"""A trained model from the folder its run left behind."""

from __future__ import annotations

import contextlib
import os

from tensorflow import keras

from deeplab_tf.config import TrainConfig, read_config
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.weight_files import load_weights

BEST_WEIGHTS = "best.npz"
LAST_WEIGHTS = "last.npz"
POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


def load_workdir(
    path: str | os.PathLike,
    output_stride: int | None = None,
    precision: str = "float32",
) -> tuple[keras.Model, TrainConfig]:
    """Builds the model of a run and loads its best weights, or else its last.

    Args:
      path: workdir of train.py.
      output_stride: 8, 16 or 32 instead of the one it was trained with.
      precision: "float32", "bfloat16" or "float16", whatever it was trained with.

    Returns:
      (model, config). The model takes float32 RGB [B, height, width, 3] in 0..255 and
      returns logits float32 [B, height, width, num_classes].

    Raises:
      FileNotFoundError: no run there, or one without weights yet.
      ValueError: weights and configuration do not fit.
    """
    config = read_config(path)
    with precision_policy(precision):
        model = build_model(config, output_stride=output_stride)
    load_weights(model, workdir_weights(path))
    return model, config


def workdir_weights(path: str | os.PathLike) -> str:
    """Returns the path of the best weights of a run, or else of its last."""
    for name in (BEST_WEIGHTS, LAST_WEIGHTS):
        if os.path.isfile(os.path.join(path, name)):
            return os.path.join(path, name)
    raise FileNotFoundError(
        f"{os.fspath(path)} holds no weights yet ({BEST_WEIGHTS} or {LAST_WEIGHTS}). "
        "They appear after the first epoch of train.py."
    )


@contextlib.contextmanager
def precision_policy(precision: str):
    """Sets Keras' policy inside the block: float32, bfloat16 or float16 (mixed).

    Raises:
      ValueError: another precision.
    """
    if precision not in POLICIES:
        raise ValueError(
            f"precision must be one of {sorted(POLICIES)}. Received: {precision!r}"
        )
    policies = keras.mixed_precision
    before = policies.global_policy()
    policies.set_global_policy(POLICIES[precision])
    try:
        yield
    finally:
        policies.set_global_policy(before)
