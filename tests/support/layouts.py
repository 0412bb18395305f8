"""The same examples as each annotation tool writes them: the table `LAYOUTS`.

Each writer follows the tool's own exporter, and knows nothing of our readers. Free of
TensorFlow; `benchmarks.layouts` writes real pairs by the same table.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

VOID = 255
VOID_COLOR = (224, 224, 192)
COLORS = ((0, 0, 0), (200, 0, 0), (0, 150, 0), (0, 0, 250), (240, 220, 90))
COLORS += tuple((30 * i, 255 - 20 * i, 97) for i in range(1, 8))


class Example(NamedTuple):
    """One pair: image JPEG bytes; ids uint8 [height, width], 0 is background."""

    split: str
    name: str
    jpeg: bytes
    ids: np.ndarray


def save(path: Path, array: np.ndarray, palette: Sequence | None = None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette(np.array(palette, np.uint8).ravel().tolist())
    image.save(path, **options)


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def put_json(path: Path, document) -> None:
    put(path, json.dumps(document))


def regions_of(ids: np.ndarray, names: Sequence[str]):
    """(name, bool [height, width]) of all that is not background; 255 is void."""
    for value in np.unique(ids):
        if value:
            yield "void" if value == VOID else names[value], ids == value


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0].item(), rows[0].item(), columns[-1].item(), rows[-1].item()


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


# --- Masks ---------------------------------------------------------------------------


def colored(ids: np.ndarray) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[: len(COLORS)] = COLORS
    table[VOID] = VOID_COLOR
    return table[ids]


# All 256, or Pillow would store the ids in fewer bits than 255 needs.
PALETTE = [*COLORS, *[(9, 9, 9)] * (255 - len(COLORS)), VOID_COLOR]


def _image_sets(folder: Path, examples: Sequence[Example]) -> None:
    for split in {e.split for e in examples}:
        names = "".join(f"{e.name}\n" for e in examples if e.split == split)
        put(folder / "ImageSets" / "Segmentation" / f"{split}.txt", names)


def cvat(folder: Path, examples, names) -> None:
    rows = ["# label:color_rgb:parts:actions"]
    rows += [f"{n}:{','.join(map(str, c))}::" for n, c in zip(names, COLORS)]
    rows += [f"void:{','.join(map(str, VOID_COLOR))}::"]
    put(folder / "labelmap.txt", "\n".join(rows) + "\n")
    for e in examples:
        put(folder / "JPEGImages" / f"{e.name}.jpg", e.jpeg)
        save(folder / "SegmentationClass" / f"{e.name}.png", colored(e.ids))
        save(folder / "SegmentationObject" / f"{e.name}.png", colored(e.ids))
    _image_sets(folder, examples)


def voc(folder: Path, examples, names) -> None:
    for e in examples:
        put(folder / "JPEGImages" / f"{e.name}.jpg", e.jpeg)
        save(folder / "SegmentationClass" / f"{e.name}.png", e.ids, PALETTE)
    put(folder / "JPEGImages" / "of_another_task.jpg", examples[0].jpeg)
    _image_sets(folder, examples)
    all_names = "".join(f"{e.name}\n" for e in examples)
    put(folder / "ImageSets" / "Segmentation" / "trainval.txt", all_names)


def labelme_voc(folder: Path, examples, names) -> None:
    put(folder / "class_names.txt", "\n".join(["_background_", *names[1:]]))
    for e in examples:
        put(folder / "JPEGImages" / f"{e.name}.jpg", e.jpeg)
        save(folder / "SegmentationClass" / f"{e.name}.png", e.ids, PALETTE)
        put(folder / "SegmentationClassVisualization" / f"{e.name}.jpg", e.jpeg)


def roboflow(folder: Path, examples, names) -> None:
    rows = [f"{i}, {name}" for i, name in enumerate(names)]
    for e in examples:
        place = folder / {"val": "valid"}.get(e.split, e.split)
        put(place / "_classes.csv", "\n".join(["Pixel Value, Class", *rows]))
        put(place / f"{e.name}.jpg", e.jpeg)
        save(place / f"{e.name}_mask.png", e.ids)


def paddleseg(folder: Path, examples, names) -> None:
    lines: dict[str, str] = {}
    for e in examples:
        put(folder / "images" / f"{e.name}.jpg", e.jpeg)
        save(folder / "labels" / f"{e.name}.png", e.ids)
        line = f"images/{e.name}.jpg labels/{e.name}.png\n"
        lines[e.split] = lines.get(e.split, "") + line
    for split, text in lines.items():
        put(folder / f"{split}.txt", text)
    put(folder / "labels.txt", "\n".join(names))


def mmseg(folder: Path, examples, names) -> None:
    for e in examples:
        put(folder / "img_dir" / e.split / f"{e.name}_leftImg8bit.jpg", e.jpeg)
        save(folder / "ann_dir" / e.split / f"{e.name}_gtFine_labelTrainIds.png", e.ids)


def ade20k(folder: Path, examples, names) -> None:
    """ADE20K stores class i as i + 1, and 0 for what is none."""
    put(folder / "objectInfo150.txt", "Idx\tRatio\n")
    for e in examples:
        split = {"train": "training", "val": "validation"}[e.split]
        put(folder / "images" / split / f"{e.name}.jpg", e.jpeg)
        stored = np.where(e.ids == VOID, 0, e.ids + 1).astype(np.uint8)
        save(folder / "annotations" / split / f"{e.name}.png", stored)


def one_folder(folder: Path, examples, names) -> None:
    for e in examples:
        put(folder / f"{e.name}.jpg", e.jpeg)
        save(folder / f"{e.name}_L.png", e.ids, PALETTE)


# --- Regions -------------------------------------------------------------------------


def labelme(folder: Path, examples, names) -> None:
    for e in examples:
        height, width = e.ids.shape
        shapes = []
        for name, mask in regions_of(e.ids, names):
            left, top, right, bottom = box_of(mask)
            part = mask[top : bottom + 1, left : right + 1]
            text = base64.b64encode(png(part)).decode()
            points = [[float(left), float(top)], [float(right), float(bottom)]]
            shapes.append({"label": name, "points": points, "mask": text})
            shapes[-1].update(shape_type="mask", group_id=None, flags={})
        put(folder / f"{e.name}.jpg", e.jpeg)
        document = {"version": "5.4.1", "flags": {}, "shapes": shapes}
        document.update(imagePath=f"{e.name}.jpg", imageData=None)
        document.update(imageHeight=height, imageWidth=width)
        put_json(folder / f"{e.name}.json", document)


def label_studio(folder: Path, examples, names) -> None:
    tasks = []
    for number, e in enumerate(examples, 7):
        put(folder / "images" / f"{e.name}.jpg", e.jpeg)
        for name, mask in regions_of(e.ids, names):
            path = f"task-{number}-annotation-{number + 90}-by-1-tag-{name}-0.png"
            save(folder / "brushes" / path, mask.astype(np.uint8) * 255)
        result = [{"from_name": "tag", "type": "brushlabels"}]
        annotations = [{"id": number + 90, "result": result}]
        image = f"/data/upload/1/0a1b2c3d-{e.name}.jpg"
        tasks.append({"id": number, "annotations": annotations})
        tasks[-1]["data"] = {"image": image}
    put_json(folder / "project-1.json", tasks)


def yolo(folder: Path, examples, names) -> None:
    yaml = ["train: ../train/images", "val: ../valid/images", f"nc: {len(names)}"]
    yaml += ["names:", *(f"  {i}: {n}" for i, n in enumerate([*names[1:], "void"]))]
    put(folder / "data.yaml", "\n".join(yaml) + "\n")
    for e in examples:
        place = folder / {"val": "valid"}.get(e.split, e.split)
        height, width = e.ids.shape
        lines = []
        for name, mask in regions_of(e.ids, names):
            number = [*names[1:], "void"].index(name)
            for y in np.flatnonzero(mask.any(1)):
                edges = np.flatnonzero(np.diff(np.pad(mask[y].astype(int), 1)))
                for first, after in edges.reshape(-1, 2):
                    x1, x2 = (first + 0.4) / width, (after - 1 + 0.4) / width
                    v = (y + 0.4) / height
                    lines.append(f"{number} {x1} {v} {x2} {v} {x2} {v} {x1} {v}\n")
        put(place / "images" / f"{e.name}.jpg", e.jpeg)
        put(place / "labels" / f"{e.name}.txt", "".join(lines))


def supervisely(folder: Path, examples, names) -> None:
    titles = [*names[1:], "void"]
    colors = [f"#{bytes(c).hex()}" for c in [*COLORS[1 : len(names)], VOID_COLOR]]
    classes = [
        {"title": t, "shape": "bitmap", "color": c, "id": i}
        for i, (t, c) in enumerate(zip(titles, colors))
    ]
    put_json(folder / "meta.json", {"classes": classes, "tags": []})
    for e in examples:
        objects = []
        for name, mask in regions_of(e.ids, names):
            left, top, right, bottom = box_of(mask)
            image = Image.fromarray(
                mask[top : bottom + 1, left : right + 1].astype(np.uint8)
            )
            image.putpalette([0, 0, 0, 255, 255, 255])
            buffer = io.BytesIO()
            image.save(buffer, "PNG", transparency=0, optimize=0)
            data = base64.b64encode(zlib.compress(buffer.getvalue())).decode()
            bitmap = {"data": data, "origin": [left, top]}
            objects.append({"classTitle": name, "geometryType": "bitmap"})
            objects[-1]["bitmap"] = bitmap
        height, width = e.ids.shape
        document = {"description": "", "tags": [], "objects": objects}
        document["size"] = {"height": height, "width": width}
        put(folder / e.split / "img" / f"{e.name}.jpg", e.jpeg)
        put_json(folder / e.split / "ann" / f"{e.name}.jpg.json", document)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: column by column, zeros first."""
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return [0, *counts] if flat[0] else counts


def coco(folder: Path, examples, names) -> None:
    categories = [
        {"id": i, "name": name, "supercategory": "things"}
        for i, name in enumerate(names[1:], 1)
    ]
    for split in {e.split for e in examples}:
        images, annotations = [], []
        place = folder / {"val": "valid"}.get(split, split)
        for number, e in enumerate(e for e in examples if e.split == split):
            height, width = e.ids.shape
            put(place / f"{e.name}.jpg", e.jpeg)
            images.append({"id": number, "file_name": f"{e.name}.jpg"})
            images[-1].update(height=height, width=width)
            for name, mask in regions_of(e.ids, names):
                if name == "void":
                    continue  # COCO has none.
                counts = run_lengths(mask)
                annotation = {"id": len(annotations), "image_id": number, "iscrowd": 0}
                annotation["category_id"] = list(names).index(name)
                annotation["segmentation"] = {"size": [height, width], "counts": counts}
                annotations.append(annotation)
        document = {"info": {}, "licenses": [], "categories": categories}
        document.update(images=images, annotations=annotations)
        put_json(place / "_annotations.coco.json", document)


class Layout(NamedTuple):
    """How one tool writes examples, and what of them it can say.

    Attributes:
      write: (folder, examples, names) -> None.
      tool: row of `tools.TOOLS` that reads it.
      has_splits: whether files say train and val.
      has_names: whether files say the classes' names.
      has_void: whether pixels without a class can be said.
    """

    write: Callable[[Path, Sequence[Example], Sequence[str]], None]
    tool: str
    has_splits: bool = True
    has_names: bool = True
    has_void: bool = True


LAYOUTS = {
    "cvat": Layout(cvat, "cvat"),
    "roboflow": Layout(roboflow, "roboflow"),
    "coco": Layout(coco, "coco", has_void=False),
    "labelme": Layout(labelme, "labelme", has_splits=False),
    "labelme_voc": Layout(labelme_voc, "labelme_voc", has_splits=False),
    "label_studio": Layout(label_studio, "label_studio", has_splits=False),
    "yolo": Layout(yolo, "yolo"),
    "supervisely": Layout(supervisely, "supervisely"),
    "paddleseg": Layout(paddleseg, "paddleseg"),
    "voc": Layout(voc, "voc", has_names=False),
    "ade20k": Layout(ade20k, "ade20k", has_names=False),
    "mmseg": Layout(mmseg, "folders", has_names=False),
    "one_folder": Layout(one_folder, "one_folder", has_splits=False, has_names=False),
}
