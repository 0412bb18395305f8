"""`datasets.inspect_records`: what it finds in records whose content is known."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageFont

from datasets import build_camvid, inspect_records
from deeplab_tf.class_weights import median_frequency_weights
from deeplab_tf.colors import IGNORE_COLOR
from deeplab_tf.config import TrainConfig, parse_changes
from deeplab_tf.data.inspection.contact_sheet import (
    Example,
    draw_contact_sheet,
    fit,
    shorten,
)
from deeplab_tf.data.inspection.facts import spread_indices
from deeplab_tf.data.inspection.report import count_of
from deeplab_tf.data.reading import bootstrap
from deeplab_tf.data.records.info import INFO_FILE, DatasetInfo
from deeplab_tf.data.records.tfrecord import encode_example, shard_name
from deeplab_tf.training.losses import balanced_class_weights
from tests.support.commands import call

ROOT = Path(__file__).resolve().parent.parent
INFO = DatasetInfo(
    "drawn",
    ("ground", "cat", "dog", "eel"),
    colormap=((0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)),
)


def picture(seed: int, size=(8, 6)) -> np.ndarray:
    width, height = size
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def encoded(pixels: np.ndarray, image_format="png", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def label_of(*ids, size=(8, 6)) -> np.ndarray:
    """Rows of equal ids, as many rows as ids are given; the last fills up."""
    width, height = size
    rows = [*ids, *[ids[-1]] * (height - len(ids))]
    return np.repeat(np.array(rows, np.uint8)[:, np.newaxis], width, axis=1)


def write_split(folder: Path, split: str, examples, num_shards=1) -> list[np.ndarray]:
    """Writes (name, image bytes, label) examples; returns the labels."""
    for index in range(num_shards):
        path = folder / shard_name(split, index, num_shards)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for name, image, label in examples[index::num_shards]:
                kind = "jpeg" if image.startswith(b"\xff\xd8") else "png"
                writer.write(encode_example(image, label, name, kind, *label.shape))
    return [label for _, _, label in examples]


def write_info(folder: Path, **labels) -> None:
    counts = {
        split: [sum(int((x == c).sum()) for x in arrays) for c in range(4)]
        for split, arrays in labels.items()
    }
    splits = {split: len(arrays) for split, arrays in labels.items()}
    info = dataclasses.replace(INFO, splits=splits, pixel_counts=counts)
    (folder / INFO_FILE).write_text(info.to_json())


@pytest.fixture
def records(tmp_path) -> Path:
    """Two splits that share images, with every oddity that is to be found once."""
    same = encoded(picture(0))
    train = [
        ("a", same, label_of(0, 1)),
        ("again", same, label_of(0, 1)),
        ("anew", encoded(picture(0), compress_level=1), label_of(0, 2)),
        ("cats", encoded(picture(1)), label_of(1)),
        ("void", encoded(picture(2, (6, 8))), label_of(255, size=(6, 8))),
        ("half", encoded(picture(3)), label_of(255, 255, 255, 0)),
        ("photo", encoded(picture(4), "jpeg"), label_of(0, 1)),
    ]
    val = [
        ("leak", same, label_of(0, 1)),
        ("cats", encoded(picture(9)), label_of(0, 2, 0)),
    ]
    write_info(
        tmp_path,
        train=write_split(tmp_path, "train", train, 2),
        val=write_split(tmp_path, "val", val),
    )
    return tmp_path


def test_oddities_are_found(records, capsys):
    summary = inspect_records.inspect(records)
    train = summary["splits"]["train"]
    assert (train["examples"], train["shards"]) == (7, 2)
    shards = list(records.glob("train-*"))
    assert train["bytes"] == sum(path.stat().st_size for path in shards)
    assert train["formats"] == {"png": 6, "jpeg": 1}
    assert train["width"] == {"min": 6, "median": 8.0, "max": 8}
    assert train["frequent_sizes"][0] == {"width": 8, "height": 6, "images": 6}
    assert (train["landscape"], train["portrait"]) == (6 / 7, 1 / 7)
    assert train["wholly_ignored"] == ["void"]
    assert {k: set(v) for k, v in train["single_class"].items()} == {
        "cat": {"cats"},
        "ground": {"half"},
    }
    assert train["most_ignored"] == [
        {"name": "void", "share": 1.0},
        {"name": "half", "share": 0.5},
    ]
    assert train["ignored_share"] == (48 + 24) / (7 * 48)
    assert train["absent_classes"] == ["eel"]
    assert summary["disagreements"] == []
    text = capsys.readouterr().out
    assert "images without any class: 1 (void)" in text
    assert "images of cat alone: 1 (cats)" in text
    assert "classes that never occur: 1 (eel)" in text


def test_classes_are_counted_as_by_hand(records):
    rows = inspect_records.inspect(records, splits=["train"])["splits"]["train"][
        "classes"
    ]
    # Rows of 8 pixels: ground 1 + 1 + 1 + 3 + 1, cat 5 + 5 + 6 + 5, dog 5.
    assert [row["pixels"] for row in rows] == [56, 168, 40, 0]
    assert [row["images"] for row in rows] == [5, 4, 1, 0]
    assert rows[1]["share"] == 168 / 264
    assert rows[1]["image_share"] == 4 / 7
    assert [row["balanced_weight"] for row in rows] == [1, 56 / 168, 56 / 40, 1]
    assert [row["few_pixels"] for row in rows] == [False] * 4
    # The median class is in 4 images, more than 3 times as many as dog.
    assert [row["few_images"] for row in rows] == [False, False, True, False]


def test_duplicates_within_and_across_splits(records, capsys):
    summary = inspect_records.inspect(records)
    (group,) = summary["splits"]["train"]["duplicates"]
    assert sorted(map(tuple, group["images"])) == [
        ("train", "a"),
        ("train", "again"),
        ("train", "anew"),
        ("val", "leak"),
    ]
    assert not group["same_file"] and not group["same_label"]
    assert summary["splits"]["val"]["duplicates"] == []
    (shared,) = summary["shared"]
    assert shared["splits"] == ["train", "val"]
    assert (shared["images"], shared["names"]) == (1, ["cats"])
    text = capsys.readouterr().out
    assert (
        "  train and val share 1 image (a = anew = again = leak) and 1 name (cats)\n"
        "    images encoded anew: 1\n"
        "    images with different labels: 1\n"
    ) in text
    assert "scores too well" in text


def test_splits_without_a_leak(records, capsys):
    write_split(
        records,
        "val",
        [(n, encoded(picture(s)), label_of(0)) for n, s in (("x", 5), ("y", 6))],
    )
    summary = inspect_records.inspect(records)
    assert summary["shared"][0]["images"] == 0
    text = capsys.readouterr().out
    assert "train and val share no image and no name\n" in text
    assert "scores too well" not in text


def test_what_splits_share_is_counted_and_named():
    assert count_of("name", []) == "no name"
    assert count_of("name", ["a"]) == "1 name (a)"
    assert count_of("image", ["a = b", "c"]) == "2 images (a = b, c)"
    many = [str(index) for index in range(1200)]
    assert count_of("image", many) == (
        "1,200 images (0, 1, 2, 3, 4, 5, 6, 7 and 1,192 more)"
    )


def test_weights_are_those_that_train_takes(records):
    splits = inspect_records.inspect(records)["splits"]
    assert "train" in splits
    for split in splits.values():
        pixels = [row["pixels"] for row in split["classes"]]
        weights = [row["balanced_weight"] for row in split["classes"]]
        assert weights == balanced_class_weights(pixels)


def test_median_frequency_weights_by_hand():
    assert median_frequency_weights([10, 0, 40, 1000]).tolist() == [4, 1, 1, 0.04]
    assert median_frequency_weights([7]).tolist() == [1]
    weights = median_frequency_weights([3, 0, 9, 27, 81]).tolist()
    assert weights == [6, 1, 2, 18 / 27, 18 / 81]
    assert median_frequency_weights([0, 0]).tolist() == [1, 1]


def test_suggested_settings_are_settings_of_train(records):
    train = inspect_records.inspect(records)["splits"]["train"]
    settings = train["suggestions"]["settings"]
    assert settings == ["class_weights=balanced", 'duplicate=[["dog",2]]']
    TrainConfig(**parse_changes(settings))


def test_huge_weights_are_cut(tmp_path):
    rare = label_of(0, size=(8, 6))
    rare[0, 0] = 1
    labels = [label_of(0, 2, 2), label_of(2), rare]
    examples = [(str(i), encoded(picture(i)), x) for i, x in enumerate(labels)]
    write_info(tmp_path, train=write_split(tmp_path, "train", examples))
    suggestions = inspect_records.inspect(tmp_path)["splits"]["train"]["suggestions"]
    weights = parse_changes(suggestions["settings"])["class_weights"]
    assert max(suggestions["class_weights"]) > 20 and max(weights) == 20
    assert len(weights) == 4


def test_a_hard_class_that_is_everywhere_needs_pixels(tmp_path):
    """Repeating all images would change nothing: a number of pixels is asked for."""
    labels = []
    for index in range(8):
        labels.append(label_of(0, 0, 2, 2, size=(16, 16)))
        labels[-1][0, : 1 if index < 6 else 9] = 1
    examples = [
        (str(i), encoded(picture(i, (16, 16))), x) for i, x in enumerate(labels)
    ]
    write_info(tmp_path, train=write_split(tmp_path, "train", examples))
    split = inspect_records.inspect(tmp_path)["splits"]["train"]
    suggestions = split["suggestions"]
    assert split["classes"][1]["few_pixels"] and split["classes"][1]["images"] == 8
    assert suggestions["hard_classes"] == ["cat"]
    assert suggestions["repeated_images"] == {"cat": 2}
    assert suggestions["min_class_pixels"] == 2
    assert suggestions["settings"][1:] == [
        'duplicate=[["cat",2]]',
        "min_class_pixels=2",
    ]


# --- What does not fit ---------------------------------------------------------------


def test_counts_that_differ_from_info_are_an_error(records):
    info = json.loads((records / INFO_FILE).read_text())
    info["splits"]["train"] = 8
    info["pixel_counts"]["val"][2] += 1
    (records / INFO_FILE).write_text(json.dumps(info))
    sentences = inspect_records.inspect(records)["disagreements"]
    assert len(sentences) == 2
    assert "train has 7 examples; info.json says 8" in sentences[0]
    assert "dog 8 instead of 9" in sentences[1]


def test_bad_records_are_named(records, capsys):
    bad = label_of(0, 7)
    write_split(records, "val", [("odd", encoded(picture(1)), bad)])
    with pytest.raises(ValueError, match=r"\(odd\): its label holds 7"):
        inspect_records.inspect(records)
    shard = records / shard_name("val", 0, 1)
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cut short"):
        inspect_records.inspect(records, splits=["val"])


def test_foreign_folders_get_a_sentence(records, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No info.json in .*elsewhere"):
        inspect_records.inspect(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="Splits found there: train, val"):
        inspect_records.inspect(records, splits=["test"])
    write_split(records, "val", [])
    with pytest.raises(ValueError, match="split val .*Received: none"):
        inspect_records.inspect(records, splits=["val"])


def test_the_command(records, tmp_path):
    info = json.loads((records / INFO_FILE).read_text())
    info["splits"]["val"] = 3
    (records / INFO_FILE).write_text(json.dumps(info))
    output = tmp_path / "out"
    result = call(
        inspect_records, records, f"--output_dir={output}", "--sheet_images=3"
    )
    assert result.returncode == 1
    assert "Error: Split val has 2 examples; info.json says 3" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in output.iterdir()) == [
        "inspection.json",
        "train.png",
        "val.png",
    ]
    written = json.loads((output / "inspection.json").read_text())
    assert written["splits"]["train"]["examples"] == 7
    assert "Split train\n  7 images" in result.stdout


# --- The contact sheet ---------------------------------------------------------------


def colors_of(sheet) -> set[tuple[int, int, int]]:
    pixels = np.asarray(sheet).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    return {tuple(int(c).to_bytes(3, "big")) for c in np.unique(pixels)}


def test_sheet_shows_images_labels_and_present_classes():
    image = np.full((300, 300, 3), 10, np.uint8)
    label = np.full((300, 300), 3, np.uint8)
    label[:150] = 255
    colors = colors_of(draw_contact_sheet([Example("x", image, label)], INFO, "drawn"))
    painted = tuple(round(0.2 * 10 + 0.8 * c) for c in INFO.colormap[3])
    assert (10, 10, 10) in colors and painted in colors
    assert INFO.colormap[3] in colors and IGNORE_COLOR in colors  # in the legend
    assert INFO.colormap[1] not in colors and INFO.colormap[2] not in colors
    everything = draw_contact_sheet(
        [Example("x", image, label)], INFO, "drawn", all_classes=True
    )
    assert INFO.colormap[1] in colors_of(everything)


@pytest.mark.parametrize("num_classes", [2, 255])
def test_legend_fits_the_sheet(num_classes):
    names = tuple(f"a class of many words, number {i}" for i in range(num_classes))
    info = DatasetInfo("many", names)
    label = np.arange(64 * 64, dtype=np.int64).reshape(64, 64) % num_classes
    example = Example("x", picture(0, (64, 64)), label.astype(np.uint8))
    sheet = np.asarray(draw_contact_sheet([example] * 5, info, "many"))
    edge = np.concatenate([sheet[:, -30:].reshape(-1, 3), sheet[-30:].reshape(-1, 3)])
    assert (edge == sheet[0, 0]).all()
    assert set(info.colormap) <= colors_of(sheet)


def test_pictures_keep_their_shape():
    for size in ((100, 20), (20, 100), (3, 2), (1, 900)):
        picture_size = fit(picture(0, size), (60, 40)).size
        assert max(picture_size[0] / 60, picture_size[1] / 40) == 1
        scale = min(60 / size[0], 40 / size[1])
        expected = [max(side * scale, 1) for side in size]
        np.testing.assert_allclose(picture_size, expected, atol=0.5)


def test_names_are_shortened_in_the_middle():
    font = ImageFont.load_default(size=15)
    assert shorten("name", font, 200) == "name"
    short = shorten("frankfurt_000000_000294_leftImg8bit", font, 150)
    assert font.getlength(short) <= 150
    assert short.startswith("frankf") and short.endswith("bit") and "..." in short
    assert shorten("name", font, 1) == "..."


def test_samples_are_spread():
    assert sorted(spread_indices(367, 4)) == [45, 137, 229, 321]
    assert spread_indices(3, 24) == {0, 1, 2}
    assert spread_indices(10, 0) == spread_indices(0, 5) == set()


@pytest.mark.one_lane
def test_camvid_is_as_published(shared_data, tmp_path, capsys):
    records = tmp_path / "camvid"
    build_camvid.build_camvid(shared_data / "camvid", records, num_processes=1)
    summary = inspect_records.inspect(records, tmp_path / "sheets", sheet_images=8)
    assert summary["num_classes"] == 11 and summary["disagreements"] == []
    splits = summary["splits"]
    assert {name: split["examples"] for name, split in splits.items()} == {
        "train": 367,
        "val": 101,
    }
    train = splits["train"]
    assert train["frequent_sizes"] == [{"width": 480, "height": 360, "images": 367}]
    assert train["duplicates"] == [] and summary["shared"][0]["images"] == 0
    classes = {row["name"]: row for row in train["classes"]}
    assert {name for name, row in classes.items() if row["few_pixels"]} == {
        "pole",
        "sign_symbol",
        "fence",
        "pedestrian",
        "bicyclist",
    }
    # Nearly every image shows poles; bicyclists can be repeated.
    suggestions = train["suggestions"]
    assert "bicyclist" in suggestions["repeated_images"]
    assert "pole" not in suggestions["repeated_images"]
    assert set(suggestions["hard_classes"]) >= {"pole", "sign_symbol"}
    counts = bootstrap.count_pixels(records, "train")
    least = suggestions["min_class_pixels"]
    assert suggestions["repeated_images"]["bicyclist"] == (counts[:, 10] >= least).sum()
    pixels = sum(
        np.bincount(np.asarray(Image.open(path)).ravel(), minlength=256)
        for path in sorted((shared_data / "camvid" / "trainannot").glob("*.png"))
    )
    assert [row["pixels"] for row in train["classes"]] == pixels[:11].tolist()
    assert train["ignored_share"] == pixels[255] / pixels.sum()
