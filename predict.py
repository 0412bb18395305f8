"""Segments images and videos with a trained or an exported model.

    python predict.py --workdir=runs/demo --input=photos --output=predictions
    python predict.py --saved_model=exported/1 --input='photos/*.jpg,cat.png' \\
        --output=out --save=classes,overlay,probabilities
    python predict.py --workdir=runs/voc --input=cat.jpg --output=out \\
        --output_stride=8 --flip --scales=0.5,0.75,1,1.25,1.5,1.75 --crf
    python predict.py --workdir=runs/voc --input=VOC2012/JPEGImages --output=out \\
        --list=VOC2012/ImageSets/Segmentation/test.txt --submission=voc2012
    python predict.py --workdir=runs/demo --serve        a page in the browser

For every image, upright and at its own size:
    <output>/classes/NAME.png         class ids; the palette shows them in colour
    <output>/overlay/NAME.png         the colours over the image, and a legend
    <output>/probabilities/NAME.npz   only if asked for
    <output>/shares.csv               share of each class, a row per image
For a video: classes/NAME/000000.png, ... and overlay/NAME.mp4. docs/prediction.md says
more. Inputs that cannot be used are named at the end, and the exit code is 1 then.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

from deeplab_tf.inference.crf import parse_crf
from deeplab_tf.inference.segmenter import Segmenter, load_segmenter
from deeplab_tf.pictures.images import MAX_PIXELS
from deeplab_tf.prediction import page
from deeplab_tf.prediction.input_files import KINDS, find_inputs, select_listed
from deeplab_tf.prediction.outputs import LARGE_WINDOW, Output, predict_files
from deeplab_tf.prediction.submissions import SUBMISSIONS

FLAGS = flags.FLAGS


def define_flags():
    """Called by the script alone, so that tests can import several scripts."""
    flags.DEFINE_string("workdir", None, "Folder of a run of train.py.")
    flags.DEFINE_string("saved_model", None, "Written by export.py, instead.")
    flags.DEFINE_string(
        "input", None, "Images, videos, folders and patterns, separated by commas."
    )
    flags.DEFINE_string("output", None, "Folder to write to.")
    flags.DEFINE_bool("serve", False, "Open a page in the browser instead.")
    flags.DEFINE_integer("port", 8501, "Of the page, on this machine alone.", 0, 65535)
    flags.DEFINE_bool("recursive", False, "Also look into folders inside folders.")
    flags.DEFINE_string("list", None, "File of names: only these images of --input.")
    flags.DEFINE_list("save", ["classes", "overlay"], f"Of {', '.join(KINDS)}.")
    flags.DEFINE_enum(
        "submission", None, list(SUBMISSIONS), "Also pack what a test server takes."
    )
    flags.DEFINE_integer("output_stride", None, "8, 16 or 32 [the run's].")
    flags.DEFINE_list("scales", ["1"], "Image scales to average over.")
    flags.DEFINE_bool("flip", False, "Average with the mirrored image.")
    flags.DEFINE_integer(
        "window", None, f"Predict in windows [{LARGE_WINDOW} above 16 megapixels]."
    )
    flags.DEFINE_integer("overlap", None, "Of windows, in pixels [a quarter of one].")
    flags.DEFINE_bool("crf", False, "Sharpen with the dense CRF of DeepLabV1 and V2.")
    flags.DEFINE_list("crf_parameters", None, "Its w1,sigma_alpha,sigma_beta [4,67,3].")
    flags.DEFINE_float("alpha", 0.5, "Opacity of the colours in overlays.", 0, 1)
    flags.DEFINE_float(
        "max_megapixels", None, "Refuse images of more [500; of a page 16].", 0
    )


def predict(segmenter: Segmenter) -> list[str]:
    """Predicts what --input stands for, and packs a submission.

    Returns:
      One sentence for each input that could not be used.

    Raises:
      OSError: an output cannot be written.
      ValueError: flags that contradict each other.
    """
    output = Output(
        FLAGS.output,
        tuple(FLAGS.save),
        FLAGS.alpha,
        FLAGS.submission,
        _max_pixels(MAX_PIXELS),
    )
    paths, missing = find_inputs(FLAGS.input, FLAGS.recursive, FLAGS.output), []
    if FLAGS.list:
        paths, missing = select_listed(paths, FLAGS.list)
    failed = predict_files(segmenter, paths, output)
    print(f"{len(paths) - len(failed)} of {len(paths)} inputs: {FLAGS.output}")
    failures = missing + failed
    if FLAGS.submission and failures:
        failures.append("No archive was written, as it would lack images.")
    elif FLAGS.submission:
        archive = SUBMISSIONS[FLAGS.submission].write_archive(FLAGS.output, paths)
        print(f"Written: {archive}")
    return failures


def _max_pixels(default: int) -> int:
    bound = FLAGS.max_megapixels
    return default if bound is None else int(bound * 1e6)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(
            f"Unexpected arguments: {' '.join(argv[1:])}. Is --input='*.jpg' quoted?"
        )
    try:
        if not FLAGS.serve and not (FLAGS.input and FLAGS.output):
            raise ValueError("Give --input and --output, or --serve.")
        segmenter = load_segmenter(
            FLAGS.workdir,
            FLAGS.saved_model,
            FLAGS.output_stride,
            scales=[float(scale) for scale in FLAGS.scales],
            flip=FLAGS.flip,
            window=FLAGS.window,
            overlap=FLAGS.overlap,
            crf=parse_crf(FLAGS.crf, FLAGS.crf_parameters),
        )
        if FLAGS.serve:
            title = FLAGS.workdir or FLAGS.saved_model
            page.serve(segmenter, title, FLAGS.port, _max_pixels(page.MAX_PIXELS))
            return
        failures = predict(segmenter)
    except (OSError, ValueError) as error:
        sys.exit(f"predict.py: {error}")
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    define_flags()
    app.run(main)
