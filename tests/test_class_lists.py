"""Lists of class names, in each form that people and tools write them."""

from __future__ import annotations

import pytest

from deeplab_tf.class_tables import CITYSCAPES
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders.class_lists import read_class_list

NAMES = ("sky", "wet road", "car")
COLORS = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
FORMS = {
    "a.txt": "sky\nwet road\ncar\n",
    "b.txt": "0: sky\n1: wet road\n2: car\n",
    "c.csv": "Pixel Value, Class\n0, sky\n1, wet road\n2, car\n",
    "d.json": '["sky", "wet road", "car"]',
    "e.json": '{"0": "sky", "1": "wet road", "2": "car"}',
    "f.json": '{"sky": 0, "wet road": 1, "car": 2}',
    "g.json": '[{"id": 0, "name": "sky"}, {"name": "wet road", "id": 1}, "car"]',
    "h.json": '{"classes": [{"title": "sky"}, {"title": "wet road"}, '
    '{"title": "car"}]}',
    "data.yaml": "train: x\nnames:\n  0: sky\n  1: 'wet road'  # lane\n  2: car\n"
    "nc: 3\n",
    "i.yaml": "nc: 3\nnames: ['sky', \"wet road\", car]\n",
    "j.yaml": "names:\n- sky\n- wet road\n- car\nnc: 3\n",
    "k.yaml": "names: [sky,\n  wet road,\n  car]\n",
    "l.txt": "- sky\n- wet road\n- car\n",
}
COLOR_FORMS = {
    "labelmap.txt": "# label:color:parts:actions\nsky:1,2,3::\nwet road:4,5,6::\n"
    "car:7,8,9::\n",
    "class_dict.csv": "name,r,g,b\nsky,1,2,3\nwet road,4,5,6\ncar,7,8,9\n",
    "info.json": '{"class_names": ["sky", "wet road", "car"], '
    '"colormap": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}',
    "colors.json": '[{"name": "sky", "color": "#010203"}, '
    '{"name": "wet road", "color": [4, 5, 6]}, {"name": "car", "color": [7, 8, 9]}]',
    "by_name.json": '{"sky": [1, 2, 3], "wet road": [4, 5, 6], "car": [7, 8, 9]}',
}


@pytest.mark.parametrize("name", [*FORMS, *COLOR_FORMS])
def test_every_form_gives_the_same_names(tmp_path, name):
    path = tmp_path / name
    path.write_text({**FORMS, **COLOR_FORMS}[name])
    listed = read_class_list(path)
    assert listed.names == NAMES and listed.ids == ()
    assert listed.colors == (COLORS if name in COLOR_FORMS else ())


def test_names_between_commas_and_of_published_sets(tmp_path, monkeypatch):
    assert read_class_list("sky, wet road,car").names == NAMES
    assert read_class_list("cityscapes").names == CITYSCAPES.names
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cityscapes").write_text("mine\n")  # A file counts first.
    assert read_class_list("cityscapes").names == ("mine",)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("7: sky\n9: wet road\n11: car\n", (7, 9, 11)),
        ("id,name\n7,sky\n9,wet road\n11,car\n", (7, 9, 11)),
        ('{"7": "sky", "9": "wet road", "11": "car"}', (7, 9, 11)),
        ("names:\n  7: sky\n  9: wet road\n  11: car\n", (7, 9, 11)),
        # A colour table's void is a place without a class.
        ("sky:1,2,3::\nvoid:0,0,0::\nwet road:4,5,6::\ncar:7,8,9::\n", (0, 2, 3)),
    ],
)
def test_stored_ids_are_kept(tmp_path, text, ids):
    (tmp_path / "list").write_text(text)
    listed = read_class_list(tmp_path / "list")
    assert (listed.names, listed.ids) == (NAMES, ids)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sky\nsky\n", "more than once: sky"),
        ('["sky", 3]', "a list of names"),
        ('{"names": }', "Expected JSON"),
        ("names: 3\n", "Expected names below"),
        ("[]", "Expected a name for each class"),
        ('[{"id": 1}]', "objects with name and id"),
    ],
)
def test_what_is_no_list(tmp_path, text, sentence):
    (tmp_path / "list").write_text(text)
    with pytest.raises(DatasetError, match=sentence):
        read_class_list(tmp_path / "list")


def test_an_absent_file_names_the_other_forms():
    with pytest.raises(DatasetError, match="no file absent.txt.*road,car.*cityscapes"):
        read_class_list("absent.txt")
