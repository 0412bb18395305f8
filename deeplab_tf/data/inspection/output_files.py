"""What an inspection writes: `inspection.json`, and a contact sheet for each split."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING

from PIL import Image

from deeplab_tf.data.building.output_folder import whole_file
from deeplab_tf.data.inspection.contact_sheet import Example, draw_contact_sheet
from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.data.records.tfrecord import parse_example

if TYPE_CHECKING:
    from deeplab_tf.data.inspection.facts import SplitFacts


def contact_sheet(
    facts: SplitFacts, split: str, info: DatasetInfo, all_classes: bool = False
) -> Image.Image:
    """Draws the records that `read_split` kept."""
    examples = []
    for index, serialized in enumerate(facts.samples):
        example = parse_example(serialized)
        name = example["filename"].numpy().decode("utf-8", "replace")
        label = example["label"].numpy()[..., 0]
        image = example["image"].numpy()
        examples.append(Example(name or f"sample {index}", image, label))
    return draw_contact_sheet(
        examples,
        info,
        f"{info.name} {split}",
        f"{len(examples)} of {len(facts.images):,} images",
        all_classes,
    )


def write_inspection(
    output_dir: str,
    summary: dict,
    splits: dict[str, SplitFacts],
    info: DatasetInfo,
    all_classes: bool = False,
) -> list[str]:
    """Writes `inspection.json` and the contact sheets.

    Returns:
      The paths of the files.
    """
    import tensorflow as tf

    tf.io.gfile.makedirs(output_dir)
    files = {"inspection.json": (json.dumps(summary, indent=1) + "\n").encode()}
    for split, facts in splits.items():
        if facts.samples:
            buffer = io.BytesIO()
            contact_sheet(facts, split, info, all_classes).save(buffer, "PNG")
            files[f"{split}.png"] = buffer.getvalue()
    paths = [os.path.join(output_dir, name) for name in files]
    for path, data in zip(paths, files.values()):
        with whole_file(path) as temporary:
            with tf.io.gfile.GFile(temporary, "wb") as file:
                file.write(data)
    return paths
