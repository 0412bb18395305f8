"""The table of archives, and --download from the builder to the records."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import re
import sys
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import (
    build_ade20k,
    build_camvid,
    build_cityscapes,
    build_coco,
    build_pascal_context,
    build_person_part,
    build_voc2012,
)
from datasets.sources import coco_layout
from datasets.sources.catalog import DATASETS
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.downloads import archives, download
from deeplab_tf.data.reading.pipeline import make_eval_dataset
from deeplab_tf.data.reading.selection import select_records
from deeplab_tf.data.records.info import read_info
from deeplab_tf.downloading import extraction
from tests.support.commands import call
from tests.support.file_server import Reply, serving, tar_bytes, zip_bytes


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        yield server


# --- The table -----------------------------------------------------------------------

ALL_SOURCES = [
    (name, flag, source)
    for name, sources in archives.SOURCES.items()
    for flag, source in sources.items()
]
ALL_ARCHIVES = {a.file_name: a for _, _, source in ALL_SOURCES for a in source.archives}


def test_file_names_are_unique():
    listed = {archive for _, _, source in ALL_SOURCES for archive in source.archives}
    assert len(listed) == len(ALL_ARCHIVES)
    targets = [target for archive in listed for target in archive.targets]
    assert len(targets) == len(set(targets))


@pytest.mark.parametrize("archive", ALL_ARCHIVES.values(), ids=ALL_ARCHIVES)
def test_rows_are_well_formed(archive):
    for address in (archive.address, archive.page):
        parts = urllib.parse.urlsplit(address)
        assert parts.scheme in ("http", "https") and "." in parts.netloc
    name = archive.address.rpartition("/")[2]
    assert archive.file_name.endswith(name) and "/" not in archive.file_name
    assert archive.file_name.endswith((".zip", ".tar", ".tgz", ".tar.gz"))
    assert archive.size is None or archive.size > 10**6
    if archive.checksum is not None:
        assert re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}", archive.checksum)
        assert archive.remote.new_hash().digest_size * 2 == len(archive.checksum)
    for path in (archive.folder, *archive.members, *archive.inner):
        assert path == extraction.relative_name(path, Path("x"))
    for path in archive.inner:
        assert path.endswith(".zip") and path[: -len(".zip")] in archive.members


@pytest.mark.parametrize("name, flag, source", ALL_SOURCES)
def test_folder_of_a_source_holds_its_archives(name, flag, source):
    assert name in DATASETS and flag.endswith("_dir")
    for archive in source.archives:
        for target in archive.targets:
            inside = target.startswith(f"{source.folder}/")
            assert inside or source.folder.startswith(f"{target}")
        assert (
            archive.split is None
            or archive.split in DATASETS[name].splits
            or (
                name == "coco_voc"  # Its sizes depend on min_pixels.
            )
        )


def test_login_sentences_say_where_and_which():
    sentence = archives.LOGIN["cityscapes"]
    assert "cityscapes-dataset.com" in sentence
    assert "leftImg8bit_trainvaltest.zip" in sentence
    assert "gtFine_trainvaltest.zip" in sentence
    assert not set(archives.LOGIN) & set(archives.SOURCES)
    assert set(archives.LOGIN) <= set(DATASETS)


# --- What a builder asks for ---------------------------------------------------------


def obtained(monkeypatch) -> list[str]:
    """Replaces `obtain`; returns the list that its archives go to."""
    asked = []
    monkeypatch.setattr(
        download, "obtain", lambda archive, *_, **__: asked.append(archive.file_name)
    )
    return asked


def test_prepare_without_download(monkeypatch):
    asked = obtained(monkeypatch)
    assert download.prepare("ade20k", input_dir="here") == {"input_dir": "here"}
    folders = download.prepare("voc2012", devkit_dir="here", sbd_dir=None)
    assert folders == {"devkit_dir": "here", "sbd_dir": None}
    with pytest.raises(DatasetError, match="Expected --input_dir, or --download"):
        download.prepare("ade20k", input_dir=None)
    assert not asked


@pytest.mark.parametrize("wanted", [False, True])
def test_prepare_where_a_login_is_needed(wanted):
    with pytest.raises(DatasetError, match="needs a login: .*gtFine_trainvaltest.zip"):
        download.prepare("cityscapes", input_dir=None, download=wanted)
    folders = download.prepare("cityscapes", input_dir="here", download=wanted)
    assert folders == {"input_dir": "here"}


def test_prepare_downloads_what_is_missing(monkeypatch, tmp_path):
    asked = obtained(monkeypatch)

    def prepare(name, splits=(), **folders):
        asked.clear()
        return download.prepare(
            name, splits, download=True, download_dir=tmp_path, **folders
        )

    folders = prepare("voc2012", devkit_dir=None, sbd_dir=None)
    assert folders == {
        "devkit_dir": str(tmp_path / "voc2012/VOCdevkit/VOC2012"),
        "sbd_dir": str(tmp_path / "sbd/benchmark_RELEASE"),
    }
    assert asked == ["VOCtrainval_11-May-2012.tar", "benchmark.tgz"]
    # A folder that is given, and one that no split needs, are not downloaded.
    folders = prepare("voc2012", devkit_dir="here", sbd_dir=None)
    assert folders["devkit_dir"] == "here" and asked == ["benchmark.tgz"]
    folders = prepare("voc2012", ["train", "val"], devkit_dir=None, sbd_dir=None)
    assert folders["sbd_dir"] is None and asked == ["VOCtrainval_11-May-2012.tar"]
    prepare("coco_stuff", ["val"], input_dir=None)
    assert asked == ["stuffthingmaps_trainval2017.zip", "val2017.zip"]


# --- A builder -----------------------------------------------------------------------


def test_builder_from_the_download_to_records(server, tmp_path):
    """A CamVid as GitHub packs it, by a mirror, through the builder's command."""
    generator = np.random.default_rng(1)
    root = archives.CAMVID.members[0]
    files, labels = {}, {}
    for split in ("train", "val"):
        lines = []
        for index in range(2):
            name = f"0001TP_{split}{index}"
            labels[name] = generator.integers(0, 12, [6, 8], dtype=np.uint8)
            image = generator.integers(0, 256, [6, 8, 3], dtype=np.uint8)
            paths = (f"{split}/{name}.png", f"{split}annot/{name}.png")
            for path, pixels in zip(paths, (image, labels[name])):
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                files[f"{root}/{path}"] = buffer.getvalue()
            lines.append(" ".join(f"/SegNet/CamVid/{path}" for path in paths))
        files[f"{root}/{split}.txt"] = "\n".join(lines).encode()
    content = zip_bytes({**files, f"{root.split('/')[0]}/README.md": b""})
    # GitHub says no length, sends chunks and knows no ranges.
    server.script = [
        Reply(content=content, chunked=True, knows_ranges=False, etag='W/"1"')
    ]
    arguments = [
        "--download",
        f"--download_dir={tmp_path / 'downloads'}",
        f"--download_mirror={server.address}/sets/",
        f"--output_dir={tmp_path / 'records'}",
        "--num_processes=1",
    ]
    result = call(build_camvid, *arguments)
    assert result.returncode == 0, result.stderr
    assert [path for path, _ in server.requests] == [
        f"/sets/{archives.CAMVID.file_name}"
    ]
    assert read_info(tmp_path / "records").splits == {"train": 2, "val": 2}
    for split in ("train", "val"):
        dataset = make_eval_dataset(
            select_records(tmp_path / "records", split), with_filename=True
        )
        for _, label, name in dataset:
            expected = labels.pop(name[0].numpy().decode()).astype(int)
            expected[expected == 11] = 255
            np.testing.assert_array_equal(label[0], expected)
    assert not labels


# File of the table -> files in it, as the real one has them: more than is needed.
IMAGE_SETS = "VOCdevkit/VOC{}/ImageSets/{}/{}.txt"
LAYOUTS = {
    "VOCtrainval_11-May-2012.tar": {
        "VOCdevkit/VOC2012/Annotations/2007_1.xml": b"",
        "VOCdevkit/VOC2012/JPEGImages/2007_1.jpg": b"",
        "VOCdevkit/VOC2012/JPEGImages/2008_2.jpg": b"",
        "VOCdevkit/VOC2012/SegmentationClass/2007_1.png": b"",
        "VOCdevkit/VOC2012/SegmentationObject/2007_1.png": b"",
        IMAGE_SETS.format(2012, "Segmentation", "train"): b"2007_1\n",
        IMAGE_SETS.format(2012, "Segmentation", "val"): b"2007_3\n",
    },
    "benchmark.tgz": {
        "benchmark_RELEASE/README": b"",
        "benchmark_RELEASE/dataset/cls/2008_2.mat": b"",
        "benchmark_RELEASE/dataset/img/2008_2.jpg": b"",
        "benchmark_RELEASE/dataset/inst/2008_2.mat": b"",
        "benchmark_RELEASE/dataset/train.txt": b"2008_2\n",
        "benchmark_RELEASE/dataset/val.txt": b"2007_3\n",
    },
    "VOCtrainval_03-May-2010.tar": {
        "VOCdevkit/VOC2010/JPEGImages/2008_2.jpg": b"",
        IMAGE_SETS.format(2010, "Main", "train"): b"2008_2\n",
        IMAGE_SETS.format(2010, "Main", "val"): b"2008_2\n",
    },
    "pascal_context_trainval.tar.gz": {"trainval/2008_2.mat": b""},
    "pascal_parts_trainval.tar.gz": {"Annotations_Part/2008_2.mat": b""},
    "train2017.zip": {"train2017/000000000009.jpg": b""},
    "val2017.zip": {"val2017/000000000139.jpg": b""},
    "annotations_trainval2017.zip": {
        f"annotations/{kind}_{split}2017.json": b"{}"
        for kind in ("captions", "instances", "person_keypoints")
        for split in ("train", "val")
    },
    "panoptic_annotations_trainval2017.zip": {
        f"annotations/panoptic_{name}": content
        for split, image in (("train", 9), ("val", 139))
        for name, content in (
            (f"{split}2017.json", b"{}"),
            (
                f"{split}2017.zip",
                zip_bytes({f"panoptic_{split}2017/{image:012}.png": b""}),
            ),
        )
    },
    "stuffthingmaps_trainval2017.zip": {
        "train2017/000000000009.png": b"",
        "val2017/000000000139.png": b"",
    },
    "ADEChallengeData2016.zip": {
        f"ADEChallengeData2016/{name}": b""
        for name in (
            "images/training/ADE_train_00000001.jpg",
            "annotations/training/ADE_train_00000001.png",
            "images/validation/ADE_val_00000001.jpg",
            "annotations/validation/ADE_val_00000001.png",
            "objectInfo150.txt",
            "sceneCategories.txt",
        )
    },
    archives.CAMVID.file_name: {
        f"{archives.CAMVID.members[0]}/{name}": content
        for name, content in (
            (
                "train.txt",
                b"/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png",
            ),
            ("train/a.png", b""),
            ("trainannot/a.png", b""),
        )
    },
}


def sources_of_coco(input_dir, split, task):
    """The JSON or the maps, the images, and panoptic's masks."""
    folder = Path(input_dir)
    source = coco_layout.find_sources(input_dir, task)[split]
    image = next((folder / f"{split}2017").glob("*.jpg"))
    masks = {
        "voc": source,
        "panoptic": folder / f"annotations/panoptic_{split}2017/{image.stem}.png",
        "stuff": source / f"{image.stem}.png",
    }
    return [("name", str(image), str(masks[task]))]


@pytest.mark.parametrize(
    "name, split, list_samples",
    [
        ("voc2012", "trainaug", build_voc2012.list_samples),
        ("pascal_context", "val", build_pascal_context.list_samples),
        ("person_part", "val", build_person_part.list_samples),
        ("ade20k", "val", build_ade20k.list_samples),
        ("camvid", "train", build_camvid.list_samples),
        *(
            (f"coco_{task}", "train", functools.partial(sources_of_coco, task=task))
            for task in build_coco.TASKS
        ),
    ],
)
def test_builders_find_what_was_unpacked(
    name, split, list_samples, server, monkeypatch, tmp_path
):
    rows = {}
    for flag, source in archives.SOURCES[name].items():
        mine = [
            dataclasses.replace(archive, size=None, checksum=None)
            for archive in source.archives
        ]
        rows[flag] = dataclasses.replace(source, archives=tuple(mine))
        for archive in mine:
            pack = {"zip": zip_bytes, "tar": functools.partial(tar_bytes, mode="w")}
            pack = pack.get(archive.file_name[-3:], tar_bytes)
            server.files[archive.file_name] = pack(LAYOUTS[archive.file_name])
    monkeypatch.setitem(archives.SOURCES, name, rows)
    folders = download.prepare(
        name,
        download=True,
        download_dir=tmp_path,
        mirror=server.address,
        **dict.fromkeys(rows),
    )
    samples = list_samples(split=split, **folders)
    assert samples
    for _, image, label in samples:
        assert Path(image).is_file() and Path(label).is_file()


BUILDERS = [
    ("voc2012", build_voc2012.build_voc2012, []),
    ("pascal_context", build_pascal_context.build_pascal_context, []),
    ("person_part", build_person_part.build_person_part, []),
    *(
        (f"coco_{task}", build_coco.build_coco, [f"--task={task}"])
        for task in build_coco.TASKS
    ),
    ("ade20k", build_ade20k.build_ade20k, []),
    ("camvid", build_camvid.build_camvid, []),
    ("cityscapes", build_cityscapes.build_cityscapes, []),
]


def test_every_row_has_a_builder():
    rows = {*archives.SOURCES, *archives.LOGIN}
    assert {name for name, _, _ in BUILDERS} == rows


@pytest.mark.parametrize("name, build_it, arguments", BUILDERS)
def test_builders_pass_on_the_folders(name, build_it, arguments, monkeypatch, tmp_path):
    module, calls = sys.modules[build_it.__module__], []
    asked = obtained(monkeypatch)
    monkeypatch.setattr(module, build_it.__name__, lambda **given: calls.append(given))
    common = [*arguments, "--output_dir=out", f"--download_dir={tmp_path}"]
    result = call(module, *common, "--download", "--splits=val")
    if name in archives.LOGIN:
        assert result.returncode == 1 and "needs a login" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    sources = {
        flag: source
        for flag, source in archives.SOURCES[name].items()
        if source.archives != (archives.SBD,)
    }
    # What the builder gets fits its signature; only what val needs was asked for.
    given = inspect.signature(build_it).bind(**calls.pop()).arguments
    for flag, source in sources.items():
        assert given[flag] == str(tmp_path / source.folder)
    every = [archive for source in sources.values() for archive in source.archives]
    assert asked == [a.file_name for a in every if a.split in (None, "val")]
    # A folder that is given is used as it is, with --download or without.
    required = next(iter(sources))
    call(module, *common, f"--{required}=here")
    assert calls.pop()[required] == "here"
    result = call(module, *common)
    assert result.returncode == 1
    assert f"Expected --{required}, or --download" in result.stderr


def test_download_is_of_coco_2017(monkeypatch, tmp_path):
    asked = obtained(monkeypatch)
    arguments = ["--task=voc", "--output_dir=out", "--download", "--year=2014"]
    assert "gets COCO 2017" in call(build_coco, *arguments).stderr
    assert not asked


def test_mirror_that_is_no_address():
    arguments = ["--output_dir=out", "--download", "--download_mirror=/mnt/data"]
    result = call(build_camvid, *arguments)
    assert result.returncode == 1 and "to start with http" in result.stderr
    assert "Received: /mnt/data" in result.stderr
