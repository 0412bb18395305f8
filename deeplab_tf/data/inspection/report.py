"""The summary of a data set as text for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from deeplab_tf.data.inspection.suggestions import MAX_WEIGHT, REPEATS
from deeplab_tf.data.inspection.summary import RARE_RATIO

NUM_NAMED = 8

# --- Words ---------------------------------------------------------------------------


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
    """Yields the lines on one split of `summary.summarize`."""
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
    """Returns the text for the terminal on what `summary.summarize` returned."""
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
