"""`python -m deeplab_tf.rename`: names and colours for a run; see `commands.rename`."""

from deeplab_tf.commands.rename import main

if __name__ == "__main__":
    main()
