"""Requests that TF Serving replays when it loads a version, before it serves it.

They make TensorFlow compute what depends on weights alone, and choose its kernels, so
that no caller waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


def write_warmup(saved_model: str | os.PathLike, images: Sequence[np.ndarray]) -> None:
    """Writes the warm-up requests of a SavedModel: TFRecords of `PredictionLog`.

    Args:
      saved_model: folder of the SavedModel.
      images: uint8 [height, width, 3] each; asked as PNG of `serving_default` and as
        array of `serve_images`.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    path = os.path.join(saved_model, WARMUP_FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as writer:
        for image in images:
            encoded = tf.io.encode_png(image)[None]
            for signature, name, value in (
                ("serving_default", "image_bytes", encoded),
                ("serve_images", "images", image[None]),
            ):
                log = prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.signature_name = signature
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
                writer.write(log.SerializeToString())
