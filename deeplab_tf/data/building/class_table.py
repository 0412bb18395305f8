"""What was written, class by class, as a builder prints it at its end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeplab_tf.data.building.shards import ShardReport
from deeplab_tf.data.records.info import DatasetInfo


def class_table(info: DatasetInfo, reports: Sequence[ShardReport]) -> str:
    """Returns a line for each class: id, name, colour, share of pixels, images.

    The share is of all pixels. A last line has those without a class.

    Args:
      info: of the data set.
      reports: of all shards.
    """
    pixels = np.sum([report.pixel_counts for report in reports], axis=0)
    images = np.sum([report.image_counts for report in reports], axis=0)
    ignored = sum(report.ignored for report in reports)
    num_images = sum(report.num_examples for report in reports)
    total = max(int(pixels.sum()) + ignored, 1)
    rows = [
        (i, name, f"#{bytes(color).hex()}", pixels[i] / total, f"{images[i]}")
        for i, (name, color) in enumerate(zip(info.class_names, info.colormap))
    ]
    rows.append((info.ignore_label, "(without a class)", "", ignored / total, ""))
    width = max(len(name) for _, name, *_ in rows)
    lines = [f" id  {'class':{width}}  colour    pixels  images of {num_images}"]
    for i, name, color, share, count in rows:
        line = f"{i:3}  {name:{width}}  {color:7}  {share:7.3%}  {count:>6}"
        lines.append(line.rstrip())
    return "\n".join(lines)
