"""The stream is a function of (seed, step); evaluation changes nothing at all."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.data.building import files
from deeplab_tf.data.reading import pipeline
from deeplab_tf.data.records.tfrecord import encode_example
from tests.support.numbered_records import (
    CROP,
    NUM_RECORDS,
    SIZES,
    assert_equal,
    batches,
    data_dir,
    example,
    record_ids,
    select,
    train,
    write,
)

pytestmark = pytest.mark.two_lanes

__all__ = ["data_dir"]


@pytest.mark.parametrize("shuffle_buffer", [1, 4, 100])
def test_every_epoch_sees_each_record_once(data_dir, shuffle_buffer):
    dataset = train(data_dir, shuffle_buffer=shuffle_buffer)
    ids = record_ids(dataset, NUM_RECORDS).reshape(3, NUM_RECORDS)  # 3 epochs.
    for epoch in ids:
        assert sorted(epoch) == list(range(NUM_RECORDS))
    # A buffer of one shuffles the three shards only: six orders, which may recur.
    assert len({tuple(epoch) for epoch in ids}) >= (3 if shuffle_buffer > 1 else 2)


@pytest.mark.parametrize("start_step", [1, 7, 8, 16])
def test_start_step_enters_the_same_stream(data_dir, start_step):
    """Also in the middle of an epoch (7), and across its end (8) and a later one."""
    whole = batches(train(data_dir), start_step + 3)
    assert_equal(batches(train(data_dir, start_step=start_step), 3), whole[start_step:])


def test_records_before_start_step_are_not_decoded(data_dir, tmp_path):
    """The records of the first five batches are replaced by some that would fail."""
    skipped = set(record_ids(train(data_dir), 5))
    records = [
        example(index, image_bytes=b"no image" if index in skipped else None)
        for index in range(NUM_RECORDS)
    ]
    write(tmp_path, records)
    assert_equal(
        batches(train(tmp_path, start_step=5), 2), batches(train(data_dir), 7)[5:]
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        batches(train(tmp_path), 1)


def test_the_seed_says_it_all(data_dir):
    """Neither another run nor TensorFlow's global seed changes the stream."""
    tf.random.set_seed(1)
    first = batches(train(data_dir), 10)
    tf.random.set_seed(2)
    assert_equal(batches(train(data_dir), 10), first)
    assert list(record_ids(train(data_dir, seed=1), 7)) != list(
        record_ids(train(data_dir), 7)
    )


def test_the_global_seed_is_left_alone(data_dir):
    tf.random.set_seed(3)
    expected = tf.random.uniform([4])
    tf.random.set_seed(3)
    batches(train(data_dir), 1)
    np.testing.assert_array_equal(tf.random.uniform([4]), expected)


def test_augmentation_differs_between_epochs(data_dir):
    """A record is not cropped twice in the same way."""
    images = np.concatenate([image for image, _ in batches(train(data_dir), 23)])
    ids = record_ids(train(data_dir), 23)
    seen = [images[ids == index] for index in range(NUM_RECORDS)]
    same = sum(np.array_equal(first, second) for first, second, _ in seen)
    assert same == 0


def test_without_augmentation_the_records_come_out_unchanged(data_dir):
    options = dict(min_scale=1.0, max_scale=1.0, flip=False, mean_color=(1, 2, 3))
    for images, labels in batches(train(data_dir, crop_size=(20, 20), **options), 8):
        for image, label in zip(images, labels):
            index = label[0, 0]
            height, width = SIZES[index % 3]
            rng = np.random.default_rng(index)
            expected = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            np.testing.assert_array_equal(image[:height, :width], expected)
            assert (label[:height, :width] == index).all()
            assert (image[height:] == (1, 2, 3)).all()
            assert (label[:, width:] == 255).all() and (label[height:] == 255).all()


def test_train_element_spec(data_dir):
    image, label = train(data_dir).element_spec
    assert image == tf.TensorSpec([3, *CROP, 3], tf.float32)
    assert label == tf.TensorSpec([3, *CROP], tf.int32)


def test_count_records(data_dir):
    paths = sorted(str(path) for path in data_dir.iterdir())
    assert pipeline.count_records(paths) == NUM_RECORDS


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_evaluation_yields_each_example_once_at_its_own_size(data_dir, batch_size):
    dataset = pipeline.make_eval_dataset(
        select(data_dir), batch_size=batch_size, with_filename=True
    )
    seen = []
    for images, labels, names in dataset:
        assert 1 <= len(images) <= batch_size
        assert images.dtype == tf.uint8 and labels.dtype == tf.int32
        for image, label, name in zip(images.numpy(), labels.numpy(), names.numpy()):
            index = int(label[0, 0])
            rng = np.random.default_rng(index)
            size = (*SIZES[index % 3], 3)
            expected = rng.integers(0, 256, size, dtype=np.uint8)
            np.testing.assert_array_equal(image, expected)
            np.testing.assert_array_equal(label, np.full(size[:2], index))
            assert name == f"name{index}".encode()
            seen.append(index)
    assert sorted(seen) == list(range(NUM_RECORDS))
    if batch_size == 1:  # The order of the records: shard after shard.
        assert seen == [i for shard in range(3) for i in range(shard, NUM_RECORDS, 3)]


def test_evaluation_fills_its_batches(data_dir):
    """23 records of three sizes, 8 + 8 + 7, in batches of at most 4: six batches."""
    dataset = pipeline.make_eval_dataset(select(data_dir), batch_size=4)
    sizes = sorted(len(image) for image, _ in dataset)
    assert sizes == [3, 4, 4, 4, 4, 4]


def test_filled_batches_add_only_void_pixels(data_dir):
    plain = pipeline.make_eval_dataset(select(data_dir), batch_size=3)
    filled = plain.map(
        lambda image, label: pipeline.fill_batch(
            image, label, batch_size=3, ignore_label=255
        )
    )
    lacking = 0
    for (image, label), (full_image, full_label) in zip(plain, filled):
        count = len(image)
        lacking += 3 - count
        np.testing.assert_array_equal(full_image[:count], image)
        np.testing.assert_array_equal(full_label[:count], label)
        assert len(full_image) == 3 and (full_label[count:].numpy() == 255).all()
    assert lacking > 0  # 23 records of three sizes do not fill batches of three


def test_palette_masks_keep_their_ids(shared_data, tmp_path):
    """A real VOC mask, a palette PNG, through records and both pipelines."""
    voc = shared_data / "VOCdevkit" / "VOC2012"
    path = voc / "SegmentationClass" / "2007_000549.png"
    ids = np.asarray(Image.open(path))  # Pillow gives the palette's indices.
    assert 255 in ids and set(np.unique(ids)) - {0, 255}
    wrong = tf.io.decode_png(path.read_bytes(), channels=1)[..., 0].numpy()
    assert not np.array_equal(wrong, ids), "the mask is no palette PNG"

    image_bytes = (voc / "JPEGImages" / "2007_000549.jpg").read_bytes()
    label = files.read_label(str(path))
    record = encode_example(image_bytes, label, path.stem, "jpeg", *ids.shape)
    write(tmp_path, [record], num_shards=1)
    for _, label in pipeline.make_eval_dataset(select(tmp_path)):
        np.testing.assert_array_equal(label[0], ids)
    whole = dict(crop_size=ids.shape, min_scale=1.0, max_scale=1.0, flip=False)
    for _, label in train(tmp_path, batch_size=1, **whole).take(1):
        np.testing.assert_array_equal(label[0], ids)
    for _, label in train(tmp_path, batch_size=8).take(4):
        assert set(np.unique(label)) <= set(np.unique(ids))


def test_an_absent_split_says_what_to_run(data_dir):
    for make in (
        lambda: pipeline.make_eval_dataset(select(data_dir, "val")),
        lambda: train(data_dir / "nothing"),
    ):
        with pytest.raises(FileNotFoundError, match="Run: python -m datasets"):
            make()


@pytest.mark.parametrize(
    "wrong",
    [
        dict(crop_size=(0, 8)),
        dict(batch_size=0),
        dict(start_step=-1),
        dict(seed=-1),
        dict(shuffle_buffer=0),
        dict(min_scale=0.0),
        dict(min_scale=2.0, max_scale=1.0),
    ],
)
def test_numbers_out_of_range_are_named(data_dir, wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError) as error:
        train(data_dir, **wrong)
    assert f"{name}={value}" in str(error.value)


def test_evaluation_needs_a_batch_size(data_dir):
    with pytest.raises(ValueError, match="Received: 0"):
        pipeline.make_eval_dataset(select(data_dir), batch_size=0)
