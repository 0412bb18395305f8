"""Copy-paste: pixels of some classes of another training image, with their label.

ClassMix (Olsson et al. 2020, 2007.07936) lays half of the classes of one image over
another. Here the classes may also be named, such as rare ones, whose pixels then come
more often, and before other backgrounds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from deeplab_tf.data.reading.augment import count_ids, fold_in, holds_any

# Folded into an example's seed: whether it gets pixels, how the other example is
# augmented, and which of its classes are taken.
PASTE_SALT, OTHER_EXAMPLE_SALT, CLASSES_SALT = 16, 17, 18


def half_of_classes(label: tf.Tensor, seed: tf.Tensor, ignore_label: int) -> tf.Tensor:
    """Chooses every second class of a label at random, the odd one too.

    Args:
      label: uint8 of any shape, class ids or ignore_label.
      seed: int64 [2].
      ignore_label: is never chosen.

    Returns:
      bool [256], by id.
    """
    present = (count_ids(label) > 0) & (tf.range(256) != ignore_label)
    draws = tf.where(present, tf.random.stateless_uniform([256], seed), 1.0)
    rank = tf.argsort(tf.argsort(draws, stable=True), stable=True)
    wanted = (tf.math.count_nonzero(present, dtype=tf.int32) + 1) // 2
    return present & (rank < wanted)


def paste(
    image: tf.Tensor,
    label: tf.Tensor,
    other_image: tf.Tensor,
    other_label: tf.Tensor,
    chosen: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Lays the pixels of some classes of one example over another of its size.

    Args:
      image: float32 [h, w, 3]; other_image: the same.
      label: uint8 [h, w, 1]; other_label: the same.
      chosen: bool [256], which ids of other_label are pasted.
    """
    pasted = tf.gather(chosen, tf.cast(other_label, tf.int32))
    return tf.where(pasted, other_image, image), tf.where(pasted, other_label, label)


def make_paster(
    cut: Callable, probability: float, class_ids: tuple[int, ...], ignore_label: int
) -> Callable:
    """Makes what lays parts of other examples over some of the examples.

    Args:
      cut: crops and changes an example of its own: (image, label, seed, accept_crop=)
        -> (image, label), see `augment.augment`.
      probability: share of the examples that get pixels, 0 to 1.
      class_ids: whose pixels; of at most ten crops of the other image the first is
        taken that shows one of them. () takes half of the classes of its crop.
      ignore_label: is never pasted.

    Returns:
      A function (image, label, seed int64 [2], read_other) -> (image, label), where
      read_other() gives the other example, as `cut` takes it, and is called for those
      alone that get pixels.
    """
    named = np.isin(np.arange(256), class_ids)
    if class_ids:
        cut = functools.partial(cut, accept_crop=holds_any(class_ids))

    def mixed(image, label, seed, read_other):
        other = cut(*read_other(), fold_in(seed, OTHER_EXAMPLE_SALT))
        chosen = tf.constant(named)
        if not class_ids:
            draws = fold_in(seed, CLASSES_SALT)
            chosen = half_of_classes(other[1], draws, ignore_label)
        return paste(image, label, *other, chosen)

    def paste_some(image, label, seed, read_other):
        draw = tf.random.stateless_uniform([], fold_in(seed, PASTE_SALT))
        return tf.cond(
            draw < probability,
            lambda: mixed(image, label, seed, read_other),
            lambda: (image, label),
        )

    return paste_some
