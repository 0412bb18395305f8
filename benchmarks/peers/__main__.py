"""The page of speed: our networks beside those of other packages, in one run.

    python -m benchmarks.peers                                # all cases
    python -m benchmarks.peers --cases "forward resnet50" --results=speed.json \\
        --chart=speed.png
    python -m benchmarks.peers --cases training --rows ours.train --turns=5

Every row is a process in the environment of its package, which the first run makes
under .venv-peers/ (about 9 GB). They wait for each other: a turn runs one after the
other, so that other work on the machine touches all alike. Weights are random. One
Markdown table a case: milliseconds (median), the time of the case's first row over the
row's (median of the turns: above 1 the row is quicker), gigabytes at most.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.networks import NUM_CLASSES, Case
from benchmarks.peers.layer_list import write_layer_list
from benchmarks.peers.rows import Row, workers_of
from benchmarks.timing import cpu_description, ratio
from deeplab_tf.networks.convolutions import FROZEN_WEIGHTS
from deeplab_tf.networks.models import build_model

# "module.function" of benchmarks.peers -> its row.
FORWARD = {
    "ours.served_saved_model": Row(
        "SavedModel, as serving/ runs it", variables={FROZEN_WEIGHTS: "1"}
    ),
    "ours.saved_model": Row("SavedModel"),
    "ours.segmenter": Row("Segmenter, in Python"),
    "ours.saved_model_of_constants": Row("SavedModel, constants"),
    "ours.openvino": Row("OpenVINO"),
    "ours.onnx": Row("ONNX Runtime"),
    "ours.tflite": Row("LiteRT"),
    "torch_peers.same_layers": Row("PyTorch, the same layers", "torch"),
    "torch_peers.same_layers_compiled": Row("the same, torch.compile", "torch"),
    "torch_peers.torchvision": Row("torchvision", "torch", "resnet50"),
    "torch_peers.torchvision_compiled": Row(
        "the same, torch.compile", "torch", "resnet50"
    ),
    "keras_peers.tf_models": Row("tf-models-official", "tf_models", "resnet50"),
    "keras_peers.keras_hub": Row(
        "keras-hub, output stride 32, 512 x 512", "keras_hub", "resnet50"
    ),
}
TRAINING = {
    "ours.train": Row("ours, TensorFlow"),
    **{name: row for name, row in FORWARD.items() if row.environment},
}
ROWS = {"forward": FORWARD, "training": TRAINING}
# Which of the rows know a precision but float32.
HALF = {
    "ours.served_saved_model",
    "ours.saved_model",
    "ours.segmenter",
    "ours.saved_model_of_constants",
    "ours.openvino",
    *TRAINING,
}
NETWORKS = {
    "resnet50": Case(),
    "mobilenet_v2": Case("deeplab_v3plus", "mobilenet_v2", (360, 480), 8),
    "xception65": Case("deeplab_v3plus", "xception65"),
}
# "forward resnet50 float32" and so on -> the case; a forward pass is of one image.
CASES = {
    f"{step} {name} {precision}": dataclasses.replace(
        case,
        precision=precision,
        batch_size=case.batch_size if step == "training" else 1,
    )
    for step in ROWS
    for name, case in NETWORKS.items()
    for precision in ("float32", "bfloat16")
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a row did: the seconds of each turn, and the memory it held at most."""

    title: str
    seconds: Sequence[float]
    gigabytes: float


def measure_case(step: str, case: Case, names: Sequence[str], turns: int) -> tuple:
    """{name: Measured} of the rows that ran, {name: last words} of the others."""
    described = {**dataclasses.asdict(case), "step": step, "num_classes": NUM_CLASSES}
    rows = {
        name: row
        for name, row in ROWS[step].items()
        if row.only in (None, case.backbone)
        and (case.precision == "float32" or name in HALF)
        and (not names or name in names)
    }
    with tempfile.TemporaryDirectory() as folder:
        write_layer_list(build_model(case.config), folder)
        with workers_of(rows, described, folder) as (workers, failures):
            seconds = {name: [] for name in workers}
            for _ in range(turns):
                for name, worker in workers.items():
                    seconds[name].append(worker.run()[0])
            measured = {
                name: Measured(rows[name].title, seconds[name], worker.gigabytes())
                for name, worker in workers.items()
            }
    return measured, failures


def as_table(measured: Mapping[str, Measured], failures: Mapping[str, str]) -> str:
    """Markdown of what `measure_case` returns."""
    first = next(iter(measured.values()))
    lines = ["| | ms | times quicker than the first | GB |", "|---|---|---|---|"]
    for each in measured.values():
        milliseconds = 1000 * statistics.median(each.seconds)
        quicker = ratio(first.seconds, each.seconds)
        lines.append(
            f"| {each.title} | {milliseconds:.0f} | {quicker:.2f} "
            f"| {each.gigabytes:.1f} |"
        )
    for name, words in failures.items():
        lines += ["", f"{name} did not run: {words}"]
    return "\n".join(lines)


def draw(results: Mapping, path: str) -> None:
    """Draws a bar for each row of each case, images a second, into a PNG file.

    Args:
      results: what `--results` holds.
      path: of the file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = {title: results[title] for title in CASES if title in results}
    heights = [len(rows) for rows in results.values()]
    figure, axes = pyplot.subplots(
        len(results),
        figsize=(8, 0.6 * len(results) + 0.28 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
    )
    for axis, (title, rows) in zip(axes[:, 0], results.items()):
        rates = [
            CASES[title].batch_size / statistics.median(row["seconds"])
            for row in rows.values()
        ]
        places = range(len(rates))
        colors = ["tab:blue" if "ours." in name else "lightgray" for name in rows]
        axis.bar_label(axis.barh(places, rates, color=colors), fmt="%.2f", padding=3)
        axis.set_yticks(places, [row["title"] for row in rows.values()])
        axis.invert_yaxis()
        axis.set_title(f"{title}: images a second")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=[], help="parts of names [all]")
    parser.add_argument("--rows", nargs="*", default=[], help="names of rows [all]")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--results", help="JSON file of all cases so far, continued")
    parser.add_argument("--chart", help="PNG file to draw those into")
    args = parser.parse_args()
    print(f"{cpu_description()}\n", flush=True)
    results = {}
    if args.results and os.path.exists(args.results):
        with open(args.results) as file:
            results = json.load(file)
    for name, case in CASES.items():
        if not any(part in name for part in args.cases or [name]):
            continue
        step, _, _ = name.partition(" ")
        measured, failures = measure_case(step, case, args.rows, args.turns)
        table = as_table(measured, failures)
        print(f"{step}: {case.title}\n\n{table}\n", flush=True)
        results[name] = {
            row: dataclasses.asdict(each) for row, each in measured.items()
        }
        if args.results:
            with open(args.results, "w") as file:
                json.dump(results, file)
    if args.chart:
        draw(results, args.chart)


if __name__ == "__main__":
    main()
