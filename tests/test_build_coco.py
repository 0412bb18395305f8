"""COCO's builders: exact ids from polygons, run lengths, segments and maps."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from datasets import build_coco, build_coco_json
from datasets.sources import coco_panoptic
from deeplab_tf.class_tables import (
    COCO_PANOPTIC_STUFF_NAMES,
    COCO_STUFF_NAMES,
    COCO_THING_NAMES,
)
from deeplab_tf.colors import distinct_colormap
from deeplab_tf.data.annotations import coco, coco_regions
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.records.info import read_info
from deeplab_tf.data.records.tfrecord import parse_example, shard_paths
from tests.support.commands import call

ROOT = Path(__file__).resolve().parent.parent
# Written down from COCO's instances_val2017.json: category id -> name, VOC's class id.
VOC_CATEGORIES = {
    5: ("airplane", 1),
    2: ("bicycle", 2),
    16: ("bird", 3),
    9: ("boat", 4),
    44: ("bottle", 5),
    6: ("bus", 6),
    3: ("car", 7),
    17: ("cat", 8),
    62: ("chair", 9),
    21: ("cow", 10),
    67: ("dining table", 11),
    18: ("dog", 12),
    19: ("horse", 13),
    4: ("motorcycle", 14),
    1: ("person", 15),
    64: ("potted plant", 16),
    20: ("sheep", 17),
    63: ("couch", 18),
    7: ("train", 19),
    72: ("tv", 20),
}
THING_IDS = [
    i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
]
PERSON, TRUCK, DOG, ZEBRA = 1, 8, 18, 24


# --- Miniatures ----------------------------------------------------------------------


def box(x0, y0, x1, y1) -> list[list[float]]:
    """A polygon around the pixels [y0:y1, x0:x1]."""
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def run_lengths(mask) -> list[int]:
    """Lengths of runs down the columns, beginning with zeros."""
    counts, value = [0], 0
    for pixel in np.asarray(mask).T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def rle(mask) -> dict:
    return {"size": list(np.shape(mask)), "counts": run_lengths(mask)}


def rectangle(shape, x0, y0, x1, y1) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def annotation(category_id, segmentation, crowd=0, image_id=1, **more) -> dict:
    return {
        "segmentation": segmentation,
        "area": 12.5,
        "iscrowd": crowd,
        "image_id": image_id,
        "bbox": [0, 0, 1, 1],
        "category_id": category_id,
        **more,
    }


def save_image(path: Path, size, mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.stem.encode()))
    pixels = rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def image_entry(image_id, file_name, size=(12, 8)) -> dict:
    return {
        "license": 3,
        "file_name": file_name,
        "coco_url": f"http://images.cocodataset.org/val2017/{file_name}",
        "height": size[1],
        "width": size[0],
        "date_captured": "2013-11-14 11:18:45",
        "id": image_id,
    }


def write_json(path: Path, images, annotations, categories) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    annotations = [{"id": 900 + i, **a} for i, a in enumerate(annotations)]
    document = {
        "info": {"description": "COCO 2017 Dataset", "year": 2017},
        "licenses": [{"id": 3, "name": "Attribution-NonCommercial-NoDerivs License"}],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    path.write_text(json.dumps(document))
    return path


def thing_categories() -> list[dict]:
    return [
        {"supercategory": "any", "id": i, "name": name}
        for i, name in zip(THING_IDS, COCO_THING_NAMES)
    ]


def make_instances(
    folder: Path, annotations_by_image, release="train2017", size=(12, 8), prefix=""
) -> Path:
    """One image for each list of annotations: 1, 2 and so on."""
    images, annotations = [], []
    for image_id, group in enumerate(annotations_by_image, start=1):
        name = f"{prefix}{image_id:012}.jpg"
        save_image(folder / release / name, size)
        images.append(image_entry(image_id, name, size))
        annotations += [{**a, "image_id": image_id} for a in group]
    path = folder / "annotations" / f"instances_{release}.json"
    write_json(path, images, annotations, thing_categories())
    return folder


def read_records(data_dir, split) -> dict[str, dict]:
    records = tf.data.TFRecordDataset(shard_paths(data_dir, split)).map(parse_example)
    return {r["filename"].decode(): r for r in records.as_numpy_iterator()}


def labels_of(data_dir, split) -> dict[str, np.ndarray]:
    records = read_records(data_dir, split)
    return {name: record["label"][..., 0] for name, record in records.items()}


def build_voc(folder: Path, out: Path, **options):
    return build_coco.build_coco(
        folder, out, task="voc", **{"num_processes": 1, "min_pixels": 0, **options}
    )


def only_label(tmp_path, annotations, size=(12, 8)) -> np.ndarray:
    folder = make_instances(tmp_path / "coco", [annotations], "val2017", size)
    build_voc(folder, tmp_path / "out")
    return labels_of(tmp_path / "out", "val")["000000000001"]


@pytest.fixture
def _pycocotools():
    pytest.importorskip("pycocotools", reason="needs pycocotools")


drawn = pytest.mark.usefixtures("_pycocotools")

# --- VOC's classes -------------------------------------------------------------------


@drawn
def test_voc_classes_by_category_id(tmp_path):
    boxes = [box(3 * i, 0, 3 * i + 3, 4) for i in range(21)]
    annotations = [
        annotation(category_id, boxes[i])
        for i, category_id in enumerate(VOC_CATEGORIES)
    ] + [annotation(ZEBRA, boxes[20])]
    label = only_label(tmp_path, annotations, size=(64, 5))
    expected = np.zeros((5, 64), np.uint8)
    for i, (_, class_id) in enumerate(VOC_CATEGORIES.values()):
        expected[:4, 3 * i : 3 * i + 3] = class_id
    np.testing.assert_array_equal(label, expected)
    names = {i: name for i, name in zip(THING_IDS, COCO_THING_NAMES)}
    assert {i: names[i] for i in VOC_CATEGORIES} == {
        i: name for i, (name, _) in VOC_CATEGORIES.items()
    }
    assert read_info(tmp_path / "out").class_names[18] == "sofa"


@drawn
def test_smaller_objects_are_in_front_of_larger_ones(tmp_path):
    small, large = box(2, 2, 5, 5), box(1, 1, 9, 7)
    label = only_label(
        tmp_path,
        [
            annotation(PERSON, small, area=1e6),  # The written area does not count.
            annotation(DOG, large, area=1.0),
            annotation(DOG, box(9, 0, 12, 2)),
            annotation(PERSON, box(10, 0, 12, 3)),  # As many pixels, but later.
            annotation(TRUCK, box(3, 3, 4, 4)),  # No class of VOC hides nothing.
        ],
    )
    expected = np.zeros((8, 12), np.uint8)
    expected[1:7, 1:9] = 12
    expected[2:5, 2:5] = 15
    expected[0:2, 9:12] = 12
    expected[0:3, 10:12] = 15
    np.testing.assert_array_equal(label, expected)


@drawn
def test_crowds_of_voc_classes_are_ignored_behind_other_objects(tmp_path):
    crowd = rectangle((8, 12), 0, 0, 6, 4)
    crowd[1, 1] = 0
    label = only_label(
        tmp_path,
        [
            annotation(DOG, box(0, 2, 12, 7)),  # Larger, but still in front.
            annotation(PERSON, rle(crowd), crowd=1),
            annotation(ZEBRA, rle(rectangle((8, 12), 8, 0, 12, 2)), crowd=1),
        ],
    )
    expected = np.where(crowd, 255, 0).astype(np.uint8)
    expected[2:7] = 12
    np.testing.assert_array_equal(label, expected)


@drawn
def test_polygons_of_several_parts_and_beyond_the_border(tmp_path):
    parts = box(0, 0, 2, 2) + box(6, 5, 9, 8) + box(10.0, -3.5, 14.0, 1.0)
    label = only_label(tmp_path, [annotation(PERSON, parts)])
    expected = np.zeros((8, 12), np.uint8)
    expected[0:2, 0:2] = expected[5:8, 6:9] = expected[0:1, 10:12] = 15
    np.testing.assert_array_equal(label, expected)


@drawn
def test_only_images_with_more_than_1000_pixels_are_kept(tmp_path, capsys):
    size = (60, 50)
    overlapping = [  # 600 + 600 pixels, of which 199 or 200 twice: 1001 or 1000.
        annotation(PERSON, box(0, 0, 30, 20)),
        annotation(DOG, box(0, 0, 20, 10) + box(0, 21, 40, 31)),
    ]
    one_more = annotation(PERSON, box(50, 49, 51, 50))
    crowd = annotation(PERSON, rle(rectangle(size[::-1], 0, 40, 60, 50)), crowd=1)
    zebra = annotation(ZEBRA, box(0, 40, 60, 50))
    images = [overlapping + [crowd, zebra], overlapping + [one_more], [], [zebra]]
    folder = make_instances(tmp_path / "coco", images, size=size)
    make_instances(tmp_path / "coco", images, "val2017", size)
    options = {"min_pixels": build_coco.DEFAULT_MIN_PIXELS}
    info = build_voc(folder, tmp_path / "out", **options)
    assert info.splits == {"train": 1, "val": 4}
    assert sum(info.pixel_counts["train"][1:]) == 1001
    assert sum(info.pixel_counts["val"][1:]) == 2001
    assert list(labels_of(tmp_path / "out", "train")) == ["000000000002"]
    assert "train: dropped 3 of 4 images" in capsys.readouterr().out
    filtered = ("train", "val")
    info = build_voc(folder, tmp_path / "both", filtered_splits=filtered, **options)
    assert info.splits == {"train": 1, "val": 1}
    info = build_voc(folder, tmp_path / "all", min_pixels=-1)
    assert info.splits == {"train": 4, "val": 4}


@drawn
def test_bad_pairs_pass_the_filter_and_are_named(tmp_path):
    images = [
        [annotation(PERSON, [[1, 1, 4, 4]])],
        [annotation(PERSON, box(0, 0, 5, 5))],
    ]
    folder = make_instances(tmp_path / "coco", images)
    with pytest.raises(
        DatasetError, match="train/000000000001: annotation 900 has a polygon of 4 numb"
    ):
        build_voc(folder, tmp_path / "out")
    info = build_voc(folder, tmp_path / "out", skip_bad=True)
    assert info.splits == {"train": 1}


@drawn
def test_grey_images_are_stored_as_rgb(tmp_path):
    folder = make_instances(tmp_path / "coco", [[annotation(DOG, box(0, 0, 3, 3))]])
    path = save_image(folder / "train2017/000000000001.jpg", (12, 8), "L")
    build_voc(folder, tmp_path / "out")
    (record,) = read_records(tmp_path / "out", "train").values()
    with Image.open(path) as image:
        assert image.mode == "L"
        grey = np.array(image)
    np.testing.assert_array_equal(record["image"], np.stack([grey] * 3, -1))


@drawn
def test_labels_fit_the_pixels_as_stored(tmp_path):
    folder = make_instances(tmp_path / "coco", [[annotation(DOG, box(0, 0, 3, 2))]])
    exif = Image.Exif()
    exif[0x0112] = 6  # Viewers turn the image by 90 degrees.
    path = save_image(folder / "train2017/000000000001.jpg", (12, 8), exif=exif)
    build_voc(folder, tmp_path / "out")
    (record,) = read_records(tmp_path / "out", "train").values()
    with Image.open(path) as image:
        np.testing.assert_array_equal(record["image"], np.array(image))
    expected = 12 * rectangle((8, 12), 0, 0, 3, 2)
    np.testing.assert_array_equal(record["label"][..., 0], expected)


@drawn
def test_release_of_2014(tmp_path):
    image = [annotation(DOG, box(0, 0, 3, 3))]
    folder = tmp_path / "coco"
    make_instances(folder, [image], "train2014", prefix="COCO_train2014_")
    build_voc(folder, tmp_path / "2014")
    assert list(labels_of(tmp_path / "2014", "train")) == [
        "COCO_train2014_000000000001"
    ]
    make_instances(folder, [image, image], "train2017")
    with pytest.raises(DatasetError, match="train2014.json.*train2017.json.*--year"):
        build_voc(folder, tmp_path / "both")
    (folder / "images").mkdir()
    (folder / "train2017").rename(folder / "images" / "train2017")
    info = build_voc(folder, tmp_path / "2017", year="2017")
    assert info.splits == {"train": 2}


@drawn
def test_voc_command_with_worker_processes(tmp_path):
    images = [[annotation(PERSON, box(0, 0, 2 + i, 5))] for i in range(5)]
    folder = make_instances(tmp_path / "coco", images)
    result = call(
        build_coco,
        "--task=voc",
        f"--input_dir={folder}",
        f"--output_dir={tmp_path / 'out'}",
        "--min_pixels=15",
        "--num_processes=2",
    )
    assert result.returncode == 0, result.stderr
    assert "train: dropped 2 of 5 images with 15 pixels" in result.stdout
    labels = labels_of(tmp_path / "out", "train")
    assert {name: np.count_nonzero(label) for name, label in labels.items()} == {
        "000000000003": 20,
        "000000000004": 25,
        "000000000005": 30,
    }


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(DatasetError, match=r"instances_\{train,val\}2017.json.*none"):
        build_coco.list_splits(tmp_path, "voc")
    with pytest.raises(DatasetError, match="stuffthingmaps"):
        build_coco.list_splits(tmp_path, "stuff")
    folder = make_instances(tmp_path, [[]])
    with pytest.raises(DatasetError, match="Expected splits among train. Received: va"):
        build_coco.list_samples(folder, "val", "voc")
    shutil.rmtree(folder / "train2017")
    with pytest.raises(DatasetError, match="Expected the images in .*train2017"):
        build_coco.list_samples(folder, "train", "voc")


def test_categories_of_another_data_set_are_refused(tmp_path):
    path = tmp_path / "annotations" / "instances_val2017.json"
    save_image(tmp_path / "val2017/1.jpg", (12, 8))
    categories = [c for c in thing_categories() if c["name"] not in ("tv", "couch")]
    write_json(path, [image_entry(1, "1.jpg")], [], categories)
    with pytest.raises(DatasetError, match="none called couch, tv. .*build_coco_json"):
        build_coco.list_samples(tmp_path, "val", "voc")


# --- Panoptic ------------------------------------------------------------------------


def panoptic_categories() -> list[dict]:
    # The real ids of stuff have gaps too; their order is what counts.
    stuff = [92 + 2 * i for i in range(len(COCO_PANOPTIC_STUFF_NAMES))]
    names = COCO_THING_NAMES + COCO_PANOPTIC_STUFF_NAMES
    return [
        {"supercategory": "any", "isthing": int(i < 91), "id": i, "name": name}
        for i, name in reversed(list(zip(THING_IDS + stuff, names)))
    ]


SEGMENTS = {7: PERSON, 256 * 3 + 1: PERSON, 65536 * 200 + 256 * 5 + 9: 92, 70000: 90}


def make_panoptic(
    folder: Path, png_folder="annotations/panoptic_val2017"
) -> np.ndarray:
    """One image with four segments and void; returns the classes by hand."""
    ids = np.zeros((8, 12), np.uint32)
    ids[:4, :3], ids[:4, 3:6], ids[4:, :6], ids[4:, 6:9] = SEGMENTS
    save_image(folder / "val2017/000000000139.jpg", (12, 8))
    (folder / png_folder).mkdir(parents=True)
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1)
    png = folder / png_folder / "000000000139.png"
    Image.fromarray(colors.astype(np.uint8)).save(png)
    segments = [
        {"id": i, "category_id": c, "iscrowd": int(i == 7), "bbox": [0, 0, 1, 1]}
        for i, c in SEGMENTS.items()
    ]
    entry = {"segments_info": segments, "file_name": png.name, "image_id": 139}
    path = folder / "annotations/panoptic_val2017.json"
    images = [image_entry(139, "000000000139.jpg")]
    write_json(path, images, [entry], panoptic_categories())
    expected = np.full((8, 12), 255, np.uint8)
    expected[:4, :6], expected[4:, :6], expected[4:, 6:9] = 0, 80, 79
    return expected


def build_panoptic(folder: Path, out: Path, **options):
    return build_coco.build_coco(
        folder, out, task="panoptic", **{"num_processes": 1, **options}
    )


@pytest.mark.parametrize(
    "png_folder",
    [
        "annotations/panoptic_val2017",
        "annotations/panoptic_val2017/panoptic_val2017",
        "panoptic_val2017",
    ],
)
def test_panoptic_segments_become_classes(tmp_path, png_folder):
    expected = make_panoptic(tmp_path / "coco", png_folder)
    samples = build_coco.list_samples(tmp_path / "coco", "val", "panoptic")
    assert [sample.name for sample in samples] == ["000000000139"]
    _, label = coco_panoptic.read_sample(samples[0])
    np.testing.assert_array_equal(label, expected)


def test_panoptic_records_of_real_images(shared_data, tmp_path):
    source = shared_data / "samples/coco_panoptic"
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    shutil.copytree(source / "input_images", folder / "val2017")
    json_path = folder / "annotations/panoptic_val2017.json"
    shutil.copy(source / "panoptic_examples.json", json_path)
    shutil.copytree(
        source / "panoptic_examples", folder / "annotations/panoptic_val2017"
    )
    info = build_panoptic(folder, tmp_path / "out")
    assert info.splits == {"val": 2}
    document = json.loads(json_path.read_text())
    names = {c["id"]: c["name"] for c in document["categories"]}
    labels = labels_of(tmp_path / "out", "val")
    for entry in document["annotations"]:
        with Image.open(source / "panoptic_examples" / entry["file_name"]) as image:
            red, green, blue = np.moveaxis(np.array(image, np.int64), -1, 0)
        label = labels[Path(entry["file_name"]).stem]
        left = label != 255
        for segment in entry["segments_info"]:
            inside = red + 256 * green + 65536 * blue == segment["id"]
            assert np.count_nonzero(inside) == segment["area"]
            (class_id,) = np.unique(label[inside])
            assert info.class_names[class_id] == names[segment["category_id"]]
            left &= ~inside
        assert not left.any()
        assert np.count_nonzero(label == 255) == np.count_nonzero(
            red + green + blue == 0
        )


def test_panoptic_files_that_do_not_fit(tmp_path):
    make_panoptic(tmp_path)
    png = tmp_path / "annotations/panoptic_val2017/000000000139.png"
    whole = png.read_bytes()
    with Image.open(png) as image:
        colors = np.array(image)
    colors[7, 11] = 1, 2, 3
    Image.fromarray(colors).save(png)
    (sample,) = build_coco.list_samples(tmp_path, "val", "panoptic")
    with pytest.raises(ValueError, match="JSON does not name: 197121; expected files"):
        coco_panoptic.read_sample(sample)
    Image.fromarray(colors[..., 0]).save(png)
    with pytest.raises(ValueError, match="Pillow mode L; expected RGB"):
        coco_panoptic.read_sample(sample)
    png.write_bytes(whole[:60])
    with pytest.raises(ValueError, match="000000000139.png cannot be decoded"):
        coco_panoptic.read_sample(sample)
    png.unlink()
    with pytest.raises(DatasetError, match="val/000000000139: there is no file .*png"):
        build_panoptic(tmp_path, tmp_path / "out")
    png.parent.rmdir()
    with pytest.raises(
        DatasetError, match="panoptic segments in one of .*panoptic_val"
    ):
        build_coco.list_samples(tmp_path, "val", "panoptic")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda d: d["categories"][3].update(name="rug"),
            "Received: rug instead of building-other-merged",
        ),
        (lambda d: d["categories"].pop(), "the 133 panoptic categories.*Received: 132"),
        (
            lambda d: d["annotations"][0].pop("segments_info"),
            "'segments_info' in every object of annotations",
        ),
        (
            lambda d: d["annotations"][0]["segments_info"][0].update(category_id=12),
            "known 'category_id' for .*139.png. Received: .*12",
        ),
        (
            lambda d: d["annotations"][0].update(image_id=5),
            "Received: 000000000139.png with image_id 5",
        ),
    ],
)
def test_panoptic_json_of_another_kind_is_refused(tmp_path, change, sentence):
    make_panoptic(tmp_path)
    path = tmp_path / "annotations/panoptic_val2017.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=sentence):
        build_coco.list_samples(tmp_path, "val", "panoptic")


# --- Stuff ---------------------------------------------------------------------------


def make_map(path: Path, ids) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(ids, np.uint8)).save(path)
    return path


def test_stuff_ids(tmp_path):
    stored = [[0, 12, 13, 89, 91, 181], [10, 255, 180, 92, 24, 26]]
    expected = [[0, 11, 12, 79, 80, 170], [10, 255, 169, 81, 23, 24]]
    save_image(tmp_path / "val2017/000000000139.jpg", (6, 2))
    make_map(tmp_path / "maps/val2017/000000000139.png", stored)
    # What mmsegmentation's converter leaves in the folder.
    make_map(tmp_path / "maps/val2017/000000000139_labelTrainIds.png", stored)
    where = {"task": "stuff", "stuff_dir": tmp_path / "maps", "num_processes": 1}
    info = build_coco.build_coco(tmp_path, tmp_path / "out", **where)
    assert info.splits == {"val": 1}
    labels = labels_of(tmp_path / "out", "val")
    np.testing.assert_array_equal(labels["000000000139"], expected)
    names = info.class_names
    assert (names[11], names[12]) == ("stop sign", "parking meter")
    assert (names[23], names[24]) == ("giraffe", "backpack")
    assert (names[79], names[80], names[170]) == ("toothbrush", "banner", "wood")
    assert names == COCO_THING_NAMES + COCO_STUFF_NAMES
    (tmp_path / "maps").rename(tmp_path / "stuffthingmaps")
    assert build_coco.list_splits(tmp_path, "stuff") == ["val"]


def test_stuff_uses_171_ids_and_refuses_the_others():
    used = [i - 1 for i in [*THING_IDS, *range(92, 183)]]
    assert len(used) == 171
    label = build_coco.convert_stuff(np.array([used], np.uint8))
    assert label[0].tolist() == list(range(171))
    for stored in set(range(255)) - set(used):
        with pytest.raises(ValueError, match=f"map has the ids {stored}, which"):
            build_coco.convert_stuff(np.array([[0, stored]], np.uint8))


# --- Regions -------------------------------------------------------------------------


def draw(segmentation, shape=(8, 12)) -> np.ndarray:
    image = {"height": shape[0], "width": shape[1]}
    item = annotation(4, json.dumps(segmentation), id=77)
    return coco_regions.rasterize(coco.label_text(image, [item], {4: 9}, False))


@drawn
@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_plain_and_compressed_are_the_same(seed):
    from pycocotools import mask as reference

    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 90, 2).tolist())
    mask = (rng.random(shape) < [0.02, 0.3, 0.7, 1.1][seed]).astype(np.uint8)
    np.testing.assert_array_equal(draw(rle(mask), shape), 9 * mask)
    text = reference.encode(np.asfortranarray(mask))["counts"].decode()
    assert coco_regions.decompress(text) == run_lengths(mask)
    packed = {"size": list(shape), "counts": text}
    np.testing.assert_array_equal(draw(packed, shape), 9 * mask)


@drawn
@pytest.mark.parametrize(
    ("segmentation", "sentence"),
    [
        ([], "no segmentation \\(a box only\\)"),
        (None, "no segmentation"),
        ([[1, 1, 4, 4]], "a polygon of 4 numbers"),
        ([[1, 1, 4, 4, 2]], "a polygon of 5 numbers"),
        ([[1, 1, 4, 4, 2, 2, 3]], "a polygon of 7 numbers"),
        ([1, 1, 4, 4, 2, 2], "no list of polygons"),
        ("1,1,4,4,2,2", "no list of polygons"),
        ([[1, 1, 4, "4", 2, 2]], "something other than numbers"),
        ([[1, 1, 4, None, 2, 2]], "something other than numbers"),
        ([[1, 1, 4, float("nan"), 2, 2]], "through x=4, y=nan"),
        ([[1, 1, 1e9, 3, 2, 2]], "through x=1000000000.0, y=3; expected .* 12x8"),
        ({"counts": [96]}, "\\[height, width\\] None; expected \\[8, 12\\]"),
        ({"size": [12, 8], "counts": [96]}, "\\[12, 8\\]; expected \\[8, 12\\]"),
        ({"size": [8, 12], "counts": [5, 3]}, "of 8 pixels in all; expected 96"),
        ({"size": [8, 12], "counts": [5, 3000]}, "of 3005 pixels"),
        ({"size": [8, 12], "counts": [-4, 100]}, "of 96 pixels"),
        ({"size": [8, 12], "counts": [4.5, 91.5]}, "no list and no text"),
        ({"size": [8, 12]}, "no list and no text"),
        ({"size": [8, 12], "counts": ""}, "of 0 pixels"),
        ({"size": [8, 12], "counts": "0"}, "of 0 pixels"),
        ({"size": [8, 12], "counts": "PPPP"}, "end within a number"),
        ({"size": [8, 12], "counts": "é!"}, "the character 'é'"),
    ],
)
def test_segmentations_that_cannot_be_drawn(segmentation, sentence):
    with pytest.raises(ValueError, match=f"annotation 77 has .*{sentence}"):
        draw(segmentation)


@drawn
def test_images_of_another_size_than_in_the_json_are_named(tmp_path):
    folder = make_instances(tmp_path, [[annotation(DOG, box(0, 0, 3, 3))]])
    save_image(folder / "train2017/000000000001.jpg", (13, 8))
    with pytest.raises(DatasetError, match="image is 13x8 .* label is 12x8"):
        build_voc(folder, tmp_path / "out")


# --- Anyone's JSON -------------------------------------------------------------------

CATEGORIES = [
    {"id": 7, "name": "screw", "supercategory": "parts"},
    {"id": 0, "name": "parts", "supercategory": "none"},
    {"id": 3, "name": "nut", "supercategory": "parts"},
]


def make_own(folder: Path, names=("a", "b", "c"), json_name="own.json", **changes):
    """Images `names` in `folder`: the first has a nut and a screw, the last nothing."""
    images = []
    for image_id, name in enumerate(names, start=1):
        save_image(folder / f"{name}.jpg", (12, 8))
        entry = {"id": image_id, "file_name": f"{name}.jpg", "height": 8, "width": 12}
        images.append(entry)
    annotations = [
        annotation(3, box(1, 1, 4, 4), image_id=1),
        annotation(7, rle(rectangle((8, 12), 6, 0, 9, 8)), crowd=1, image_id=1),
        annotation(7, box(0, 0, 12, 2), image_id=2),
    ]
    lists = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    return write_json(folder / json_name, **{**lists, **changes})


def own_expected() -> np.ndarray:
    expected = np.zeros((8, 12), np.uint8)
    expected[1:4, 1:4] = 1
    expected[:, 6:9] = 2
    return expected


def build_own(*paths, out: Path, **options):
    return build_coco_json.build_coco_json(
        [str(path) for path in paths], out, **{"num_processes": 1, **options}
    )


@drawn
def test_own_json_command(tmp_path):
    path = make_own(tmp_path / "set", ["sub/a", "b", "sub/c.d"])
    result = call(
        build_coco_json,
        f"--annotations={path}",
        f"--output_dir={tmp_path / 'out'}",
        "--val_fraction=0.4",
        "--num_processes=1",
    )
    assert result.returncode == 0, result.stderr
    table = [line.split()[:4] for line in result.stdout.splitlines()[1:4]]
    assert table == [
        ["0", "-", "0", "parts"],
        ["3", "1", "1", "nut"],
        ["7", "2", "2", "screw"],
    ]
    assert "(left out: a supercategory without annotations)" in result.stdout
    info = read_info(tmp_path / "out")
    assert info.class_names == ("background", "nut", "screw")
    assert info.colormap == distinct_colormap(3)
    assert (info.name, info.splits) == ("out", {"train": 2, "val": 1})
    labels = labels_of(tmp_path / "out", "train") | labels_of(tmp_path / "out", "val")
    assert sorted(labels) == ["b", "sub/a", "sub/c.d"]
    np.testing.assert_array_equal(labels["sub/a"], own_expected())
    assert not labels["sub/c.d"].any()


@drawn
def test_own_splits_by_file_and_by_name(tmp_path):
    train = make_own(tmp_path / "train", ["a", "b"], "_annotations.coco.json")
    valid = make_own(tmp_path / "valid", ["c", "d", "e"], "_annotations.coco.json")
    with pytest.raises(DatasetError, match="for _annotations.coco. Name the splits"):
        build_own(train, valid, out=tmp_path / "out")
    info = build_own(f"train={train}", f"val={valid}", out=tmp_path / "out")
    assert info.splits == {"train": 2, "val": 3}
    np.testing.assert_array_equal(
        labels_of(tmp_path / "out", "val")["c"], own_expected()
    )
    options = {"images_dir": tmp_path / "train", "skip_empty": True}
    second = make_own(tmp_path / "train", ["b", "a", "f"], "test.json")
    third = make_own(tmp_path / "train", ["g", "h"], "train.json")
    info = build_own(second, third, out=tmp_path / "stems", **options)
    assert info.splits == {"test": 2, "train": 2}
    info = build_own(f"test={second}", out=tmp_path / "one", **options)
    assert info.splits == {"test": 2}
    odd = make_own(tmp_path / "run=1", ["a", "b"])
    info = build_own(odd, out=tmp_path / "odd", val_fraction=0)
    assert info.splits == {"train": 2}


@drawn
def test_own_crowds_and_background(tmp_path, capsys):
    categories = [{"id": 5, "name": "_Background_"}, *CATEGORIES[:1], CATEGORIES[2]]
    hole = annotation(5, box(7, 1, 8, 2), image_id=1)
    path = make_own(tmp_path, categories=categories)
    document = json.loads(path.read_text())
    document["annotations"].append({**hole, "id": 990})
    document["images"][0]["file_name"] = "sub\\a.jpg"  # As Windows writes it.
    save_image(tmp_path / "sub/a.jpg", (12, 8))
    path.write_text("\ufeff" + json.dumps(document), encoding="utf-8")
    options = {"val_fraction": 0, "ignore_crowd": True}
    info = build_own(path, out=tmp_path / "out", **options)
    assert info.class_names == ("background", "nut", "screw")
    assert "       5      0            1  _Background_ (is class 0)" in (
        capsys.readouterr().out.splitlines()
    )
    expected = own_expected()
    expected[expected == 2] = 255
    expected[1, 7] = 0
    label = labels_of(tmp_path / "out", "train")["sub/a"]
    np.testing.assert_array_equal(label, expected)


@drawn
def test_own_images_that_viewers_show_turned(tmp_path):
    path = make_own(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "a.jpg", (12, 8), exif=exif)
    with pytest.raises(DatasetError, match="a.jpg is shown turned.*exif_orientation"):
        build_own(path, out=tmp_path / "out", val_fraction=0)
    options = {"val_fraction": 0, "exif_orientation": "ignore"}
    build_own(path, out=tmp_path / "out", **options)
    record = read_records(tmp_path / "out", "train")["a"]
    with Image.open(tmp_path / "a.jpg") as image:
        np.testing.assert_array_equal(record["image"], np.array(image))
    np.testing.assert_array_equal(record["label"][..., 0], own_expected())


def own_document(folder: Path) -> dict:
    return json.loads(make_own(folder).read_text())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.pop("images"), "a list of images .* the keys annotations, categ"),
        (lambda d: d.pop("annotations"), "Expected a list of annotations"),
        (lambda d: d.update(categories={}), "Expected a list of categories"),
        (lambda d: d.update(images=[]), "Expected images in .*own.json"),
        (lambda d: d.update(categories=[]), "Expected categories in .*own.json"),
        (lambda d: d["images"][1].pop("height"), "'height' in every object of images"),
        (lambda d: d["images"][1].update(width="12"), "'width' .* as a whole number"),
        (lambda d: d["images"][1].update(width=0), '1x1 pixel or more .*"width": 0'),
        (lambda d: d["images"].append(7), "in every object of images .*Received: 7"),
        (lambda d: d["annotations"][1].pop("image_id"), "'image_id' in every object"),
        (lambda d: d["annotations"][1].update(image_id=9), "901 with image_id 9, whic"),
        (lambda d: d["annotations"][1].update(category_id=9), "901 with category_id 9"),
        (lambda d: d["images"][1].update(id=1), "each id of images once .*: 1$"),
        (lambda d: d["images"][1].update(file_name="a.png"), "each image once .*: a$"),
        (lambda d: d["categories"][1].update(id=7), "each id of categories once"),
        (lambda d: d["categories"][1].update(name="nut"), "each category once .*: nut"),
        (lambda d: d["categories"][1].pop("name"), "'name' in every object of categor"),
        (
            lambda d: [a.update(segmentation=[]) for a in d["annotations"]],
            "Received: boxes only",
        ),
    ],
)
def test_own_json_that_is_not_whole(tmp_path, change, sentence):
    document = own_document(tmp_path)
    change(document)
    path = tmp_path / "own.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=sentence):
        coco.read_instances(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"images": [', "to be JSON. Received: Expecting value: line 1 column 13"),
        (b"\xff\xfe\x00", "to be JSON. Received: .*codec can't decode"),
        (b"[1, 2]", "Received: a list"),
        (b"[" * 100_000, "to be JSON"),
    ],
)
def test_files_that_are_no_json(tmp_path, content, sentence):
    path = tmp_path / "own.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=sentence):
        coco.read_instances(path)
    path.unlink()
    with pytest.raises(DatasetError, match="own.json .No such file"):
        coco.read_instances(path)


@drawn
def test_own_categories_of_several_files_must_agree(tmp_path):
    first = make_own(tmp_path / "one")
    renamed = [{**c, "name": c["name"].upper()} for c in CATEGORIES]
    second = make_own(tmp_path / "two", categories=renamed)
    with pytest.raises(DatasetError, match="PARTS for id 0 in .*two.*, parts before"):
        build_own(f"train={first}", f"val={second}", out=tmp_path / "out")
    moved = [{**c, "id": c["id"] + 20} for c in CATEGORIES]
    second = make_own(tmp_path / "two", categories=moved, annotations=[])
    with pytest.raises(DatasetError, match="several for parts, nut, screw"):
        build_own(f"train={first}", f"val={second}", out=tmp_path / "out")
    fewer = make_own(tmp_path / "two", categories=CATEGORIES[:1], annotations=[])
    info = build_own(f"val={fewer}", f"train={first}", out=tmp_path / "out")
    assert info.class_names == ("background", "nut", "screw")


def test_number_of_own_classes():
    categories = {i: {"id": i, "name": f"c{i}"} for i in range(254)}
    names, class_ids = build_coco_json.choose_classes(categories, {})
    assert len(names) == 255 and class_ids[253] == 254
    categories[254] = {"id": 254, "name": "one too many"}
    with pytest.raises(DatasetError, match="1 to 254 categories .* Received: 255"):
        build_coco_json.choose_classes(categories, {})
    only = {0: {"id": 0, "name": "background"}}
    with pytest.raises(DatasetError, match="Received: 0"):
        build_coco_json.choose_classes(only, {})


def test_a_category_with_annotations_is_a_class_even_as_a_supercategory():
    categories = {c["id"]: c for c in sorted(CATEGORIES, key=lambda c: c["id"])}
    names, class_ids = build_coco_json.choose_classes(categories, {0: 2})
    assert names == ("background", "parts", "nut", "screw")
    assert class_ids == {0: 1, 3: 2, 7: 3}
    # Its own supercategory makes none a root: COCO's person is a person.
    person = {1: {"id": 1, "name": "person", "supercategory": "person"}}
    assert build_coco_json.choose_classes(person, {})[1] == {1: 1}


def test_without_pycocotools_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    sentence = "not installed. Run: python -m pip install pycocotools"
    with pytest.raises(DatasetError, match=sentence):
        build_own(make_own(tmp_path), out=tmp_path / "out")
    with pytest.raises(DatasetError, match=sentence):
        build_voc(make_instances(tmp_path, [[]]), tmp_path / "out")
