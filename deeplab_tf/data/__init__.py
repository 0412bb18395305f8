"""Files in, tf.data of (image, label) out. Knows nothing of networks."""
