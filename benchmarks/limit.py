"""How quick a network's convolutions can be: the quickest kernel of each.

    python -m benchmarks.limit
    python -m benchmarks.limit --model=deeplab_v3plus --backbone=mobilenet_v2 \\
        --size=360,480 --precision=bfloat16

Every distinct convolution of the network is timed alone on one image: by TensorFlow, by
oneDNN through PyTorch (features and weights in the order that its kernels want), and by
OpenVINO inside the whole network, with what it fuses. The sum of the quickest is what a
forward pass takes at the least; normalisation, activations, pooling, resizing and the
arg max are not in it, but where OpenVINO fuses them. Two Markdown tables: the sums, and
the convolutions that weigh most.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import statistics
import tempfile
from collections.abc import Mapping

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tensorflow import keras

from benchmarks.networks import NUM_CLASSES, Case, add_arguments, case_of
from benchmarks.peers.convolutions import write_convolutions
from benchmarks.peers.rows import Row, workers_of
from benchmarks.timing import cpu_description
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.multiply_adds import layer_calls

ROWS = {
    "ours.layers": Row("TensorFlow"),
    "torch_peers.layers": Row("oneDNN by PyTorch", "torch"),
    "ours.openvino_layers": Row("OpenVINO, in the network"),
}


def convolutions(case: Case) -> dict[str, int]:
    """{description of a convolution: how often the network has it}.

    A description is JSON of what benchmarks/peers/convolutions.py says.
    """
    counts = collections.Counter()
    for layer, (_, height, width, outputs) in layer_calls(
        build_model(case.config), *case.size
    ):
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            kernel = layer.get_weights()[0].shape
            is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            groups = kernel[2] if is_depthwise else 1
            sides = (height, width, kernel[2], outputs, *kernel[:2])
            strides = (max(layer.strides), max(layer.dilation_rate), groups)
            counts[json.dumps([*sides, *strides])] += 1
    return counts


def words_of(convolution: str) -> str:
    """A description in words."""
    height, width, inputs, outputs, rows, columns, stride, rate, groups = json.loads(
        convolution
    )
    words = f"{rows}x{columns}, {inputs} -> {outputs}, to {height}x{width}"
    words += f", stride {stride}" * (stride > 1) + f", rate {rate}" * (rate > 1)
    return words + ", depthwise" * (groups > 1)


def measure(case: Case, counts: Mapping[str, int], turns: int) -> tuple[dict, dict]:
    """Times all rows by turns.

    Returns:
      {name of a row: {description: milliseconds of all such convolutions}}; a row may
      lack some, as OpenVINO rewrites them. And {name: last words} of those that failed.
    """
    described = {**dataclasses.asdict(case), "num_classes": NUM_CLASSES}
    with tempfile.TemporaryDirectory() as folder:
        write_convolutions([json.loads(each) for each in counts], folder)
        with workers_of(ROWS, described, folder) as (workers, failures):
            answers = {name: [] for name in workers}
            for _ in range(turns):
                for name, worker in workers.items():
                    answers[name].append(worker.run()[1])
    milliseconds = {
        name: {
            each: 1000 * counts[each] * statistics.median(turn[each] for turn in found)
            for each in counts
            if each in found[0]
        }
        for name, found in answers.items()
    }
    return milliseconds, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--layers", type=int, default=10, help="rows of the second")
    add_arguments(parser)
    args = parser.parse_args()
    case = dataclasses.replace(case_of(args), batch_size=1)
    counts = convolutions(case)
    rows, failures = measure(case, counts, args.turns)
    least = {
        each: min(row[each] for row in rows.values() if each in row) for each in counts
    }
    print(f"{case.title}. {cpu_description()}\n\n| all convolutions | ms |\n|---|---|")
    for name, row in rows.items():
        missing = sum(counts[each] for each in counts.keys() - row.keys())
        words = f", but {missing} that it rewrites" if missing else ""
        print(f"| {ROWS[name].title}{words} | {sum(row.values()):.1f} |")
    print(f"| the quickest of each: the limit | {sum(least.values()):.1f} |\n")
    titles = " | ".join(ROWS[name].title for name in rows)
    print(f"| convolution | number | {titles} |\n|---|---|{'---|' * len(rows)}")
    for each in sorted(counts, key=least.get, reverse=True)[: args.layers]:
        cells = [f"{row[each]:.1f}" if each in row else "" for row in rows.values()]
        print(f"| {words_of(each)} | {counts[each]} | {' | '.join(cells)} |")
    for name, words in failures.items():
        print(f"\n{ROWS[name].title} did not run: {words}")


if __name__ == "__main__":
    main()
