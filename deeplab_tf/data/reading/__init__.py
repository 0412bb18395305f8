"""Records in, a `tf.data.Dataset` of (image, label) out."""
