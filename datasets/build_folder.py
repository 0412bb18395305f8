r"""Writes anyone's folders of images and masks as TFRecords.

    python -m datasets.build_folder --input_dir=my_set --output_dir=data/my_set

looks at what is in `my_set`, says what it understood and writes it: what CVAT,
Roboflow, LabelMe, Label Studio, YOLO, Supervisely and PaddleSeg export (--format has
the list, docs/annotation_tools.md a line for each), VOC's and ADE20K's folders, images
and masks in two folders (`images/`, `masks/`) or in one (`1.jpg`, `1_mask.png`). Where
two readings are possible, nothing is built, and the commands for both are printed.

Two folders can also be named by --images_dir and --labels_dir. Where names have endings
that are not found, as in `NAME_sat.jpg` and `NAME_mask.png`: --image_ending=_sat
--label_ending=_mask. A mask is one channel of class ids (palette or grey PNG). Which
pairs are for training and which for validation is found in this order:

1. CSV lists, instead of folders: --list=pairs.csv with the columns image, label and if
   wished split; or --list=train.csv,val.csv, whose names are the splits;
2. the placeholder {split} in both folders:
   --images_dir='lip/{split}_images' --labels_dir='lip/{split}_segmentations';
3. sub-folders of the same names in both: `images/train`, `labels/train` and so on;
4. lists of names beside the folder of images: train.txt, trainval.txt, val.txt,
   test.txt;
5. a fraction of the names chosen by a seed: --val_fraction, --seed.

Where the colours of masks are the classes (RGB, or a palette that is not in the order
of ids), --label_colors=FILE says which colour is which class; `color_tables` has its
forms. --label_colors=infer takes every colour of all masks for a class, shows them with
their shares of pixels and writes them to OUTPUT_DIR.label_colors.csv, where classes can
be named, or called void, for another run with
--label_colors=OUTPUT_DIR.label_colors.csv --overwrite. Where black is one of them,
--void_colors says whether it is a class.

--class_names=road,car names classes, as a file in any usual form does, or the name of a
published data set; see `class_lists`.

--class_map=FILE merges and drops classes; see `class_map`.

Classes are drawn in the colours of --label_colors, or of the masks' palettes where
these are made for the classes, see `mask_palettes`; else in those of the published data
set with these class names, or in colours that differ as far as they can.

JPEG and PNG images in RGB are stored as they are, others as RGB PNGs of the same
pixels; see `image_files`. These modules are in `deeplab_tf.data`.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from deeplab_tf.command_names import call_of
from deeplab_tf.data.annotations import tools
from deeplab_tf.data.annotations.found import Drawn, Found, Options
from deeplab_tf.data.building import command_line, dataset, image_files, pairs
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.output_folder import full_path
from deeplab_tf.data.folders import class_map, folder_splits, pair_lists
from deeplab_tf.data.folders.folder_splits import Splits
from deeplab_tf.data.folders.label_rules import (
    LabelRules,
    choose_classes,
    merged_classes,
)
from deeplab_tf.data.records.info import DatasetInfo


def read_sample(
    sample: pairs.Sample,
    read_ids: Callable[[str], np.ndarray],
    class_ids: Sequence[int],
    exif_orientation: str = "refuse",
) -> tuple[bytes, np.ndarray]:
    """Returns the image's bytes and its label.

    Args:
      sample: paths of an image and its mask.
      read_ids: from the path of a mask to its stored ids, uint8 [height, width].
      class_ids: see `class_map.Classes`.
      exif_orientation: see `image_files.read_image`.

    Raises:
      ValueError: see `class_map.convert_label`, `image_files.read_image`.
    """
    label = class_map.convert_label(read_ids(sample.label), class_ids)
    return image_files.read_image(sample.image, exif_orientation), label


def build_splits(
    splits: Splits,
    output_dir: str | Path,
    rules: LabelRules | None = None,
    *,
    drawn: Drawn | None = None,
    exif_orientation: str = "refuse",
    **options,
) -> DatasetInfo:
    """Writes pairs that are listed already.

    Args:
      splits: split -> samples, of `folder_splits` or `pair_lists`.
      output_dir: folder to make; its name becomes that of the data set.
      rules: how masks are to be understood; default: stored ids are class ids.
      drawn: the classes of samples that have regions instead of masks.
      exif_orientation: see `image_files.read_image`.
      **options: as for `dataset.build_dataset`.

    Raises:
      DatasetError: see `label_rules.choose_classes`, `dataset.build_dataset`.
    """
    name = os.path.basename(full_path(output_dir))
    rules = rules or LabelRules()
    if drawn is not None:
        classes, read_ids = merged_classes(drawn.classes, rules), drawn.read_ids
    else:
        paths = [s.label for s in itertools.chain.from_iterable(splits.values())]
        workers = options.get("num_processes")
        classes, read_ids = choose_classes(rules, paths, output_dir, workers)
    info = DatasetInfo(name, class_names=classes.names, colormap=classes.colors)
    read = functools.partial(
        read_sample,
        read_ids=read_ids,
        class_ids=classes.class_ids,
        exif_orientation=exif_orientation,
    )
    return dataset.build_dataset(output_dir, info, splits, read, **options)


# --- Command line --------------------------------------------------------------------


def define_flags() -> None:
    command_line.define_flags()
    _define_pair_flags()
    define_label_flags()
    image_files.define_exif_flag()


def _define_pair_flags() -> None:
    flags.DEFINE_string(
        "input_dir", None, "Folder of images and masks, or what a tool exported."
    )
    flags.DEFINE_enum(
        "format",
        "auto",
        ["auto", *tools.TOOLS],
        "Which tool or layout input_dir is of; by default what is there says it.",
    )
    flags.DEFINE_string(
        "images_dir", None, "Folder of the images; by default found in input_dir."
    )
    flags.DEFINE_string(
        "labels_dir", None, "Folder of the masks; by default found in input_dir."
    )
    flags.DEFINE_string(
        "image_ending", "", "Ending of the images' names, as _sat in 1_sat.jpg."
    )
    flags.DEFINE_string(
        "label_ending", "", "Ending of the masks' names, as _mask in 1_mask.png."
    )
    flags.DEFINE_list(
        "list",
        [],
        "CSV files with the columns image, label and split, instead of folders. Paths "
        "in them start from input_dir, or from the CSV file's folder, and lie in it.",
    )
    flags.DEFINE_float(
        "val_fraction", 0.1, "Share of the pairs for val, where nothing names splits."
    )
    flags.DEFINE_integer("seed", 0, "Seed of the choice of pairs for val.")


def define_label_flags() -> None:
    """Defines the flags that say what masks store; other builders have them too."""
    flags.DEFINE_string(
        "class_names",
        None,
        "Names of the classes: road,car or a file, with stored ids or colours if "
        "wished, or a published data set such as cityscapes.",
    )
    flags.DEFINE_integer(
        "num_classes",
        None,
        "Number of classes; by default that of class_names or label_ids, else the "
        "highest id plus 1, where the masks have all ids below.",
    )
    flags.DEFINE_list(
        "label_ids",
        [],
        "Stored ids of class 0, of class 1 and so on: 0,255 for masks of 0 and 255; "
        "3-6 for four of them. By default a stored id is a class id.",
    )
    flags.DEFINE_list(
        "ignore_label",
        [],
        "Stored ids of pixels without a class; 255 is one too, unless in label_ids.",
    )
    flags.DEFINE_enum(
        "label_bits",
        "8",
        ["8", "16"],
        "Most bits of a mask's pixel; 16 takes wide masks whose ids are below 256.",
    )
    flags.DEFINE_string(
        "label_colors",
        None,
        "File that says which colour is which class; or infer, and each colour is one.",
    )
    flags.DEFINE_list(
        "void_colors",
        None,
        "Colours of pixels without a class, of --label_colors=infer; none says that "
        "black is a class.",
    )
    flags.DEFINE_enum(
        "other_colors",
        "refuse",
        ["refuse", "ignore"],
        "What to do with pixels in colours that label_colors does not have: refuse "
        "their mask, or make them 255.",
    )
    flags.DEFINE_string(
        "class_map",
        None,
        "File of lines OLD,NEW that merge classes, or drop them where NEW is ignore.",
    )


def _parse_ids(name: str) -> tuple[int, ...]:
    values = flags.FLAGS[name].value
    ids: list[int] = []
    for value in values:
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", value.strip())
        if not match:
            raise DatasetError(
                f"Expected --{name} as ids, or ranges such as 1-254, separated by "
                f"commas. Received: {','.join(values)}"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        ids += range(first, last + 1)
    return tuple(ids)


def _folder(name: str) -> Path:
    """Returns --images_dir or --labels_dir, or the folder in --input_dir."""
    folder, input_dir = flags.FLAGS[f"{name}_dir"].value, flags.FLAGS.input_dir
    if folder:
        return Path(folder)
    if input_dir:
        return Path(input_dir) / name
    raise DatasetError(
        "Expected --input_dir, or both --images_dir and --labels_dir, or --list. "
        f"Received: no folder of {name}"
    )


def _list_pairs() -> Splits | None:
    """Returns the pairs that flags name; None where input_dir is to be understood."""
    args = flags.FLAGS
    if args.list:
        return _read_csv()
    if args.input_dir and not args.labels_dir:
        return None
    return folder_splits.list_splits(
        _folder("images"),
        _folder("labels"),
        args.val_fraction,
        args.seed,
        args.image_ending,
        args.label_ending,
    )


def _read_csv() -> Splits:
    args = flags.FLAGS
    others = ("images_dir", "labels_dir", "image_ending", "label_ending")
    given = [f"--{name}" for name in others if args[name].value]
    if given:
        raise DatasetError(
            f"Expected --list or folders. Received: --list and {', '.join(given)}"
        )
    return pair_lists.read_lists(
        args.list, args.input_dir, args.val_fraction, args.seed
    )


def _understand(rules: LabelRules) -> Found:
    """Reads input_dir as the tool that wrote it; flags count before its own words.

    Raises:
      DatasetError: see `tools.understand`; or flags for masks, where it has none.
    """
    args = flags.FLAGS
    names = ("images_dir", "image_ending", "label_ending", "class_names")
    options = Options(**{name: args[name].value or "" for name in names})
    found = tools.understand(args.input_dir, args.format, options).with_rules(rules)
    if list(found.splits) not in ([""], ["train"]):
        return found
    [samples] = found.splits.values()
    return found.with_splits(
        folder_splits.split_by_fraction(samples, args.val_fraction, args.seed)
    )


# In the sentences of errors, flags that would do follow a colon.
_WAY = re.compile(r": (--\w+=[^\s]+(?: --\w+=[^\s]+)*)")


def _with_commands(error: DatasetError) -> DatasetError:
    """Adds to an error that says which flags would do the very commands with them."""
    ways = [way.rstrip(".,;") for way in _WAY.findall(str(error))]
    ways = [way for way in ways if not re.search("=(FILE|FOLDER|NAME|N|_X)", way)]
    if not ways:
        return error
    typed = [shlex.quote(word) for word in sys.argv[1:]]
    call = " ".join([call_of("build folder"), *typed])
    commands = "\n".join(f"  {call} {way}" for way in dict.fromkeys(ways))
    return DatasetError(
        f"{error}\nNothing was built. Commands that would do:\n{commands}"
    )


def rules_of_flags() -> LabelRules:
    """Returns what the flags of `define_label_flags` say of masks."""
    args = flags.FLAGS
    return LabelRules(
        class_names=args.class_names,
        num_classes=args.num_classes,
        label_ids=_parse_ids("label_ids"),
        ignore_label=_parse_ids("ignore_label"),
        label_colors=args.label_colors,
        other_colors=args.other_colors,
        class_map=args.class_map,
        label_bits=int(args.label_bits),
        void_colors=args.void_colors,
    )


def main() -> None:
    args, rules = flags.FLAGS, rules_of_flags()
    try:
        splits = _list_pairs()
        found = _understand(rules) if splits is None else Found(splits, rules=rules)
        build_splits(
            found.splits,
            args.output_dir,
            found.rules,
            drawn=found.drawn,
            exif_orientation=args.exif_orientation,
            **command_line.flag_options(),
        )
    except DatasetError as error:
        raise _with_commands(error) from error


def run() -> None:
    command_line.run_builder(define_flags, main)


if __name__ == "__main__":
    run()
