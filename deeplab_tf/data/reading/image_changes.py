"""Changes of the image alone: colours, sharpness and what JPEG leaves of it.

The layers of keras-cv draw from generators that hold a state: the same seed gives other
numbers in a second pass, and with parallel calls the numbers depend on which thread
comes first. Here the layers only compute. What they are told to do is drawn from a
stateless seed, so that an image depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from deeplab_tf.data.reading.augment import fold_in

JITTER_PROBABILITY = 0.8
BLUR_PROBABILITY = 0.5

# Magnitudes of `strong`: lowest and highest of a uniform draw.
BRIGHTNESS = (-0.2, 0.2)  # added to the image, in parts of 255
CONTRAST = (0.6, 1.4)  # factor of a channel's distance from its mean
# keras-cv's measure x, which multiplies the saturation by x / (1 - x): 0.67 to 1.5.
SATURATION = (0.4, 0.6)
HUE = (-0.05, 0.05)  # turn of the colour circle, in parts of the circle
BLUR_SIGMA = (0.1, 2.0)  # pixels of the crop
BLUR_SIZE = 13  # pixels: 3 sigma to either side of the middle

# Folded into a change's seed for the quality of its JPEG.
QUALITY_SALT = 1

ImageChange = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _import_keras_cv():
    try:
        import keras_cv
    except ImportError as error:
        raise ImportError(
            "Augmentation policy 'strong' is built from the layers of keras-cv, which "
            "cannot be imported. Run: pip install keras-cv==0.9.0, or take policy "
            f"'paper'. Received: {error}"
        ) from error
    return keras_cv


def _between(limits: tuple[float, float], draw: tf.Tensor) -> tf.Tensor:
    return limits[0] + (limits[1] - limits[0]) * draw


def _jitter_layers() -> list:
    """Returns (layer, limits of its draw, shape of its draw), in keras-cv's order."""
    layers = _import_keras_cv().layers
    # A seed keeps a layer from asking for TensorFlow's global generator, which does not
    # exist under op determinism. float32, for a mixed precision policy would reach into
    # the input pipeline. The factors are never drawn from.
    fixed = dict(seed=1, dtype="float32")
    colors = dict(value_range=(0.0, 255.0), **fixed)
    levels = (255.0 * BRIGHTNESS[0], 255.0 * BRIGHTNESS[1])
    everywhere = [1, 1, 1, 1]
    return [
        (layers.RandomBrightness(factor=(0.0, 0.0), **colors), levels, everywhere),
        (layers.RandomContrast(factor=(0.0, 0.0), **colors), CONTRAST, everywhere),
        (layers.RandomSaturation(factor=(0.5, 0.5), **fixed), SATURATION, [1]),
        (layers.RandomHue(factor=(0.0, 0.0), **colors), HUE, [1]),
    ]


def make_jitter() -> ImageChange:
    """Returns keras-cv's colour jitter as a function of four draws.

    The function takes an image, float32 [h, w, 3] in 0..255, and draws, float32 [4] in
    [0, 1): brightness, contrast, saturation, hue; 0 is the lowest magnitude.
    """
    steps = _jitter_layers()

    def jitter(image, draws):
        images = image[tf.newaxis]
        for index, (layer, limits, shape) in enumerate(steps):
            magnitude = tf.reshape(_between(limits, draws[index]), shape)
            images = layer.augment_images(images=images, transformations=magnitude)
        return tf.clip_by_value(images[0], 0.0, 255.0)

    return jitter


def make_blur() -> ImageChange:
    """Returns keras-cv's Gaussian blur as a function of one draw.

    The function takes an image, float32 [h, w, 3] in 0..255, and a draw, float32 scalar
    in [0, 1): 0 is the smallest sigma.
    """
    layer = _import_keras_cv().layers.RandomGaussianBlur(
        kernel_size=BLUR_SIZE, factor=(1.0, 1.0), seed=1, dtype="float32"
    )

    def blur(image, draw):
        kernel = layer.get_kernel(_between(BLUR_SIGMA, draw), BLUR_SIZE)
        columns = tf.reshape(kernel, [BLUR_SIZE, 1, 1, 1])
        rows = tf.reshape(kernel, [1, BLUR_SIZE, 1, 1])
        # The layer pads with zeros, which would darken the image's edge. A channel of
        # ones is blurred with it and says how much of the weight fell inside.
        padded = tf.concat([image, tf.ones_like(image[..., :1])], axis=2)
        padded = layer.augment_image(padded, transformation=(columns, rows))
        return tf.clip_by_value(padded[..., :3] / padded[..., 3:], 0.0, 255.0)

    return blur


def make_strong() -> ImageChange:
    """Returns the change of policy `strong`: jitter and blur, each by its own coin."""
    jitter, blur = make_jitter(), make_blur()

    def change(image, seed):
        draws = tf.random.stateless_uniform([7], seed)
        image = tf.cond(
            draws[0] < JITTER_PROBABILITY,
            lambda: jitter(image, draws[1:5]),
            lambda: image,
        )
        return tf.cond(
            draws[5] < BLUR_PROBABILITY, lambda: blur(image, draws[6]), lambda: image
        )

    return change


def compress(image: tf.Tensor, quality: tf.Tensor) -> tf.Tensor:
    """Writes a JPEG and reads it: float32 [h, w, 3] in 0..255 -> the same.

    Args:
      image: rounded to whole numbers, as a file holds them.
      quality: int32 scalar, 1 to 100.
    """
    pixels = tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)
    encoded = tf.raw_ops.EncodeJpegVariableQuality(images=pixels, quality=quality)
    # The fast method, which is the default, loses most at the highest quality.
    decoded = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.cast(decoded, tf.float32)


def make_compression(lowest_quality: int) -> ImageChange:
    """Returns a change that compresses at a quality from `lowest_quality` to 100."""

    def change(image, seed):
        quality = tf.random.stateless_uniform(
            [], fold_in(seed, QUALITY_SALT), lowest_quality, 101, tf.int32
        )
        return compress(image, quality)

    return change
