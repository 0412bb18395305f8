"""A run that goes on is held against the records that it began with."""

from __future__ import annotations

import dataclasses

import pytest

from deeplab_tf.commands.run_records import note_records, warn_of_other_records
from deeplab_tf.data.records.info import INFO_FILE, DatasetInfo
from deeplab_tf.workdir import LAST_WEIGHTS, RECORDS_FILE

INFO = DatasetInfo(
    "mine", ("a", "b"), splits={"train": 4}, pixel_counts={"train": [5, 6]}
)


@pytest.fixture
def folders(tmp_path):
    """(records, workdir of a run that was stopped), as texts."""
    for name in ("records", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "records" / INFO_FILE).write_text(INFO.to_json())
    note_records(str(tmp_path / "records"), str(tmp_path / "run"))
    (tmp_path / "run" / LAST_WEIGHTS).touch()
    return str(tmp_path / "records"), str(tmp_path / "run")


def change(folder, **fields):
    text = dataclasses.replace(INFO, **fields).to_json()
    with open(f"{folder}/{INFO_FILE}", "w", encoding="utf-8") as file:
        file.write(text)


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"splits": {"train": 6}}, "images a split {'train': 6} instead of {'train': "),
        ({"pixel_counts": {"train": [6, 5]}}, "other numbers of pixels of the classes"),
    ],
)
def test_other_records_are_told_each_time_that_the_run_goes_on(
    fields, sentence, folders, capsys
):
    records, run = folders
    warn_of_other_records(records, run)
    assert capsys.readouterr().out == ""
    change(records, **fields)
    for _ in range(2):
        warn_of_other_records(records, run)
        printed = capsys.readouterr().out
        assert f"Warning: {records} holds other records" in printed
        assert sentence in printed
        note_records(records, run)  # of a run that goes on they stay


def test_other_names_of_classes_are_the_same_records(folders, capsys):
    records, run = folders
    change(records, class_names=("c", "d"))
    warn_of_other_records(records, run)
    assert capsys.readouterr().out == ""


def test_a_run_of_before_and_one_that_begins_anew_are_not_warned(
    folders, tmp_path, capsys
):
    records, run = folders
    change(records, splits={"train": 6})
    (tmp_path / "run" / LAST_WEIGHTS).unlink()  # nothing of a run is left
    warn_of_other_records(records, run)
    note_records(records, run)
    assert '"train": 6' in (tmp_path / "run" / RECORDS_FILE).read_text()
    (tmp_path / "run" / LAST_WEIGHTS).touch()
    (tmp_path / "run" / RECORDS_FILE).unlink()  # as earlier versions left it
    warn_of_other_records(records, run)
    assert capsys.readouterr().out == ""
