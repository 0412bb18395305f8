"""Whether a run that goes on still reads the records that it began with."""

from __future__ import annotations

import json
import os

from deeplab_tf.data.records.info import read_info
from deeplab_tf.files import atomic_write
from deeplab_tf.training.resuming import has_begun
from deeplab_tf.workdir import RECORDS_FILE


def note_records(data_dir: str, workdir: str) -> None:
    """Writes down which records a run begins with; of one that goes on it stays.

    Args:
      data_dir: folder of records.
      workdir: of the run, which is there.

    Raises:
      OSError: it cannot be written.
    """
    path = os.path.join(workdir, RECORDS_FILE)
    if os.path.exists(path) and has_begun(workdir):
        return
    with atomic_write(path) as file:
        file.write(json.dumps(_facts(data_dir), indent=2) + "\n")


def warn_of_other_records(data_dir: str, workdir: str) -> None:
    """Prints where a run that has begun would go on with other records.

    Records that are mended byte by byte are the same ones here. Runs of earlier
    versions have not written down what theirs were.
    """
    if not has_begun(workdir):
        return
    try:
        with open(os.path.join(workdir, RECORDS_FILE), encoding="utf-8") as file:
            noted = json.load(file)
        splits, pixel_counts = noted["splits"], noted["pixel_counts"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return  # not written down, or not by `note_records`
    facts = _facts(data_dir)
    if splits != facts["splits"]:
        how = f"images a split {facts['splits']} instead of {splits}"
    elif pixel_counts != facts["pixel_counts"]:
        how = "as many images, and other numbers of pixels of the classes"
    else:
        return
    print(
        f"Warning: {data_dir} holds other records than the run in {workdir} began "
        f"with: {how}. Where that is not meant, put those back or give another "
        "--workdir."
    )


def _facts(data_dir: str) -> dict:
    info = read_info(data_dir)
    return {"splits": info.splits, "pixel_counts": info.pixel_counts}
