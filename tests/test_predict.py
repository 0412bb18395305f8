"""predict.py: which files are read, which are written, and what a user sees."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import types

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.commands import predict
from deeplab_tf.files import InUse, sole_writer_in
from deeplab_tf.image_kinds import KINDS
from deeplab_tf.inference.crf import CRFParameters
from deeplab_tf.inference.segmenter import load_segmenter
from deeplab_tf.labels import Labels
from deeplab_tf.pictures import videos
from deeplab_tf.pictures.images import read_image
from deeplab_tf.prediction import outputs
from deeplab_tf.prediction.input_files import find_inputs, output_names, select_listed
from deeplab_tf.prediction.outputs import Output, predict_files, segment
from tests.support import run_script

pytestmark = pytest.mark.two_lanes


@pytest.fixture(scope="module")
def segmenter(workdir):
    return load_segmenter(str(workdir), None)


def read_ids(path) -> np.ndarray:
    picture = Image.open(path)
    assert picture.mode == "P"
    return np.asarray(picture)


def read_shares(folder) -> list[dict[str, str]]:
    with open(folder / "shares.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- Which inputs -------------------------------------------------------------------


@pytest.mark.parametrize(
    "paths, names",
    [
        (["in/a.jpg"], ["a"]),
        (["in/a.jpg", "in/b.png"], ["a", "b"]),
        (["in/a.jpg", "in/a.png"], ["a.jpg", "a.png"]),
        (["in/A.jpg", "in/a.png"], ["A.jpg", "a.png"]),
        (["in/a.jpg", "in/a.mp4"], ["a.jpg", "a.mp4"]),
        (["x/a.jpg", "y/a.jpg"], ["x/a", "y/a"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg", "a.png", "a.jpg.png"]),
    ],
)
def test_each_input_has_an_output_of_its_own(paths, names):
    assert output_names(paths) == names


def test_a_file_a_folder_and_a_pattern_stand_for_images(photos, tmp_path):
    drawn = [str(photos / "drawn.jpg"), str(photos / "drawn.png")]
    everything = [*drawn, str(photos / "grey.png"), str(photos / "palette.png")]
    assert find_inputs(drawn[0]) == drawn[:1]
    assert find_inputs(str(photos)) == everything
    assert find_inputs(str(photos / "dr*")) == drawn
    odd = tmp_path / "a[1],b.JPG"
    shutil.copy(drawn[0], odd)
    (tmp_path / "notes.txt").write_text("no image")
    assert find_inputs(str(odd)) == [str(odd)]
    assert find_inputs(str(tmp_path)) == [str(odd)]


def test_inputs_are_joined_by_commas_and_each_counts_once(photos):
    jpeg, folder = str(photos / "drawn.jpg"), f"{photos}/."
    assert find_inputs(f"{photos}/g*.png,{jpeg}") == [
        jpeg,
        str(photos / "grey.png"),
    ]
    assert len(find_inputs(f"{folder},{jpeg},{photos}/*")) == 4


def test_what_stands_for_nothing_among_others_is_named(segmenter, photos, tmp_path):
    jpeg, gone = str(photos / "drawn.jpg"), str(tmp_path / "gone.jpg")
    pattern = f"{tmp_path}/*.bmp"
    paths = find_inputs(f"{gone},{jpeg},{pattern},{tmp_path}")
    assert sorted(paths) == sorted([gone, jpeg, pattern, str(tmp_path)])
    output = Output(str(tmp_path / "out"), ("classes",))
    assert sorted(predict_files(segmenter, paths, output)) == sorted(
        [
            f"{gone}: No such file or directory.",
            f"{pattern}: No such file or directory.",
            f"{tmp_path}: a folder, not an image file.",
        ]
    )


def test_folders_inside_folders_but_not_what_was_written(photos, tmp_path):
    for place in ("a.jpg", "deep/er/b.jpg", "out/overlay/c.png", "out/d.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / "drawn.jpg", tmp_path / place)
    (tmp_path / "deep" / "back").symlink_to(tmp_path)  # a loop
    assert find_inputs(str(tmp_path)) == [str(tmp_path / "a.jpg")]
    found = find_inputs(str(tmp_path), True, str(tmp_path / "out"))
    assert [os.path.relpath(path, tmp_path) for path in found] == [
        "a.jpg",
        os.path.join("deep", "er", "b.jpg"),
        os.path.join("out", "d.png"),
    ]


@pytest.mark.parametrize("inputs", ["*.jpg", "gone.jpg,also_gone.png", ".", ","])
def test_no_images_is_one_sentence(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="No images at .*Expected an image or"):
        find_inputs(inputs)


def test_a_list_restricts_a_folder_and_names_what_is_missing(tmp_path):
    paths = ["in/a.jpg", "in/b.jpg", "in/c d.png", "in/e.png"]
    names = tmp_path / "val.txt"
    names.write_text("e\nc d\n\na  1\ngone -1\na\n")
    found, missing = select_listed(paths, str(names))
    assert found == ["in/e.png", "in/c d.png", "in/a.jpg"]
    assert missing == [f"gone: in {names}, but not in --input."]
    names.write_text("x\n")
    with pytest.raises(ValueError, match="val.txt names none of the images"):
        select_listed(paths, str(names))


# ---- What is written ----------------------------------------------------------------


def test_classes_and_overlays_have_the_size_of_the_image(segmenter, photos, tmp_path):
    paths = find_inputs(str(photos))
    assert predict_files(segmenter, paths, Output(str(tmp_path))) == []
    names = ["drawn.jpg.png", "drawn.png.png", "grey.png", "palette.png"]
    assert sorted(os.listdir(tmp_path)) == ["classes", "overlay", "shares.csv"]
    assert sorted(os.listdir(tmp_path / "classes")) == names
    assert sorted(os.listdir(tmp_path / "overlay")) == names
    shares = read_shares(tmp_path)
    for path, name, row in zip(paths, names, shares):
        width, height = Image.open(path).size
        classes = read_ids(tmp_path / "classes" / name)
        np.testing.assert_array_equal(classes, segmenter.predict(read_image(path)))
        assert classes.shape == (height, width)
        assert len(np.unique(classes)) > 1, "the fixture should see several classes"
        overlay = Image.open(tmp_path / "overlay" / name)
        assert overlay.width >= width and overlay.height > height
        assert (row["image"], row["height"], row["width"]) == (
            path,
            str(height),
            str(width),
        )
        for index, label in enumerate(segmenter.labels.class_names):
            assert float(row[label]) == pytest.approx(
                (classes == index).mean(), abs=1e-6
            )


def test_what_is_saved_can_be_chosen(segmenter, photos, tmp_path):
    path = str(photos / "drawn.jpg")
    output = Output(str(tmp_path), ("probabilities", "classes"))
    assert predict_files(segmenter, [path], output) == []
    assert sorted(os.listdir(tmp_path)) == ["classes", "probabilities", "shares.csv"]
    saved = np.load(tmp_path / "probabilities" / "drawn.npz")
    assert saved["class_names"].tolist() == list(segmenter.labels.class_names)
    probabilities = saved["probabilities"]
    assert probabilities.dtype == np.float16 and probabilities.shape == (70, 90, 4)
    expected = segmenter.probabilities(read_image(path)[None])[0]
    np.testing.assert_allclose(probabilities, expected, atol=5e-4)
    classes = read_ids(tmp_path / "classes" / "drawn.png")
    np.testing.assert_array_equal(classes, expected.argmax(-1))
    with pytest.raises(ValueError, match="--save takes classes, .* Received: masks"):
        Output(str(tmp_path), ("classes", "masks"))


def test_a_phones_photo_stands_upright(segmenter, photos, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # "rotate by 90 degrees to show"
    Image.open(photos / "drawn.png").save(tmp_path / "turned.jpg", exif=exif)
    width, height = Image.open(photos / "drawn.png").size
    output = Output(str(tmp_path / "out"))
    paths = [str(tmp_path / "turned.jpg")]
    assert predict_files(segmenter, paths, output) == []
    stored = read_image(photos / "drawn.png")
    turned = read_image(paths[0])
    assert turned.shape == (width, height, 3)
    # JPEG changes a smooth image by little: the same scene, a quarter turned.
    assert np.abs(np.rot90(turned).astype(int) - stored).mean() < 5
    classes = read_ids(tmp_path / "out" / "classes" / "turned.png")
    np.testing.assert_array_equal(classes, segmenter.predict(turned))
    (row,) = read_shares(tmp_path / "out")
    assert (row["height"], row["width"]) == (str(width), str(height))


def test_bad_images_are_named_and_the_others_done(segmenter, photos, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    jpeg = (photos / "drawn.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) - 200])
    (folder / "good.jpg").write_bytes(jpeg)
    (folder / "text.png").write_text("no image")
    Image.new("RGB", (40, 31)).save(folder / "tiny.png")
    Image.new("RGB", (400, 310)).save(folder / "x.png")
    paths = [*find_inputs(str(folder)), str(folder / "gone\n.jpg")]
    failures = predict_files(segmenter, paths, Output(str(output), max_pixels=100_000))
    assert failures == [
        f"{folder}/cut.jpg: a truncated or damaged JPEG image.",
        f"{folder}/text.png: not a {KINDS} image, or a damaged one.",
        f"{folder}/tiny.png: images must be at least 32 pixels a side, this is 31x40 "
        "(height x width).",
        f"{folder}/x.png: 310x400 (height x width) are 0 megapixels, and no more than "
        "0 are read unless that bound is raised.",
        f"{folder}/gone\\n.jpg: No such file or directory.",
    ]
    assert os.listdir(output / "classes") == ["good.png"]
    assert [row["image"] for row in read_shares(output)] == [f"{folder}/good.jpg"]


def test_an_input_is_never_overwritten(segmenter, photos, tmp_path):
    (tmp_path / "overlay").mkdir()
    image = tmp_path / "overlay" / "x.png"
    shutil.copy(photos / "drawn.png", image)
    before = image.read_bytes()
    with pytest.raises(ValueError, match="x.png would be overwritten"):
        predict_files(segmenter, [str(image)], Output(str(tmp_path)))
    assert image.read_bytes() == before


def test_an_image_too_large_for_memory_is_named(segmenter, photos, tmp_path):
    class Full:
        crf = window = None
        labels = segmenter.labels

        def predict(self, image):
            raise MemoryError

    failures = predict_files(Full(), [str(photos / "grey.png")], Output(str(tmp_path)))
    assert failures == [f"{photos}/grey.png: too large for this machine's memory."]


# ---- Large images -------------------------------------------------------------------


@pytest.mark.parametrize("hide", [None, (), ("cat", "HORSE")])
def test_overlays_leave_clear_what_is_hidden(hide, segmenter, photos, tmp_path):
    output = Output(str(tmp_path), hide=hide)
    assert predict_files(segmenter, [str(photos / "drawn.png")], output) == []
    image = np.asarray(Image.open(photos / "drawn.png"))
    classes = np.asarray(Image.open(tmp_path / "classes" / "drawn.png"))
    np.testing.assert_array_equal(classes, segmenter.predict(image))
    picture = np.asarray(Image.open(tmp_path / "overlay" / "drawn.png"))
    picture = picture[: image.shape[0], : image.shape[1]]
    hidden = {None: [0], (): [], ("cat", "HORSE"): [1, 3]}[hide]
    clear = np.isin(classes, hidden)
    np.testing.assert_array_equal(picture[clear], image[clear])
    assert (picture[~clear] != image[~clear]).any(-1).mean() > 0.9
    assert (~clear).any() and (clear.any() or not hidden)


def test_a_class_to_hide_that_is_none_is_told_before_any_work(segmenter, tmp_path):
    with pytest.raises(ValueError, match="such as cat.*Received: cats"):
        predict_files(
            segmenter, ["gone.png"], Output(str(tmp_path / "o"), hide=("cats",))
        )
    assert not (tmp_path / "o").exists()


def test_a_large_image_is_predicted_in_windows_and_its_overlay_is_small(
    workdir, segmenter, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(outputs, "LARGE_PIXELS", 3000)
    monkeypatch.setattr(outputs, "LARGE_WINDOW", 40)
    path = str(photos / "drawn.png")  # 64 x 96 pixels, as its width x height
    assert predict_files(segmenter, [path], Output(str(tmp_path))) == []
    assert "predicted in windows of 40 pixels" in capsys.readouterr().out
    windowed = load_segmenter(str(workdir), None, window=40, overlap=10)
    image = read_image(path)
    classes = read_ids(tmp_path / "classes" / "drawn.png")
    np.testing.assert_array_equal(classes, windowed.predict(image))
    assert (classes != segmenter.predict(image)).any()
    overlay = Image.open(tmp_path / "overlay" / "drawn.png")
    small = np.asarray(overlay)[: image.shape[0] // 2, : image.shape[1] // 2]
    assert overlay.height < image.shape[0] + 60
    assert len(np.unique(small.reshape(-1, 3), axis=0)) > 50
    assert segmenter.window is None, "small images are still run whole"


def test_a_large_image_with_a_crf_or_probabilities_is_refused(segmenter, monkeypatch):
    monkeypatch.setattr(outputs, "LARGE_PIXELS", 3000)
    image = np.zeros((64, 96, 3), np.uint8)
    with pytest.raises(ValueError, match="and probabilities need memory for them all"):
        segment(segmenter, image, probabilities=True)

    class WithCRF:
        crf, window = CRFParameters(), None

    with pytest.raises(ValueError, match="the dense CRF needs memory for them all"):
        segment(WithCRF(), image)


# ---- Videos -------------------------------------------------------------------------


def moving_square(num_frames: int, height: int = 49, width: int = 66):
    """Frames with a bright square that moves right, and its left sides."""
    for index in range(num_frames):
        frame = np.full((height, width, 3), (30, 60, 90), np.uint8)
        frame[8:40, 6 * index : 6 * index + 24] = (240, 200, 40)
        yield frame


class Brightness:
    """Stands for a segmenter: class 1 where red is bright."""

    crf = window = None
    labels = Labels(("dark", "bright"), ((0, 0, 0), (0, 0, 255)))

    def outgrows_padding(self, size):
        return False

    def predict(self, image):
        return (image[..., 0] > 130).astype(np.uint8)


@pytest.fixture(params=["opencv", "ffmpeg"])
def backend(request, monkeypatch):
    if request.param == "opencv":
        pytest.importorskip("cv2")
    elif not shutil.which("ffmpeg"):
        pytest.skip("needs the ffmpeg program on the PATH")
    monkeypatch.setattr(videos, "find_backend", lambda: request.param)
    return request.param


@pytest.fixture
def movie(tmp_path) -> str:
    """A video of six frames of 48x66, written by OpenCV."""
    cv2 = pytest.importorskip("cv2")
    path = str(tmp_path / "movie.mp4")
    code = cv2.VideoWriter_fourcc(*"mp4v")
    writer = cv2.VideoWriter(path, code, 12.5, (66, 48))
    for frame in moving_square(6, 48):
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def test_a_video_becomes_an_overlay_video_and_class_maps(backend, movie, tmp_path):
    out = tmp_path / "out"
    assert predict_files(Brightness(), [movie], Output(str(out))) == []
    maps = sorted(os.listdir(out / "classes" / "movie"))
    assert maps == [f"{index:06d}.png" for index in range(6)]
    for index, name in enumerate(maps):
        classes = read_ids(out / "classes" / "movie" / name)
        expected = np.zeros((48, 66), np.uint8)
        expected[8:40, 6 * index : 6 * index + 24] = 1
        assert (classes == expected).mean() > 0.97, index
    assert os.listdir(out / "overlay") == ["movie.mp4"]
    with videos.open_video(str(out / "overlay" / "movie.mp4")) as video:
        assert video.frames_per_second == pytest.approx(12.5)
        frames = list(video.frames)
    assert len(frames) == 6
    assert frames[0].shape[0] > 48, "a legend is under it"
    inside = frames[0][16:32, 6:18].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(inside, (120, 100, 147), atol=12)  # half gold, half blue
    (row,) = read_shares(out)
    assert float(row["bright"]) == pytest.approx(32 * 24 / (48 * 66), abs=0.01)


def test_only_the_overlay_of_a_video_and_not_its_probabilities(movie, tmp_path):
    out = tmp_path / "out"
    output = Output(str(out), ("overlay",))
    assert predict_files(Brightness(), [movie], output) == []
    assert sorted(os.listdir(out)) == ["overlay", "shares.csv"]
    output = Output(str(tmp_path / "no"), ("probabilities",))
    (failure,) = predict_files(Brightness(), [movie], output)
    assert (
        failure == f"{movie}: a video, of which only classes and overlay can be saved."
    )


def test_odd_sides_lose_a_pixel_of_the_video(backend, tmp_path):
    path = str(tmp_path / "odd.mp4")
    with videos.create_video(path, 10) as write:
        for frame in moving_square(3, 49, 67):
            write(frame)
    with videos.open_video(path) as video:
        assert [frame.shape for frame in video.frames] == [(48, 66, 3)] * 3
    assert os.listdir(tmp_path) == ["odd.mp4"]


def test_what_is_no_video_is_named(backend, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(200))
    out = tmp_path / "out"
    failures = predict_files(Brightness(), [str(bad)], Output(str(out)))
    name = {"opencv": "OpenCV", "ffmpeg": "ffmpeg"}[backend]
    assert failures == [f"{bad}: not a video that {name} can read, or a damaged one."]
    assert os.listdir(out / "overlay") == []


def test_a_truncated_video_is_named_and_its_frames_are_kept(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "cut.avi"
    code = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), code, 10, (66, 48))
    for frame in moving_square(40, 48):
        writer.write(frame)
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    out = tmp_path / "out"
    (failure,) = predict_files(Brightness(), [str(path)], Output(str(out)))
    done = len(os.listdir(out / "classes" / "cut"))
    assert 10 < done < 40
    assert failure == f"{path}: a truncated video, of which {done} frames are done."
    assert os.listdir(out / "overlay") == ["cut.mp4"]


def test_a_video_without_opencv_and_ffmpeg_is_one_sentence(
    movie, tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    (failure,) = predict_files(Brightness(), [movie], Output(str(tmp_path / "out")))
    assert failure.startswith(f"{movie}: a video needs OpenCV (pip install")


def test_an_interrupted_video_leaves_none(movie, tmp_path):
    path = tmp_path / "x.mp4"
    with pytest.raises(KeyboardInterrupt):
        with videos.create_video(str(path), 10) as write:
            write(np.zeros((48, 64, 3), np.uint8))
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["movie.mp4"]


# ---- Models and the command ---------------------------------------------------------


def test_scales_and_flip_reach_the_segmenter(workdir, segmenter, photos):
    image = read_image(photos / "drawn.png")
    averaged = load_segmenter(str(workdir), None, scales=(0.75,), flip=True)
    classes = averaged.predict(image)
    assert classes.shape == (96, 64)
    assert (classes != segmenter.predict(image)).any()


def test_images_longer_than_the_pad_are_counted(workdir, photos, tmp_path, capsys):
    """Of 4 images drawn.png and palette.png are 96 pixels high."""
    padded = load_segmenter(str(workdir), None, pad_to=(90, 96))
    output = Output(str(tmp_path))
    assert predict_files(padded, find_inputs(str(photos)), output) == []
    told = "2 images are larger than --pad_to=90x96 (height x width) and not cut"
    assert told in capsys.readouterr().out
    image = np.full((90, 96, 3), 127.5, np.float32)
    image[:70, :90] = read_image(photos / "drawn.jpg")
    expected = load_segmenter(str(workdir), None).predict(image)[:70, :90]
    np.testing.assert_array_equal(
        read_ids(tmp_path / "classes/drawn.jpg.png"), expected
    )


def test_an_exported_model_gives_the_classes_of_its_run(segmenter, exported, photos):
    served = load_segmenter(None, str(exported))
    assert served.labels == segmenter.labels
    image = read_image(photos / "drawn.jpg")
    np.testing.assert_array_equal(served.predict(image), segmenter.predict(image))


def test_arguments_that_contradict_each_other():
    for both in ((None, None), ("a", "b")):
        with pytest.raises(ValueError, match="either --workdir or --saved_model"):
            load_segmenter(*both)
    with pytest.raises(ValueError, match="--output_stride needs --workdir"):
        load_segmenter(None, "exported", 8)


def test_no_model_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a workdir"):
        load_segmenter(str(tmp_path), None)
    with pytest.raises(FileNotFoundError, match="no exported model. Run: python exp"):
        load_segmenter(None, str(tmp_path))


@pytest.fixture
def predict_flags(monkeypatch, tmp_path):
    """predict_flags(name=value, ...) sets flags; a model would be loaded in vain."""

    def set_flags(**given):
        names = "workdir saved_model input output serve list recursive submission"
        names += " gpu_memory_limit hide"
        values = {
            **dict.fromkeys(names.split()),
            **{"save": ["classes"], "alpha": 0.5, "port": 0, "max_megapixels": None},
            **{"workdir": str(tmp_path), **given},
        }
        monkeypatch.setattr(predict, "FLAGS", types.SimpleNamespace(**values))

    monkeypatch.setattr(predict, "segmenter_of", lambda _: pytest.fail("loaded"))
    return set_flags


def test_a_missing_package_is_named_before_the_model_is_loaded(
    predict_flags, movie, tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    predict_flags(serve=True)
    with pytest.raises(SystemExit, match=r"^predict.py: The page needs Flask, .* pip "):
        predict.main(["predict.py"])
    predict_flags(input=movie, output=str(tmp_path / "out"))
    with pytest.raises(SystemExit, match=r"^predict.py: a video needs OpenCV \(pip"):
        predict.main(["predict.py"])


def test_what_is_to_be_predicted_is_asked_for(predict_flags):
    predict_flags(input="photos")
    with pytest.raises(SystemExit, match="^predict.py: Give --input and --output, or"):
        predict.main(["predict.py"])


def test_the_script_says_what_it_did(workdir, photos, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("drawn\ngone\n")
    output = tmp_path / "out"
    flags = [f"--workdir={workdir}", f"--input={photos}/*.jpg,{photos}/grey.png"]
    flags += [f"--output={output}", f"--list={names}", "--save=overlay"]
    command = run_script.command("predict.py", *flags, "--window=48", "--overlap=12")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert f"1 of 1 inputs: {output}" in done.stdout
    assert done.stderr.splitlines()[-1] == (f"gone: in {names}, but not in --input.")
    assert "Traceback" not in done.stderr
    assert os.listdir(output / "overlay") == ["drawn.png"]


def tell_apart(segmenter, folder, *paths):
    """Predicts; returns the inputs in shares.csv, and the class maps."""
    assert predict_files(segmenter, list(map(str, paths)), Output(str(folder))) == []
    maps = sorted(path.stem for path in (folder / "classes").iterdir())
    return sorted(row["image"] for row in read_shares(folder)), maps


def test_predictions_of_before_stay_with_their_rows(
    segmenter, photos, tmp_path, capsys
):
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    shutil.copy(photos / "grey.png", other / "drawn.png")
    first = str(photos / "grey.png")
    assert tell_apart(segmenter, out, first) == ([first], ["grey"])
    second = str(photos / "drawn.png")
    both = (sorted([first, second]), ["drawn", "grey"])
    assert tell_apart(segmenter, out, second) == both
    assert "1 predictions of before: 1 stay, 0 are replaced" in capsys.readouterr().out
    assert tell_apart(segmenter, out, second) == both
    third = str(other / "drawn.png")  # whose class map takes the place of the second's
    assert tell_apart(segmenter, out, third)[0] == sorted([first, third])
    assert "1 stay, 1 are replaced" in capsys.readouterr().out


def test_predictions_of_other_classes_are_not_mixed(segmenter, photos, tmp_path):
    (tmp_path / "shares.csv").write_text("image,height,width,road,sky\n")
    with pytest.raises(ValueError, match="other classes: .*road, sky; these are .*cat"):
        predict_files(segmenter, [str(photos / "grey.png")], Output(str(tmp_path)))
    assert os.listdir(tmp_path) == ["shares.csv"]


def test_what_was_predicted_until_ctrl_c_is_in_shares(segmenter, photos, tmp_path):
    class Interrupted:
        labels, crf, window = segmenter.labels, None, None
        outgrows_padding = segmenter.outgrows_padding

        def predict(self, image):
            if image.shape[:2] == (50, 33):
                raise KeyboardInterrupt
            return segmenter.predict(image)

    paths = [str(photos / name) for name in ("drawn.png", "grey.png")]
    with pytest.raises(KeyboardInterrupt):
        predict_files(Interrupted(), paths, Output(str(tmp_path)))
    assert [row["image"] for row in read_shares(tmp_path)] == paths[:1]


def test_two_predictions_into_one_folder_do_not_meet(segmenter, photos, tmp_path):
    with sole_writer_in(tmp_path, "predictions"):
        with pytest.raises(InUse, match=f"being written by process {os.getpid()}"):
            predict_files(segmenter, [str(photos / "grey.png")], Output(str(tmp_path)))
    assert os.listdir(tmp_path) == []


def test_a_file_in_place_of_a_folder_is_told(segmenter, photos, tmp_path):
    (tmp_path / "file").write_text("")
    for output in ("file", "file/inside"):
        with pytest.raises(OSError, match="it, or a part of it, is a file"):
            folder = Output(str(tmp_path / output))
            predict_files(segmenter, [str(photos / "grey.png")], folder)
