r"""Writes a segmentation data set of the Hugging Face Hub as TFRecords.

    python -m datasets.build_hf --name=segments/sidewalk-semantic --output_dir=data/walk
    python train.py --recipe=finetune_resnet50 --data_dir=hf:segments/sidewalk-semantic

The second command does the first one's work once and keeps it under runs/data.
OWNER/NAME[/CONFIG] names a data set as the Hub does; a folder of its Parquet files is
taken as well. Image and mask are columns that hold images, of usual names; where there
are several, --image_key and --label_key choose. Class names are those of an
id2label.json in the repository, or of --class_names. What masks store is said as for
`datasets.build_folder`: --label_ids, --ignore_label, --label_colors, --class_map.

Splits are those of the files; validation becomes val, and where there is none,
--val_fraction of train. Files pass through OUTPUT_DIR.staging, which is removed in the
end. Gated sets need `hf auth login`. Needs: pip install huggingface_hub pyarrow
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from absl import flags

from deeplab_tf.data.building import command_line, image_files
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.output_folder import (
    check_free,
    full_path,
    is_remote,
    locked,
)
from deeplab_tf.data.folders.folder_splits import split_by_fraction
from deeplab_tf.data.folders.label_rules import LabelRules
from deeplab_tf.data.records.info import DatasetInfo

from . import build_folder
from .sources import hf_parquet

PREFIX = "hf:"


def dataset_folder_name(name: str) -> str:
    """Returns hf_OWNER_NAME for OWNER/NAME."""
    return "hf_" + re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_.")


def build_hf(
    name: str,
    output_dir: str | Path,
    rules: LabelRules | None = None,
    *,
    image_key: str = "",
    label_key: str = "",
    val_fraction: float = 0.1,
    seed: int = 0,
    **options,
) -> DatasetInfo:
    """Writes the data set.

    Args:
      name: OWNER/NAME[/CONFIG] on the Hub, or a folder of Parquet files.
      output_dir: folder to make.
      rules: how masks are to be understood; default: stored ids are class ids.
      image_key: column of the images; "" looks for it.
      label_key: likewise for masks.
      val_fraction: where no split is for validation, see `folder_splits`.
      seed: likewise.
      **options: as for `build_folder.build_splits`.

    Raises:
      DatasetError: a package is absent, the Hub gives nothing, columns cannot be told;
        or see `build_folder.build_splits`.
    """
    output_dir = full_path(output_dir)
    check_free(output_dir, options.get("overwrite", False))
    hf_parquet.import_pyarrow()
    source = hf_parquet.fetch(name)
    shards, rules = hf_parquet.shards_of(source), rules or LabelRules()
    names = source / hf_parquet.NAMES_FILE
    if names.is_file() and not (rules.class_names or rules.label_colors):
        rules = rules._replace(class_names=str(names))
    staging = Path(f"{full_path('.') if is_remote(output_dir) else output_dir}.staging")
    staging.mkdir(parents=True, exist_ok=True)
    with locked(str(staging)):
        splits = hf_parquet.stage(shards, staging, image_key, label_key)
        if "train" in splits and "val" not in splits:
            parts = split_by_fraction(splits["train"], val_fraction, seed)
            splits = {**splits, **parts}
        info = build_folder.build_splits(splits, output_dir, rules, **options)
        shutil.rmtree(staging)
    return info


# --- Command line --------------------------------------------------------------------


def define_flags() -> None:
    command_line.define_flags()
    image_files.define_exif_flag()
    flags.DEFINE_string(
        "name",
        None,
        "Name of the data set, OWNER/NAME[/CONFIG], or a folder of its Parquet files.",
        required=True,
    )
    flags.DEFINE_string("image_key", "", "Column of the images; default: found.")
    flags.DEFINE_string("label_key", "", "Column of the masks; default: found.")
    flags.DEFINE_float(
        "val_fraction", 0.1, "Share of train that becomes val, where there is no val."
    )
    flags.DEFINE_integer("seed", 0, "Seed of the choice of pairs for val.")
    build_folder.define_label_flags()


def main() -> None:
    args = flags.FLAGS
    if not args.name.strip():
        raise DatasetError("Expected --name=OWNER/NAME. Received: none")
    own = "image_key label_key val_fraction seed exif_orientation".split()
    build_hf(
        args.name,
        args.output_dir,
        build_folder.rules_of_flags(),
        **{flag: args[flag].value for flag in own},
        **command_line.flag_options(),
    )


def run() -> None:
    command_line.run_builder(define_flags, main)


if __name__ == "__main__":
    run()
