"""Random scale, crop, pad and flip of an image with its label.

DeepLab scales the image by a random factor, pads it to the crop size and cuts a
random crop. Here the crop comes first: the part of the image that would fill the crop
after scaling is cut out as uint8, and only that part is mirrored and resized. The crops
are the same up to a fraction of a pixel, and no pixel is resized to be thrown away.
Pads lie below and to the right, also of a mirrored image.

Randomness is an argument everywhere: a function takes a number in [0, 1), and only
`augment` draws such numbers, from a stateless seed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from deeplab_tf.class_tables import IGNORE_LABEL

# Folded into an example's seed for draws that have nothing to do with its crop's.
CHANGE_IMAGE_SALT = 1
CHANGE_GEOMETRY_SALT = 2
OTHER_CROPS_SALT = 3

# Crops that are drawn where some are refused, as in mmsegmentation's RandomCrop.
MAX_CROPS = 10

AcceptCrop = Callable[[tf.Tensor], tf.Tensor]


def find_scale(
    draw: tf.Tensor, min_scale: float, max_scale: float, step: float = 0.0
) -> tf.Tensor:
    """Returns the scale, float32 scalar, that a draw in [0, 1) stands for.

    Args:
      draw: float32 scalar.
      min_scale: the smallest scale.
      max_scale: the largest.
      step: 0 for any scale between them. Else one of as many as fit between them at
        this distance, evenly from the smallest to the largest: the `linspace` of the
        authors' get_random_scale, which moves a step that does not fit.
    """
    if not step:
        return min_scale + (max_scale - min_scale) * draw
    # 1.1 - 0.5 is a little less than six steps of 0.1.
    count = int((max_scale - min_scale) / step + 1 + 1e-6)
    scales = tf.linspace(tf.constant(min_scale, tf.float32), max_scale, count)
    return scales[tf.cast(draw * count, tf.int32)]


def crop_window(
    size: tf.Tensor, crop_size: tuple[int, int], scale: tf.Tensor, position: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Says which part of an image makes a crop, and how large it becomes.

    Args:
      size: int32 [2], height and width of the image.
      crop_size: (height, width) of the crop.
      scale: float32 scalar, above 0, the factor by which the image is enlarged.
      position: float32 [2] in [0, 1), where the window lies: 0 is the top or left.

    Returns:
      offset: int32 [2], the window's top left pixel.
      window: int32 [2], its height and width; never reaches beyond the image.
      scaled: int32 [2], what the window is to be resized to: crop_size, or less where
        the whole scaled image is smaller than the crop.
    """
    crop = tf.constant(crop_size, tf.int32)
    needed = tf.cast(tf.round(tf.cast(crop, tf.float32) / scale), tf.int32)
    window = tf.clip_by_value(needed, 1, size)
    free = tf.cast(size - window + 1, tf.float32)
    offset = tf.minimum(tf.cast(position * free, tf.int32), size - window)
    scaled = tf.cast(tf.round(tf.cast(window, tf.float32) * scale), tf.int32)
    # The rounding of the window must not leave a padded row beside a full crop.
    scaled = tf.where(needed <= size, crop, tf.clip_by_value(scaled, 1, crop))
    return offset, window, scaled


def crop(
    image: tf.Tensor, label: tf.Tensor, offset: tf.Tensor, window: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts `window` (height, width) at `offset` (top, left) out of image and label."""
    end = offset + window
    rows, columns = slice(offset[0], end[0]), slice(offset[1], end[1])
    return image[rows, columns], label[rows, columns]


def count_ids(label: tf.Tensor) -> tf.Tensor:
    """Counts the pixels of each value of a label, uint8 of any shape: int32 [256]."""
    ids = tf.cast(tf.reshape(label, [-1]), tf.int32)
    return tf.math.bincount(ids, minlength=256, maxlength=256)


def largest_share_below(limit: float, ignore_label: int) -> AcceptCrop:
    """Accepts a crop whose most frequent class has less than `limit` of its pixels.

    mmsegmentation's cat_max_ratio. Void pixels do not count, neither as a class nor
    among all; a crop of void pixels alone is refused.
    """

    def accept(label):
        counts = count_ids(label) * (1 - tf.one_hot(ignore_label, 256, dtype=tf.int32))
        pixels = tf.cast(tf.reduce_sum(counts), tf.float32)
        return tf.cast(tf.reduce_max(counts), tf.float32) < limit * pixels

    return accept


def holds_any(class_ids: tuple[int, ...]) -> AcceptCrop:
    """Accepts a crop that shows a pixel of one of some classes."""
    return lambda label: tf.reduce_any(tf.gather(count_ids(label), class_ids) > 0)


def _accepted_position(
    label: tf.Tensor, window_at: Callable, positions: tf.Tensor, accept: AcceptCrop
) -> tf.Tensor:
    """Returns the first of the positions, float32 [n, 2], whose crop is accepted.

    The last one where none is. `window_at` takes one and returns offset and window.
    """

    def refused(index):
        offset, window = window_at(positions[index])
        return ~accept(crop(label, label, offset, window)[1])

    last = positions.shape[0] - 1
    index = tf.while_loop(
        lambda index: tf.cond(index < last, lambda: refused(index), lambda: False),
        lambda index: [index + 1],
        [0],
    )
    return positions[index[0]]


def nearest_pixels(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """Says which of `old` pixels in a row is nearest to each of `new` ones.

    Whole numbers: floor((x + 0.5) * old / new) without rounding errors.

    Returns:
      int32 [new], in [0, old).
    """
    return (2 * tf.range(new) + 1) * old // (2 * new)


def mirror(image: tf.Tensor, mirrored: tf.Tensor | bool) -> tf.Tensor:
    """Turns [h, w, c] left to right where `mirrored` (bool scalar) is true."""
    mirrored = tf.convert_to_tensor(mirrored)
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)


def resize_image(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Resizes bilinearly: [h, w, 3] -> float32 [height, width, 3]."""
    # TensorFlow's kernel has vector code for float32 alone.
    image = tf.cast(image, tf.float32)
    return tf.image.resize(image, size, method="bilinear", antialias=False)


def resize_label(
    label: tf.Tensor, size: tf.Tensor, mirrored: tf.Tensor | bool = False
) -> tf.Tensor:
    """Resizes to the nearest pixel: [h, w, 1] -> [height, width, 1], same dtype.

    Where `mirrored` (bool scalar) is true the columns are taken from right to left.
    """
    height, width = tf.shape(label)[0], tf.shape(label)[1]
    rows = nearest_pixels(height, size[0])
    columns = nearest_pixels(width, size[1])
    columns = tf.where(mirrored, width - 1 - columns, columns)
    # Two selections of whole rows take a quarter of the time of tf.image.resize.
    label = tf.transpose(tf.gather(tf.squeeze(label, axis=2), rows))
    return tf.transpose(tf.gather(label, columns))[..., tf.newaxis]


def resize(
    image: tf.Tensor,
    label: tf.Tensor,
    size: tf.Tensor,
    mirrored: tf.Tensor | bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes the image bilinearly and the label to its nearest pixel.

    Both sample at half-pixel centres, (y + 0.5) * old / new - 0.5, so that an object
    and its label stay on top of each other at every size. Where `mirrored` (bool
    scalar) is true both are turned left to right.

    Returns:
      image: float32 [height, width, 3]; label: the dtype it had, [height, width, 1].
    """
    # Mirrored while it is still uint8, which is a quarter of the memory.
    image = resize_image(mirror(image, mirrored), size)
    return image, resize_label(label, size, mirrored)


def _pad(
    image: tf.Tensor, size: tuple[int, int], color: tuple[float, ...]
) -> tf.Tensor:
    """Fills [h, w, c] up to `size` with a colour, below and to the right."""
    # As a matrix: TensorFlow's kernels take several times as long for three axes.
    channels = image.shape[2]
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    right, below = channels * (size[1] - width), size[0] - height
    rows = tf.reshape(image, [height, channels * width])
    if len(set(color)) == 1:
        rows = tf.pad(rows, [[0, below], [0, right]], constant_values=color[0])
    else:
        row = tf.constant(color * size[1], image.dtype)
        rows = tf.concat([rows, tf.broadcast_to(row[:right], [height, right])], 1)
        bottom = tf.broadcast_to(row, [below, channels * size[1]])
        rows = tf.concat([rows, bottom], 0)
    return tf.reshape(rows, [*size, channels])


def pad_to(
    image: tf.Tensor,
    label: tf.Tensor,
    size: tuple[int, int],
    mean_color: tuple[float, float, float],
    ignore_label: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pads below and to the right: the image with its mean colour, the label as void.

    The model subtracts its mean later, so zeros would not be neutral here, and a label
    padded with 0 would be trained as background.
    """
    image = _pad(image, size, tuple(mean_color))
    return image, _pad(label, size, (ignore_label,))


def _with_other_positions(position: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 [MAX_CROPS, 2]: a crop's position and others at random."""
    others = tf.random.stateless_uniform(
        [MAX_CROPS - 1, 2], fold_in(seed, OTHER_CROPS_SALT)
    )
    return tf.concat([position[tf.newaxis], others], axis=0)


def fold_in(seed: tf.Tensor, salt: int) -> tf.Tensor:
    """Returns another seed, whose draws have nothing to do with those of this one."""
    return tf.random.experimental.stateless_fold_in(seed, salt)


def augment(
    image: tf.Tensor,
    label: tf.Tensor,
    seed: tf.Tensor,
    *,
    crop_size: tuple[int, int],
    min_scale: float = 0.5,
    max_scale: float = 2.0,
    scale_step: float = 0.0,
    flip_probability: float = 0.5,
    mean_color: tuple[float, float, float] = (127.5, 127.5, 127.5),
    ignore_label: int = IGNORE_LABEL,
    change_geometry: Callable | None = None,
    change_image: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    accept_crop: AcceptCrop | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Crops, flips, scales and pads at random: a pure function of its arguments.

    The scale is uniform in [min_scale, max_scale), as in DeepLabV2 and later (0.5-2.0
    in DeepLabV3, section 4.1), or in steps, as their code has it; the crop is uniform
    over its possible places.

    Args:
      image: uint8 or float32 [h, w, 3], RGB in 0..255; uint8 is quicker.
      label: uint8 [h, w, 1], class ids or ignore_label.
      seed: int32 or int64 [2], for `tf.random.stateless_uniform`.
      crop_size: (height, width) of the result.
      min_scale: smallest scale, above 0.
      max_scale: largest scale; equal to min_scale for one fixed scale.
      scale_step: see `find_scale`.
      flip_probability: 0.0 never mirrors, 1.0 always.
      mean_color: RGB that fills the image where it does not reach.
      ignore_label: fills the label there.
      change_geometry: moves image and label together, before anything is cropped:
        (image [h, w, 3], label [h, w, 1], seed) -> the same, of any one size. Its seed
        is another than that of the crop, and of the colours.
      change_image: changes the colours of what was cropped and resized, before it is
        padded: (image float32 [h, w, 3] in 0..255, seed) -> the same. The seed is
        another than the crop's, which is the same with and without it.
      accept_crop: (label [h, w, 1] of a crop, before it is scaled) -> bool scalar. Of
        at most MAX_CROPS crops of one scale the first that is accepted is taken, the
        last where none is. The first of them is the crop without this.

    Returns:
      image: float32 [height, width, 3], 0..255; label: uint8 [height, width, 1], with
      no id that was not in it, but for ignore_label. Static shapes.
    """
    image, label = tf.convert_to_tensor(image), tf.convert_to_tensor(label)
    if change_geometry is not None:
        image, label = change_geometry(
            image, label, fold_in(seed, CHANGE_GEOMETRY_SALT)
        )
        image = tf.ensure_shape(image, [None, None, 3])
        label = tf.ensure_shape(label, [None, None, 1])
    draw = tf.random.stateless_uniform([4], seed)
    scale = find_scale(draw[0], min_scale, max_scale, scale_step)
    window_at = functools.partial(crop_window, tf.shape(image)[:2], crop_size, scale)
    position = draw[1:3]
    if accept_crop is not None:
        position = _accepted_position(
            label,
            lambda position: window_at(position)[:2],
            _with_other_positions(position, seed),
            accept_crop,
        )
    offset, window, scaled = window_at(position)
    image, label = crop(image, label, offset, window)
    image, label = resize(image, label, scaled, draw[3] < flip_probability)
    if change_image is not None:
        image = change_image(image, fold_in(seed, CHANGE_IMAGE_SALT))
    image, label = pad_to(image, label, crop_size, mean_color, ignore_label)
    image = tf.ensure_shape(image, [*crop_size, 3])
    return image, tf.ensure_shape(label, [*crop_size, 1])
