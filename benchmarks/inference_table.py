"""What scales, flip, a finer output stride and the CRF gain, and what they cost.

    python -m benchmarks.inference_table --workdir=runs/camvid

Evaluates a run once for each row and prints a Markdown table: mean IoU, mean IoU in the
trimap of 5 pixels, boundary F (per cent), and seconds of prediction an image. Each
image is predicted in all ways before the next, so that other work on the machine
touches them alike.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tqdm import tqdm

from deeplab_tf import Segmenter, load_workdir
from deeplab_tf.data.reading.pipeline import make_eval_dataset
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.evaluation.scores import Evaluation
from deeplab_tf.inference.crf import CRFParameters
from deeplab_tf.inference.segmenter import PAPER_SCALES

TRIMAP_WIDTH = 5
ROWS = {
    "single scale": {},
    "6 scales": {"scales": PAPER_SCALES},
    "6 scales, flip": {"scales": PAPER_SCALES, "flip": True},
    "stride 8": {"output_stride": 8},
    "stride 8, 6 scales, flip": {
        "output_stride": 8,
        "scales": PAPER_SCALES,
        "flip": True,
    },
    "CRF": {"crf": CRFParameters()},
    "stride 8, 6 scales, flip, CRF": {
        "output_stride": 8,
        "scales": PAPER_SCALES,
        "flip": True,
        "crf": CRFParameters(),
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of a run of train.py")
    parser.add_argument("--data_dir", help="records [those of the run]")
    parser.add_argument("--split", help="split [the run's]")
    parser.add_argument("--num_images", type=int, help="first so many [all]")
    args = parser.parse_args()
    config = load_workdir(args.workdir)[1]
    segmenters = {
        name: Segmenter.from_workdir(args.workdir, **options)
        for name, options in ROWS.items()
    }
    evaluations = {
        name: Evaluation(config.class_names, config.ignore_label, [TRIMAP_WIDTH])
        for name in ROWS
    }
    seconds = dict.fromkeys(ROWS, 0.0)
    selection = select_records(
        args.data_dir or config.data_dir, args.split or config.eval_split
    )
    dataset = make_eval_dataset(selection, with_filename=True)
    for image, label, name in tqdm(dataset.take(args.num_images or -1), disable=None):
        for row, segmenter in segmenters.items():
            start = time.perf_counter()
            classes = segmenter.predict(image[0].numpy())
            seconds[row] += time.perf_counter() - start
            evaluations[row].add(name[0].numpy().decode(), label[0].numpy(), classes)
    print("| | mean IoU | trimap | boundary F | seconds |\n|---|---|---|---|---|")
    for row, evaluation in evaluations.items():
        results = evaluation.results()
        scores = (results["mean_iou"], *results["trimap"]["mean_iou"])
        cells = [f"{100 * each:.1f}" for each in (*scores, results["boundary_f"])]
        cells.append(f"{seconds[row] / results['images']:.2f}")
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
