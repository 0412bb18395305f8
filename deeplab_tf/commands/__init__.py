"""Where networks and data meet: the commands, which alone read flags."""

from deeplab_tf import quiet

quiet.install()  # before a command imports TensorFlow
