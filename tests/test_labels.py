"""Facts of classes and colours, as the data sets' authors publish them."""

from __future__ import annotations

import colorsys
import json

import numpy as np
import pytest

from datasets.sources.catalog import DATASETS
from deeplab_tf.class_tables import (
    CITYSCAPES,
    CITYSCAPES_LABEL_IDS,
    CITYSCAPES_TRAIN_IDS,
    CLASS_TABLES,
    VOC2012,
)
from deeplab_tf.colors import (
    IGNORE_COLOR,
    VISIONS,
    distinct_colormap,
    voc_colormap,
)
from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.labels import colormap_for, hidden_classes, labels_for
from serving import client

# --- Published data sets -------------------------------------------------------------

# Names, label ids and colours of the classes with train ids, in their order: labels.py
# of cityscapesScripts.
CITYSCAPES_ROWS = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
# SegNet's label_colours of the 11 classes.
CAMVID_ROWS = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign_symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}


def test_cityscapes_is_that_of_its_scripts():
    names, label_ids, colors = zip(*CITYSCAPES_ROWS)
    assert CLASS_TABLES["cityscapes"] == (names, colors)
    assert CITYSCAPES_LABEL_IDS == label_ids
    expected = {i: label_ids.index(i) if i in label_ids else 255 for i in range(34)}
    assert CITYSCAPES_TRAIN_IDS == {**expected, 255: 255}


def test_camvid_is_that_of_segnet():
    names, colors = CLASS_TABLES["camvid"]
    assert dict(zip(names, colors)) == CAMVID_ROWS
    assert names == tuple(CAMVID_ROWS)


def test_voc_is_that_of_its_devkit():
    names, colors = CLASS_TABLES["voc2012"]
    assert (names[0], colors[0]) == ("background", (0, 0, 0))
    # All classes but background are in alphabetical order.
    assert len(names) == 21 and list(names[1:]) == sorted(names[1:])
    assert (names[1], colors[1]) == ("aeroplane", (128, 0, 0))
    assert (names[15], colors[15]) == ("person", (192, 128, 128))
    assert (names[20], colors[20]) == ("tvmonitor", (0, 64, 128))


def test_ade20k_is_complete():
    # From objectInfo150 and color150 of the data set's authors: ids 1, 3, 21, 150.
    names, colors = CLASS_TABLES["ade20k"]
    assert len(names) == 150
    assert [names[i] for i in (0, 2, 20, 149)] == ["wall", "sky", "car", "flag"]
    assert colors[2] == (6, 230, 230) and colors[20] == (0, 102, 200)
    assert len(set(colors)) == 149  # road and skyscraper share theirs


def test_coco_is_things_then_stuff():
    stuff, panoptic = (CLASS_TABLES[f"coco_{kind}"] for kind in ("stuff", "panoptic"))
    assert stuff.names[:80] == panoptic.names[:80]
    # Category ids 1, 44, 90: person, bottle, toothbrush.
    assert [stuff.names[i] for i in (0, 39, 79)] == ["person", "bottle", "toothbrush"]
    # Ids 92 to 182, in alphabetical order; 92, 157 and 182: banner, sky-other, wood.
    assert len(stuff.names) == 171
    assert list(stuff.names[80:]) == sorted(stuff.names[80:])
    assert [stuff.names[80 + i - 92] for i in (92, 157, 182)] == [
        "banner",
        "sky-other",
        "wood",
    ]
    # 53 categories: those that were left as they are, then those that were merged.
    assert len(panoptic.names) == 133
    merged = [name.endswith("-merged") for name in panoptic.names[80:]]
    assert merged == sorted(merged) and sum(merged) == 17
    assert set(panoptic.names[80:]) - set(stuff.names[80:]) == {
        name for name in panoptic.names if name.endswith("-merged")
    }
    assert panoptic.names[-1] == "rug-merged"  # id 200
    # Black would say that person is background.
    assert stuff.colors == voc_colormap(172)[1:]
    assert panoptic.colors == voc_colormap(134)[1:]


def test_pascal_context_and_person_part():
    context, part = CLASS_TABLES["pascal_context"], CLASS_TABLES["person_part"]
    assert len(context.names) == 60 and context.names[0] == "background"
    assert list(context.names[1:]) == sorted(context.names[1:])
    assert context.colors == voc_colormap(60)
    assert part.names[0] == "background" and part.names[1:3] == ("head", "torso")
    sides = {
        f"{side} {limb}" for side in ("upper", "lower") for limb in ("arms", "legs")
    }
    assert set(part.names[3:]) == sides and part.colors == voc_colormap(7)


@pytest.mark.parametrize("name", DATASETS)
def test_table_rows_are_whole(name):
    info = DATASETS[name]
    assert info.name == name
    assert len(set(info.class_names)) == len(info.colormap) == info.num_classes
    shared_colors = 1 if name == "ade20k" else 0
    assert len(set(info.colormap)) == info.num_classes - shared_colors
    assert info.ignore_label == 255
    assert DatasetInfo.from_json(info.to_json()) == info


# --- The rule ------------------------------------------------------------------------


def test_colors_that_the_data_brings_go_before_published_ones():
    names, _ = CLASS_TABLES["camvid"]
    brought = [(index, 0, 0) for index in range(11)]
    assert colormap_for(names, brought) == tuple(brought)


@pytest.mark.parametrize("name", CLASS_TABLES)
def test_names_of_a_published_set_have_its_colors(name):
    names, colors = CLASS_TABLES[name]
    assert colormap_for(list(names)) == colors


def test_other_names_have_distinct_colors():
    names, _ = CLASS_TABLES["camvid"]
    for others in (names[::-1], names[:-1], ("Sky", *names[1:]), ("a", "b")):
        assert colormap_for(others) == distinct_colormap(len(others))


def test_info_without_colors_gets_them_by_the_rule():
    names, colors = CLASS_TABLES["cityscapes"]
    assert DatasetInfo("x", names).colormap == colors
    assert DatasetInfo("x", ("a", "b")).colormap == distinct_colormap(2)
    brought = ((1, 2, 3), (4, 5, 6))
    assert DatasetInfo("x", ("a", "b"), colormap=brought).colormap == brought


def test_records_of_before_keep_their_colors():
    info = DatasetInfo("x", ("a", "b", "c"), colormap=voc_colormap(3))
    assert DatasetInfo.from_json(info.to_json()) == info
    # No builder leaves them out, but somebody may have written the file by hand.
    fields = {**json.loads(info.to_json()), "colormap": []}
    assert DatasetInfo.from_json(json.dumps(fields)) == info


# --- Networks whose classes are not known --------------------------------------------


@pytest.mark.parametrize("name", ["voc2012", "cityscapes", "camvid", "ade20k"])
def test_labels_are_those_of_the_data_set_of_that_many_classes(name):
    info = DATASETS[name]
    labels = labels_for(info.num_classes)
    assert labels.class_names == info.class_names
    assert labels.colormap == info.colormap
    assert labels.ignore_label == info.ignore_label


@pytest.mark.parametrize("num_classes", [5, 60, 182])
def test_other_numbers_of_classes_get_distinct_colours(num_classes):
    labels = labels_for(num_classes)
    names = [f"class {index}" for index in range(num_classes)]
    assert list(labels.class_names) == names
    assert labels.colormap == distinct_colormap(num_classes)


# --- Colours -------------------------------------------------------------------------


def test_void_is_painted_alike_by_the_client():
    # A file of its own, which imports nothing of ours.
    assert client.IGNORE_COLOR == IGNORE_COLOR


def test_voc_colormap_is_the_devkits():
    colormap = voc_colormap(256)
    assert len(set(colormap)) == 256
    # From the devkit's documentation: aeroplane, bird, person, tvmonitor, void.
    assert colormap[1] == (128, 0, 0)
    assert colormap[3] == (128, 128, 0)
    assert colormap[15] == (192, 128, 128)
    assert colormap[20] == (0, 64, 128)
    assert colormap[255] == (224, 224, 192)


def seen_distances(colors) -> dict[str, float]:
    """Least CIELAB distance between two of the colours, by vision; OpenCV's CIELAB."""
    cv2 = pytest.importorskip("cv2")
    values = np.array(colors) / 255
    linear = np.where(
        values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4
    )
    result = {}
    for name, matrix in VISIONS.items():
        seen = np.clip(linear @ np.transpose(matrix), 0, 1)
        seen = np.where(
            seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055
        )
        lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2Lab)[0]
        distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        distances[np.diag_indices(len(colors))] = np.inf
        result[name] = distances.min()
    return result


@pytest.mark.parametrize("num_classes, least", [(8, 30), (20, 16), (64, 9)])
def test_colours_are_far_apart_for_every_vision(num_classes, least):
    ours = seen_distances(distinct_colormap(num_classes))
    hues = [
        [255 * value for value in colorsys.hsv_to_rgb(index / num_classes, 0.8, 0.9)]
        for index in range(num_classes)
    ]
    evenly_spaced = seen_distances(hues)
    for vision, distance in ours.items():
        assert distance >= least, vision
        assert distance > 1.2 * evenly_spaced[vision], vision


def test_a_colour_blind_eye_keeps_its_greys_and_confuses_what_it_should():
    for name, matrix in VISIONS.items():
        np.testing.assert_allclose(np.sum(matrix, 1), 1, atol=2e-6, err_msg=name)
    # Red and a green of its lightness for deuteranopia; blue and green for tritanopia.
    red_green = seen_distances([(200, 80, 60), (120, 115, 60)])
    assert red_green["deuteranopia"] < red_green["normal"] / 3
    blue_green = seen_distances([(0, 90, 150), (0, 105, 90)])
    assert blue_green["tritanopia"] < blue_green["normal"] / 3


def test_distinct_colours_begin_with_black_and_never_repeat():
    colors = distinct_colormap(256)
    assert colors[0] == (0, 0, 0) and len(set(colors)) == 256
    assert distinct_colormap(9) == colors[:9]
    assert IGNORE_COLOR not in colors
    for wrong in (0, 257):
        with pytest.raises(ValueError, match=f"1 to 256 classes. Received: {wrong}"):
            distinct_colormap(wrong)


# --- What pictures leave clear -------------------------------------------------------


@pytest.mark.parametrize(
    "names, hide, hidden",
    [
        (VOC2012.names, None, (0,)),
        (("__background__", "cat"), None, (0,)),
        (("_background_", "cat"), None, (0,)),
        (("road", "Background "), None, (1,)),
        (CITYSCAPES.names, None, ()),
        (("class 0", "class 1"), None, ()),
        (VOC2012.names, (), ()),
        (CITYSCAPES.names, ("Sky", "road"), (0, 10)),
        (("background", "cat"), ("cat",), (1,)),
    ],
)
def test_hidden_classes_are_the_background_or_those_that_are_named(names, hide, hidden):
    assert hidden_classes(names, hide) == hidden


def test_a_hidden_class_that_is_none_is_told_with_the_nearest_name():
    with pytest.raises(ValueError, match="such as aeroplane.*Received: airplane"):
        hidden_classes(VOC2012.names, ["airplane"])
