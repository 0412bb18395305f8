"""Dense CRF: sharpens a network's probabilities along the edges of the image.

`marginals = dense_crf(image, probabilities)`

The fully connected CRF of DeepLabV1 and V2: every two pixels are joined by an
appearance kernel (near each other and of similar colour) and a smoothness kernel (near
each other); equation 3 of DeepLabV2. Mean field after Kraehenbuehl and Koltun,
"Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (2011), with
the permutohedral lattice of Adams, Baek and Davis, "Fast High-Dimensional Filtering
Using the Permutohedral Lattice" (2010), here as products of sparse matrices.

Where the paper leaves a choice, this does as its authors' code and pydensecrf do:
kernels are normalised symmetrically, and a pixel also hears itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.sparse

# Probabilities under this count as this, as in pydensecrf: the kernels' weights could
# not lift them anyway, and log(0) is spared.
_SMALLEST_PROBABILITY = 1e-5
# A class that nowhere reaches this gets no messages: its neighbours' votes could only
# raise its probability by a factor of about exp(weight * 0.001), under one per cent. An
# image holds few of a network's classes, so that most of the work is saved.
_PRESENT = 1e-3
# Rows whose softmax is computed at a time, so that they stay in the cache.
_ROWS = 4096


# The paper's names: of what it searches, and of what it fixes.
_SEARCHED = ("w1", "sigma_alpha", "sigma_beta")
_FIXED = ("w2", "sigma_gamma", "iterations")
_PAPER_NAMES = {"w1": "appearance_weight", "w2": "smoothness_weight"}


@dataclasses.dataclass(frozen=True)
class CRFParameters:
    """Kernels of the dense CRF; equation 3 of DeepLabV2.

    The papers fix the smoothness kernel and 10 iterations, and search the appearance
    kernel on 100 validation images: w1 in [3, 6], sigma_alpha in [30, 100], sigma_beta
    in [3, 6]. The defaults of that kernel are those published with DeepLabV2-ResNet-101
    (where, unlike in the paper, sigma_gamma was 1).

    Attributes:
      appearance_weight: w1, not negative; 0 leaves the kernel out.
      sigma_alpha: reach of the appearance kernel, pixels; sigmas are 0.1 or more.
      sigma_beta: its tolerance of colour, in levels of 0..255.
      smoothness_weight: w2, not negative; 0 leaves the kernel out.
      sigma_gamma: reach of the smoothness kernel, pixels.
      iterations: mean field steps, not negative.

    Raises:
      ValueError: a value out of range.
    """

    appearance_weight: float = 4.0
    sigma_alpha: float = 67.0
    sigma_beta: float = 3.0
    smoothness_weight: float = 3.0
    sigma_gamma: float = 3.0
    iterations: int = 10

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            # Features of tinier steps would outgrow float32.
            smallest = 0.1 if name.startswith("sigma") else 0
            if not smallest <= value < math.inf:  # NaN fails too
                raise ValueError(
                    f"Expected {name} to be {smallest} or more. Received: {value}"
                )
        if self.iterations != int(self.iterations):
            raise ValueError(
                f"Expected iterations as a whole number. Received: {self.iterations}"
            )
        object.__setattr__(self, "iterations", int(self.iterations))


def parse_crf(enabled: bool, values: Sequence[str] | None) -> CRFParameters | None:
    """Reads --crf and --crf_parameters; None where no CRF is asked for.

    Args:
      enabled: whether --crf was given.
      values: w1, sigma_alpha and sigma_beta, then any parameter as NAME=VALUE, by the
        paper's name or the field's; or these alone. None for the defaults.

    Raises:
      ValueError: values without --crf, what is none of these, a parameter given twice,
        or one out of range.
    """
    if values and not enabled:
        raise ValueError("--crf_parameters needs --crf.")
    if not values:
        return CRFParameters() if enabled else None
    found = _named_parameters(values)
    if found is None:
        raise ValueError(
            "Expected --crf_parameters=w1,sigma_alpha,sigma_beta, such as 4,67,3, and "
            "after them or alone others by their names, such as sigma_gamma=1, each "
            f"once: {', '.join([*_SEARCHED, *_FIXED])}. Received: {','.join(values)}"
        )
    return CRFParameters(**found)


def _named_parameters(values: Sequence[str]) -> dict[str, float] | None:
    """Returns fields of `CRFParameters` and their values; None of what is none."""
    numbers = [value for value in values if "=" not in value]
    pairs = [value.partition("=")[::2] for value in values if "=" in value]
    if numbers and len(numbers) != len(_SEARCHED):
        return None
    pairs = [*zip(_SEARCHED, numbers), *pairs]
    fields = [_PAPER_NAMES.get(name.strip(), name.strip()) for name, _ in pairs]
    known = {field.name for field in dataclasses.fields(CRFParameters)}
    if not set(fields) <= known or len(set(fields)) < len(fields):
        return None
    try:
        return dict(zip(fields, (float(value) for _, value in pairs)))
    except ValueError:
        return None


def dense_crf(
    image: np.ndarray,
    probabilities: np.ndarray,
    parameters: CRFParameters | None = None,
) -> np.ndarray:
    """Refines the probabilities of one image.

    Takes memory for six copies of the probabilities, and 100 bytes and two rows of
    classes for each lattice point, of which there are 0.5 to 3 a pixel: 1.7 GB for
    1024 x 2048 pixels of 19 classes.

    Args:
      image: uint8 [height, width, 3], RGB; the one the network saw, at full size.
      probabilities: floats [height, width, num_classes] in [0, 1]; two classes or more.
        Rows need not sum to one.
      parameters: None is `CRFParameters()`.

    Returns:
      float32 [height, width, num_classes], the marginals: rows that sum to one.

    Raises:
      ValueError: other shapes, dtypes or ranges.
    """
    parameters = parameters or CRFParameters()
    image, probabilities = _checked(image, probabilities)
    kernels = []
    if parameters.appearance_weight:
        features = appearance_features(
            image, parameters.sigma_alpha, parameters.sigma_beta
        )
        kernels.append((parameters.appearance_weight, Lattice(features)))
    if parameters.smoothness_weight:
        features = smoothness_features(image.shape[:2], parameters.sigma_gamma)
        kernels.append((parameters.smoothness_weight, Lattice(features)))
    return mean_field(probabilities, kernels, parameters.iterations)


def mean_field(
    probabilities: np.ndarray,
    kernels: Sequence[tuple[float, Lattice]],
    iterations: int,
) -> np.ndarray:
    """Approximates the marginals of a fully connected Potts model; algorithm 1.

    Args:
      probabilities: floats [height, width, num_classes] in [0, 1].
      kernels: (weight, filter of the image's pixels) each.
      iterations: number of updates of all pixels at once.

    Returns:
      float32 [height, width, num_classes]; rows sum to one.
    """
    shape = probabilities.shape
    probabilities = np.maximum(probabilities, _SMALLEST_PROBABILITY, dtype=np.float32)
    probabilities = probabilities.reshape(-1, shape[-1])
    probabilities /= probabilities.sum(1, keepdims=True)
    present = probabilities.max(0) >= min(_PRESENT, 0.5 / shape[-1])
    absent = probabilities[:, ~present].sum(1, keepdims=True)
    logits = np.log(probabilities[:, present])
    marginals = _softmax(logits.copy(), absent)
    for _ in range(iterations):
        scores = logits.copy()
        # Potts: to reward agreement is to punish disagreement, up to a constant.
        for weight, lattice in kernels:
            message = lattice.filter(marginals)
            message *= np.float32(weight)
            scores += message
        marginals = _softmax(scores, absent)
    return _with_absent(probabilities, present, marginals).reshape(shape)


def appearance_features(
    image: np.ndarray, sigma_alpha: float, sigma_beta: float
) -> np.ndarray:
    """Returns position and colour in units of the kernel, float32 [5, pixels]."""
    position = smoothness_features(image.shape[:2], sigma_alpha)
    color = image.reshape(-1, 3).T.astype(np.float32) / np.float32(sigma_beta)
    return np.concatenate([position, color])


def smoothness_features(size: tuple[int, int], sigma_gamma: float) -> np.ndarray:
    """Returns position in units of the kernel, float32 [2, pixels]: x, y."""
    y, x = np.indices(size, np.float32)
    return np.stack([x.ravel(), y.ravel()]) / np.float32(sigma_gamma)


class Lattice:
    """Gaussian filter of points in d dimensions, in time linear in their number.

    Values are splatted onto the corners of the simplex around each point, blurred along
    the d + 1 axes of the lattice and sliced from the same corners (Adams et al., figure
    1). Approximates D^-1/2 K D^-1/2 with K_ij = exp(-|f_i - f_j|^2 / 2) and D the
    diagonal of K's row sums.

    Args:
      features: float32 [d, N], divided by the standard deviations.

    Raises:
      ValueError: the features spread over more lattice points than 63 bits can number.
    """

    def __init__(self, features: np.ndarray):
        quotients, ranks, weights = _enclosing_simplices(features)
        keys, strides = _corner_keys(quotients, ranks)
        points, corners = np.unique(keys.ravel(), return_inverse=True)
        corners = corners.astype(np.int32).reshape(keys.shape).T
        row_starts = np.arange(0, corners.size + 1, corners.shape[1], dtype=np.int32)
        self._slice = scipy.sparse.csr_matrix(
            (weights.T.ravel(), corners.ravel(), row_starts),
            shape=(len(corners), len(points)),
        )
        self._blurs = [
            _blur(points, neighbors) for neighbors in _neighbor_keys(points, strides)
        ]
        ones = np.ones([len(corners), 1], np.float32)
        scale = 1 / np.sqrt(self.filter(ones)[:, 0])
        self._slice.data *= np.repeat(scale, corners.shape[1])

    def filter(self, values: np.ndarray) -> np.ndarray:
        """Filters float32 [N, channels]."""
        values = self._slice.T @ values
        for blur in self._blurs:
            values = blur @ values
        return self._slice @ values


def _enclosing_simplices(features):
    """Finds the simplex of the lattice around each point; Adams et al., section 3.1.

    The points are lifted onto the plane of d + 1 coordinates that sum to zero, in which
    the lattice lies. Corner k of a simplex has the coordinates
    (d + 1) * (quotients - (ranks > d - k)) + k.

    Args:
      features: float32 [d, N].

    Returns:
      quotients: float32 [d + 1, N], integers.
      ranks: int8 [d + 1, N], each column a permutation of 0..d.
      weights: float32 [d + 1, N], barycentric coordinates of corner 0 to d.
    """
    d, count = features.shape
    lifted = _lift(features) / np.float32(d + 1)
    quotients = np.rint(lifted)
    lifted -= quotients
    ranks = np.zeros([d + 1, count], np.int8)  # number of larger remainders
    for i in range(d):
        for j in range(i + 1, d + 1):
            smaller = lifted[i] < lifted[j]
            ranks[i] += smaller
            ranks[j] += ~smaller
    # Rounding may have left the plane: the extreme coordinates bring it back.
    ranks += quotients.sum(0).astype(np.int8)
    steps = (ranks < 0).astype(np.int8) - (ranks > d)
    ranks += np.int8(d + 1) * steps
    quotients += steps
    lifted -= steps
    descending = _order_by(ranks, lifted)
    weights = np.empty_like(lifted)
    weights[1:] = descending[d - 1 :: -1] - descending[:0:-1]
    weights[0] = 1 + descending[d] - descending[0]
    return quotients, ranks, weights


def _lift(features):
    """Maps [d, N] to [d + 1, N], columns that sum to zero; Adams et al., section 3.1.

    The scale makes splat, blur and slice together a Gaussian of variance one.
    """
    d, count = features.shape
    lifted = np.empty([d + 1, count], np.float32)
    total = np.zeros(count, np.float32)
    for i in range(d, 0, -1):
        scaled = features[i - 1] * np.float32(
            math.sqrt(2 / 3) * (d + 1) / math.sqrt(i * (i + 1))
        )
        lifted[i] = total - i * scaled
        total += scaled
    lifted[0] = total
    return lifted


def _order_by(ranks, values):
    """Returns values [d + 1, N] with each column in the order of its ranks."""
    count = ranks.shape[1]
    ordered = np.empty(ranks.size, values.dtype)
    ordered[ranks * np.int64(count) + np.arange(count)] = values
    return ordered.reshape(ranks.shape)


def _corner_keys(quotients, ranks):
    """Numbers the corners of all simplices, lattice points that are equal alike.

    A key is k + (d + 1) * (the quotients of corner k as digits); the last quotient
    follows from the others, as coordinates sum to zero.

    Returns:
      keys: int64 [d + 1, N].
      strides: int64 [d + 1], what a step of each quotient adds to a key.
    """
    d = len(quotients) - 1
    # A corner's quotient is up to one less, its neighbour's one less or more again.
    lowest = quotients[:d].min(1).astype(np.int64) - 2
    digits = quotients[:d].max(1).astype(np.int64) + 2 - lowest
    strides = [math.prod(digits[:i].tolist()) * (d + 1) for i in range(d + 1)]
    if strides[-1] >= 2**63:
        raise ValueError(
            "Too many lattice points to number: the sigmas are too small for this "
            f"image. Received: features that spread over {digits.tolist()} cells"
        )
    strides = np.array([*strides[:d], 0], np.int64)
    keys = np.empty(quotients.shape, np.int64)
    keys[0] = strides[:d] @ (quotients[:d].astype(np.int64) - lowest[:, None])
    steps = _order_by(ranks, np.broadcast_to(strides[:, None], ranks.shape))
    for k in range(1, d + 1):
        keys[k] = keys[k - 1] + 1 - steps[d - k + 1]
    return keys, strides


def _neighbor_keys(points, strides):
    """Gives for each axis the keys of the points one step along it.

    A step takes one off every coordinate and adds d + 1 to one of them.
    """
    d = len(strides) - 1
    corner_zero = points % (d + 1) == 0
    lower = np.where(corner_zero, points + d - strides.sum(), points - 1)
    for stride in strides:
        yield lower + stride


def _blur(points, neighbor_keys):
    """Makes the matrix of the filter [1/2, 1, 1/2] along one axis of the lattice.

    Args:
      points: int64 [M], sorted keys.
      neighbor_keys: int64 [M], keys that may be absent from points.

    Returns:
      scipy.sparse.csr_matrix, float32 [M, M].
    """
    count = len(points)
    found = np.minimum(np.searchsorted(points, neighbor_keys), count - 1)
    here = np.flatnonzero(points[found] == neighbor_keys)
    there = found[here]
    lengths = np.ones(count, np.int32)
    lengths[here] += 1
    lengths[there] += 1
    row_starts = np.zeros(count + 1, np.int32)
    np.cumsum(lengths, out=row_starts[1:])
    columns = np.empty(row_starts[-1], np.int32)
    weights = np.full(row_starts[-1], 0.5, np.float32)
    # Each row: the point, its neighbour ahead, the one behind; as far as they exist.
    columns[row_starts[:-1]] = np.arange(count)
    weights[row_starts[:-1]] = 1
    columns[row_starts[here] + 1] = there
    columns[row_starts[there + 1] - 1] = here
    return scipy.sparse.csr_matrix((weights, columns, row_starts), shape=(count, count))


def _softmax(logits, absent):
    """Softmax of each row of float32 [N, classes], in place.

    Args:
      logits: of the classes that are present.
      absent: float32 [N, 1], sum of exp(logit) of the others.
    """
    ones = np.ones([logits.shape[1], 1], np.float32)
    for start in range(0, len(logits), _ROWS):
        rows, rest = logits[start : start + _ROWS], absent[start : start + _ROWS]
        # Transposed, as NumPy is slow at the maxima of short rows.
        highest = np.ascontiguousarray(rows.T).max(0)[:, None]
        rows -= highest
        np.exp(rows, out=rows)
        rows /= rows @ ones + rest * np.exp(-highest)
    return logits


def _with_absent(probabilities, present, marginals):
    """Puts the absent classes back: they share what the others leave."""
    if present.all():
        return marginals
    everything = np.empty_like(probabilities)
    everything[:, present] = marginals
    absent = probabilities[:, ~present]
    left = np.maximum(1 - marginals.sum(1, keepdims=True), 0)
    everything[:, ~present] = absent * (left / absent.sum(1, keepdims=True))
    return everything


def _checked(image, probabilities):
    image, probabilities = np.asarray(image), np.asarray(probabilities)
    rgb = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not (rgb and image.size):
        raise ValueError(
            "Expected an RGB image uint8 [height, width, 3]. "
            f"Received: {image.dtype} {list(image.shape)}"
        )
    shape = probabilities.shape
    floating = np.issubdtype(probabilities.dtype, np.floating)
    if not floating or len(shape) != 3 or shape[:2] != image.shape[:2] or shape[2] < 2:
        raise ValueError(
            f"Expected probabilities as floats {[*image.shape[:2], 'num_classes']}, "
            "with the height and width of the image and two classes or more. "
            f"Received: {probabilities.dtype} {list(shape)}"
        )
    lowest, highest = probabilities.min(), probabilities.max()
    if not (lowest >= 0 and highest <= 1.001):  # NaN fails too
        raise ValueError(
            "Expected probabilities in [0, 1], such as a softmax gives. "
            f"Received: {lowest}..{highest}"
        )
    return image, probabilities
