"""Images in; those that calibrate 8 bits, and others that judge it, out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEW_IMAGES = 10
_FLAT = 4  # standard deviation of every channel below which an image shows nothing


def hold_out(
    images: Sequence[np.ndarray], most: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Parts images into those to calibrate on, and those to compare on.

    On what it was calibrated with, a network in 8 bits is right by construction: one
    black image gives "100 %" and a network that is of no use.

    Args:
      images: uint8 [h, w, 3] each.
      most: to compare on; never more than half of them.

    Returns:
      (calibration, comparison); the second has no flat image, and none that is in the
      first too.
    """
    count = min(most, len(images) // 2)
    held, calibration = images[:count], list(images[count:])
    return calibration, others(held, calibration)


def others(
    images: Sequence[np.ndarray], calibration: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Returns the images that show something, and are none of the calibration."""
    return [
        image
        for image in images
        if not is_flat(image)
        and not any(np.array_equal(image, known) for known in calibration)
    ]


def is_flat(image: np.ndarray) -> bool:
    """Says whether an image uint8 [h, w, 3] is of one colour, or nearly."""
    return bool(image.std(axis=(0, 1)).max() < _FLAT)


def describe_calibration(calibration: Sequence[np.ndarray]) -> str:
    """Says what is wrong with images to calibrate on; "" where nothing is."""
    flat = sum(map(is_flat, calibration))
    found = []
    if len(calibration) < FEW_IMAGES:
        found.append(
            f"{len(calibration)} images are few to take the ranges of the activations "
            "from"
        )
    if flat:
        found.append(f"{flat} of {len(calibration)} are of one colour or nearly")
    if not found:
        return ""
    return (
        f"Warning: int8 is calibrated on what may not show its range: "
        f"{', and '.join(found)}. Give --images of a hundred photos as it will see "
        "them, and evaluate the file: evaluate.py --saved_model=..."
    )
