"""Requests that TF Serving replays when it loads a version, before it serves it.

They make TensorFlow compute what depends on weights alone, and choose its kernels, so
that no caller waits for it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.exports.signatures import SIGNATURES

WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


def check_serving_api() -> None:
    """Says before an export begins that it could not be ended.

    Raises:
      ImportError: tensorflow-serving-api is not installed.
    """
    if importlib.util.find_spec("tensorflow_serving") is None:
        raise ImportError(
            "Requests that warm TF Serving up need tensorflow-serving-api, and it is "
            f"not installed. Run: pip install tensorflow-serving-api=={tf.__version__}"
        )


def write_warmup(saved_model: str | os.PathLike, images: Sequence[np.ndarray]) -> None:
    """Writes the warm-up requests of a SavedModel: TFRecords of `PredictionLog`.

    Args:
      saved_model: folder of the SavedModel.
      images: uint8 [height, width, 3] each; asked of every signature of `SIGNATURES`
        that warms up.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    path = os.path.join(saved_model, WARMUP_FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as writer:
        for image in images:
            for name, signature in SIGNATURES.items():
                if signature.warms_up:
                    log = prediction_log_pb2.PredictionLog()
                    request = log.predict_log.request
                    request.model_spec.signature_name = name
                    value = tf.make_tensor_proto(signature.request(image))
                    request.inputs[signature.input.name].CopyFrom(value)
                    writer.write(log.SerializeToString())
