"""README and docs/: links, menus, tables that are held against the code, blocks run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deeplab_tf
from datasets.sources.shapes import draw_scene
from deeplab_tf.exports.signatures import SIGNATURES
from deeplab_tf.recipe_help import CHOICES
from deeplab_tf.recipes import RECIPES
from tests.support import docs_pages
from tests.support.docs_pages import ROOT, addresses, anchor, anchors, blocks, links
from tests.support.printed_blocks import Terminal
from tests.support.serving_stand_in import running

DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.md"
PAGES = [str(path.relative_to(ROOT)) for path in docs_pages.PAGES]

# --- Links and menus -----------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_checkout_lead_somewhere(page):
    path = ROOT / page
    for link in links(path):
        if re.match(r"\w+:", link):
            continue
        target, _, heading = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.is_file(), f"{page} names {link}"
        assert file.is_relative_to(ROOT)
        if heading:
            assert heading in anchors(file), f"{page} names {link}"


def test_anchors_are_those_of_the_pages():
    assert anchor('"No GPU found"') == "no-gpu-found"
    assert anchor("XLA, memory and determinism") == "xla-memory-and-determinism"
    assert "everything-is-predicted-as-one-class" in anchors(
        DOCS / "troubleshooting.md"
    )


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = re.findall(r"([\w/]+\.md)$", menu, re.M)
    pages = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted(pages)


def test_addresses_elsewhere_are_listed_with_their_pages():
    """They are read, not fetched: `python -m tests.support.docs_pages` lists them."""
    found = addresses()
    assert "docs/citing.md" in found["https://arxiv.org/abs/1802.02611"]
    assert len(found) > 20
    assert not [address for address in found if address.endswith((",", "."))]


def test_readme_is_read_in_one_go():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


# --- Tables that follow the code -----------------------------------------------------


def rows(path: Path, columns: int) -> list[list[str]]:
    """Returns the rows of a page's tables with so many columns or more, heads too."""
    lines = re.findall(r"^\| (.+) \|$", path.read_text(), re.M)
    split = [re.split(r" ?(?<!\\)\| ?", line) for line in lines]
    return [row for row in split if len(row) >= columns]


def test_every_fault_has_its_tests():
    told = {row[1] for row in rows(DOCS / "faults.md", 2)} - {"what it means"}
    appendix = dict(rows(DOCS / "contributing/faults_tests.md", 2))
    assert set(appendix) - {"fault"} == told
    for fault, tests in appendix.items():
        for file, name in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", tests):
            text = (ROOT / "tests" / file).read_text()
            assert f"def {name}(" in text or not name, (fault, file, name)
        assert re.search(r"`test_|benchmarks/|by hand|not injected|^test$", tests), (
            fault
        )


def test_the_reference_has_every_public_name():
    text = (DOCS / "api/index.md").read_text()
    assert [name for name in deeplab_tf.__all__ if f"`{name}`" not in text] == []


def test_the_page_of_recipes_has_every_recipe():
    text = (DOCS / "choosing_a_recipe.md").read_text()
    table = rows(DOCS / "choosing_a_recipe.md", 2)
    for take in CHOICES.values():
        name, _, flags = take.removeprefix("--recipe=").partition(" ")
        parts = [f"`{part}`" for part in (name, flags) if part]
        assert any(all(part in row[1] for part in parts) for row in table), take
    assert [name for name in RECIPES if f"`{name}`" not in text] == []


def test_the_table_of_signatures_is_that_of_the_code():
    lines = [
        f"| `{name}` | {signature.takes} | {signature.gives} |"
        for name, signature in SIGNATURES.items()
    ]
    table = "\n".join(["|---|---|---|", *lines, ""])
    assert table in (DOCS / "serving.md").read_text()


# --- Blocks, as they are printed -----------------------------------------------------


@pytest.mark.parametrize(
    "page, run, not_run",
    [
        ("README.md", 3, ["fetches", "fetches", "needs"]),
        ("docs/tutorial.md", 12, ["fetches", "serves", "needs"]),
    ],
)
def test_blocks_that_are_not_run_say_why(page, run, not_run):
    found = blocks(ROOT / page)
    reasons = [block.not_run for block in found if block.not_run]
    assert [reason.partition(" ")[0] for reason in reasons] == not_run
    assert len(found) - len(reasons) == run


def run_page(page: Path, terminal: Terminal, replaced: dict[str, str]) -> str:
    """Runs the blocks of a page in order; a client's against a stand-in server.

    Args:
      page: README or one of docs/.
      terminal: where.
      replaced: printed -> run instead.

    Returns:
      What they print.
    """
    text = page.read_text()
    assert [printed for printed in replaced if printed not in text] == []
    said = []
    for block in blocks(page):
        if block.not_run:
            continue
        if "client.py" not in block.text:
            said.append(terminal.run(block, replaced))
            continue
        with running(f"--model_base_path={terminal.folder / 'exported'}") as server:
            address = {"http://127.0.0.1:8501": server.rest}
            said.append(terminal.run(block, address))
    return "".join(said)


def draw_pairs(folder: Path, names: str) -> None:
    """Draws scenes as images/NAME.jpg and labels/NAME.png."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index, name in enumerate(names):
        image, label = draw_scene(0, "train", index)
        Image.fromarray(image).save(folder / "images" / f"{name}.jpg", quality=95)
        Image.fromarray(label).save(folder / "labels" / f"{name}.png")


def equal_class_maps(answers: Path, predictions: Path) -> int:
    """Asserts that a server answered what `predict` wrote; returns how many."""
    paths = sorted(answers.rglob("*.png"))
    for path in paths:
        predicted = Image.open(predictions / "classes" / path.name)
        np.testing.assert_array_equal(Image.open(path), predicted)
    return len(paths)


@pytest.mark.slow
def test_the_tutorial_runs_as_it_is_printed(tmp_path):
    """From drawn scenes to the answers of a server, which equal the predictions."""
    terminal = Terminal(tmp_path)
    smaller = {"--steps=600": "--steps=4", "--num_train=300": "--num_train=40"}
    said = run_page(TUTORIAL, terminal, smaller)
    assert equal_class_maps(tmp_path / "answers", tmp_path / "predictions") == 12
    assert (tmp_path / "picture.png").is_file()
    assert said.count("mean IoU  ") == 2


@pytest.mark.slow
def test_readme_runs_as_it_is_printed(tmp_path):
    """Python and commands, on a reader's folder, without what a network would bring."""
    draw_pairs(tmp_path / "my_data", "abcdefghijkl")
    (tmp_path / "photos").mkdir()
    for copy in ("photo.jpg", "photos/a.jpg"):
        shutil.copy(tmp_path / "my_data/images/a.jpg", tmp_path / copy)
    less = {
        'weights="imagenet"': "weights=None",
        "epochs=20": "epochs=2",
        "crop_size=321": "crop_size=129",
        "--recipe=finetune_mobilenet_v2": "--recipe=finetune_mobilenet_v2 --init= "
        "--steps=2 --crop_size=65 --batch_size=2",
    }
    run_page(ROOT / "README.md", Terminal(tmp_path), less)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width >= Image.open(tmp_path / "photo.jpg").width
    assert equal_class_maps(tmp_path / "out", tmp_path / "predictions") == 1
