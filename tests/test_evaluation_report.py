"""The page: what is in it, that nothing leaves it, and how it fits in a browser."""

from __future__ import annotations

import base64
import html.parser
import io
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.colors import IGNORE_COLOR
from deeplab_tf.evaluation.best_and_worst import ERROR_COLOR, BestAndWorst
from deeplab_tf.evaluation.charts import ticks
from deeplab_tf.evaluation.html_report import draw, write_report
from deeplab_tf.evaluation.scores import Evaluation, compare, percent
from deeplab_tf.labels import Labels, labels_for
from deeplab_tf.pictures.visualize import overlay

pytestmark = pytest.mark.two_lanes

HOSTILE = "<script>alert(1)</script>\"'&"
NAMES = ("sky", HOSTILE, "dog")
LABELS = Labels(NAMES, ((0, 0, 0), (200, 0, 0), (0, 100, 0)))
VOID_TAGS = {"meta", "img", "br"}


def random_images(count, num_classes=3, shape=(20, 24)):
    """(name, image, label, classes): right in most places."""
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, num_classes, (shape[0] // 4, shape[1] // 4))
        label = np.kron(coarse, np.ones((4, 4), int))
        wrong = rng.random(shape) < 0.1 + 0.05 * index
        classes = np.where(wrong, rng.integers(0, num_classes, shape), label)
        label[:2] = 255
        image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        yield f"{index} {HOSTILE}", image, label, classes


def make_page(path, images, labels=LABELS, worse=0, hidden=(), **more):
    """Writes the page of images; with `worse`, compared with shifted predictions."""
    evaluation, other = Evaluation(labels.class_names), Evaluation(labels.class_names)
    pictures = BestAndWorst()
    for name, image, label, classes in images:
        score = evaluation.add(name, label, classes)
        other.add(name, label, np.roll(classes, worse, 1))
        pictures.add(score, name, image, label, classes)
    results = {**evaluation.results(draws=20), **more}
    if worse:
        comparison = compare(results, other.results(draws=20), draws=20)
        results["comparison"] = {**comparison, "with": f"other {HOSTILE}.json"}
    write_report(results, labels, pictures, path, hidden)
    return results, path.read_text(encoding="utf-8")


class Reader(html.parser.HTMLParser):
    """Reads a page strictly: each tag closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.texts = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data)


def decoded(uri) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


# --- Best and worst ------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 7, 8, 9, 60])
def test_best_and_worst_are_those_of_sorting_all(count):
    rng = np.random.default_rng(count)
    scores = rng.integers(0, 12, count) / 12  # with ties
    map_ = np.zeros((3, 5), np.uint8)
    pictures = BestAndWorst(keep=4)
    for index, score in enumerate(scores):
        pictures.add(score, f"{index:02}", np.zeros((3, 5, 3), np.uint8), map_, map_)
        assert len(pictures.best()) + len(pictures.worst()) == min(index + 1, 8)
    ordered = sorted((score, f"{index:02}") for index, score in enumerate(scores))
    best = [(picture.score, picture.name) for picture in pictures.best()]
    worst = [(picture.score, picture.name) for picture in pictures.worst()]
    assert best == ordered[::-1][:4]
    assert worst == ordered[: max(0, min(4, count - 4))]


def test_images_that_are_all_void_are_left_out():
    pictures = BestAndWorst()
    map_ = np.zeros((3, 5), np.uint8)
    pictures.add(float("nan"), "void", np.zeros((3, 5, 3), np.uint8), map_, map_)
    assert not pictures.best() and not pictures.worst()


def test_large_images_are_kept_small_and_ids_stay_ids():
    label = np.kron([[0, 7], [255, 3]], np.ones((600, 1200), int))
    image = np.zeros((1200, 2400, 3), np.uint8)
    image[:, 1200:] = 200
    pictures = BestAndWorst()
    pictures.add(0.5, "large", image, label, np.where(label == 255, 0, label))
    (picture,) = pictures.best()
    assert picture.image.shape == (240, 480, 3)
    expected = np.kron([[0, 7], [255, 3]], np.ones((120, 240), int))
    np.testing.assert_array_equal(picture.label, expected)
    np.testing.assert_array_equal(picture.classes, expected % 255)
    assert picture.image[:, :230].max() == 0 and picture.image[:, 250:].min() == 200


# --- The page ------------------------------------------------------------------------


def test_page_fetches_nothing_and_runs_nothing(tmp_path):
    more = {"weights": HOSTILE, "data_dir": HOSTILE, "split": HOSTILE}
    _, text = make_page(tmp_path / "a.html", random_images(6), worse=1, **more)
    page = Reader(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href"):
            assert value.startswith("data:image/"), value
    assert "url(" not in text and "@import" not in text
    policy = dict(page.attributes)["content"]
    assert policy.startswith("default-src 'none'")
    # Nine places hold the name, and all of them as text.
    assert "<script>" not in text
    assert sum(data.count("<script>") for data in page.texts) >= 9


def test_page_says_every_number(tmp_path):
    more = {
        "scales": [0.5, 1.0],
        "flip": True,
        "output_stride": 8,
        "part": "1/2",
        "crf": {"appearance_weight": 4.0, "sigma_alpha": 67.0},
    }
    results, text = make_page(tmp_path / "a.html", random_images(9), worse=2, **more)
    said = " ".join(Reader(text).texts)
    comparison = results["comparison"]
    numbers = [
        *(results[key] for key in ("mean_iou", "pixel_accuracy", "mean_accuracy")),
        *(results[key] for key in ("frequency_weighted_iou", "boundary_f")),
        *(results["mean_iou_interval"][end] for end in ("low", "high")),
        *results["trimap"]["mean_iou"],
        *comparison["trimap"]["mean_iou"],
        comparison["mean_iou"],
        *(row["iou"] for row in comparison["per_class"].values()),
    ]
    for row in results["per_class"].values():
        numbers += [row["iou"], row["accuracy"], row["boundary_f"]]
    for number in numbers:
        assert percent(number).strip() in said
    for row in [comparison, *comparison["per_class"].values()]:
        assert percent(row["difference"], "+").strip() in said
    crf = "appearance_weight 4, sigma_alpha 67"
    for words in ("0.5, 1", "1/2", crf, "No class is absent."):
        assert words in said
    assert "The interval does not hold 0." in said
    scores = dict(zip(results["per_image"]["names"], results["per_image"]["mean_iou"]))
    shown = re.findall(r"mean IoU +(\d+\.\d\d)</figcaption>", text)
    ordered = sorted(scores.values())
    expected = [*ordered[::-1][:4], *ordered[:4]]
    assert shown == [percent(score).strip() for score in expected]


def test_pictures_are_image_label_prediction_and_errors(tmp_path):
    ((name, image, label, classes),) = images = list(random_images(1))
    _, text = make_page(tmp_path / "a.html", images)
    page = Reader(text)
    sources = [value for key, value in page.attributes if key == "src"]
    shown = [decoded(source) for source in sources]
    assert [source[:15] for source in sources] == [
        f"data:image/{kind}" for kind in ("jpeg", "jpeg", "jpeg", "jpeg")
    ]
    assert shown[0].shape == image.shape
    # The pictures before their JPEG blurs them.
    pictures = BestAndWorst()
    pictures.add(0.5, name, image, label, classes)
    for classes_, picture in ((label, shown[1]), (classes, shown[2])):
        drawn = draw(pictures.best()[0], classes_, LABELS, ())
        np.testing.assert_allclose(picture.mean((0, 1)), drawn.mean((0, 1)), atol=3)
    errors = pictures.best()[0].errors()
    void, wrong = label == 255, (label != classes) & (label != 255)
    assert (errors[void] == IGNORE_COLOR).all()
    assert (errors[wrong] == ERROR_COLOR).all()
    rest = errors[~void & ~wrong]
    assert (rest[:, :1] == rest).all() and rest.min() >= 127, "pale grey"
    np.testing.assert_allclose(shown[3].mean((0, 1)), errors.mean((0, 1)), atol=3)
    legend = text.partition('<div class="legend">')[2].partition("</figure>")[0]
    assert Reader(f"<div>{legend}").texts == [*NAMES, "void", "wrong"]


def test_label_and_prediction_are_over_the_photo_and_leave_the_hidden_clear(tmp_path):
    ((name, image, label, classes),) = images = list(random_images(1))
    pictures = BestAndWorst()
    pictures.add(0.5, name, image, label, classes)
    picture = pictures.best()[0]
    drawn = draw(picture, label, LABELS, (0,))
    np.testing.assert_array_equal(drawn[label == 0], image[label == 0])
    assert (drawn[label == 255] == IGNORE_COLOR).all()
    painted = overlay(image, label, LABELS.colormap, 0.7, hidden=(0,))
    np.testing.assert_array_equal(drawn[label != 255], painted[label != 255])
    _, text = make_page(tmp_path / "a.html", images, hidden=(0,))
    legend = text.partition('<div class="legend">')[2].partition("</figure>")[0]
    assert Reader(f"<div>{legend}").texts == [*NAMES[1:], "void", "wrong"]


def test_classes_that_an_image_lacks_are_not_in_its_legend(tmp_path):
    label = np.array([[0, 0, 2, 2]] * 4)
    image = np.zeros((4, 4, 3), np.uint8)
    _, text = make_page(tmp_path / "a.html", [("a", image, label, label)])
    legend = text.partition('<div class="legend">')[2].partition("</figure>")[0]
    assert Reader(f"<div>{legend}").texts == ["sky", "dog", "wrong"]
    assert "Worst images" not in text, "the only image is the best"


def matrix_of(text):
    svg = re.search(r'<svg class="matrix".*?</svg>', text, re.DOTALL)[0]
    uri = re.search(r'href="([^"]*)"', svg)[1]
    numbers = re.findall(r'text-anchor="middle"[^>]*>(\d+)<', svg)
    return decoded(uri), [*map(int, numbers)]


def test_matrix_shows_the_shares_of_the_rows(tmp_path):
    results, text = make_page(tmp_path / "a.html", random_images(5))
    confusion = np.array(results["confusion_matrix"])
    shares = confusion / confusion.sum(1, keepdims=True)
    colors, numbers = matrix_of(text)
    np.testing.assert_array_equal(colors[..., 3], np.rint(255 * shares))
    expected = [f"{100 * share:.0f}" for share in shares.ravel() if share >= 0.005]
    assert numbers == [*map(int, expected)]


def test_150_classes_fit_without_numbers(tmp_path):
    names = tuple(f"class {index}" for index in range(149)) + ("long " * 20,)
    labels = Labels(names, labels_for(150).colormap)
    images = random_images(3, 149, (160, 160))
    _, text = make_page(tmp_path / "a.html", images, labels)
    colors, numbers = matrix_of(text)
    assert colors.shape == (150, 150, 4) and not numbers
    assert colors[149].max(0)[3] == 0, "a class without labels has an empty row"
    page = Reader(text)
    assert "long " * 20 in page.texts, "the whole name, as a tooltip"
    assert "Absent: " + "long " * 20 in " ".join(page.texts)


def test_page_of_large_images_stays_small(tmp_path):
    """Photographs are smoother than these; noise would be larger."""
    rng = np.random.default_rng(0)
    images = []
    for index in range(9):
        coarse = rng.integers(0, 256, (30, 45, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((675, 450), Image.BICUBIC))
        label = np.kron(rng.integers(0, 3, (9, 14)), np.ones((50, 50), int))[:, :675]
        images.append((f"{index}", image, label, np.roll(label, index, 1)))
    make_page(tmp_path / "a.html", images)
    assert 1e5 < os.path.getsize(tmp_path / "a.html") < 2.5e6


def test_curves_pass_through_the_scores(tmp_path):
    results, text = make_page(tmp_path / "a.html", random_images(5), worse=1)
    lines = re.findall(r'<polyline points="([^"]*)"', text)
    points = [np.array([p.split(",") for p in li.split()], float) for li in lines]
    both = (results, results["comparison"])
    scores = np.concatenate([each["trimap"]["mean_iou"] for each in both])
    widths = results["trimap"]["widths"] * 2
    for drawn, wanted in zip(np.concatenate(points).T, (widths, scores)):
        slope, start = np.polyfit(wanted, drawn, 1)
        np.testing.assert_allclose(drawn, start + slope * np.array(wanted), atol=0.1)
    xs, ys = np.concatenate(points).T
    assert 44 <= xs.min() and xs.max() <= 444 and 15 <= ys.min() and ys.max() <= 210
    assert '"this"' in text and '"other"' in text


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 40, [0, 10, 20, 30, 40]),
        (27.7, 58.4, [20, 30, 40, 50, 60]),
        (0.2, 0.25, [0.2, 0.21, 0.22, 0.23, 0.24, 0.25]),
        (100, 100, None),
        (0, 0, None),
    ],
)
def test_ticks_are_round_and_hold_the_range(low, high, expected):
    found = ticks(low, high)
    assert found[0] <= low + 1e-9 and found[-1] >= high - 1e-9
    assert 2 <= len(found) <= 8
    if expected:
        np.testing.assert_allclose(found, expected)


def test_an_evaluation_of_void_is_a_page_too(tmp_path):
    void = np.full((4, 4), 255)
    image = np.zeros((4, 4, 3), np.uint8)
    _, text = make_page(tmp_path / "a.html", [("void", image, void, void * 0)])
    page = Reader(text)
    assert not {"polyline", "figure"} & set(page.tags)
    assert "Absent: sky" in " ".join(page.texts)


# --- In a browser --------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("needs chromium and chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument("--hide-scrollbars")  # they would take part of the width
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )
    yield driver
    driver.quit()


def luminance(color: str) -> float:
    return float(np.mean([int(part) for part in re.findall(r"\d+", color)[:3]]))


def test_page_fits_from_390_to_1600_pixels_in_light_and_dark(browser, tmp_path):
    names = tuple(f"class {index} {HOSTILE}" for index in range(40))
    labels = Labels(names, labels_for(40).colormap)
    long = "a/very/long/path" * 20
    images = random_images(9, 40, (80, 100))
    more = {"weights": long, "data_dir": "x" * 300, "scales": [1.0]}
    make_page(tmp_path / "a.html", images, labels, worse=1, **more)
    for scheme, dark in (("light", False), ("dark", True)):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        for width in (390, 800, 1600):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1}
            size["mobile"] = False
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get((tmp_path / "a.html").as_uri())
            wide = "return document.documentElement.scrollWidth"
            assert browser.execute_script(wide) == width
        style = "return getComputedStyle(document.body)"
        back = browser.execute_script(f"{style}.backgroundColor")
        text = browser.execute_script(f"{style}.color")
        assert (luminance(back) < luminance(text)) == dark
        assert abs(luminance(back) - luminance(text)) > 150
    loaded = "return [...document.images].map(i => i.complete && i.naturalWidth > 0)"
    assert browser.execute_script(loaded) == [True] * 32
    assert browser.get_log("browser") == []
