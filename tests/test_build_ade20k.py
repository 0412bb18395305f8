"""ADE20K (SceneParse150): 0 is no class, grey images, both splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import build_ade20k as ade20k
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.records.info import read_info
from tests.support.commands import call
from tests.support.pairs import exif, read_records, save_image, save_label

IDS = np.array([[0, 1, 2, 149, 150, 0]] * 4)


def make_ade(folder: Path) -> Path:
    """Writes ADEChallengeData2016 with three pairs for training and one to validate."""
    root = folder / "ADEChallengeData2016"
    for split, names in (
        (
            "training",
            ("ADE_train_00000002", "ADE_train_00000001", "ADE_train_00020210"),
        ),
        ("validation", ("ADE_val_00000001",)),
    ):
        for name in names:
            save_image(root / "images" / split / f"{name}.jpg")
            save_label(root / "annotations" / split / f"{name}.png", IDS, palette=False)
    for name in ("objectInfo150.txt", "sceneCategories.txt"):
        (root / name).write_text("")
    return root


def build(folder: Path, out: Path, *args, **options):
    return ade20k.build_ade20k(folder, out, *args, num_processes=1, **options)


def test_real_pairs(shared_data, tmp_path):
    folder = shared_data / "samples" / "ade20k"
    info = build(folder, tmp_path / "out")
    assert info.splits == {"val": 3}
    records = read_records(tmp_path / "out", "val")
    assert list(records) == [f"ADE_val_0000000{i}" for i in (1, 2, 3)]
    for name, record in records.items():
        stored = np.array(Image.open(folder / f"annotations/validation/{name}.png"))
        expected = stored.astype(int) - 1
        expected[stored == 0] = 255
        assert (stored == 0).any() and stored.max() <= 150
        np.testing.assert_array_equal(record["label"][..., 0], expected)
    # The first photograph shows a house under the sky, behind grass.
    counts = np.bincount(records["ADE_val_00000001"]["label"].ravel())
    common = np.argsort(counts[:-1])[-3:]
    names = [info.class_names[class_id] for class_id in common]
    assert names == ["grass", "building", "sky"]


def test_both_splits_and_all_ids(tmp_path):
    root = make_ade(tmp_path)
    assert ade20k.list_splits(tmp_path) == ade20k.list_splits(root) == ["train", "val"]
    info = build(tmp_path, tmp_path / "out")
    assert info.splits == {"train": 3, "val": 1}
    train = read_records(tmp_path / "out", "train")
    assert list(train) == [f"ADE_train_{i:08d}" for i in (1, 2, 20210)]
    for record in train.values():
        expected = [[255, 0, 1, 148, 149, 255]] * 4
        np.testing.assert_array_equal(record["label"][..., 0], expected)
    assert info.class_names[0] == "wall" and info.class_names[149] == "flag"


def test_grey_photographs_are_stored_as_rgb(tmp_path):
    root = make_ade(tmp_path)
    path = root / "images" / "validation" / "ADE_val_00000001.jpg"
    save_image(path, mode="L")
    build(root, tmp_path / "out", ["val"])
    image = read_records(tmp_path / "out", "val")["ADE_val_00000001"]["image"]
    grey = np.array(Image.open(path))
    np.testing.assert_array_equal(image, grey[..., None].repeat(3, axis=2))


def test_ids_over_150_are_bad_pairs(tmp_path):
    root = make_ade(tmp_path)
    path = root / "annotations" / "validation" / "ADE_val_00000001.png"
    save_label(path, IDS + 1, palette=False)
    with pytest.raises(
        DatasetError, match="val/ADE_val_00000001: label has the id 151;"
    ):
        build(root, tmp_path / "out")


def test_what_is_missing_is_named(tmp_path):
    root = make_ade(tmp_path)
    (root / "images" / "validation" / "ADE_val_00000001.jpg").unlink()
    save_image(root / "images" / "validation" / "ADE_val_00000009.jpg")
    with pytest.raises(DatasetError) as error:
        build(root, tmp_path / "out", ["val"])
    assert "val/ADE_val_00000001: there is no file" in str(error.value)
    assert "val/ADE_val_00000009: there is no file" in str(error.value)
    with pytest.raises(DatasetError, match="split train or val. Received: test"):
        build(root, tmp_path / "out", ["test"])
    with pytest.raises(DatasetError, match="Expected ADEChallengeData2016 with"):
        build(tmp_path / "elsewhere", tmp_path / "out")


def test_command_line(tmp_path):
    root = make_ade(tmp_path)
    path = root / "images" / "validation" / "ADE_val_00000001.jpg"
    save_image(path, exif=exif(3))
    with pytest.raises(DatasetError, match="--exif_orientation=apply"):
        build(tmp_path, tmp_path / "out")
    arguments = (f"--input_dir={tmp_path}", f"--output_dir={tmp_path}/out")
    result = call(ade20k, *arguments, "--exif_orientation=apply", "--num_processes=1")
    assert result.returncode == 0, result.stderr
    assert read_info(tmp_path / "out").splits == {"train": 3, "val": 1}
    image = read_records(tmp_path / "out", "val")["ADE_val_00000001"]["image"]
    np.testing.assert_array_equal(image, np.array(Image.open(path))[::-1, ::-1])
