"""`python -m deeplab_tf.average`: the mean of runs; see `commands.average`."""

from deeplab_tf.commands.average import main

if __name__ == "__main__":
    main()
