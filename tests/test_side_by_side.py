"""Exports of a run side by side: the table, and which of them it advises."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.commands import export, run_exports
from deeplab_tf.config import read_config
from deeplab_tf.exports import side_by_side
from deeplab_tf.exports.converters import CONVERTERS, Converter
from deeplab_tf.exports.side_by_side import (
    BASE,
    KERAS,
    Measured,
    advice,
    as_table,
    measure_all,
)
from deeplab_tf.exports.signatures import MAX_PIXELS
from deeplab_tf.inference.segmenter import Segmenter

pytestmark = pytest.mark.one_lane


def image_of(seed):
    coarse = np.random.default_rng(seed).integers(0, 256, [6, 8, 3], np.uint8)
    return coarse.repeat(11, 0).repeat(11, 1)[:65, :81]


def rows(tmp_path, **changes):
    """Measured exports, with times of 1 s but for those of `changes`."""
    folder, file = tmp_path / "saved", tmp_path / "x.tflite"
    folder.mkdir(exist_ok=True)
    made = {
        KERAS: Measured("", math.nan, [2.0, 2.0], 1.0, 0.6),
        BASE: Measured(str(folder), 9.0, [1.0, 2.0], 1.0, 0.6),
        "LiteRT float32": Measured(str(file), 9.0, [1.0, 1.0], 1.0, 0.6),
    }
    for title, (seconds, same, score) in changes.items():
        made[title] = Measured(str(file), 3.0, seconds, same, score)
    return made


def test_the_quickest_that_keeps_the_scores_is_advised(tmp_path):
    worse = rows(tmp_path, int8=([0.1, 0.1], 0.95, 0.58))
    first, second = advice(worse).splitlines()
    assert first.startswith("Take this one: LiteRT float32, 1.50 times as quick as")
    assert second.startswith(f"For TF Serving: {BASE}, 1.00 times")
    kept = rows(tmp_path, int8=([0.1, 0.1], 0.95, 0.595))
    assert advice(kept).startswith("Take this one: int8, 15.00 times as quick as")


@pytest.mark.parametrize("same, advised", [(0.99, "int8"), (0.97, BASE)])
def test_without_labels_the_pixels_decide(tmp_path, same, advised):
    made = rows(tmp_path, int8=([0.1, 0.1], same, math.nan))
    made = {
        title: Measured(each.path, 1.0, each.seconds, each.same_class)
        for title, each in made.items()
        if title != "LiteRT float32"
    }
    assert advice(made).startswith(f"Take this one: {advised},")


def test_the_table_has_what_is_known(tmp_path):
    made = rows(tmp_path, int8=([0.5, 0.5], 0.95, math.nan))
    keras, *_, int8 = as_table(made).splitlines()[2:]
    assert keras == "| Keras |  | 2000.0 | 0.75 | 100.000% | 60.00 |"
    assert int8 == "| int8 | 3.0 | 500.0 | 3.00 | 95.000% |  |"


def test_exports_are_measured_by_their_labels(workdir, exported):
    """A label that is the Keras model's own answer gives 100 %, another one less."""
    segmenter = Segmenter.from_workdir(workdir)
    images = [image_of(seed) for seed in range(2)]
    for shift, score in ((0, 1.0), (1, 0.0)):
        examples = [(each, (segmenter.predict(each) + shift) % 4) for each in images]
        made = measure_all(
            {BASE: str(exported)}, examples, segmenter.predict, segmenter.labels
        )
        assert list(made) == [KERAS, BASE]
        assert made[KERAS].mean_iou == score
        assert made[BASE].mean_iou == pytest.approx(score, abs=0.02)
        assert made[BASE].same_class > 0.999
        assert len(made[BASE].seconds) == 2
        assert made[BASE].megabytes > 0.01
    assert math.isnan(
        measure_all(
            {BASE: str(exported)},
            [(images[0], None)],
            segmenter.predict,
            segmenter.labels,
        )[BASE].mean_iou
    )


@pytest.mark.one_lane
def test_the_command_writes_all_and_advises(workdir, tmp_path, monkeypatch, capsys):
    """What cannot be made is told, and the others are."""

    def broken(classes, precision, examples):
        raise KeyError("no such operation")

    for name, converter in CONVERTERS.items():
        few = {"float32": converter.bounds["float32"]}
        if name == "tflite":
            few["int8"] = converter.bounds["int8"]
        made = Converter(
            converter.convert if name == "tflite" else broken, converter.ending, few
        )
        monkeypatch.setitem(CONVERTERS, name, made)
    titles = [side_by_side.BASE, f"{side_by_side.BASE}, constants"]
    chosen = {title: run_exports.SAVED_MODELS[title] for title in titles}
    monkeypatch.setattr(run_exports, "SAVED_MODELS", chosen)
    photos, output = tmp_path / "photos", tmp_path / "exported"
    photos.mkdir()
    for seed in range(3):
        Image.fromarray(image_of(seed)).save(photos / f"{seed}.png")
    values = types.SimpleNamespace(
        **{"workdir": str(workdir), "pretrained": None, "output_dir": str(output)},
        **{"format": "all", "precision": "float32", "images": str(photos)},
        **{"input_size": None, "output_stride": None, "version": None},
        **{"flip": False, "constants": False, "scales": ["1"]},
        max_megapixels=MAX_PIXELS / 1e6,
    )
    for name, value in {"flip": True, "max_megapixels": 1.0}.items():
        with pytest.raises(ValueError, match="are TF Serving's. Leave them out of --f"):
            export.export_and_measure(
                types.SimpleNamespace(**{**vars(values), name: value})
            )
    with pytest.raises(ValueError, match="has every precision: leave --precision out"):
        export.export_and_measure(
            types.SimpleNamespace(**{**vars(values), "precision": "int8"})
        )
    export.export_and_measure(values)
    said = capsys.readouterr().out
    assert "| LiteRT float32 |" in said and "| SavedModel float32, constants |" in said
    assert "No LiteRT int8: int8 needs a fixed input size" in said
    assert "No OpenVINO float32: " in said and "no such operation" in said
    assert "Take this one: " in said and "For TF Serving: SavedModel" in said
    name = f"{read_config(workdir).model}_float32.tflite"
    assert (output / name).is_file()
    assert (output / "SavedModel_float32" / "1").is_dir()
