"""The PASCAL family: VOC with SBD, PASCAL-Context, Person-Part, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image

from datasets import build_pascal_context, build_person_part, build_voc2012
from datasets.sources import matlab, sbd
from datasets.sources.catalog import DATASETS
from deeplab_tf.colors import voc_colormap
from deeplab_tf.data.building.errors import DatasetError
from deeplab_tf.data.records.info import read_info
from tests.support.commands import call
from tests.support.pairs import read_records, save_image, save_label

SIZE = (6, 4)  # Width and height of the drawn images.
SHAPE = SIZE[::-1]


def drawn_ids(name: str, ids) -> np.ndarray:
    """Every name its own label, with ids of a list."""
    rng = np.random.default_rng([*name.encode(), 7])
    return rng.choice(np.array(ids), SHAPE)


def write_list(path: Path, names) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def labels_of(data_dir: Path, split: str) -> dict[str, np.ndarray]:
    records = read_records(data_dir, split)
    return {name: record["label"][..., 0] for name, record in records.items()}


def assert_labels(data_dir: Path, split: str, expected: dict[str, np.ndarray]) -> None:
    """The same names in the same order, and the same ids."""
    labels = labels_of(data_dir, split)
    assert list(labels) == list(expected)
    for name, label in expected.items():
        np.testing.assert_array_equal(labels[name], label, err_msg=name)


# --- MATLAB files as their authors write them ----------------------------------------


def save_sbd_label(path: Path, ids: np.ndarray) -> None:
    """SBD's cls/NAME.mat: a 1x1 struct with sparse boundaries of the 20 classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), object)
    for i in range(20):
        boundaries[i, 0] = scipy.sparse.csc_matrix(ids.shape)
    truth = {
        "Boundaries": boundaries,
        "Segmentation": ids.astype(np.uint8),
        "CategoriesPresent": np.unique(ids[ids > 0]).astype(float)[:, None],
    }
    scipy.io.savemat(path, {"GTcls": truth}, do_compression=True)


def struct_array(structs: list[dict]) -> np.ndarray:
    """A 1xN struct array; MATLAB writes 0x0 doubles for none."""
    if not structs:
        return np.zeros((0, 0))
    array = np.empty((1, len(structs)), [(key, object) for key in structs[0]])
    for i, struct in enumerate(structs):
        array[0, i] = tuple(struct.values())
    return array


def part_object(class_name: str, mask: np.ndarray, parts=()) -> dict:
    """One of anno.objects of PASCAL-Parts; masks are logical."""
    named = [{"part_name": name, "mask": part} for name, part in parts]
    class_ind = DATASETS["voc2012"].class_names.index(class_name)
    return {
        "class": class_name,
        "class_ind": float(class_ind),
        "mask": mask,
        "parts": struct_array(named),
    }


def save_parts(path: Path, objects: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    annotation = {"imname": path.stem, "objects": struct_array(objects)}
    scipy.io.savemat(path, {"anno": annotation})


@pytest.mark.parametrize("squeeze", [False, True])
def test_structs_are_the_same_in_every_shape_that_loadmat_gives(tmp_path, squeeze):
    ids = drawn_ids("x", range(21))
    save_sbd_label(tmp_path / "sbd.mat", ids)
    mat = scipy.io.loadmat(tmp_path / "sbd.mat", squeeze_me=squeeze)
    (truth,) = matlab.structs(mat["GTcls"])
    label = matlab.label_map(matlab.field(truth, "Segmentation"))
    np.testing.assert_array_equal(label, ids)
    assert label.dtype == np.uint8

    left, right = np.eye(*SHAPE, dtype=bool), np.zeros(SHAPE, bool)
    person = part_object("person", left, [("head", left), ("lfoot", right)])
    save_parts(tmp_path / "parts.mat", [person, part_object("dog", right)])
    mat = scipy.io.loadmat(tmp_path / "parts.mat", squeeze_me=squeeze)
    (anno,) = matlab.structs(mat["anno"])
    objects = matlab.structs(matlab.field(anno, "objects"))
    assert [matlab.text(matlab.field(o, "class")) for o in objects] == ["person", "dog"]
    parts = [matlab.structs(matlab.field(o, "parts")) for o in objects]
    assert [len(p) for p in parts] == [2, 0]
    assert matlab.text(matlab.field(parts[0][1], "part_name")) == "lfoot"
    mask = matlab.label_map(matlab.field(parts[0][0], "mask"))
    np.testing.assert_array_equal(mask, left)


def test_a_cell_array_of_structs_reads_like_a_struct_array(tmp_path):
    cells = np.empty((1, 3), object)
    for i in range(3):
        cells[0, i] = {"number": float(i)}
    scipy.io.savemat(tmp_path / "x.mat", {"cells": cells})
    found = matlab.structs(matlab.read_variable(tmp_path / "x.mat", "cells"))
    assert [matlab.field(s, "number").item() for s in found] == [0, 1, 2]


def test_matlab_files_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "x.mat"
    with pytest.raises(ValueError, match="there is no file .*x.mat"):
        matlab.read_variable(path, "anno")
    save_sbd_label(path, drawn_ids("x", range(21)))
    with pytest.raises(ValueError, match="x.mat has no variable anno"):
        matlab.read_variable(path, "anno")
    whole = path.read_bytes()
    for length in (0, 100, 150, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="x.mat cannot be read as a .mat file"):
            matlab.read_variable(path, "GTcls")
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path.write_bytes(header + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match="x.mat is a MATLAB 7.3 file"):
        matlab.read_variable(path, "GTcls")


@pytest.fixture(scope="session")
def matlab_files() -> Path:
    """Files that MATLAB itself wrote, which come with SciPy's own tests."""
    folder = Path(scipy.io.matlab.__file__).parent / "tests" / "data"
    if not folder.is_dir():
        pytest.skip("this SciPy comes without the files of its tests")
    return folder


@pytest.mark.parametrize("version", ["6.1_SOL2", "6.5.1_GLNX86", "7.4_GLNX86"])
def test_structs_that_matlab_wrote(matlab_files, version):
    path = matlab_files / f"teststructarr_{version}.mat"
    first, second = matlab.structs(matlab.read_variable(path, "teststructarr"))
    numbers = [matlab.label_map(matlab.field(first, key)) for key in ("one", "two")]
    assert [number.tolist() for number in numbers] == [[[1]], [[2]]]
    texts = [matlab.text(matlab.field(second, key)) for key in ("one", "two")]
    assert texts == ["number 1", "number 2"]
    path = matlab_files / f"teststructnest_{version}.mat"
    (outer,) = matlab.structs(matlab.read_variable(path, "teststructnest"))
    (inner,) = matlab.structs(matlab.field(outer, "two"))
    assert matlab.text(matlab.field(inner, "three")) == "number 3"


def test_logical_arrays_and_empty_texts_that_matlab_wrote(matlab_files):
    path = matlab_files / "testbool_8_WIN64.mat"
    mask = matlab.label_map(matlab.read_variable(path, "testbools"))
    np.testing.assert_array_equal(mask, [[1], [0]])
    path = matlab_files / "single_empty_string.mat"
    assert matlab.text(matlab.read_variable(path, "a")) == ""


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("testhdf5_7.4_GLNX86.mat", "testbool"),
        ("corrupted_zlib_data.mat", "datagrid"),
        ("malformed1.mat", "x"),
        ("logical_sparse.mat", "sp_log_5_4"),
        ("test_empty_struct.mat", "a"),
        ("teststring_7.4_GLNX86.mat", "teststring"),
        ("testemptycell_7.4_GLNX86.mat", "testemptycell"),
    ],
)
def test_files_that_matlab_wrote_without_structs_are_refused(
    matlab_files, name, variable
):
    with pytest.raises(ValueError, match="MATLAB 7.3|cannot be read|MATLAB structs"):
        matlab.structs(matlab.read_variable(matlab_files / name, variable))


def test_matlab_values_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="expected MATLAB structs, .* float64"):
        matlab.structs(np.ones((2, 2)))
    with pytest.raises(ValueError, match="two dimensions, received .* shape \\(2,\\)"):
        matlab.label_map(np.ones(2))
    for bad in (0.5, -1.0, np.nan):
        with pytest.raises(ValueError, match="ids of 0 or more"):
            matlab.label_map(np.array([[1.0, bad]]))
    np.testing.assert_array_equal(matlab.label_map(np.array([[7.0, 0]])), [[7, 0]])


def test_sbd_labels_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "x.mat"
    with pytest.raises(ValueError, match="no file .*x.mat; unpack benchmark.tgz"):
        sbd.read_label(path)
    scipy.io.savemat(path, {"GTcls": {"Boundaries": 1.0}})
    with pytest.raises(ValueError, match="x.mat: .* the field Segmentation, .*Bound"):
        sbd.read_label(path)
    scipy.io.savemat(path, {"GTcls": {"Segmentation": np.full(SHAPE, 300)}})
    with pytest.raises(ValueError, match="x.mat: expected ids 0 to 20, received 300"):
        sbd.read_label(path)
    scipy.io.savemat(path, {"GTcls": struct_array([{"Segmentation": 1.0}] * 2)})
    with pytest.raises(ValueError, match="x.mat: expected one struct .*received 2"):
        sbd.read_label(path)


# --- VOC 2012 with SBD ---------------------------------------------------------------

VOC_IDS = [*range(21), 255]


def make_voc(folder: Path, train=("a", "b"), val=("v1", "v2"), others=()) -> Path:
    """A devkit; `others` are images without a mask of VOC's."""
    devkit = folder / "VOCdevkit" / "VOC2012"
    lists = devkit / "ImageSets" / "Segmentation"
    write_list(lists / "train.txt", train)
    write_list(lists / "val.txt", val)
    for name in (*train, *val):
        save_label(devkit / "SegmentationClass" / f"{name}.png", voc_ids(name))
    for name in (*train, *val, *others):
        save_image(devkit / "JPEGImages" / f"{name}.jpg", SIZE)
    return devkit


def voc_ids(name: str) -> np.ndarray:
    return drawn_ids(name, VOC_IDS)


def sbd_ids(name: str) -> np.ndarray:
    return drawn_ids(f"sbd {name}", range(21))


def make_sbd(folder: Path, train=("b", "s1", "v1"), val=("s2", "v2")) -> Path:
    dataset = folder / "benchmark_RELEASE" / "dataset"
    write_list(dataset / "train.txt", train)
    write_list(dataset / "val.txt", val)
    for name in (*train, *val):
        save_sbd_label(dataset / "cls" / f"{name}.mat", sbd_ids(name))
        save_image(dataset / "img" / f"{name}.jpg", SIZE, quality=50)
    return dataset


def build_voc(devkit: Path, out: Path, splits=(), **options):
    options = {"num_processes": 1, **options}
    return build_voc2012.build_voc2012(devkit, out, splits, **options)


def test_trainaug_is_train_and_sbd_less_val(tmp_path):
    devkit = make_voc(tmp_path, others=["s1"])
    dataset = make_sbd(tmp_path)
    out = tmp_path / "out"
    info = build_voc(devkit, out, sbd_dir=dataset.parent)
    assert info.splits == {"train": 2, "trainaug": 4, "val": 2}
    # The masks of train are VOC's, also where SBD has one.
    masks = {"a": voc_ids("a"), "b": voc_ids("b"), "s1": sbd_ids("s1")}
    assert_labels(out, "trainaug", {**masks, "s2": sbd_ids("s2")})
    assert_labels(out, "train", {name: voc_ids(name) for name in ("a", "b")})
    assert_labels(out, "val", {name: voc_ids(name) for name in ("v1", "v2")})


def test_images_come_from_the_devkit_and_else_from_sbd(tmp_path):
    devkit = make_voc(tmp_path, others=["s1"])
    dataset = make_sbd(tmp_path)
    samples = build_voc2012.list_samples(devkit, "trainaug", dataset)
    folders = {sample.name: Path(sample.image).parent for sample in samples}
    jpegs, copies = devkit / "JPEGImages", dataset / "img"
    assert folders == {"a": jpegs, "b": jpegs, "s1": jpegs, "s2": copies}


@pytest.mark.parametrize(
    "place", [".", "benchmark_RELEASE", "benchmark_RELEASE/dataset"]
)
def test_sbd_is_found_in_each_of_its_folders(tmp_path, place):
    devkit = make_voc(tmp_path)
    make_sbd(tmp_path)
    samples = build_voc2012.list_samples(devkit, "trainaug", tmp_path / place)
    assert [s.name for s in samples] == ["a", "b", "s1", "s2"]


def test_a_folder_that_is_not_sbd_is_refused(tmp_path):
    devkit = make_voc(tmp_path)
    dataset = make_sbd(tmp_path)
    with pytest.raises(DatasetError, match="benchmark_RELEASE/dataset.* Received: "):
        build_voc2012.list_samples(devkit, "trainaug", devkit)
    (dataset / "val.txt").unlink()
    with pytest.raises(DatasetError, match="cls, train.txt and val.txt"):
        build_voc2012.list_samples(devkit, "trainaug", dataset)


def make_full_lists(folder: Path) -> tuple[Path, Path]:
    """Lists of the published sizes, without any image or mask.

    Of SBD's 11,355 images VOC's train has 1,133 and its val 1,104 in this drawing.
    """
    train = [f"train_{i}" for i in range(1464)]
    val = [f"val_{i}" for i in range(1449)]
    devkit = folder / "VOCdevkit" / "VOC2012"
    write_list(devkit / "ImageSets" / "Segmentation" / "train.txt", train)
    write_list(devkit / "ImageSets" / "Segmentation" / "val.txt", val)
    names = [f"sbd_{i}" for i in range(9118)] + train[:1133] + val[:1104]
    dataset = folder / "dataset"
    (dataset / "cls").mkdir(parents=True)
    write_list(dataset / "train.txt", names[::-1][:8498])
    write_list(dataset / "val.txt", names[::-1][8498:])
    return devkit, dataset


def test_the_full_devkit_has_a_trainaug_of_exactly_10582(tmp_path):
    devkit, dataset = make_full_lists(tmp_path)
    names = [s.name for s in build_voc2012.list_samples(devkit, "trainaug", dataset)]
    assert len(names) == 10582 == 1464 + 9118
    assert names == sorted(set(names))
    assert sum(name.startswith("val") for name in names) == 0

    lines = (dataset / "val.txt").read_text().splitlines()
    lines.remove("sbd_5")
    write_list(dataset / "val.txt", lines)
    sentence = "Expected 10582 names.*: 10581, 1464 of them .* and 9117 more: 1 missing"
    with pytest.raises(DatasetError, match=sentence):
        build_voc2012.list_samples(devkit, "trainaug", dataset)
    samples = build_voc2012.list_samples(
        devkit, "trainaug", dataset, expect_trainaug=10581
    )
    assert len(samples) == 10581


def test_the_size_of_trainaug_is_checked_on_request(tmp_path):
    devkit = make_voc(tmp_path)
    dataset = make_sbd(tmp_path)
    options = {"splits": ["trainaug"], "sbd_dir": dataset}
    sentence = "Expected 3 names .*: 4, 2 of them in train.txt and 2 more: 1 too many"
    with pytest.raises(DatasetError, match=sentence):
        build_voc(devkit, tmp_path / "out", **options, expect_trainaug=3)
    assert not (tmp_path / "out").exists()
    info = build_voc(devkit, tmp_path / "out", **options, expect_trainaug=4)
    assert info.splits == {"trainaug": 4}


def test_without_val_there_is_no_trainaug(tmp_path):
    devkit = make_voc(tmp_path)
    dataset = make_sbd(tmp_path)
    (devkit / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(DatasetError, match="no file .*val.txt"):
        build_voc2012.list_samples(devkit, "trainaug", dataset)


def test_a_missing_annotation_is_named_and_can_be_skipped(tmp_path):
    devkit = make_voc(tmp_path)
    dataset = make_sbd(tmp_path)
    (dataset / "cls" / "s1.mat").unlink()
    options = {"splits": ["trainaug"], "sbd_dir": dataset}
    sentence = r"1 of 4 pairs.*\n.*s1: there is no file .*cls.s1.mat; unpack benchmark"
    with pytest.raises(DatasetError, match=sentence):
        build_voc(devkit, tmp_path / "out", **options)
    info = build_voc(devkit, tmp_path / "out2", **options, skip_bad=True)
    assert info.splits == {"trainaug": 3}
    (dataset / "img" / "s2.jpg").unlink()
    with pytest.raises(DatasetError, match=r"s2: there is no file .*JPEGImages.s2.jpg"):
        build_voc(devkit, tmp_path / "out3", **options)


def test_a_ready_list_is_taken_and_may_not_hold_val(tmp_path):
    devkit = make_voc(tmp_path)
    dataset = make_sbd(tmp_path)
    ready = devkit / "ImageSets" / "Segmentation" / "trainaug.txt"
    write_list(ready, ["s2", "a"])
    samples = build_voc2012.list_samples(devkit, "trainaug", dataset)
    assert [s.name for s in samples] == ["s2", "a"]
    write_list(ready, ["s2", "v2", "a", "v1"])
    sentence = (
        "no name of val in trainaug. Received 2 in .*trainaug.txt: v1, v2. Remove"
    )
    with pytest.raises(DatasetError, match=sentence):
        build_voc2012.list_samples(devkit, "trainaug", dataset)


def test_masks_of_segmentation_class_aug_need_no_list(tmp_path):
    devkit = make_voc(tmp_path, others=["s1", "s2"])
    folder = devkit / "SegmentationClassAug"
    save_label(folder / "s1.png", sbd_ids("s1"), palette=False)
    save_label(folder / "s2.png", sbd_ids("s2"), palette=True)
    for name in ("b", "v1", "v2"):  # The common download has val, too.
        save_label(folder / f"{name}.png", sbd_ids(name), palette=False)
    (folder / "._s1.png").write_bytes(b"a file that macOS leaves")
    val = devkit / "ImageSets" / "Segmentation" / "val.txt"
    val.rename(val.with_suffix(".away"))
    assert build_voc2012.list_splits(devkit) == ["train"]
    val.with_suffix(".away").rename(val)
    info = build_voc(devkit, tmp_path / "out")
    assert info.splits == {"train": 2, "trainaug": 4, "val": 2}
    masks = {"a": voc_ids("a"), "b": voc_ids("b"), "s1": sbd_ids("s1")}
    assert_labels(tmp_path / "out", "trainaug", {**masks, "s2": sbd_ids("s2")})


def test_trainaug_without_a_source_says_what_to_give(tmp_path):
    devkit = make_voc(tmp_path)
    assert build_voc2012.list_splits(devkit) == ["train", "val"]
    with pytest.raises(
        DatasetError, match="--sbd_dir .*Class.*Aug or .*Received: none"
    ):
        build_voc2012.list_samples(devkit, "trainaug")
    names = ["a", *(f"s{i}" for i in range(12))]
    write_list(devkit / "ImageSets" / "Segmentation" / "trainaug.txt", names)
    sentence = "each of the 13 names.* lacks 12: s0, .* s9 and 2 more. Give --sbd_dir"
    with pytest.raises(DatasetError, match=sentence):
        build_voc2012.list_samples(devkit, "trainaug")


def test_real_masks_as_sbd_would_store_them(shared_data, tmp_path):
    real = shared_data / "VOCdevkit" / "VOC2012"
    lists = real / "ImageSets" / "Segmentation"
    names = {p.stem: p.read_text().split() for p in lists.glob("*.txt")}
    added = [n for n in names["trainaug"] if n not in names["train"]]
    assert (len(names["trainaug"]), len(added)) == (70, 20)
    # The same devkit without the list and the masks that SBD adds.
    devkit, dataset = tmp_path / "VOC2012", tmp_path / "dataset"
    for split in ("train", "val"):
        write_list(devkit / "ImageSets" / "Segmentation" / f"{split}.txt", names[split])
    (devkit / "JPEGImages").symlink_to(real / "JPEGImages")
    (devkit / "SegmentationClass").mkdir()
    masks = {}
    for name in names["trainaug"]:
        path = real / "SegmentationClass" / f"{name}.png"
        with Image.open(path) as mask:
            masks[name] = np.array(mask)
        if name in added:
            save_sbd_label(dataset / "cls" / f"{name}.mat", masks[name])
        else:
            (devkit / "SegmentationClass" / path.name).symlink_to(path)
    write_list(dataset / "train.txt", added[:15] + names["val"][:3])
    write_list(dataset / "val.txt", added[15:] + names["train"][:4])

    info = build_voc(devkit, tmp_path / "out", ["trainaug"], sbd_dir=dataset)
    assert info.splits == {"trainaug": 70}
    assert_labels(tmp_path / "out", "trainaug", dict(sorted(masks.items())))


# --- PASCAL-Context ------------------------------------------------------------------

# labels.txt of trainval.tar.gz; the first is 1.
ALL_CONTEXT_NAMES = """
    accordion, aeroplane, air conditioner, antenna, artillery, ashtray, atrium, baby
    carriage, bag, ball, balloon, bamboo weaving, barrel, baseball bat, basket,
    basketball backboard, bathtub, bed, bedclothes, beer, bell, bench, bicycle,
    binoculars, bird, bird cage, bird feeder, bird nest, blackboard, board, boat, bone,
    book, bottle, bottle opener, bowl, box, bracelet, brick, bridge, broom, brush,
    bucket, building, bus, cabinet, cabinet door, cage, cake, calculator, calendar,
    camel, camera, camera lens, can, candle, candle holder, cap, car, card, cart, case,
    casette recorder, cash register, cat, cd, cd player, ceiling, cell phone, cello,
    chain, chair, chessboard, chicken, chopstick, clip, clippers, clock, closet, cloth,
    clothes tree, coffee, coffee machine, comb, computer, concrete, cone, container,
    control booth, controller, cooker, copying machine, coral, cork, corkscrew, counter,
    court, cow, crabstick, crane, crate, cross, crutch, cup, curtain, cushion, cutting
    board, dais, disc, disc case, dishwasher, dock, dog, dolphin, door, drainer, dray,
    drink dispenser, drinking machine, drop, drug, drum, drum kit, duck, dumbbell,
    earphone, earrings, egg, electric fan, electric iron, electric pot, electric saw,
    electronic keyboard, engine, envelope, equipment, escalator, exhibition booth,
    extinguisher, eyeglass, fan, faucet, fax machine, fence, ferris wheel, fire
    extinguisher, fire hydrant, fire place, fish, fish tank, fishbowl, fishing net,
    fishing pole, flag, flagstaff, flame, flashlight, floor, flower, fly, foam, food,
    footbridge, forceps, fork, forklift, fountain, fox, frame, fridge, frog, fruit,
    funnel, furnace, game controller, game machine, gas cylinder, gas hood, gas stove,
    gift box, glass, glass marble, globe, glove, goal, grandstand, grass, gravestone,
    ground, guardrail, guitar, gun, hammer, hand cart, handle, handrail, hanger, hard
    disk drive, hat, hay, headphone, heater, helicopter, helmet, holder, hook, horse,
    horse-drawn carriage, hot-air balloon, hydrovalve, ice, inflator pump, ipod, iron,
    ironing board, jar, kart, kettle, key, keyboard, kitchen range, kite, knife, knife
    block, ladder, ladder truck, ladle, laptop, leaves, lid, life buoy, light, light
    bulb, lighter, line, lion, lobster, lock, machine, mailbox, mannequin, map, mask,
    mat, match book, mattress, menu, metal, meter box, microphone, microwave, mirror,
    missile, model, money, monkey, mop, motorbike, mountain, mouse, mouse pad, musical
    instrument, napkin, net, newspaper, oar, ornament, outlet, oven, oxygen bottle,
    pack, pan, paper, paper box, paper cutter, parachute, parasol, parterre, patio,
    pelage, pen, pen container, pencil, person, photo, piano, picture, pig, pillar,
    pillow, pipe, pitcher, plant, plastic, plate, platform, player, playground, pliers,
    plume, poker, poker chip, pole, pool table, postcard, poster, pot, pottedplant,
    printer, projector, pumpkin, rabbit, racket, radiator, radio, rail, rake, ramp,
    range hood, receiver, recorder, recreational machines, remote control, road, robot,
    rock, rocket, rocking horse, rope, rug, ruler, runway, saddle, sand, saw, scale,
    scanner, scissors, scoop, screen, screwdriver, sculpture, scythe, sewer, sewing
    machine, shed, sheep, shell, shelves, shoe, shopping cart, shovel, sidecar,
    sidewalk, sign, signal light, sink, skateboard, ski, sky, sled, slippers, smoke,
    snail, snake, snow, snowmobiles, sofa, spanner, spatula, speaker, speed bump, spice
    container, spoon, sprayer, squirrel, stage, stair, stapler, stick, sticky note,
    stone, stool, stove, straw, stretcher, sun, sunglass, sunshade, surveillance camera,
    swan, sweeper, swim ring, swimming pool, swing, switch, table, tableware, tank, tap,
    tape, tarp, telephone, telephone booth, tent, tire, toaster, toilet, tong, tool,
    toothbrush, towel, toy, toy car, track, train, trampoline, trash bin, tray, tree,
    tricycle, tripod, trophy, truck, tube, turtle, tvmonitor, tweezers, typewriter,
    umbrella, unknown, vacuum cleaner, vending machine, video camera, video game
    console, video player, video tape, violin, wakeboard, wall, wallet, wardrobe,
    washing machine, watch, water, water dispenser, water pipe, water skate board,
    watermelon, whale, wharf, wheel, wheelchair, window, window blinds, wineglass, wire,
    wood, wool
    """
CONTEXT_459 = [" ".join(name.split()) for name in ALL_CONTEXT_NAMES.split(",")]
# 59_labels.txt, as it spells its names.
CONTEXT_59 = """
    aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse
    motorbike person pottedplant sheep sofa train tvmonitor bag bed bench book building
    cabinet ceiling clothes computer cup door fence floor flower food grass ground
    keyboard light mountain mouse curtain platform sign plate road rock shelves sidewalk
    sky snow bedcloth track tree truck wall water window wood
    """.split()
CONTEXT_CLASSES = DATASETS["pascal_context"].class_names
SAME_CLASS = {"diningtable": "table", "clothes": "cloth", "bedcloth": "bedclothes"}


def context_class(name: str) -> int:
    name = SAME_CLASS.get(name, name)
    return CONTEXT_CLASSES.index(name) if name in CONTEXT_CLASSES else 0


def write_names(path: Path, names) -> None:
    write_list(path, [f"{i}: {name}" for i, name in enumerate(names, start=1)])


def make_context_devkit(folder: Path, folder_of_lists="SegmentationContext") -> Path:
    devkit = folder / "VOCdevkit" / "VOC2010"
    for split, names in (("train", ("c1", "c2")), ("val", ("c3",))):
        write_list(devkit / "ImageSets" / folder_of_lists / f"{split}.txt", names)
        for name in names:
            save_image(devkit / "JPEGImages" / f"{name}.jpg", SIZE)
    return devkit


def make_context_mats(folder: Path) -> dict[str, np.ndarray]:
    """Writes trainval/NAME.mat; returns the classes, looked up pixel by pixel."""
    expected = {}
    for name in ("c1", "c2", "c3"):
        # Half of the pixels in one of the 59, the rest anywhere in the 459.
        known = [i for i, n in enumerate(CONTEXT_459, 1) if context_class(n)]
        ids = drawn_ids(name, [*known * 7, *range(460)]).astype(np.uint16)
        path = folder / "trainval" / f"{name}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(path, {"LabelMap": ids})
        rows = [[context_class(["", *CONTEXT_459][i]) for i in row] for row in ids]
        expected[name] = np.array(rows)
    return expected


def build_context(input_dir: Path, out: Path, splits=(), **options):
    options = {"num_processes": 1, **options}
    return build_pascal_context.build_pascal_context(input_dir, out, splits, **options)


def test_published_ids_of_the_59_classes_are_those_of_labels_txt(tmp_path):
    assert len(CONTEXT_459) == 459 and len(CONTEXT_59) == 59
    write_names(tmp_path / "labels.txt", CONTEXT_459)
    names = build_pascal_context.read_label_names(tmp_path / "labels.txt")
    read = build_pascal_context.class_table(names, 460)
    published = build_pascal_context.class_table(
        build_pascal_context.SOURCES[0].names, 460
    )
    expected = [0, *map(context_class, CONTEXT_459)]
    np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(published, expected)
    assert sorted(set(expected)) == list(range(60))


@pytest.mark.parametrize("place", ["labels.txt", "trainval/labels.txt", None])
def test_context_from_the_original_files(tmp_path, place):
    devkit = make_context_devkit(tmp_path)
    expected = make_context_mats(tmp_path / "context")
    if place:
        write_names(tmp_path / "context" / place, CONTEXT_459)
    out = tmp_path / "out"
    info = build_context(tmp_path / "context", out, devkit_dir=devkit)
    assert info.splits == {"train": 2, "val": 1}
    assert info.class_names == CONTEXT_CLASSES
    assert_labels(out, "train", {name: expected[name] for name in ("c1", "c2")})
    assert_labels(out, "val", {"c3": expected["c3"]})
    assert len(np.unique(np.stack(list(expected.values())))) > 20


def test_context_with_59_classes_ignores_background(tmp_path):
    devkit = make_context_devkit(tmp_path)
    mats = make_context_mats(tmp_path)
    out = tmp_path / "out"
    options = {"devkit_dir": devkit, "ignore_background": True}
    info = build_context(tmp_path / "trainval", out, ["val"], **options)
    assert info.num_classes == 59
    assert (info.class_names[0], info.class_names[58]) == ("aeroplane", "wood")
    assert info.colormap == voc_colormap(60)[1:]
    rows = [[255 if i == 0 else i - 1 for i in row] for row in mats["c3"].tolist()]
    assert_labels(out, "val", {"c3": np.array(rows)})


def test_context_from_mmsegmentations_masks(tmp_path):
    devkit = make_context_devkit(tmp_path)
    masks = {n: drawn_ids(n, [*range(60), 255]) for n in ("c1", "c2", "c3")}
    for name, ids in masks.items():
        save_label(devkit / "SegmentationClassContext" / f"{name}.png", ids)
    build_context(devkit, tmp_path / "out")
    assert_labels(tmp_path / "out", "train", {n: masks[n] for n in ("c1", "c2")})
    build_context(devkit, tmp_path / "out59", ["val"], ignore_background=True)
    shifted = {0: 255, 255: 255}
    rows = [[shifted.get(i, i - 1) for i in row] for row in masks["c3"].tolist()]
    assert_labels(tmp_path / "out59", "val", {"c3": np.array(rows)})


@pytest.mark.parametrize("with_names", [True, False])
def test_context_from_masks_in_the_other_order(tmp_path, with_names):
    devkit = make_context_devkit(tmp_path)
    stored = drawn_ids("c3", range(60))
    folder = tmp_path / "59_context_labels"
    save_label(folder / "c3.png", stored, palette=False)
    if with_names:
        write_names(tmp_path / "59_labels.txt", CONTEXT_59)
    build_context(folder, tmp_path / "out", ["val"], devkit_dir=devkit)
    rows = [[context_class(["", *CONTEXT_59][i]) for i in row] for row in stored]
    assert_labels(tmp_path / "out", "val", {"c3": np.array(rows)})
    assert (np.array(rows) != stored).any()


def test_context_takes_the_first_lists_that_are_there(tmp_path):
    devkit = make_context_devkit(tmp_path, "Main")
    make_context_mats(tmp_path)
    samples = build_pascal_context.list_samples(tmp_path, "val")
    assert [s.name for s in samples] == ["c3"]
    assert Path(samples[0].image) == devkit / "JPEGImages" / "c3.jpg"
    assert Path(samples[0].label) == tmp_path / "trainval" / "c3.mat"
    lines = ["JPEGImages/c2.jpg GroundTruth_trainval_png/c2.png"]
    write_list(devkit / "ImageSets" / "SegmentationContext" / "val.txt", lines)
    assert build_pascal_context.list_splits(tmp_path) == ["val"]
    assert build_pascal_context.list_samples(tmp_path, "val")[0].name == "c2"
    write_list(tmp_path / "train.txt", ["c1"])
    assert build_pascal_context.list_splits(tmp_path) == ["train"]
    with pytest.raises(DatasetError, match="a split of: train. Received: val"):
        build_pascal_context.list_samples(tmp_path, "val")


def test_context_says_what_is_missing(tmp_path):
    with pytest.raises(
        DatasetError, match=r"trainval/\*.mat or .*which has none of them"
    ):
        build_context(tmp_path, tmp_path / "out")
    make_context_mats(tmp_path)
    with pytest.raises(DatasetError, match="VOC2010 .*JPEGImages.* --devkit_dir"):
        build_context(tmp_path, tmp_path / "out")
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(DatasetError, match="train.txt or val.txt in one of: .*Main"):
        build_context(tmp_path, tmp_path / "out")


def test_context_with_a_file_of_names_of_another_set(tmp_path):
    make_context_mats(tmp_path)
    path = tmp_path / "labels.txt"
    write_names(path, [n for n in CONTEXT_459 if n not in ("sky", "wood")])
    with pytest.raises(DatasetError, match="none or several for: sky, wood"):
        build_pascal_context.find_table(tmp_path)
    write_names(path, [*CONTEXT_459, "cup"])
    with pytest.raises(DatasetError, match="none or several for: cup"):
        build_pascal_context.find_table(tmp_path)
    write_list(path, ["1: accordion", "2 aeroplane"])
    with pytest.raises(DatasetError, match="lines \"id: name\" .*'2 aeroplane'"):
        build_pascal_context.find_table(tmp_path)


def test_context_labels_with_unknown_ids_are_named(tmp_path):
    devkit = make_context_devkit(tmp_path)
    make_context_mats(tmp_path)
    path = tmp_path / "trainval" / "c3.mat"
    scipy.io.savemat(path, {"LabelMap": np.full(SHAPE, 460, np.uint16)})
    with pytest.raises(DatasetError, match="c3: .*stored ids 460; expected 0 to 459"):
        build_context(tmp_path, tmp_path / "out", ["val"])
    scipy.io.savemat(path, {"LabelMap": np.ones((*SHAPE, 3), np.uint16)})
    with pytest.raises(DatasetError, match="c3: .*c3.mat: expected .*two dimensions"):
        build_context(tmp_path, tmp_path / "out", ["val"])
    save_label(devkit / "SegmentationClassContext" / "c3.png", np.full(SHAPE, 60))
    with pytest.raises(DatasetError, match="c3: .*stored ids 60; expected 0 to 59"):
        build_context(devkit, tmp_path / "out", ["val"])


# --- PASCAL Person-Part --------------------------------------------------------------

HEAD, TORSO, UPPER_ARMS, LOWER_ARMS, UPPER_LEGS, LOWER_LEGS = range(1, 7)
CLASS_OF_PART = {
    **dict.fromkeys(["head", "hair", "nose", "mouth"], HEAD),
    **dict.fromkeys(["leye", "reye", "lear", "rear", "lebrow", "rebrow"], HEAD),
    **dict.fromkeys(["torso", "neck"], TORSO),
    **dict.fromkeys(["luarm", "ruarm"], UPPER_ARMS),
    **dict.fromkeys(["llarm", "rlarm", "lhand", "rhand"], LOWER_ARMS),
    **dict.fromkeys(["luleg", "ruleg"], UPPER_LEGS),
    **dict.fromkeys(["llleg", "rlleg", "lfoot", "rfoot"], LOWER_LEGS),
}


def drawn_person(name: str, part_names) -> dict:
    """A person of random pixels, each of whose parts is a random half of them."""
    rng = np.random.default_rng(list(name.encode()))
    mask = rng.random(SHAPE) < 0.8
    parts = [(part, mask & (rng.random(SHAPE) < 0.5)) for part in part_names]
    return part_object("person", mask, parts)


def visible_part(objects: list[dict], row: int, column: int) -> int:
    """The class of a pixel: that of the last part of the object in front."""
    covering = [o for o in objects if o["mask"][row, column]]
    if not covering or covering[-1]["class"] != "person":
        return 0
    parts = covering[-1]["parts"].ravel()
    names = [str(p["part_name"]) for p in parts if p["mask"][row, column]]
    return CLASS_OF_PART[names[-1]] if names else 0


def visible_parts(objects: list[dict]) -> np.ndarray:
    rows = range(SHAPE[0])
    return np.array(
        [[visible_part(objects, r, c) for c in range(SHAPE[1])] for r in rows]
    )


def make_person_part(folder: Path) -> dict[str, np.ndarray]:
    """Annotations p1 to p3 with persons, p4 without; returns the classes."""
    rng = np.random.default_rng(5)
    dog = part_object("dog", rng.random(SHAPE) < 0.4, [("lfpa", np.ones(SHAPE, bool))])
    table = part_object("diningtable", rng.random(SHAPE) < 0.3)
    annotations = {
        "p1": [drawn_person("p1", CLASS_OF_PART)],
        "p2": [drawn_person("x", ["torso", "lhand"]), dog, table],
        "p3": [dog, drawn_person("y", ["head", "rfoot"]), drawn_person("z", ["neck"])],
        "p4": [dog, drawn_person("w", [])],
    }
    for name, objects in annotations.items():
        save_parts(folder / "Annotations_Part" / f"{name}.mat", objects)
    return {name: visible_parts(objects) for name, objects in annotations.items()}


def make_person_devkit(folder: Path) -> Path:
    devkit = folder / "VOCdevkit" / "VOC2010"
    for name in ("p1", "p2", "p3", "p4"):
        save_image(devkit / "JPEGImages" / f"{name}.jpg", SIZE)
    write_list(devkit / "ImageSets" / "Main" / "train.txt", ["p4", "p2", "p1"])
    write_list(devkit / "ImageSets" / "Main" / "val.txt", ["p3"])
    return devkit


def build_parts(input_dir: Path, out: Path, splits=(), **options):
    options = {"num_processes": 1, **options}
    return build_person_part.build_person_part(input_dir, out, splits, **options)


def test_every_part_of_a_person_has_its_class():
    assert len(CLASS_OF_PART) == 24
    assert build_person_part.CLASS_OF_PART == CLASS_OF_PART


def test_parts_are_merged_and_what_is_in_front_hides_what_is_behind(tmp_path):
    expected = make_person_part(tmp_path)
    devkit = make_person_devkit(tmp_path)
    write_list(tmp_path / "train_id.txt", ["p2", "p1", "p4"])
    write_list(tmp_path / "val_id.txt", ["p3"])
    out = tmp_path / "out"
    info = build_parts(tmp_path, out, devkit_dir=devkit)
    assert info.splits == {"train": 3, "val": 1}
    assert_labels(out, "train", {name: expected[name] for name in ("p2", "p1", "p4")})
    assert_labels(out, "val", {"p3": expected["p3"]})
    assert set(np.unique(expected["p1"])) >= {0, LOWER_LEGS}
    assert not expected["p4"].any()


@pytest.mark.parametrize("processes", [1, 2])
def test_without_lists_the_images_with_a_part_are_taken(tmp_path, capsys, processes):
    make_person_part(tmp_path)
    devkit = make_person_devkit(tmp_path)
    assert build_person_part.list_splits(tmp_path) == ["train", "val"]
    samples = build_person_part.list_samples(
        tmp_path, "train", devkit, num_processes=processes
    )
    assert [s.name for s in samples] == ["p2", "p1"]
    printed = capsys.readouterr().out
    assert "train has the 2 of 3 images" in printed and "published: 1716" in printed


def test_an_unreadable_annotation_is_reported_and_not_passed_over(tmp_path):
    make_person_part(tmp_path)
    make_person_devkit(tmp_path)
    (tmp_path / "Annotations_Part" / "p1.mat").unlink()
    with pytest.raises(DatasetError, match="train/p1: there is no file .*p1.mat"):
        build_parts(tmp_path, tmp_path / "out")


def test_merged_masks_are_preferred_in_their_own_layout(tmp_path):
    make_person_part(tmp_path)
    devkit = make_person_devkit(tmp_path)
    folder = tmp_path / "pascal_person_part"
    masks = {name: drawn_ids(name, range(7)) for name in ("p1", "p2", "p3")}
    for name, ids in masks.items():
        save_label(folder / "pascal_person_part_gt" / f"{name}.png", ids)
    lists = folder / "pascal_person_part_trainval_list"
    lines = [f"/JPEGImages/{n}.jpg /SegmentationPart/{n}.png" for n in ("p2", "p1")]
    write_list(lists / "train.txt", lines)
    write_list(lists / "val_id.txt", ["p3"])
    for number, place in enumerate(
        (tmp_path, folder, folder / "pascal_person_part_gt")
    ):
        out = tmp_path / f"out{number}"
        build_parts(place, out, devkit_dir=devkit)
        assert_labels(out, "train", {name: masks[name] for name in ("p2", "p1")})
        assert_labels(out, "val", {"p3": masks["p3"]})
    for path in lists.iterdir():
        path.unlink()
    samples = build_person_part.list_samples(folder, "train", devkit)
    assert [s.name for s in samples] == ["p2", "p1"]


def test_annotations_that_cannot_be_merged_are_named(tmp_path):
    devkit = make_person_devkit(tmp_path)
    write_list(tmp_path / "val.txt", ["p3"])
    path = tmp_path / "Annotations_Part" / "p3.mat"

    def sentence_for(objects):
        save_parts(path, objects)
        with pytest.raises(DatasetError) as error:
            build_parts(tmp_path, tmp_path / "out", devkit_dir=devkit)
        return str(error.value)

    person = drawn_person("x", ["head", "tail"])
    assert "p3.mat: annotation has a person's part 'tail'; expected one of head" in (
        sentence_for([person])
    )
    person = drawn_person("x", ["head"])
    small = part_object("dog", np.ones((2, 2), bool))
    assert "masks of sizes (4, 6) and (2, 2)" in sentence_for([person, small])
    assert "annotation has no object" in sentence_for([])
    scipy.io.savemat(path, {"anno": {"imname": "p3"}})
    with pytest.raises(DatasetError, match="field objects, received the fields imname"):
        build_parts(tmp_path, tmp_path / "out", devkit_dir=devkit)


def test_person_part_says_what_is_missing(tmp_path):
    with pytest.raises(
        DatasetError, match=r"person_part_gt/\*.png or .*which has none of them"
    ):
        build_parts(tmp_path, tmp_path / "out")
    make_person_part(tmp_path)
    with pytest.raises(DatasetError, match="JPEGImages in it.* --devkit_dir"):
        build_parts(tmp_path, tmp_path / "out")
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(
        DatasetError, match="train_id.txt or train.txt in one of: .*Main"
    ):
        build_parts(tmp_path, tmp_path / "out")


# --- Command line --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "own_flags"),
    [
        (build_voc2012, ("devkit_dir", "sbd_dir", "expect_trainaug")),
        (build_pascal_context, ("input_dir", "devkit_dir", "ignore_background")),
        (build_person_part, ("input_dir", "devkit_dir", "splits")),
    ],
)
def test_help_shows_the_command_and_its_flags(module, own_flags):
    text = call(module, "--help").stdout
    assert f"python -m {module.__name__} " in text
    for flag in (*own_flags, "output_dir", "skip_bad"):
        assert f"--{flag}:" in text or f"--[no]{flag}:" in text


def test_command_lines(tmp_path):
    devkit, dataset = make_voc(tmp_path), make_sbd(tmp_path)
    result = call(
        build_voc2012,
        f"--devkit_dir={devkit}",
        f"--sbd_dir={dataset}",
        "--splits=trainaug",
        "--expect_trainaug=5",
        f"--output_dir={tmp_path}/voc",
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Error: Expected 5 names in trainaug.")

    make_context_devkit(tmp_path)
    make_context_mats(tmp_path)
    result = call(
        build_pascal_context,
        f"--input_dir={tmp_path}",
        f"--output_dir={tmp_path}/context",
        "--ignore_background",
        "--splits=val",
        "--num_processes=1",
    )
    assert result.returncode == 0, result.stderr
    info = read_info(tmp_path / "context")
    assert (info.name, info.splits) == ("pascal_context_59", {"val": 1})
