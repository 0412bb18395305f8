"""Builders: exact ids, whole data sets or none, and a sentence for every bad pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from datasets import build_camvid, build_folder, build_voc2012
from datasets.sources.catalog import DATASETS
from deeplab_tf.data.building import files, pairs
from deeplab_tf.data.building.dataset import build_dataset
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.building.pairs import Sample
from deeplab_tf.data.records.info import DatasetInfo, read_info
from deeplab_tf.data.records.tfrecord import shard_paths
from tests.support.commands import call
from tests.support.pairs import (
    PALETTE,
    exif,
    files_of,
    grey_png,
    make_pairs,
    read_records,
    save_image,
    save_label,
)

TWO_CLASSES = DatasetInfo("two", ("a", "b"))


# Importing this file would cost worker processes the import of TensorFlow.
read_pair = build_voc2012.read_sample


def build_two(folder: Path, samples, read=read_pair, **options):
    options = {"num_processes": 1, **options}
    return build_dataset(folder, TWO_CLASSES, {"train": samples}, read, **options)


# --- Real data -----------------------------------------------------------------------


def test_voc_masks_come_back_with_exactly_their_ids(shared_data, tmp_path):
    devkit = shared_data / "VOCdevkit"
    out = tmp_path / "voc"
    info = build_voc2012.build_voc2012(devkit, out, ["train"], num_processes=1)
    assert info.splits == {"train": 50}
    assert read_info(out) == info
    records = read_records(out, "train")
    counts = np.zeros(21, np.int64)
    for name, record in records.items():
        with Image.open(devkit / "VOC2012/SegmentationClass" / f"{name}.png") as mask:
            assert mask.mode == "P"
            ids = np.array(mask)
        np.testing.assert_array_equal(record["label"][..., 0], ids)
        assert record["image"].shape == (*ids.shape, 3)
        counts += [np.count_nonzero(ids == c) for c in range(21)]
    names = (devkit / "VOC2012/ImageSets/Segmentation/train.txt").read_text().split()
    assert list(records) == names
    assert info.pixel_counts["train"] == counts.tolist()


def test_image_bytes_are_untouched(shared_data, tmp_path):
    out = tmp_path / "voc"
    build_voc2012.build_voc2012(
        shared_data / "VOCdevkit/VOC2012", out, ["train"], num_processes=1, num_shards=1
    )
    record = next(iter(tf.data.TFRecordDataset(shard_paths(out, "train")))).numpy()
    feature = tf.train.Example.FromString(record).features.feature
    name = feature["image/filename"].bytes_list.value[0].decode()
    image = shared_data / "VOCdevkit/VOC2012/JPEGImages" / f"{name}.jpg"
    assert feature["image/encoded"].bytes_list.value[0] == image.read_bytes()
    assert feature["image/format"].bytes_list.value[0] == b"jpeg"


def test_camvid_lists_and_ids(shared_data, tmp_path):
    camvid = shared_data / "camvid"
    assert build_camvid.list_splits(camvid) == ["train", "val"]
    train = build_camvid.list_samples(camvid, "train")
    val = build_camvid.list_samples(camvid, "val")
    assert (len(train), len(val)) == (367, 101)
    splits = {"train": train[:6], "val": val[:3]}
    out = tmp_path / "camvid"
    info = build_dataset(
        out, DATASETS["camvid"], splits, build_camvid.read_sample, num_processes=1
    )
    assert info.splits == {"train": 6, "val": 3}
    for name, record in read_records(out, "val").items():
        ids = np.array(Image.open(camvid / "valannot" / f"{name}.png"))
        np.testing.assert_array_equal(record["label"][..., 0], ids)


# --- VOC and CamVid layouts, drawn here ----------------------------------------------


def make_devkit(folder: Path, names=("a", "b")) -> Path:
    devkit = folder / "VOCdevkit" / "VOC2012"
    lists = devkit / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(names) + "\n")
    for name in names:
        save_image(devkit / "JPEGImages" / f"{name}.jpg")
        save_label(devkit / "SegmentationClass" / f"{name}.png")
    return devkit


def test_voc_accepts_both_folders_and_lists_of_paths(tmp_path):
    devkit = make_devkit(tmp_path)
    lists = devkit / "ImageSets" / "Segmentation"
    lists.joinpath("test.txt").write_text("no_public_mask\n")
    lists.joinpath("trainaug.txt").write_text(
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n"
        "/JPEGImages/sbd.jpg /SegmentationClassAug/sbd.png\n"
    )
    aug = save_label(devkit / "SegmentationClassAug" / "sbd.png", palette=False)
    assert build_voc2012.list_splits(devkit.parent) == ["train", "trainaug"]
    first, second = build_voc2012.list_samples(devkit.parent, "trainaug")
    assert first == build_voc2012.list_samples(devkit, "train")[0]
    assert second.label == str(aug)
    with pytest.raises(DatasetError, match="Received: .*JPEGImages"):
        build_voc2012.list_splits(devkit / "JPEGImages")
    with pytest.raises(DatasetError, match="no file .*minival.txt"):
        build_voc2012.list_samples(devkit, "minival")
    lists.joinpath("val.txt").write_text("\n \n")
    with pytest.raises(DatasetError, match="at least one name in .*val.txt"):
        build_voc2012.list_samples(devkit, "val")


def test_camvid_void_11_becomes_255_in_segnets_own_layout(tmp_path):
    folder = tmp_path / "CamVid"
    save_image(folder / "test" / "x.png")
    ids = np.array([[0, 10, 11, 255, 3, 11]] * 4)
    save_label(folder / "testannot" / "x.png", ids, palette=False)
    folder.joinpath("test.txt").write_text(
        "/SegNet/CamVid/test/x.png /SegNet/CamVid/testannot/x.png\n"
    )
    out = tmp_path / "out"
    info = build_camvid.build_camvid(folder, out, num_processes=1)
    assert info.splits == {"test": 1}
    label = read_records(out, "test")["x"]["label"][..., 0]
    np.testing.assert_array_equal(label, [[0, 10, 255, 255, 3, 255]] * 4)
    assert info.pixel_counts["test"] == [4, 0, 0, 4, 0, 0, 0, 0, 0, 0, 4]
    with pytest.raises(DatasetError, match="Expected a CamVid folder"):
        build_camvid.list_splits(tmp_path)


# --- Masks that Pillow reads otherwise than they are stored --------------------------


@pytest.mark.parametrize("bit_depth", [1, 2, 4])
def test_grey_masks_of_few_bits_keep_their_ids(tmp_path, bit_depth):
    ids = np.random.default_rng(0).integers(0, 2**bit_depth, (5, 9))
    path = tmp_path / "mask.png"
    path.write_bytes(grey_png(ids, bit_depth))
    np.testing.assert_array_equal(files.read_label(str(path)), ids)


def test_palette_masks_of_few_bits_keep_their_ids(tmp_path):
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(ids)
    image.putpalette(PALETTE)
    image.save(tmp_path / "mask.png", bits=4)
    assert (tmp_path / "mask.png").read_bytes()[24] == 4
    np.testing.assert_array_equal(files.read_label(str(tmp_path / "mask.png")), ids)


def test_masks_that_hold_no_ids_are_refused(tmp_path):
    path = save_image(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="rgb.png has colours.*one channel of class"):
        files.read_label(str(path))
    path = tmp_path / "deep.png"
    path.write_bytes(grey_png(np.array([[1, 300]]), 16))
    with pytest.raises(ValueError, match="deep.png has colours or more than 8 bits"):
        files.read_label(str(path))
    path = save_image(tmp_path / "lossy.jpg", mode="L")
    with pytest.raises(ValueError, match="lossy.jpg is a JPEG, which alters ids"):
        files.read_label(str(path))
    with pytest.raises(ValueError, match="there is no file .*absent.png"):
        files.read_label(str(tmp_path / "absent.png"))
    with pytest.raises(ValueError, match="cannot read"):
        files.read_label(str(tmp_path))


# --- Bad pairs -----------------------------------------------------------------------


@pytest.fixture
def bad_pairs(tmp_path) -> list[Sample]:
    """Six bad pairs between two good ones."""
    names = ("good1", "cut", "text", "size", "ids", "alone", "grey", "good2")
    samples = {s.name: s for s in make_pairs(tmp_path, names)}
    cut = save_image(tmp_path / "images" / "cut.jpg", (64, 64))
    cut.write_bytes(cut.read_bytes()[:-300])
    samples["cut"] = samples["cut"]._replace(image=str(cut))
    Path(samples["text"].image).write_text("not an image")
    save_image(Path(samples["size"].image), (4, 6))
    save_label(Path(samples["ids"].label), [[0, 1, 2, 40, 255, 0]] * 4)
    Path(samples["alone"].label).unlink()
    save_image(Path(samples["grey"].image), mode="L")
    return list(samples.values())


SENTENCES = {
    "cut": "cut.jpg cannot be decoded",
    "text": "text.png is not an image file",
    "size": "image is 4x6 (width x height), label is 6x4; expected the same size",
    "ids": "label has the ids 2, 40; expected 0 to 1 or 255 (ignored)",
    "alone": "there is no file ",
    "grey": "grey.png has Pillow mode L; expected RGB",
}


def test_all_bad_pairs_are_named_in_one_error(bad_pairs, tmp_path):
    with pytest.raises(DatasetError) as error:
        build_two(tmp_path / "out", bad_pairs)
    first, *lines, last = str(error.value).splitlines()
    assert first.startswith("6 of 8 pairs cannot be used")
    assert "--skip_bad" in last
    assert len(lines) == len(SENTENCES)
    for line, (name, sentence) in zip(lines, SENTENCES.items()):
        assert line.startswith(f"  train/{name}: ")
        assert sentence in line
    assert not (tmp_path / "out").exists()


def test_skip_bad_goes_on_without_them(bad_pairs, tmp_path, capsys):
    info = build_two(tmp_path / "out", bad_pairs, skip_bad=True)
    assert info.splits == {"train": 2}
    assert info.pixel_counts == {"train": [24, 16]}
    assert list(read_records(tmp_path / "out", "train")) == ["good1", "good2"]
    printed = capsys.readouterr().err
    assert "Skipped 6 of 8 pairs" in printed
    assert all(sentence in printed for sentence in SENTENCES.values())


def test_skip_bad_does_not_write_an_empty_split(bad_pairs, tmp_path):
    with pytest.raises(DatasetError, match="Split train has no pair"):
        build_two(tmp_path / "out", bad_pairs[1:-1], skip_bad=True)
    assert not (tmp_path / "out").exists()


def test_images_that_would_be_shown_otherwise_are_refused(tmp_path):
    turned = save_image(tmp_path / "turned.jpg", exif=exif(6)).read_bytes()
    with pytest.raises(ValueError, match="EXIF orientation 6"):
        pairs.check_image(turned, "turned.jpg")
    cmyk = save_image(tmp_path / "cmyk.jpg", mode="CMYK").read_bytes()
    with pytest.raises(ValueError, match="mode CMYK; expected RGB"):
        pairs.check_image(cmyk, "cmyk.jpg")
    bitmap = save_image(tmp_path / "x.bmp").read_bytes()
    with pytest.raises(ValueError, match="BMP file; expected JPEG or PNG"):
        pairs.check_image(bitmap, "x.bmp")


def test_wrong_requests(tmp_path):
    pairs = make_pairs(tmp_path, "ab")
    with pytest.raises(DatasetError, match="more than once: a"):
        build_two(tmp_path / "out", [*pairs, pairs[0]])
    with pytest.raises(DatasetError, match="Split train is empty"):
        build_two(tmp_path / "out", [])
    with pytest.raises(DatasetError, match="at least one split"):
        build_dataset(tmp_path / "out", TWO_CLASSES, {}, read_pair)
    with pytest.raises(DatasetError, match="Received: 0 and 1"):
        build_two(tmp_path / "out", pairs, num_shards=0)


# --- A whole data set or none --------------------------------------------------------


def test_shards_do_not_depend_on_processes(tmp_path):
    pairs = make_pairs(tmp_path, [f"{i:02d}" for i in range(21)])
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "again"]
    for folder, processes in ((folders[0], 1), (folders[1], 2), (folders[2], 1)):
        build_two(folder, pairs, num_processes=processes)
    one, two, again = map(files_of, folders)
    assert set(one) == {
        *(f"train-{i:05d}-of-00004.tfrecord" for i in range(4)),
        "info.json",
    }
    assert one == two == again


def test_fewer_samples_than_shards(tmp_path):
    build_two(tmp_path / "out", make_pairs(tmp_path, "abc"), num_shards=10)
    assert len(shard_paths(tmp_path / "out", "train")) == 3


def test_existing_output_is_kept_without_overwrite(tmp_path):
    pairs = make_pairs(tmp_path, "ab")
    out = tmp_path / "out"
    out.mkdir()  # An empty folder is no obstacle.
    build_two(out, pairs)
    before = files_of(out)
    with pytest.raises(DatasetError, match="out exists already.*--overwrite"):
        build_two(out, pairs[:1])
    assert files_of(out) == before
    with pytest.raises(DatasetError, match="train/b: there is no file x"):
        build_two(out, [pairs[0], pairs[1]._replace(label="x")], overwrite=True)
    assert files_of(out) == before
    assert build_two(out, pairs[:1], overwrite=True).splits == {"train": 1}
    assert len(shard_paths(out, "train")) == 1
    assert not list(tmp_path.glob("out.*"))
    assert set(files_of(out)) == {"train-00000-of-00001.tfrecord", "info.json"}


def test_overwrite_deletes_nothing_but_data_sets(tmp_path):
    pairs = make_pairs(tmp_path, "ab")
    with pytest.raises(DatasetError, match="no data set of ours"):
        build_two(tmp_path / "images", pairs, overwrite=True)
    assert (tmp_path / "images" / "a.png").is_file()
    with pytest.raises(DatasetError, match="a file"):
        build_two(tmp_path / "images" / "a.png", pairs, overwrite=True)


# --- Command line --------------------------------------------------------------------


def test_command_line_of_folder(tmp_path):
    make_pairs(tmp_path, "abc", ids=[[0, 255, 255, 0, 0, 0]] * 4)
    arguments = (f"--input_dir={tmp_path}", f"--output_dir={tmp_path}/out")
    result = call(build_folder, *arguments)
    assert result.returncode == 1
    assert "Error: Expected labels with two classes" in result.stderr
    assert "Traceback" not in result.stderr
    result = call(build_folder, *arguments, "--label_ids=0,255", "--val_fraction=0.4")
    assert result.returncode == 0, result.stderr
    assert read_info(tmp_path / "out").splits == {"train": 2, "val": 1}
