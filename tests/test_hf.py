"""Hugging Face's Parquet files, made here as the Hub keeps them; the Hub stands in."""

from __future__ import annotations

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image

from datasets import build_hf, build_tfds
from datasets.sources import hf_parquet
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.folders.label_rules import LabelRules
from deeplab_tf.data.records.info import read_info
from tests.support.layouts import put
from tests.support.pairs import read_records

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def ids_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 3, (5, 7)).astype(np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path, numbers, keys=("image", "label"), names=True) -> None:
    """A shard as `datasets` writes one: an image is a struct of bytes and path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    pixels = [np.full((5, 7, 3), n, np.uint8) for n in numbers]
    stored = [f"n{n}.png" if names else None for n in numbers]
    columns = {
        keys[0]: [{"bytes": png(p), "path": s} for p, s in zip(pixels, stored)],
        keys[1]: [{"bytes": png(ids_of(n)), "path": None} for n in numbers],
    }
    table = {k: pyarrow.array(v, struct) for k, v in columns.items()}
    table["caption"] = pyarrow.array(["x"] * len(pixels))
    parquet.write_table(pyarrow.table(table), path)


def build(source, output, **options):
    return build_hf.build_hf(str(source), output, num_processes=1, **options)


def test_shards_of_a_repository_become_records(tmp_path):
    data = tmp_path / "repo" / "data"
    write_shard(data / "train-00000-of-00002.parquet", [1, 2])
    write_shard(data / "train-00001-of-00002.parquet", [3])
    write_shard(data / "validation-00000-of-00001.parquet", [4])
    put(tmp_path / "repo" / "id2label.json", '{"0": "sky", "1": "road", "2": "car"}')
    build(tmp_path / "repo", tmp_path / "out")
    info = read_info(tmp_path / "out")
    assert info.splits == {"train": 3, "val": 1}
    assert info.class_names == ("sky", "road", "car")
    assert not (tmp_path / "out.staging").exists()
    records = {**read_records(tmp_path / "out", "train")}
    records.update(read_records(tmp_path / "out", "val"))
    for number in (1, 2, 3, 4):
        record = records[f"n{number}"]
        np.testing.assert_array_equal(record["label"][..., 0], ids_of(number))
        assert (record["image"] == number).all()


def test_the_converted_branch_and_other_columns(tmp_path):
    place = tmp_path / "repo" / "default"
    keys = ("pixel_values", "annotated_pixels")
    write_shard(place / "train" / "0000.parquet", [1, 2, 3], keys, names=False)
    rules = LabelRules(num_classes=3)
    build(tmp_path / "repo", tmp_path / "out", rules=rules, val_fraction=0.4)
    assert read_info(tmp_path / "out").splits == {"train": 2, "val": 1}
    write_shard(place / "train" / "0000.parquet", [1], ("a", "b"))
    with pytest.raises(DatasetError, match="hold images: a, b. Say which: --image_key"):
        build(tmp_path / "repo", tmp_path / "other")
    build(
        tmp_path / "repo",
        tmp_path / "other",
        rules=rules,
        image_key="a",
        label_key="b",
        val_fraction=0,
    )
    assert read_info(tmp_path / "other").splits == {"train": 1}


def test_a_name_is_fetched_from_the_hub_and_then_kept(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repository, revision=None, **options):
        asked.append((repository, revision, options["allow_patterns"]))
        folder = tmp_path / (revision or "main").replace("/", "_")
        folder.mkdir(exist_ok=True)
        if revision:
            write_shard(folder / "default" / "train" / "0000.parquet", range(20))
        return str(folder)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.chdir(tmp_path)
    folder = build_tfds.resolve_data_dir("hf:owner/name/default")
    assert build_tfds.resolve_data_dir("hf:owner/name/default") == folder
    assert folder.endswith("hf_owner_name_default")
    assert read_info(folder).splits == {"train": 18, "val": 2}
    assert [revision for _, revision, _ in asked] == [None, hf_parquet.CONVERTED]
    assert asked[0][0] == "owner/name" and asked[0][2][0] == "default/*.parquet"


def test_what_the_hub_refuses_is_a_sentence(tmp_path, monkeypatch):
    def snapshot_download(*_, **__):
        raise OSError("401 Client Error: the set is gated")

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(DatasetError, match="has not given a/b: 401.*gated"):
        build("a/b", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DatasetError, match="pip install huggingface_hub"):
        build("a/b", tmp_path / "out")
    with pytest.raises(DatasetError, match="Expected hf:OWNER/NAME"):
        build_tfds.resolve_data_dir("hf:")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="Expected Parquet files"):
        build(tmp_path / "empty", tmp_path / "out")
