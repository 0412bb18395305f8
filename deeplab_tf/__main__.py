"""`python -m deeplab_tf` is the console command `deeplab-tf`."""

from deeplab_tf.commands.command_line import main

if __name__ == "__main__":
    main()
