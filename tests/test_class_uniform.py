"""Each class comes equally often, of each of its records, and an index says which."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.reading import class_uniform, pipeline
from deeplab_tf.data.reading.bootstrap import count_pixels
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.data.records.info import DatasetInfo
from tests.support.numbered_records import (
    assert_equal,
    batches,
    data_dir,
    record_ids,
    select,
    train,
)

__all__ = ["data_dir"]

# Records by label value: class 0 is in all five, class 1 in two, class 3 in one.
COUNTS = np.zeros((5, 256), np.int64)
COUNTS[:, 0] = (6, 4, 8, 5, 9)
COUNTS[:, 1] = (2, 0, 0, 3, 0)
COUNTS[:, 3] = (0, 0, 1, 0, 0)
COUNTS[:, 255] = (0, 5, 0, 1, 9)


def drawn(draws, seed, start, count):
    at = tf.function(class_uniform.record_at(draws, seed))
    return [int(at(tf.constant(start + i, tf.int64))) for i in range(count)]


def test_holders_by_hand():
    draws = class_uniform.find_class_draws(COUNTS, range(4))
    assert draws.class_ids == (0, 1, 3)  # no record holds class 2
    assert [holders.tolist() for holders in draws.holders] == [
        [0, 1, 2, 3, 4],
        [0, 3],
        [2],
    ]
    draws = class_uniform.find_class_draws(COUNTS, range(4), min_class_pixels=3)
    assert draws.class_ids == (0, 1) and draws.holders[1].tolist() == [3]
    with pytest.raises(ValueError, match="10 pixels or more.*Received: 5 records"):
        class_uniform.find_class_draws(COUNTS, range(4), min_class_pixels=10)


def test_rare_classes_by_hand():
    """32, 5, 0 and 1 pixels: half of a third of 38 is 6.3, and class 2 has none."""
    assert class_uniform.rare_classes(COUNTS, 4) == [1, 3]
    # Without the last class half of an equal share is 9.25.
    assert class_uniform.rare_classes(COUNTS, 3) == [1]
    assert class_uniform.rare_classes(np.zeros_like(COUNTS), 4) == []


def test_every_class_comes_equally_often_and_every_record_of_it_before_any_again():
    """Records that a single class holds tell which class they were drawn for."""
    holders = (np.array([0, 1, 2, 3]), np.array([4, 5]), np.array([6]))
    draws = class_uniform.ClassDraws((0, 7, 9), holders, 7)
    class_of = np.array([0, 0, 0, 0, 1, 1, 2])
    records = np.array(drawn(draws, 5, 0, 3 * 24))
    turns = class_of[records].reshape(24, 3)
    assert (np.sort(turns, axis=1) == [0, 1, 2]).all()
    assert len({tuple(turn) for turn in turns}) > 3  # the order of a turn changes
    for index, held in enumerate(holders):
        laps = records[class_of[records] == index].reshape(-1, len(held))
        assert (np.sort(laps, axis=1) == held).all()
    first = records[class_of[records] == 0].reshape(-1, 4)
    assert len({tuple(lap) for lap in first}) > 2  # so does that of a lap


def test_an_index_and_a_seed_say_it_all():
    draws = class_uniform.find_class_draws(COUNTS, range(4))
    whole = drawn(draws, 1, 0, 40)
    assert drawn(draws, 1, 17, 23) == whole[17:]
    assert drawn(draws, 2, 0, 40) != whole


@pytest.fixture(scope="module")
def draws(data_dir):
    """Of records 2, 3 and 20 alone: the others hold no class that is asked for."""
    counts = count_pixels(data_dir, "train")
    return class_uniform.find_class_draws(counts, (2, 3, 20))


def test_the_stream_reads_what_was_drawn(data_dir, draws):
    """Three classes, three to a batch: each batch holds one record of each."""
    dataset = train(select(data_dir, draws=draws), policy="class_uniform")
    ids = record_ids(dataset, 8).reshape(8, 3)
    assert (np.sort(ids, axis=1) == [2, 3, 20]).all()


def test_start_step_and_shares_enter_the_same_stream(data_dir, draws):
    options, start_step = dict(batch_size=4), 7
    selection = select(data_dir, draws=draws)
    whole = batches(train(selection, **options), start_step + 2)
    entered = train(selection, start_step=start_step, **options)
    assert_equal(batches(entered, 2), whole[start_step:])
    shares = [
        batches(train(selection, share=pipeline.Share(2, 2, i), **options), 2)
        for i in range(2)
    ]
    together = [tuple(map(np.concatenate, zip(*parts))) for parts in zip(*shares)]
    assert_equal(together, whole[:2])


def test_bad_records_are_read_around(data_dir, draws):
    """Frames that are given replace those of a shard, as `scan_split` finds them."""
    paths = sorted(str(path) for path in data_dir.iterdir())
    whole = class_uniform.record_frames(paths, None)
    assert len(whole) == 23 and np.bincount(whole[:, 0]).tolist() == [8, 8, 7]
    without_first = {paths[1]: whole[whole[:, 0] == 1][1:, 1:]}
    left = class_uniform.record_frames(paths, without_first)
    np.testing.assert_array_equal(left, np.delete(whole, 8, axis=0))
    with pytest.raises(ValueError, match="draws of the 22 records in 3 shards"):
        train(select(data_dir, draws=draws, good_frames=without_first))


@pytest.mark.parametrize("policy", ["class_uniform", "copy_paste"])
def test_a_selection_that_the_policy_does_not_fit_says_how_to_make_it(data_dir, policy):
    option = {
        "class_uniform": "class_uniform=True",
        "copy_paste": "paste_classes='rare",
    }
    with pytest.raises(ValueError, match=f"select_records.*{option[policy]}"):
        train(data_dir, policy=policy)


@pytest.fixture(scope="module")
def described(data_dir, tmp_path_factory):
    """The same records, of classes "0" to "22", with what a builder says of them."""
    folder = tmp_path_factory.mktemp("described")
    for path in data_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    info = DatasetInfo("numbers", tuple(map(str, range(23))), splits={"train": 23})
    (folder / "info.json").write_text(info.to_json())
    return folder


def test_a_selection_says_what_is_drawn_and_pasted(described):
    selection = select_records(
        described, "train", class_uniform=True, paste_classes=("4", "20")
    )
    assert selection.num_examples == 23
    assert selection.draws.class_ids == tuple(range(23))
    assert selection.paste.class_ids == (4, 20)
    assert "of the records that hold it: 0 1, 1 1, 2 1," in selection.report
    assert "Pixels of 4, 20 are pasted, out of 2 records." in selection.report
    ids = record_ids(train(selection, policy="class_uniform", batch_size=23), 1)
    assert sorted(ids) == list(range(23))


def test_records_that_are_left_out_are_neither_drawn_nor_pasted(described):
    """240 pixels have two of three records; the third, of 256, has them all."""
    selection = select_records(
        described,
        "train",
        class_uniform=True,
        paste_classes=("1", "2", "4"),
        min_labelled_pixels=250,
    )
    assert selection.draws.class_ids == tuple(range(1, 23, 3))
    assert selection.paste.class_ids == (1, 4)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(paste_classes="rare"), 'of which no class is so rare.*=\\["22"\\]'),
        (dict(paste_classes=("pole",)), "classes to paste of 0, 1, .*Received: pole"),
        (dict(paste_classes=("3",), min_class_pixels=999), "999 pixels or more"),
        (dict(class_uniform=True, duplicate=(("3", 2),)), "Leave one of the two out"),
    ],
)
def test_wrong_wishes_are_named(described, options, words):
    with pytest.raises(ValueError, match=words):
        select_records(described, "train", **options)
