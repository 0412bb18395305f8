"""Names in records, lists and archives lead nowhere, rewrite nothing, count nothing."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from datasets import build_folder, inspect_records, unpack
from deeplab_tf import files
from deeplab_tf.data.annotations import coco
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders import folder_splits, pair_lists
from deeplab_tf.data.records.info import DatasetInfo
from deeplab_tf.data.records.tfrecord import encode_example, shard_name
from deeplab_tf.evaluation.scores import table_text
from deeplab_tf.strangers_words import (
    first_ten,
    leads_out,
    name_below,
    printable,
    table_cell,
)
from tests.support.commands import call
from tests.support.pairs import make_pairs, save_image
from tests.support.spoilt_records import png

pytestmark = pytest.mark.two_lanes

OUTSIDE = (
    *(
        "../x",
        "../../x",
        "a/../../x",
        "/tmp/x",
        "//host/x",
        "C:/x",
        "C:x",
        "a\\..\\..\\x",
    ),
    *("\\x", "\\\\host\\share\\x", "..", "", "a\0b"),
)
INSIDE = ("x", "a/x", "./x", "a b/ü.jpg", "..x", "x..", "a/...", ".hidden")


def write_records(folder: Path, *names: str) -> Path:
    folder.mkdir()
    image, label = np.zeros([8, 8, 3], np.uint8), np.zeros([8, 8], np.uint8)
    with tf.io.TFRecordWriter(str(folder / shard_name("val", 0, 1))) as writer:
        for name in names:
            writer.write(encode_example(png(image), label, name, "png", 8, 8))
    info = DatasetInfo("x", ("a", "b"), splits={"val": len(names)})
    (folder / "info.json").write_text(info.to_json())
    return folder


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- Words ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out(name):
    assert leads_out(name)


@pytest.mark.parametrize("name", INSIDE)
def test_names_that_stay(name, tmp_path):
    assert not leads_out(name)
    assert tmp_path / name_below(tmp_path, name) == tmp_path / name
    assert name_below(tmp_path, f"{tmp_path}/{name}") == name_below(tmp_path, name)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a\\..\\..\\x", "", "a\0"])
def test_names_that_are_not_below(name, tmp_path):
    with pytest.raises(ValueError, match="leads out of it"):
        name_below(tmp_path, name)


def test_what_a_terminal_would_obey_is_shown():
    assert printable("a\x1b[2Jb\r\x07ü\n") == "a\\x1b[2Jb\\r\\x07ü\n"
    assert printable("\udcff\u202e") == "\\xff\\u202e"
    assert printable("\ud800\x1b") == "\\ud800\\x1b"


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx"])
def test_formulas_become_text(text):
    assert table_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+3", "road", "a=b", ""])
def test_what_is_no_formula_stays(text):
    assert table_cell(text) == text


def test_ten_failures_are_enough():
    assert first_ten(["a"] * 10) == ["a"] * 10
    assert first_ten(list("abcdefghijkl")) == [*"abcdefghij", "and 2 more"]


def test_scores_of_a_class_called_as_a_formula():
    row = {"iou": 0.5, "accuracy": 1.0, "boundary_f": 1.0, "pixels": 1}
    text = table_text({"per_class": {"=cmd|'/c x'!A1": {**row, "predicted_pixels": 1}}})
    assert text.splitlines()[1].startswith("'=cmd")


# --- Records -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../x", "/tmp/deeplab_out", "a\\..\\..\\..\\x"])
def test_unpack_writes_nothing_outside(tmp_path, name):
    data = write_records(tmp_path / "data", "good", name)
    arguments = (f"--data_dir={data}", f"--output_dir={tmp_path / 'in' / 'out'}")
    result = call(unpack, *arguments)
    assert result.returncode == 1
    assert "Record 1 of split val" in result.stderr
    assert "leads out of --output_dir" in result.stderr
    assert everything(tmp_path / "in") == [
        *("out", "out/images", "out/images/good.png"),
        *("out/labels", "out/labels/good.png"),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "in"]


def test_unpack_follows_no_link_and_writes_through_none(tmp_path):
    data = write_records(tmp_path / "data", "a", "b/c")
    images, outside = tmp_path / "out" / "images", tmp_path / "outside"
    images.mkdir(parents=True)
    outside.mkdir()
    (outside / "a.png").write_text("mine")
    (images / "a.png").symlink_to(outside / "a.png")
    (images / "b").symlink_to(outside)
    with pytest.raises(ValueError, match="images/b is a link that leads out"):
        unpack.unpack(data, "val", tmp_path / "out")
    assert (outside / "a.png").read_text() == "mine"
    assert everything(outside) == ["a.png"]
    assert not (images / "a.png").is_symlink()


def test_unpack_replaces_no_pair_by_another(tmp_path):
    data = write_records(tmp_path / "data", "a", "a")
    with pytest.raises(ValueError, match="is named a, as one before it"):
        unpack.unpack(data, "val", tmp_path / "out")


def test_unpack_names_what_lacks_a_name(tmp_path):
    data = write_records(tmp_path / "data", "", "")
    assert unpack.unpack(data, "val", tmp_path / "out") == 2
    assert (tmp_path / "out" / "labels" / "000001.png").is_file()


def test_a_full_disk_leaves_no_half_picture(tmp_path, monkeypatch):
    data = write_records(tmp_path / "data", "a", "b")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    replace = files.os.replace
    monkeypatch.setattr(
        files.os, "replace", lambda a, b: full() if "b.png" in str(b) else replace(a, b)
    )
    out = tmp_path / "out"
    result = call(unpack, f"--data_dir={data}", f"--output_dir={out}")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "b.png cannot be written: No space left on device" in result.stderr
    written = [path for path in everything(out) if path.endswith("g") or "tmp" in path]
    assert written == ["images/a.png", "labels/a.png"]


def test_escape_sequences_of_records_do_not_reach_the_terminal(tmp_path):
    data = write_records(tmp_path / "data", "a\x1b]0;x\x07", "a\x1b]0;x\x07")
    results = [
        call(inspect_records, str(data)),
        call(unpack, f"--data_dir={data}", f"--output_dir={tmp_path / 'out'}"),
    ]
    for result in results:
        assert "\x1b" not in result.stdout + result.stderr
    assert "a\\x1b]0;x\\x07" in results[1].stderr


# --- Lists ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a\\..\\..\\x.jpg"])
def test_a_json_file_reads_no_image_from_outside(tmp_path, name):
    (tmp_path / "in").mkdir()
    save_image(tmp_path / "x.jpg")
    path = tmp_path / "in" / "instances.json"
    image = {"id": 1, "file_name": name, "height": 4, "width": 6}
    document = {"images": [image], "categories": [{"id": 1, "name": "cat"}]}
    path.write_text(json.dumps({**document, "annotations": []}))
    instances = coco.read_instances(path)
    with pytest.raises(DatasetError, match="instances.json: .* leads out of it"):
        coco.list_samples(instances, path.parent, {1: 1}, ignore_crowd=False)


def test_a_list_reads_nothing_outside_unless_it_is_said(tmp_path):
    (sample,) = make_pairs(tmp_path / "set", ["a"])
    path = tmp_path / "lists" / "pairs.csv"
    path.parent.mkdir()
    for image in (sample.image, "../set/images/a.png"):
        path.write_text(f"image,label\n{image},{sample.label}\n")
        with pytest.raises(DatasetError, match="leads out of it.* --input_dir=/$"):
            pair_lists.read_lists([path], val_fraction=0)
    path.write_text(f"image,label\n{sample.image},{sample.label}\n")
    splits = pair_lists.read_lists([path], "/", val_fraction=0)
    assert splits["train"] == [sample]


def test_a_list_of_names_leads_nowhere(tmp_path):
    make_pairs(tmp_path, ["a"])
    (tmp_path / "train.txt").write_text("a\n../../a\n")
    with pytest.raises(DatasetError, match="../../a, which leads out"):
        folder_splits.list_splits(tmp_path / "images", tmp_path / "labels")


def test_ten_bad_pairs_are_named(tmp_path):
    for sample in make_pairs(tmp_path, [f"{i:02d}" for i in range(12)]):
        Path(sample.label).write_text("no image")
    flags = (f"--input_dir={tmp_path}", f"--output_dir={tmp_path / 'out'}")
    result = call(build_folder, *flags, "--num_classes=2", "--num_processes=1")
    assert "12 of 12 pairs cannot be used:" in result.stderr
    assert result.stderr.count("is not an image file") == 10
    assert "  and 2 more\n" in result.stderr
