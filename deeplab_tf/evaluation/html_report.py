"""An evaluation as one HTML page: no scripts, nothing fetched, in light and dark."""

from __future__ import annotations

import base64
import bisect
import dataclasses
import io
import math
import os
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from deeplab_tf.evaluation.scores import interval_text, percent
from deeplab_tf.files import atomic_write
from deeplab_tf.labels import Labels
from deeplab_tf.pictures.visualize import IGNORE_COLOR, colorize

_PICTURE_SIDE = 480  # pixels at most; eight images then take 1 to 3 MB
_ERROR_COLOR = (214, 31, 31)
_MATRIX_COLOR = (31, 91, 160)
_MOST_NUMBERS = 30  # classes; the numbers of a larger matrix could not be read
_LONGEST_NAME = 24  # characters beside the matrix; the whole name is a tooltip
_CONFUSIONS = 10


@dataclasses.dataclass(frozen=True, order=True)
class _Picture:
    """An image, small, by the order of its mean IoU."""

    score: float
    name: str
    image: np.ndarray = dataclasses.field(compare=False)
    label: np.ndarray = dataclasses.field(compare=False)
    classes: np.ndarray = dataclasses.field(compare=False)


class BestAndWorst:
    """Keeps the images of the highest and of the lowest mean IoU, and no others.

    Args:
      keep: how many of each.
    """

    def __init__(self, keep: int = 4):
        self.keep = keep
        self._kept: list[_Picture] = []

    def add(
        self,
        score: float,
        name: str,
        image: np.ndarray,
        label: np.ndarray,
        classes: np.ndarray,
    ) -> None:
        """Shows it an image; equal scores are ordered by name.

        Args:
          score: mean IoU of the image; where it is NaN, the image is left out.
          name: of the image.
          image: uint8 [height, width, 3], RGB.
          label: integers [height, width], class ids or the ignore label.
          classes: integers of the same shape, class ids.
        """
        if math.isnan(score):
            return
        whole = _Picture(score, name, image, label, classes)
        place = bisect.bisect(self._kept, whole)
        full = len(self._kept) == 2 * self.keep
        if full and place == self.keep:  # it would be dropped at once
            return
        self._kept.insert(place, _shrunk(whole))
        if full:
            del self._kept[self.keep]

    def best(self) -> list[_Picture]:
        """The best images, best first."""
        return self._kept[: -self.keep - 1 : -1]

    def worst(self) -> list[_Picture]:
        """The worst images that are not among the best, worst first."""
        return self._kept[: -self.keep]


def _shrunk(picture: _Picture) -> _Picture:
    """Copies a picture at `_PICTURE_SIDE` at most; labels by the nearest pixel."""
    height, width = picture.label.shape
    scale = min(1, _PICTURE_SIDE / max(height, width))
    size = [max(1, round(side * scale)) for side in (height, width)]
    rows, columns = (
        ((np.arange(small) + 0.5) * side / small).astype(int)
        for small, side in zip(size, (height, width))
    )
    image = Image.fromarray(picture.image).resize(size[::-1], Image.Resampling.LANCZOS)
    return dataclasses.replace(
        picture,
        image=np.array(image),
        label=picture.label[np.ix_(rows, columns)],
        classes=picture.classes[np.ix_(rows, columns)],
    )


def write_report(
    results: dict,
    labels: Labels,
    pictures: BestAndWorst,
    path: str | os.PathLike,
) -> None:
    """Writes the page, whole or not at all.

    Args:
      results: of `Evaluation.results`; "comparison", of `compare`, with the path of
        the other as "with", and how the results were made, as evaluate.py writes it,
        may be in them.
      labels: names and colours of the classes.
      pictures: images to show.
      path: file to write.

    Raises:
      OSError: it cannot be written.
    """
    sections = [
        _headline(results),
        _made(results),
        _comparison(results),
        _class_table(results, labels),
        _matrix_section(results, labels),
        _trimap_section(results),
        _pictures_section("Best images", pictures.best(), labels),
        _pictures_section("Worst images", pictures.worst(), labels),
    ]
    page = _PAGE.format(title=escape(_title(results)), body="\n".join(sections))
    with atomic_write(path) as file:
        file.write(page)


def _title(results: dict) -> str:
    return f"Evaluation of {results.get('weights', 'a model')}"


# --- Sections ------------------------------------------------------------------------


def _headline(results: dict) -> str:
    trimap = dict(zip(results["trimap"]["widths"], results["trimap"]["mean_iou"]))
    narrow = min(trimap)
    tiles = {
        "mean IoU": results["mean_iou"],
        "pixel accuracy": results["pixel_accuracy"],
        "mean accuracy": results["mean_accuracy"],
        "frequency-weighted IoU": results["frequency_weighted_iou"],
        "boundary F-score": results["boundary_f"],
        f"mean IoU within {_pixels(narrow)} of boundaries": trimap[narrow],
    }
    notes = {"mean IoU": interval_text(results["mean_iou_interval"])}
    boxes = "".join(
        f'<div class="tile"><b>{percent(score)}</b><span>{name}</span>'
        f"<small>{notes.get(name, '')}</small></div>"
        for name, score in tiles.items()
    )
    absent = results["absent_classes"]
    said = f"Absent: {', '.join(map(escape, absent))}." if absent else "None is absent."
    return (
        f"<header><p>Evaluation, {results['images']:,} images, per cent</p>"
        f"<h1>{escape(str(results.get('weights', 'A model')))}</h1></header>"
        f'<div class="tiles">{boxes}</div>'
        f"<p class=note>{said} {escape(results['mean_rule'])} The interval is that of "
        f"{results['mean_iou_interval']['draws']:,} bootstraps over the images.</p>"
    )


def _made(results: dict) -> str:
    rows = {
        "Records": _said(results, "data_dir"),
        "Split": _said(results, "split"),
        "Part": _said(results, "part").replace("1/1", ""),
        "Output stride": _said(results, "output_stride"),
        "Scales": ", ".join(f"{scale:g}" for scale in results.get("scales", ())),
        "Flip": {True: "yes", False: "no"}.get(results.get("flip"), ""),
        "Window": _said(results, "window"),
        "Dense CRF": _crf_text(results.get("crf")),
        "Batch size": _said(results, "batch_size"),
        "Images a second": _decimals(results.get("images_per_second")),
    }
    terms = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>"
        for name, value in rows.items()
        if value
    )
    return f"<section><h2>How it was made</h2><dl>{terms}</dl></section>"


def _said(results: dict, key: str) -> str:
    return "" if results.get(key) is None else str(results[key])


def _crf_text(crf: dict | None) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in crf.items()) if crf else ""


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _comparison(results: dict) -> str:
    comparison = results.get("comparison")
    if not comparison:
        return ""
    low, high = comparison["interval"]["low"], comparison["interval"]["high"]
    means = {"iou": comparison["mean_iou"], "difference": comparison["difference"]}
    rows = [
        (
            escape(name),
            percent(row["iou"]),
            percent(mine),
            _signed(row["difference"]),
        )
        for name, row, mine in [
            ("mean IoU", means, results["mean_iou"]),
            *(
                (name, row, results["per_class"][name]["iou"])
                for name, row in comparison["per_class"].items()
            ),
        ]
    ]
    found = ""
    if low is not None:
        found = (
            "The interval holds 0: these images do not tell the two apart."
            if low <= 0 <= high
            else "The interval does not hold 0."
        )
    return (
        "<section><h2>Compared</h2>"
        f"<p>With <code>{escape(str(comparison.get('with', 'another')))}</code>: mean "
        f"IoU {_signed(comparison['difference'])}, paired bootstrap over the images: "
        f"{interval_text(comparison['interval'], '+')}. {found}</p>"
        + _table(("class", "other IoU", "this IoU", "difference"), rows)
        + "</section>"
    )


def _signed(value: float | None) -> str:
    kind = "" if not value else ("up" if value > 0 else "down")
    return f'<span class="{kind}">{percent(value, "+").strip()}</span>'


def _class_table(results: dict, labels: Labels) -> str:
    total = sum(row["pixels"] for row in results["per_class"].values())
    rows = [
        (
            _swatch(color, name),
            f'<i class="bar" style="--share:{row["iou"] or 0:.4f}">'
            f"{percent(row['iou'])}</i>",
            percent(row["accuracy"]),
            percent(row["boundary_f"]),
            percent(row["pixels"] / total if total else None),
            f"{row['pixels']:,}",
        )
        for color, (name, row) in zip(labels.colormap, results["per_class"].items())
    ]
    head = ("class", "IoU", "accuracy", "boundary F", "share", "pixels")
    tolerance = 100 * results["boundary_tolerance"]
    return (
        "<section><h2>Classes</h2>"
        + _table(head, rows)
        + "<p class=note>Accuracy is the share of the label's pixels that were found. "
        "Boundary F is the F-score of boundary pixels nearer than "
        f"{tolerance:g} % of the diagonal, mean over images. A dash is undefined.</p>"
        "</section>"
    )


def _matrix_section(results: dict, labels: Labels) -> str:
    confusion = np.array(results["confusion_matrix"], np.float64)
    pixels = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, pixels, np.zeros_like(confusion), where=pixels > 0)
    names = labels.class_names
    wrong = confusion * (1 - np.eye(len(names)))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    rows = [
        (
            _swatch(labels.colormap[i], names[i]),
            _swatch(labels.colormap[j], names[j]),
            percent(shares[i, j]),
            f"{wrong[i, j]:,.0f}",
        )
        for i, j in zip(*np.unravel_index(largest, wrong.shape))
        if wrong[i, j]
    ]
    head = ("label", "predicted", "of the label", "pixels")
    numbers = ""
    if len(names) <= _MOST_NUMBERS:
        numbers = " Numbers are per cent of the row; blank is under 0.5."
    return (
        "<section><h2>Confusion matrix</h2>"
        "<p class=note>Rows are labels, columns predictions; the stronger the "
        f"colour, the larger the share of the label's pixels.{numbers}</p>"
        f'<div class="scroll">{_matrix_svg(shares, names)}</div>'
        f"<h3>Most pixels confused</h3>{_table(head, rows, texts=2)}</section>"
    )


def _trimap_section(results: dict) -> str:
    trimap = results["trimap"]
    curves = {"this": trimap["mean_iou"]}
    comparison = results.get("comparison")
    # Bands of other widths would be other points.
    if comparison and comparison["trimap"]["widths"] == trimap["widths"]:
        curves["other"] = comparison["trimap"]["mean_iou"]
    head = ("pixels", *map(str, trimap["widths"]))
    rows = [(name, *map(percent, scores)) for name, scores in curves.items()]
    return (
        "<section><h2>Near boundaries</h2>"
        "<p class=note>Mean IoU of the pixels nearer to a boundary of the label than "
        "the width of the band.</p>"
        f"{_curve_svg(trimap['widths'], curves)}{_table(head, rows)}</section>"
    )


def _pictures_section(title: str, pictures: Sequence[_Picture], labels: Labels) -> str:
    if not pictures:
        return ""
    figures = "".join(_figure(picture, labels) for picture in pictures)
    return f"<section><h2>{title}</h2>{figures}</section>"


def _figure(picture: _Picture, labels: Labels) -> str:
    ignore_label = labels.ignore_label
    shown = {
        "image": _data_uri(picture.image, "JPEG"),
        "label": _data_uri(
            colorize(picture.label, labels.colormap, ignore_label), "PNG"
        ),
        "prediction": _data_uri(colorize(picture.classes, labels.colormap), "PNG"),
        "errors": _data_uri(_errors(picture, ignore_label), "JPEG"),
    }
    cells = "".join(
        f'<div><img src="{uri}" alt="{name}"><small>{name}</small></div>'
        for name, uri in shown.items()
    )
    present = np.union1d(picture.label, picture.classes)
    swatches = [
        _swatch(labels.colormap[index], labels.class_names[index])
        for index in present
        if index != ignore_label
    ]
    if ignore_label in picture.label:
        swatches.append(_swatch(IGNORE_COLOR, "void"))
    swatches.append(_swatch(_ERROR_COLOR, "wrong"))
    return (
        f"<figure><figcaption><b>{escape(picture.name)}</b> mean IoU "
        f"{percent(picture.score)}</figcaption>"
        f'<div class="pictures">{cells}</div>'
        f'<div class="legend">{"".join(swatches)}</div></figure>'
    )


def _errors(picture: _Picture, ignore_label: int) -> np.ndarray:
    """The image in pale grey, wrong pixels and void in colour; uint8 [h, w, 3]."""
    grey = 127 + picture.image.mean(-1, keepdims=True) / 2
    shown = np.repeat(grey, 3, -1).astype(np.uint8)
    shown[picture.label != picture.classes] = _ERROR_COLOR
    shown[picture.label == ignore_label] = IGNORE_COLOR
    return shown


# --- Parts ---------------------------------------------------------------------------


def _swatch(color: Iterable[int], name: str) -> str:
    red, green, blue = (int(value) for value in color)
    style = f"background:rgb({red},{green},{blue})"
    return f'<span class="class"><i style="{style}"></i>{escape(name)}</span>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Rows of HTML; the first `texts` columns are set left, the others right."""

    def row(cells, tag):
        return "".join(
            f"<{tag}{' class=text' if column < texts else ''}>{cell}</{tag}>"
            for column, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return (
        '<div class="scroll"><table>'
        f"<thead><tr>{row(head, 'th')}</tr></thead><tbody>{body}</tbody>"
        "</table></div>"
    )


def _data_uri(picture: np.ndarray, file_format: str) -> str:
    """Encodes uint8 [h, w, 3] or [h, w, 4] as a data URI; JPEG without blurred red."""
    options = {"quality": 85, "subsampling": 0} if file_format == "JPEG" else {}
    file = io.BytesIO()
    Image.fromarray(picture).save(file, file_format, **options)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{file_format.lower()};base64,{text}"


def _matrix_svg(shares: np.ndarray, names: Sequence[str]) -> str:
    """Draws shares float [n, n] in 0..1 as colours, few enough of them as numbers too.

    The colour is transparent where the share is small, so that it fits any background.
    """
    count = len(names)
    numbered = count <= _MOST_NUMBERS
    cell, font = (30, 12) if numbered else (12, 10)
    short = [_shortened(name) for name in names]
    margin = round(0.6 * font * max(map(len, short))) + 12
    side = margin + cell * count
    pixels = np.empty((count, count, 4), np.uint8)
    pixels[..., :3] = _MATRIX_COLOR
    pixels[..., 3] = np.rint(255 * shares)
    parts = [
        f'<svg class="matrix" width="{side}" height="{side}" '
        f'viewBox="0 0 {side} {side}" font-size="{font}" role="img" '
        'aria-label="confusion matrix">',
        f'<image href="{_data_uri(pixels, "PNG")}" x="{margin}" y="{margin}" '
        f'width="{cell * count}" height="{cell * count}" preserveAspectRatio="none"/>',
        f'<rect x="{margin}" y="{margin}" width="{cell * count}" '
        f'height="{cell * count}" class="frame"/>',
    ]
    for index, name in enumerate(short):
        middle = margin + cell * (index + 0.5)
        text = f"<title>{escape(names[index])}</title>{escape(name)}</text>"
        base = margin - 6
        parts.append(
            f'<text x="{base}" y="{middle}" dy=".35em" text-anchor="end">{text}'
            f'<text transform="translate({middle} {base}) rotate(-90)" dy=".35em">'
            f"{text}"
        )
    if numbered:
        for row, column in np.argwhere(shares >= 0.005):
            share = shares[row, column]
            kind = ' class="light"' if share > 0.7 else ""
            parts.append(
                f'<text x="{margin + cell * (column + 0.5)}" '
                f'y="{margin + cell * (row + 0.5)}" dy=".35em" text-anchor="middle"'
                f"{kind}>{100 * share:.0f}</text>"
            )
    return "".join([*parts, "</svg>"])


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _curve_svg(widths: Sequence[int], curves: dict[str, Sequence]) -> str:
    """Draws scores in 0..1, or None, over the widths of the bands."""
    scores = [100 * y for ys in curves.values() for y in ys if y is not None]
    if not scores:
        return ""
    xs, ys = _ticks(0, max(widths)), _ticks(min(scores), max(scores))

    def at(x, y):
        return (
            44 + 400 * (x - xs[0]) / (xs[-1] - xs[0]),
            210 - 195 * (y - ys[0]) / (ys[-1] - ys[0]),
        )

    parts = [
        '<svg class="curve" viewBox="0 0 460 250" font-size="12" role="img" '
        'aria-label="mean IoU by width of the band">',
        '<text x="244" y="246" text-anchor="middle">width of the band, pixels</text>',
    ]
    for y in ys:
        left, height = at(xs[0], y)
        parts.append(
            f'<path class="grid" d="M{left:.1f} {height:.1f}H444"/><text x="38" '
            f'y="{height:.1f}" dy=".35em" text-anchor="end">{y:g}</text>'
        )
    for x in xs:
        parts.append(
            f'<text x="{at(x, ys[0])[0]:.1f}" y="228" text-anchor="middle">{x:g}</text>'
        )
    for name, values in curves.items():
        points = [at(x, 100 * y) for x, y in zip(widths, values) if y is not None]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
        parts.append(f'<g class="{name}"><polyline points="{line}"/>{dots}</g>')
    names = "".join(
        f'<span class="class"><i class="{name}"></i>{name}</span>' for name in curves
    )
    legend = f'<div class="legend">{names}</div>' if len(curves) > 1 else ""
    return "".join([*parts, "</svg>", legend])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, at most eight, from below `low` to above `high`."""
    rough = max(high - low, 1e-3) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * index for index in range(first, max(last, first + 1) + 1)]


def _pixels(count: int) -> str:
    return f"{count} pixel" + "s" * (count > 1)


# Nothing may be fetched and no script run, whatever a name holds.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{
  --back: #fff; --box: #f4f5f7; --text: #1d2129; --quiet: #5b6472; --line: #d9dde3;
  --this: #2a6fbb; --other: #c2571a; --up: #1a7f37; --down: #c62828;
  --bar: rgba(42, 111, 187, .28);
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --back: #15181d; --box: #1f242b; --text: #e6e9ee; --quiet: #9aa4b2; --line: #363d47;
    --this: #6aa9ea; --other: #f0965a; --up: #56d364; --down: #ff7b72;
    --bar: rgba(106, 169, 234, .3);
  }}
}}
* {{ box-sizing: border-box; }}
body {{
  margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}}
main {{ max-width: 1120px; margin: 0 auto; padding: 24px 16px 48px; }}
header p {{ margin: 0; color: var(--quiet); }}
h1 {{ margin: 0 0 16px; font-size: 24px; line-height: 1.25; }}
h2 {{ margin: 36px 0 8px; font-size: 19px; }}
h3 {{ margin: 20px 0 6px; font-size: 15px; }}
h1, dd, code, figcaption, p {{ overflow-wrap: anywhere; }}
.note, small, dt {{ color: var(--quiet); font-size: 13px; }}
.tiles, dl {{
  display: grid; gap: 10px; margin: 0;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr));
}}
.tile {{ background: var(--box); border-radius: 8px; padding: 10px 12px; }}
.tile b {{ display: block; font-size: 26px; line-height: 1.2; }}
.tile span, .tile small {{ display: block; line-height: 1.35; }}
dl > div {{ min-width: 0; }}
dd {{ margin: 0; }}
.scroll {{ overflow-x: auto; max-width: 100%; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{
  padding: 4px 12px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line);
}}
th {{ color: var(--quiet); font-weight: 500; font-size: 13px; }}
.text {{ text-align: left; padding-left: 0; }}
.bar {{
  display: block; min-width: 110px; padding-right: 4px; font-style: normal;
  background: linear-gradient(var(--bar), var(--bar)) no-repeat;
  background-size: calc(100% * var(--share)) 100%;
}}
.up {{ color: var(--up); }}
.down {{ color: var(--down); }}
.class {{ display: inline-block; margin-right: 14px; }}
.class i {{
  display: inline-block; width: 12px; height: 12px; margin-right: 6px;
  border: 1px solid var(--quiet); border-radius: 2px; vertical-align: -1px;
}}
i.this {{ background: var(--this); }}
i.other {{ background: var(--other); }}
svg text {{ fill: var(--text); }}
svg .light {{ fill: #fff; }}
svg .frame {{ fill: none; stroke: var(--line); }}
svg .grid {{ fill: none; stroke: var(--line); }}
.matrix image {{ image-rendering: pixelated; }}
.matrix {{ display: block; }}
.curve {{ display: block; width: 100%; max-width: 600px; }}
g.this {{ stroke: var(--this); fill: var(--this); }}
g.other {{ stroke: var(--other); fill: var(--other); }}
polyline {{ fill: none; stroke-width: 2; }}
figure {{ margin: 0 0 28px; }}
.pictures {{
  display: grid; gap: 8px; margin: 6px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 170px), 1fr));
}}
.pictures img {{ display: block; width: 100%; height: auto; border-radius: 4px; }}
.legend {{ margin: 4px 0 8px; font-size: 13px; }}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
