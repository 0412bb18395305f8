"""predict.py: which files are read, which are written, and what a user sees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import predict

ROOT = Path(predict.__file__).parent


@pytest.fixture(scope="module")
def predictor(workdir):
    return predict.make_predictor(str(workdir), None)


def read_ids(path) -> np.ndarray:
    picture = Image.open(path)
    assert picture.mode == "P"
    return np.asarray(picture)


@pytest.mark.parametrize(
    "paths, names",
    [
        (["in/a.jpg"], ["a.png"]),
        (["in/a.jpg", "in/b.png"], ["a.png", "b.png"]),
        (["in/a.jpg", "in/a.png"], ["a.jpg.png", "a.png.png"]),
        (["in/A.jpg", "in/a.png"], ["A.jpg.png", "a.png.png"]),
        (["x/a.jpg", "y/a.jpg"], ["x/a.png", "y/a.png"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg.png", "a.png.png", "a.jpg.png.png"]),
    ],
)
def test_each_image_has_an_output_of_its_own(paths, names):
    assert predict.output_names(paths) == names


def test_a_file_a_folder_and_a_pattern_stand_for_images(photos, tmp_path):
    drawn = [str(photos / "drawn.jpg"), str(photos / "drawn.png")]
    everything = [*drawn, str(photos / "grey.png"), str(photos / "palette.png")]
    assert predict.find_images(drawn[0]) == drawn[:1]
    assert predict.find_images(str(photos)) == everything
    assert predict.find_images(str(photos / "dr*")) == drawn
    odd = tmp_path / "a[1].JPG"
    shutil.copy(drawn[0], odd)
    (tmp_path / "notes.txt").write_text("no image")
    assert predict.find_images(str(odd)) == [str(odd)]
    assert predict.find_images(str(tmp_path)) == [str(odd)]


def test_no_images_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="No images at .*Expected a JPEG or"):
        predict.find_images(str(tmp_path / "*.jpg"))


def test_classes_and_overlays_have_the_size_of_the_image(predictor, photos, tmp_path):
    paths = predict.find_images(str(photos))
    assert predict.predict_files(predictor, paths, str(tmp_path)) == []
    names = ["drawn.jpg.png", "drawn.png.png", "grey.png", "palette.png"]
    assert sorted(os.listdir(tmp_path)) == ["classes", "overlay"]
    assert sorted(os.listdir(tmp_path / "classes")) == names
    assert sorted(os.listdir(tmp_path / "overlay")) == names
    for path, name in zip(paths, names):
        width, height = Image.open(path).size
        classes = read_ids(tmp_path / "classes" / name)
        assert classes.shape == (height, width)
        assert len(np.unique(classes)) > 1, "the fixture should see several classes"
        assert classes.max() < 4
        overlay = Image.open(tmp_path / "overlay" / name)
        assert overlay.width >= width and overlay.height > height


def test_an_exif_orientation_is_not_applied(predictor, photos, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # "rotate by 90 degrees to show"
    image = Image.open(photos / "drawn.png")
    image.save(tmp_path / "plain.jpg")
    image.save(tmp_path / "turned.jpg", exif=exif)
    plain = predictor.predict((tmp_path / "plain.jpg").read_bytes())
    turned = predictor.predict((tmp_path / "turned.jpg").read_bytes())
    np.testing.assert_array_equal(turned, plain)


def test_bad_images_are_named_and_the_others_done(predictor, photos, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    jpeg = (photos / "drawn.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "good.jpg").write_bytes(jpeg)
    (folder / "text.png").write_text("no image")
    Image.new("RGB", (40, 31)).save(folder / "tiny.png")
    paths = predict.find_images(str(folder))
    paths.append(str(folder / "gone.jpg"))
    failures = predict.predict_files(predictor, paths, str(output))
    cut, text, tiny, gone = failures
    assert cut == f"{paths[0]}: not a JPEG or PNG image, or a damaged one."
    assert text == f"{paths[2]}: not a JPEG or PNG image, or a damaged one."
    assert tiny == (
        f"{paths[3]}: images must be at least 32 pixels a side, this is 31x40 "
        "(height x width)."
    )
    assert gone.startswith(paths[4]) and "No such file" in gone
    assert os.listdir(output / "classes") == ["good.png"]


def test_an_input_is_never_overwritten(predictor, photos, tmp_path):
    (tmp_path / "overlay").mkdir()
    image = tmp_path / "overlay" / "x.png"
    shutil.copy(photos / "drawn.png", image)
    before = image.read_bytes()
    with pytest.raises(ValueError, match="x.png would be overwritten"):
        predict.predict_files(predictor, [str(image)], str(tmp_path))
    assert image.read_bytes() == before


def test_scales_and_flip_reach_the_segmenter(workdir, predictor, photos):
    image_bytes = (photos / "drawn.png").read_bytes()
    averaged = predict.make_predictor(str(workdir), None, None, (0.75,), True)
    classes = averaged.predict(image_bytes)
    assert classes.shape == (96, 64)
    assert (classes != predictor.predict(image_bytes)).any()


def test_arguments_that_contradict_each_other():
    for both in ((None, None), ("a", "b")):
        with pytest.raises(ValueError, match="either --workdir or --saved_model"):
            predict.make_predictor(*both)
    for options in ((8, (1.0,), False), (None, (0.5,), False), (None, (1.0,), True)):
        with pytest.raises(ValueError, match="need --workdir"):
            predict.make_predictor(None, "exported", *options)


def test_no_model_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a workdir"):
        predict.make_predictor(str(tmp_path), None)
    with pytest.raises(FileNotFoundError, match="no exported model. Run: python exp"):
        predict.make_predictor(None, str(tmp_path))


def test_the_script_says_what_it_did_and_its_exit_code_counts_failures(
    workdir, photos, tmp_path
):
    (tmp_path / "bad.jpg").write_text("no image")
    shutil.copy(photos / "drawn.jpg", tmp_path / "good.jpg")
    output = tmp_path / "out"
    command = [
        *(sys.executable, ROOT / "predict.py", f"--workdir={workdir}"),
        *(f"--input={tmp_path}/*.jpg", f"--output={output}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert f"1 of 2 images: {output}" in done.stdout
    assert "bad.jpg: not a JPEG or PNG image" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert (output / "overlay" / "good.png").is_file()
