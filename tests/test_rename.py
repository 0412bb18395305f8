"""Names and colours given later: to a run, and to its records."""

from __future__ import annotations

import json

import pytest

from deeplab_tf.commands import rename
from deeplab_tf.config import TrainConfig, read_config, write_config
from deeplab_tf.data.records.info import INFO_FILE, DatasetInfo
from deeplab_tf.files import InUse, sole_writer_in
from deeplab_tf.labels import Labels

OLD = ("class_0", "class_1", "class_2")
NEW = ("background", "road", "car")
COLORS = ((0, 0, 0), (128, 64, 128), (0, 0, 255))


@pytest.fixture
def run(tmp_path):
    """A workdir, with the records that it was trained on."""
    info = DatasetInfo(
        "mine", OLD, splits={"train": 4}, pixel_counts={"train": [1] * 3}
    )
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / INFO_FILE).write_text(info.to_json())
    config = TrainConfig(
        num_classes=3,
        class_names=OLD,
        colormap=info.colormap,
        duplicate=(("class_2", 3),),
        paste_classes=("class_1", "class_2"),
        data_dir=str(tmp_path / "records"),
    )
    write_config(config, tmp_path / "run")
    labels = Labels(OLD, info.colormap).to_json()
    (tmp_path / "run" / "labels.json").write_text(labels)
    return tmp_path


def info_of(folder) -> DatasetInfo:
    return DatasetInfo.from_json((folder / "records" / INFO_FILE).read_text())


def test_a_run_and_its_records_get_names_and_keep_the_rest(run, capsys):
    before = info_of(run)
    rename.main([str(run / "run"), "--class_names=background,road,car"])
    config = read_config(run / "run")
    assert config.class_names == NEW
    assert config.duplicate == (("car", 3),)
    assert config.paste_classes == ("road", "car")
    assert config.colormap == before.colormap
    info = info_of(run)
    assert info.class_names == NEW and info.splits == before.splits
    assert info.pixel_counts == before.pixel_counts
    labels = json.loads((run / "run" / "labels.json").read_text())
    assert labels["class_names"] == list(NEW)
    printed = capsys.readouterr().out
    assert f"export.py --workdir={run / 'run'}" in printed
    assert printed.count("Wrote ") == 3


def test_a_table_gives_names_and_colors_and_colors_come_alone(run):
    table = run / "labelmap.txt"
    rows = [f"{n}:{r},{g},{b}::" for n, (r, g, b) in zip(NEW, COLORS)]
    table.write_text("# label:color_rgb:parts:actions\n" + "\n".join(rows))
    rename.main([str(run / "run"), f"--class_names={table}"])
    assert read_config(run / "run").colormap == COLORS == info_of(run).colormap
    rename.main([str(run / "records"), "--colors=#010203,#040506,#070809"])
    assert info_of(run).colormap == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert info_of(run).class_names == NEW
    rename.main([str(run / "records"), f"--colors={table}"])
    assert info_of(run).colormap == COLORS


def test_records_of_other_names_are_left_alone(run):
    path = run / "records" / INFO_FILE
    path.write_text(DatasetInfo("mine", ("x", "y", "z")).to_json())
    written = rename.rename(run / "run", "a,b,c")
    assert info_of(run).class_names == ("x", "y", "z")
    assert str(path) not in written


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--class_names=a,b"], "expected 3 names, one a class.*Received: 2"),
        (["--class_names=a,b,b"], "more than once: b"),
        (["--class_names=voc2012"], "expected 3 names.*Received: 21"),
        (["--class_names=absent.txt"], "There is no file absent.txt"),
        (["--colors=#000000"], "expected 3 colours.*Received: 1"),
        (["--colors=#00000g,#000000,#111111"], "expected red, green and blue"),
    ],
)
def test_what_does_not_fit_changes_nothing(run, arguments, sentence):
    before = (run / "run" / "config.json").read_bytes()
    with pytest.raises(SystemExit, match=f"Error: .*{sentence}"):
        rename.main([str(run / "run"), *arguments])
    assert (run / "run" / "config.json").read_bytes() == before
    assert info_of(run).class_names == OLD


def test_a_folder_of_neither_and_a_run_that_trains_are_refused(run, tmp_path):
    with pytest.raises(SystemExit, match="neither the workdir of a run"):
        rename.main([str(tmp_path), "--class_names=a,b,c"])
    with sole_writer_in(run / "run", "train"), pytest.raises(InUse):
        rename.rename(run / "run", "a,b,c")
    assert info_of(run).class_names == OLD
