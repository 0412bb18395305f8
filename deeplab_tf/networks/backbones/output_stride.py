"""The output-stride rule, written once for every backbone (DeepLabV3, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

OUTPUT_STRIDES = (8, 16, 32)


class Atrous(NamedTuple):
    """How one step of a backbone runs at the chosen output stride.

    Attributes:
      stride: stride it keeps.
      entry_rate: dilation of a convolution that carries the stride itself.
      rate: dilation of the convolutions after the stride.
    """

    stride: int
    entry_rate: int
    rate: int


def apply_output_stride(
    strides: Sequence[int],
    output_stride: int,
    running_stride: int = 1,
    choices: Sequence[int] = OUTPUT_STRIDES,
) -> list[Atrous]:
    """Trades stride for dilation once the running stride has reached output_stride.

    A stride that would go beyond multiplies the dilation of everything after it
    instead, so that the same weights see the same pixels.

    Args:
      strides: stride of each step of the backbone, in order.
      output_stride: one of `choices`.
      running_stride: stride of the stem in front of the first step.
      choices: output strides the network can have.

    Raises:
      ValueError: output_stride is not one of `choices`.
    """
    if output_stride not in choices:
        raise ValueError(
            f"output_stride must be one of {tuple(choices)}. Received: {output_stride}"
        )
    steps, rate = [], 1
    for stride in strides:
        entry_rate = rate
        if running_stride == output_stride:
            rate *= stride
            stride = 1
        running_stride *= stride
        steps.append(Atrous(stride, entry_rate, rate))
    return steps
