"""`python -m deeplab_tf.weights`: see `command_line`."""

from deeplab_tf import quiet

quiet.install()  # before TensorFlow is imported

from deeplab_tf.weights.command_line import main

main()
