"""Times a build by one process, by the local pool and by Beam's DirectRunner.

python -m benchmarks.build_speed               draws images of VOC's size, prints JSON
python -m benchmarks.build_speed --images_dir=JPEGImages --labels_dir=SegmentationClass

The ways take turns; each build starts from nothing, processes and all. The shards must
be the same bytes in all. Ratios are medians over the turns, to one process.
"""

from __future__ import annotations

# Without TensorFlow here: worker processes import this module.
import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.timing import cpu_description, measure, ratio
from datasets import build_voc2012
from datasets.sources.catalog import DATASETS
from deeplab_tf.data.building.dataset import build_dataset
from deeplab_tf.data.building.worker_pool import available_cpus
from deeplab_tf.data.folders import folder_splits

SIZE = (500, 375)


def draw_pairs(folder: Path, count: int) -> tuple[Path, Path]:
    """Writes soft coloured images as JPEG and blocks of ids as PNG."""
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for index in range(count):
        coarse = generator.integers(0, 256, (47, 63, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(SIZE, Image.BICUBIC)
        image.save(folder / "images" / f"{index:05d}.jpg", quality=90)
        ids = generator.integers(0, 21, (12, 16), dtype=np.uint8)
        label = Image.fromarray(ids).resize(SIZE, Image.NEAREST)
        label.save(folder / "labels" / f"{index:05d}.png")
    return folder / "images", folder / "labels"


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images_dir")
    parser.add_argument("--labels_dir")
    parser.add_argument("--count", type=int, default=4000, help="pairs that are drawn")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = args.images_dir, args.labels_dir
        images, labels = given if all(given) else draw_pairs(folder, args.count)
        stems = {path.stem for path in Path(labels).iterdir()}
        stems &= {path.stem for path in Path(images).iterdir()}
        samples = folder_splits.list_samples(images, labels, sorted(stems))
        cpus = available_cpus()
        ways = {
            "one process": dict(num_processes=1),
            f"pool of {cpus}": dict(num_processes=cpus),
            "Beam, one worker": dict(num_processes=1, runner="DirectRunner"),
            f"Beam, {cpus} workers": dict(num_processes=cpus, runner="DirectRunner"),
        }

        def build(way):
            shutil.rmtree(folder / way, ignore_errors=True)
            build_dataset(
                folder / way,
                DATASETS["voc2012"],
                {"train": samples},
                build_voc2012.read_sample,
                num_shards=2 * cpus,
                **ways[way],
            )

        seconds = measure({way: (lambda w=way: build(w)) for way in ways}, args.repeats)
        first, *others = [read_all(folder / way) for way in ways]
        assert all(other == first for other in others), "the shards differ"
    for way, times in seconds.items():
        result = {
            "benchmark": "build_speed",
            "way": way,
            "pairs": len(samples),
            "pairs_per_second": round(len(samples) / min(times), 1),
            "ratio_to_one_process": round(ratio(seconds["one process"], times), 2),
            "identical": True,
            **cpu_description(),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
