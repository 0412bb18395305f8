"""How a training image is cropped, and what else happens to it: policies by name.

`POLICIES` is the table. Each field of a policy is also one of a run's config, where it
replaces that of the row: `--set=policy=strong --set=rotation_degrees=5`.

An augmentation of one's own is a function and a row of `POLICIES`. One that moves image
and label together takes both, whole, and gives them back in any size; the random scale,
crop and flip that all policies share come after it. The label must come out of the same
place as the image and hold no new ids, so it is never interpolated:

    def quarter_turn(image, label, seed, crop):
        turns = tf.random.stateless_uniform([], seed, maxval=4, dtype=tf.int32)
        return tf.image.rot90(image, turns), tf.image.rot90(label, turns)

    POLICIES = {..., "turned": Policy(change_geometry=quarter_turn)}
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf

from deeplab_tf.class_tables import IGNORE_LABEL
from deeplab_tf.command_names import did_you_mean
from deeplab_tf.config_checks import check_value
from deeplab_tf.data.reading.augment import augment, fold_in, largest_share_below
from deeplab_tf.data.reading.erasing import erase
from deeplab_tf.data.reading.geometry import make_move
from deeplab_tf.data.reading.image_changes import (
    ImageChange,
    make_compression,
    make_strong,
)
from deeplab_tf.data.reading.mixing import make_paster

# Folded into the seed of a policy's own geometry for the mirrors and turns after it.
MOVE_SALT = 1


@dataclasses.dataclass(frozen=True)
class Crop:
    """How an example of training is cropped and changed.

    Attributes:
      size: (height, width) of the result, pixels.
      policy: a row of `POLICIES`, or a `Policy` of one's own.
      min_scale: smallest random scale, above 0; None takes the policy's.
      max_scale: largest random scale; None takes the policy's.
      flip: False mirrors none, whatever the policy says.
      mean_color: RGB in 0..255 that pads the images.
      ignore_label: pads the labels.
    """

    size: tuple[int, int]
    policy: str | Policy = "paper"
    min_scale: float | None = None
    max_scale: float | None = None
    flip: bool = True
    mean_color: tuple[float, float, float] = (127.5, 127.5, 127.5)
    ignore_label: int = IGNORE_LABEL

    @property
    def row(self) -> Policy:
        """The policy, with the scales that are given here.

        Raises:
          ValueError: there is no such policy.
        """
        policy = self.policy
        policy = find_policy(policy) if isinstance(policy, str) else policy
        return policy.but(min_scale=self.min_scale, max_scale=self.max_scale)


GeometryChange = Callable[
    [tf.Tensor, tf.Tensor, tf.Tensor, Crop], tuple[tf.Tensor, tf.Tensor]
]


@dataclasses.dataclass(frozen=True)
class Policy:
    """One augmentation policy: what it says together happens to each image.

    Attributes:
      min_scale: smallest random scale, where the caller names none.
      max_scale: largest random scale, where the caller names none.
      change_geometry: moves image and label together: (image uint8 [h, w, 3], label
        uint8 [h, w, 1], seed int64 [2], crop) -> (image uint8 or float32 in 0..255,
        label uint8) of any one size. Where nothing of the image comes to lie they hold
        `crop.mean_color` and `crop.ignore_label`. None moves nothing.
      make_image_change: returns a function (image float32 [h, w, 3] in 0..255, seed
        int64 [2]) -> image of the same shape and range; None changes nothing.
      scale_step: scales are drawn from min_scale, min_scale + scale_step, ...,
        max_scale, as in the authors' code (0.25); 0 draws any between the two.
      flip: whether half of the images are mirrored left to right.
      vertical_flip: whether half of the images are mirrored top to bottom.
      quarter_turns: whether images are turned by 0, 90, 180 or 270 degrees.
      rotation_degrees: images are turned by up to so much to either side.
      jpeg_quality: images are compressed as JPEG at a quality from this to 100, and
        read again; 100 compresses none.
      erasing: share of the images of which a rectangle becomes mean colour and void.
      max_class_share: of at most 10 crops the first is taken whose most frequent class
        has less than this share of the labelled pixels; 1 takes the first one.
      copy_paste: share of the images that get pixels of another one, with their label.
      paste_classes: whose pixels, by their names; "rare" are those with less than half
        of an equal share of the pixels; () is ClassMix, half of the image's own.
      class_uniform: whether images are drawn by their classes, each class in turn, and
        not in passes over all of them.
    """

    min_scale: float = 0.5
    max_scale: float = 2.0
    change_geometry: GeometryChange | None = None
    make_image_change: Callable[[], ImageChange] | None = None
    scale_step: float = 0.0
    flip: bool = True
    vertical_flip: bool = False
    quarter_turns: bool = False
    rotation_degrees: float = 0.0
    jpeg_quality: int = 100
    erasing: float = 0.0
    max_class_share: float = 1.0
    copy_paste: float = 0.0
    paste_classes: tuple[str, ...] | str = "rare"
    class_uniform: bool = False

    @property
    def needs_records(self) -> bool:
        """Whether it chooses records, so that one image alone cannot have it."""
        return self.class_uniform or self.copy_paste > 0

    def __post_init__(self):
        """Refuses values that a field of a run's config could not have either.

        Raises:
          ValueError: says which, and what the field takes.
        """
        for field in dataclasses.fields(self):
            # The scales are checked as a pair, by `make_augmenter`.
            if field.name in POLICY_FIELDS and not field.name.endswith("scale"):
                check_value(field, getattr(self, field.name))

    def but(self, **values) -> Policy:
        """Returns it with other values, where they are not None."""
        given = {name: value for name, value in values.items() if value is not None}
        return dataclasses.replace(self, **given)


# Fields that are no functions, and so are those of a run's config, too.
POLICY_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(Policy)
    if field.name not in ("change_geometry", "make_image_change")
)

POLICIES = {
    "paper": Policy(),  # DeepLabV3, section 4.1
    "v2": Policy(max_scale=1.5),  # DeepLabV2, section 4.1
    "strong": Policy(make_image_change=make_strong),
    "scale_steps": Policy(scale_step=0.25),  # as the authors' code draws them
    "rotation": Policy(rotation_degrees=10.0),
    "aerial": Policy(vertical_flip=True, quarter_turns=True),
    "jpeg": Policy(jpeg_quality=40),
    "erasing": Policy(erasing=0.5),
    "balanced_crops": Policy(max_class_share=0.75),  # mmsegmentation's
    "copy_paste": Policy(copy_paste=0.5),
    "classmix": Policy(copy_paste=0.5, paste_classes=()),
    "class_uniform": Policy(class_uniform=True),
    "rare_classes": Policy(max_class_share=0.75, copy_paste=0.5, class_uniform=True),
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


def _geometry_of(policy: Policy, crop: Crop) -> Callable | None:
    """Returns all that moves image and label together before the crop."""
    own = policy.change_geometry
    if not (policy.vertical_flip or policy.quarter_turns or policy.rotation_degrees):
        return own and functools.partial(own, crop=crop)
    move = make_move(
        vertical_flip=policy.vertical_flip,
        quarter_turns=policy.quarter_turns,
        rotation_degrees=policy.rotation_degrees,
        mean_color=crop.mean_color,
        ignore_label=crop.ignore_label,
    )

    def change(image, label, seed):
        if own is not None:
            image, label = own(image, label, seed, crop)
        return move(image, label, fold_in(seed, MOVE_SALT))

    return change


def _image_change_of(policy: Policy) -> ImageChange | None:
    """Returns all that happens to the image alone, JPEG last as in a camera."""
    changes = []
    if policy.make_image_change is not None:
        changes.append(policy.make_image_change())
    if policy.jpeg_quality < 100:
        changes.append(make_compression(policy.jpeg_quality))
    if not changes:
        return None
    return lambda image, seed: functools.reduce(
        lambda changed, change: change(changed, seed), changes, image
    )


def make_augmenter(crop: Crop, paste_ids: tuple[int, ...] = ()) -> Callable:
    """Makes what happens to an example of training: crop and policy in one function.

    Args:
      crop: says how it is cropped and changed.
      paste_ids: classes that a policy with `copy_paste` pastes; () is ClassMix.

    Returns:
      A function (image uint8 [h, w, 3], label uint8 [h, w, 1], seed int64 [2],
      read_other=None) -> (image float32 [height, width, 3], label uint8 [height, width,
      1]), see `augment.augment`. read_other() returns another image and label, from
      which `copy_paste` takes its pixels; without it nothing is pasted.

    Raises:
      ImportError: the policy needs keras-cv, which is not installed.
      ValueError: a number is out of its range, or there is no such policy.
    """
    policy = crop.row
    _check_scales(crop, policy)
    pads = dict(mean_color=crop.mean_color, ignore_label=crop.ignore_label)
    cut = functools.partial(
        augment,
        crop_size=crop.size,
        min_scale=policy.min_scale,
        max_scale=policy.max_scale,
        scale_step=policy.scale_step,
        flip_probability=0.5 if crop.flip and policy.flip else 0.0,
        change_geometry=_geometry_of(policy, crop),
        change_image=_image_change_of(policy),
        **pads,
    )
    accept = None
    if policy.max_class_share < 1:
        accept = largest_share_below(policy.max_class_share, crop.ignore_label)
    paste = make_paster(cut, policy.copy_paste, paste_ids, crop.ignore_label)

    def augmented(image, label, seed, read_other=None):
        image, label = cut(image, label, seed, accept_crop=accept)
        if policy.copy_paste and read_other is not None:
            image, label = paste(image, label, seed, read_other)
        if policy.erasing:
            image, label = erase(image, label, seed, probability=policy.erasing, **pads)
        return image, label

    return augmented


def _check_scales(crop: Crop, policy: Policy) -> None:
    if min(crop.size) < 1 or not 0 < policy.min_scale <= policy.max_scale:
        raise ValueError(
            "Expected a crop_size of 1 or more and 0 < min_scale <= max_scale. "
            f"Received: crop_size={crop.size}, min_scale={policy.min_scale}, "
            f"max_scale={policy.max_scale}"
        )
    if policy.scale_step > (span := policy.max_scale - policy.min_scale) > 0:
        raise ValueError(
            f"Expected a scale_step of {span:g} or less, from min_scale to max_scale. "
            f"Received: scale_step={policy.scale_step}"
        )
