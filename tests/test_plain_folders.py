"""`from_folder`: plain folders -> batches, with the ids and checks of a build."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data import from_folder
from deeplab_tf.data.building.errors import DatasetError
from tests.support.layouts import LAYOUTS
from tests.support.pairs import make_pairs, save_image, save_label
from tests.test_annotation_tools import EXAMPLES, NAMES

IDS = ((0, 1, 2, 1, 0, 255),) * 4


def arrays(dataset):
    return [(image.numpy(), label.numpy()) for image, label in dataset]


def test_whole_pairs_are_those_of_the_files(tmp_path):
    pairs = make_pairs(tmp_path, "abc", ids=IDS)
    dataset = from_folder(tmp_path / "images", tmp_path / "labels", batch_size=2)
    assert dataset.num_classes == 3 and dataset.num_examples == 3
    assert dataset.class_names == ("class_0", "class_1", "class_2")
    assert len(dataset.colormap) == 3
    batches = arrays(dataset)
    assert [len(image) for image, _ in batches] == [2, 1]
    images = np.concatenate([image for image, _ in batches])
    labels = np.concatenate([label for _, label in batches])
    assert images.dtype == np.float32 and labels.dtype == np.int32
    for pair, image, label in zip(pairs, images, labels):
        np.testing.assert_array_equal(image, np.asarray(Image.open(pair.image)))
        np.testing.assert_array_equal(label, IDS)


def test_images_of_several_sizes_come_in_batches_of_one_size(tmp_path):
    make_pairs(tmp_path, "ab", ids=IDS)
    save_image(tmp_path / "images" / "c.png", (3, 2))
    save_label(tmp_path / "labels" / "c.png", [[1, 0, 2]] * 2)
    batches = arrays(from_folder(tmp_path / "images", tmp_path / "labels"))
    assert sorted(image.shape for image, _ in batches) == [(1, 2, 3, 3), (2, 4, 6, 3)]


def test_batches_of_training_are_cropped_and_drawn_anew_each_epoch(tmp_path):
    make_pairs(tmp_path, "abcde", ids=IDS)
    options = dict(crop_size=(8, 10), batch_size=2, seed=3)
    dataset = from_folder(tmp_path / "images", tmp_path / "labels", **options)
    first, second = arrays(dataset), arrays(dataset)
    assert [image.shape for image, _ in first] == [(2, 8, 10, 3)] * 2 + [(1, 8, 10, 3)]
    assert first[0][1].shape == (2, 8, 10)
    assert set(np.unique([label for _, label in first[:2]])) <= {0, 1, 2, 255}
    assert any((a[0] != b[0]).any() for a, b in zip(first, second))
    again = arrays(from_folder(tmp_path / "images", tmp_path / "labels", **options))
    for (image, label), (other, other_label) in zip(first, again):
        np.testing.assert_array_equal(image, other)
        np.testing.assert_array_equal(label, other_label)


def test_splits_are_those_of_a_build(tmp_path):
    make_pairs(tmp_path, "abcdefghij", ids=IDS)
    folders = tmp_path / "images", tmp_path / "labels"
    parts = [from_folder(*folders, split=s, val_fraction=0.3) for s in ("train", "val")]
    assert [part.num_examples for part in parts] == [7, 3]
    seen = np.concatenate([i for part in parts for i, _ in arrays(part)])
    assert len(np.unique(seen.reshape(10, -1), axis=0)) == 10
    with pytest.raises(DatasetError, match="a split of train, val. Received: test"):
        from_folder(*folders, split="test")


@pytest.mark.parametrize("name", ["labelme", "cvat", "one_folder"])
def test_what_a_tool_exported_is_read_without_a_build(tmp_path, name):
    LAYOUTS[name].write(tmp_path, EXAMPLES, NAMES)
    dataset = from_folder(tmp_path, batch_size=1)
    assert dataset.num_examples == len(EXAMPLES)
    if LAYOUTS[name].has_names:
        assert dataset.class_names == NAMES
    found = {label.tobytes() for _, label in arrays(dataset)}
    assert found == {e.ids[None].astype(np.int32).tobytes() for e in EXAMPLES}


def test_names_and_ids_are_as_they_are_said(tmp_path):
    make_pairs(tmp_path, "ab", ids=((0, 128, 255),) * 2)
    for path in (tmp_path / "images").iterdir():
        save_image(path, (3, 2))
    folders = tmp_path / "images", tmp_path / "labels"
    dataset = from_folder(*folders, class_names=["a", "b"], label_ids=(128, 0))
    assert dataset.class_names == ("a", "b")
    assert arrays(dataset)[0][1][0].tolist() == [[1, 0, 255]] * 2


def test_all_bad_pairs_are_named_before_the_first_batch(tmp_path):
    make_pairs(tmp_path, "abc", ids=IDS)
    (tmp_path / "images" / "a.png").unlink()
    save_image(tmp_path / "images" / "b.png", (9, 9))
    with pytest.raises(DatasetError, match="2 of 3 pairs") as error:
        from_folder(tmp_path / "images", tmp_path / "labels")
    assert "a: there is no file" in str(error.value)
    assert "b: image is 9x9" in str(error.value)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"seed": -1}])
def test_numbers_out_of_range(tmp_path, options):
    with pytest.raises(ValueError, match="Expected a batch_size of 1 or more"):
        from_folder(tmp_path, **options)


@pytest.mark.parametrize("policy", ["copy_paste", "class_uniform"])
def test_policies_that_choose_records_are_refused(tmp_path, policy):
    make_pairs(tmp_path, "ab", ids=IDS)
    folders = (tmp_path / "images", tmp_path / "labels")
    with pytest.raises(ValueError, match=f"policy='{policy}', which chooses them"):
        from_folder(*folders, crop_size=(8, 10), policy=policy)
