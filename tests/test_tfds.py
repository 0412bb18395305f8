"""Data sets of tensorflow-datasets: prepared ones made here, and TFDS's mock data."""

from __future__ import annotations

import contextlib
import io
import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from datasets import build_cityscapes, build_tfds
from datasets.build_tfds import convert_label, resolve_data_dir
from datasets.sources import tfds_features, tfds_staging
from datasets.sources.tfds_staging import choose_splits
from deeplab_tf.commands import evaluate, train
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.records.info import read_info
from deeplab_tf.data.records.tfrecord import parse_example, shard_paths


@pytest.fixture(scope="module")
def tfds():
    try:
        return tfds_features.import_tfds()
    except DatasetError as error:
        pytest.skip(str(error))


def read_records(data_dir, split) -> dict[str, dict]:
    records = tf.data.TFRecordDataset(shard_paths(data_dir, split)).map(parse_example)
    return {r["filename"].decode(): r for r in records.as_numpy_iterator()}


def stored_images(data_dir, split) -> list[bytes]:
    records = tf.data.TFRecordDataset(shard_paths(data_dir, split))
    examples = [tf.train.Example.FromString(r.numpy()) for r in records]
    return [e.features.feature["image/encoded"].bytes_list.value[0] for e in examples]


# --- A data set that TFDS prepares from files ----------------------------------------


def jpeg_of(index: int) -> bytes:
    pixels = np.random.default_rng(index).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=71)
    return buffer.getvalue()


def ids_of(index: int) -> np.ndarray:
    label = np.random.default_rng([index, 1]).integers(0, 3, (6, 8), np.uint8)
    label[0, 0] = 255
    return label


def palette_png(ids: np.ndarray) -> bytes:
    image = Image.fromarray(ids)
    image.putpalette(np.random.default_rng(3).integers(0, 256, 768).tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def as_builder(builder):
    """Makes `tfds.builder` return a builder that is not registered."""
    with pytest.MonkeyPatch.context() as patch:
        tfds = tfds_features.import_tfds()
        patch.setattr(tfds, "builder", lambda name, data_dir=None: builder)
        yield


def make_builder(tfds, folder, features, example, counts):
    """Returns a builder of examples that `example(split, index)` makes.

    Args:
      features: of the FeaturesDict.
      example: from a split's name and an index to an example.
      counts: split name -> number of examples.
    """

    class Drawn(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "drawn"

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._examples(split) for split in counts}

        def _generate_examples(self):
            raise NotImplementedError  # one generator for each split instead

        def _examples(self, split):
            for index in range(counts[split]):
                yield index, example(split, index)

    return Drawn(data_dir=str(folder))


NAMES = ["sea", "land", "ice"]


def labeled_features(tfds, **more):
    return {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "segmentation": tfds.features.LabeledImage(labels=NAMES),
        "file_name": tfds.features.Text(),
        **more,
    }


def labeled_example(split, index):
    seed = index + (100 if split != "train" else 0)
    return {
        "image": io.BytesIO(jpeg_of(seed)),
        "segmentation": io.BytesIO(palette_png(ids_of(seed))),
        "file_name": f"folder/{split}_{index}.jpg",
    }


def test_a_prepared_data_set_comes_back_exactly(tfds, tmp_path, capsys):
    counts = {"train": 5, "test": 2}
    drawn = make_builder(
        tfds, tmp_path / "tfds", labeled_features(tfds), labeled_example, counts
    )
    out = tmp_path / "records"
    with as_builder(drawn):
        info = build_tfds.build_tfds("drawn", out, num_processes=1)
    assert info.splits == {"train": 5, "val": 2} and read_info(out) == info
    assert info.class_names == ("sea", "land", "ice")
    assert "test becomes val" in capsys.readouterr().out
    for split, source, first in (("train", "train", 0), ("val", "test", 100)):
        records = read_records(out, split)
        assert sorted(records) == [f"{source}_{i}" for i in range(counts[source])]
        for name, record in records.items():
            seed = first + int(name.rpartition("_")[2])
            np.testing.assert_array_equal(record["label"][..., 0], ids_of(seed))
        assert sorted(stored_images(out, split)) == sorted(
            jpeg_of(first + i) for i in range(counts[source])
        )
    assert [path.name for path in tmp_path.iterdir() if "records" in path.name] == [
        "records"
    ]


@pytest.mark.parametrize(
    "file, overwrite, problem",
    [
        ("info.json", False, "exists already.*--overwrite"),
        ("thesis.tex", False, "exists already.*--overwrite"),
        ("thesis.tex", True, "no data set of ours and --overwrite does not replace"),
    ],
)
def test_what_is_there_is_kept_before_anything_is_read(
    tmp_path, monkeypatch, file, overwrite, problem
):
    (tmp_path / file).write_text("{}")
    monkeypatch.setattr(build_tfds, "import_tfds", None)
    with pytest.raises(DatasetError, match=problem):
        build_tfds.build_tfds("drawn", tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_without_another_split_a_fraction_is_val(tfds, tmp_path):
    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "mask": tfds.features.Image(shape=(None, None, 1)),
    }

    def example(split, index):
        ids = ids_of(index)
        ids[ids == 255] = 0
        return {
            "image": np.asarray(Image.open(io.BytesIO(jpeg_of(index)))),
            "mask": ids[..., np.newaxis],
        }

    drawn = make_builder(tfds, tmp_path / "tfds", features, example, {"train": 10})
    out = tmp_path / "records"
    with as_builder(drawn):
        info = build_tfds.build_tfds("drawn", out, val_fraction=0.3, num_processes=1)
    assert info.splits == {"train": 7, "val": 3}
    assert info.class_names == ("class_0", "class_1", "class_2")
    names = [*read_records(out, "train"), *read_records(out, "val")]
    assert sorted(names) == [f"train_{i:06d}" for i in range(10)]


def test_splits_can_be_parts(tfds, tmp_path):
    drawn = make_builder(
        tfds, tmp_path / "tfds", labeled_features(tfds), labeled_example, {"train": 10}
    )
    parts = ["train=train[:80%]", "val=train[80%:]"]
    with as_builder(drawn):
        info = build_tfds.build_tfds(
            "drawn", tmp_path / "records", parts, num_processes=1
        )
        with pytest.raises(DatasetError, match="splits of train.*Received: valid"):
            build_tfds.build_tfds("drawn", tmp_path / "other", ["valid"])
    assert info.splits == {"train": 8, "val": 2}


def test_a_build_that_failed_goes_on_with_what_is_staged(tfds, tmp_path, monkeypatch):
    def example(split, index):
        made = labeled_example(split, index)
        if index == 1:
            made["segmentation"] = io.BytesIO(palette_png(ids_of(1) + 7))
        return made

    counts = {"train": 4, "validation": 1}
    drawn = make_builder(
        tfds, tmp_path / "tfds", labeled_features(tfds), example, counts
    )
    out = tmp_path / "records"
    with as_builder(drawn):
        with pytest.raises(DatasetError, match="train/train_1: label has the ids"):
            build_tfds.build_tfds("drawn", out, num_processes=1)
        assert not out.exists() and (tmp_path / "records.staging").is_dir()
        monkeypatch.setattr(tfds_staging, "stage_split", None)  # is not called again
        info = build_tfds.build_tfds("drawn", out, num_processes=1, skip_bad=True)
    assert info.splits == {"train": 3, "val": 1}
    assert not (tmp_path / "records.staging").exists()


def test_features_that_could_both_be_meant_are_listed(tfds, tmp_path):
    features = labeled_features(
        tfds, instance_mask=tfds.features.Image(shape=(None, None, 1))
    )

    def example(split, index):
        ids = np.zeros((6, 8, 1), np.uint8)
        return {**labeled_example(split, index), "instance_mask": ids}

    drawn = make_builder(tfds, tmp_path / "tfds", features, example, {"train": 2})
    with as_builder(drawn):
        with pytest.raises(
            DatasetError,
            match="--label_key names it. Received: segmentation, instance_mask. "
            "Features: image: Image",
        ):
            build_tfds.build_tfds("drawn", tmp_path / "a", num_processes=1)
        with pytest.raises(DatasetError, match="Received: nothing"):
            build_tfds.build_tfds("drawn", tmp_path / "a", label_key="nothing")
        info = build_tfds.build_tfds(
            "drawn", tmp_path / "a", label_key="segmentation", num_processes=1
        )
    assert info.class_names == ("sea", "land", "ice")


def test_tensors_and_offsets(tfds, tmp_path):
    features = {
        "rgb": tfds.features.Tensor(shape=(6, 8, 3), dtype=np.uint8),
        "classes": tfds.features.Tensor(shape=(6, 8), dtype=np.int32),
    }

    def example(split, index):
        rgb = np.full((6, 8, 3), index, np.uint8)
        return {"rgb": rgb, "classes": np.arange(48, dtype=np.int32).reshape(6, 8) % 4}

    drawn = make_builder(tfds, tmp_path / "tfds", features, example, {"train": 2})
    with as_builder(drawn):
        info = build_tfds.build_tfds(
            "drawn",
            tmp_path / "a",
            ["train"],
            image_key="rgb",
            label_key="classes",
            label_offset=-1,
            num_processes=1,
        )
    assert info.num_classes == 3
    record = read_records(tmp_path / "a", "train")["train_000001"]
    assert (record["image"] == 1).all()
    expected = [255, 0, 1, 2, 255, 0, 1, 2]
    assert record["label"][0, :, 0].tolist() == expected


@pytest.mark.parametrize("num_classes, expected", [(None, None), (129, 129)])
def test_gaps_among_ids_stop_unless_the_number_is_said(
    tfds, tmp_path, num_classes, expected
):
    features = {
        "image": tfds.features.Tensor(shape=(6, 8, 3), dtype=np.uint8),
        "mask": tfds.features.Tensor(shape=(6, 8), dtype=np.int32),
    }

    def example(split, index):
        mask = np.arange(48, dtype=np.int32).reshape(6, 8) % 2 * 128
        return {"image": np.zeros((6, 8, 3), np.uint8), "mask": mask}

    drawn = make_builder(tfds, tmp_path / "tfds", features, example, {"train": 2})
    options = {"num_classes": num_classes, "num_processes": 1}
    keys = {"image_key": "image", "label_key": "mask"}
    with as_builder(drawn):
        if expected is None:
            with pytest.raises(
                DatasetError, match="Received: 0,128. .*--num_classes=129"
            ):
                build_tfds.build_tfds("drawn", tmp_path / "a", **keys, **options)
        else:
            info = build_tfds.build_tfds("drawn", tmp_path / "a", **keys, **options)
            assert info.num_classes == expected


# --- TFDS's mock data of registered data sets ----------------------------------------


def write_metadata(tfds, data_dir, name, version, splits, config=None):
    """Writes what TFDS keeps of a prepared data set beside its shards."""
    folder = data_dir.joinpath(name, *([config] if config else []), version)
    folder.mkdir(parents=True)
    info = {
        "name": name,
        "version": version,
        "fileFormat": "tfrecord",
        "moduleName": f"tensorflow_datasets.{name}",
        "splits": [
            {"name": split, "shardLengths": [str(count)], "numBytes": "1"}
            for split, count in splits.items()
        ],
    }
    if config:
        info["configName"] = config
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with tfds.testing.mock_data(policy=tfds.testing.MockPolicy.USE_CODE):
        builder = tfds.builder(f"{name}/{config}" if config else name)
        builder.info.features.save_config(folder)


def mock_examples(label_key, make_label, image_key="image", **more):
    """Returns a replacement of `_as_dataset` with labels within the known ids."""

    def as_dataset(self, split, decoders=None, read_config=None, **kwargs):
        features = decoders.extract_features(self.info.features)

        def generate():
            for index in range(3):
                label = make_label(index)
                example = {image_key: jpeg_of(index), label_key: palette_png(label)}
                texts = {key: f"{value}{index}" for key, value in more.items()}
                yield {key: {**example, **texts}[key] for key in features}

        types = {key: tf.string for key in features}
        return tf.data.Dataset.from_generator(generate, output_types=types)

    return as_dataset


@pytest.mark.parametrize(
    "make_label, problem",
    [
        (lambda index: ids_of(index) % 3 + 1, None),
        (lambda index: ids_of(index) % 3, "stored ids 0; expected 1, 2, 3 or 255"),
    ],
    ids=["ids", "other ids"],
)
def test_pets(tfds, tmp_path, monkeypatch, make_label, problem):
    splits = {"train": 3, "test": 3}
    write_metadata(tfds, tmp_path / "tfds", "oxford_iiit_pet", "4.0.0", splits)
    examples = mock_examples("segmentation_mask", make_label, file_name="pet_")
    monkeypatch.chdir(tmp_path)
    with tfds.testing.mock_data(
        as_dataset_fn=examples, data_dir=str(tmp_path / "tfds")
    ):
        if problem:
            with pytest.raises(DatasetError, match=problem):
                resolve_data_dir("tfds:oxford_iiit_pet")
            return
        folder = resolve_data_dir("tfds:oxford_iiit_pet")
    assert folder == "runs/data/tfds_oxford_iiit_pet"
    info = read_info(folder)
    assert info.name == "tfds_oxford_iiit_pet" and info.splits == {"train": 3, "val": 3}
    assert info.class_names == ("pet", "background", "border")
    records = read_records(folder, "val")
    assert list(records) == ["pet_0", "pet_1", "pet_2"]
    for index, record in enumerate(records.values()):
        expected = ids_of(index) % 3
        np.testing.assert_array_equal(record["label"][..., 0], expected)
    # Once it is there, TFDS is not asked again.
    monkeypatch.setattr(build_tfds, "build_tfds", None)
    assert resolve_data_dir("tfds:oxford_iiit_pet") == folder
    # The scripts go on with the folder, which config.json then names.
    config, _ = train.make_run(
        "finetune_resnet50", {"data_dir": "tfds:oxford_iiit_pet"}
    )
    assert config.data_dir == folder and config.class_names == info.class_names
    places = ("exported.tflite", "tfds:oxford_iiit_pet", None, "scores")
    assert evaluate.find_places(None, *places).data_dir == folder


def test_random_mock_data_is_refused_by_its_ids(tfds, tmp_path):
    """TFDS's own generator, whose masks hold any id: nothing is guessed."""
    splits = {"train": 3, "test": 3}
    write_metadata(tfds, tmp_path / "tfds", "oxford_iiit_pet", "4.0.0", splits)
    with tfds.testing.mock_data(num_examples=3, data_dir=str(tmp_path / "tfds")):
        with pytest.raises(DatasetError, match="6 of 6 pairs cannot be used") as error:
            build_tfds.build_tfds("oxford_iiit_pet", tmp_path / "out", num_processes=1)
    assert "expected 1, 2, 3 or 255" in str(error.value)


def test_cityscapes_ids_become_train_ids(tfds, tmp_path):
    config, splits = "semantic_segmentation", {"train": 3, "validation": 3, "test": 3}
    write_metadata(tfds, tmp_path / "tfds", "cityscapes", "1.0.0", splits, config)
    stored = np.arange(34, dtype=np.uint8)[np.newaxis].repeat(3, axis=0)
    # cityscapesScripts, helpers/labels.py: the ids of train ids 0, 1 and so on.
    evaluated = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]

    def example(index):
        return np.resize(stored, (6, 8)) if index else np.full((6, 8), 26, np.uint8)

    examples = mock_examples(
        "segmentation_label", example, "image_left", image_id="aachen_"
    )
    with tfds.testing.mock_data(
        as_dataset_fn=examples, data_dir=str(tmp_path / "tfds")
    ):
        info = build_tfds.build_tfds(
            "cityscapes/semantic_segmentation", tmp_path / "out", num_processes=1
        )
    assert info.splits == {"train": 3, "val": 3} and info.num_classes == 19
    record = read_records(tmp_path / "out", "val")["aachen_1"]
    expected = [
        evaluated.index(i) if i in evaluated else 255
        for i in np.resize(stored, (6, 8)).ravel()
    ]
    assert record["label"].ravel().tolist() == expected
    first = read_records(tmp_path / "out", "val")["aachen_0"]
    assert (first["label"] == info.class_names.index("car")).all()


# --- Parts ---------------------------------------------------------------------------


def test_known_data_sets_have_the_features_that_are_named(tfds):
    configs = {"cityscapes": "semantic_segmentation", "lost_and_found": "full"}
    with tfds.testing.mock_data(policy=tfds.testing.MockPolicy.USE_CODE):
        for name, reading in tfds_features.KNOWN.items():
            full = f"{name}/{configs[name]}" if name in configs else name
            features = tfds.builder(full).info.features
            assert features[reading.image_key].shape[-1] == 3
            channels = features[reading.label_key].shape[-1]
            assert channels == (3 if reading.channel is not None else 1)
            classes = set(reading.ids.values()) - {255}
            assert classes == set(range(len(reading.class_names)))
            assert tfds_features.find_features(tfds, features, reading) == reading


def test_labels_of_several_channels(tmp_path):
    pixels = np.stack([np.full((2, 3), value) for value in (4, 9, 0)], axis=-1)
    path = tmp_path / "label"
    Image.fromarray(pixels.astype(np.uint8)).save(path, "PNG")
    assert (build_tfds.read_stored_ids(str(path), 0) == 4).all()
    assert (build_tfds.read_stored_ids(str(path), 1) == 9).all()
    with pytest.raises(ValueError, match="expected a channel 3"):
        build_tfds.read_stored_ids(str(path), 3)


def test_convert_label_by_hand():
    label = np.array([[0, 1, 2, 255]], np.uint8)
    assert convert_label(label).tolist() == [[0, 1, 2, 255]]
    assert convert_label(label, offset=-1).tolist() == [[255, 0, 1, 255]]
    assert convert_label(label, {0: 255, 1: 0, 2: 1}).tolist() == [[255, 0, 1, 255]]
    assert convert_label(label, {0: 0, 1: 1, 2: 2, 255: 3})[0, 3] == 3
    with pytest.raises(ValueError, match="stored ids 2; expected 0, 1 or 255"):
        convert_label(label, {0: 0, 1: 1})
    with pytest.raises(ValueError, match="stored ids 2;"):
        convert_label(label, offset=253)


def test_cityscapes_table_is_that_of_its_builder():
    stored = np.array([[*range(34), 255]], np.uint8)
    np.testing.assert_array_equal(
        convert_label(stored, tfds_features.KNOWN["cityscapes"].ids),
        build_cityscapes.convert_label(stored),
    )


def test_which_splits():
    assert choose_splits(["train", "test", "validation"]) == {
        "train": "train",
        "val": "validation",
    }
    assert choose_splits(["train", "other"]) == {"train": "train"}
    assert choose_splits(["train", "dev"], ["dev"]) == {"val": "dev"}
    with pytest.raises(DatasetError, match="split named train.*Received: test"):
        choose_splits(["test"])
    with pytest.raises(DatasetError, match="different names. Received: dev, val=train"):
        choose_splits(["train", "dev"], ["dev", "val=train"])
    with pytest.raises(DatasetError, match=r"Received: train\[:5\]"):
        choose_splits(["train"], ["train[:5]"])


def test_folders_pass_and_names_become_folders():
    assert resolve_data_dir("runs/data/voc") == "runs/data/voc"
    name = build_tfds.dataset_folder_name("cityscapes/semantic_segmentation:1.0.0")
    assert name == "tfds_cityscapes_semantic_segmentation_1.0.0"
    with pytest.raises(DatasetError, match="Expected tfds:NAME"):
        resolve_data_dir("tfds:")


def test_without_tensorflow_datasets_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DatasetError, match="Run: pip install tensorflow-datasets"):
        build_tfds.build_tfds("anything", "out")


def test_unknown_names_get_a_sentence(tfds, tmp_path):
    with pytest.raises(DatasetError, match="cannot prepare no_such_set: "):
        build_tfds.build_tfds("no_such_set", tmp_path / "out", tfds_dir=tmp_path)
