"""Segments images and videos with a trained or an exported model.

    python predict.py --workdir=runs/demo --input=photos --output=predictions
    python predict.py --pretrained=xception65_voc_trainval --input=cat.jpg --output=out
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

import sys

from absl import app, flags

from deeplab_tf.command_names import (
    as_typed,
    list_failures,
    name_of,
    run_with_flags,
)
from deeplab_tf.commands.segmenter_flags import (
    begin_segmenter,
    define_hide_flag,
    define_segmenter_flags,
    hidden_names,
    out_of_memory_advised,
    pixels_of,
    segmenter_of,
)
from deeplab_tf.commands.steady_output import steady_output
from deeplab_tf.devices.memory import OutOfMemory
from deeplab_tf.files import InUse
from deeplab_tf.labels import hidden_classes
from deeplab_tf.pictures import videos
from deeplab_tf.pictures.images import MAX_PIXELS
from deeplab_tf.prediction import page
from deeplab_tf.prediction.input_files import (
    KINDS,
    find_inputs,
    is_video,
    select_listed,
)
from deeplab_tf.prediction.outputs import LARGE_WINDOW, Output, predict_files
from deeplab_tf.prediction.submissions import SUBMISSIONS
from deeplab_tf.strangers_words import printable

FLAGS = flags.FLAGS


def define_flags() -> None:
    define_segmenter_flags(f"{LARGE_WINDOW} above 16 megapixels")
    flags.DEFINE_string(
        "input", None, "Images, videos, folders and patterns, separated by commas."
    )
    flags.DEFINE_string("output", None, "Folder to write to.")
    flags.DEFINE_bool("serve", False, "Open a page in the browser instead.")
    flags.DEFINE_integer(
        "port",
        page.PORT,
        "Port of the page, which only this machine reaches.",
        0,
        65535,
    )
    flags.DEFINE_bool("recursive", False, "Also look into folders inside folders.")
    flags.DEFINE_string("list", None, "File of names: only these images of --input.")
    flags.DEFINE_list(
        "save", ["classes", "overlay"], f"Kinds of output: some of {', '.join(KINDS)}."
    )
    flags.DEFINE_enum(
        "submission", None, list(SUBMISSIONS), "Test server to pack an archive for."
    )
    define_hide_flag()
    flags.DEFINE_float("alpha", 0.5, "Opacity of the colours in overlays.", 0, 1)
    flags.DEFINE_float(
        "max_megapixels", None, "Refuse images of more [500; of a page 16].", 0
    )


def main(argv: list[str]) -> None:
    """Predicts or serves as FLAGS say.

    Raises:
      app.UsageError: there are arguments that are no flags.
      SystemExit: with one sentence on what a user can mend, or on each input that could
        not be used.
    """
    if len(argv) > 1:
        raise app.UsageError(
            f"Unexpected arguments: {' '.join(argv[1:])}. Is --input='*.jpg' quoted?"
        )
    failures = []
    try:
        begin_segmenter(FLAGS)
        with out_of_memory_advised(FLAGS):
            if FLAGS.serve:
                serve_as(FLAGS)
            else:
                failures = predict_as(FLAGS)
    except (OSError, ValueError, ImportError, InUse, OutOfMemory) as error:
        sys.exit(f"{name_of('predict')}: {as_typed(printable(str(error)))}")
    if failures:
        sys.exit(list_failures(failures))


def serve_as(values: flags.FlagValues) -> None:
    """Serves the page as flags say, until Ctrl-C; see `page.serve`.

    Raises:
      ImportError: Flask is not installed.
      OSError: there is no model, or the port cannot be had.
      ValueError: flags that contradict each other.
    """
    page.check_flask()
    title = values.workdir or values.saved_model or values.pretrained
    max_pixels = _max_pixels(values, page.MAX_PIXELS)
    segmenter = segmenter_of(values)
    hidden = hidden_classes(segmenter.labels.class_names, hidden_names(values))
    if segmenter.pad_to:
        size = "x".join(map(str, segmenter.pad_to))
        print(f"Images are padded to {size}; a side that is longer is run as it is.")
    page.serve(segmenter, title, values.port, max_pixels, hidden=hidden)


def predict_as(values: flags.FlagValues) -> list[str]:
    """Predicts what --input stands for, and packs a submission.

    Args:
      values: of `define_flags`.

    Returns:
      One sentence for each input that could not be used.

    Raises:
      InUse: another process predicts into the same folder.
      OSError: there is no model or no input, or an output cannot be written.
      ValueError: flags that contradict each other, or a video that nothing can read.
    """
    if not (values.input and values.output):
        raise ValueError("Give --input and --output, or --serve.")
    max_pixels = _max_pixels(values, MAX_PIXELS)
    output = Output(
        *(values.output, tuple(values.save), values.alpha, values.submission),
        *(max_pixels, hidden_names(values)),
    )
    paths, missing = find_inputs(values.input, values.recursive, values.output), []
    if values.list:
        paths, missing = select_listed(paths, values.list)
    if any(map(is_video, paths)):
        videos.find_backend()  # before the model is loaded
    failed = predict_files(segmenter_of(values), paths, output)
    print(f"{len(paths) - len(failed)} of {len(paths)} inputs: {values.output}")
    failures = missing + failed
    if values.submission and failures:
        failures.append("No archive was written, as it would lack images.")
    elif values.submission:
        archive = SUBMISSIONS[values.submission].write_archive(values.output, paths)
        print(f"Written: {archive}")
    return failures


def _max_pixels(values: flags.FlagValues, default: int) -> int:
    bound = values.max_megapixels
    return default if bound is None else pixels_of(bound)


def run() -> None:
    """Runs the command with the flags of the command line."""
    with steady_output():
        run_with_flags(define_flags, main)
