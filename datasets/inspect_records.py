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
import io
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from absl import app, flags
from PIL import Image
from tqdm import tqdm

from deeplab_tf.command_names import run_with_flags
from deeplab_tf.data.building.output_folder import full_path, whole_file
from deeplab_tf.data.inspection.contact_sheet import Example, draw_contact_sheet
from deeplab_tf.data.inspection.facts import (
    MAX_WEIGHT,
    RARE_RATIO,
    REPEATS,
    SplitFacts,
    read_split,
    summarize,
)
from deeplab_tf.data.records.info import DatasetInfo, read_info
from deeplab_tf.data.records.tfrecord import parse_example

NUM_NAMED = 8


# --- What is printed -----------------------------------------------------------------


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns columns: the second to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if index == 1 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def some(names: Sequence[str]) -> str:
    """Joins names; of many, the first and how many more there are."""
    more = f" and {len(names) - NUM_NAMED:,} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more


def percent(share: float) -> str:
    """A share to two decimals, but none that looks like nothing."""
    if 0 < share < 0.00005:
        return "<0.01 %"
    return f"{100 * share:.2f} %"


def _size_lines(split: dict) -> Iterator[str]:
    formats = ", ".join(f"{count:,} {name}" for name, count in split["formats"].items())
    sizes = ", ".join(
        f"{size['width']} x {size['height']} ({size['images']:,})"
        for size in split["frequent_sizes"]
    )
    rest = split["num_sizes"] - len(split["frequent_sizes"])
    yield (
        f"  {split['examples']:,} images ({formats}) in {split['shards']} shards, "
        f"{split['bytes'] / 1e6:,.1f} MB"
    )
    yield f"  sizes     {sizes}" + (f" and {rest:,} other sizes" if rest else "")
    if split["num_sizes"] > 1:
        for side in ("width", "height"):
            extent = split[side]
            yield (
                f"  {side:8}  {extent['min']:,} to {extent['max']:,}, "
                f"median {extent['median']:,.0f}"
            )
    shares = [
        f"{percent(split[shape])} {shape}"
        for shape in ("landscape", "portrait", "square")
        if split[shape]
    ]
    yield f"  shapes    {', '.join(shares)}"


def _class_lines(split: dict) -> Iterator[str]:
    header = "id", "class", "pixels", "images", "of all", "weight", ""
    rows = [header]
    for row in split["classes"]:
        if not row["pixels"]:
            continue  # Those that never occur are listed below.
        marks = [name for name in ("few_pixels", "few_images") if row[name]]
        rows.append(
            (
                str(row["id"]),
                row["name"],
                percent(row["share"]),
                f"{row['images']:,}",
                percent(row["image_share"]),
                f"{row['balanced_weight']:.2f}",
                "  " + ", ".join(marks).replace("_", " "),
            )
        )
    width = max(len(row[-1]) for row in rows)
    yield from table([(*row[:-1], row[-1].ljust(width)) for row in rows])


def _label_lines(split: dict) -> Iterator[str]:
    worst = ", ".join(
        f"{image['name']} {percent(image['share'])}" for image in split["most_ignored"]
    )
    yield f"  ignored pixels: {percent(split['ignored_share'])}" + (
        f"; the most in {worst}" if worst else ""
    )
    if split["absent_classes"]:
        absent = split["absent_classes"]
        yield f"  classes that never occur: {len(absent)} ({', '.join(absent)})"
    if split["wholly_ignored"]:
        names = split["wholly_ignored"]
        yield f"  images without any class: {len(names):,} ({some(names)})"
    for name, images in split["single_class"].items():
        yield f"  images of {name} alone: {len(images):,} ({some(images)})"
    if split["repeated_names"]:
        names = split["repeated_names"]
        yield f"  names that occur more than once: {len(names):,} ({some(names)})"


def _duplicate_lines(split: dict) -> Iterator[str]:
    if not split["duplicates"]:
        yield "  no image occurs twice"
    for text, same_file in (("the same file", True), ("encoded anew", False)):
        groups = [g for g in split["duplicates"] if g["same_file"] == same_file]
        if groups:
            names = [
                " = ".join(name for _, name in group["images"]) for group in groups
            ]
            others = sum(not group["same_label"] for group in groups)
            differ = f", {others:,} with different labels" if others else ""
            yield (
                f"  images that occur again, {text}: {len(groups):,}{differ} "
                f"({some(names)})"
            )


def _suggestion_lines(split: dict) -> Iterator[str]:
    suggestions = split["suggestions"]
    settings = suggestions["settings"]
    yield "  to try with train.py: " + " ".join(
        f"--set {shlex.quote(s)}" for s in settings
    )
    if suggestions["hard_classes"]:
        yield f"  hard classes: {', '.join(suggestions['hard_classes'])}"
    repeated, least = suggestions["repeated_images"], suggestions["min_class_pixels"]
    if repeated:
        listing = ", ".join(f"{name} in {count:,}" for name, count in repeated.items())
        size = f" with {least:,} pixels or more" if least > 1 else ""
        yield f"  images that would come {REPEATS} times: {listing}{size}"


def split_lines(split: dict) -> Iterator[str]:
    """Yields the lines on one split of `facts.summarize`."""
    yield from _size_lines(split)
    yield ""
    yield from _class_lines(split)
    yield ""
    yield from _label_lines(split)
    yield from _duplicate_lines(split)


def count_of(noun: str, names: Sequence[str]) -> str:
    """Says how many there are, and which: `no name`, `2 names (a, b)`."""
    if not names:
        return f"no {noun}"
    plural = "s" if len(names) > 1 else ""
    return f"{len(names):,} {noun}{plural} ({some(names)})"


def _shared_lines(summary: dict) -> Iterator[str]:
    for pair in summary["shared"]:
        images, names = pair["same_images"], pair["names"]
        yield (
            f"  {' and '.join(pair['splits'])} share {count_of('image', images)} "
            f"and {count_of('name', names)}"
        )
        if pair["encoded_anew"]:
            yield f"    images encoded anew: {pair['encoded_anew']:,}"
        if pair["other_label"]:
            yield f"    images with different labels: {pair['other_label']:,}"
    if any(pair["images"] for pair in summary["shared"]):
        yield (
            "  What was trained on one of two splits that share images scores too well "
            "on the other."
        )


def report(summary: dict) -> str:
    """Returns the text for the terminal on what `facts.summarize` returned."""
    lines = [f"{summary['name']}: {summary['num_classes']} classes"]
    for name, split in summary["splits"].items():
        lines += ["", f"Split {name}", *split_lines(split)]
        if name.startswith("train"):
            lines += _suggestion_lines(split)
    lines += [
        "",
        "weight: pixels of the median class over those of this one, in all images of "
        "the split,",
        "  as train.py --set class_weights=balanced gives it to the loss; above "
        f"{MAX_WEIGHT} it is cut in what is to be tried.",
        "few pixels, few images: the median class has more than "
        f"{RARE_RATIO} times as many.",
    ]
    if summary["shared"]:
        lines += ["", "What two splits have in common", *_shared_lines(summary)]
    return "\n".join(lines)


# --- What is written -----------------------------------------------------------------


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


# --- Command line --------------------------------------------------------------------


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
      What `facts.summarize` returned.

    Raises:
      FileNotFoundError: no info.json, or no or not all records of a split.
      ValueError: bad records, by name, or damage of another kind.
    """
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
    print(report(summary))
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
    """Called by the command alone, so that tests can import it with others."""
    flags.DEFINE_string("output_dir", None, "Folder for inspection.json and sheets.")
    flags.DEFINE_list("splits", [], "Splits to read; default: all of info.json.")
    flags.DEFINE_integer("sheet_images", 24, "On a contact sheet; 0: no sheet.", 0)
    flags.DEFINE_bool(
        "all_classes", False, "Legends name all classes, not those of the sheet alone."
    )


def main(arguments: Sequence[str]) -> None:
    args = flags.FLAGS
    if len(arguments) != 2:
        raise app.UsageError(
            "Expected one folder of records: python -m datasets.inspect_records "
            f"RECORDS. Received: {' '.join(arguments[1:]) or 'none'}"
        )
    try:
        summary = inspect(
            arguments[1],
            args.output_dir,
            args.splits,
            args.sheet_images,
            args.all_classes,
        )
    except (OSError, ValueError, tf.errors.OpError) as error:
        sys.exit(f"Error: {error}")
    if summary["disagreements"]:
        sys.exit("Error: " + "\n".join(summary["disagreements"]))


def run() -> None:
    run_with_flags(define_flags, main)


if __name__ == "__main__":
    run()
