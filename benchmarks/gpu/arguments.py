"""The arguments of a lowered program, made by one rule on both machines.

Weights are not shipped: `make` gives the same numbers wherever NumPy runs, as the
streams of RandomState are fixed for all its versions.
"""

from __future__ import annotations

import dataclasses

import numpy as np

IGNORED_SHARE = 0.05  # of the pixels of a label


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a program.

    Attributes:
      shape, dtype: "float32" or "int32".
      rule: "image": noise around a colour, in 0..255. "label": class ids, some of them
        255. "normal": around 0. "near_one": uniform in 0.7..1.3. "zeros".
      scale: the deviation of "normal", the number of classes of "label".
    """

    shape: tuple[int, ...]
    dtype: str
    rule: str
    scale: float = 0.0


def make(argument: Argument, seed: int) -> np.ndarray:
    """Returns the array of an argument.

    Args:
      argument: what to make.
      seed: the argument's place in the program.

    Raises:
      ValueError: no such rule.
    """
    random, shape = np.random.RandomState(seed), argument.shape
    if argument.rule == "zeros":
        value = np.zeros(shape)
    elif argument.rule == "image":
        # Noise alone has the same mean in every image: BatchNorm behind the pooled
        # features would blow the rounding of their differences up.
        color = random.uniform(0, 255, (shape[0], 1, 1, shape[3]))
        value = (color + random.uniform(0, 255, shape)) / 2
    elif argument.rule == "near_one":
        value = random.uniform(0.7, 1.3, shape)
    elif argument.rule == "normal":
        value = random.normal(0.0, argument.scale, shape)
    elif argument.rule == "label":
        value = random.randint(0, int(argument.scale), shape)
        value[random.uniform(size=shape) < IGNORED_SHARE] = 255
    else:
        raise ValueError(
            "rule must be image, label, normal, near_one or zeros. "
            f"Received: {argument.rule!r}"
        )
    return np.asarray(value, argument.dtype)


def make_all(arguments) -> list[np.ndarray]:
    """Returns the arrays of a program's arguments, in its order."""
    return [make(argument, seed) for seed, argument in enumerate(arguments)]


def perturbed(values, scale: float) -> list[np.ndarray]:
    """The same arrays, those of floats changed by a relative `scale` at random."""
    random = np.random.RandomState(0)
    return [
        (value * (1 + scale * random.standard_normal(value.shape))).astype(value.dtype)
        if value.dtype.kind == "f"
        else value
        for value in values
    ]


# --- What is compared of a program's results -----------------------------------------


def differences(results: dict, references: dict) -> dict[str, float]:
    """Relative differences of a check's results, all its gradients taken as one.

    Args:
      results, references: name -> array; gradients are named "gradient ...".

    Returns:
      "loss", "logits", "norms", "statistics" where there are any, and "gradients".
    """
    gradients = [name for name in references if is_gradient(name)]
    found = {
        name: relative_difference(results[name], references[name])
        for name in references
        if not is_gradient(name)
    }
    joined = (
        np.concatenate([np.ravel(values[name]) for name in gradients])
        for values in (results, references)
    )
    return {**found, "gradients": relative_difference(*joined)}


def is_gradient(name: str) -> bool:
    return name.startswith("gradient ")


def relative_difference(value, reference) -> float:
    """The norm of the difference over the reference's; infinite where not finite."""
    value, reference = (np.asarray(array, np.float64) for array in (value, reference))
    norm = np.linalg.norm(value - reference) / max(np.linalg.norm(reference), 1e-30)
    return float(norm) if np.isfinite(norm) else float("inf")
