"""Times a convolution as one operation, and as the products of matrices it may be.

    python -m benchmarks.convolution_forms --precision=bfloat16
    ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 python -m benchmarks.convolution_forms

Forward and the gradient of the kernel, of the convolutions of `CASES` or of one that is
given. `deeplab_tf/networks/convolutions.py` chooses by these figures. A Markdown table,
milliseconds; both take turns in one process.
"""

from __future__ import annotations

import argparse
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks.timing import cpu_description, measure
from deeplab_tf.networks import convolutions

# Images, pixels a side, inputs, outputs, kernel's side, rate, stride.
CASES = [
    (2, 33, 2048, 256, 3, 2, 1),
    (2, 33, 2048, 256, 3, 6, 1),
    (2, 33, 2048, 256, 3, 12, 1),
    (2, 33, 2048, 256, 3, 18, 1),
    (2, 65, 2048, 256, 3, 24, 1),
    (2, 33, 2048, 512, 3, 4, 1),
    (2, 33, 1024, 1024, 3, 12, 1),
    (2, 33, 512, 512, 3, 4, 1),
    (2, 33, 320, 256, 3, 6, 1),
    (2, 33, 1024, 2048, 1, 1, 1),
    (2, 33, 1024, 512, 1, 1, 1),
    (2, 129, 64, 256, 1, 1, 1),
    (2, 65, 512, 1024, 1, 1, 2),
]


def forms(case, dtype) -> dict:
    """{(pass, form): a function that runs it}."""
    count, side, inputs, outputs, kernel_side, rate, stride = case
    rates, seen_side = (rate, rate), -(-side // stride)
    image = tf.cast(tf.random.normal([count, side, side, inputs]), dtype)
    shape = [kernel_side, kernel_side, inputs, outputs]
    kernel = tf.cast(0.05 * tf.random.normal(shape), dtype)
    upstream = tf.random.normal([count, seen_side, seen_side, outputs])
    upstream = tf.cast(upstream, dtype)

    def gradient(image, upstream):
        return tf.raw_ops.Conv2DBackpropFilter(
            input=image,
            filter_sizes=shape,
            out_backprop=upstream,
            strides=[1, stride, stride, 1],
            padding="SAME",
            dilations=[1, rate, rate, 1],
        )

    def gradient_by_products(image, upstream):
        image = image[:, ::stride, ::stride] if stride > 1 else image
        return convolutions._gradient_of_kernel(image, kernel, upstream, rates)

    found = {
        ("forward", "operation"): lambda image, kernel: tf.nn.conv2d(
            image, kernel, stride, "SAME", dilations=rates
        ),
        ("kernel's gradient", "operation"): gradient,
        ("kernel's gradient", "products"): gradient_by_products,
    }
    if stride == 1:
        found["forward", "products"] = lambda image, kernel: convolutions._by_positions(
            image, kernel, rates
        )
    return {
        key: _runner(form, image, kernel if key[0] == "forward" else upstream)
        for key, form in found.items()
    }


def _runner(form, *arguments):
    run = tf.function(form, autograph=False)
    return lambda: run(*arguments).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", default="bfloat16", help="a dtype")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--case",
        help="images,side,inputs,outputs,kernel,rate,stride instead of the table's",
    )
    args = parser.parse_args()
    cases = CASES
    if args.case:
        cases = [tuple(int(number) for number in args.case.split(","))]
    columns = [
        (step, form)
        for step in ("forward", "kernel's gradient")
        for form in ("operation", "products")
    ]
    print(f"{args.precision}. {cpu_description()}\n")
    print(f"| | {' | '.join(', '.join(column) for column in columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for case in cases:
        seconds = measure(forms(case, tf.as_dtype(args.precision)), args.repeats)
        count, side, inputs, outputs, kernel_side, rate, stride = case
        title = f"{count} of {side} x {side}, {kernel_side}x{kernel_side}"
        title += f" {inputs} -> {outputs}" + f", rate {rate}" * (rate > 1)
        title += f", stride {stride}" * (stride > 1)
        cells = [
            f"{1000 * statistics.median(seconds[column]):.1f}"
            if column in seconds
            else ""
            for column in columns
        ]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
