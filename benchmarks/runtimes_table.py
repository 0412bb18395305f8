"""What each export of a run weighs, how quick it is, and what mean IoU it keeps.

    python -m benchmarks.runtimes_table --workdir=runs/camvid
    python -m benchmarks.runtimes_table --backbone=resnet18 --input_size=257,257

As `export.py --format=all` does, for files of one size, of all images or of a DeepLabV3
of random weights on a backbone: megabytes, milliseconds an image (median), how many
times quicker than the float32 SavedModel (median of the ratios), the share of pixels
with the Keras model's class, and for a run the mean IoU.
"""

from __future__ import annotations

import argparse
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.timing import cpu_description
from deeplab_tf import Segmenter, TrainConfig, build_model
from deeplab_tf.commands.run_exports import export_all
from deeplab_tf.commands.run_images import labelled_images
from deeplab_tf.config import read_config, write_config
from deeplab_tf.exports.agreement import example_images
from deeplab_tf.exports.side_by_side import as_table, measure_all
from deeplab_tf.inference.runtimes import fit_image
from deeplab_tf.labels import Labels, labels_for
from deeplab_tf.networks.weight_files import save_weights
from deeplab_tf.workdir import BEST_WEIGHTS

RANDOM_IMAGES = 50


def random_run(backbone: str, folder: str) -> str:
    """Writes the workdir of a DeepLabV3 that nobody trained, for speed alone."""
    labels = labels_for(21)
    config = TrainConfig(
        backbone=backbone,
        num_classes=len(labels.class_names),
        class_names=labels.class_names,
        colormap=labels.colormap,
        data_dir=os.path.join(folder, "no records"),
    )
    os.makedirs(folder)
    write_config(config, folder)
    save_weights(build_model(config), os.path.join(folder, BEST_WEIGHTS))
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", help="folder of a run of train.py")
    model.add_argument("--backbone", help="of a DeepLabV3 of random weights instead")
    parser.add_argument("--input_size", help="height,width [of the first image]")
    parser.add_argument("--num_images", type=int, help="first so many [all]")
    args = parser.parse_args()
    size = args.input_size and tuple(int(side) for side in args.input_size.split(","))
    with tempfile.TemporaryDirectory() as folder:
        if args.workdir:
            workdir, drawn = args.workdir, None
        else:
            workdir = random_run(args.backbone, os.path.join(folder, "run"))
            drawn = [fit_image(image, size) for image in example_images()]
        config = read_config(workdir)
        if drawn:
            count = args.num_images or RANDOM_IMAGES
            examples = [(drawn[n % len(drawn)], None) for n in range(count)]
        else:
            examples = labelled_images(config, args.num_images or -1)
        size = size or examples[0][0].shape[:2]
        paths, refusals = export_all(workdir, folder, size, images=drawn)
        predict = Segmenter.from_workdir(workdir).predict
        measured = measure_all(paths, examples, predict, Labels.from_config(config))
    print(
        f"{len(examples)} images, files of {size[0]}x{size[1]}. {cpu_description()}\n"
    )
    print(as_table(measured), *refusals.items(), sep="\n")


if __name__ == "__main__":
    main()
