"""Lovász-softmax: a convex way from errors of pixels to the classes' mean IoU."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.networks.layers import several_replicas
from deeplab_tf.training.losses.comparison import LossOfPixels, membership
from deeplab_tf.training.losses.replicas import concat_over_replicas, sum_over_replicas

PLACES = 2**16  # in the ranking of a class's errors, see `_places`
_CLASSES_AT_ONCE = 2  # are ranked: it is work for two cores; more take memory


@keras.utils.register_keras_serializable("deeplab_tf")
class LovaszLoss(LossOfPixels):
    """The Lovász extension of 1 - IoU of each class, mean over the classes.

    Berman et al., "The Lovász-Softmax loss" (1705.08790), of softmax's
    probabilities. A class's pixels are ranked by their errors over all valid pixels of
    the global batch, on any number of replicas, and not image by image: it is the
    batch's IoU, as in the paper's `per_image=False`. Classes that none of the batch's
    labels show do not count ("present"). A batch without a valid pixel has loss 0.

    Its gradient does not tell a pixel how far off it is, so that the paper trains with
    it after cross-entropy or, in `ce+lovasz`, beside it.

    It has no class_weights, as each class counts alike, however few its pixels; and
    none of pixels, as IoU counts them.

    Args:
      ignore_label: label value that is not counted, outside [0, num_classes).
      label_stride: compares labels and logits at every `label_stride`-th pixel only.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        ignore_label: int = IGNORE_LABEL,
        label_stride: int = 1,
        name: str = "lovasz_loss",
        **kwargs,
    ):
        super().__init__(ignore_label, label_stride, name, **kwargs)

    def of_images(self, class_of, logits, valid, pixel_weight):
        if pixel_weight is not None:
            raise ValueError(
                f"{self.name} takes no weights of pixels: mark those that shall not "
                f"count with the label {self.ignore_label}."
            )
        member = membership(class_of, valid, logits)
        probabilities = tf.where(valid[..., None], tf.nn.softmax(logits), 0.0)
        # Negative where the class is missed, positive where it is falsely seen; void
        # pixels have 0, which comes last in the ranking and adds nothing.
        errors = probabilities - member
        pixels = tf.reduce_sum(member, axis=[0, 1, 2])
        pixels = tf.stop_gradient(sum_over_replicas(pixels))
        # What is not a number has no place in a ranking; the loss is none either.
        ranked = tf.where(tf.math.is_nan(errors), tf.zeros_like(errors), errors)
        flat = tf.reshape(tf.stop_gradient(ranked), [-1, tf.shape(logits)[-1]])
        slopes = _own_slopes(flat, pixels, tf.reshape(valid, [-1]))
        slopes = tf.reshape(slopes, tf.shape(errors))
        present = tf.reduce_sum(tf.cast(tf.not_equal(pixels, 0.0), errors.dtype))
        # Keras averages over this replica's images and then over replicas.
        share = tf.shape(class_of)[0] * _replicas()
        return tf.math.divide_no_nan(
            tf.reduce_sum(tf.abs(errors) * slopes, axis=[1, 2, 3])
            * tf.cast(share, errors.dtype),
            present,
        )


def _replicas() -> int:
    replica = several_replicas()
    return 1 if replica is None else replica.num_replicas_in_sync


def _own_slopes(errors, pixels, valid):
    """Returns how much each error of this replica counts among those of all.

    Args:
      errors: floats [n, num_classes], see `LovaszLoss.of_images`.
      pixels: floats [num_classes]: of each class in the labels of all replicas.
      valid: bool [n].

    Returns:
      [n, num_classes] of the errors' dtype.
    """
    counts = concat_over_replicas(tf.cast(valid, errors.dtype))
    slopes = tf.map_fn(
        lambda of_class: class_slopes(*of_class, counts),
        (tf.transpose(concat_over_replicas(errors)), pixels),
        fn_output_signature=errors.dtype,
        parallel_iterations=_CLASSES_AT_ONCE,
    )
    replica = several_replicas()
    if replica is not None:
        size = tf.shape(errors, tf.int64)[0]
        sizes = concat_over_replicas(size[None])
        start = tf.cumsum(sizes, exclusive=True)[replica.replica_id_in_sync_group]
        slopes = slopes[:, start : start + size]
    return tf.transpose(slopes)


def class_slopes(errors, pixels, counts):
    """Returns the gradient of the Lovász extension of 1 - IoU of one class.

    Of the errors in falling order, the k-th has what 1 - IoU grows by when the first k
    pixels are taken for wrong after the first k - 1. The IoU is then
    (pixels - missed) / (pixels + false), of those first k. Errors that share a place
    share what it grows by, as the mean of two orders: missed pixels first, and last.

    Args:
      errors: floats [n] in [-1, 1]: below 0 at a pixel of the class, which is missed by
        so much; above 0 at another's, which is falsely seen.
      pixels: scalar: how many pixels the class has.
      counts: floats [n]: 1 of a pixel, 0 of one that is ignored.

    Returns:
      [n] of the same dtype; 0 of a class without pixels.
    """
    of_class = tf.cast(errors < 0, errors.dtype)
    # In floats up to here, as GPUs leave sums of int32 to the CPU.
    slot = tf.cast(2.0 * _places(tf.abs(errors)) + of_class, tf.int32)
    held = tf.math.unsorted_segment_sum(counts, slot, 2 * PLACES)
    false, missed = tf.unstack(tf.reshape(held, [PLACES, 2]), axis=-1)
    union = pixels + tf.cumsum(false, exclusive=True)
    rest = pixels - tf.cumsum(missed, exclusive=True)
    # The differences in closed form: in float32 those of two IoUs would be rounding.
    both = union * (union + false)
    of_false = tf.math.divide_no_nan(rest - missed / 2.0, both)
    of_missed = tf.math.divide_no_nan(union + false / 2.0, both)
    slopes = tf.gather(tf.reshape(tf.stack([of_false, of_missed], -1), [-1]), slot)
    return tf.where(tf.equal(pixels, 0.0), tf.zeros_like(slopes), slopes)


def _places(errors):
    """Returns each error's place in falling order, whole numbers from 0 as floats.

    Of up to `PLACES` errors the exact ones, where equal errors share one. More take
    seconds to sort on a CPU (11 classes of 8 images of 360 x 480), and are put on as
    many places between 1 and 0: the loss is then off by less than 1 / PLACES, and by
    1e-7 where errors lie here and there (tests/test_losses.py).

    Args:
      errors: floats [n] in [0, 1].
    """

    def sorted_places():
        order = tf.argsort(errors, direction="DESCENDING")
        falling = tf.gather(errors, order)
        falls = tf.cast(falling[1:] < falling[:-1], errors.dtype)
        places = tf.cumsum(tf.concat([tf.zeros([1], errors.dtype), falls], 0))
        places = places[: tf.size(errors)]  # of no errors, none
        return tf.scatter_nd(order[:, None], places, tf.shape(errors))

    def spaced_places():
        return PLACES - 1.0 - tf.minimum(tf.floor(errors * PLACES), PLACES - 1.0)

    return tf.cond(tf.size(errors) <= PLACES, sorted_places, spaced_places)
