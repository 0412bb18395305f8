"""Dilated and depthwise convolutions that train, and quickly, on every device.

Features are [batch, height, width, channels], kernels [height, width, inputs, outputs],
both in the layer's compute dtype. Padding is "SAME" and kernels have odd sides where
nothing else is said.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import os
from collections.abc import Callable, Iterator

import tensorflow as tf

# From where on a sum over positions is quicker than one operation (docs/benchmarks.md):
# from rate 12 on, in bfloat16 from 4, with oneDNN from 1,024 inputs on as well; and for
# the kernel's gradient, where rate times inputs counts too.
_RATE, _RATE_IN_BFLOAT16, _INPUTS_WITH_ONEDNN = 12, 4, 1024
_RATE_TIMES_INPUTS = 2048


# With it TensorFlow's oneDNN orders the weights of each convolution once, for good.
FROZEN_WEIGHTS = "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"


def refuse_frozen_weights() -> None:
    """Raises where TensorFlow was told that no convolution's weights ever change.

    A convolution then goes on with the weights of its first run, after a step of
    training or `set_weights`; and outside of a `tf.function` so does every other of the
    same shape.

    Raises:
      ValueError: `FROZEN_WEIGHTS` is set.
    """
    if os.environ.get(FROZEN_WEIGHTS, "").lower() in ("1", "true"):
        raise ValueError(
            f"{FROZEN_WEIGHTS} is set: TensorFlow would compute Keras models with "
            "weights that they no longer have. It is for processes that run exported "
            f"models and no other. Run: unset {FROZEN_WEIGHTS}"
        )


@functools.cache
def has_native_gradient(dtype: tf.DType = tf.float32) -> bool:
    """Says whether `Conv2D` with dilations has a gradient on the device at hand.

    It has one on GPUs and on CPUs where oneDNN computes in this dtype: TensorFlow turns
    it on by itself where a processor has AVX512-VNNI or newer, and bfloat16 needs a
    processor that has it. Plain CPU kernels run the forward pass and raise
    InvalidArgumentError for the gradient. Tried once for each dtype, on a tiny input.
    """
    with tf.init_scope():
        image = tf.ones([1, 5, 5, 1], dtype)
        try:
            # The gradient by its own name: tapes do not record inside init_scope.
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=image.shape,
                filter=tf.ones([3, 3, 1, 1], dtype),
                out_backprop=image,
                strides=[1, 1, 1, 1],
                padding="SAME",
                dilations=[1, 2, 2, 1],
            )
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True


# Where what is traced will run; None is here, on the device at hand.
_TRACED_FOR = contextvars.ContextVar("traced_for", default=None)
_RUNTIMES, _TENSORFLOW, _GPU = "other runtimes", "TensorFlow anywhere", "a GPU"


@contextlib.contextmanager
def _traced_for(place: str) -> Iterator[None]:
    token = _TRACED_FOR.set(place)
    try:
        yield
    finally:
        _TRACED_FOR.reset(token)


def graph_for_other_runtimes():
    """A context in which what is traced has the operations that runtimes know best.

    A dilated convolution is one operation in it, depthwise or not. TensorFlow alone,
    where it runs without oneDNN, is quicker by others; and an exported file must not
    depend on the processor of whoever exports it.
    """
    return _traced_for(_RUNTIMES)


def graph_for_any_processor():
    """A context in which what is traced runs in TensorFlow wherever it is loaded.

    A dilated depthwise convolution goes by space-to-batch in it: TensorFlow without
    oneDNN refuses grouped convolutions with a bias ("Fused conv implementation does not
    support grouped convolutions"), and takes 30 times as long for others. With oneDNN
    it costs 1.2 to 1.5 times the time of these layers, a hundredth of MobileNetV2's.
    Other dilated convolutions are sums over their kernel's positions where that is
    quicker, with oneDNN or without, and one operation elsewhere.
    """
    return _traced_for(_TENSORFLOW)


def graph_for_gpu():
    """A context in which what is traced is what a GPU is given, without one at hand."""
    return _traced_for(_GPU)


def _place() -> str | None:
    place = _TRACED_FOR.get()
    if place is None and tf.config.list_logical_devices("GPU"):
        return _GPU
    return place


def is_for_gpu() -> bool:
    """Says whether what is traced will run on a GPU."""
    return _place() == _GPU


def has_quick_gradient(dtype: tf.DType) -> bool:
    """Says whether gradients in this dtype are computed in it, and not in float32."""
    return dtype.size >= 4 or is_for_gpu() or has_native_gradient(dtype)


def is_bfloat16_by_onednn(dtype: tf.DType) -> bool:
    """Says whether a layer is to be traced for oneDNN's bfloat16 on this processor."""
    return dtype == tf.bfloat16 and _place() is None and has_native_gradient(dtype)


def atrous_conv2d(inputs, kernel, rates: tuple[int, int]):
    """Dilated convolution of stride 1, as `Conv2D` or a sum over kernel positions.

    Keras lowers it to SpaceToBatchND, Conv2D and BatchToSpaceND, up to 8 times slower
    at rate 18 as a forward pass and 20 times as a gradient: it multiplies matrices of a
    few rows each. Where the native gradient is missing (`has_native_gradient`) it is
    made of operations that every device has.

    Args:
      inputs: features [B, h, w, inputs].
      kernel: [kernel height, kernel width, inputs, outputs].
      rates: dilation along height and width.

    Returns:
      Features [B, h, w, outputs].
    """
    if _place() in (_GPU, _RUNTIMES):
        return _at_once(inputs, kernel, rates)

    size = (inputs.dtype, kernel.shape[2], min(rates))
    forward = _by_positions if _is_quicker_by_positions(*size) else _at_once
    are_products = _is_gradient_quicker_by_positions(*size)

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradient(upstream):
            if not has_native_gradient(inputs.dtype):
                of_inputs = forward(upstream, _turned(kernel), rates)
                return of_inputs, _gradient_of_kernel(inputs, kernel, upstream, rates)
            of_inputs = _native_gradient_of_inputs(inputs, kernel, upstream, rates)
            if are_products:
                return of_inputs, _gradient_of_kernel(inputs, kernel, upstream, rates)
            return of_inputs, tf.raw_ops.Conv2DBackpropFilter(
                input=inputs,
                filter_sizes=kernel.shape,
                out_backprop=upstream,
                strides=[1] * 4,
                padding="SAME",
                dilations=[1, *rates, 1],
            )

        return forward(inputs, kernel, rates), gradient

    return convolve(inputs, kernel)


def _is_quicker_by_positions(dtype: tf.DType, inputs: int, rate: int) -> bool:
    """Says whether the forward pass is to be a sum, here or in TensorFlow anywhere."""
    is_by_onednn = _place() == _TENSORFLOW or has_native_gradient(dtype)
    if not is_by_onednn:
        return rate >= _RATE
    least = _RATE_IN_BFLOAT16 if dtype == tf.bfloat16 else _RATE
    return rate >= least and inputs >= _INPUTS_WITH_ONEDNN


def _is_gradient_quicker_by_positions(dtype: tf.DType, inputs: int, rate: int) -> bool:
    """Says the same of the kernel's gradient, where oneDNN has one."""
    is_large = rate * inputs >= _RATE_TIMES_INPUTS
    return is_large and (dtype == tf.bfloat16 or rate >= _RATE)


def _at_once(inputs, kernel, rates: tuple[int, int]):
    return tf.nn.conv2d(inputs, kernel, 1, "SAME", dilations=rates)


def _by_positions(inputs, kernel, rates: tuple[int, int]):
    """The same as a sum: each position of the kernel is a matrix over what it sees.

    What lies in the padding takes no time. At rate 18 and 33 x 33 features 0.4 of the
    multiplications are left, at rate 12 0.57. And it is a product of matrices, where
    oneDNN's dilated convolution of many inputs takes 3 to 8 times as long in bfloat16
    (`python -m benchmarks.layers`).
    """
    total, images, outputs = 0, tf.shape(inputs)[0], kernel.shape[3]
    # Nine products, each rounded to half precision, are not rounded with each sum too.
    summed_in = inputs.dtype if inputs.dtype.size >= 4 else tf.float32
    matrices = tf.unstack(tf.reshape(kernel, [-1, *kernel.shape[2:]]))
    for matrix, (seen, seeing, lengths) in zip(
        matrices, _positions(inputs, kernel, rates)
    ):
        # Not a 1x1 convolution, which refuses to see nothing.
        product = tf.matmul(_pixels(inputs, seen, lengths), matrix)
        result = tf.reshape(tf.cast(product, summed_in), [images, *lengths, outputs])
        # What those that see leave out at one side is what they see beyond the other.
        total += tf.pad(result, [(0, 0), *zip(seeing, seen), (0, 0)])
    total = tf.cast(total, inputs.dtype)
    return tf.ensure_shape(total, [*inputs.shape[:3], outputs])


def _turned(kernel):
    """The kernel of the same convolution back: turned round, its ends exchanged."""
    height, width, inputs, outputs = kernel.shape
    # As a list of matrices: reversed along two axes it takes four times as long.
    matrices = tf.reverse(tf.reshape(kernel, [-1, inputs, outputs]), [0])
    exchanged = tf.transpose(matrices, [0, 2, 1])
    return tf.reshape(exchanged, [height, width, outputs, inputs])


def _native_gradient_of_inputs(inputs, kernel, upstream, rates: tuple[int, int]):
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(inputs),
        filter=kernel,
        out_backprop=upstream,
        strides=[1] * 4,
        padding="SAME",
        dilations=[1, *rates, 1],
    )


def _gradient_of_kernel(inputs, kernel, upstream, rates: tuple[int, int]):
    """Gradient of a kernel, dilated or 1x1: a product of matrices a position."""
    products = []
    for seen, seeing, lengths in _positions(upstream, kernel, rates):
        seen = _pixels(inputs, seen, lengths)
        seeing = _pixels(upstream, seeing, lengths)
        products.append(tf.matmul(seen, seeing, transpose_a=True))
    return tf.reshape(tf.stack(products), kernel.shape)


def _positions(features, kernel, rates: tuple[int, int]) -> Iterator[tuple]:
    """Which pixels each position of a kernel sees, and for which outputs, in order.

    Yields:
      (the first pixel [2] that it sees, the first that sees by it, how many rows and
      columns do): the output at a pixel sees the input at pixel + offset, if there is
      one.
    """
    # A size that is known takes no operations, of which each has to be traced.
    size, least = features.shape[1:3], min
    if not size.is_fully_defined():
        size, least = tf.unstack(tf.shape(features)[1:3]), tf.minimum
    along = [[], []]
    for axis, found in enumerate(along):
        side = kernel.shape[axis]
        for index in range(side):
            offset = rates[axis] * (index - side // 2)
            unseen = least(abs(offset), size[axis])
            first_seen, first_seeing = (unseen, 0) if offset > 0 else (0, unseen)
            found.append((first_seen, first_seeing, size[axis] - unseen))
    for row, column in itertools.product(*along):
        yield tuple(zip(row, column))


def _pixels(features, begins, lengths):
    """A part of features, [B * rows * columns, channels]."""
    part = tf.slice(features, [0, *begins, 0], [-1, *lengths, -1])
    return tf.reshape(part, [-1, features.shape[-1]])


def pointwise_conv2d(inputs, kernel):
    """A 1x1 convolution of stride 1 whose kernel's gradient is a product of matrices.

    For bfloat16 with oneDNN, whose own takes 2 to 4 times as long: `python -m
    benchmarks.layers`. (With a stride the pixels would have to be gathered first, which
    takes longer than it saves.)

    Args:
      inputs: features [B, h, w, inputs].
      kernel: [1, 1, inputs, outputs].
    """

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradient(upstream):
            return (
                _native_gradient_of_inputs(inputs, kernel, upstream, (1, 1)),
                _gradient_of_kernel(inputs, kernel, upstream, (1, 1)),
            )

        return tf.nn.conv2d(inputs, kernel, 1, "VALID"), gradient

    return convolve(inputs, kernel)


def is_grouped_here(dtype: tf.DType, rate: int) -> bool:
    """Says whether a dilated depthwise convolution is to be traced as one operation.

    With oneDNN it is not from rate 12 on: at rates 12 and 18 and 33 x 33 features one
    operation takes 2 to 9 times as long as space-to-batch, at 2 to 6 0.4 to 0.9.
    """
    place = _place()
    if place is None:
        return has_native_gradient(dtype) and rate < _RATE
    return place in (_GPU, _RUNTIMES)


def atrous_depthwise_conv2d(inputs, kernel, rate: int):
    """Dilated depthwise convolution of stride 1, as a grouped `Conv2D`.

    `DepthwiseConv2dNative` with dilations has a silently wrong gradient with oneDNN and
    does not run without it. With oneDNN the grouped form is right, and as fast at small
    rates; its gradient takes the space-to-batch way, the faster of the two that are
    right.
    Without oneDNN it is right, and 30 times as slow as space-to-batch.

    Args:
      inputs: features [B, h, w, channels].
      kernel: [kernel height, kernel width, channels, multiplier].
      rate: dilation.

    Returns:
      Features [B, h, w, channels * multiplier].
    """
    height, width, channels, multiplier = kernel.shape

    @tf.custom_gradient
    def convolve(inputs, kernel):
        grouped = tf.reshape(kernel, [height, width, 1, channels * multiplier])
        outputs = tf.nn.conv2d(inputs, grouped, 1, "SAME", dilations=rate)

        def gradient(upstream):
            with tf.GradientTape() as tape:
                tape.watch([inputs, kernel])
                same_outputs = tf.nn.depthwise_conv2d(
                    inputs, kernel, [1, 1, 1, 1], "SAME", dilations=[rate, rate]
                )
            return tape.gradient(same_outputs, [inputs, kernel], upstream)

        return outputs, gradient

    return convolve(inputs, kernel)


def with_float32_gradient(convolution: Callable, inputs, kernel):
    """A convolution in half precision whose gradient is computed in float32.

    For kernels whose gradient is slow in bfloat16: oneDNN's of depthwise convolutions
    with a stride (14 times as long as in float32), and all of a processor that has no
    bfloat16 (16 times): `python -m benchmarks.layers`.

    Args:
      convolution: function of (inputs, kernel), of any padding, that has a gradient.
      inputs: features [B, h, w, inputs].
      kernel: the kernel, in the dtype of the features.
    """

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradient(upstream):
            precise = [tf.cast(tensor, tf.float32) for tensor in (inputs, kernel)]
            with tf.GradientTape() as tape:
                tape.watch(precise)
                same_outputs = convolution(*precise)
            found = tape.gradient(same_outputs, precise, tf.cast(upstream, tf.float32))
            return [tf.cast(tensor, inputs.dtype) for tensor in found]

        return convolution(inputs, kernel), gradient

    return convolve(inputs, kernel)


def with_gradient_of_images(kernel, inputs):
    """The kernel; its gradient is zero where the inputs hold no image.

    The last batch may leave a replica without images, and TensorFlow's gradient of a
    depthwise kernel is then memory that nobody has written, NaN as often as not.
    """

    @tf.custom_gradient
    def same(kernel):
        def gradient(upstream):
            has_images = tf.shape(inputs)[0] > 0
            return tf.where(has_images, upstream, tf.zeros_like(upstream))

        return tf.identity(kernel), gradient

    return same(kernel)
