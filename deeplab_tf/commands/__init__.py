"""Where networks and data meet: the commands, which alone read flags."""

import os

# Before a command imports TensorFlow, which tells of the machine otherwise.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
