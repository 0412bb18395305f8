"""Files on disk -> TFRecords -> tf.data of (image, label). Knows nothing of models."""
