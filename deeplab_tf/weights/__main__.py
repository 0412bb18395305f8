"""`python -m deeplab_tf.weights`: see `importing`."""

from deeplab_tf import quiet

quiet.install()  # before TensorFlow is imported

from deeplab_tf.weights.importing import main

main()
