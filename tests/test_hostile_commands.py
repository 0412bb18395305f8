"""Command lines that cannot be: each ends in one sentence, without a traceback."""

from __future__ import annotations

import dataclasses

import pytest
from PIL import Image

from deeplab_tf.command_names import list_failures
from deeplab_tf.commands import evaluate, export, predict
from deeplab_tf.networks import weight_files
from deeplab_tf.networks.backbones import BACKBONES
from tests.support.commands import call

pytestmark = pytest.mark.one_lane

EXPORT = (export, "--output_dir={folder}/out")
TFLITE = (*EXPORT, "--format=tflite", "--precision=int8")
PREDICT = (predict, "--input={photos}", "--output={folder}/out")
EVALUATE = (evaluate,)
SIZE = "--input_size must be SIZE or HEIGHT,WIDTH, such as 513 or 769,1537. Received: "
SCALES = "Expected --scales as numbers between commas, such as 0.75,1,1.25. Received: "

# A command line -> how its sentence begins.
LINES = [
    ((*TFLITE, "--input_size=257x257"), f"{SIZE}257x257"),
    ((*TFLITE, "--input_size=abc"), f"{SIZE}abc"),
    ((*TFLITE, "--input_size=1,2,3"), f"{SIZE}1,2,3"),
    ((*TFLITE, "--input_size=20,20"), "--input_size must be at least 32 pixels a side"),
    ((*TFLITE, "--input_size=-257"), "--input_size must be at least 32 pixels a side"),
    ((*EXPORT, "--scales=abc"), f"{SCALES}abc"),
    ((*EXPORT, "--scales=nan"), "scales must be positive, and at most 16"),
    ((*EXPORT, "--max_megapixels=inf"), "Expected --max_megapixels=16, say."),
    ((*PREDICT, "--scales=1,abc"), f"{SCALES}1,abc"),
    ((*PREDICT, "--scales=1e9"), "scales must be positive, and at most 16"),
    ((*PREDICT, "--scales="), "scales must be positive, and at most 16"),
    ((*PREDICT, "--max_megapixels=nan"), "Expected --max_megapixels=16, say."),
    ((*PREDICT, "--crf_parameters=a,b,c", "--crf"), "Expected --crf_parameters=w1"),
    ((*PREDICT, "--crf_parameters=sigma_gama=1", "--crf"), "Expected --crf_parameters"),
    ((*PREDICT, "--pad_to=31"), "--pad_to must be at least 32 pixels a side"),
    ((*PREDICT, "--pad_to=1,2,3"), "--pad_to must be SIZE or HEIGHT,WIDTH"),
    ((*PREDICT, "--pad_to=513x513"), "--pad_to must be SIZE or HEIGHT,WIDTH"),
    ((*PREDICT, "--pad_to=99999"), "pad_to must be a size or (height, width)"),
    ((*PREDICT, "--window=0"), "window must be at least 32 pixels"),
    ((*PREDICT[:2], "--output={file}"), "{file} cannot be a folder to write to: it,"),
    ((*EXPORT[:1], "--output_dir={file}"), "{file} cannot be a folder to write to: it"),
    ((*EVALUATE, "--output={file}"), "{file} cannot be a folder to write to: it, or a"),
    ((*EVALUATE, "--scales=x", "--output={folder}/out"), f"{SCALES}x"),
]


@pytest.mark.parametrize("line, sentence", LINES)
def test_a_command_line_that_cannot_be_ends_in_a_sentence(
    line, sentence, workdir, photos, tmp_path
):
    (tmp_path / "file").write_text("")
    places = {"folder": tmp_path, "file": tmp_path / "file", "photos": photos}
    module, *arguments = line
    arguments = [argument.format(**places) for argument in arguments]
    done = call(module, f"--workdir={workdir}", *arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    name = module.__name__.rpartition(".")[2]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"{name}.py: {sentence.format(**places)}")
    assert not (tmp_path / "out").exists()


def test_one_number_is_a_square():
    assert export.parse_size("--input_size", ["257"]) == (257, 257)
    assert export.parse_size("--input_size", ["257", "513"]) == (257, 513)


def test_of_many_failures_ten_are_listed(workdir, tmp_path):
    for index in range(13):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{index:02}.png")
    done = call(
        predict,
        *(f"--workdir={workdir}", f"--input={tmp_path}", f"--output={tmp_path}/out"),
    )
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and lines[-1] == "... and 3 more."
    assert sum("at least 32 pixels a side" in line for line in lines) == 10
    assert list_failures(["a", "b"], most=2) == "a\nb"
    assert list_failures(["a", "b", "c"], most=2) == "a\nb\n... and 1 more."


def test_weights_that_cannot_be_downloaded_are_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "")
    backbone = BACKBONES["mobilenet_v2"]
    nowhere = dataclasses.replace(
        backbone, imagenet_url="http://127.0.0.1:9/offline_weights.h5"
    )
    with pytest.raises(OSError) as error:
        weight_files.read_imagenet_weights(nowhere, "imagenet")
    assert error.value.__cause__ is None and error.value.__suppress_context__ is False
    assert error.value.__context__ is None, "one traceback, not three"
    assert "\n" not in str(error.value)
    assert "put offline_weights.h5 from elsewhere into" in str(error.value)
    assert "--init=FILE" in str(error.value)
