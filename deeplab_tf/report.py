"""`python -m deeplab_tf.report`: summary and curves of a run; see `training.log`."""

from deeplab_tf import quiet

quiet.install()  # before TensorFlow is imported

from deeplab_tf.training.log import main

if __name__ == "__main__":
    main()
