"""Published and packed networks: from a server on this machine to a workdir."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
import tarfile
import threading
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from deeplab_tf import Segmenter, from_pretrained
from deeplab_tf.commands import export, predict, run_config
from deeplab_tf.config import TrainConfig, read_config, write_config
from deeplab_tf.networks.freezing import backbone_layers, head_layers
from deeplab_tf.networks.models import build_model
from deeplab_tf.networks.weight_files import (
    WeightReport,
    named_weights,
    read_weights,
    save_weights,
)
from deeplab_tf.training import compiling
from deeplab_tf.weights import command_line, importing, packing, pretrained, sources
from deeplab_tf.weights.published import PUBLISHED, Published
from tests.support.commands import ROOT, call
from tests.support.file_server import Reply, serving, tar_bytes
from tests.support.networks import assert_same_arrays, randomize
from tests.support.torch_writers import write_zip
from tests.support.weight_writers import (
    UNROUNDED_HALF,
    bonlime_mobilenet,
    golden,
    slim_names,
    state_dict,
    write_checkpoint,
    write_legacy_h5,
)

pytestmark = pytest.mark.two_lanes


def write_picture(folder):
    path = folder / "picture.png"
    Image.new("RGB", (40, 40)).save(path)
    return path


HALF = bonlime_mobilenet(num_classes=3, widths=UNROUNDED_HALF)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv(pretrained.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.delenv(pretrained.MIRROR_VARIABLE, raising=False)
    with serving() as server:
        yield server


def publish(monkeypatch, server, name, file_name, content, source, **fields):
    """Makes a row of the table whose file the server has."""
    server.files[file_name] = content
    row = Published(
        source=source,
        address=f"{server.address}/{file_name}",
        page="http://example.com/terms",
        trained_on="nothing",
        licence="none",
        **{
            "num_classes": 3,
            "size": len(content),
            "checksum": hashlib.sha256(content).hexdigest(),
            **fields,
        },
    )
    monkeypatch.setitem(PUBLISHED, name, row)
    return row


# --- The table -----------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_are_well_formed(name):
    row = PUBLISHED[name]
    assert re.fullmatch(r"[a-z0-9_]+", name) and row.source in importing.SOURCES
    assert re.match(r"https?://[\w.]+\.\w+/", row.address) and "/" not in row.file_name
    assert row.page.startswith("https://") and row.trained_on and row.licence
    assert bool(row.miou) == bool(row.stated_in) and row.checked
    assert row.checksum is None or re.fullmatch(r"[0-9a-f]{8,64}", row.checksum)
    assert len(row.class_names) in (0, row.num_classes)
    if row.source == "torchvision":
        assert f"-{row.checksum}.pth" in row.file_name


def test_the_zoo_page_lists_what_the_table_lists():
    text = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(PUBLISHED)
    for name, cells in rows:
        row = PUBLISHED[name]
        for expected in (row.trained_on, row.miou, row.about, row.licence, row.address):
            assert expected in cells, (name, expected)
        assert ("yes" in cells.split("|")[-1]) == row.checked.startswith("Imported")


def test_list_names_every_row_without_tensorflow(capsys):
    command_line.main(["--list"])
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in PUBLISHED)
    assert "75.32 VOC val" in printed and "439 MB" in printed


# --- Every source --------------------------------------------------------------------


def hugging_face_names(tensors):
    """keras-deeplab-v3-plus' names -> transformers', kernels in PyTorch's order."""
    parts = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
    heads = {
        "image_pooling": "segmentation_head.conv_pool",
        "aspp0": "segmentation_head.conv_aspp",
        "concat_projection": "segmentation_head.conv_projection",
        "custom_logits_semantic": "segmentation_head.classifier",
        "Conv": "mobilenet_v2.conv_stem.first_conv",
    }
    leaves = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
    leaves.update(moving_variance="running_var", kernel="weight", bias="bias")
    named = {}
    for name, array in tensors.items():
        layer, leaf = name.split("/")
        kind = "normalization" if layer.endswith("_BN") else "convolution"
        layer = layer.removesuffix("_BN")
        block = re.fullmatch(r"expanded_conv_(?:(\d+)_)?(\w+)", layer)
        if block:
            place = f"layer.{int(block[1]) - 1}" if block[1] else "conv_stem"
            layer = f"mobilenet_v2.{place}.{parts[block[2]]}"
        else:
            layer = heads[layer]
        if array.ndim == 4:
            depthwise = leaf == "depthwise_kernel"
            array = array.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        leaf = leaves[leaf.replace("depthwise_", "")]
        named[f"{layer}.{kind}.{leaf}"] = np.ascontiguousarray(array)
    return named


def hugging_face_file(folder):
    tensors = hugging_face_names(HALF)
    tensors["mobilenet_v2.conv_1x1.convolution.weight"] = np.ones((8, 160, 1, 1), "f4")
    path = write_zip(folder / "pytorch_model.bin", state_dict(tensors))
    return path.name, path.read_bytes()


def checkpoint_archive(folder):
    prefix = folder / "model.ckpt-30000"
    write_checkpoint(prefix, slim_names(HALF, "MobilenetV2"))
    files = {f"a_2018/{p.name}": p.read_bytes() for p in folder.glob("model.ckpt*")}
    return "a_2018.tar.gz", tar_bytes({**files, "a_2018/frozen.pb": b"graph"})


def legacy_h5(folder):
    path = write_legacy_h5(folder / "deeplabv3.h5", HALF)
    return path.name, path.read_bytes()


def test_hugging_face_and_bonlime_hold_the_same_network():
    """Two layouts of the authors' network, one of Keras and one of PyTorch."""
    theirs = sources.huggingface(hugging_face_names(HALF))
    ours = sources.bonlime(HALF)
    assert theirs.config == ours.config and not theirs.unused
    assert theirs.arrays.keys() == {
        name.replace("depthwise_kernel", "kernel") for name in ours.arrays
    }
    for name, array in ours.arrays.items():
        name = name.replace("depthwise_kernel", "kernel")
        np.testing.assert_array_equal(theirs.arrays[name], array, err_msg=name)


@pytest.mark.parametrize(
    "source, write",
    [
        ("bonlime", legacy_h5),
        ("research_deeplab", checkpoint_archive),
        ("huggingface", hugging_face_file),
    ],
)
def test_a_file_of_each_layout_becomes_a_workdir(
    server, monkeypatch, tmp_path, source, write
):
    file_name, content = write(tmp_path)
    names = ("sky", "road", "car")
    publish(
        *(monkeypatch, server, "mine", file_name, content, source), class_names=names
    )
    workdir = pretrained.pretrained_workdir("mine")
    assert workdir == str(tmp_path / "home/networks/mine")
    config = read_config(workdir)
    assert config.class_names == names and config.backbone.endswith("_0.5_unrounded")
    expected = HALF["aspp0/kernel"]
    arrays = read_weights(f"{workdir}/best.npz")
    np.testing.assert_array_equal(arrays["aspp_1x1_conv/kernel"], expected)
    assert len(server.requests) == 1
    assert pretrained.pretrained_workdir("mine") == workdir
    assert len(server.requests) == 1
    assert not list((tmp_path / "home/files/mine").glob("unpacked"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, file, backbone",
    [
        ("torchvision", "torchvision_deeplabv3_resnet50", "resnet50_torchvision"),
        ("kazuto1011", "kazuto1011_deeplabv2_resnet101_msc", "resnet101"),
    ],
)
def test_large_files_of_pytorch_become_workdirs(
    server, monkeypatch, tmp_path, shared_data, source, file, backbone
):
    """Whole networks of 160 and 170 MB, under names that carry their hash."""
    tensors, _, _ = golden(shared_data, file)
    content = write_zip(tmp_path / "x.pth", state_dict(tensors)).read_bytes()
    digits = hashlib.sha256(content).hexdigest()[:8]
    publish(
        *(monkeypatch, server, "large", f"x-{digits}.pth", content, source),
        num_classes=21,
        checksum=digits,
    )
    config = read_config(pretrained.pretrained_workdir("large"))
    assert (config.backbone, config.num_classes) == (backbone, 21)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_row_reaches_its_importer(server, monkeypatch, tmp_path, name):
    """What the importers make of the files themselves is in test_weights."""
    asked = []

    def import_weights(source, path, output, partial, **changes):
        asked.append((source, path.name, partial, len(changes.get("class_names", ()))))
        write_config(TrainConfig(num_classes=21), output)
        return WeightReport(str(path), (), (), ())

    monkeypatch.setattr(importing, "import_weights", import_weights)
    row, content = PUBLISHED[name], b"weights of a network"
    if row.file_name.endswith(".tar.gz"):
        content = tar_bytes({"m/model.ckpt.index": b"i", "m/model.ckpt.data-0": b"d"})
    row = dataclasses.replace(
        row,
        address=f"{server.address}/{row.file_name}",
        size=None,
        checksum=hashlib.sha256(content).hexdigest()[:8],
    )
    monkeypatch.setitem(PUBLISHED, name, row)
    server.files[row.file_name] = content
    pretrained.pretrained_workdir(name, backbones=True)
    file_name = "model.ckpt" if row.file_name.endswith(".tar.gz") else row.file_name
    expected = (row.source, file_name, not row.num_classes, len(row.class_names))
    assert asked == [expected]


@pytest.mark.parametrize(
    "name", ["tflite_mobilenet_v2_voc", "tflite_mobilenet_v2_dm05_voc_float"]
)
def test_the_files_that_are_here_are_those_of_the_table(
    server, monkeypatch, tmp_path, shared_data, name
):
    """The authors' files, by file:// through the rows as they are: size and hash."""
    row, mirror = PUBLISHED[name], tmp_path / "mirror"
    (mirror / name).mkdir(parents=True)
    content = (shared_data / "weights" / row.file_name).read_bytes()
    (mirror / name / row.file_name).write_bytes(content)
    monkeypatch.setenv(pretrained.MIRROR_VARIABLE, mirror.as_uri())
    config = read_config(pretrained.pretrained_workdir(name))
    assert config.class_names[8] == "cat" and config.num_classes == 21
    assert not server.requests


# --- What may go wrong ---------------------------------------------------------------


def test_a_broken_connection_is_taken_up(server, monkeypatch, tmp_path):
    _, content = legacy_h5(tmp_path)
    monkeypatch.setattr("deeplab_tf.downloading.fetching.time.sleep", lambda _: None)
    publish(monkeypatch, server, "mine", "x.h5", content, "bonlime")
    del server.files["x.h5"]
    server.script = [Reply(content=content, cut=50_000), Reply(content=content)]
    assert read_config(pretrained.pretrained_workdir("mine")).num_classes == 3
    assert server.ranges() == [None, "bytes=50000-"]


@pytest.mark.parametrize("digits", [8, 64])
def test_another_file_is_refused_and_leaves_nothing(
    server, monkeypatch, tmp_path, digits
):
    row = publish(monkeypatch, server, "mine", "x.h5", b"another file", "bonlime")
    row = dataclasses.replace(row, checksum="0" * digits)
    monkeypatch.setitem(PUBLISHED, "mine", row)
    with pytest.raises(ValueError, match=f"Expected checksum {'0' * digits} of"):
        pretrained.pretrained_workdir("mine")
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_without_a_network_one_line_says_what_to_do(server, monkeypatch, tmp_path):
    name, content = legacy_h5(tmp_path)
    row = publish(monkeypatch, server, "mine", name, content, "bonlime")
    address = "http://127.0.0.1:1/deeplabv3.h5"
    monkeypatch.setitem(PUBLISHED, "mine", dataclasses.replace(row, address=address))
    picture = write_picture(tmp_path)
    done = call(predict, "--pretrained=mine", f"--input={picture}", "--output=o")
    folder = tmp_path / "home/files/mine"
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[-1]
    assert address in sentence and f"put it into {folder}" in sentence
    assert ". " not in sentence, "it is one sentence"
    # A file that a browser fetched is taken, and the server is not asked.
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    assert read_config(pretrained.pretrained_workdir("mine")).num_classes == 3
    assert not server.requests


def test_a_mirror_has_the_files_of_another_cache(server, monkeypatch, tmp_path):
    name, content = legacy_h5(tmp_path)
    row = publish(monkeypatch, server, "mine", name, content, "bonlime")
    unreachable = dataclasses.replace(row, address="http://127.0.0.1:1/deeplabv3.h5")
    monkeypatch.setitem(PUBLISHED, "mine", unreachable)
    monkeypatch.setenv(pretrained.MIRROR_VARIABLE, f"{server.address}/files/")
    pretrained.pretrained_workdir("mine")
    assert [path for path, _ in server.requests] == [f"/files/mine/{name}"]


def test_two_at_once_fetch_once(server, monkeypatch, tmp_path, capsys):
    name, content = legacy_h5(tmp_path)
    publish(monkeypatch, server, "mine", name, content, "bonlime")
    monkeypatch.setattr(pretrained, "WAIT_SECONDS", 0.05)
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(pretrained.pretrained_workdir("mine"))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2 and len(set(found)) == 1 and len(server.requests) == 1


def test_names_that_are_none(server):
    with pytest.raises(ValueError, match="Did you mean xception65_voc_trainval"):
        pretrained.pretrained_workdir("xception65_voc_trainva")
    with pytest.raises(FileNotFoundError, match="mean mobilenet_v2_voc_trainaug.*list"):
        run_config.resolve_init("mobilenet_v2_voc_trainau")
    with pytest.raises(ValueError, match="train.py --init=xception65_imagenet"):
        pretrained.pretrained_workdir("xception65_imagenet")
    with pytest.raises(ValueError, match="http, https or file. Received: ftp://"):
        pretrained.pretrained_workdir("ftp://host/packed")


def test_a_mirror_on_this_machine_with_another_file(server, monkeypatch, tmp_path):
    row = publish(monkeypatch, server, "mine", "x.h5", b"as published", "bonlime")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / row.file_name).write_bytes(b"AS PUBLISHED")
    monkeypatch.setenv(pretrained.MIRROR_VARIABLE, tmp_path.as_uri())
    with pytest.raises(ValueError, match=f"copy of {tmp_path.as_uri()}/mine/x.h5"):
        pretrained.pretrained_workdir("mine")
    assert not list((tmp_path / "home").rglob("*.h5"))


def test_places_that_hold_no_network(server, monkeypatch, tmp_path):
    picture = write_picture(tmp_path)
    with pytest.raises(ValueError, match="archive of it .*Received: the file .*png"):
        pretrained.pretrained_workdir(picture)
    with pytest.raises(ValueError, match="no folder and no published network 'runs/x'"):
        pretrained.pretrained_workdir("runs/x")
    with pytest.raises(ValueError, match="Did you mean xception65_imagenet"):
        pretrained.pretrained_workdir("Xception65_ImageNet")
    monkeypatch.setenv(pretrained.HOME_VARIABLE, str(picture / "home"))
    with pytest.raises(OSError, match="cannot be written to .*set DEEPLAB_TF_HOME"):
        pretrained.pretrained_workdir("mobilenet_v2_voc_trainaug")


def test_a_mistyped_source_is_guessed(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["torchvison", "x.pth", "--output=y"])
    assert "Did you mean torchvision?" in capsys.readouterr().err


def backbone_workdir(folder):
    """As an ImageNet checkpoint becomes one: a head that nothing has trained."""
    config = TrainConfig(
        recipe="research_deeplab_weights",
        model="deeplab_v3plus",
        backbone="tiny",
        multi_grid=(1,),
        num_classes=21,
    )
    model = build_model(config)
    for layer in backbone_layers(model):
        layer.set_weights([np.full(w.shape, 0.5) for w in layer.get_weights()])
    write_config(config, folder)
    save_weights(model, folder / "best.npz")
    return str(folder)


def test_a_backbone_gets_the_recipes_own_head(tmp_path):
    """Not the network and the random head of the workdir that it lies in."""
    init = backbone_workdir(tmp_path / "imagenet")
    changes = {"init": init, "model": "deeplab_v3", "frozen_batch_norm": True}
    config = run_config.make_config("demo", changes)
    assert config.backbone == "tiny" and config.model == "deeplab_v3"
    assert config.multi_grid == (1, 1), "the recipe's own, of which one unit takes one"
    plus = run_config.make_config("deeplab_v3plus_voc2012", {"init": init})
    assert (plus.model, plus.backbone) == ("deeplab_v3plus", "tiny")
    cascade = run_config.make_config("deeplab_v3_cascade_voc2012", {"init": init})
    assert (cascade.model, cascade.backbone) == ("deeplab_v3_cascade", "tiny")

    config = dataclasses.replace(config, num_classes=21, steps=1000)
    model = build_model(config)
    before = {n: np.array(v) for n, v in named_weights(model).items()}
    report = compiling.initialize(model, config)
    head = {f"{x.name}/" for x in head_layers(model)}
    assert {name.partition("/")[0] + "/" for name in report.missing} == head
    for name, variable in named_weights(model).items():
        expected = before[name] if name in report.missing else 0.5
        np.testing.assert_array_equal(np.array(variable), expected, err_msg=name)
    assert "head" in compiling.describe_start(report)
    warnings = compiling.batch_norm_warnings(model, config)
    assert any("nothing has trained it" in warning for warning in warnings)


def test_a_deeper_backbone_brings_its_own_multi_grid(tmp_path):
    """The demo's has two factors, for ResNet-18; Xception takes three."""
    config = TrainConfig(recipe="research_deeplab_weights", backbone="xception65")
    write_config(config, tmp_path)
    np.savez(tmp_path / "best.npz", **{"aspp_pool_bn/moving_variance": np.ones(2)})
    demo = run_config.make_config("demo", {"init": str(tmp_path)})
    assert (demo.backbone, demo.multi_grid) == ("xception65", None)
    three = run_config.make_config("finetune_mobilenet_v2", {"init": str(tmp_path)})
    assert three.multi_grid == (1, 1, 1)


def test_an_imported_network_keeps_its_head(tmp_path):
    folder = tmp_path / "imported"
    backbone_workdir(folder)
    arrays = read_weights(folder / "best.npz")
    arrays["aspp_projection_bn/moving_variance"] *= 0.9
    np.savez(folder / "best.npz", **arrays)
    config = run_config.make_config("demo", {"init": str(folder)})
    assert config.model == "deeplab_v3plus"
    assert compiling.has_trained_head(folder)


def test_init_takes_a_published_name_unless_a_file_has_it(
    server, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    name, content = legacy_h5(tmp_path)
    publish(monkeypatch, server, "mine", name, content, "bonlime")
    config = run_config.make_config("demo", {"init": "mine"})
    assert config.init == str(tmp_path / "home/networks/mine")
    assert config.backbone == "mobilenet_v2_0.5_unrounded"
    (tmp_path / "mine").write_bytes(b"")
    assert run_config.resolve_init("mine") == "mine"


# --- Packed networks -----------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run that was evaluated."""
    workdir = tmp_path_factory.mktemp("runs") / "mine"
    config = TrainConfig(
        model="deeplab_v3",
        backbone="tiny",
        multi_grid=(1,),
        num_classes=2,
        class_names=("road", "car"),
        colormap=((1, 2, 3), (4, 5, 6)),
        data_dir="/home/somebody/records",
        steps=7,
    )
    model = build_model(config)
    randomize(model)
    write_config(config, workdir)
    save_weights(model, workdir / "best.npz")
    (workdir / "evaluation").mkdir()
    scores = {"mean_iou": 0.5, "pixel_accuracy": 0.75, "split": "val", "images": 9}
    scores.update(scales=[0.5, 1.0], flip=True, output_stride=8, pad_to=[513, 513])
    scores.update(window=None, crf={"appearance_weight": 4.0, "iterations": 10})
    (workdir / "evaluation/val.json").write_text(json.dumps(scores))
    return workdir


@pytest.fixture
def packed(run, tmp_path, capsys):
    folder = tmp_path / "packed"
    arguments = ["pack", str(run), f"--output={folder}", "--licence=cc-by-4.0"]
    command_line.main([*arguments, "--data=Streets of one town"])
    assert f"--pretrained={folder}" in capsys.readouterr().out
    return folder


IMAGE = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)


def check_same(run, source):
    expected = Segmenter.from_workdir(run).predict(IMAGE)
    segmenter = Segmenter.from_pretrained(source)
    assert segmenter.labels.class_names == ("road", "car")
    np.testing.assert_array_equal(segmenter.predict(IMAGE), expected)


def test_a_packed_network_has_a_card_and_hashes(run, packed):
    names = sorted(path.name for path in packed.iterdir())
    assert names == sorted(
        ["best.npz", "config.json", "labels.json", "README.md", "SHA256SUMS"]
    )
    card = (packed / "README.md").read_text()
    head = card.split("---")[1]
    assert "license: cc-by-4.0" in head and "library_name: deeplab_tf" in head
    assert "Streets of one town" in card and "road, car" in card
    assert "| val | 9 | 0.5000 | 0.7500 |" in card
    assert (
        "--split=val --output_stride=8 --scales=0.5,1 --flip --pad_to=513,513 --crf "
        "--crf_parameters=appearance_weight=4,iterations=10`"
    ) in card
    config = read_config(packed)
    assert config.data_dir == "records" and "somebody" not in card
    digest = hashlib.sha256((packed / "best.npz").read_bytes()).hexdigest()
    assert f"{digest}  best.npz\n" in (packed / "SHA256SUMS").read_text()
    check_same(run, packed)
    with pytest.raises(SystemExit, match="packed exists"):
        command_line.main(["pack", str(run), f"--output={packed}"])


def test_packed_networks_come_from_addresses(server, run, packed, tmp_path):
    server.files.update({path.name: path.read_bytes() for path in packed.iterdir()})
    check_same(run, f"{server.address}/somewhere")
    pretrained.pretrained_workdir(f"{server.address}/somewhere")
    assert len(server.requests) == 5
    archive = tmp_path / "mine.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(packed, "packed")
    server.files["mine.tar.gz"] = archive.read_bytes()
    weights = (run / "best.npz").read_bytes()
    for address in (
        f"{server.address}/mine.tar.gz",
        archive.as_uri(),
        packed.as_uri(),
    ):
        workdir = Path(pretrained.pretrained_workdir(address))
        assert (workdir / "best.npz").read_bytes() == weights
    assert from_pretrained(packed).output_shape[-1] == 2
    # An archive of this machine that was written anew is another network.
    (packed / "README.md").unlink()
    (packed / "SHA256SUMS").unlink()
    with tarfile.open(archive, "w:gz") as file:
        file.add(packed, "packed")
    workdir = Path(pretrained.pretrained_workdir(archive))
    assert (workdir / "config.json").is_file()
    assert not (workdir / "README.md").exists()


def test_the_card_of_an_imported_network_claims_no_training(tmp_path):
    folder, output = backbone_workdir(tmp_path / "imported"), tmp_path / "packed"
    packing.pack(folder, output)
    card = (output / "README.md").read_text()
    assert "imported (research_deeplab_weights)" in card
    assert "steps" not in card and "split" not in card
    (tmp_path / "imported/evaluation").mkdir()
    (tmp_path / "imported/evaluation/val.json").write_text("{")
    with pytest.raises(ValueError, match="val.json is damaged"):
        packing.pack(folder, tmp_path / "other")


def test_packed_files_that_were_changed_are_refused(server, packed):
    server.files.update({path.name: path.read_bytes() for path in packed.iterdir()})
    server.files["best.npz"] += b"x"
    with pytest.raises(ValueError, match="Expected checksum .*best.npz"):
        pretrained.pretrained_workdir(f"{server.address}/packed")
    (packed / "labels.json").write_text("{}")
    with pytest.raises(ValueError, match="SHA-256 .*labels.json.*damaged"):
        pretrained.pretrained_workdir(packed)
    (packed / "labels.json").unlink()
    with pytest.raises(FileNotFoundError, match="labels.json is not there"):
        pretrained.pretrained_workdir(packed)
    hashes = packed / "SHA256SUMS"
    hashes.write_text(f"{'0' * 64}  ../../outside\n")
    with pytest.raises(ValueError, match="Expected lines of a SHA-256"):
        pretrained.pretrained_workdir(packed)
    hashes.write_text(f"{'0' * 64}  config.json\n")
    with pytest.raises(ValueError, match="does not name best.npz"):
        pretrained.pretrained_workdir(packed)


def test_hugging_face_repositories(run, packed, monkeypatch):
    asked = []

    def snapshot_download(name, revision):
        asked.append((name, revision))
        return str(packed)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    check_same(run, "hf:somebody/streets")
    pretrained.pretrained_workdir("hf:somebody/streets@v2")
    assert asked == [("somebody/streets", None), ("somebody/streets", "v2")]

    def offline(name, revision):
        raise OSError("No connection.\nA second line.")

    hub.snapshot_download = offline
    with pytest.raises(ValueError, match="Cannot fetch hf:somebody/.*No conn.*folder"):
        pretrained.pretrained_workdir("hf:somebody/streets")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install 'deeplab-tf.hf.'"):
        pretrained.pretrained_workdir("hf:somebody/streets")


@pytest.mark.parametrize(
    "module, arguments",
    [
        (predict, ("--workdir=x", "--output=y")),
        (export, ("--workdir=x", "--output_dir=y")),
    ],
)
def test_two_networks_at_once_are_refused(packed, tmp_path, module, arguments):
    if module is predict:
        arguments = (f"--input={write_picture(tmp_path)}", *arguments)
    done = call(module, f"--pretrained={packed}", *arguments)
    assert done.returncode == 1 and "Give --pretrained alone" in done.stderr


# --- Words and layouts ---------------------------------------------------------------


@pytest.mark.parametrize(
    "missing, unused, said",
    [
        ((), (), "x: 2 weights copied"),
        (
            ("aspp_1x1_conv/kernel", "logits/bias"),
            (),
            ", 2 new (the head), as expected",
        ),
        (
            ("logits/bias",),
            (),
            ", 1 new (the classifier), as expected of other c",
        ),
        (("conv1_conv/kernel",), ("a/b",), ", 1 new (conv1_conv/kernel)\n  1 of the"),
    ],
)
def test_reports_in_words(missing, unused, said):
    assert said in str(WeightReport("x", ("a", "b"), missing, unused))


def test_layers_inside_layers_keep_their_names(tmp_path):
    """As Keras Hub's models lie in a file: by class and number, named by attributes."""
    path = tmp_path / "task.weights.h5"

    def write(file, place, name, *arrays):
        variables = file.create_group(f"layers/{place}/vars")
        variables.attrs["name"] = name
        for index, array in enumerate(arrays):
            variables[str(index)] = array

    kernel = np.ones((1, 1, 2, 3), np.float32)
    with h5py.File(path, "w") as file:
        write(file, "backbone/layers/functional/layers/conv2d", "conv1_conv", kernel)
        write(file, "backbone/layers/functional/layers/bn", "conv1_bn", *np.eye(4, 3))
        write(file, "conv2d", "segmentation_output", 2 * kernel)
    arrays = read_weights(path)
    assert sorted(arrays) == [
        *("conv1_bn/beta", "conv1_bn/gamma", "conv1_bn/moving_mean"),
        *("conv1_bn/moving_variance", "conv1_conv/kernel"),
        "segmentation_output/kernel",
    ]
    np.testing.assert_array_equal(arrays["conv1_bn/moving_mean"], np.eye(4, 3)[2])
    with h5py.File(path, "a") as file:
        write(file, "other", "conv1_conv", 3 * kernel)
    with pytest.raises(ValueError, match="two layers called conv1_conv"):
        read_weights(path)
    with h5py.File(path, "w") as file:  # a group that holds itself
        group = file.create_group("layers/endless")
        group["again"] = group
    with pytest.raises(ValueError, match="holds no weights under layer names"):
        read_weights(path)


def keras_hub_tensors(rng):
    """The head and the first layers of Keras Hub's DeepLabV3+, small."""
    shapes = {"conv1_conv": (7, 7, 3, 4), "decoder_conv": (1, 1, 8, 3)}
    shapes.update({f"stack{s}_block{b}_1_conv": (1, 1, 4, 4) for s, b in UNITS})
    shapes.update(conv_projection=(1, 1, 10, 2), segmentation_head_conv=(1, 1, 5, 6))
    shapes.update(segmentation_output=(1, 1, 6, 21))
    arrays = {f"{n}/kernel": rng.normal(size=s) for n, s in shapes.items()}
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    arrays.update({f"segmentation_head_norm/{leaf}": rng.random(6) for leaf in leaves})
    return {name: array.astype(np.float32) for name, array in arrays.items()}


UNITS = [(s, b) for s, count in enumerate((3, 4, 6, 3)) for b in range(count)]


def test_keras_hubs_decoder_is_the_centre_of_a_3x3():
    tensors = keras_hub_tensors(np.random.default_rng(0))
    network = sources.keras_hub(tensors)
    assert network.config["backbone"] == "resnet50_keras_hub"
    assert network.config["output_stride"] == 32 and not network.unused
    first = network.arrays["decoder_conv3x3_1_conv/kernel"]
    theirs = tensors["segmentation_head_conv/kernel"]
    np.testing.assert_array_equal(first[1, 1], theirs[0, 0])
    assert np.count_nonzero(first) == np.count_nonzero(theirs)
    second = network.arrays["decoder_conv3x3_2_conv/kernel"]
    np.testing.assert_array_equal(second[1, 1], np.eye(6))
    assert second.sum() == 6
    # Same 1 / sqrt(variance + epsilon), each with its own epsilon.
    variance = network.arrays["decoder_conv3x3_1_bn/moving_variance"]
    expected = tensors["segmentation_head_norm/moving_variance"] + 1e-3
    np.testing.assert_allclose(variance + sources.HEAD_EPSILON, expected, rtol=1e-6)
    # Pooling is first here: their last fifth of the projection's inputs.
    projection = tensors["conv_projection/kernel"]
    rolled = network.arrays["aspp_projection_conv/kernel"]
    np.testing.assert_array_equal(rolled[:, :, :2], projection[:, :, -2:])
    np.testing.assert_array_equal(network.arrays["logits/bias"], np.zeros(21))


def test_named_weights_of_a_packed_model_are_those_of_the_run(run, packed):
    variables = named_weights(from_pretrained(packed))
    assert_same_arrays(variables, read_weights(run / "best.npz"))
