"""How a training image is cropped, and what else happens to it: policies by name.

| policy | scale | flip | image and label | the image alone |
|---|---|---|---|---|
| paper | 0.5-2.0 | half | - | - |
| v2 | 0.5-1.5 | half | - | - |
| strong | 0.5-2.0 | half | - | colour jitter, 8 in 10; blur, every second one |

An augmentation of one's own is a function and a row of `POLICIES`. One that moves image
and label together takes both, whole, and gives them back in any size; the random scale,
crop and flip that all policies share come after it. The label must come out of the same
place as the image and hold no new ids, so it is never interpolated:

    def quarter_turn(image, label, seed, crop):
        turns = tf.random.stateless_uniform([], seed, maxval=4, dtype=tf.int32)
        return tf.image.rot90(image, turns), tf.image.rot90(label, turns)

    POLICIES = {..., "aerial": Policy(change_geometry=quarter_turn)}

The layers of keras-cv draw from generators that hold a state: the same seed gives other
numbers in a second pass, and with parallel calls the numbers depend on which thread
comes first. Here the layers only compute. What they are told to do is drawn from a
stateless seed, so that an image depends on its seed alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.command_names import did_you_mean
from deeplab_tf.data.reading.augment import augment

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


@dataclasses.dataclass(frozen=True)
class Crop:
    """How an example of training is cropped and changed.

    Attributes:
      size: (height, width) of the result, pixels.
      policy: a row of `POLICIES`.
      min_scale: smallest random scale, above 0; None takes the policy's.
      max_scale: largest random scale; None takes the policy's.
      flip: whether half of the images are mirrored.
      mean_color: RGB in 0..255 that pads the images.
      ignore_label: pads the labels.
    """

    size: tuple[int, int]
    policy: str = "paper"
    min_scale: float | None = None
    max_scale: float | None = None
    flip: bool = True
    mean_color: tuple[float, float, float] = (127.5, 127.5, 127.5)
    ignore_label: int = IGNORE_LABEL


ImageChange = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
GeometryChange = Callable[
    [tf.Tensor, tf.Tensor, tf.Tensor, Crop], tuple[tf.Tensor, tf.Tensor]
]


@dataclasses.dataclass(frozen=True)
class Policy:
    """One augmentation policy.

    Attributes:
      min_scale: smallest random scale, where the caller names none.
      max_scale: largest random scale, where the caller names none.
      change_geometry: moves image and label together: (image uint8 [h, w, 3], label
        uint8 [h, w, 1], seed int64 [2], crop) -> (image uint8 or float32 in 0..255,
        label uint8) of any one size. Where nothing of the image comes to lie they hold
        `crop.mean_color` and `crop.ignore_label`. None moves nothing.
      make_image_change: returns a function (image float32 [h, w, 3] in 0..255, seed
        int64 [2]) -> image of the same shape and range; None changes nothing.
    """

    min_scale: float = 0.5
    max_scale: float = 2.0
    change_geometry: GeometryChange | None = None
    make_image_change: Callable[[], ImageChange] | None = None


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


POLICIES = {
    "paper": Policy(),  # DeepLabV3, section 4.1
    "v2": Policy(max_scale=1.5),  # DeepLabV2, section 4.1
    "strong": Policy(make_image_change=make_strong),
}


def find_policy(name: str) -> Policy:
    """Looks a policy up by its name.

    Raises:
      ValueError: there is no such policy.
    """
    if name not in POLICIES:
        raise ValueError(
            f"Expected an augmentation policy of {', '.join(POLICIES)}. "
            f"Received: {name!r}.{did_you_mean(name, POLICIES)}"
        )
    return POLICIES[name]


def make_augmenter(crop: Crop) -> Callable:
    """Makes what happens to an example of training: crop and policy in one function.

    Returns:
      A function (image uint8 [h, w, 3], label uint8 [h, w, 1], seed int64 [2]) ->
      (image float32 [height, width, 3], label uint8 [height, width, 1]), see
      `augment.augment`.

    Raises:
      ImportError: the policy needs keras-cv, which is not installed.
      ValueError: a number is out of its range, or there is no such policy.
    """
    policy = find_policy(crop.policy)
    min_scale = policy.min_scale if crop.min_scale is None else crop.min_scale
    max_scale = policy.max_scale if crop.max_scale is None else crop.max_scale
    if min(crop.size) < 1 or not 0 < min_scale <= max_scale:
        raise ValueError(
            "Expected a crop_size of 1 or more and 0 < min_scale <= max_scale. "
            f"Received: crop_size={crop.size}, min_scale={min_scale}, "
            f"max_scale={max_scale}"
        )
    move, change = policy.change_geometry, policy.make_image_change
    return functools.partial(
        augment,
        crop_size=crop.size,
        min_scale=min_scale,
        max_scale=max_scale,
        flip_probability=0.5 if crop.flip else 0.0,
        mean_color=crop.mean_color,
        ignore_label=crop.ignore_label,
        change_geometry=move and functools.partial(move, crop=crop),
        change_image=change and change(),
    )
