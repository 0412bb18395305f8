"""Counts the pixels where an export's ways to be asked differ from predict.py.

    python -m benchmarks.serving_agreement --workdir=runs/camvid --images='photos/*.jpg'

Exports the run, asks it in Python, and through the stand-in of the tests (which loads
it by TensorFlow's C loader) over REST and gRPC, with serving/client.py. One JSON line:
images, pixels, and of each way the pixels whose class is not that of predict.py at
scale 1. Exits with 1 where there are any and the precision is float32.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tqdm import tqdm

from deeplab_tf.commands.run_exports import export_workdir
from deeplab_tf.inference.segmenter import Segmenter
from deeplab_tf.pictures.images import read_image
from deeplab_tf.prediction.input_files import find_inputs
from serving.client import Client
from tests.support import serving_stand_in


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True, help="folder of a run of train.py")
    parser.add_argument("--images", required=True, help="files, folders or patterns")
    parser.add_argument("--num_images", type=int, help="first so many [all]")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--constants", action="store_true", help="weights in the graph")
    args = parser.parse_args()
    paths = find_inputs(args.images)[: args.num_images]
    predicted = Segmenter.from_workdir(args.workdir)
    with tempfile.TemporaryDirectory() as folder:
        path, _ = export_workdir(
            args.workdir, folder, precision=args.precision, constants=args.constants
        )
        loaded = Segmenter.from_saved_model(path)
        with serving_stand_in.running(f"--model_base_path={folder}") as server:
            rest, grpc = Client(server.rest), Client(f"grpc://{server.grpc}")
            ways = {
                "SavedModel in Python": lambda path: loaded.predict(read_image(path)),
                "C loader, REST": rest.segment,
                "C loader, gRPC": grpc.segment,
            }
            pixels, different = 0, dict.fromkeys(ways, 0)
            for path in tqdm(paths, disable=None):
                expected = predicted.predict(read_image(path))
                pixels += expected.size
                for name, segment in ways.items():
                    different[name] += int(np.sum(segment(path) != expected))
    print(
        json.dumps(
            {
                "images": len(paths),
                "pixels": pixels,
                "precision": args.precision,
                "constants": args.constants,
                "different": different,
            }
        )
    )
    sys.exit(args.precision == "float32" and any(different.values()))


if __name__ == "__main__":
    main()
