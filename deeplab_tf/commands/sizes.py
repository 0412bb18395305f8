"""A flag's words for a size of images in, (height, width) out."""

from __future__ import annotations

from collections.abc import Sequence

from deeplab_tf.networks.models import MIN_IMAGE_SIZE


def parse_size(name: str, sizes: Sequence[str | int]) -> tuple[int, int]:
    """["513"] -> (513, 513), ["769", "1537"] -> (769, 1537).

    Args:
      name: of the flag, for the sentence.
      sizes: one side, or height and width.

    Raises:
      ValueError: neither, or a side under `MIN_IMAGE_SIZE`.
    """
    try:
        height, width = [int(size) for size in sizes] * (2 if len(sizes) == 1 else 1)
    except ValueError:
        raise ValueError(
            f"{name} must be SIZE or HEIGHT,WIDTH, such as 513 or 769,1537. "
            f"Received: {','.join(map(str, sizes))}"
        ) from None
    if min(height, width) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"{name} must be at least {MIN_IMAGE_SIZE} pixels a side. "
            f"Received: {(height, width)}"
        )
    return height, width
