"""Folders that differ a little from what tools write: nothing is lost in silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deeplab_tf.data.annotations.found import Options
from deeplab_tf.data.annotations.tools import TOOLS, understand
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders.class_lists import read_class_list
from deeplab_tf.data.folders.color_tables import read_table
from deeplab_tf.data.folders.label_rules import LabelRules, choose_classes
from tests.support.layouts import LAYOUTS, put, put_json
from tests.test_annotation_tools import (
    EXAMPLES,
    NAMES,
    SIZE,
    labelme_file,
    masks,
    read_first,
    shape,
)

BOX = [[0, 0], [2, 2]]
JPEG = EXAMPLES[0].jpeg


def names_of(found) -> dict[str, list[str]]:
    return {split: [s.name for s in samples] for split, samples in found.splits.items()}


def photo(path) -> None:
    put(path, JPEG)


# --- Parts and groups ----------------------------------------------------------------


def test_groups_that_are_no_splits_are_split_by_a_fraction(tmp_path, capsys):
    for group in ("cam1", "cam2"):
        masks(tmp_path, f"images/{group}", f"masks/{group}", label_end="_L")
    photo(tmp_path / "images" / "cam3" / "x.jpg")
    names = ["cam1/a", "cam1/b", "cam2/a", "cam2/b"]
    assert names_of(understand(tmp_path)) == {"": names}
    printed = capsys.readouterr().out
    assert "split by --val_fraction" in printed
    assert "without masks: images/cam3; left out" in printed
    put(tmp_path / "train.txt", "cam1/a\ncam2/b.jpg\n")
    put(tmp_path / "val.txt", "cam1/b\n")
    expected = {"train": ["cam1/a", "cam2/b"], "val": ["cam1/b"]}
    assert names_of(understand(tmp_path)) == expected
    put(tmp_path / "val.txt", "b\n")
    with pytest.raises(DatasetError, match="with their folders in .*val.txt"):
        understand(tmp_path)


def test_pairs_beside_groups_count_and_beside_splits_are_asked_for(tmp_path):
    masks(tmp_path, "images", "masks")
    masks(tmp_path, "images/more", "masks/more")
    assert names_of(understand(tmp_path)) == {"": ["a", "b", "more/a", "more/b"]}
    masks(tmp_path, "images/train", "masks/train")
    with pytest.raises(DatasetError, match=r"images or sub-folders \(splits\)"):
        understand(tmp_path)


@pytest.mark.parametrize("tool", ["roboflow", "coco", "yolo", "supervisely", "split"])
def test_a_split_that_nothing_labels_is_left_out_and_said(tool, tmp_path, capsys):
    if tool == "coco":
        pytest.importorskip("pycocotools")
    if tool == "split":
        masks(tmp_path, "train_images", "train_masks")
    else:
        LAYOUTS[tool].write(tmp_path, EXAMPLES, NAMES)
    test = "test_images" if tool == "split" else "test/images"
    photo(tmp_path / test / "x.jpg")
    understand(tmp_path)
    assert f"Without labels: {test.split('/')[0]}; left out." in capsys.readouterr().out


def test_a_split_of_roboflow_without_its_table_is_read_by_another(tmp_path):
    LAYOUTS["roboflow"].write(tmp_path, EXAMPLES, NAMES)
    (tmp_path / "valid" / "_classes.csv").unlink()
    found = understand(tmp_path)
    assert names_of(found) == {"train": ["a", "b 1", "c"], "val": ["d"]}


def test_data_sets_of_supervisely_may_lie_in_others(tmp_path):
    LAYOUTS["supervisely"].write(tmp_path, EXAMPLES, NAMES)
    (tmp_path / "train").rename(tmp_path / "first")
    (tmp_path / "first" / "datasets").mkdir()
    (tmp_path / "val").rename(tmp_path / "first" / "datasets" / "second")
    expected = ["first/a", "first/b 1", "first/c", "first/datasets/second/d"]
    assert names_of(understand(tmp_path)) == {"": expected}


def test_an_archive_beside_its_folder_does_not_matter(tmp_path):
    LAYOUTS["voc"].write(tmp_path / "export", EXAMPLES, NAMES)
    put(tmp_path / "export.zip", "PK")
    assert understand(tmp_path).num_pairs == len(EXAMPLES)


@pytest.mark.parametrize("layout", ["images", "masks"])
def test_endings_of_any_case_are_pairs(layout, tmp_path):
    masks(tmp_path, "images", "masks", image_end="_sat", label_end="_MASK")
    for path in (tmp_path / layout).iterdir():
        path.rename(path.with_suffix(path.suffix.upper()))
    [samples] = understand(tmp_path).splits.values()
    assert all(Path(p).is_file() for s in samples for p in (s.image, s.label))


def test_jobs_of_coco_are_no_splits(tmp_path):
    pytest.importorskip("pycocotools")
    LAYOUTS["coco"].write(tmp_path / "made", EXAMPLES[:3], NAMES)
    folder, text = tmp_path / "set", "made/train/_annotations.coco.json"
    for job in ("job_1", "job_2"):
        put(folder / f"{job}.json", (tmp_path / text).read_text())
    for name in ("a", "b 1", "c"):
        photo(folder / "images" / f"{name}.jpg")
    found = understand(folder)
    names = [f"{job}/{n}" for job in ("job_1", "job_2") for n in ("a", "b 1", "c")]
    assert names_of(found) == {"": names} and not found.splits_from


def test_lists_of_paddlex_are_splits(tmp_path):
    LAYOUTS["paddleseg"].write(tmp_path, EXAMPLES, NAMES)
    for split in ("train", "val"):
        path = tmp_path / f"{split}.txt"
        path.rename(tmp_path / f"{split}_list.txt")
    assert names_of(understand(tmp_path)) == {"train": ["a", "b 1", "c"], "val": ["d"]}


# --- Which reading -------------------------------------------------------------------


@pytest.mark.parametrize("name", TOOLS)
def test_a_format_that_the_folder_has_not_is_one_sentence(name, tmp_path):
    if name == "coco":
        pytest.importorskip("pycocotools")
    photo(tmp_path / "a.jpg")
    put(tmp_path / "meta.json", '{"classes": []}')
    put(tmp_path / "project.json", '[{"id": 1}]')
    with pytest.raises(DatasetError, match="Expected"):
        understand(tmp_path, name)


def test_masks_beside_regions_are_told_of_with_the_way_to_read_them(tmp_path, capsys):
    masks(tmp_path, "images", "masks")
    labelme_file(tmp_path / "images", [shape("car", BOX, "rectangle")])
    assert understand(tmp_path).drawn
    assert "folders: --format=folders" in capsys.readouterr().out
    put(tmp_path / "images" / "b.json", '{"shapes": 3}')
    with pytest.raises(DatasetError, match="b.json.* folders: --format=folders"):
        understand(tmp_path)
    assert names_of(understand(tmp_path, "folders")) == {"": ["a", "b"]}


def test_endings_are_asked_for_in_voc_too_and_the_answer_counts(tmp_path):
    for ending in ("_color", "_ids"):
        masks(tmp_path, "JPEGImages", "SegmentationClass", label_end=ending)
    with pytest.raises(DatasetError, match="--label_ending=_color"):
        understand(tmp_path)
    [samples] = understand(
        tmp_path, options=Options(label_ending="_ids")
    ).splits.values()
    assert [s.label[-9:] for s in samples] == ["a_ids.png", "b_ids.png"]


def test_masks_of_the_images_own_names_among_others_have_a_way(tmp_path):
    masks(tmp_path, "images", "masks")
    masks(tmp_path, "images", "masks", label_end="_color")
    with pytest.raises(DatasetError, match="own names: move the others elsewhere"):
        understand(tmp_path)


def test_jpeg_masks_beside_their_images_are_told(tmp_path):
    for name in ("a", "a_mask", "b", "b_mask"):
        photo(tmp_path / f"{name}.jpg")
    with pytest.raises(DatasetError, match="holds JPEG files, which alter ids"):
        understand(tmp_path)


# --- Classes -------------------------------------------------------------------------


@pytest.mark.parametrize("old", ["wall", "1"])
def test_a_class_map_merges_the_ids_that_ade20k_stores(old, tmp_path):
    LAYOUTS["ade20k"].write(tmp_path / "set", EXAMPLES, NAMES)
    put(tmp_path / "map.csv", f"{old},wall\n*,other\n")
    rules = LabelRules(class_map=str(tmp_path / "map.csv"))
    rules = understand(tmp_path / "set").with_rules(rules).rules
    classes, _ = choose_classes(rules, [], tmp_path / "out", 1)
    assert classes.names == ("wall", "other")
    # Stored 0 is no class, 1 is wall, 2 and on are building and others.
    assert classes.class_ids[:4] == (255, 0, 1, 1) and classes.class_ids[150] == 1


def test_an_ignored_id_does_not_shift_the_names_of_ade20k(tmp_path):
    LAYOUTS["ade20k"].write(tmp_path, EXAMPLES, NAMES)
    rules = understand(tmp_path).with_rules(LabelRules(ignore_label=(0, 255))).rules
    classes, _ = choose_classes(rules, [], tmp_path / "out", 1)
    assert classes.names[classes.class_ids[1]] == "wall"
    assert classes.class_ids[0] == 255


@pytest.mark.parametrize("tool", ["labelme", "label_studio"])
def test_a_list_without_a_name_that_is_there_is_one_sentence(tool, tmp_path):
    LAYOUTS[tool].write(tmp_path, EXAMPLES, NAMES)
    with pytest.raises(DatasetError, match="in road,car. Received also: sky, void"):
        understand(tmp_path, options=Options(class_names="road,car"))


def test_cvat_takes_names_from_its_colours_alone(tmp_path):
    LAYOUTS["cvat"].write(tmp_path, EXAMPLES, NAMES)
    with pytest.raises(DatasetError, match="labelmap.txt names the classes"):
        understand(tmp_path, options=Options(class_names="road,car"))


def test_cvat_labels_have_numbers_parts_and_actions(tmp_path):
    path = tmp_path / "labelmap.txt"
    put(
        path,
        "# label:color_rgb:parts:actions\nclass 1:9,8,7::\nman:1,2,3:head,foot:run\n",
    )
    assert read_table(path) == (("class 1", (9, 8, 7)), ("man", (1, 2, 3)))


@pytest.mark.parametrize(
    ("text", "names", "ids"),
    [
        ("names: {0: car, 1: 'road way'}  # two", ("car", "road way"), ()),
        ("names: {1: car, 3: road}\nnc: 2", ("car", "road"), (1, 3)),
        ("names:\n  '0': car\n  '1': road\n", ("car", "road"), ()),
        ("data:\n  names: [car, road]\n", ("car", "road"), ()),
        ("names:\n- car\n- road\nnc: 2\n", ("car", "road"), ()),
    ],
)
def test_names_of_yaml_in_its_forms(text, names, ids, tmp_path):
    put(tmp_path / "data.yaml", text)
    assert read_class_list(tmp_path / "data.yaml")[:2] == (names, ids)


def test_yolo_without_a_file_of_classes_takes_those_that_are_said(tmp_path):
    LAYOUTS["yolo"].write(tmp_path, EXAMPLES, NAMES)
    (tmp_path / "data.yaml").unlink()
    options = Options(class_names="car,road,sky,void")
    assert understand(tmp_path, "yolo", options).drawn.classes.names == NAMES


def test_yolo_without_names_says_how_to_give_them(tmp_path):
    LAYOUTS["yolo"].write(tmp_path, EXAMPLES, NAMES)
    put(tmp_path / "data.yaml", "nc: 4\n")
    with pytest.raises(DatasetError, match="--format=yolo --class_names=NAME,NAME"):
        understand(tmp_path)


def test_yolo_finds_its_classes_among_the_labels(tmp_path):
    photo(tmp_path / "images" / "train" / "a.jpg")
    put(tmp_path / "labels" / "train" / "a.txt", "0 0 0 1 0 1 1\n")
    put(tmp_path / "labels" / "classes.txt", "car\n")
    assert names_of(understand(tmp_path)) == {"train": ["a"]}


def test_a_category_of_coco_called_void_is_255(tmp_path):
    pytest.importorskip("pycocotools")
    LAYOUTS["coco"].write(tmp_path, EXAMPLES[:3], [*NAMES[:3], "Void"])
    found, ids = read_first(tmp_path)
    assert found.drawn.classes.names == NAMES[:3]
    expected = np.where(EXAMPLES[0].ids == 3, 255, EXAMPLES[0].ids)
    # The region of void is 0: COCO has none but the category.
    np.testing.assert_array_equal(ids, np.where(expected == 255, ids, expected))
    assert (ids[EXAMPLES[0].ids == 3] == 255).all()


# --- Values that no tool writes ------------------------------------------------------


def test_a_point_without_a_place_is_one_sentence(tmp_path):
    labelme_file(tmp_path, [shape("car", [], "point")])
    with pytest.raises(ValueError, match=r"shape 0 \(car\) of .*a circle of 0 points"):
        read_first(tmp_path)


@pytest.mark.parametrize("title", [["car"], 3, None])
def test_a_title_that_is_no_text_is_one_sentence(title, tmp_path):
    put_json(
        tmp_path / "meta.json", {"classes": [{"title": "car", "color": "#FF0000"}]}
    )
    photo(tmp_path / "ds" / "img" / "a.jpg")
    document = {"size": {"width": 12, "height": 9}, "objects": [{"classTitle": title}]}
    put_json(tmp_path / "ds" / "ann" / "a.jpg.json", document)
    with pytest.raises(
        ValueError, match="object 0 of .* which meta.json does not have"
    ):
        read_first(tmp_path)


@pytest.mark.parametrize("result", [5, "x", None, [3], {}])
def test_results_of_label_studio_that_are_none_name_no_control(result, tmp_path):
    LAYOUTS["label_studio"].write(tmp_path, EXAMPLES, NAMES)
    tasks = json.loads((tmp_path / "project-1.json").read_text())
    for task in tasks:
        task["annotations"][0]["result"] = result
    put_json(tmp_path / "project-1.json", tasks)
    assert understand(tmp_path).drawn.classes.names == NAMES


def test_a_folder_of_images_that_is_absent_is_one_sentence(tmp_path):
    masks(tmp_path, "images", "masks")
    options = Options(images_dir=str(tmp_path / "photos"))
    with pytest.raises(DatasetError, match="Expected a folder. Received: .*photos"):
        understand(tmp_path, options=options)


# --- LabelMe's images ----------------------------------------------------------------


@pytest.mark.parametrize("named", ["/elsewhere/cat.jpg", "C:\\photos\\cat.jpg", ""])
def test_an_image_of_another_machine_is_found_beside_its_json(named, tmp_path):
    boxes = [shape("car", BOX, "rectangle")]
    labelme_file(tmp_path, boxes, imagePath=named)
    if named:
        (tmp_path / "a.jpg").rename(tmp_path / "cat.jpg")
    [sample] = understand(tmp_path).splits[""]
    assert sample.image == str(tmp_path / ("cat.jpg" if named else "a.jpg"))


def test_an_image_that_only_the_json_holds_is_told(tmp_path):
    labelme_file(tmp_path, [shape("car", BOX, "rectangle")], imageData="AAAA")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"a.json: the image .* alone \(imageData\)"):
        understand(tmp_path)


def test_json_in_folders_of_folders_and_behind_long_images_is_found(tmp_path):
    document = {"imageData": "A" * 9000, "imagePath": "../images/a.jpg"}
    document.update(imageWidth=SIZE[0], imageHeight=SIZE[1])
    document["shapes"] = [shape("car", BOX, "rectangle")]
    for split in ("train", "valid"):
        put(tmp_path / split / "json" / "a.json", json.dumps(document))
        photo(tmp_path / split / "images" / "a.jpg")
    found = understand(tmp_path)
    assert names_of(found) == {"train": ["json/a"], "val": ["json/a"]}
    assert found.splits["val"][0].image == str(tmp_path / "valid/images/a.jpg")
