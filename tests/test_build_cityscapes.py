"""Cityscapes: train ids by the published table, layout, coarse labels, small copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import build_cityscapes as cityscapes
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.records.info import read_info
from tests.support.commands import call
from tests.support.pairs import read_records, save_image, save_label

# Id and train id of the labels that cityscapesscripts/helpers/labels.py evaluates.
PUBLISHED = {
    "road": (7, 0),
    "sidewalk": (8, 1),
    "building": (11, 2),
    "wall": (12, 3),
    "fence": (13, 4),
    "pole": (17, 5),
    "traffic light": (19, 6),
    "traffic sign": (20, 7),
    "vegetation": (21, 8),
    "terrain": (22, 9),
    "sky": (23, 10),
    "person": (24, 11),
    "rider": (25, 12),
    "car": (26, 13),
    "truck": (27, 14),
    "bus": (28, 15),
    "train": (31, 16),
    "motorcycle": (32, 17),
    "bicycle": (33, 18),
}


def build(folder: Path, out: Path, *args, **options):
    return cityscapes.build_cityscapes(folder, out, *args, num_processes=1, **options)


def save_pair(
    folder: Path,
    key: str,
    kind: str = "gtFine",
    ids=((7, 33),) * 2,
    ids_file: str = "labelIds",
    size=(2, 2),
    suffix: str = "png",
) -> None:
    """Writes one pair; `key` is SPLIT/CITY/NAME."""
    save_image(folder / "leftImg8bit" / f"{key}_leftImg8bit.{suffix}", size)
    save_label(folder / kind / f"{key}_{kind}_{ids_file}.png", ids, palette=False)


def label_of(data_dir: Path, split: str, name: str) -> np.ndarray:
    return read_records(data_dir, split)[name]["label"][..., 0]


def read_ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def published_train_ids() -> np.ndarray:
    """Stored id -> train id or 255, [256]."""
    table = np.full(256, 255)
    for stored_id, train_id in PUBLISHED.values():
        table[stored_id] = train_id
    return table


# --- Real labels ---------------------------------------------------------------------


def test_real_label_ids_become_the_real_train_ids(shared_data, tmp_path):
    folder = shared_data / "samples" / "cityscapes_mmseg"
    info = build(folder, tmp_path / "out")
    assert info.splits == {"val": 1}
    name = "frankfurt_000000_000294"
    stem = folder / "gtFine" / "val" / "frankfurt" / name
    label = label_of(tmp_path / "out", "val", name)
    ids = read_ids(Path(f"{stem}_gtFine_labelIds.png"))
    np.testing.assert_array_equal(label, published_train_ids()[ids])
    # Made by cityscapesScripts; this copy was reduced on its own, so that 77 pixels at
    # borders differ. Those of the next test, in full size, do not differ at all.
    train_ids = read_ids(Path(f"{stem}_gtFine_labelTrainIds.png"))
    assert np.count_nonzero(label != train_ids) == 77
    assert read_records(tmp_path / "out", "val")[name]["image"].shape == (128, 256, 3)


@pytest.fixture
def half_size(shared_data, tmp_path) -> Path:
    """Two real pairs in the true layout, images half as large as labels."""
    source, folder = shared_data / "samples" / "cityscapes_half", tmp_path / "half"
    for split, name in (
        ("train", "aachen_000012_000019"),
        ("val", "frankfurt_000001_011835"),
    ):
        place = f"{split}/{name.split('_')[0]}"
        for kind, end in (
            ("leftImg8bit", "leftImg8bit.jpg"),
            ("gtFine", "gtFine_labelIds.png"),
        ):
            (folder / kind / place).mkdir(parents=True)
            shutil.copy(source / f"{name}_{end}", folder / kind / place)
    return folder


def test_images_smaller_than_labels(half_size, shared_data, tmp_path):
    with pytest.raises(DatasetError) as error:
        build(half_size, tmp_path / "out")
    assert "2 of 2 pairs" in str(error.value)
    assert (
        "train/aachen_000012_000019: image is 1024x512 (width x height), label is "
        "2048x1024; --resize_labels fits labels to images that were made smaller"
    ) in str(error.value)
    info = build(half_size, tmp_path / "out", resize_labels=True)
    assert info.splits == {"train": 1, "val": 1}
    for split, name in (
        ("train", "aachen_000012_000019"),
        ("val", "frankfurt_000001_011835"),
    ):
        path = f"samples/cityscapes_half/{name}_gtFine_labelTrainIds.png"
        train_ids = read_ids(shared_data / path)
        label = label_of(tmp_path / "out", split, name)
        # The centre of a pixel of the half lies between four; Pillow takes the last.
        np.testing.assert_array_equal(label, train_ids[1::2, 1::2])


# --- Ids -----------------------------------------------------------------------------


def test_every_id_has_its_published_train_id():
    expected = published_train_ids()
    assert tuple(PUBLISHED) == cityscapes.DATASETS["cityscapes"].class_names
    ids = np.array([[*range(34), 255]], np.uint8)
    label = cityscapes.convert_label(ids)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, expected[ids])


@pytest.mark.parametrize("wrong", [34, 254])
def test_unknown_ids_are_bad_pairs(tmp_path, wrong):
    save_pair(tmp_path, "val/ulm/ulm_000000_000019", ids=[[7, wrong], [7, 7]])
    with pytest.raises(
        DatasetError, match=f"ulm_000000_000019: label has the ids {wrong};"
    ):
        build(tmp_path, tmp_path / "out")


def test_train_ids_are_read_where_there_are_no_label_ids(tmp_path):
    only, both = "val/ulm/ulm_000000_000019", "val/ulm/ulm_000001_000019"
    ids = [[18, 255], [7, 8]]
    for key in (only, both):
        save_pair(tmp_path, key, ids=ids, ids_file="labelTrainIds", suffix="jpg")
    save_pair(tmp_path, both, ids=[[7, 0], [33, 255]], suffix="jpg")
    build(tmp_path, tmp_path / "out")
    np.testing.assert_array_equal(
        label_of(tmp_path / "out", "val", Path(only).name), ids
    )
    np.testing.assert_array_equal(
        label_of(tmp_path / "out", "val", Path(both).name), [[0, 255], [18, 255]]
    )
    save_pair(tmp_path, only, ids=[[19, 0], [0, 0]], ids_file="labelTrainIds")
    with pytest.raises(DatasetError, match="label has the ids 19; expected 0 to 18"):
        build(tmp_path, tmp_path / "other")


# --- Layout --------------------------------------------------------------------------


def make_all(folder: Path) -> Path:
    save_pair(folder, "train/ulm/ulm_000001_000019", ids=[[7, 8]] * 2)
    save_pair(folder, "train/bochum/bochum_000000_000313", ids=[[7, 8]] * 2)
    save_pair(folder, "val/lindau/lindau_000000_000019")
    save_pair(folder, "test/bonn/bonn_000000_000019", ids=[[0, 0]] * 2)
    save_pair(folder, "train_extra/erlangen/erlangen_000000_000000", "gtCoarse")
    ids = [[11, 0]] * 2
    save_pair(folder, "train/ulm/ulm_000001_000019", "gtCoarse", ids=ids)
    save_pair(folder, "train/bochum/bochum_000000_000313", "gtCoarse", ids=ids)
    return folder


def test_splits_and_names(tmp_path):
    folder = make_all(tmp_path / "cityscapes")
    # What is in the archives besides, and is not needed.
    beside = folder / "gtFine" / "train" / "ulm" / "ulm_000001_000019_gtFine"
    save_image(Path(f"{beside}_color.png"), (2, 2))
    Path(f"{beside}_polygons.json").write_text("{}")
    (folder / "gtFine/val/lindau/._lindau_000000_000019_gtFine_labelIds.png").touch()
    assert cityscapes.list_splits(folder) == ["train", "val"]
    info = build(folder, tmp_path / "out")
    assert info.splits == {"train": 2, "val": 1}
    assert list(read_records(tmp_path / "out", "train")) == [
        "bochum_000000_000313",
        "ulm_000001_000019",
    ]


def test_coarse_labels(tmp_path):
    folder = make_all(tmp_path / "cityscapes")
    info = build(folder, tmp_path / "out", coarse=True)
    assert info.splits == {"train_extra": 1}
    build(folder, tmp_path / "both", ["train"], coarse=True)
    label = label_of(tmp_path / "both", "train", "ulm_000001_000019")
    np.testing.assert_array_equal(label, [[2, 255]] * 2)
    build(folder, tmp_path / "mixed", ["train", "train_extra"])
    label = label_of(tmp_path / "mixed", "train", "ulm_000001_000019")
    np.testing.assert_array_equal(label, [[0, 1]] * 2)


def test_a_broken_image_is_named_and_can_be_skipped(tmp_path):
    folder = make_all(tmp_path / "cityscapes")
    key = "train_extra/troisdorf/troisdorf_000000_000073"
    save_pair(folder, key, "gtCoarse", ids=np.full((64, 64), 7), size=(64, 64))
    path = folder / "leftImg8bit" / f"{key}_leftImg8bit.png"
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(DatasetError, match="troisdorf_000000_000073: .* be decoded"):
        build(folder, tmp_path / "out", coarse=True)
    info = build(folder, tmp_path / "out", coarse=True, skip_bad=True)
    assert info.splits == {"train_extra": 1}


def test_what_is_missing_is_named(tmp_path):
    folder = make_all(tmp_path / "cityscapes")
    gone = "ulm/ulm_000001_000019"
    (folder / "leftImg8bit" / "train" / f"{gone}_leftImg8bit.png").unlink()
    gone = "bochum/bochum_000000_000313"
    (folder / "gtFine" / "train" / f"{gone}_gtFine_labelIds.png").unlink()
    with pytest.raises(DatasetError) as error:
        build(folder, tmp_path / "out", ["train"])
    assert "train/ulm_000001_000019: there is no file" in str(error.value)
    assert "train/bochum_000000_000313: there is no file" in str(error.value)
    with pytest.raises(DatasetError, match="labels of test are not public"):
        build(folder, tmp_path / "out", ["test"])
    with pytest.raises(
        DatasetError, match="leftImg8bit and gtFine/train or gtFine/val"
    ):
        build(tmp_path, tmp_path / "out")
    with pytest.raises(DatasetError, match="and gtCoarse/train_extra in it"):
        build(tmp_path, tmp_path / "out", coarse=True)
    with pytest.raises(
        DatasetError, match="val/lindau_.* there is no file .*gtCoarse_"
    ):
        build(folder, tmp_path / "out", ["val"], coarse=True)
    shutil.rmtree(folder / "leftImg8bit" / "val")
    with pytest.raises(DatasetError, match="Expected images CITY/NAME_left.*: none"):
        build(folder, tmp_path / "out", ["val"], coarse=True)


def test_labels_do_not_grow(tmp_path):
    save_pair(tmp_path, "val/ulm/ulm_000000_000019", size=(4, 4))
    with pytest.raises(DatasetError, match="image is 4x4 .* label is 2x2; --resize_l"):
        build(tmp_path, tmp_path / "out", resize_labels=True)


def test_command_line(tmp_path):
    folder = make_all(tmp_path / "cityscapes")
    arguments = (f"--input_dir={folder}", f"--output_dir={tmp_path}/out", "--coarse")
    result = call(cityscapes, *arguments, "--num_processes=1")
    assert result.returncode == 0, result.stderr
    assert read_info(tmp_path / "out").splits == {"train_extra": 1}
