r"""Says what the records of a data set hold, and what is suspicious about them.

    python -m datasets.inspect_records runs/data/camvid
    python -m datasets.inspect_records runs/data/camvid \
        --output_dir=runs/inspection/camvid

Reads every record once and prints, for each split: its images, how often each class
comes, pixels without a class, images whose label has one class or none, images that
occur twice, in a split or in two, and settings of train.py to try. With --output_dir
also writes

    inspection.json   all of it, with the names that the terminal has no room for
    SPLIT.png         some of the images beside their labels, and a legend

Ends with an error where the records are not what info.json says, or cannot be read.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from tqdm import tqdm

from deeplab_tf import quiet
from deeplab_tf.command_names import as_typed, call_of, run_with_flags
from deeplab_tf.data.building.output_folder import full_path
from deeplab_tf.data.inspection.output_files import write_inspection
from deeplab_tf.data.inspection.report import report
from deeplab_tf.data.inspection.summary import summarize
from deeplab_tf.data.records.info import read_info
from deeplab_tf.strangers_words import printable


def inspect(
    data_dir: str | Path,
    output_dir: str | Path | None = None,
    splits: Sequence[str] = (),
    sheet_images: int = 24,
    all_classes: bool = False,
) -> dict:
    """Reads a data set, prints what it holds, and writes it.

    Args:
      data_dir: folder that a builder wrote; anything that tf.io.gfile can read.
      output_dir: folder for `inspection.json` and contact sheets; None writes none.
      splits: to read; default: those that info.json names.
      sheet_images: on a contact sheet, evenly spread over the split; 0: no sheet.
      all_classes: whether legends also name classes that the sheet does not show.

    Returns:
      What `summary.summarize` returned.

    Raises:
      FileNotFoundError: no info.json, or no or not all records of a split.
      ValueError: bad records, by name, or damage of another kind.
    """
    # TensorFlow, for which --help does not wait.
    from deeplab_tf.data.inspection.facts import read_split

    data_dir = full_path(data_dir)
    info = read_info(data_dir)
    start = time.perf_counter()
    facts = {}
    for split in splits or info.splits:
        # disable=None: no bar where the output is no terminal.
        progress = functools.partial(
            tqdm, desc=split, total=info.splits.get(split), unit="image", disable=None
        )
        samples = sheet_images if output_dir else 0
        facts[split] = read_split(data_dir, split, info, samples, progress)
    seconds = time.perf_counter() - start
    summary = summarize(data_dir, info, facts)
    print(printable(report(summary)))
    count = sum(len(split.images) for split in facts.values())
    print(
        f"\nRead {count:,} images in {seconds:.1f} s, {count / seconds:.0f} a second."
    )
    if output_dir:
        folder = full_path(output_dir)
        paths = write_inspection(folder, summary, facts, info, all_classes)
        print(f"Written: {', '.join(paths)}")
    return summary


def define_flags() -> None:
    flags.DEFINE_string(
        "output_dir",
        None,
        "Folder for inspection.json and contact sheets; default: none is written.",
    )
    flags.DEFINE_list(
        "splits", [], "Splits to read; default: all that info.json names."
    )
    flags.DEFINE_integer(
        "sheet_images", 24, "Number of images on a contact sheet; 0 draws none.", 0
    )
    flags.DEFINE_bool(
        "all_classes",
        False,
        "Name all classes in legends, not those of the sheet alone.",
    )


def main(arguments: Sequence[str]) -> None:
    args = flags.FLAGS
    if len(arguments) != 2:
        raise app.UsageError(
            f"Expected one folder of records: {call_of('inspect')} RECORDS. "
            f"Received: {' '.join(arguments[1:]) or 'none'}"
        )
    import tensorflow as tf

    try:
        summary = inspect(
            arguments[1],
            args.output_dir,
            args.splits,
            args.sheet_images,
            args.all_classes,
        )
    except (OSError, ValueError, tf.errors.OpError) as error:
        sys.exit(f"Error: {printable(as_typed(str(error)))}")
    if summary["disagreements"]:
        sys.exit("Error: " + printable("\n".join(summary["disagreements"])))


def run() -> None:
    quiet.install()
    run_with_flags(define_flags, main)


if __name__ == "__main__":
    run()
