"""What annotation tools write becomes the same ids: each row of the table, and its
neighbours that are damaged or hostile.
"""

from __future__ import annotations

import base64
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import build_folder
from deeplab_tf.data.annotations.tools import TOOLS, understand
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.records.info import read_info
from tests.support.commands import call
from tests.support.layouts import (
    COLORS,
    LAYOUTS,
    VOID,
    Example,
    png,
    put,
    put_json,
    save,
)
from tests.support.pairs import read_records

# By the alphabet, as tools without an order of classes get theirs.
NAMES = ("background", "car", "road", "sky")
SIZE = (12, 9)


def example(split: str, name: str) -> Example:
    """A pair whose ids are rectangles, all classes and void among them."""
    rng = np.random.default_rng(list(name.encode()))
    ids = np.zeros(SIZE[::-1], np.uint8)
    for value in (1, 2, 3, VOID):
        top, left = rng.integers(0, 4, 2)
        ids[top : top + 5, left + value % 4 : left + 6] = value
    ids[0, :4] = range(4)
    ids[8, :2] = VOID
    pixels = rng.integers(0, 256, (*ids.shape, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return Example(split, name, buffer.getvalue(), ids)


EXAMPLES = [example("train", n) for n in ("a", "b 1", "c")] + [example("val", "d")]


def build(folder, *flags, out="out"):
    """Runs the one command; returns its result and the records by name."""
    output = folder.parent / out
    flags = (f"--input_dir={folder}", f"--output_dir={output}", *flags)
    result = call(build_folder, *flags, "--num_processes=1")
    records = {}
    if result.returncode == 0:
        for split in read_info(output).splits:
            records.update(
                {name: (split, r) for name, r in read_records(output, split).items()}
            )
    return result, records


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_built_by_one_command_to_the_ids_that_were_drawn(name, tmp_path):
    layout = LAYOUTS[name]
    layout.write(tmp_path / "set", EXAMPLES, NAMES)
    result, records = build(tmp_path / "set")
    assert result.returncode == 0, result.stderr
    assert TOOLS[layout.tool].title in result.stdout
    assert len(records) == len(EXAMPLES)
    info = read_info(tmp_path / "out")
    if layout.has_names:
        names = ["background" if n == "_background_" else n for n in info.class_names]
        assert tuple(names) == NAMES
    for e in EXAMPLES:
        split, record = records[e.name]
        expected = np.where(e.ids == VOID, VOID if layout.has_void else 0, e.ids)
        np.testing.assert_array_equal(record["label"][..., 0], expected)
        stored = np.asarray(Image.open(io.BytesIO(e.jpeg)))
        difference = np.abs(record["image"].astype(int) - stored)
        assert difference.max() <= 3  # TensorFlow decodes JPEGs by another rounding.
        if layout.has_splits:
            assert split == e.split
    if name in ("cvat", "voc"):
        assert info.colormap == COLORS[:4]


def test_every_tool_of_the_table_has_a_layout():
    assert {layout.tool for layout in LAYOUTS.values()} == set(TOOLS)


# --- What is understood, and what is asked -------------------------------------------


def masks(folder, images, labels, names="ab", image_end="", label_end="", ids=None):
    """Pairs in two folders, by any names."""
    for name in names:
        e = example("train", name)
        put(folder / images / f"{name}{image_end}.jpg", e.jpeg)
        stored = np.where(e.ids == VOID, 0, e.ids) if ids is None else ids
        save(folder / labels / f"{name}{label_end}.png", stored.astype(np.uint8))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "masks"),
        ("imgs", "annotations"),
        ("Images", "Labels"),
        ("JPEGImages", "SegmentationClass"),
        ("image", "gt"),
    ],
)
@pytest.mark.parametrize("ending", ["", "_mask", "_L", "_gt", "_labelIds", "-seg"])
def test_two_folders_of_any_usual_names_and_endings(tmp_path, images, labels, ending):
    masks(tmp_path, images, labels, label_end=ending)
    found = understand(tmp_path)
    samples = found.splits[""]
    assert [s.name for s in samples] == ["a", "b"]
    assert all(s.label.endswith(f"{s.name}{ending}.png") for s in samples)


@pytest.mark.parametrize("ending", ["_mask", "_L", "_gt", " (mask)", ".label", None])
def test_one_folder_of_images_and_masks(tmp_path, ending):
    kind = "jpg" if ending is None else "png"
    for name in ("a", "a_1", "b"):
        save(tmp_path / f"{name}.{kind}", np.zeros((2, 3, 3), np.uint8))
        save(tmp_path / f"{name}{ending or ''}.png", np.zeros((2, 3), np.uint8))
    samples = understand(tmp_path).splits[""]
    assert [s.name for s in samples] == ["a", "a_1", "b"]
    assert all(s.label.endswith(f"{s.name}{ending or ''}.png") for s in samples)
    assert all(s.image.endswith(f"{s.name}.{kind}") for s in samples)


@pytest.mark.parametrize(
    "folders",
    [
        ("{}/images", "{}/masks"),
        ("images/{}", "masks/{}"),
        ("{}_images", "{}_masks"),
        ("{}", "{}annot"),
    ],
)
def test_splits_are_found_and_valid_is_val(tmp_path, folders, capsys):
    for split in ("train", "valid"):
        masks(tmp_path, *(folder.format(split) for folder in folders))
    found = understand(tmp_path)
    assert {s: len(samples) for s, samples in found.splits.items()} == {
        "train": 2,
        "val": 2,
    }
    printed = capsys.readouterr().out
    assert "4 pairs, classes by their numbers, split by" in printed
    assert "--class_names=a,b,... or a file of them." in printed


def test_lists_beside_folders_are_splits(tmp_path):
    masks(tmp_path, "images", "masks", "abc")
    put(tmp_path / "train.txt", "a\nc\n")
    put(tmp_path / "val.txt", "b.jpg\n")
    found = understand(tmp_path)
    assert {s: [p.name for p in v] for s, v in found.splits.items()} == {
        "train": ["a", "c"],
        "val": ["b"],
    }
    assert found.splits_from == "train.txt, val.txt"


def test_parts_without_masks_are_left_out_and_said(tmp_path, capsys):
    for split in ("train", "val"):
        masks(tmp_path, f"images/{split}", f"masks/{split}")
    put(tmp_path / "images" / "test" / "x.jpg", EXAMPLES[0].jpeg)
    assert set(understand(tmp_path).splits) == {"train", "val"}
    put(tmp_path / "masks" / "more" / "x.png", b"")
    assert set(understand(tmp_path).splits) == {"train", "val"}
    printed = capsys.readouterr().out
    assert "without masks: images/test; left out." in printed
    assert "without masks: images/test, masks/more; left out." in printed


def test_the_folder_around_an_export_may_be_given(tmp_path):
    LAYOUTS["cvat"].write(tmp_path / "task" / "inner", EXAMPLES, NAMES)
    assert understand(tmp_path).num_pairs == len(EXAMPLES)


def commands_of(result) -> list[str]:
    lines = result.stderr.splitlines()
    return [line for line in lines if line.startswith("  python -m datasets")]


def test_several_endings_are_asked_for_with_the_commands(tmp_path):
    folder = tmp_path / "my set"
    masks(folder, "images", "masks", label_end="_color")
    masks(folder, "images", "masks", label_end="_labelIds")
    result, _ = build(folder)
    assert result.returncode == 1
    assert not (tmp_path / "out").exists()
    first, second = commands_of(result)
    assert first.endswith("--label_ending=_color")
    assert second.endswith("--label_ending=_labelIds") and "'" in second  # The space.
    result, records = build(folder, "--label_ending=_labelIds", "--num_classes=4")
    assert result.returncode == 0 and len(records) == 2, result.stderr


def test_several_folders_of_masks_are_asked_for_with_the_commands(tmp_path):
    masks(tmp_path / "set", "images", "masks")
    masks(tmp_path / "set", "images", "labels")
    result, _ = build(tmp_path / "set")
    assert [line.split("--labels_dir=")[1] for line in commands_of(result)] == [
        str(tmp_path / "set" / "labels"),
        str(tmp_path / "set" / "masks"),
    ]


def test_several_tools_are_asked_for_with_the_commands(tmp_path):
    LAYOUTS["labelme"].write(tmp_path / "set", EXAMPLES, NAMES)
    LAYOUTS["yolo"].write(tmp_path / "set", EXAMPLES, NAMES)
    result, _ = build(tmp_path / "set")
    ways = [line.split()[-1] for line in commands_of(result)]
    assert ways == ["--format=labelme", "--format=yolo"]
    result, records = build(tmp_path / "set", "--format=yolo")
    assert len(records) == len(EXAMPLES)


def test_ids_that_are_doubtful_name_the_whole_command(tmp_path):
    ids = np.array([[0, 255, 0]] * 9).repeat(4, 1)
    masks(tmp_path / "set", "images", "masks", ids=ids)
    result, _ = build(tmp_path / "set")
    assert any(line.endswith("--label_ids=0,255") for line in commands_of(result))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("x.zip", "an archive. Unpack it"), ("absent", "Expected a folder")],
)
def test_what_is_no_folder(tmp_path, name, sentence):
    put(tmp_path / "x.zip", "PK")
    with pytest.raises(DatasetError, match=sentence):
        understand(tmp_path / name)


def test_a_folder_of_nothing_known_says_what_is_there(tmp_path):
    put(tmp_path / "annotations.xml", "<annotations/>")
    put(tmp_path / "readme.txt", "x")
    with pytest.raises(DatasetError, match="annotations.xml, readme.txt.*CVAT for im"):
        understand(tmp_path)


def test_masks_that_are_jpegs_are_told(tmp_path):
    for folder in ("images", "masks"):
        put(tmp_path / folder / "a.jpg", EXAMPLES[0].jpeg)
    with pytest.raises(DatasetError, match="masks holds JPEG files, which alter ids"):
        understand(tmp_path)


def test_names_in_either_form_of_unicode_are_pairs(tmp_path):
    composed = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    masks(tmp_path / "set", "images", "masks", [composed])
    taken_apart = unicodedata.normalize("NFD", composed)
    path = tmp_path / "set" / "masks" / f"{composed}.png"
    path.rename(path.with_name(f"{taken_apart}_mask.png"))
    result, records = build(tmp_path / "set", "--val_fraction=0", "--num_classes=4")
    assert list(records) == [composed], result.stderr


# --- One tool each: what its files can say -------------------------------------------


def labelme_file(folder, shapes, name="a", **fields):
    size = {"imageWidth": SIZE[0], "imageHeight": SIZE[1], "imagePath": f"{name}.jpg"}
    put(folder / f"{name}.jpg", EXAMPLES[0].jpeg)
    put_json(folder / f"{name}.json", {"shapes": shapes, **size, **fields})


def shape(label, points, kind="polygon"):
    return {"label": label, "points": points, "shape_type": kind}


def read_first(folder, **options):
    """The ids that the first sample's label becomes."""
    found = understand(folder, **options)
    sample = next(iter(found.splits.values()))[0]
    return found, found.drawn.read_ids(sample.label)


def test_labelme_draws_shapes_in_their_order_and_clips_them(tmp_path):
    corners = [[2, 1], [6, 1], [6, 4], [2, 4]]
    labelme_file(
        tmp_path,
        [
            shape("road", [[-3.0, 5.0], [20.0, 8.0]], "rectangle"),  # Leaves the image.
            shape("car", corners),
            shape("__ignore__", [[9, 2], [9, 4]], "circle"),
            shape("_background_", [[3, 2], [4, 3]], "rectangle"),
        ],
    )
    found, ids = read_first(tmp_path)
    assert found.drawn.classes.names == ("background", "car", "road")
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[5:9] = 2
    expected[1:5, 2:7] = 1
    y, x = np.mgrid[:9, :12]
    # Pillow's circle of radius 2: the pixels whose centre is within 2.5.
    expected[(x - 9) ** 2 + (y - 2) ** 2 <= 6] = 255
    expected[2:4, 3:5] = 0
    np.testing.assert_array_equal(ids, expected)


def test_labelme_images_without_json_are_left_out_and_without_shapes_background(
    tmp_path, capsys
):
    labelme_file(tmp_path, [shape("car", [[0, 0], [2, 2]], "rectangle")], "a")
    labelme_file(tmp_path, [], "b")
    put(tmp_path / "c.jpg", EXAMPLES[0].jpeg)
    found = understand(tmp_path)
    first, second = found.splits[""]
    assert second.name == "b" and not found.drawn.read_ids(second.label).any()
    assert "1 images without a JSON file are left out." in capsys.readouterr().out


def test_labelme_takes_its_order_from_a_list(tmp_path):
    labelme_file(tmp_path, [shape("car", [[0, 0], [2, 2]], "rectangle")])
    put(tmp_path / "labels.txt", "__ignore__\n_background_\nroad\ncar\n")
    found, ids = read_first(tmp_path)
    assert found.drawn.classes.names == ("background", "road", "car")
    assert ids[1, 1] == 2


def test_yolo_polygons_boxes_and_images_without_text(tmp_path):
    (w, h), e = SIZE, EXAMPLES[0]
    put(tmp_path / "data.yaml", "names: ['car', \"road\"]  # two\nnc: 2\n")
    for name in "ab":
        put(tmp_path / "images" / f"{name}.jpg", e.jpeg)
    large = [(0, 0), (7.9, 0), (7.9, 5), (0, 5)]
    small = [(2, 1), (4, 1), (4, 3), (2, 3)]
    lines = [
        " ".join([str(c), *(f"{x / w:.6f} {y / h:.6f}" for x, y in points)])
        for c, points in ((1, small), (0, large))
    ]
    put(tmp_path / "labels" / "a.txt", "\n".join(lines))
    found, ids = read_first(tmp_path)
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[:6, :8] = 1
    expected[1:4, 2:5] = 2  # The smaller is in front, though it came first.
    # 1/9 in six digits lies a little under the pixel, and 4/12 and 3/9 do.
    assert (ids != expected).sum() <= 16 and (ids == 2).sum() >= 4
    second = found.splits[""][1]
    assert not found.drawn.read_ids(second.label).any()
    assert found.notes == ("1 images without a .txt file are background everywhere.",)
    put(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(ValueError, match="is a box and no polygon"):
        read_first(tmp_path)
    put(tmp_path / "labels" / "a.txt", "0 100 200 300 200 300 400\n")
    with pytest.raises(ValueError, match="x and y are from 0 to 1"):
        read_first(tmp_path)
    put(tmp_path / "labels" / "a.txt", "7 0 0 1 0 1 1\n")
    with pytest.raises(ValueError, match="has class 7 and 6 numbers"):
        read_first(tmp_path)


def test_supervisely_polygons_have_holes(tmp_path):
    put_json(
        tmp_path / "meta.json",
        {"classes": [{"title": "car", "color": "#FF0000", "shape": "polygon"}]},
    )
    outer, hole = [[1, 1], [9, 1], [9, 7], [1, 7]], [[3, 3], [6, 3], [6, 5], [3, 5]]
    region = {"classTitle": "car", "geometryType": "polygon"}
    region["points"] = {"exterior": outer, "interior": [hole]}
    size = {"width": SIZE[0], "height": SIZE[1]}
    put(tmp_path / "ds" / "img" / "a.jpg", EXAMPLES[0].jpeg)
    put_json(
        tmp_path / "ds" / "ann" / "a.jpg.json", {"size": size, "objects": [region]}
    )
    found, ids = read_first(tmp_path)
    assert found.drawn.classes.colors == ((0, 0, 0), (255, 0, 0))
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[1:8, 1:10] = 1
    expected[4, 4:6] = 0  # The hole's outline belongs to the region.
    np.testing.assert_array_equal(ids, expected)


def test_label_studio_needs_the_json_export_and_takes_the_last_annotation(tmp_path):
    LAYOUTS["label_studio"].write(tmp_path, EXAMPLES, NAMES)
    later = np.ones(SIZE[::-1], np.uint8) * 255
    save(tmp_path / "brushes" / "task-7-annotation-300-by-2-tag-sky-0.png", later)
    found, ids = read_first(tmp_path)
    assert found.drawn.classes.names[ids[0, 0]] == "sky" and len(np.unique(ids)) == 1
    assert any("earlier annotations" in note for note in found.notes)
    (tmp_path / "project-1.json").unlink()
    with pytest.raises(DatasetError, match="Expected Label Studio's JSON export"):
        understand(tmp_path)


def test_coco_of_cvat_and_label_studio_finds_its_images(tmp_path):
    pytest.importorskip("pycocotools")
    for name, folder in (("annotations/instances_default", "images"), ("result", "")):
        base = tmp_path / name.replace("/", "_")
        LAYOUTS["coco"].write(base / "made", EXAMPLES[:3], NAMES)
        document = json.loads((base / "made/train/_annotations.coco.json").read_text())
        for image in document["images"]:
            source = base / "made" / "train" / image["file_name"]
            put(base / "set" / "images" / image["file_name"], source.read_bytes())
            if not folder:
                image["file_name"] = "images\\" + image["file_name"]
        put_json(base / "set" / f"{name}.json", document)
        found = understand(base / "set")
        assert found.num_pairs == 3
        folders = {Path(sample.image).parent for sample in found.splits[""]}
        assert folders == {base / "set" / "images"}


# --- Damaged and hostile files -------------------------------------------------------

OUTSIDE = "../../../../etc/secret.jpg"


def test_names_in_files_lead_nowhere(tmp_path):
    folder = tmp_path / "labelme"
    labelme_file(folder, [shape("car", [[0, 0], [2, 2]], "rectangle")])
    labelme_file(folder, [], "b", imagePath=OUTSIDE)
    assert understand(folder).splits[""][1].image == str(folder / "b.jpg")
    (folder / "b.jpg").unlink()
    with pytest.raises(DatasetError, match="leads out of it.*--images_dir=FOLDER"):
        understand(folder)
    paddle = tmp_path / "paddle"
    put(paddle / "train.txt", f"{OUTSIDE} labels/a.png\n")
    with pytest.raises(DatasetError, match="leads out of it"):
        understand(paddle)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ([shape("car", [[0, 0], [1e9, 0], [0, 5]])], "a point at x=1000000000.0"),
        ([shape("car", [[0, 0], [float("nan"), 0], [0, 5]])], "a point at x=nan"),
        ([shape("car", [[0, 0], [1, 1]])], "a polygon of 2 points"),
        ([shape("car", [[0, 0, 1]])], r"the point \[0, 0, 1\]"),
        ([shape("car", "abc")], "expected a list of points"),
        ([shape("car", [[0, 0]], "hexagon")], "the type 'hexagon'"),
        ([{**shape("car", [[0, 0], [1, 1]], "mask"), "mask": "!"}], "no base64"),
        ([{**shape("car", [[0, 0], [1, 1]], "mask"), "mask": None}], "base64 of a PNG"),
    ],
)
def test_shapes_that_cannot_be_drawn_name_file_and_shape(tmp_path, shapes, sentence):
    labelme_file(tmp_path, shapes)
    with pytest.raises(ValueError, match=rf"shape 0 \(car\) of .*a.json.*{sentence}"):
        read_first(tmp_path)


def test_a_picture_larger_than_its_image_is_not_decoded(tmp_path):
    text = base64.b64encode(png(np.ones((100, 100), np.uint8))).decode()
    labelme_file(tmp_path, [{**shape("car", [[0, 0], [9, 9]], "mask"), "mask": text}])
    with pytest.raises(ValueError, match="a picture of 100x100; the image has 12x9"):
        read_first(tmp_path)


@pytest.mark.parametrize("text", ['{"shapes": [', '{"shapes": 3}', '{"shapes": [{}]}'])
def test_damaged_json_is_one_sentence(tmp_path, text):
    labelme_file(tmp_path, [shape("car", [[0, 0], [2, 2]], "rectangle")])
    put(tmp_path / "b.json", text)
    with pytest.raises(DatasetError, match="b.json"):
        understand(tmp_path)


@pytest.mark.parametrize("size", [(10**6, 10**6), (0, 5), ("5", 5), (None, 5)])
def test_a_size_that_no_image_has_takes_no_memory(tmp_path, size):
    boxes = [shape("car", [[0, 0], [2, 2]], "rectangle")]
    labelme_file(tmp_path / "l", boxes, imageWidth=size[0], imageHeight=size[1])
    with pytest.raises(ValueError, match=f"a.json says .* {size[0]}x{size[1]} pixels"):
        read_first(tmp_path / "l")
    LAYOUTS["supervisely"].write(tmp_path / "s", EXAMPLES, NAMES)
    path = tmp_path / "s" / "train" / "ann" / "a.jpg.json"
    document = json.loads(path.read_text())
    document["size"] = {"width": size[0], "height": size[1]}
    put_json(path, document)
    with pytest.raises(ValueError, match=f" {size[0]}x{size[1]} pixels"):
        read_first(tmp_path / "s")


def test_a_folder_with_train_alone_gets_a_val(tmp_path):
    masks(tmp_path / "set" / "train", "images", "masks", "abcd")
    put(tmp_path / "set" / "classes.txt", "x")
    result, _ = build(tmp_path / "set", "--val_fraction=0.5", "--num_classes=4")
    assert read_info(tmp_path / "out").splits == {"train": 2, "val": 2}, result.stderr


def test_classes_that_differ_in_case_alone_are_refused(tmp_path):
    box = [[0, 0], [2, 2]]
    labelme_file(
        tmp_path, [shape("Car", box, "rectangle"), shape("car", box, "rectangle")]
    )
    with pytest.raises(DatasetError, match="more than case.*Received: Car, car"):
        understand(tmp_path)


def test_more_classes_than_a_label_holds_are_refused(tmp_path):
    box = [[0, 0], [2, 2]]
    labelme_file(tmp_path, [shape(f"c{i}", box, "rectangle") for i in range(300)])
    with pytest.raises(DatasetError, match="1 to 254 classes.*Received: 300"):
        understand(tmp_path)


def test_a_missing_image_is_named_by_its_pair(tmp_path):
    LAYOUTS["supervisely"].write(tmp_path / "set", EXAMPLES, NAMES)
    (tmp_path / "set" / "train" / "img" / "a.jpg").unlink()
    result, _ = build(tmp_path / "set")
    assert "train/a: there is no file" in result.stderr
    assert "1 of 4 pairs cannot be used" in result.stderr


def test_cvat_without_its_images_says_which_box_to_tick(tmp_path):
    LAYOUTS["cvat"].write(tmp_path, EXAMPLES, NAMES)
    (tmp_path / "JPEGImages").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="tick 'Save images'"):
        understand(tmp_path)


def test_roboflow_splits_of_other_classes_are_refused(tmp_path):
    LAYOUTS["roboflow"].write(tmp_path, EXAMPLES, NAMES)
    put(tmp_path / "valid" / "_classes.csv", "Pixel Value, Class\n0, x\n1, y\n")
    with pytest.raises(DatasetError, match="the same classes in all splits"):
        understand(tmp_path)


def test_flags_for_masks_are_refused_where_there_are_none(tmp_path):
    LAYOUTS["labelme"].write(tmp_path / "set", EXAMPLES, NAMES)
    result, _ = build(tmp_path / "set", "--label_ids=0,1")
    assert "Expected nothing that is for masks" in result.stderr


def test_a_class_map_merges_what_was_drawn(tmp_path):
    LAYOUTS["supervisely"].write(tmp_path / "set", EXAMPLES, NAMES)
    put(tmp_path / "map.csv", "background,ground\nroad,ground\ncar,car\nsky,void\n")
    result, records = build(tmp_path / "set", f"--class_map={tmp_path / 'map.csv'}")
    assert result.returncode == 0, result.stderr
    assert read_info(tmp_path / "out").class_names == ("ground", "car")
    table = np.full(256, 255)
    table[:3] = 0, 1, 0
    for e in EXAMPLES:
        label = records[e.name][1]["label"][..., 0]
        np.testing.assert_array_equal(label, table[e.ids])
